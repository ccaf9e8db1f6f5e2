"""Which images and annotations of two releases are the same ones; `_diff` states the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.polygons._diff_rows import Side, equal_rows
from curate.polygons.store import values

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Pairs = list[tuple[int, int]]
OVERLAP = 0.5


def image_pairs(one: Side, two: Side) -> Ints:
    """(pairs, 2) rows of images that are the same."""
    columns = [
        tuple(side.annotations.images[key].to_pylist() for key in ("id", "file_name", "sha256"))
        for side in (one, two)
    ]
    (ids_a, files_a, shas_a), (ids_b, files_b, shas_b) = columns
    left, right = dict.fromkeys(range(len(ids_a))), dict.fromkeys(range(len(ids_b)))
    pairs: list[tuple[int, int]] = []

    def pair(first: list[Any], second: list[Any]) -> None:
        places: dict[Any, list[int]] = {}
        for b in right:
            if second[b] is not None:
                places.setdefault(second[b], []).append(b)
        for stack in places.values():
            stack.reverse()
        for a in list(left):
            if first[a] is not None and places.get(first[a]):
                b = places[first[a]].pop()
                pairs.append((a, b))
                del left[a], right[b]

    def with_id(ids: list[Any], other: list[Any]) -> list[Any]:
        return [
            None if own is None or value is None else (own, value)
            for own, value in zip(ids, other, strict=True)
        ]

    pair(
        list(zip(ids_a, files_a, one.image_contents, strict=True)),
        list(zip(ids_b, files_b, two.image_contents, strict=True)),
    )
    pair(with_id(ids_a, files_a), with_id(ids_b, files_b))
    pair(with_id(ids_a, shas_a), with_id(ids_b, shas_b))
    pair(shas_a, shas_b)
    pair(files_a, files_b)
    if left and right:
        pair(_full(one, list(left)), _full(two, list(right)))
        nameless = [None if file else identity for identity, file in zip(ids_a, files_a, strict=True)]
        pair(nameless, [None if file else identity for identity, file in zip(ids_b, files_b, strict=True)])
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _full(side: Side, rows: list[int]) -> list[Any]:
    """Of these images their content with all annotations; None for images without any, of which many are alike."""
    of = by_image(side)
    found: list[Any] = [None] * len(side.annotations.images)
    for row in rows:
        own = of.get(row)
        if own is not None:
            found[row] = (side.image_contents[row], tuple(sorted(side.contents(own))))
    return found


def by_image(side: Side) -> dict[int, Ints]:
    """Rows of the annotations of each image that has any; -1: those without an image."""
    rows = side.annotations.image_rows
    order = np.argsort(rows, kind="stable")
    images, starts = np.unique(rows[order], return_index=True)
    return dict(zip(images.tolist(), np.split(order, starts[1:]), strict=True)) if len(rows) else {}


class Matched:
    """Annotations of two releases within pairs of images.

    `equal`: pairs of one content. `changed`: the other pairs. `removed`, `added`: rows of what is left. Each with the old image row (new for
    images that only the new side has); -1 is "no image". Pairs that `same` counts have equal ids too, and are not listed.
    """

    def __init__(self, one: Side, two: Side, images: Ints) -> None:
        self.one, self.two = one, two
        self.old_ids: list[int | None] = one.annotations.annotations["id"].to_pylist()
        self.new_ids: list[int | None] = two.annotations.annotations["id"].to_pylist()
        self.equal: Pairs = []
        self.changed: list[tuple[int, int, int]] = []
        self.removed: list[tuple[int, int]] = []
        self.added: list[tuple[int, int]] = []
        of_a, of_b = by_image(one), by_image(two)
        none = np.zeros(0, np.int64)
        sides = [
            (a, of_a.pop(a, none), of_b.pop(b, none)) for a, b in [*map(tuple, images.tolist()), (-1, -1)]
        ]
        fast_a, fast_b = self._fast(sides)
        self.same = int(fast_a.sum())
        rest = [(image, a[~fast_a[a]], b[~fast_b[b]]) for image, a, b in sides]
        rest = [(image, a, b) for image, a, b in rest if len(a) or len(b)]
        said = self._said(one, [a for _, a, b in rest if len(b)])
        told = self._said(two, [b for _, a, b in rest if len(a)])
        open_ = [(image, *self._equal(a.tolist(), b.tolist(), said, told)) for image, a, b in rest]
        moved = sum(self.old_ids[a] != self.new_ids[b] for a, b in self.equal)
        pair = self._by_overlap if moved > self.same + len(self.equal) - moved else self._by_id
        for image, first, second in open_:
            changed = pair(first, second)
            self.changed += [(image, a, b) for a, b in changed]
            gone_a, gone_b = {a for a, _ in changed}, {b for _, b in changed}
            self.removed += [(image, a) for a in first if a not in gone_a]
            self.added += [(image, b) for b in second if b not in gone_b]
        self.removed += [(image, int(row)) for image, rows in of_a.items() for row in rows]
        self.lone = [int(row) for rows in of_b.values() for row in rows]  # added with their image

    def _fast(self, sides: list[tuple[int, Ints, Ints]]) -> tuple[Bools, Bools]:
        """Masks of annotations of one id in one image with equal columns on both sides: nearly all of them, mostly."""
        ids_a, known_a = values(self.one.annotations.annotations, "id")
        ids_b, known_b = values(self.two.annotations.annotations, "id")
        masks = np.zeros(len(ids_a), bool), np.zeros(len(ids_b), bool)
        rows_a, place_a = _laid([rows for _, rows, _ in sides])
        rows_b, place_b = _laid([rows for _, _, rows in sides])
        keys_a, keys_b = (
            np.column_stack((ids_a[rows_a], place_a)),
            np.column_stack((ids_b[rows_b], place_b)),
        )
        good_a, good_b = _once(keys_a) & known_a[rows_a], _once(keys_b) & known_b[rows_b]
        rows_a, rows_b = rows_a[good_a], rows_b[good_b]
        both = np.concatenate((keys_a[good_a], keys_b[good_b]))
        numbers = np.asarray(np.unique(both, axis=0, return_inverse=True)[1]).reshape(-1)
        _, at, to = np.intersect1d(numbers[: len(rows_a)], numbers[len(rows_a) :], return_indices=True)
        same = equal_rows(self.one, self.two, rows_a[at], rows_b[to])
        masks[0][rows_a[at][same]] = masks[1][rows_b[to][same]] = True
        return masks

    def _said(self, side: Side, groups: list[Ints]) -> dict[int, bytes]:
        """Digests of these annotations, by row."""
        rows = np.concatenate(groups) if groups else np.zeros(0, np.int64)
        return dict(zip(rows.tolist(), side.contents(rows), strict=True))

    def _equal(
        self, rows_a: list[int], rows_b: list[int], said: dict[int, bytes], told: dict[int, bytes]
    ) -> tuple[list[int], list[int]]:
        """Pair what has one content, one id before others; what is left."""
        first, second = dict.fromkeys(rows_a), dict.fromkeys(rows_b)
        if not first or not second:
            return rows_a, rows_b
        for by_id in (True, False):
            places: dict[Any, list[int]] = {}
            for b in reversed(second):
                places.setdefault((told[b], self.new_ids[b] if by_id else None), []).append(b)
            for a in list(first):
                hits = places.get((said[a], self.old_ids[a] if by_id else None))
                if hits:
                    b = hits.pop()
                    self.equal.append((a, b))
                    del first[a], second[b]
        return list(first), list(second)

    def _by_id(self, first: list[int], second: list[int]) -> Pairs:
        places = {self.new_ids[b]: b for b in reversed(second) if self.new_ids[b] is not None}
        found = []
        for a in first:
            b = places.pop(self.old_ids[a], None)
            if b is not None:
                found.append((a, b))
        return found

    def _by_overlap(self, first: list[int], second: list[int]) -> Pairs:
        """Pairs of one category whose boxes overlap by half of their union or more, the best first."""
        if not first or not second:
            return []
        kinds = np.array([str(self.two.categories[b]) for b in second], object)
        boxes = self.two.boxes[second]
        candidates = []
        for a in first:
            shares = _overlap(self.one.boxes[a], boxes)
            shares[kinds != str(self.one.categories[a])] = 0
            candidates += [(-shares[n], a, second[n]) for n in np.flatnonzero(shares >= OVERLAP).tolist()]
        found, gone_a, gone_b = [], set(), set()
        for _, a, b in sorted(candidates):
            if a not in gone_a and b not in gone_b:
                found.append((a, b))
                gone_a.add(a)
                gone_b.add(b)
        return found


def _laid(groups: list[Ints]) -> tuple[Ints, Ints]:
    """All rows, and the number of the group that each is in."""
    sizes = [len(rows) for rows in groups]
    return np.concatenate(groups), np.repeat(np.arange(len(groups)), sizes)


def _once(keys: Ints) -> Bools:
    _, number, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(counts[number.reshape(-1)] == 1)


def _overlap(box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shared area by area of the union of a box with each of the others; 0 for boxes that are none."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        found: npt.NDArray[np.float64] = np.nan_to_num(np.where(union > 0, shared / union, 0.0))
        return found
