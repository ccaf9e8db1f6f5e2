"""Batches for open_clip's loop: samples are read straight from the tars by offset, decoded, and counted one by one.

A batch carries, beside its pictures and token ids, where each sample came from and what had to be skipped; the loop takes the first
two, the ledger the rest. Batch i of a part comes from stream i mod `streams` (train/order.py), and each random crop from a seed that
depends on the sample's place in its stream alone, so the number of loader processes decides nothing but the speed.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import HeadwaterError, IntegrityError
from headwater.files import named_io
from train._shardcheck import MAX_CAPTION_BYTES, MAX_IMAGE_BYTES
from train.order import Place, derived_seed, samples

OPEN_TARS = 64  # at once in each loader process
# far more than any context holds, and cut before the tokenizer, which needs a minute for a word of a million letters
CAPTION_CHARACTERS = 10_000
SKIPS_IN_A_ROW = 10_000  # after so many bad samples in a row there is nothing to train on


@dataclass(frozen=True)
class Source:
    """The shards of a training, and how they are drawn."""

    tars: Sequence[str]
    usable: Sequence[int]  # samples with a picture and a caption
    mode: str
    buffer: int
    initial: int
    streams: int
    seed: int
    max_pixels: int


@dataclass
class Seen:
    """Where the samples of one batch came from, what was skipped on the way, and what its loader has used so far in this part."""

    shard: np.ndarray[Any, np.dtype[np.int32]]
    sample: np.ndarray[Any, np.dtype[np.int32]]
    skipped: list[tuple[int, int, str]]
    loader: int
    cpu_seconds: float


class Tars:
    """The shards, each open with the table of its samples; the least used are closed.

    Read by offset and not mapped: a tar that is cut while it is read gives an error, and not a signal that ends the process.
    """

    def __init__(self, paths: Sequence[str], usable: Sequence[int]) -> None:
        self._paths, self._usable = paths, usable
        self._open: OrderedDict[int, tuple[int, Any]] = OrderedDict()

    def sample(self, shard: int, number: int) -> tuple[bytes, bytes]:
        """Picture and caption of one sample, as they lie in the tar.

        Raises TooLarge as the check of the shards tells it, and IntegrityError when the tar is another than it was.
        """
        fd, table = self._shard(shard)
        size, length = int(table.image_size[number]), int(table.text_size[number])
        if size > MAX_IMAGE_BYTES or length > MAX_CAPTION_BYTES:
            raise TooLarge(f"{size:,} and {length:,} bytes")
        picture = self._read(shard, fd, int(table.image_offset[number]), size)
        return picture, self._read(shard, fd, int(table.text_offset[number]), length)

    def close(self) -> None:
        """Let go of all files."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def _read(self, shard: int, fd: int, offset: int, size: int) -> bytes:
        data = os.pread(fd, size, offset)
        if len(data) != size:
            raise self._changed(shard)
        return data

    def _changed(self, shard: int) -> IntegrityError:
        return IntegrityError(
            f"{self._paths[shard]}: changed while it was trained on",
            hint="put the shards back and run the same line",
        )

    def _shard(self, shard: int) -> tuple[int, Any]:
        found = self._open.get(shard)
        if found is not None:
            self._open.move_to_end(shard)
            return found
        from train.preflight import read_table

        path = Path(self._paths[shard])
        table, _ = read_table(path)
        if len(table) != self._usable[shard]:
            raise self._changed(shard)
        with named_io(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open[shard] = fd, table
        if len(self._open) > OPEN_TARS:
            os.close(self._open.popitem(last=False)[1][0])
        return fd, table


class TooLarge(Exception):
    """A picture or caption beyond what is read or decoded."""


def decode(picture: bytes, max_pixels: int) -> Any:
    """An RGB picture as webdataset's `pilrgb` makes it. Raises what Pillow raises, or TooLarge."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture), formats=("JPEG", "PNG", "WEBP"))
    if image.width * image.height > max_pixels:
        raise TooLarge(f"{image.width} x {image.height} pixels")
    image.load()
    return image.convert("RGB")


class Batches:
    """An iterable of (pictures, token ids, Seen) for one rank; `part` is set before each part. For torch's DataLoader.

    An error of ours comes as the last item, for the reader to raise: torch would make a traceback of its message.
    """

    def __init__(
        self,
        source: Source,
        *,
        batches: int,
        batch_size: int,
        rank: int,
        processes: int,
        part: Any,
        transform: Callable[[Any], Any],
        tokenize: Callable[[list[str]], Any],
    ) -> None:
        self._source, self._batches, self._size = source, batches, batch_size
        self._rank, self._processes, self._part = rank, processes, part
        self._transform, self._tokenize = transform, tokenize
        self._tars: Tars | None = None

    def __iter__(self) -> Iterator[tuple[Any, Any, Seen] | HeadwaterError]:
        import torch
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        if info is not None:
            torch.set_num_threads(1)
        self._tars = self._tars or Tars(self._source.tars, self._source.usable)
        streams, part = self._source.streams, int(self._part.value)
        flows = {}
        for stream in range(worker, streams, workers):
            number = self._rank * streams + stream
            flows[stream] = number, enumerate(self._flow(number, part))
        spent = 0.0
        for number in range(worker, self._batches, workers):
            before = time.process_time()
            stream, flow = flows[number % streams]
            try:
                batch = self._batch(flow, part, stream)
            except HeadwaterError as error:
                yield error
                return
            spent += time.process_time() - before
            batch[2].loader, batch[2].cpu_seconds = worker, spent
            yield batch

    def _flow(self, stream: int, part: int) -> Iterator[tuple[int, int]]:
        source = self._source
        places = [Place(n, count) for n, count in enumerate(source.usable) if count]
        return samples(
            places,
            mode=source.mode,
            buffer=source.buffer,
            initial=source.initial,
            seed=source.seed,
            part=part,
            stream=stream,
            streams=source.streams * self._processes,
        )

    def _batch(
        self, flow: Iterator[tuple[int, tuple[int, int]]], part: int, stream: int
    ) -> tuple[Any, Any, Seen]:
        import torch

        assert self._tars is not None
        pictures: list[Any] = []
        captions: list[str] = []
        skipped: list[tuple[int, int, str]] = []
        shard, sample = np.empty(self._size, np.int32), np.empty(self._size, np.int32)
        with torch.random.fork_rng(devices=[]):
            while len(pictures) < self._size:
                place, (at, number) = next(flow)
                seed = derived_seed(self._source.seed, part, stream, place, "crop")
                torch.manual_seed(seed)
                random.seed(seed)
                try:
                    raw, text = self._tars.sample(at, number)
                    tensor = self._transform(decode(raw, self._source.max_pixels))
                    caption = text.decode("utf-8")[:CAPTION_CHARACTERS]
                except HeadwaterError:
                    raise
                except Exception as error:  # whatever Pillow makes of hostile bytes: left out and counted
                    skipped.append((at, number, _reason(error)))
                    if len(skipped) > SKIPS_IN_A_ROW and not pictures:
                        raise HeadwaterError(
                            f"{len(skipped):,} bad samples in a row: nothing to train on"
                        ) from error
                    continue
                shard[len(pictures)], sample[len(pictures)] = at, number
                pictures.append(tensor)
                captions.append(caption)
        return torch.stack(pictures), self._tokenize(captions), Seen(shard, sample, skipped, 0, 0.0)


def dataset(batches: Batches) -> Any:
    """The batches as torch's DataLoader wants them."""
    from torch.utils.data import IterableDataset

    class Stream(IterableDataset):  # type: ignore[type-arg]
        """Has no length; the loop stops when it ends."""

        def __iter__(self) -> Iterator[Any]:
            return iter(batches)

    return Stream()


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "other"
    # ours, or Pillow's own refusal of a decompression bomb
    large = isinstance(error, TooLarge) or type(error).__name__ == "DecompressionBombError"
    return "too_large" if large else "undecodable"


def loader_processes(wanted: int, streams: int) -> int:
    """The largest number of loader processes up to `wanted` that divides the streams evenly."""
    return max((n for n in range(1, streams + 1) if streams % n == 0 and n <= max(wanted, 1)), default=1)
