"""Pictures from a formula as torch datasets: drawn when they are asked for, so that nothing is downloaded, stored or read.

    stream = PicturesStream("POOL/recipe.json", batch_size=64, crop=Crop(224), fresh=True)
    for epoch in range(90):
        stream.set_epoch(epoch)
        for pictures, labels in DataLoader(stream, batch_size=None, num_workers=2): ...

`PicturesMap` gives a picture by its number. `PicturesStream` walks all of them in a shuffled order that every rank and loader process
works out for itself, without a list: an epoch is every picture exactly once, whatever the number of ranks and loader processes. Where
pictures are cropped, the painter is asked for the box alone.

The label of a picture is its category's index, as in the files that `headwater make` writes; `dataset.generation.first_category` is
the least of them (0 but with a start class), to be taken off for a network with an output for each class.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from curate._samples import annotated
from curate.generation import Generation, load_recipe
from curate.generators._random import fold, salt_key
from curate.make_request import MakeRequest, check_version, resolve
from headwater.errors import UsageError
from train._crop import Crop
from train._permutation import Permutation
from train._targets import detection_target
from train._window import WindowDrawer

__all__ = ["Crop", "PicturesMap", "PicturesStream"]

Recipe = Generation | MakeRequest | Path | str
Transform = Callable[[torch.Tensor], Any]
AHEAD = 4096  # places of the shuffle worked out at once
MOST_BATCH = 65_536


class _Pictures:
    """One picture as a tensor: drawn, cropped, widened, transformed. Goes to another process without its kernels."""

    def __init__(
        self,
        recipe: Recipe,
        crop: Crop | None,
        channels: int | None,
        transform: Transform | None,
        targets: bool,
        seed: int,
    ) -> None:
        self.generation = generation_of(recipe)
        if targets and not annotated(self.generation):
            raise UsageError(
                f"targets: pictures of {self.generation.generator} come without things",
                hint="scenes and segrcdb have them",
            )
        if targets and crop is not None:
            raise UsageError("targets and crop: boxes and masks would not be those of the crop")
        self.targets = targets
        self.drawer: WindowDrawer | None = WindowDrawer(self.generation)
        own = 3 if self.generation.pixels == "rgb8" else 1
        self.channels = own if channels is None else channels
        if self.channels not in (own, 3):
            raise UsageError(f"channels {channels}: pictures of {self.generation.generator} have {own}")
        self.crop, self.transform, self.seed = crop, transform, seed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "drawer": None}

    def __call__(self, row: int, instance: int, epoch: int) -> tuple[Any, Any]:
        """Picture and label, or target."""
        picture, target = self._drawn(row, instance, epoch)
        if self.channels == 3 and len(picture) == 1:
            picture = picture.expand(3, -1, -1)
        if self.crop is None:
            picture = picture.clone(
                memory_format=torch.contiguous_format
            )  # the painter uses its buffer again
        return (picture if self.transform is None else self.transform(picture)), target

    def _drawn(self, row: int, instance: int, epoch: int) -> tuple[torch.Tensor, Any]:
        if self.drawer is None:
            self.drawer = WindowDrawer(self.generation)
        if self.targets:
            whole = self.drawer.draw(row, instance).picture
            return _first(whole.pixels), detection_target(whole)
        if self.crop is None:
            return _first(self.drawer.pixels(row, instance)), self.drawer.index(row)
        key = salt_key("crop")
        for part in (self.seed, epoch, row, instance):
            key = fold(key, part)
        side = self.drawer.side
        top, left, height, width = box = self.crop.box(side, random.Random(key))
        pixels = self.drawer.pixels(row, instance, box)
        return self.crop.resize(_first(pixels[top : top + height, left : left + width])), self.drawer.index(
            row
        )


def generation_of(recipe: Recipe) -> Generation:
    """The recipe in whatever way it was named. Raises as `load_recipe` and `resolve` do."""
    if isinstance(recipe, Generation):
        return recipe
    if isinstance(recipe, MakeRequest):
        return resolve(recipe)
    made = load_recipe(Path(recipe))
    check_version(made, str(recipe))
    return made


def _first(pixels: Any) -> torch.Tensor:
    """(H, W) or (H, W, 3) pixels as (C, H, W), not copied."""
    tensor = torch.from_numpy(pixels)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)


class PicturesMap(Dataset[tuple[Any, Any]]):
    """Picture and label by the picture's number in the recipe, 0 to len - 1.

    A picture is uint8 (C, S, S), C = 1 for grey ones unless `channels=3` widens them; of a `crop`, (C, size, size). Crops follow from
    `seed` and the epoch of `set_epoch`. `transform` is applied to the picture, last. With `targets`, annotated pictures come with what is
    in them, as torchvision's detectors take it, instead of a label. Raises UsageError for a reference stream, which has no picture alone.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        crop: Crop | None = None,
        channels: int | None = None,
        transform: Transform | None = None,
        targets: bool = False,
        seed: int = 0,
    ) -> None:
        self._pictures = _Pictures(recipe, crop, channels, transform, targets, seed)
        self.generation = self._pictures.generation
        self._epoch = _shared(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the crops of `epoch`, in loader processes too."""
        self._epoch[0] = _whole("epoch", epoch, 0, 1 << 31)

    def __len__(self) -> int:
        return self.generation.pictures

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        if not -len(self) <= number < len(self):
            raise IndexError(f"picture {number}: there are {len(self):,}")
        row, instance = self.generation.place(number % len(self))
        return self._pictures(row, instance, int(self._epoch[0]))


class PicturesStream(IterableDataset[Any]):
    """All pictures of a recipe once an epoch, shuffled by `seed` and epoch, split over ranks and loader processes.

    With `batch_size`, items are whole batches (for `DataLoader(stream, batch_size=None)`): uint8 (B, C, S, S) and int64 (B,) labels; the
    batches and their order are then the same for any number of loader processes. Without it, items are single pictures with labels:
    the same pictures an epoch, but which batch of the loader they meet in depends on the number of its processes.

    `fresh`: epoch e draws instances e * M to e * M + M - 1 of each category, so no picture is seen twice. Rank r of R takes every R-th
    place of the shuffled order; R and r are those of torch.distributed where it is running. `drop_last` leaves out what does not fill a
    batch on every rank, so that all ranks take equally many steps; otherwise nothing is left out. A `crop`'s box follows from seed,
    epoch and picture. `transform` is applied to each picture. With `targets`, the labels of a batch are a list of targets.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        batch_size: int | None = None,
        crop: Crop | None = None,
        channels: int | None = None,
        transform: Transform | None = None,
        targets: bool = False,
        seed: int = 0,
        fresh: bool = False,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        if batch_size is not None:
            _whole("batch_size", batch_size, 1, MOST_BATCH)
        found_rank, found_ranks = _distributed()
        self.ranks = _whole("ranks", found_ranks if ranks is None else ranks, 1, 1 << 20)
        self.rank = _whole("rank", found_rank if rank is None else rank, 0, self.ranks - 1)
        self._pictures = _Pictures(recipe, crop, channels, transform, targets, seed)
        self.generation = self._pictures.generation
        self.batch_size, self.seed, self.fresh = batch_size, seed, fresh
        self.shuffle, self.drop_last = shuffle, drop_last
        self._epoch = _shared(0, 0)  # and how much of it is skipped

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """The epoch that the next iterations draw, in loader processes too.

        `skip` batches (without a batch size: pictures) of this rank are left out at the start, not drawn: those that a run which was
        stopped had taken.
        """
        self._epoch[0] = _whole("epoch", epoch, 0, 1 << 31)
        self._epoch[1] = _whole("skip", skip, 0, len(self))

    @property
    def pictures(self) -> int:
        """Pictures of this rank in one epoch."""
        total = self.generation.pictures
        if self.drop_last:
            step = self.batch_size or 1
            return total // self.ranks // step * step
        return len(range(self.rank, total, self.ranks))

    def __len__(self) -> int:
        return -(-self.pictures // (self.batch_size or 1))

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        if info is not None:
            torch.set_num_threads(1)
        epoch, skip = self._epoch.tolist()
        offset = epoch * self.generation.instances if self.fresh else 0
        places = self._places(worker, workers, skip)
        for numbers in self._numbers(places, epoch):
            items = (self._item(number, offset, epoch) for number in numbers.tolist())
            if self.batch_size is None:
                yield from items
            else:
                yield _batch(items, len(numbers))

    def _item(self, number: int, offset: int, epoch: int) -> tuple[Any, Any]:
        row, instance = self.generation.place(number)
        return self._pictures(row, instance + offset, epoch)

    def _places(
        self, worker: int, workers: int, skip: int = 0
    ) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
        """Places of this rank that this loader process draws, batch by batch (or picture by picture)."""
        step, most = self.batch_size or 1, self.pictures
        for first in range((skip + worker) * step, most, workers * step):
            yield np.arange(first, min(first + step, most), dtype=np.int64) * self.ranks + self.rank

    def _numbers(
        self, places: Iterator[np.ndarray[Any, np.dtype[np.int64]]], epoch: int
    ) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
        """The pictures that stand at these places, worked out for many batches at once."""
        if not self.shuffle:
            yield from places
            return
        order = Permutation(self.generation.pictures, fold(fold(salt_key("order"), self.seed), epoch))
        waiting: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        held = 0
        for group in places:
            waiting.append(group)
            held += len(group)
            if held >= AHEAD:
                yield from np.split(order[np.concatenate(waiting)], np.cumsum([len(g) for g in waiting])[:-1])
                waiting, held = [], 0
        if waiting:
            yield from np.split(order[np.concatenate(waiting)], np.cumsum([len(g) for g in waiting])[:-1])


def _batch(items: Iterator[tuple[Any, Any]], size: int) -> tuple[Any, Any]:
    """Items as one batch: pictures are written where they will lie."""
    labels: list[Any] = []
    whole: torch.Tensor | None = None
    for place, (picture, label) in enumerate(items):
        if whole is None:
            whole = torch.empty((size, *picture.shape), dtype=picture.dtype)
        whole[place] = picture
        labels.append(label)
    return whole, labels if isinstance(labels[0], dict) else torch.tensor(labels, dtype=torch.int64)


def _distributed() -> tuple[int, int]:
    """Rank and number of ranks of this process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _shared(*values: int) -> torch.Tensor:
    """Numbers that loader processes which are already running see too."""
    numbers = torch.tensor(values, dtype=torch.int64)
    numbers.share_memory_()  # type: ignore[no-untyped-call]
    return numbers


def _whole(name: str, value: int, low: int, high: int) -> int:
    if not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{name} {value!r}: must be a whole number between {low:,} and {high:,}")
    return value
