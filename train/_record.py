"""What the training loop is watched by: which samples each step saw, its loss, and the time it waited for the loader.

`Recorder` sits between open_clip's loop and its loader, loss and optimizer. It never changes a number: with it and without it the
weights are the same.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import HeadwaterError
from train._ledger_part import MAX_SKIPPED_LISTED, SKIP_REASONS, PartLedger, write_part
from train.loader import Seen

EVENT_SECONDS = 0.3
CHECK_STEPS = 10  # a loss on a GPU is looked at this often: each look waits for the GPU


class Diverged(HeadwaterError):
    """The loss is no number any more."""


class Recorder:
    """The account of one part of a training on one rank."""

    def __init__(
        self,
        *,
        run_key: str,
        part: int,
        rank: int,
        world: int,
        accumulation: int,
        first_step: int,
        events: Path | None,
    ) -> None:
        self._names = {"run_key": run_key, "part": part, "rank": rank, "world": world}
        self._accumulation, self._step, self._world = accumulation, first_step, world
        self._events = events
        self._pending: list[Seen] = []
        self._seen: list[Seen] = []
        self._samples = 0  # in them
        self._losses: list[Any] = []  # of the current step
        self._steps: list[tuple[int, Any, float, Any]] = []  # step, loss, lr, logit scale
        self._checked = 0
        self._skips: Counter[str] = Counter()
        self._listed: list[tuple[int, int, str]] = []
        self._loader_cpu: dict[int, float] = {}
        self._wait = 0.0
        self._begun, self._cpu = time.monotonic(), time.process_time()
        self._told = 0.0
        self.samples_before = 0

    def batches(self, loader: Any) -> Iterator[tuple[Any, Any]]:
        """The loader's batches without their accounts, which are kept here."""
        flow = iter(loader)
        while True:
            before = time.monotonic()
            item = next(flow, None)
            self._wait += time.monotonic() - before
            if item is None:
                return
            if isinstance(item, HeadwaterError):  # the loader's
                raise item
            pictures, tokens, seen = item
            self._note(seen)
            yield pictures, tokens
            # the loop is back for more, so it is done with this one
            self._pending.append(seen)
            if len(self._pending) == self._accumulation:
                self._seen += self._pending
                self._samples += sum(len(one.shard) for one in self._pending)
                self._pending = []

    def _note(self, seen: Seen) -> None:
        self._loader_cpu[seen.loader] = seen.cpu_seconds
        for item in seen.skipped:
            self._skips[item[2]] += 1
            if len(self._listed) < MAX_SKIPPED_LISTED:
                self._listed.append(item)
        seen.skipped = []

    def loss(self, total: Any) -> None:
        """One value of the loss, still on its device."""
        self._losses.append(total.detach())

    def step(self, lr: float, logit_scale: Any) -> None:
        """One optimizer step is done."""
        import torch

        loss = torch.stack(self._losses).mean() if len(self._losses) > 1 else self._losses[0]
        self._losses = []
        self._step += 1
        self._steps.append((self._step, loss, lr, logit_scale.detach().clone()))
        if loss.device.type == "cpu" or self._step % CHECK_STEPS == 0:
            self.check()

    def check(self) -> None:
        """Raises Diverged when a loss since the last look is no number."""
        import torch

        late = self._steps[self._checked :]
        if not late:
            return
        values = torch.stack([loss for _, loss, _, _ in late]).float().cpu()
        self._checked = len(self._steps)
        bad = torch.nonzero(~torch.isfinite(values)).flatten().tolist()
        if bad:
            number, _, lr, _ = late[bad[0]]
            raise Diverged(
                f"the loss is {float(values[bad[0]])} at step {number:,} (learning rate {lr:.3g}): the training diverged",
                hint="a lower optim.lr, more schedule.warmup_steps or optim.grad_clip_norm=1.0 (--override) usually helps",
            )
        self._tell(float(values[-1]))

    def _tell(self, loss: float) -> None:
        now = time.monotonic()
        if self._events is None or now - self._told < EVENT_SECONDS:
            return
        self._told = now
        samples = self.samples_before + self._samples * self._world
        event = {"step": self._step, "samples": samples, "loss": round(loss, 4), "part": self._names["part"]}
        with open(self._events, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(event) + "\n")

    def write(self, folder: Path) -> Path:
        """The account of the finished part."""
        import torch

        self.check()
        empty = np.zeros(0, np.int32)
        losses = [step[1] for step in self._steps]
        scales = [step[3].reshape(()) for step in self._steps]
        cpu = time.process_time() - self._cpu
        loaders = sum(self._loader_cpu.values())
        codes = {name: code for code, name in enumerate(SKIP_REASONS)}
        ledger = PartLedger(
            **self._names,  # type: ignore[arg-type]
            shard=np.concatenate([s.shard for s in self._seen]) if self._seen else empty,
            sample=np.concatenate([s.sample for s in self._seen]) if self._seen else empty,
            step=np.array([s[0] for s in self._steps], np.int64),
            loss=torch.stack(losses).float().cpu().numpy() if losses else np.zeros(0, np.float32),
            lr=np.array([s[2] for s in self._steps], np.float32),
            logit_scale=torch.stack(scales).float().cpu().numpy() if scales else np.zeros(0, np.float32),
            skipped_reason=np.array([codes[name] for name in sorted(self._skips)], np.int16),
            skipped_count=np.array([self._skips[name] for name in sorted(self._skips)], np.int64),
            skipped_shard=np.array([item[0] for item in self._listed], np.int32),
            skipped_sample=np.array([item[1] for item in self._listed], np.int32),
            skipped_code=np.array([codes[item[2]] for item in self._listed], np.int16),
            wait_seconds=self._wait,
            part_seconds=time.monotonic() - self._begun,
            worker_cpu_seconds=loaders,
            cpu_seconds=cpu + loaders,
        )
        return write_part(folder, ledger)
