"""One picture of a set, alone, as a Step: the file and how it came about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curate.generation import Generation
from headwater.errors import UsageError
from headwater.manifest import Counts
from headwater.steps import Outcome, Plan, RunOptions, Work, run_step

STEP = "make-picture"
VERSION = 1


def which(text: str) -> tuple[int, int]:
    """ "12/7" as (12, 7): the category's index and the instance. Raises UsageError."""
    left, slash, right = text.partition("/")
    if not (slash and left.isascii() and left.isdecimal() and right.isascii() and right.isdecimal()):
        raise UsageError(f"--picture {text}: write it as CLASS/INSTANCE, such as 12/7")
    return int(left), int(right)


def plan_picture(generation: Generation, category: int, instance: int, output: Path) -> Plan:
    """The Step that this picture is."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"-o {output}: one picture is written as a .png file")
    config: dict[str, Any] = {"picture": generation.drawn(), "category": category, "instance": instance}
    if generation.stream == "reference":  # there a picture follows from how many come before it
        config |= {"classes": generation.classes, "instances": generation.instances}
    return Plan(STEP, VERSION, config, [], output)


def run_picture(
    plan: Plan, generation: Generation, category: int, instance: int, options: RunOptions
) -> Outcome | None:
    """Draw it. Raises UsageError for a picture that is not in the set."""

    def work(job: Work) -> Counts:
        from blake3 import blake3

        from curate._png import Encoder
        from curate.drawing import make_picture

        drawn = make_picture(generation, category, instance)
        pixels = drawn.picture.pixels
        height, width = pixels.shape[:2]
        job.stage.write_bytes(Encoder(height, width, 3 if pixels.ndim == 3 else 1).encode(pixels))
        job.details |= {
            "pixels": blake3(memoryview(pixels)).hexdigest(),
            "things": len(drawn.picture.things),
            "near_empty": drawn.near_empty,
        }
        dropped = {"near-empty, drawn again": drawn.rejected} if drawn.rejected else {}
        return Counts(unit="pictures", read=1 + drawn.rejected, kept=1, dropped=dropped)

    return run_step(plan, work, options)
