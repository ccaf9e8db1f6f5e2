"""The training process: open_clip's own loop, started by `headwater train` as `python -P -m train._engine JOB.json`.

Everything that touches open_clip's internals is here. Its `main` is called with a list of arguments; four of its names are replaced:
the loader (ours reads by offset and accounts for every sample), the loop of one part (wrapped: seeds, account, average, weights),
the loss (wrapped: every value is looked at) and, on CPUs, DistributedDataParallel (which must not get a device there).
The working folder is the job's: all paths are relative, since open_clip looks for words such as "vit" and "coca" in them.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from headwater.errors import HeadwaterError
from headwater.files import write_json

JOB = "job.json"
FAILURE = "failure.json"
EVENTS = "events.jsonl"
MODEL = "model"
LEDGER = "ledger"
WEIGHTS = "weights"
AVERAGE = "average"
LOGS = "logs"
NAME = "run"
STATES = Path(LOGS, NAME, "checkpoints")  # where open_clip keeps them


def main(path: str) -> int:
    """Run the job; the exit code is 0, or 1 with FAILURE beside the job saying why."""
    job = json.loads(Path(path).read_bytes())
    _watch_command()
    rank = int(os.environ.get("RANK", "0"))
    lock = open(f"engine-{rank}.lock", "wb")  # noqa: SIM115 - held until the process ends
    _lock(lock)
    try:
        _run(job)
    except HeadwaterError as error:
        write_json(
            Path(FAILURE), {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        )
        return 1
    return 0


def _run(job: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(int(job["placement"]["threads"]))
    from open_clip_train import main as target

    engine = Engine(job, target.train_one_epoch)
    _patch(target, engine)
    # rank 0 alone looks for the state to go on from, and tells the others
    if int(os.environ.get("RANK", "0")) == 0:
        _choose_state(job)
    code = target.main(list(job["arguments"]))
    if code:
        raise HeadwaterError(f"open_clip's main returned {code}", hint="its own words are in the log")


def _choose_state(job: dict[str, Any]) -> None:
    from train._checkpoint import Needed, choose

    needed = Needed(
        ledger=Path(LEDGER),
        run_key=job["run_key"],
        parts=int(job["parts"]),
        processes=int(job["placement"]["processes"]),
        weights=Path(WEIGHTS),
        kept=Path(WEIGHTS) if job["keep"] else None,
        average=Path(AVERAGE) if job["ema"] is not None else None,
    )
    for words in choose(STATES, needed):
        _tell({"told": words})


def _tell(event: dict[str, Any]) -> None:
    with open(EVENTS, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(event) + "\n")


def _patch(target: Any, engine: Engine) -> None:
    import torch

    make_loss = target.create_loss
    target.get_data = engine.get_data
    target.train_one_epoch = engine.train_part
    target.create_loss = lambda args: engine.watched(make_loss(args))
    if engine.job["placement"]["device"] != "cpu":
        return
    plain = torch.nn.parallel.DistributedDataParallel

    class OnCpu(plain):  # type: ignore[misc, valid-type]
        """Without the device that open_clip hands on: on a CPU there is none to name."""

        def __init__(self, module: Any, device_ids: Any = None, **others: Any) -> None:
            super().__init__(module, **others)

    torch.nn.parallel.DistributedDataParallel = OnCpu  # type: ignore[assignment,misc]


class Engine:
    """The replaced names, and what they share."""

    def __init__(self, job: dict[str, Any], loop: Any) -> None:
        self.job = job
        self._loop = loop
        self._recorder: Any = None
        self._part: Any = None
        self._average: Any = None
        self._after_loss: Any = None
        self._calls = 0

    def get_data(self, args: Any, transforms: Any, epoch: int = 0, tokenizer: Any = None) -> dict[str, Any]:
        """Our loader in the shape that open_clip's loop expects."""
        import multiprocessing

        from open_clip_train.data import DataInfo
        from torch.utils.data import DataLoader

        from train.loader import Batches, Source, dataset

        job = self.job
        if args.rank == 0:
            _tell({"start": epoch})
        self._part = multiprocessing.Value("q", epoch)
        batches = Batches(
            Source(**job["source"]),
            batches=int(job["batches_per_part"]),
            batch_size=int(job["placement"]["micro_batch"]),
            rank=args.rank,
            processes=args.world_size,
            part=self._part,
            transform=transforms[0],
            tokenize=tokenizer,
        )
        workers = int(job["loader_processes"])
        loader = DataLoader(
            dataset(batches),
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers else None,  # Python 3.14 has another default
        )
        watched = _Watched(self, loader)
        watched.num_batches = int(job["batches_per_part"])
        watched.num_samples = watched.num_batches * int(job["placement"]["micro_batch"]) * args.world_size
        return {"train": DataInfo(dataloader=watched)}

    def train_part(
        self,
        model: Any,
        data: Any,
        loss: Any,
        epoch: int,
        optimizer: Any,
        scaler: Any,
        scheduler: Any,
        *rest: Any,
        **named: Any,
    ) -> None:
        """One part of the budget: open_clip's loop, seeded by seed, part and rank, with its account written at the end."""
        import torch

        from train._checkpoint import keep_previous
        from train._record import Recorder
        from train.order import derived_seed

        args = rest[1]
        self._part.value = epoch
        torch.manual_seed(derived_seed(self.job["source"]["seed"], epoch, args.rank, "loop"))
        bare = getattr(model, "module", model)
        steps = int(self.job["batches_per_part"]) // args.accum_freq
        self._recorder = Recorder(
            run_key=self.job["run_key"],
            part=epoch + 1,
            rank=args.rank,
            world=args.world_size,
            accumulation=args.accum_freq,
            first_step=steps * epoch,
            events=Path(EVENTS) if args.rank == 0 else None,
        )
        self._recorder.samples_before = epoch * steps * int(self.job["global_batch"])
        average = self._ready_average(bare, epoch) if args.rank == 0 else None
        done = steps * epoch

        def after_step(*_: Any) -> None:
            nonlocal done
            done += 1
            if average is not None:
                average.update(bare, done)

        handle = optimizer.register_step_post_hook(after_step)
        self._after_loss = (optimizer, bare, args.accum_freq)
        try:
            self._loop(model, data, loss, epoch, optimizer, scaler, scheduler, *rest, **named)
        finally:
            handle.remove()
        if args.rank == 0:
            self._keep(bare, epoch + 1, average)
        self._recorder.write(Path(LEDGER))
        if args.rank == 0:
            keep_previous(STATES)

    def watched(self, loss: Any) -> Any:
        """The loss with every value noted."""
        import torch

        engine = self

        class Watched(torch.nn.Module):
            """Gives what the loss gives."""

            def __init__(self) -> None:
                super().__init__()
                self.inner = loss

            def forward(self, *values: Any, **named: Any) -> Any:
                found = self.inner(*values, **named)
                engine.note_loss(sum(found.values()) if isinstance(found, dict) else found)
                return found

        return Watched()

    def note_loss(self, total: Any) -> None:
        """One value; with accumulation the mean of a step's values counts."""
        recorder, (optimizer, bare, accumulation) = self._recorder, self._after_loss
        recorder.loss(total)
        self._calls += 1
        if self._calls % accumulation == 0:
            recorder.step(optimizer.param_groups[0]["lr"], bare.logit_scale.exp())

    def batches(self, loader: Any) -> Any:
        """Called by the loop for each part."""
        return self._recorder.batches(loader)

    def _ready_average(self, bare: Any, epoch: int) -> Any:
        if self.job["ema"] is None:
            return None
        from train._average import Average

        if self._average is None:
            kept = Path(AVERAGE) / f"part_{epoch}.safetensors"
            self._average = Average(bare, kept if epoch else None, **self.job["ema"])
        return self._average

    def _keep(self, bare: Any, part: int, average: Any) -> None:
        """Weights of this part, as far as the recipe or the end needs them; before open_clip's own checkpoint."""
        from headwater.weights import write_weights

        last = part == int(self.job["parts"])
        if self.job["keep"] or last:
            Path(WEIGHTS).mkdir(exist_ok=True)
            write_weights(bare.state_dict(), Path(WEIGHTS) / f"part_{part}.safetensors")
        if average is not None:
            Path(AVERAGE).mkdir(exist_ok=True)
            write_weights(average.tensors, Path(AVERAGE) / f"part_{part}.safetensors")


class _Watched:
    """A loader whose accounts go to the recorder of the part."""

    num_batches: int
    num_samples: int

    def __init__(self, engine: Engine, loader: Any) -> None:
        self._engine, self._loader = engine, loader

    def __iter__(self) -> Any:
        return self._engine.batches(self._loader)


def _lock(handle: Any) -> None:
    """One process a rank: one that outlives a killed command is waited for, for the moment that its end takes."""
    for _ in range(300):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("another training process still runs in this folder")


def _watch_command() -> None:
    """End with the command that started the training, also when that one was killed: it alone holds the other end of our input."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # with the loaders
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
