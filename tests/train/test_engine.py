"""What watches open_clip's loop changes nothing in it, and keeps a true account of it."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headwater.clip_model import build
from headwater.errors import UsageError
from tests.train.kit import tiny_recipe
from train._record import Diverged, Recorder
from train.ledger import ShardInfo, merge, read_part
from train.loader import Seen
from train.recipe import parse_recipe
from train.runs import config_document

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip_train")

STEPS, BATCH = 6, 8
KEY = "a" * 64


def batch(number: int, size: int = BATCH) -> tuple[Any, Any, Seen]:
    """Random pictures and captions, the same for the same number."""
    random = torch.Generator().manual_seed(number)
    pictures = torch.randn(size, 3, 32, 32, generator=random)
    tokens = torch.randint(1, 40_000, (size, 12), generator=random)
    sample = np.arange(number * size, (number + 1) * size, dtype=np.int32)
    return pictures, tokens, Seen(np.zeros(size, np.int32), sample, [], 0, 0.01 * (number + 1))


def halves(items: list[tuple[Any, Any, Seen]]) -> list[tuple[Any, Any, Seen]]:
    """Each batch as two."""
    found = []
    for pictures, tokens, seen in items:
        for at in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
            found.append((pictures[at], tokens[at], Seen(seen.shard[at], seen.sample[at], [], 0, 0.0)))
    return found


@pytest.fixture(scope="module")
def start() -> Any:
    """A tiny model before its training; with the logit bias that a sigmoid loss needs."""
    document = config_document(parse_recipe(tiny_recipe(**{"loss.kind": "sigmoid"}), "test"))
    torch.manual_seed(5)
    return build(document["model_cfg"], document["preprocess_cfg"])[0]


def arguments(**changes: Any) -> SimpleNamespace:
    """What the loop reads of open_clip's arguments."""
    names: dict[str, Any] = {
        "device": "cpu",
        "precision": "fp32",
        "distill": False,
        "accum_freq": 1,
        "skip_scheduler": False,
        "grad_clip_norm": None,
        "horovod": False,
        "rank": 0,
        "local_rank": 0,
        "world_size": 1,
        "log_every_n_steps": 100,
        "log_local": False,
        "wandb": False,
        "batch_size": BATCH,
        "siglip": False,
        "local_loss": True,
        "gather_with_grad": True,
        "model": "tiny",
        "loss_dist_impl": None,
    }
    return SimpleNamespace(**{**names, **changes})


class Loop:
    """One part of a training: open_clip's loop over given batches, watched or not."""

    def __init__(self, model: Any, **changes: Any) -> None:
        from open_clip_train.main import create_loss
        from open_clip_train.scheduler import cosine_lr
        from torch.optim import AdamW

        # the loop's model gives a dict, which create_model asks for and a bare CLIP does not
        self.model = copy.deepcopy(model)
        self.model.output_dict = True
        self.args = arguments(**changes)
        self.loss = create_loss(self.args)
        self.optimizer = AdamW(
            self.model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2
        )
        self.scheduler = cosine_lr(self.optimizer, 1e-3, 2, 2 * STEPS)

    def run(self, items: list[Any], *, part: int = 0) -> dict[str, Any]:
        """Plain."""
        from open_clip_train.data import DataInfo
        from open_clip_train.train import train_one_epoch

        class Bare(list[Any]):
            num_batches, num_samples = len(items), BATCH * STEPS

        data = {"train": DataInfo(dataloader=Bare([item[:2] for item in items]))}
        torch.manual_seed(11)
        train_one_epoch(
            self.model, data, self.loss, part, self.optimizer, None, self.scheduler, None, self.args
        )
        return self.state()

    def watched(
        self, items: list[Any], *, part: int = 0, ema: Any = None, keep: bool = False
    ) -> dict[str, Any]:
        """As `headwater train` runs it, in the current folder."""
        from open_clip_train.data import DataInfo
        from open_clip_train.train import train_one_epoch

        from train._engine import LEDGER, STATES, Engine, _Watched

        Path(LEDGER).mkdir(exist_ok=True)
        STATES.mkdir(parents=True, exist_ok=True)
        job = {
            "run_key": KEY,
            "source": {"seed": 11},
            "batches_per_part": len(items),
            "global_batch": BATCH,
            "parts": 2,
            "keep": keep,
            "ema": ema,
            "placement": {"device": "cpu"},
        }
        engine = Engine(job, train_one_epoch)
        engine._part = SimpleNamespace(value=0)
        loader = _Watched(engine, items)
        loader.num_batches, loader.num_samples = len(items), BATCH * STEPS
        data = {"train": DataInfo(dataloader=loader)}
        loss = engine.watched(self.loss)
        engine.train_part(
            self.model,
            data,
            loss,
            part,
            self.optimizer,
            None,
            self.scheduler,
            None,
            self.args,
            tb_writer=None,
        )
        return self.state()

    def state(self) -> dict[str, Any]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    logging.getLogger().handlers.clear()
    return tmp_path


LOSSES = [{}, {"siglip": True}, {"accum_freq": 2}, {"grad_clip_norm": 1.0}]


@pytest.mark.parametrize("changes", LOSSES, ids=["softmax", "sigmoid", "accumulated", "clipped"])
def test_the_loop_is_what_it_is_without_us(changes: dict[str, Any], folder: Path, start: Any) -> None:
    items = [batch(number) for number in range(STEPS)]
    items = halves(items) if "accum_freq" in changes else items
    plain = Loop(start, **changes).run(items)
    watched = Loop(start, **changes).watched(items, ema={"decay": 0.9, "warmup": True}, keep=True)
    assert equal(plain, watched)
    assert not equal(plain, start.state_dict())


def test_the_account_is_that_of_the_loop(folder: Path, start: Any) -> None:
    items = [batch(number) for number in range(STEPS)]
    loop = Loop(start)
    values: list[float] = []
    inner = loop.loss.forward
    loop.loss.forward = lambda *a, **k: (values.append(sum(inner(*a, **k).values()).item()), inner(*a, **k))[
        1
    ]
    loop.watched(items)
    part = read_part(folder / "ledger" / "part_001_rank_000.npz")
    assert part.step.tolist() == list(range(1, STEPS + 1))
    assert part.loss.tolist() == values
    assert part.sample.tolist() == list(range(STEPS * BATCH)) and not part.shard.any()
    assert part.lr.tolist() == pytest.approx(
        [0.0005, 0.001, *(0.0005 * (1 + np.cos(np.pi * s / 10)) for s in range(4))], rel=1e-5
    )
    assert part.logit_scale[0] == pytest.approx(start.logit_scale.exp().item())
    assert part.worker_cpu_seconds == pytest.approx(0.06)  # what the loader had used up by its last batch


def test_skips_are_counted_each_time_and_named_once_each(folder: Path, start: Any) -> None:
    items = [batch(number) for number in range(STEPS)]
    items[2][2].skipped = [(0, 50, "undecodable"), (0, 51, "too_large")]
    items[4][2].skipped = [(0, 50, "undecodable")]
    Loop(start).watched(items)
    shard = ShardInfo("a.tar", 52, lambda: [f"key-{n}" for n in range(52)])
    ledger = merge(folder / "ledger", parts=1, world=1, shards=[shard], global_batch=BATCH)
    assert {name: n for name, n in ledger.skipped.items() if n} == {"undecodable": 2, "too_large": 1}
    assert {(one.shard, one.key, one.reason) for one in ledger.examples} == {
        ("a.tar", "key-50", "undecodable"),
        ("a.tar", "key-51", "too_large"),
    }
    assert (ledger.samples_seen, ledger.unique_samples, ledger.steps) == (48, 48, 6)


def test_accumulated_steps_have_the_loss_and_samples_of_whole_ones(folder: Path, start: Any) -> None:
    items = [batch(number) for number in range(STEPS)]
    whole = Loop(start).watched(items)
    first = read_part(folder / "ledger" / "part_001_rank_000.npz")
    parts = Loop(start, accum_freq=2).watched(halves(items))
    second = read_part(folder / "ledger" / "part_001_rank_000.npz")
    assert np.array_equal(first.sample, second.sample) and np.array_equal(first.step, second.step)
    assert second.loss == pytest.approx(first.loss, rel=1e-3)
    assert all(torch.allclose(whole[name], parts[name], atol=2e-3) for name in whole)
    assert not equal(whole, parts), "rounding differs, which is why the placement is part of a step's key"


def test_a_step_that_was_not_finished_is_not_in_the_account(tmp_path: Path) -> None:
    """The loop stops for an error between two batches of one step."""
    recorder = a_recorder(accumulation=2)
    flow = recorder.batches(halves([batch(0), batch(1)]))
    for _ in range(3):
        next(flow)
    recorder.loss(torch.tensor(2.0))
    recorder.loss(torch.tensor(4.0))
    recorder.step(1e-3, torch.tensor(14.0))
    part = read_part(recorder.write(tmp_path))
    assert part.samples == BATCH and part.loss.tolist() == [3.0]


def test_the_average_follows_every_step(folder: Path, start: Any) -> None:
    from headwater.weights import read_weights

    items = [batch(number) for number in range(STEPS)]
    expected = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    loop, each = Loop(start), []

    def note(*_: Any) -> None:
        each.append(loop.state())

    handle = loop.optimizer.register_step_post_hook(note)
    loop.run(items)
    handle.remove()
    for step, weights in enumerate(each, 1):
        now = min(0.8, (1 + step) / (10 + step))
        for name in expected:
            expected[name] = now * expected[name] + (1 - now) * weights[name]
    Loop(start).watched(items, ema={"decay": 0.8, "warmup": True})
    found = read_weights(Path("average/part_1.safetensors"))
    assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-7) for name in expected)
    assert not torch.allclose(found["logit_scale"], each[-1]["logit_scale"], rtol=0, atol=1e-5)


def test_weights_of_a_part_are_kept_when_the_recipe_or_the_end_asks(folder: Path, start: Any) -> None:
    items = [batch(0)]
    Loop(start).watched(items)
    assert not Path("weights").exists()
    Loop(start).watched(items, part=1)
    assert [path.name for path in Path("weights").iterdir()] == ["part_2.safetensors"]
    Loop(start).watched(items, keep=True)
    assert Path("weights/part_1.safetensors").is_file()


def a_recorder(**changes: Any) -> Recorder:
    names: dict[str, Any] = {
        "part": 1,
        "rank": 0,
        "world": 1,
        "accumulation": 1,
        "first_step": 0,
        "events": None,
    }
    return Recorder(run_key=KEY, **{**names, **changes})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_ends_the_training_at_its_step(value: float) -> None:
    recorder = a_recorder(first_step=40)
    recorder.loss(torch.tensor(2.5))
    recorder.step(1e-3, torch.tensor(14.0))
    recorder.loss(torch.tensor(value))
    with pytest.raises(Diverged, match=r"the loss is (nan|inf|-inf) at step 42 \(learning rate 0\.001\)"):
        recorder.step(1e-3, torch.tensor(14.0))


def test_a_loss_on_a_gpu_is_looked_at_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking waits for the GPU. Here the meta device stands for one: what is never looked at may lie there."""
    looks: list[int] = []
    monkeypatch.setattr(Recorder, "check", lambda self: looks.append(self._step))
    recorder = a_recorder()
    for _ in range(25):
        recorder.loss(torch.tensor(1.0, device="meta"))
        recorder.step(1e-3, torch.tensor(1.0))
    assert looks == [10, 20]
    monkeypatch.undo()
    late = a_recorder()
    late.loss(torch.tensor(float("nan")))
    monkeypatch.setattr(Recorder, "check", lambda self: None)
    late.step(1e-3, torch.tensor(1.0))
    monkeypatch.undo()
    with pytest.raises(Diverged, match="step 1 "):
        late.write(tmp_path)


def test_events_tell_how_far_the_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train._record

    monkeypatch.setattr(train._record, "EVENT_SECONDS", 0.0)
    recorder = a_recorder(events=tmp_path / "events", first_step=4, part=2, world=2)
    recorder.samples_before = 64
    for _ in recorder.batches([batch(0), batch(1), batch(2)]):
        recorder.loss(torch.tensor(2.0))
        recorder.step(1e-3, torch.tensor(14.0))
    told = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [event["step"] for event in told] == [5, 6, 7]
    assert [event["samples"] for event in told] == [64, 64 + 2 * BATCH, 64 + 4 * BATCH]
    assert {event["part"] for event in told} == {2}


def test_an_error_of_the_loader_comes_out_as_it_is() -> None:
    error = UsageError("shard 3: gone", hint="put it back")
    flow = a_recorder().batches([batch(0), error])
    next(flow)
    with pytest.raises(UsageError, match="shard 3: gone") as caught:
        next(flow)
    assert caught.value.hint == "put it back"
