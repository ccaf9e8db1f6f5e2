"""What a set will take, told before it is made: bytes, CPU time, memory and energy, from the cost of its categories.

A few pictures from cheap to dear are drawn and encoded in memory. CPU time is a constant and a share of the cost, fitted to them; bytes
are their mean. All of it is modelled: the cost is exact (V * K for contours), the speed is that of this machine at this moment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate._making_block import pixel_digest
from curate.drawing import Drawer, script_stream
from curate.generation import Generation, Processes
from headwater.energy import JOULES_PER_KWH, own_peak_rss_bytes, rated_power

if TYPE_CHECKING:
    from curate.generators import Picture

SECONDS = 0.5  # for drawing
MOST_PICTURES = 96
MOST_ROWS = 25_000  # categories looked at; beyond, an even choice of them
SCRIPT_CLASSES = 24  # of the reference stream, from its beginning
TAR_BYTES = 512 + 256 + 512 + 512  # of one picture: header, half a block of padding, and the class
ROW_BYTES = 60  # of a Parquet row besides the picture
BLOCK_BYTES = 260  # of a block in the recipe

F64 = npt.NDArray[np.float64]


def estimate_generation(
    generation: Generation, sink: str, *, annotated: bool, workers: int, seconds: float = SECONDS
) -> dict[str, Any]:
    """Facts about a set that is not made. `workers` divide the CPU seconds into the time that it takes."""
    costs = _costs(generation)
    sample = list(_sample(generation, costs, seconds))
    cost, cpu, size = (np.array(column, np.float64) for column in zip(*sample, strict=True))
    mean = float(costs.mean())
    constant, slope = _fit(cost, cpu)
    pictures = generation.pictures
    spent = pictures * (constant + slope * mean)
    blocks = sum(1 for _ in generation.cut())
    recipe = 2_000 + BLOCK_BYTES * blocks
    stored = _bytes(sink, pictures, float(size.mean()), blocks)
    facts: dict[str, Any] = {
        "generator": generation.generator,
        "stream": generation.stream,
        "sink": sink,
        "order": generation.order,
        "pictures": pictures,
        "categories": generation.classes,
        "instances": generation.instances,
        "blocks": blocks,
        "block_size": generation.block_size,
        "cost": round(mean * pictures),
        "cost_of_a_picture": mean,
        "bytes": round(stored) + recipe,
        "bytes_of_a_picture": round(float(size.mean())) if sink != "recipe" else 0,
        "recipe_bytes": recipe,
        "annotations_counted": not annotated,  # masks and polygons come on top
        "cpu_seconds": spent,
        "cpu_hours": spent / 3600,
        "cpu_seconds_of_a_picture": spent / pictures,
        "workers": workers,
        "wall_seconds": spent / workers,
        "peak_memory_bytes_of_a_worker": own_peak_rss_bytes(),
        "energy": _energy(spent, spent / workers),
        "method": "modelled",
        "sampled_pictures": len(sample),
    }
    return {**facts, "text": told(facts)}


def told(facts: dict[str, Any]) -> str:
    """The facts for people."""
    each = facts["cpu_seconds_of_a_picture"] * 1000
    count = (
        f"{facts['pictures']:,} pictures of {facts['categories']:,} categories, in {facts['blocks']:,} blocks"
    )
    apart = f"{time_of(facts['wall_seconds'])} with {facts['workers']} workers"
    memory = size_of(facts["peak_memory_bytes_of_a_worker"])
    lines = [
        f"{count}: {size_of(facts['bytes'])} (recipe {size_of(facts['recipe_bytes'])})",
        f"  {time_of(facts['cpu_seconds'])} of CPU, {each:.2f} ms a picture; {apart} of {memory} each",
    ]
    energy = facts["energy"]
    if energy is not None:
        amount = f"{energy['kwh']:.3g} kWh" if energy["kwh"] >= 0.001 else f"{energy['joules']:,.1f} J"
        lines.append(f"  {amount}, modelled from the rated power ({energy['provider']})")
    if not facts["annotations_counted"]:
        lines.append("  masks and polygons are not counted: they come on top")
    lines.append(
        f"modelled from {facts['sampled_pictures']} pictures drawn here and the cost of all; nothing was written"
    )
    return "\n".join(lines)


def size_of(count: float) -> str:
    """Bytes in a unit of three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def time_of(seconds: float) -> str:
    """Seconds in a unit of three digits."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _costs(generation: Generation) -> F64:
    """Costs of (a choice of) the categories. The reference stream's are told by those of the indexed one: the same distribution."""
    drawer = Drawer(_indexed(generation))
    rows = np.linspace(0, generation.classes - 1, min(generation.classes, MOST_ROWS)).astype(np.int64)
    return np.array([drawer.cost_of(drawer.parameters(row)) for row in rows.tolist()])


def _indexed(generation: Generation) -> Generation:
    if generation.stream == "indexed":
        return generation
    return generation.model_copy(update={"stream": "indexed", "reference": None})


def _sample(generation: Generation, costs: F64, seconds: float) -> Iterator[tuple[float, float, int]]:
    """(cost, CPU seconds, bytes of the PNG) of some pictures."""
    from blake3 import blake3

    from curate._png import Encoder

    digests = blake3()
    encoder: Encoder | None = None
    drawn: Iterator[tuple[float, Picture] | None]
    drawn = _script(generation) if generation.stream == "reference" else _spread(generation, costs)
    began = clock = time.process_time()
    for k, found in enumerate(drawn):
        if found is None:
            clock = time.process_time()
            continue
        cost, picture = found
        if encoder is None:
            encoder = Encoder(*picture.pixels.shape)
        pixel_digest(digests, picture)
        size = len(encoder.encode(picture.pixels))
        now = time.process_time()
        if k < 2:
            began = now  # what the kernels took to load is told by nothing here
        else:
            yield cost, now - clock, size
        if k >= 6 and now - began > seconds:
            return
        clock = time.process_time()


def _spread(generation: Generation, costs: F64) -> Iterator[tuple[float, Picture] | None]:
    """Pictures from all over the range of costs, however early the last one is; None where time is not counted."""
    drawer = Drawer(generation)
    order = np.argsort(costs, kind="stable")
    rows = np.linspace(0, generation.classes - 1, len(costs)).astype(np.int64)
    for k in range(MOST_PICTURES + 1):
        at = order[int(_halves(k) * len(order))]
        drawer.draw(int(rows[at]), 0)  # what a category's tables take is shared by its pictures
        yield None
        picture = drawer.draw(int(rows[at]), k % generation.instances).picture
        yield float(costs[at]), picture


def _halves(k: int) -> float:
    """Van der Corput's sequence: 0.5, 0.25, 0.75, …"""
    found, share, k = 0.0, 0.5, k + 1
    while k:
        found += share * (k & 1)
        k, share = k >> 1, share / 2
    return found


def _script(generation: Generation) -> Iterator[tuple[float, Picture]]:
    from curate.generators import Picture

    small = generation.model_copy(
        update={
            "classes": SCRIPT_CLASSES,
            "instances": 4,
            "start_class": 0,
            "reference": Processes(processes=1),
        }
    )
    drawer = Drawer(_indexed(generation))
    stream = script_stream(small, 0)
    for record, _, _, pixels in stream.block(0, small.pictures):
        yield drawer.cost_of(record), Picture(pixels)


def _fit(cost: F64, cpu: F64) -> tuple[float, float]:
    """Constant and slope, neither below 0, by least squares of the relative error (dear pictures would decide alone otherwise)."""
    weight = 1 / np.maximum(cpu, 1e-6)
    matrix = np.stack([weight, cost * weight], axis=1)
    (constant, slope), *_ = np.linalg.lstsq(matrix, cpu * weight, rcond=None)
    if constant >= 0 and slope >= 0:
        scale = cpu.sum() / (constant * len(cpu) + slope * cost.sum())  # the sum decides what a set takes
        return float(constant * scale), float(slope * scale)
    return (0.0, float(cpu.sum() / max(cost.sum(), 1e-12))) if constant < 0 else (float(cpu.mean()), 0.0)


def _bytes(sink: str, pictures: int, each: float, blocks: int) -> float:
    if sink == "recipe":
        return 0.0
    extra = {"tar": TAR_BYTES, "parquet": ROW_BYTES}.get(sink, 0)
    return pictures * (each + extra) + (1024 * blocks if sink == "tar" else 0)


def _energy(cpu_seconds: float, wall_seconds: float) -> dict[str, Any] | None:
    """Joules by the rated power of this machine; None where it is not known."""
    power = rated_power() if os.environ.get("HEADWATER_METER", "auto") != "none" else None
    if power is None:
        return None
    joules = power.cpu_watts * cpu_seconds / (os.cpu_count() or 1) + power.ram_watts * wall_seconds
    return {
        "joules": joules,
        "kwh": joules / JOULES_PER_KWH,
        "quality": "modelled",
        "provider": power.provider,
    }
