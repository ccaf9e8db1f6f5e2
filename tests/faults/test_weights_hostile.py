"""Weights that lie: safetensors headers, sizes, files that are something else; and any damage of either format."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings

import headwater.weights
from headwater.errors import HeadwaterError, IntegrityError
from headwater.weights import read_weights, write_weights
from tests.faults.weights_kit import EDITS, mutated

torch = pytest.importorskip("torch")


def header(document: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def entry(start: int, end: int, dtype: Any = "F32", shape: Any = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - start) // 4] if shape is None else shape,
        "data_offsets": [start, end],
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(b"{}", length=1 << 60), "claims 1,152,921,504,606,846,976 bytes"),
        (header(b"{}", length=(1 << 64) - 1), "claims"),
        (header(b"{}", length=1000), "claims 1,000 bytes"),
        (b"", "too few"),
        (b"\0\0\0", "too few"),
        (header(b""), "not a JSON object"),
        (header(b"[1]"), "not a JSON object"),
        (header(b" {}"), "not a JSON object"),
        (header(b"{nonsense"), "not valid JSON"),
        (header(b'{"a": NaN}'), "NaN is not JSON"),
        (header(b'{"a\xff": 1}'), "not valid JSON"),
        (header(b'{"a":' + b"[" * 200_000), "not valid JSON"),
        (header(b'{"a":' * 100_000), "not valid JSON"),
        (header(b'{"a": ' + b"9" * 10_000 + b"}"), "not valid JSON"),
        (header({}), "no tensors"),
        (header({"__metadata__": {"format": "pt"}}), "no tensors"),
        (header({"__metadata__": {"format": 1}, "a": entry(0, 4)}, bytes(4)), "__metadata__"),
        (header({"__metadata__": [1], "a": entry(0, 4)}, bytes(4)), "__metadata__"),
        (
            header(b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "a": 1}', bytes(4)),
            "'a' occurs twice",
        ),
        (
            header(b'{"a": {"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
            "'dtype' occurs twice",
        ),
        (header({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "'b' overlaps 'a'"),
        (header({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)), "overlaps"),
        (header({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "'b' leaves a hole after 'a'"),
        (header({"a": entry(4, 8)}, bytes(8)), "leaves a hole after 'the header'"),
        (header({"a": entry(0, 8)}, bytes(4)), "describes"),
        (header({"a": entry(0, 4)}, bytes(8)), "describes"),
        (header({"a": entry(-4, 4, shape=[2])}, bytes(4)), "whole numbers"),
        (header({"a": entry(8, 4)}, bytes(8)), "in order|whole numbers"),
        (header({"a": entry(0, 1 << 62)}, bytes(4)), "describes"),
        (header({"a": entry(0, 4, shape=[2])}, bytes(4)), "does not fill"),
        (header({"a": entry(0, 4, shape=[1 << 62, 1 << 62])}, bytes(4)), "does not fill"),
        (header({"a": entry(0, 4, shape=[1 << 64])}, bytes(4)), "does not fill"),
        (header({"a": entry(0, 4, shape=[1] * 65)}, bytes(4)), "does not fill"),
        (header({"a": entry(0, 4, shape=[1.0])}, bytes(4)), "shape is not"),
        (header({"a": entry(0, 4, shape=[True])}, bytes(4)), "shape is not"),
        (header({"a": entry(0, 4, shape=[-1])}, bytes(4)), "shape is not"),
        (header({"a": entry(0, 4, shape="1")}, bytes(4)), "shape is not"),
        (header({"a": entry(0, 4, dtype="F4")}, bytes(4)), "unknown dtype"),
        (header({"a": entry(0, 4, dtype=["F32"])}, bytes(4)), "unknown dtype"),
        (header({"a": entry(0, 4, dtype="F64")}, bytes(4)), "does not fill"),
        (header({"a": {**entry(0, 4), "code": "x"}}, bytes(4)), "exactly"),
        (header({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "exactly"),
        (header({"a": None}, bytes(4)), "exactly"),
        (
            header(b'{"\\ud800": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
            "not valid Unicode",
        ),
        (header({"a": entry(0, 4, dtype="BOOL", shape=[4])}, b"\0\1\2\3"), "truth values"),
        (b"PK\x03\x04" + bytes(100), "torch.save"),
        (pickle.dumps({"a": 1}, 2), "torch.save or pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
    ],
)
def test_safetensors_that_lie(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=said) as caught:
        read_weights(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint


def test_every_truncation_is_seen(tmp_path: Path) -> None:
    write_weights({"a": torch.arange(4.0), "b": torch.ones(2, 2).half()}, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    for cut in range(len(content)):
        (tmp_path / "cut.safetensors").write_bytes(content[:cut])
        with pytest.raises(IntegrityError):
            read_weights(tmp_path / "cut.safetensors")


def test_sizes_before_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_weights({"a": torch.zeros(100)}, path)
    with pytest.raises(IntegrityError, match="more than 399 are not read"):
        read_weights(path, limit_bytes=399)
    with open(path, "r+b") as handle:
        handle.truncate(1 << 40)  # sparse
    with pytest.raises(IntegrityError, match="more than"):
        read_weights(path)
    # one small storage under many names is more than the file once it is apart
    names = [f"n{number}" for number in range(50)]
    base = torch.zeros(1000)
    torch.save(dict.fromkeys(names, base), tmp_path / "w.pt")
    with pytest.raises(IntegrityError, match="200,000 bytes apart"):
        read_weights(tmp_path / "w.pt", limit_bytes=100_000)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")  # would wait for a writer
    (tmp_path / "device.safetensors").symlink_to("/dev/zero")
    (tmp_path / "folder.pt").mkdir()
    for name in ("pipe.pt", "device.safetensors", "folder.pt"):
        with pytest.raises(IntegrityError, match="not a regular file"):
            read_weights(tmp_path / name)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    write_weights({"a": torch.zeros(4)}, path)
    inner = headwater.weights._read_safetensors

    def changed(*arguments: Any) -> Any:
        found = inner(*arguments)
        with open(path, "ab") as handle:
            handle.write(b"x")
        return found

    monkeypatch.setattr(headwater.weights, "_read_safetensors", changed)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        read_weights(path)


def test_a_file_of_another_type_than_its_name(tmp_path: Path) -> None:
    write_weights({"a": torch.zeros(4)}, tmp_path / "w.safetensors")
    torch.save({"a": torch.zeros(4)}, tmp_path / "w.pt")
    os.rename(tmp_path / "w.safetensors", tmp_path / "other.pt")
    os.rename(tmp_path / "w.pt", tmp_path / "other.safetensors")
    with pytest.raises(IntegrityError, match="looks like safetensors"):
        read_weights(tmp_path / "other.pt")
    with pytest.raises(IntegrityError, match=r"torch\.save"):
        read_weights(tmp_path / "other.safetensors")


GOOD = {"a": [1.5, 2.5, 3.5], "b": [True, False]}


def test_a_directory_that_begins_elsewhere_is_refused(tmp_path: Path) -> None:
    """Python's zipfile takes the difference off every record's place, and then seeks to a negative one."""
    path = tmp_path / "w.pt"
    torch.save({name: torch.tensor(values) for name, values in GOOD.items()}, path)
    data = bytearray(path.read_bytes())
    for mark, place, form in ((b"PK\5\6", 16, "<I"), (b"PK\6\6", 48, "<Q")):  # the second where it is a zip64
        if (end := data.rfind(mark)) >= 0:
            (start,) = struct.unpack_from(form, data, end + place)
            struct.pack_into(form, data, end + place, start + 1000)
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(edits=EDITS)
@example(edits=[(1540, 6)])
def test_damage_ends_in_an_error_of_ours_or_in_tensors(
    tmp_path: Path, suffix: str, edits: list[tuple[int, int]]
) -> None:
    state = {name: torch.tensor(values) for name, values in GOOD.items()}
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        write_weights(state, path, durable=False)
    path.write_bytes(mutated(path.read_bytes(), edits))
    try:
        found = read_weights(path)
    except HeadwaterError as error:
        assert error.exit_code == 13
    else:
        assert sum(t.numel() * t.element_size() for t in found.values()) <= 14
