"""Predictions scored against a polygon dataset: exact pooled pixel numbers, COCO's of boxes and masks, and if asked kwcoco's beside them.

    truth ──rule──> labels ─┐
                            ├─ counts of an image ─ pool ─> pixel: AP, ROC AUC, F1, TPR with bounds, by size, intervals
    predictions ──> map ────┘
    truth, predictions ──rule──> run lengths, boxes ──────> objects: COCO's AP and AR

Everything that decides a number is in the result: the rule of filling, the grid, the categories, and the digests of truth, pixels and
predictions. `truth_digest` names the dataset that is meant, and another one is refused: numbers of the wrong split have been published
from files under the right name. Crowds and ignored categories are left out of the pixels; categories neither counted nor ignored are
background. `compat` repeats kwcoco's evaluator: its filling (rule kwimage), its 1,024 levels and its merging, which overstates the recall of
sparse maps (`curate.polygons._kwcoco_figures` says how).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curate.generators._extra import need_numba
from curate.polygons import metrics
from curate.polygons._json_strict import loads
from curate.polygons._store_files import HEADER_NAME
from curate.polygons.metrics import Counts as Pixels
from curate.polygons.raster import RULES
from curate.polygons.store import Annotations, digest, open_annotations
from headwater.errors import UsageError, nearest
from headwater.files import write_json
from headwater.hashing import digest_file
from headwater.manifest import Counts, InputRef
from headwater.steps import Plan, RunOptions, Work, describe_plan, run_step
from train._polygon_counting import STRATA, Bench, counted
from train._polygon_heat import digest_of
from train._polygon_objects import MOST_DETECTIONS, Objects, need_matcher
from train._polygon_predictions import Joined, Kinds, join, kinds_of, read_predictions
from train._polygon_truth import check_digest, check_truth, maps_of, truth_facts

STEP, VERSION = "polygons-score", 1
FORMAT = "polygon-scores/1"


@dataclass(frozen=True)
class Asked:
    """How to score. `threshold`: one chosen elsewhere, for F1, TPR and precision there; `group_by`: a column or key of images for intervals."""

    rule: str = "coco"
    exact: bool = False
    bins: int = metrics.BINS
    compat: bool = False
    counted: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    threshold: float | None = None
    replicates: int = 1000
    group_by: str | None = None
    seed: int = 0
    objects: bool = True

    def check(self) -> None:
        """Raises UsageError."""
        if self.rule not in RULES:
            raise UsageError(f"--rule {self.rule}: {nearest(self.rule, RULES)}")
        if not 0 <= self.replicates <= 100_000:
            raise UsageError(f"--replicates {self.replicates}: from 0 to 100,000")
        bins = self.bins
        if bins < 2 or bins & (bins - 1) or bins > 1 << 20:
            raise UsageError(f"--bins {bins}: a power of two from 2 to {1 << 20}")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise UsageError(f"--threshold {self.threshold}: from 0 to 1")
        if self.threshold is not None and not self.exact and self.threshold * bins % 1:
            raise UsageError(
                f"--threshold {self.threshold}: lies within one of {bins:,} bins",
                hint=f"--exact, or {round(self.threshold * bins) / bins}",
            )


@dataclass(frozen=True)
class Sources:
    """What is scored, read and checked, before any pixel is counted."""

    path: Path
    truth: Annotations
    facts: dict[str, Any]  # of the truth: its name and digests
    kinds: Kinds
    joined: Joined | None
    maps: tuple[Path, ...] = field(default=(), repr=False)  # one an image
    found: dict[str, Any] = field(default_factory=dict)  # of the predictions: their digests


def open_sources(
    predictions: Path | None,
    truth: Path,
    asked: Asked,
    *,
    truth_digest: str | None = None,
    heatmaps: Path | None = None,
    images: Path | None = None,
) -> Sources:
    """Read and check everything. `images`: folder of the image files, for the digest of their pixels.

    Raises UsageError, MissingInput, MissingExtra, BadInputs (listing what cannot be scored) and IntegrityError (a truth that is not the one named).
    """
    asked.check()
    if predictions is None and heatmaps is None:
        raise UsageError("nothing to score: name predictions, or a folder of score maps with --heatmaps")
    need_numba()
    if asked.objects and predictions is not None:
        need_matcher()
    whole = open_annotations(truth)
    facts = truth_facts(truth, whole, images)
    check_digest(facts, truth_digest, truth)
    kinds = kinds_of(whole, asked.counted, asked.ignored)
    check_truth(truth, whole, kinds)
    joined, found = None, {}
    maps: tuple[Path, ...] = ()
    if predictions is not None:
        read = read_predictions(predictions)
        joined = join(whole, read, kinds, predictions)
        found = {"sha256": _content(predictions, read), "detections": len(read.annotations)}
    if heatmaps is not None:
        maps = maps_of(heatmaps, whole)
        found["heatmaps"] = digest_of(heatmaps, maps)
    return Sources(truth, whole, facts, kinds, joined, maps, found)


def _content(path: Path, read: Annotations) -> str:
    """The bytes, not only what they say: COCO's matching takes equal scores in their order."""
    file = path / HEADER_NAME if path.is_dir() else path  # a store's names the digests of its tables
    return digest_file(file, ["sha256"]).sha256 or "" if file.is_file() else digest(read)


def score(sources: Sources, asked: Asked) -> dict[str, Any]:
    """The result, as the JSON object that is written (`FORMAT`). Raises BadInputs for shapes and maps that cannot be counted."""
    bench = Bench(sources.path, sources.truth, sources.kinds, sources.joined, sources.maps)
    objects = Objects() if asked.objects and sources.joined is not None else None
    parts, beside = counted(
        bench, asked.rule, exact=asked.exact, bins=asked.bins, compat=asked.compat, objects=objects
    )
    pooled = metrics.pool(parts)
    result: dict[str, Any] = {
        "format": FORMAT,
        "truth": sources.facts,
        "predictions": sources.found,
        "rule": asked.rule,
        "grid": pooled.grid,
        "maps": "heatmaps" if sources.maps else "detections, the highest score on a pixel",
        "categories": _category_names(sources.kinds),
        "pixel": _pixel(pooled, parts, sources.truth, asked),
        "objects": None,
        "compat": None,
    }
    if objects is not None:
        result["objects"] = {
            "box": objects.figures("bbox"),
            "mask": objects.figures("segm"),
            "max_detections": MOST_DETECTIONS,
            "detections": len(objects.found),
            "objects": len(objects.truth),
        }
    if asked.compat:
        try:
            result["compat"] = {"kwcoco": asdict(metrics.kwcoco_figures(beside))}
        except ValueError as error:
            raise UsageError(f"--compat kwcoco: {error}") from None
    return result


def plan_score(sources: Sources, asked: Asked, output: Path) -> Plan:
    """The Step: its key depends on what truth and predictions say, not on where they lie."""
    config = {**asdict(asked), "name": sources.facts["name"]}
    del config["seed"]
    inputs = [InputRef(role="truth", id=sources.facts["manifest_digest"])]
    if sources.facts["pixel_digest"]:
        inputs.append(InputRef(role="pixels", id=sources.facts["pixel_digest"]))
    inputs += [
        InputRef(role=role, id=sources.found[name])
        for role, name in (("predictions", "sha256"), ("heatmaps", "heatmaps"))
        if name in sources.found
    ]
    return Plan(STEP, VERSION, config, inputs, output, seed=asked.seed)


def run_score(sources: Sources, asked: Asked, output: Path, options: RunOptions) -> dict[str, Any]:
    """Write the result as the file `output` with its record, and tell it; on a dry run, say what would be done."""
    plan = plan_score(sources, asked, output)

    def work(job: Work) -> Counts:
        write_json(job.stage, score(sources, asked))
        images = len(sources.truth.images)
        return Counts(unit="images", read=images, kept=images)

    outcome = run_step(plan, work, options)
    if outcome is None:
        document = describe_plan(plan)
        state = "up to date: nothing to do" if document["up_to_date"] else "would be scored"
        return {**document, "text": f"{output}: {sources.facts['name']}: {state}"}
    result = json.loads(output.read_bytes())
    lines = [f"{output}: scored{' (already there)' if outcome.cached else ''}", *summary_lines(result)]
    return {
        "output": str(output),
        "cached": outcome.cached,
        "id": outcome.step.id,
        "key": outcome.step.key,
        "result": result,
        "energy": outcome.step.energy.model_dump(),
        "text": "\n".join(lines),
    }


def summary_lines(result: dict[str, Any]) -> list[str]:
    """The result in a few lines."""

    def row(label: str, numbers: dict[str, Any], names: tuple[str, ...]) -> str:
        told = [
            f"{name.upper().replace('_', ' ')} {'—' if numbers[name] is None else format(numbers[name], '.4f')}"
            for name in names
        ]
        return f"  {label:<22}{'  '.join(told)}"

    pixel, facts = result["pixel"], result["truth"]
    lines = [
        f"truth {facts['name']}: {facts['images']:,} images; filled by rule {result['rule']}, {pixel['grid']}",
        row("pixels", pixel, ("ap", "auc", "f1", "tpr")),
    ]
    lines += [row(f"pixels, {name}", pixel["strata"][name], ("ap", "auc", "f1", "tpr")) for name in STRATA]
    if pixel["at"]:
        lines.append(row(f"pixels at {pixel['at']['threshold']:g}", pixel["at"], ("f1", "tpr", "precision")))
    if pixel["intervals"]:
        spans = [
            f"{name.upper()} {span['low']:.4f} to {span['high']:.4f}"
            for name in ("ap", "auc", "f1")
            if (span := pixel["intervals"][name])["low"] is not None
        ]
        lines.append(f"  {'95 % over ' + pixel['intervals']['over']:<22}{'  '.join(spans)}")
    for name, label in (("box", "COCO, boxes"), ("mask", "COCO, masks")):
        if result["objects"] and result["objects"][name]:
            lines.append(row(label, result["objects"][name], ("ap", "ap50", "ap75", "ar100")))
    if result["compat"]:
        lines.append(row("as kwcoco has it", result["compat"]["kwcoco"], ("ap", "auc", "f1", "tpr")))
        lost = result["compat"]["kwcoco"]["lost"]
        lines += [f"  (kwcoco's merging loses {lost:,} missed pixels at its threshold)"] if lost else []
    return lines


def _pixel(pooled: Pixels, parts: list[Pixels], truth: Annotations, asked: Asked) -> dict[str, Any]:
    strata = {name: metrics.measure(pooled, number).record() for number, name in enumerate(STRATA, 1)}
    found = {**metrics.measure(pooled).record(), "strata": strata, "at": None, "intervals": None}
    if asked.threshold is not None:
        found["at"] = asdict(metrics.at(pooled, asked.threshold))
    if asked.replicates:
        keys = [f"{place:09d}" for place in range(len(parts))]
        groups = _groups(truth, asked.group_by, keys)
        images = dict(zip(keys, parts, strict=True))
        try:
            drawn = metrics.bootstrap(images, groups, replicates=asked.replicates, seed=asked.seed)
        except ValueError as error:
            raise UsageError(f"intervals: {error}", hint="--replicates 0, or without --exact") from None
        found["intervals"] = {
            "over": asked.group_by or "images",
            "seed": asked.seed,
            "confidence": 0.95,
            **{name: asdict(one) for name, one in drawn.items()},
        }
    return found


def _groups(truth: Annotations, key: str | None, keys: list[str]) -> dict[str, str] | None:
    """The group of each image by a column or key of the images; one that has none is alone. Raises UsageError where none has it."""
    if key is None:
        return None
    if key in truth.images.schema.names:
        said = truth.images[key].to_pylist()
    else:
        said = [loads(text.encode()).get(key) if text else None for text in truth.images["extra"].to_pylist()]
    if all(one is None for one in said):
        raise UsageError(f"--group-by {key}: no image of the truth has it")
    return {
        own: f"alone {own}" if one is None else f"of {one!r}" for own, one in zip(keys, said, strict=True)
    }


def _category_names(kinds: Kinds) -> dict[str, list[str]]:
    names = ("", *kinds.names)
    return {
        "counted": [names[place] for place in sorted(kinds.counted) if place],
        "ignored": [names[place] for place in sorted(kinds.ignored)],
    }
