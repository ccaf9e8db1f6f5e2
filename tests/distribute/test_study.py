"""`headwater study` with real seeders, links and clients; small, and once killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from distribute.study import LinkSpec, StudyOptions, study
from distribute.study.payloads import make
from distribute.study.plan import order
from distribute.study.processes import LinkProcess, Seeder, Swarm, run_client, tail
from distribute.study.trial import differs, run_trial
from headwater.errors import HeadwaterError

COMMAND = """
import sys
from distribute.commands_study import study
from headwater.options import run_command
sys.exit(run_command(study, sys.argv[1:]))
"""
ROOT = Path(__file__).resolve().parents[2]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", COMMAND, *arguments]


def _environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HEADWATER_METER": "none", **extra}


def _children(pid: int) -> list[int]:
    """Processes below one, those of /proc that name it as parent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found


def _gone(pids: list[int], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() and "Z" != _state(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_client_is_measured_and_ended_at_the_cap(tmp_path: Path) -> None:
    done = run_client([sys.executable, "-c", "print(7)"], tmp_path, 30.0, {})
    assert (done.code, done.out) == (0, "7\n")
    assert done.usage.cpu_seconds > 0 and done.usage.peak_rss_bytes > 1 << 20
    capped = run_client([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, 0.5, {})
    assert (capped.code, capped.seconds) == (None, 0.5)
    failed = run_client([sys.executable, "-c", "import sys; sys.exit('no, because')"], tmp_path, 30.0, {})
    assert failed.code == 1 and tail(failed.err) == "no, because"


def test_words_of_a_program_that_failed() -> None:
    assert tail("") == "it said nothing"
    lines = [
        {"event": "progress", "done": 1},
        {"event": "error", "message": "first"},
        {"event": "x", "message": "last"},
    ]
    assert tail("\n".join(json.dumps(line) for line in lines)) == "first · last"
    assert len(tail("x" * 10_000)) == 400


def test_a_seeder_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="did not start.*no release here"):
        Seeder(tmp_path, tmp_path / "log", bittorrent=False)


def test_the_link_is_a_process_with_ports_and_counts() -> None:
    link = LinkProcess(None, 0.0, [[("127.0.0.1", 9)], [("127.0.0.1", 9), ("127.0.0.1", 10)]])
    try:
        assert [len(ports) for ports in link.ports] == [1, 2]
        assert [line["connections"] for line in link.report()] == [0, 0]
    finally:
        link.stop()
    with pytest.raises((HeadwaterError, ValueError)):
        link.report()


SMALL = StudyOptions(
    payloads=("one-archive",),
    methods=("http",),
    seeders=(1,),
    links=(LinkSpec(None, 0.0),),
    trials=1,
    size_bytes=200_000,
    cap_seconds=30.0,
)


@pytest.mark.slow
def test_one_trial_and_what_makes_it_fail(tmp_path: Path) -> None:
    payload = make("one-archive", tmp_path / "p", SMALL)
    (trial,) = order(SMALL)
    swarm = Swarm(payload.release, tmp_path, bittorrent=False)

    def run(name: str, **changed: Any) -> Any:
        import dataclasses

        folder = tmp_path / name
        folder.mkdir()
        return run_trial(trial, dataclasses.replace(payload, **changed), swarm, SMALL, folder, None)

    try:
        good = run("good")
        assert (good.status, good.reason, good.verified) == ("finished", "", True)
        assert good.manifest_id == payload.manifest_id
        assert good.link_down_bytes > 200_000 and 0 < good.overhead_share < 1 and good.connections >= 1
        assert 0 < good.discovery_seconds <= good.first_byte_seconds <= good.last_byte_seconds
        assert good.last_byte_seconds <= good.ended_seconds == good.observed_seconds
        assert good.client_cpu_seconds > 0 and good.seeders_peak_rss_bytes > 0
        assert differs(tmp_path / "good" / "out", payload) == ""
        with open(tmp_path / "good" / "out" / "archive.bin", "r+b") as handle:
            handle.seek(100_000)
            handle.write(b"!!")
        assert "archive.bin" in differs(tmp_path / "good" / "out", payload)
        assert "manifest" in run("other", manifest_id="0" * 64).reason
        past = run("past", sent_bytes=10**9)
        assert (past.status, past.finished, past.observed_seconds) == ("failed", False, 30.0)
        assert "past the link" in past.reason
    finally:
        swarm.stop()


@pytest.mark.slow
def test_a_method_that_cannot_run_is_a_result(tmp_path: Path) -> None:
    """Without libtorrent: its trials failed with the reason, the others finished, and the study ends with 0."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "libtorrent.py").write_text("raise ImportError('not here')\n")
    out = tmp_path / "out"
    done = subprocess.run(
        _command(
            *("-o", str(out), "--json", "--payload", "one-archive", "--size", "200kB", "--trials", "2"),
            *(
                "--seeders",
                "1",
                "--rate",
                "none",
                "--rtt",
                "0",
                "--methods",
                "http,bittorrent",
                "--cap",
                "30",
            ),
        ),
        env={**_environment(), "PYTHONPATH": f"{shadow}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    http, bittorrent = told["cells"]
    assert (http["finished"], bittorrent["finished"], told["trials"]) == (2, 0, 4)
    assert "libtorrent" in next(iter(bittorrent["reasons"]))
    assert bittorrent["median_seconds"] is None
    assert "libtorrent" in (out / "study.html").read_text()


@pytest.mark.slow
def test_a_folder_of_the_users_an_update_and_a_cold_cache(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "a.txt").write_text("hello\n")
    (mine / "sub" / "b.bin").write_bytes(os.urandom(300_000))
    out = tmp_path / "out"
    done = subprocess.run(
        _command(
            *("-o", str(out), "--json", "--dataset", str(mine), "--payload", "update,annotation"),
            *("--size", "200kB", "--trials", "1", "--seeders", "1", "--rate", "none", "--rtt", "0"),
            *("--methods", "http,ipfs", "--cache", "warm,cold", "--cap", "30"),
        ),
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["trials"], told["finished"], told["verified"]) == (12, 12, 12)
    facts = {payload["name"]: payload for payload in told["payloads"]}
    assert (facts["dataset"]["files"], facts["dataset"]["sent_bytes"]) == (2, 300_006)
    assert facts["update"]["has_parent"] and facts["update"]["sent_bytes"] == 200_000 // 42
    rows = pq.read_table(out / "trials.parquet").to_pylist()
    small = [row for row in rows if row["payload"] in ("update", "annotation") and row["method"] == "ipfs"]
    assert small and all(row["link_down_bytes"] < 50_000 for row in small)  # the parent was not sent again
    assert {row["cache"] for row in rows} == {"warm", "cold"}
    # nothing was written into the user's folder, not even a cache of digests
    assert sorted(path.name for path in mine.rglob("*")) == ["a.txt", "b.bin", "sub"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_in_the_middle_it_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    """2 methods x 2 numbers of seeders x 2 links x 2 trials, at 4 MB; kill -9 after some trials."""
    pytest.importorskip("libtorrent")
    out = tmp_path / "out"
    command = _command(
        *(
            "-o",
            str(out),
            "--json",
            "--payload",
            "few-large",
            "--size",
            "4MB",
            "--trials",
            "2",
            "--seed",
            "3",
        ),
        *("--methods", "http,bittorrent", "--seeders", "1,2", "--pairs", "none/0,100mbit/20", "--cap", "60"),
    )
    kept = tmp_path / ".out.headwater" / "parts" / "trials"
    first = subprocess.Popen(
        command, env=_environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 100
        while len(list(kept.glob("*.json"))) < 5:
            assert first.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        below = _children(first.pid)
        assert below  # seeders, at least
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert _gone(below), "a killed study leaves no process behind"
    finally:
        if first.poll() is None:
            first.kill()
            first.wait()
    before = {path.name: path.read_bytes() for path in kept.glob("*.json")}
    assert 5 <= len(before) < 16 and not out.exists()

    done = subprocess.run(
        command, env=_environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["trials"], told["finished"], told["verified"], len(told["cells"])) == (16, 16, 16, 8)
    rows = pq.read_table(out / "trials.parquet").to_pylist()
    assert [row["position"] for row in rows] == list(range(1, 17))
    by_start = {row["started_at"]: row for row in rows}
    for raw in before.values():  # kept as they were, not run again
        assert by_start[json.loads(raw)["started_at"]] == json.loads(raw)
    document = json.loads((out / "study.json").read_bytes())
    assert [session["trials_before"] for session in document["sessions"]] == [0, len(before)]
    assert document["format"] == "study/1" and document["options"]["seed"] == 3
    step = json.loads((out / "step.json").read_bytes())
    assert step["identity"]["counts"]["kept"] == 16
    assert sorted(path.name for path in out.iterdir()) == [
        "step.json",
        "study.html",
        "study.json",
        "trials.parquet",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    for row in rows:
        assert row["link_down_bytes"] > row["payload_bytes"] == 4_000_000
        if row[
            "rate_bits_per_second"
        ]:  # the lines cannot be faster than they are, but for the bucket's depth
            took = row["last_byte_seconds"] - row["discovery_seconds"]
            assert took >= 4e6 * 8 / 1e8 / row["seeders"] - 0.021
    # the same options, order and payloads in a study of its own: only what was measured differs
    again = study(out, StudyOptions(**_same(document)))
    assert again["cached"] and again["order_id"] == told["order_id"]


def _same(document: dict[str, Any]) -> dict[str, Any]:
    options = document["options"]
    links = tuple(LinkSpec(link["rate_bits_per_second"], link["rtt_seconds"]) for link in options["links"])
    return {
        "payloads": tuple(options["payloads"]),
        "methods": tuple(options["methods"]),
        "seeders": tuple(options["seeders"]),
        "links": links,
        "trials": options["trials"],
        "size_bytes": options["size_bytes"],
        "cap_seconds": options["cap_seconds"],
        "seed": options["seed"],
    }
