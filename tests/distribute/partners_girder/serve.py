"""Starts a real Girder 5 on loopback for a test: mongoeco, first data, `girder serve`; all ended with the block.

`HEADWATER_MONGO_PYTHON` names a Python >= 3.13 with mongoeco, `HEADWATER_GIRDER_PYTHON` one with girder. The database lives in
memory, so Girder may be killed and started again, mongoeco not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.distribute.partners import absent, free_port, running, until

HERE = Path(__file__).parent
PASSWORD = "only-for-this-test"
START_SECONDS = 60.0


def need_python(variable: str, module: str) -> Path:
    """The interpreter that an environment variable names, when it has `module`."""
    value = os.environ.get(variable)
    if not value or not Path(value).is_file():
        absent(f"{variable} names no Python with {module}")
    # a path inside a virtual environment is a link: resolving it would lose the environment
    if subprocess.run([value, "-c", f"import {module}"], capture_output=True).returncode:
        absent(f"{variable}: no module {module} there")
    return Path(value)


@dataclass
class Girder:
    """A server that runs."""

    python: Path
    port: int
    store: Path  # its files, by SHA-512
    mongo: str
    key: str
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"

    def start(self) -> None:
        """Start `girder serve`, and wait until it answers."""
        command = [self.python.with_name("girder"), "serve", "--mode", "production"]
        command += ["-H", "127.0.0.1", "-p", str(self.port), "-d", self.mongo]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
        until(self._answers, seconds=START_SECONDS, what="Girder answers")

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api}/system/version", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _environment() -> dict[str, str]:
    # it keeps 10 GiB of the disk free otherwise, and refuses uploads on a fuller one
    return os.environ | {"GIRDER_FILESYSTEMASSETSTORE_RESERVED_MBYTES": "1", "LOGLEVEL": "ERROR"}


@contextmanager
def real_girder(folder: Path) -> Iterator[Girder]:
    """A Girder whose files and log are in `folder`."""
    mongo_python = need_python("HEADWATER_MONGO_PYTHON", "mongoeco")
    python = need_python("HEADWATER_GIRDER_PYTHON", "girder")
    store = folder / "store"
    store.mkdir(parents=True)
    port = free_port()
    uri = f"mongodb://127.0.0.1:{port}/girder"
    ready = folder / "mongo.log"
    with (
        open(ready, "wb") as log,
        running([mongo_python, HERE / "mongo.py", str(port)], stdout=log, stderr=log) as mongo,
    ):
        until(lambda: mongo.poll() is not None or b"ready" in ready.read_bytes(), seconds=30, what="mongo")
        command = [python, HERE / "bootstrap.py", uri, store, "admin", PASSWORD]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=_environment())
        keys = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("api-key ")]
        assert keys, f"Girder's bootstrap failed:\n{done.stderr[-3000:]}"
        girder = Girder(python, free_port(), store, uri, keys[0], folder / "girder.log")
        try:
            girder.start()
            yield girder
        finally:
            girder.kill()
