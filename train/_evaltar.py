"""Samples of one evaluation tar, read member by member under limits: nothing is extracted, unpickled or guessed.

Members that follow each other under one key are a sample (webdataset's rule); extensions are compared in lower case.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate import tar
from headwater.errors import IntegrityError

IMAGE_EXTENSIONS = (
    "webp",
    "png",
    "jpg",
    "jpeg",
)  # the first that is there is the picture, as clip-benchmark takes it
MAX_IMAGE_BYTES = 64 << 20
MAX_TEXT_BYTES = 1 << 20
MAX_NPY_BYTES = 16 << 20
LIMITS = {**dict.fromkeys(IMAGE_EXTENSIONS, MAX_IMAGE_BYTES), "npy": MAX_NPY_BYTES}
READ = frozenset({*IMAGE_EXTENSIONS, "cls", "txt", "npy", "json"})


class BadSample(Exception):
    """Why a sample cannot be used; the caller knows which one it is."""


@dataclass(frozen=True)
class Example:
    """One test example. `captions` are the lines of `txt`, `npy` and `meta` the group metadata of sets that have any."""

    key: str
    image: bytes
    cls: int | None = None
    captions: tuple[str, ...] | None = None
    npy: np.ndarray[Any, np.dtype[Any]] | None = None
    meta: dict[str, Any] | None = None


def samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members {extension: bytes} of every sample, in tar order. Raises IntegrityError for a damaged tar."""
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        size = os.fstat(fd).st_size

        def read(offset: int, length: int) -> bytes:
            return os.pread(fd, length, offset)

        key: bytes | None = None
        found: dict[str, bytes] = {}
        for item in tar.members(read, size, str(path)):
            if isinstance(item, tar.Damage):
                raise IntegrityError(
                    f"{path}: {item.reason} (byte {item.offset:,})", hint="fetch the shard again"
                )
            if isinstance(item, tar.End):
                break
            split = tar.split_name(item.name)
            if item.kind != "file" or isinstance(split, str):
                continue
            if split[0] != key:
                if key is not None:
                    yield _text(key), found
                key, found = split[0], {}
            extension = tar.clean_extension(split[1])
            if extension not in READ:
                continue
            limit = LIMITS.get(extension, MAX_TEXT_BYTES)
            if item.size_bytes > limit:
                raise IntegrityError(
                    f"{path}: {_text(item.name)} has {item.size_bytes:,} bytes (limit {limit:,})"
                )
            if extension in found:
                raise IntegrityError(f"{path}: {_text(item.name)} is there twice under one key")
            found[extension] = read(item.data_offset, item.size_bytes)
        if key is not None:
            yield _text(key), found
    finally:
        os.close(fd)


def example(key: str, members: dict[str, bytes]) -> Example:
    """A sample's members as values. Raises BadSample."""
    picture = next((members[name] for name in IMAGE_EXTENSIONS if name in members), None)
    if picture is None:
        raise BadSample("no picture")
    return Example(
        key,
        picture,
        _label(members["cls"]) if "cls" in members else None,
        _captions(members["txt"]) if "txt" in members else None,
        _array(members["npy"]) if "npy" in members else None,
        _document(members["json"]) if "json" in members else None,
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _label(raw: bytes) -> int:
    text = raw.strip()
    if not text.isdigit() or len(text) > 9:
        raise BadSample("cls is no class number")
    return int(text)


def _captions(raw: bytes) -> tuple[str, ...]:
    try:
        return tuple(raw.decode("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise BadSample("txt is not UTF-8") from error


def _array(raw: bytes) -> np.ndarray[Any, np.dtype[Any]]:
    """The array in an .npy member; its header is believed only where it agrees with the bytes behind it."""
    file = io.BytesIO(raw)
    try:
        readers: dict[
            tuple[int, int], Callable[[io.BytesIO], tuple[tuple[int, ...], bool, np.dtype[Any]]]
        ] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        shape, _, dtype = readers[version](file)
        count = 1
        for length in shape:
            count *= length
        if dtype.hasobject or min(shape, default=1) < 0 or count * dtype.itemsize != len(raw) - file.tell():
            raise BadSample("npy holds objects, or its header does not fit its bytes")
        file.seek(0)
        array: np.ndarray[Any, np.dtype[Any]] = np.load(file, allow_pickle=False)
        return array
    except (ValueError, KeyError, TypeError, EOFError, OverflowError, SyntaxError, MemoryError) as error:
        raise BadSample("npy is no plain array") from error


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadSample("json cannot be read") from error
    if not isinstance(document, dict):
        raise BadSample("json is no object")
    return document
