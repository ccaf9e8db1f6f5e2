"""Linear probe: the minimum against Newton's method, the choice of decay, and clip-benchmark's training written out once more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.errors import IntegrityError, UsageError
from tests.train.eval_kit import COLOURS, ColourModel, colour_samples, colour_set, task, write_split
from train._probe import choose_decay, fit, fit_adamw, held_out
from train.evaldata import TaskData
from train.evals import family_of
from train.suite import Task

torch = pytest.importorskip("torch")


def toy(n: int = 120, dimensions: int = 4, classes: int = 3, seed: int = 0) -> tuple[Any, Any]:
    """Overlapping classes, far from the origin, unit rows: as features of pictures are."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    rows = rng.normal(size=(classes, dimensions))[labels] + rng.normal(size=(n, dimensions)) + 2
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def value_and_gradient(x: Any, y: Any, weights: Any, bias: Any, decay: float) -> tuple[float, Any, Any]:
    scores = x @ weights + bias
    scores -= scores.max(axis=1, keepdims=True)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = -np.log(shares[rows, y]).mean() + decay / 2 * (weights**2).sum()
    shares[rows, y] -= 1
    return float(loss), x.T @ shares / len(y) + decay * weights, shares.mean(axis=0)


def newton(x: Any, y: Any, classes: int, decay: float) -> tuple[Any, float]:
    """The minimum by Newton's method with the whole Hessian: weights (D+1) x C, loss."""
    rows = np.column_stack([x, np.ones(len(x))])
    size = rows.shape[1]
    theta = np.zeros((size, classes))
    penalty = np.diag([*[decay] * (size - 1), 0.0])
    for _ in range(50):
        scores = rows @ theta
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        wanted = np.eye(classes)[y]
        gradient = rows.T @ (shares - wanted) / len(y) + penalty @ theta
        hessian = np.zeros((size, classes, size, classes))
        for a in range(classes):
            for b in range(classes):
                curve = shares[:, a] * ((a == b) - shares[:, b])
                hessian[:, a, :, b] = (rows * curve[:, None]).T @ rows / len(y) + (penalty if a == b else 0)
        flat = hessian.reshape(size * classes, -1)
        step = np.linalg.lstsq(flat, gradient.ravel(), rcond=1e-12)[0].reshape(theta.shape)
        theta = theta - step
        if np.abs(step).max() < 1e-12:
            break
    return theta, value_and_gradient(x, y, theta[:-1], theta[-1], decay)[0]


@pytest.mark.parametrize("decay", [1e-1, 1e-3, 1e-5])
def test_the_minimum_is_newtons(decay: float) -> None:
    x, y = toy()
    theta, loss = newton(x, y, 3, decay)
    found = fit(x, y, decay, tolerance=1e-9)
    assert found.loss == pytest.approx(loss, abs=1e-12)
    assert found.weights == pytest.approx(theta[:-1], rel=1e-4, abs=1e-5)
    # a number added to all biases changes nothing
    assert found.bias - found.bias.mean() == pytest.approx(theta[-1] - theta[-1].mean(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("decay", [1e-1, 1e-4, 1e-8])
def test_the_gradient_is_zero_at_the_end(decay: float) -> None:
    x, y = toy(400, 16, 5)
    found = fit(x, y, decay)
    loss, of_weights, of_bias = value_and_gradient(x, y, found.weights, found.bias, decay)
    assert loss == pytest.approx(found.loss, rel=1e-9)
    assert max(np.abs(of_weights).max(), np.abs(of_bias).max()) < 5e-6
    for direction in (0.01, -0.01):  # and it is no saddle
        assert value_and_gradient(x, y, found.weights * (1 + direction), found.bias, decay)[0] >= loss


def test_where_it_starts_and_in_what_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = toy(300, 8, 4)
    found = fit(x, y, 1e-4, tolerance=1e-9)
    other = fit(x, y, 1e-4, start=fit(x, y, 1e-1), tolerance=1e-9)
    assert other.weights == pytest.approx(found.weights, rel=1e-3, abs=1e-4)
    assert np.array_equal(fit(x, y, 1e-4, tolerance=1e-9).weights, found.weights), "the same bits every time"
    monkeypatch.setattr("train._probe.ROWS", 70)
    assert fit(x, y, 1e-4, tolerance=1e-9).weights == pytest.approx(found.weights, rel=1e-3, abs=1e-4)


def test_shifted_features_give_the_same_answer() -> None:
    """The bias is free, so the decay does not depend on where the features lie."""
    x, y = toy()
    here, there = fit(x, y, 1e-3, tolerance=1e-9), fit(x + 5, y, 1e-3, tolerance=1e-9)
    assert there.weights == pytest.approx(here.weights, abs=1e-6)
    assert there.logits(x + 5, 3) == pytest.approx(here.logits(x, 3), abs=1e-5)


def test_a_class_without_examples_is_never_the_answer() -> None:
    x, y = toy(100, 4, 3)
    rest = y != 1
    found = fit(x[rest], y[rest], 1e-3)
    assert list(found.classes) == [0, 2]
    scores = found.logits(x, 3)
    assert np.isneginf(scores[:, 1]).all() and 1 not in scores.argmax(axis=1)


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 11, 5, 4])
    held = held_out(labels, seed=3)
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 2, 1, 0]
    assert np.array_equal(held, held_out(labels, seed=3))
    assert not np.array_equal(held, held_out(labels, seed=4))


def test_the_decay_is_the_best_on_what_was_held_out_and_of_equals_the_strongest() -> None:
    x, y = toy(400, 6, 3)
    decays = [10.0**-power for power in range(6)]
    chosen, accuracies = choose_decay(x, y, decays, seed=0)
    assert accuracies[chosen] == max(accuracies.values()) and set(accuracies) == set(decays)
    assert len(set(accuracies.values())) > 1, "the toy must tell decays apart"
    apart = np.array([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20)
    assert choose_decay(apart, np.repeat([0, 1], 20), [1e-1, 1e-3], seed=0)[0] == 1e-1


def clip_benchmark(x: Any, y: Any, *, rate: float, epochs: int, batch: int, decay: float, seed: int) -> Any:
    """Its training loop, from its description: torch's own Linear, DataLoader and AdamW."""
    data = torch.utils.data.TensorDataset(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y))
    loader = torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True)
    torch.manual_seed(seed)
    model = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    for epoch in range(epochs):
        for i, (rows, targets) in enumerate(loader):
            share = (i + epoch * len(loader)) / (epochs * len(loader))
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * (1 + np.cos(np.pi * share)) * rate
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(rows), targets).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize(("batch", "decay"), [(32, 0.0), (50, 0.1)])
def test_adamw_is_clip_benchmarks_to_the_last_bit(batch: int, decay: float) -> None:
    x, y = toy(150, 8, 4)
    wanted = clip_benchmark(x, y, rate=0.1, epochs=3, batch=batch, decay=decay, seed=7)
    state = torch.random.get_rng_state()
    found = fit_adamw(x, y, learning_rate=0.1, epochs=3, batch=batch, weight_decay=decay, seed=7)
    assert np.array_equal(found.weights.T, wanted.weight.detach().numpy())
    assert np.array_equal(found.bias, wanted.bias.detach().numpy())
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's random numbers are used up"


def measure(folder: Path, *, workers: int = 1, model: Any = None, **fields: Any) -> Any:
    declared = Task.model_validate(task("set", family="probe", **fields))
    family_of("probe").check(declared, folder)
    data = TaskData(declared, folder, workers=workers)
    result = family_of("probe").run(data, model or ColourModel(), seed=0, workers=workers)
    result.check()
    return result


@pytest.mark.parametrize("protocol", ["exact", "clip_benchmark"])
def test_colours_are_told_apart(tmp_path: Path, protocol: str) -> None:
    folder = colour_set(tmp_path / "set", n=18, train=60)
    result = measure(folder, options={"protocol": protocol}, size=18)
    assert result.main_metric == 1 and result.n == 18 and result.chance == pytest.approx(1 / 6)
    assert (
        result.metrics["acc5"] == result.metrics["mean_per_class_recall"] == result.metrics["train_acc1"] == 1
    )
    assert (result.metrics["held_out_acc1"] is None) == (protocol == "clip_benchmark")
    assert list(result.examples["label"]) == list(result.examples["predicted"])
    again = measure(folder, options={"protocol": protocol}, workers=2)
    assert again.metrics == result.metrics


def test_figures_follow_from_the_examples(tmp_path: Path) -> None:
    """A model that sees almost nothing but noise, so that there are mistakes."""

    class Dim(ColourModel):
        def encode_images(self, batch: Any) -> Any:
            rng = np.random.default_rng(0)
            clear = super().encode_images(batch)
            return self._unit(0.25 * clear + rng.normal(size=clear.shape)).astype(np.float32)

    folder = colour_set(tmp_path / "set", n=60, train=120)
    result = measure(folder, model=Dim(), main_metric="mean_per_class_recall")
    columns = {name: np.asarray(result.examples[name]) for name in ("label", "predicted", "correct", "rank")}
    assert 0.2 < result.metrics["acc1"] < 1
    assert np.array_equal(columns["label"] == columns["predicted"], columns["correct"])
    assert result.metrics["acc1"] == columns["correct"].mean()
    assert result.metrics["acc5"] == (columns["rank"] < 5).mean()
    recalls = [columns["correct"][columns["label"] == c].mean() for c in range(6)]
    assert result.main_metric == pytest.approx(np.mean(recalls)) and result.standard_error > 0
    assert "score" not in result.examples


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"options": {"protocol": "sklearn"}}, "no probe protocol"),
        ({"options": {"epochs": 3}}, "no option 'epochs'"),
        ({"options": {"decays": []}}, "list of numbers"),
        ({"options": {"decays": [0.1, -1]}}, "decays"),
        ({"options": {"protocol": "clip_benchmark", "epochs": 1.5}}, "epochs"),
        ({"options": {"protocol": "clip_benchmark", "batch": 0}}, "batch"),
        ({"options": {"protocol": "clip_benchmark", "learning_rate": float("inf")}}, "learning_rate"),
        ({"main_metric": "lp_acc1"}, "no metric"),
    ],
)
def test_options_are_refused_before_any_time_is_spent(
    tmp_path: Path, fields: dict[str, Any], word: str
) -> None:
    folder = colour_set(tmp_path / "set", train=12)
    with pytest.raises(UsageError, match=word):
        measure(folder, **fields)


def test_without_a_train_split_there_is_no_probe(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="train"):
        measure(colour_set(tmp_path / "set"))
    folder = colour_set(tmp_path / "other", train=12)
    key, members = colour_samples(1)[0]
    write_split(folder / "train", [(key, {**members, "cls": b"%d" % len(COLOURS)})], shards=1)
    (folder / "train" / "1.tar").unlink()
    with pytest.raises(IntegrityError, match="not below the number of classes"):
        measure(folder)
