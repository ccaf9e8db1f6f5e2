"""The training process, seen from the command: started, followed, and ended with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from headwater import errors
from headwater.console import say, track
from headwater.errors import HeadwaterError
from train import _engine as engine
from train._record import Diverged
from train.arguments import Placement

LOG = "log.txt"
POLL_SECONDS = 0.2
KINDS: dict[str, type[HeadwaterError]] = {"Diverged": Diverged}
# what a launcher around us (SLURM, MPI, torchrun) tells its own processes: open_clip would take ranks and addresses from it
LAUNCHERS = ("SLURM_", "PMI_", "PMIX_", "OMPI_", "MPI_", "TORCHELASTIC_")
RANK_NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def run_child(folder: Path, placement: Placement, *, total_samples: int, samples_a_part: int) -> int:
    """Run the job in `folder` to its end; the parts that were there already when it began.

    Raises what the training process said, or HeadwaterError with its last words.
    """
    with open(folder / LOG, "ab") as log:
        before = log.tell()
        process = subprocess.Popen(
            _command(placement),
            cwd=folder,
            env=_environment(placement),
            stdin=subprocess.PIPE,  # never written to: it ends when this process does, and so does who reads it
            stdout=log,
            stderr=log,
            start_new_session=True,  # an interrupt of the terminal reaches it through us alone
        )
        try:
            start = _follow(process, folder / engine.EVENTS, total_samples, samples_a_part)
        except BaseException:
            _end(process)
            raise
        finally:
            assert process.stdin is not None
            process.stdin.close()
    if process.returncode:
        raise _failure(folder, process.returncode, before)
    return start


def _command(placement: Placement) -> list[str]:
    module = ["-m", "train._engine", engine.JOB]
    if placement.processes == 1:
        return [sys.executable, "-P", *module]
    launcher = ["-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(placement.processes)]
    # only this machine: the rendezvous is on the loopback address
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    return [sys.executable, "-P", *launcher, "--no-python", sys.executable, "-P", *module]


def _environment(placement: Placement) -> dict[str, str]:
    threads = str(placement.threads)
    root = str(Path(__file__).resolve().parent.parent)
    kept = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    outer = {k: v for k, v in os.environ.items() if k not in RANK_NAMES and not k.startswith(LAUNCHERS)}
    environment = {
        **outer,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # idle threads sleep: on a shared machine spinning costs several times the work
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "PYTHONPATH": os.pathsep.join([root, *kept]),
        "PYTHONUNBUFFERED": "1",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }
    if placement.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    environment.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch refuses to start with both
    return environment


def _follow(process: subprocess.Popen[bytes], events: Path, total: int, a_part: int) -> int:
    handle: IO[str] | None = None
    done = start = 0
    try:
        with track("train", total=total, unit="samples") as bar:
            while True:
                ended = process.poll() is not None
                if handle is None and events.exists():
                    handle = open(events, encoding="utf-8")  # noqa: SIM115 - closed below
                for line in handle or ():
                    event = _event(line)
                    if "told" in event:
                        say("warning", str(event["told"]))
                    if "start" in event:
                        start = event["start"]
                        event = {"samples": start * a_part}
                        if start:
                            say(
                                "info",
                                f"going on after part {start}, where an earlier attempt left its last checkpoint",
                            )
                    if event.get("samples", 0) > done:
                        note = (
                            f"step {event['step']:,}, loss {event['loss']:.3f}" if "step" in event else None
                        )
                        bar.add(event["samples"] - done, note)
                        done = event["samples"]
                if ended:
                    if process.returncode == 0:
                        bar.add(max(total - done, 0))
                    return start
                time.sleep(POLL_SECONDS)
    finally:
        if handle is not None:
            handle.close()


def _event(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}  # half a line: the next one has newer figures
    return found if isinstance(found, dict) else {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End all of it: the ranks and loaders, which torchrun puts into groups of their own, by closing what they read."""
    assert process.stdin is not None
    process.stdin.close()
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        break
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _failure(folder: Path, code: int, log_start: int) -> HeadwaterError:
    try:
        told = json.loads((folder / engine.FAILURE).read_bytes())
        kind = KINDS.get(told["kind"]) or getattr(errors, told["kind"], HeadwaterError)
        if not (isinstance(kind, type) and issubclass(kind, HeadwaterError)):
            kind = HeadwaterError
        return kind(str(told["message"]), hint=told["hint"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    last = _last_words(folder / LOG, log_start)
    if code < 0:
        name = signal.Signals(-code).name
        memory = "; out of memory?" if code == -signal.SIGKILL else ""
        return HeadwaterError(
            f"the training process was ended by {name}{memory}: {last}",
            hint="the same command line goes on after the last checkpoint",
        )
    return HeadwaterError(
        f"the training process ended with code {code}: {last}", hint=f"its log: {folder / LOG}"
    )


def _last_words(path: Path, start: int) -> str:
    """What was said of the cause in this attempt: a kill, the first error of a rank, the last error, or the last line."""
    try:
        with open(path, "rb") as log:
            log.seek(max(start, log.seek(0, os.SEEK_END) - 50_000))
            lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines()]
    except OSError:
        return "it said nothing"
    # torchrun reports after the ranks, and a rank that lost another complains after that one
    words = [line for line in lines if line and "torch.distributed.elastic" not in line]
    error = re.compile(r"(\[rank\d+\]:)?\s*([A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b.*)")
    said = [found for line in words if (found := error.match(line))]
    killed = [line for line in words if "Signal 9 (SIGKILL)" in line]
    ranked = [found[2] for found in said if found[1]]
    told = killed or ranked[:1] or [found[2] for found in said] or words or ["it said nothing"]
    return told[-1][:500]
