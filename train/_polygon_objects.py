"""COCO's AP and AR of boxes and masks, by faster-coco-eval, with masks made by the same named rule as the pixel metrics.

Ids are given anew from 1, since an annotation id of 0 means "no match" there. Areas, by which COCO tells small from large, are those of
the truth where it says them, else of the mask; a detection's is its box's for boxes and its mask's for masks, as pycocotools has it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headwater.errors import MissingExtra

# faster-coco-eval's name -> ours
FIGURES = {
    "AP_all": "ap",
    "AP_50": "ap50",
    "AP_75": "ap75",
    "AP_small": "ap_small",
    "AP_medium": "ap_medium",
    "AP_large": "ap_large",
    "AR_all": "ar1",
    "AR_second": "ar10",
    "AR_third": "ar100",
    "AR_small": "ar_small",
    "AR_medium": "ar_medium",
    "AR_large": "ar_large",
}
MOST_DETECTIONS = 100  # of an image and category that COCO looks at


def need_matcher() -> None:
    """Raises MissingExtra without faster-coco-eval."""
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise MissingExtra(
            "faster-coco-eval, which matches boxes and masks, is not installed",
            hint="pip install 'headwater[train]', or --no-objects for pixels alone",
        )


@dataclass
class Objects:
    """Objects of the truth and detections, gathered image by image."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    truth: list[dict[str, Any]] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)

    def add_image(self, size: tuple[int, int]) -> None:
        """Later objects are on this image."""
        self.sizes.append(size)

    def add_true(self, category: int, box: Sequence[float], mask: str, area: float, crowd: bool) -> None:
        """`mask`: COCO's run-length string of the whole image."""
        entry = self._entry(category, box, mask)
        self.truth.append({**entry, "id": len(self.truth) + 1, "area": area, "iscrowd": int(crowd)})

    def add_found(self, category: int, box: Sequence[float], mask: str | None, score: float) -> None:
        """`mask` None: a detection of a box alone."""
        self.found.append({**self._entry(category, box, mask), "score": score})

    def _entry(self, category: int, box: Sequence[float], mask: str | None) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "image_id": len(self.sizes),
            "category_id": category + 1,
            "bbox": [float(side) for side in box],
        }
        if mask is not None:
            entry["segmentation"] = {"size": list(self.sizes[-1]), "counts": mask}
        return entry

    def figures(self, kind: str) -> dict[str, float | None] | None:
        """The twelve numbers of `kind` "bbox" or "segm"; None where a detection has no mask. Raises MissingExtra.

        A number that is undefined (no such object in the truth) is None.
        """
        if kind == "segm" and any("segmentation" not in entry for entry in self.found):
            return None
        need_matcher()
        from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]

        used = {entry["category_id"] for entry in [*self.truth, *self.found]}
        document = {
            "images": [
                {"id": number, "height": h, "width": w} for number, (h, w) in enumerate(self.sizes, 1)
            ],
            "categories": [{"id": number, "name": str(number)} for number in sorted(used)],
            "annotations": [dict(entry) for entry in self.truth],
        }
        dropped = "segmentation" if kind == "bbox" else "bbox"  # what is not given is made of the other
        found = [{key: value for key, value in entry.items() if key != dropped} for entry in self.found]
        if not used:
            return dict.fromkeys(FIGURES.values(), None)
        truth = COCO(document, print_function=_silent)
        run = COCOeval_faster(
            truth, truth.loadRes(found), kind, print_function=_silent, rle_iou_max_workers=1
        )
        run.params.maxDets = [1, 10, MOST_DETECTIONS]
        run.run()
        told = run.stats_as_dict
        return {mine: _defined(told[name]) for name, mine in FIGURES.items()}


def _defined(value: float) -> float | None:
    return None if value < 0 else float(value)


def _silent(*_: Any) -> None:
    return None
