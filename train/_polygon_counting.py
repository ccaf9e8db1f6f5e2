"""One image at a time: the masks of truth and detections, the score map, and the counts of its pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate.polygons import metrics
from curate.polygons.metrics import Counts
from curate.polygons.raster import Crop, encode
from curate.polygons.store import Annotations, values
from headwater.console import track
from train._polygon_heat import painted, read_heatmap
from train._polygon_objects import Objects
from train._polygon_predictions import Findings, Ints, Joined, Kinds, Size, crop_of, rows_by_image

COMPAT_RULE = "kwimage"  # what kwcoco's evaluator fills by
STRATA = ("small", "medium", "large")


@dataclass(frozen=True)
class Look:
    """The masks of one image by one rule, by annotation row."""

    size: Size
    true: dict[int, Crop]
    void: list[Crop]
    crowds: dict[int, Crop]  # of counted categories; among `void` too
    found: dict[int, Crop]


class Bench:
    """Truth and predictions, image by image."""

    def __init__(
        self, path: Path, truth: Annotations, kinds: Kinds, joined: Joined | None, maps: Sequence[Path]
    ) -> None:
        self.path, self.truth, self.kinds, self.joined, self.maps = path, truth, kinds, joined, maps
        self.images = len(truth.images)
        heights, widths = (values(truth.images, side)[0] for side in ("height", "width"))
        self.sizes = [(int(h), int(w)) for h, w in zip(heights, widths, strict=True)]
        self.places = kinds.places(truth)
        self._true = rows_by_image(truth.image_rows, self.images)
        self._found = rows_by_image(joined.images, self.images) if joined else None
        self._crowd = values(truth.annotations, "iscrowd")[0] == 1
        self._areas, self._area_known = values(truth.annotations, "area")

    def look(self, place: int, rule: str) -> Look:
        """The masks of an image. ValueError naming an annotation that cannot be filled."""
        size, kinds = self.sizes[place], self.kinds
        look = Look(size, {}, [], {}, {})
        for row in self._true[place].tolist():
            counts = int(self.places[row]) in kinds.counted
            if not counts and int(self.places[row]) not in kinds.ignored:
                continue
            crop = _crop(self.truth, row, rule, size, "truth")
            if counts and not self._crowd[row]:
                look.true[row] = crop
                continue
            look.void.append(crop)
            if counts:
                look.crowds[row] = crop
        if self.joined is not None and self._found is not None:
            for row in self._found[place].tolist():
                if int(self.joined.places[row]) in kinds.counted:
                    look.found[row] = _crop(self.joined.annotations, row, rule, size, "predictions")
        return look

    def count(self, place: int, look: Look, rule: str, grid: str, bins: int) -> Counts:
        """The pixels of an image. ValueError for scores that are none, or a file that is no map."""
        if self.maps:
            path = self.maps[place]
            try:
                scores = read_heatmap(path, look.size)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        else:
            assert self.joined is not None
            scores = painted([*look.found.values()], self.joined.scores[[*look.found]].tolist(), look.size)
        true = [*look.true.values()]
        strata = metrics.size_strata([crop.area for crop in true])
        labels = metrics.labels_of(true, *look.size, strata=strata, void=look.void)
        alike = true if grid == "bins" and scores.dtype.kind == "f" else None
        return metrics.count(scores, labels, rule, grid=grid, bins=bins, strata=len(STRATA), objects=alike)

    def gather(self, look: Look, objects: Objects) -> None:
        """The objects of an image, for COCO's matching."""
        objects.add_image(look.size)
        for row, crop in sorted([*look.true.items(), *look.crowds.items()]):
            area = float(self._areas[row]) if self._area_known[row] else float(crop.area)
            box = _box(self.truth, row, crop)
            crowd = bool(self._crowd[row])
            objects.add_true(int(self.places[row]), box, encode(crop).text, area, crowd)
        for row, crop in look.found.items():
            assert self.joined is not None
            found = self.joined.annotations
            mask = encode(crop).text if found.forms[row] else None
            objects.add_found(
                int(self.joined.places[row]), _box(found, row, crop), mask, float(self.joined.scores[row])
            )


def counted(
    bench: Bench, rule: str, *, exact: bool, bins: int, compat: bool, objects: Objects | None
) -> tuple[list[Counts], list[Counts]]:
    """Counts of all images, and those for kwcoco's figures (empty unless `compat`); fills `objects`.

    Raises BadInputs naming the images that cannot be counted.
    """
    troubles = Findings(bench.path)
    mine, theirs = [], []
    for place in _tracked(bench.images):
        try:
            look = bench.look(place, rule)
            mine.append(bench.count(place, look, rule, "exact" if exact else "bins", bins))
            if compat:
                other = bench.look(place, COMPAT_RULE)
                theirs.append(bench.count(place, other, COMPAT_RULE, "kwcoco", bins))
        except ValueError as error:
            troubles.add([f"image {bench.truth.images['id'][place]}: {error}"])
            continue
        if objects is not None:
            bench.gather(look, objects)
    troubles.check()
    if any(one.shares is None for one in mine):  # maps of different types: objects cannot count alike in all
        mine = [replace(one, shares=None, objects=0) for one in mine]
    return mine, theirs


def _tracked(many: int) -> Iterator[int]:
    with track("score", total=many, unit="images") as bar:
        for place in range(many):
            yield place
            bar.add(1)


def _crop(annotations: Annotations, row: int, rule: str, size: Size, whose: str) -> Crop:
    try:
        return crop_of(annotations, row, rule, size)
    except ValueError as error:
        number = annotations.annotations["id"][row].as_py()
        raise ValueError(f"{whose}: annotation {row + 1 if number is None else number}: {error}") from None


def _box(annotations: Annotations, row: int, crop: Crop) -> tuple[float, ...]:
    """The box as it is said, else of the pixels."""
    said = [annotations.annotations[f"bbox_{side}"][row].as_py() for side in "xywh"]
    return tuple(crop.box) if any(side is None for side in said) else tuple(said)


def rows_of(places: Ints, chosen: frozenset[int]) -> Ints:
    """The annotation rows whose category is one of `chosen`."""
    return np.flatnonzero(np.isin(places, sorted(chosen)))
