"""Catalogue rows 90 and 95: what Girder serves is not believed; keys and tokens stay where they are."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute.transports import _girder_api, girder
from distribute.transports._base import Refused, Wanted, WrongBytes
from headwater import console
from headwater.errors import HeadwaterError
from headwater.release import OpenRelease
from tests.distribute import girder_double
from tests.distribute.girder_kit import (
    PLACE,
    all_there,
    context,
    failing_girder,
    make_release,
    noise,
    send,
)
from tests.distribute.girder_state import Double, Fault

BIG = noise(1000)
CANARY = "canary"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with failing_girder(monkeypatch) as double:
        yield double


@pytest.fixture
def release(tmp_path: Path) -> OpenRelease:
    return make_release(tmp_path / "release", {"big.bin": BIG, "small.txt": b"small"})


def test_a_byte_that_rotted_is_served_without_a_word(
    server: Double, release: OpenRelease, tmp_path: Path
) -> None:
    """Why everything that is read must be checked: Girder says nothing."""
    done = send(server, release, tmp_path)
    assert done.location is not None
    server.public = True
    server.flip("demo/big.bin", 500)
    source = girder.open_source(done.location.url, context(tmp_path / "work"))
    entry = release.manifest.entries[0]
    got = b"".join(source.read(Wanted.of(entry), 0, 1000))
    assert got != BIG
    assert b"".join(source.read(Wanted.of(entry), 501, 499)) == BIG[501:]
    source.close()


@pytest.mark.parametrize(
    "page",
    [
        {"no": "list"},
        [{"_id": "../../x", "name": "a", "size": 1}],
        [{"_id": "0" * 24, "name": 3, "size": 1}],
        [{"_id": "0" * 24, "name": "manifest.json", "size": -1}],
        [{"_id": "0" * 24, "name": "manifest.json", "size": True}],
        [{"_id": "0" * 24, "name": "manifest.json", "size": 1 << 60}],
        [7],
        [{}] * 5000,
    ],
)
def test_listings_that_lie(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: object
) -> None:
    done = send(server, release, tmp_path)
    assert done.location is not None
    server.public = True
    monkeypatch.setattr(girder_double.Handler, "_page", lambda self, kind, **fields: page)
    source = girder.open_source(done.location.url, context(tmp_path / "work"))
    with pytest.raises(WrongBytes) as caught:
        source.release_file("manifest.json")
    assert caught.value.exit_code == 13
    source.close()


def test_a_listing_without_end(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = send(server, release, tmp_path)
    assert done.location is not None
    server.public = True
    monkeypatch.setattr(_girder_api, "MOST_ENTRIES", 5000)
    monkeypatch.setattr(
        girder_double.Handler,
        "_page",
        lambda self, kind, **fields: [{"_id": "0" * 24, "name": "x", "size": 1}] * 1000,
    )
    source = girder.open_source(done.location.url, context(tmp_path / "work"))
    with pytest.raises(WrongBytes, match="more than 5,000"):
        source.release_file("manifest.json")
    source.close()


# row 95: keys and tokens


def test_no_secret_comes_out_anywhere(
    server: Double, release: OpenRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server repeats key and token in what it says; nothing of it is in messages, tracebacks, journals or addresses."""
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    console.listen(console.choose(as_json=True, quiet=False, verbose=True))
    told = []
    for path, status in (("folder", 409), ("file", 400), ("file/chunk", 500), ("item/.*/metadata", 403)):
        message = f"bad {server.key} and {{token}} Girder-Token: {{token}} key={server.key}"
        method = "PUT" if "metadata" in path else "POST"
        server.faults[:] = [Fault(method, path, status=status, message=message, times=10**6)]
        with pytest.raises(HeadwaterError) as caught:
            send(server, release, tmp_path)
        told.append("".join(traceback.format_exception(caught.value)))
        told.append(f"{caught.value!r} {caught.value.message} {caught.value.hint} {vars(caught.value)}")
    server.faults[:] = [Fault("POST", "api_key/token", status=400, message=f"wrong {server.key}", times=9)]
    with pytest.raises(Refused) as refused:
        send(server, release, tmp_path)
    told.append("".join(traceback.format_exception(refused.value)))
    server.faults.clear()
    done = send(server, release, tmp_path)
    console.listen(console.Silent())
    told += [repr(done), heard.getvalue()]
    told += [path.read_text() for path in (tmp_path / "work").iterdir()]
    assert len(told) > 10
    assert not [text for text in told if CANARY in text]
    assert not [address for address in server.addresses if CANARY in address]


SCRIPT = """
import sys
from pathlib import Path
from distribute.transports import _girder_upload, girder
from headwater.console import choose, listen
from headwater.release import open_release
from tests.distribute.girder_kit import context
listen(choose(as_json=False, quiet=False, verbose=True))
_girder_upload.CHUNK_BYTES = 100
done = girder.publish(open_release(Path(sys.argv[1])), sys.argv[2], context(Path(sys.argv[3])), dry_run=False)
print(done)
"""


def test_killed_publish_goes_on_and_shows_nothing(
    server: Double, release: OpenRelease, tmp_path: Path
) -> None:
    """kill -9 in the middle of a file; its arguments and outputs hold no key, and the next run sends the rest."""
    hold = Fault("POST", "file/chunk", cut_after=100, skip=5, down_seconds=600)
    server.faults.append(hold)
    command = [sys.executable, "-c", SCRIPT, str(release.meta), server.place(PLACE), str(tmp_path / "work")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        end = time.monotonic() + 20
        while hold.times and time.monotonic() < end:
            time.sleep(0.01)
        assert not hold.times
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL
    work = "".join(path.read_text() for path in (tmp_path / "work").iterdir())
    assert CANARY not in f"{arguments!r}{out!r}{err!r}{work}"
    server.down_until = 0.0
    before = server.received_bytes
    send(server, release, tmp_path)
    all_there(server, release)
    assert server.received_bytes - before < 400 + 3000
