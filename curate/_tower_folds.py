"""Several projections, each fitted without one fold of the trained pairs, so that no row is scored by what has learnt it by heart.

A pair that was trained on scores far higher than one of its kind that was not. So the trained pairs are cut into folds
(curate._tower_split.folds), model f is fitted without fold f, and a row is scored by

- model f alone, if its uid, its caption or nearly its picture is that of a trained pair of fold f;
- the models of all those folds, if they are several, such as by its caption and by its picture (each has seen a part of it);
- all models, if nothing of it was trained on.

Several models count by the sum of their unit rows, scaled to length 1. For that they are turned into one space: each onto the
first by the orthogonal map that brings its rows for the trained pairs nearest (Procrustes; Schönemann 1966). So the rows of all
pictures and captions lie in one space of 256 numbers, and the score is their inner product whichever models gave them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate._pairs import Words, plain_caption
from curate._tower_fit import WIDTH, Floats, Half, Projections, check_shapes
from curate._tower_split import NEAR
from curate.subset import from_hex, to_hex
from headwater.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]
Use = npt.NDArray[np.bool_]  # (rows, models): which models count for a row
MAX_TRAINED_BYTES = 1 << 30
COLUMNS = {"uid": "string", "fold": "int32", "caption": "uint64", "picture": "uint64"}


@dataclass(frozen=True)
class Ensemble:
    """Models of one space, model f fitted without fold f; or a single one that was fitted on everything."""

    models: tuple[Projections, ...]

    def pictures(self, rows: Half, use: Use | None = None) -> Floats:
        """(n, image_width) rows of the picture tower to (n, 256) of length 1, by the models of `use`, or by all."""
        return self._together([model.pictures for model in self.models], rows, use)

    def texts(self, rows: Half, use: Use | None = None) -> Floats:
        """(n, text_width) rows of the caption tower to (n, 256) of length 1, by the models of `use`, or by all."""
        return self._together([model.texts for model in self.models], rows, use)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors of all models by name, as they are written."""
        return {
            f"fold{f}.{name}": t for f, model in enumerate(self.models) for name, t in model.tensors.items()
        }

    def _together(self, forwards: list[Any], rows: Half, use: Use | None) -> Floats:
        total = np.zeros((len(rows), WIDTH), np.float32)
        for number, forward in enumerate(forwards):
            some = np.arange(len(rows)) if use is None else np.flatnonzero(use[:, number])
            total[some] += forward(rows[some])
        # opposite rows could cancel out: such a row has no direction, and stays a row of zeros
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return np.asarray(total / np.where(length == 0, 1, length), np.float32)


def read_ensemble(tensors: dict[str, Tensor], models: int, image_width: int, text_width: int) -> Ensemble:
    """Tensors read from a file as an ensemble; raises IntegrityError naming the first that is missing or does not belong."""
    parts: list[dict[str, Tensor]] = [{} for _ in range(models)]
    places = {f"fold{f}": part for f, part in enumerate(parts)}
    for name, tensor in tensors.items():
        fold, _, rest = name.partition(".")
        if fold not in places:
            raise IntegrityError(f"projections: {name} is not there in a scorer of {models} folds")
        places[fold][rest] = tensor
    return Ensemble(tuple(check_shapes(part, image_width, text_width, fold) for fold, part in places.items()))


def aligned(models: list[Projections], image: Half, text: Half) -> Ensemble:
    """The models turned into the space of the first by their rows for these pairs. No score of any one model changes by it."""
    import torch

    first, turned = models[0], [models[0]]
    targets = [torch.from_numpy(rows).double() for rows in (first.pictures(image), first.texts(text))]
    for model in models[1:]:
        own = [torch.from_numpy(rows).double() for rows in (model.pictures(image), model.texts(text))]
        left, _, right = torch.linalg.svd(sum(a.T @ b for a, b in zip(own, targets, strict=True)))
        turn = left @ right  # own @ turn is nearest to the target
        tensors = dict(model.tensors)
        for layer in ("image.2", "text"):  # x W' + b, times turn
            for part in ("weight", "bias"):
                tensor = tensors[f"{layer}.{part}"].double()
                tensors[f"{layer}.{part}"] = (turn.T @ tensor).float().contiguous()
        turned.append(Projections(tensors))
    return Ensemble(tuple(turned))


@dataclass(frozen=True)
class Trained:
    """What was trained on, a pair a row in the order of uids: its fold, a hash of its plain caption, its difference hash."""

    uids: Words
    fold: Ints
    captions: npt.NDArray[np.uint64]
    pictures: npt.NDArray[np.uint64]
    models: int

    def use(self, uids: list[str], captions: list[str | None], pictures: list[int | None]) -> Use:
        """(n, models) which models score each row: those that have not seen it. None: the row has no caption, no picture."""
        found = np.zeros((len(uids), self.models), bool)
        for row, (uid, caption, picture) in enumerate(zip(uids, captions, pictures, strict=True)):
            places = {self._by_uid.get(uid), self._by_caption.get(caption_hash(caption)) if caption else None}
            found[row, [place for place in places if place is not None]] = True
            if picture is not None:
                near = np.bitwise_count(self._hashes[0] ^ np.uint64(picture)) <= NEAR
                found[row, self._hashes[1][near]] = True
        found[~found.any(axis=1)] = True
        return found

    @cached_property
    def _by_uid(self) -> dict[str, int]:
        return dict(zip(to_hex(self.uids), self.fold.tolist(), strict=True))

    @cached_property
    def _by_caption(self) -> dict[int, int]:
        return dict(zip(self.captions.tolist(), self.fold.tolist(), strict=True))

    @cached_property
    def _hashes(self) -> tuple[npt.NDArray[np.uint64], Ints]:
        hashes, first = np.unique(self.pictures, return_index=True)
        return hashes, self.fold[first]


def caption_hash(caption: str) -> int:
    """64 bits of what two equal captions share."""
    plain = plain_caption(caption).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(plain).digest()[:8], "big")


def write_trained(path: Path, trained: Trained) -> None:
    """As Parquet: uid, fold, caption and picture (64-bit hashes)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = (to_hex(trained.uids), trained.fold, trained.captions, trained.pictures)
    types = {"string": pa.string(), "int32": pa.int32(), "uint64": pa.uint64()}
    table = pa.table(
        {
            name: pa.array(values, types[kind])
            for (name, kind), values in zip(COLUMNS.items(), columns, strict=True)
        }
    )
    pq.write_table(table, path, compression="zstd", compression_level=1)


def read_trained(path: Path, models: int) -> Trained:
    """What `write_trained` wrote; raises IntegrityError for another file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size > MAX_TRAINED_BYTES:
        raise IntegrityError(f"{path}: too large for a list of trained pairs")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path}: cannot be read as Parquet: {error}") from error
    types = {field.name: str(field.type) for field in table.schema}
    if types != COLUMNS or any(table[name].null_count for name in COLUMNS):
        raise IntegrityError(f"{path}: has the columns {types}, and should have {COLUMNS} without nulls")
    try:
        uids = from_hex(table["uid"].to_pylist())
    except UsageError as error:
        raise IntegrityError(f"{path}: {error}") from error
    fold = np.asarray(table["fold"].to_numpy(), np.int64)
    if len(fold) and not (0 <= fold.min() and fold.max() < models):
        raise IntegrityError(f"{path}: names fold {fold.max()} of a scorer of {models} folds")
    return Trained(uids, fold, table["caption"].to_numpy(), table["picture"].to_numpy(), models)
