"""A command with one tiny step, to be killed, starved and interrupted by tests.

python -P tests/faults/tiny_step.py OUT [--kind folder] [--text TEXT] [--sleep SECONDS] [--resumable] [--size BYTES]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from headwater.files import atomic_file
from headwater.manifest import Counts, InputRef
from headwater.options import Settings, common, run_command
from headwater.steps import Plan, Work, run_step

PARTS = 3


def content(text: str, size_bytes: int) -> bytes:
    """What the output holds."""
    return b"".join(f"{n}:{text}\n".encode() for n in range(PARTS)) + b"." * size_bytes


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["file", "folder"]), default="file")
@click.option("--text", default="a")
@click.option("--sleep", "sleep_seconds", type=float, default=0.0)
@click.option("--resumable", is_flag=True)
@click.option("--size", "size_bytes", type=int, default=0)
@common
def tiny(
    settings: Settings,
    *,
    output: Path,
    kind: Any,
    text: str,
    sleep_seconds: float,
    resumable: bool,
    size_bytes: int,
) -> dict[str, Any] | None:
    """One step in three parts."""
    plan = Plan(
        step="tiny",
        version=1,
        config={"text": text, "size_bytes": size_bytes},
        inputs=[InputRef(role="pool", id="0" * 64)],
        output=output,
        kind=kind,
        resumable=resumable,
    )

    def work(job: Work) -> Counts:
        for number in range(PARTS):
            part = job.parts / str(number)
            if not part.exists():
                with atomic_file(part) as handle:
                    handle.write(f"{number}:{text}\n".encode())
            if sleep_seconds:
                print("part", number, flush=True)
                end = time.monotonic() + sleep_seconds
                while time.monotonic() < end:
                    time.sleep(0.05)  # a signal that arrives on the way into a sleep is only seen at its end
        data = b"".join((job.parts / str(number)).read_bytes() for number in range(PARTS)) + b"." * size_bytes
        if kind == "folder":
            (job.stage / "sub").mkdir()
            (job.stage / "a").write_bytes(data)
            (job.stage / "sub" / "b").write_bytes(data)
        else:
            job.stage.write_bytes(data)
        return Counts(read=PARTS, kept=PARTS)

    outcome = run_step(plan, work, settings.run_options())
    if outcome is None:
        return None
    return {"id": outcome.step.id, "cached": outcome.cached, "text": outcome.step.id}


if __name__ == "__main__":
    sys.exit(run_command(tiny, sys.argv[1:]))
