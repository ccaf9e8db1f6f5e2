"""Every generator draws the same pixels, masks and files whatever the machine code: for this processor, for the plainest, and for none.

"None" is Python itself: kernels that are not compiled, with NumPy's own whole numbers. What is left out there is said by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import hashlib, sys, warnings
import numpy as np
from curate.drawing import Drawer
from curate.make_request import MakeRequest, resolve
from headwater import plugins
warnings.simplefilter("ignore")  # of whole numbers that wrap around, which are meant to
compiled = sys.argv[1] == "compiled"
small = {"vertex_num_max": 30, "line_num_max": 6, "vertex_num": 12, "image_size": 40, "start_pos": 20, "iteration": 3000}
for name in [p.name for p in plugins.family_members("generators")]:
    module = plugins.load("generators", name)
    fields = set(module.Config.__dataclass_fields__)
    values = {key: value for key, value in small.items() if key in fields}
    if name == "visualatom":
        values["vertex_num_min"] = 5
    if name == "scenes":
        values["image_size"] = 64
    drawer = Drawer(resolve(MakeRequest(name, classes=2, instances=2, seed=5, parameters=values)))
    found = hashlib.sha256()
    for row, instance in ((0, 0), (1, 0), (1, 1)):
        picture = drawer.draw(row, instance).picture
        found.update(picture.pixels.tobytes())
        if picture.labels is not None:
            found.update(picture.labels.tobytes())
        for thing in picture.things:
            found.update(repr((thing.box, [p.tolist() for p in thing.polygons])).encode())
        if compiled:
            from curate._png import Encoder
            found.update(Encoder(*picture.pixels.shape).encode(picture.pixels))
    print(name, picture.pixels.shape[0], found.hexdigest())
"""


def digests(how: str, **settings: str) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_plainest_processor_draws_and_writes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    plainest = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_LOOP_VECTORIZE": "0"}
    here = digests("compiled")
    assert len(here) >= 5
    assert digests("compiled", NUMBA_CACHE_DIR=str(tmp_path), **plainest) == here


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_python_itself_draws_the_same() -> None:
    """Files are left out: the encoder's kernel reads several bytes at once, which Python cannot say."""
    pytest.importorskip("numba")
    assert digests("plain", NUMBA_DISABLE_JIT="1") == digests("plain")
