"""The pictures and labels of one task, and their features: each (folder, split) is encoded once for all tasks on it.

Pictures are decoded under limits (JPEG, PNG, WebP; bytes and pixels) and go through the model's own transform in batches of
BATCH, the last one filled up, each computed by one thread: so a feature depends on neither the other tasks nor the number of
workers. A picture that cannot be decoded is left out and noted in `TaskData.invalid`, never measured as wrong.
"""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwater.console import track
from headwater.errors import IntegrityError
from train._evaltar import BadSample, Example, example, samples
from train.suite import CLASSNAMES, TEMPLATES, Task, shard_paths

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 64  # pictures; part of what decides the last bits of a feature
TEXT_BATCH = 256
MAX_PIXELS = 80_000_000  # below the size at which Pillow begins to warn
FORMATS = ("JPEG", "PNG", "WEBP")
MAX_LIST_BYTES = 16 << 20

T = TypeVar("T")
R = TypeVar("R")


class Encoder(Protocol):
    """What an evaluation needs of a model; `headwater.clip_model.LoadedModel` is one."""

    @property
    def transform(self) -> Callable[[Image], Any]:
        """A picture (RGB) to an array or tensor C × H × W."""
        ...

    def encode_images(self, batch: Any) -> NDArray[np.float32]:
        """N × C × H × W to L2-normalised N × D."""
        ...

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """L2-normalised N × D."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """Features of one split and what came with each picture; row i of everything is picture i, undecodable ones left out."""

    features: NDArray[np.float32]  # N × D, L2-normalised
    labels: NDArray[np.int64]  # -1 where there is none
    keys: list[str]
    captions: list[tuple[str, ...]]
    npy: list[NDArray[Any] | None]
    meta: list[dict[str, Any] | None]
    sha256: list[str]  # of the picture's bytes

    def __len__(self) -> int:
        return len(self.keys)


@dataclass
class FeatureCache:
    """Features by (model, folder, split), shared by the tasks of one evaluation."""

    _sets: dict[tuple[int, Path, str], tuple[Encoder, ImageSet, list[tuple[str, str]]]] = field(
        default_factory=dict
    )

    def get(self, model: Encoder, folder: Path, split: str) -> tuple[ImageSet, list[tuple[str, str]]] | None:
        found = self._sets.get((id(model), folder, split))
        return found[1:] if found else None

    def put(
        self, model: Encoder, folder: Path, split: str, images: ImageSet, invalid: list[tuple[str, str]]
    ) -> None:
        self._sets[id(model), folder, split] = (
            model,
            images,
            invalid,
        )  # holds the model, so its id stays its own

    def drop(self, folder: Path) -> None:
        """Forget a folder that no task needs any more."""
        for place in [place for place in self._sets if place[1] == folder]:
            del self._sets[place]


@dataclass
class TaskData:
    """What a family gets: one task's set."""

    task: Task
    folder: Path
    workers: int = 1
    cache: FeatureCache = field(default_factory=FeatureCache)
    invalid: dict[str, list[tuple[str, str]]] = field(
        default_factory=dict
    )  # split -> (key, reason), left out

    @property
    def classnames(self) -> list[str]:
        """Names of the classes, class 0 first. Raises IntegrityError when there are none."""
        return read_list(self.folder / CLASSNAMES)

    @property
    def templates(self) -> list[str]:
        """Prompts with `{c}`. Raises IntegrityError when there are none."""
        return read_list(self.folder / TEMPLATES)

    def read(self, split: str = "test") -> Iterator[Example]:
        """Every example in shard order, pictures not decoded. Raises IntegrityError."""
        return read_split(self.folder, split)

    def pictures(self, split: str = "test") -> Iterator[tuple[Example, Image]]:
        """Every example with its decoded picture (RGB); undecodable ones are noted in `invalid` and passed over."""
        left_out: list[tuple[str, str]] = []
        with _quiet_pillow():
            for item in self.read(split):
                try:
                    picture = decode(item.image)
                except BadSample as error:
                    left_out.append((item.key, str(error)))
                    continue
                yield item, picture
        self.invalid[split] = left_out

    def image_features(self, model: Encoder, split: str = "test") -> ImageSet:
        """The features of a split, computed the first time they are asked for."""
        known = self.cache.get(model, self.folder, split)
        if known is None:
            known = _encode_split(self, model, split)
            self.cache.put(model, self.folder, split, *known)
        self.invalid[split] = known[1]
        return known[0]

    def text_features(self, model: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
        """L2-normalised N × D; a text that occurs twice is encoded once, so its rows are equal to the last bit."""
        return encode_texts(model, texts, workers=self.workers)


def read_list(path: Path) -> list[str]:
    """The lines of a text file, stripped. Raises IntegrityError: not there, not UTF-8, or with an empty line."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise IntegrityError(f"{path}: {path.stat().st_size:,} bytes (limit {MAX_LIST_BYTES:,})")
        lines = [line.strip() for line in path.read_bytes().decode("utf-8").splitlines()]
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{path}: no such file", hint="the task folder is not whole: fetch it again"
        ) from error
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path}: not UTF-8") from error
    if not lines:
        raise IntegrityError(f"{path}: empty")
    if "" in lines:
        raise IntegrityError(
            f"{path}: line {lines.index('') + 1} is empty", hint="line n is class (or template) n"
        )
    return lines


def read_split(folder: Path, split: str) -> Iterator[Example]:
    """Every example of one split in shard order. Raises IntegrityError naming shard and key."""
    for path in shard_paths(folder, split):
        for key, members in samples(path):
            try:
                yield example(key, members)
            except BadSample as error:
                raise IntegrityError(
                    f"{path}: sample {key!r}: {error}", hint="build or fetch the set again"
                ) from error


def decode(raw: bytes) -> Image:
    """The picture, RGB. Raises BadSample (also for what is too large)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as picture:
            if picture.size[0] * picture.size[1] > MAX_PIXELS:
                raise BadSample("picture too large")
            picture.load()
            if picture.mode == "P":
                # the same colours as straight to RGB, without a warning about transparency
                return picture.convert("RGBA").convert("RGB")
            return picture.convert("RGB")
    except BadSample:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSample("picture too large") from error
    except Exception as error:  # Pillow raises many kinds for hostile bytes, and each means the same here
        raise BadSample("picture cannot be decoded") from error


def encode_texts(model: Encoder, texts: Sequence[str], *, workers: int = 1) -> NDArray[np.float32]:
    """L2-normalised N × D, each distinct text encoded once, in batches of TEXT_BATCH."""
    distinct = list(dict.fromkeys(texts))
    place = {text: row for row, text in enumerate(distinct)}
    batches = [distinct[at : at + TEXT_BATCH] for at in range(0, len(distinct), TEXT_BATCH)]
    rows = np.concatenate(list(in_order(model.encode_texts, batches, workers)))
    return np.ascontiguousarray(rows[[place[text] for text in texts]], dtype=np.float32)


def encode_pictures(
    model: Encoder,
    pictures: Iterable[Image],
    *,
    workers: int = 1,
    description: str = "encode",
    total: int | None = None,
) -> NDArray[np.float32]:
    """Features of pictures that are decoded already (such as corrupted ones): L2-normalised N × D."""

    def work(batch: list[Image]) -> NDArray[np.float32]:
        return _forward(model, [model.transform(picture) for picture in batch])

    parts = []
    with _quiet_pillow(), track(description, total=total, unit="pictures") as bar:
        for part in in_order(work, _batches(pictures, BATCH), workers):
            parts.append(part)
            bar.add(len(part))
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`work` over `items` on threads, results in order, at most workers + 1 in hand; torch computes each on one thread."""
    with _one_thread_each():
        if workers <= 1:
            yield from map(work, items)
            return
        waiting: deque[Future[R]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _encode_split(task: TaskData, model: Encoder, split: str) -> tuple[ImageSet, list[tuple[str, str]]]:
    def work(batch: list[Example]) -> tuple[list[Example], list[tuple[str, str]], NDArray[np.float32] | None]:
        kept, bad, inputs = [], [], []
        for item in batch:
            try:
                inputs.append(model.transform(decode(item.image)))
            except BadSample as error:
                bad.append((item.key, str(error)))
                continue
            kept.append(item)
        return kept, bad, _forward(model, inputs) if inputs else None

    images = ImageSet(np.empty((0, 0), np.float32), np.empty(0, np.int64), [], [], [], [], [])
    invalid: list[tuple[str, str]] = []
    parts: list[NDArray[np.float32]] = []
    labels: list[int] = []
    total = task.task.size if split == "test" else None
    with _quiet_pillow(), track(f"encode {task.folder.name}/{split}", total=total, unit="pictures") as bar:
        for kept, bad, features in in_order(work, _batches(task.read(split), BATCH), task.workers):
            invalid += bad
            if features is not None:
                parts.append(features)
            for item in kept:
                labels.append(-1 if item.cls is None else item.cls)
                images.keys.append(item.key)
                images.captions.append(item.captions or ())
                images.npy.append(item.npy)
                images.meta.append(item.meta)
                images.sha256.append(hashlib.sha256(item.image).hexdigest())
            bar.add(len(kept) + len(bad))
    if not parts:
        raise IntegrityError(f"{task.folder / split}: not one picture can be decoded")
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise IntegrityError(
            f"the model gives features that are no numbers on {task.folder.name}",
            hint="its training diverged: look at the loss curve of the run",
        )
    full = ImageSet(
        features,
        np.array(labels, np.int64),
        images.keys,
        images.captions,
        images.npy,
        images.meta,
        images.sha256,
    )
    return full, invalid


def _forward(model: Encoder, inputs: list[Any]) -> NDArray[np.float32]:
    """One batch, filled up to BATCH with blanks: the size of a matrix may decide how its products are summed."""
    count = len(inputs)
    if isinstance(inputs[0], np.ndarray):
        batch: Any = np.stack(inputs + [np.zeros_like(inputs[0])] * (BATCH - count))
    else:
        import torch

        batch = torch.stack(inputs + [torch.zeros_like(inputs[0])] * (BATCH - count))
    return np.asarray(model.encode_images(batch), np.float32)[:count]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Torch computes on one thread inside; several workers are several batches, so their number shows in no bit."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """What Pillow warns of in odd files is told by our own reasons."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
