"""What the polygon bench measures in processes that stay: ours here, the peers' in theirs, in turns. See `polygons`."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from curate.polygons import metrics, raster
from curate.polygons.store import digest, open_annotations, write_store
from curate.polygons.validate import validate
from tests.bench import polygon_data

Side = Callable[[], tuple[float, Any]]  # CPU seconds, and what was found
Work = Callable[[], Any]
RASTERED, RASTER_IMAGES = 848, 200
SQUARES = (4, 8, 16, 32, 64)


class Peer:
    """A process of the peers' Python that does what it is told, and says what it cost."""

    def __init__(self, python: str) -> None:
        script = Path(__file__).with_name("polygon_peer.py")
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def side(self, *task: Any) -> Side:
        def run() -> tuple[float, Any]:
            assert self._process.stdin and self._process.stdout
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            if not line:
                raise SystemExit(f"bench: the peer ended with {self._process.wait()} at {task}")
            seconds, found = json.loads(line)
            return seconds, found

        return run

    def close(self) -> None:
        self._process.communicate()


def own(prepare: Callable[[], Work]) -> Side:
    """A side in this process; what `prepare` does is not counted."""

    def run() -> tuple[float, Any]:
        work = prepare()
        began = time.process_time()
        found = work()
        return time.process_time() - began, found

    return run


def rounds(sides: Mapping[str, Side], count: int, few: Mapping[str, int] | None = None) -> dict[str, Any]:
    """CPU seconds of every side in an order that turns; the first run of each is told apart. `few`: sides that run fewer times."""
    first = {name: side() for name, side in sides.items()}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(count):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if number < (few or {}).get(name, count):
                taken[name].append(sides[name]()[0])
    return {
        name: {
            "seconds": statistics.median(taken[name]),
            "first": first[name][0],
            "all": [round(s, 5) for s in taken[name]],
            "found": first[name][1],
        }
        for name in names
    }


def show(found: dict[str, Any], peer: str, scale: float = 1.0, unit: str = "s") -> None:
    """A line for each side; ratios are those of the medians."""
    for name, one in found.items():
        ratio = f"{found[peer]['seconds'] / one['seconds']:9.1f} x" if peer in found and name != peer else ""
        print(f"  {name:34}{one['seconds'] * scale:10.4f} {unit}{ratio}", flush=True)


def checks(path: Path, pairs: int, peer: Peer | None) -> dict[str, Any]:
    """Reading, validating and hashing one file of polygons."""

    def ready(work: Callable[[Any], Any]) -> Side:
        def prepare() -> Work:  # read again each time, so that nothing is known from before
            annotations = open_annotations(path)
            return lambda: work(annotations)

        return own(prepare)

    def told(profile: str) -> Side:
        return ready(lambda annotations: validate(annotations, profile=profile).severities["error"])

    def store(annotations: Any) -> int:
        with tempfile.TemporaryDirectory() as text:
            write_store(annotations, f"{text}/store")
            return sum(file.stat().st_size for file in Path(text, "store").iterdir())

    kept = tempfile.TemporaryDirectory()
    write_store(open_annotations(path), f"{kept.name}/store")
    parts: dict[str, dict[str, Side]] = {
        "validate": {f"ours, {profile}": told(profile) for profile in ("strict", "kwcoco", "coco")},
        "read": {
            "ours, JSON": own(lambda: lambda: len(open_annotations(path).annotations)),
            "ours, store": own(lambda: lambda: len(open_annotations(f"{kept.name}/store").annotations)),
        },
        "write": {"ours, store": ready(store)},
        "digest": {"ours": ready(digest)},
    }
    if peer:
        parts["validate"]["kwcoco, fastjsonschema"] = peer.side("validate", str(path), "fastjsonschema")
        parts["validate"]["kwcoco"] = peer.side("validate", str(path), "jsonschema")
        parts["read"]["kwcoco"] = peer.side("load", str(path))
        parts["digest"]["kwcoco"] = peer.side("digest", str(path))
    out: dict[str, Any] = {"bytes": path.stat().st_size}
    for name, sides in parts.items():
        print(name, flush=True)
        out[name] = rounds(sides, pairs, {"kwcoco": 2} if name == "validate" else None)
        show(out[name], "kwcoco")
    kept.cleanup()
    return out


def pixels(megapixels: list[int], pairs: int, peer: Peer | None) -> dict[str, Any]:
    """One image scored, its polygons filled: ours on crops by three grids; kwcoco's number of the image is checked against ours."""
    out: dict[str, Any] = {}
    for size in megapixels:
        for kind in ("dense", "sparse"):
            polygons, scores = polygon_data.scored(size, kind)
            height, width = scores.shape

            def counts(
                grid: str, polygons: Any = polygons, scores: Any = scores, size: Any = (height, width)
            ) -> Any:
                crops = [raster.raster(p, np.array([0, len(p)]), *size, "kwimage") for p in polygons]
                return metrics.count(scores, metrics.labels_of(crops, *size), "kwimage", grid=grid)

            sides = {
                "ours, bins": own(lambda c=counts: lambda: metrics.measure(c("bins")).ap),
                "ours, kwcoco's figures": own(
                    lambda c=counts: lambda: metrics.kwcoco_figures([c("kwcoco")]).ap
                ),
                "ours, exact": own(lambda c=counts: lambda: metrics.measure(c("exact")).ap),
            }
            with tempfile.TemporaryDirectory() as folder:
                named = {f"p{number}": polygon for number, polygon in enumerate(polygons)}
                np.savez(f"{folder}/{size}.npz", scores=scores, **named)
                if peer:
                    sides["kwcoco"] = peer.side("score", folder, str(size))
                print(f"{size} megapixels, {kind}", flush=True)
                found = rounds(sides, pairs)
            show(found, "kwcoco", 1e3, "ms")
            if peer:
                ours, theirs = (found[name]["found"] for name in ("ours, kwcoco's figures", "kwcoco"))
                if abs(ours - theirs) > 1e-12:
                    raise SystemExit(f"bench: kwcoco's AP of this image is {theirs}, ours in its way {ours}")
            out[f"{size} {kind}"] = found
    return out


def rastered(pairs: int, peer: Peer | None) -> dict[str, Any]:
    """Polygons of 200 images of 12 megapixels filled, each rule; areas of squares and of all polygons by rule."""
    polygons, size = polygon_data.stars(RASTERED), (polygon_data.HEIGHT, polygon_data.WIDTH)
    vertices = np.concatenate(polygons)
    starts = np.append(0, np.cumsum([len(p) for p in polygons]))
    owners, sides_of = np.arange(RASTERED + 1), [np.full(RASTERED, side) for side in size]

    def crops(rule: str) -> int:
        return sum(raster.raster(p, np.array([0, len(p)]), *size, rule).area for p in polygons)

    def areas(rule: str) -> int:
        return int(raster.areas(vertices, starts, owners, *sides_of, rule).sum())

    sides: dict[str, Side] = {}
    for rule in raster.RULES:
        sides[f"ours, {rule}"] = own(lambda rule=rule: lambda: crops(rule))
        sides[f"ours, {rule}, areas only"] = own(lambda rule=rule: lambda: areas(rule))
    ways = {
        "kwimage": "kwimage, canvases",
        "opencv": "OpenCV, canvases",
        "rle": "pycocotools, areas only",
        "rle decoded": "pycocotools, decoded",
    }
    if peer:
        for way, name in ways.items():
            sides[name] = peer.side("raster", RASTERED, RASTER_IMAGES, way)
    print("raster", flush=True)
    found = rounds(sides, pairs, {"pycocotools, decoded": 1})
    show(found, "kwimage, canvases")
    if peer and found["ours, coco"]["found"] != found["pycocotools, areas only"]["found"]:
        raise SystemExit("bench: the rule coco has other pixels than pycocotools")
    turned = [np.roll(p, -1, axis=0) for p in polygons]
    geometric = sum(
        abs(float((p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]).sum())) / 2
        for p, q in zip(polygons, turned, strict=True)
    )
    squares = {}
    for rule in raster.RULES:
        corners = [np.array([[9, 9], [9 + s, 9], [9 + s, 9 + s], [9, 9 + s]], float) for s in SQUARES]
        squares[rule] = [raster.raster(c, np.array([0, 4]), 99, 99, rule).area for c in corners]
        share = found[f"ours, {rule}"]["found"] / geometric - 1
        print(f"  {rule:8} {100 * share:+6.2f} % of the polygons' area; squares {squares[rule]}", flush=True)
    return {"sides": found, "geometric_area": geometric, "squares": dict(squares)}


def run(parts: list[str], path: Path | None, megapixels: list[int], pairs: int, python: str | None) -> Any:
    """The parts asked for, beside the peers where their Python is given."""
    os.environ["OMP_NUM_THREADS"] = "1"
    peer, out = Peer(python) if python else None, {}
    try:
        if path and "checks" in parts:
            out["checks"] = checks(path, pairs, peer)
        if "pixels" in parts:
            out["pixels"] = pixels(megapixels, pairs, peer)
        if "raster" in parts:
            out["raster"] = rastered(pairs, peer)
    finally:
        if peer:
            peer.close()
    return out
