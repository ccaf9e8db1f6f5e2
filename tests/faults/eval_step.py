"""An evaluation of the colour model in a process of its own, to be killed and started again by tests.

python -P tests/faults/eval_step.py SUITE OUT [--die-at TEXT] [--sleep SECONDS]      dies as it is asked to encode TEXT
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from headwater.options import Settings, common, run_command
from tests.train.eval_kit import ColourModel, subject
from train.evaluation import check_outcome, plan_eval, run_eval
from train.suite import load_suite


@click.command()
@click.argument("suite", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--die-at")
@click.option("--sleep", "sleep_seconds", type=float, default=0.0)
@common
def evaluate(
    settings: Settings, *, suite: Path, output: Path, die_at: str | None, sleep_seconds: float
) -> dict[str, Any]:
    """One evaluation."""

    class Model(ColourModel):
        def encode_texts(self, texts: list[str]) -> Any:
            if die_at is not None and die_at in texts:
                if not sleep_seconds:
                    os.kill(os.getpid(), signal.SIGKILL)
                sys.stderr.write("ready\n")
                sys.stderr.flush()
                time.sleep(sleep_seconds)
            return super().encode_texts(texts)

    plan = plan_eval(subject(Model()), load_suite(suite), output)
    outcome = run_eval(plan, settings.run_options(), workers=2)
    assert outcome is not None
    check_outcome(outcome, allow_invalid=False)
    return {"id": outcome.step.id}


if __name__ == "__main__":
    sys.exit(run_command(evaluate, sys.argv[1:]))
