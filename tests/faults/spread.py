"""The command, treating every pool as a large one: run files on disk, worker processes; shards slowed down on request.

python -P tests/faults/spread.py ARGUMENTS…      HEADWATER_TEST_SLOW=SECONDS each shard waits in each pass
"""

from __future__ import annotations

import os
import time

from curate import filtering, resharding, shardpass
from headwater.cli import main


def slow(task: shardpass.Task) -> shardpass.Result:
    """`run_pass`, later."""
    time.sleep(float(os.environ["HEADWATER_TEST_SLOW"]))
    return shardpass.run_pass(task)


filtering.LIGHT_ROWS = filtering.IN_MEMORY_ROWS = resharding.LIGHT_BYTES = 0
if "HEADWATER_TEST_SLOW" in os.environ:
    setattr(filtering, "run_pass", slow)  # noqa: B010 - mypy sees no such name there

if __name__ == "__main__":
    main()
