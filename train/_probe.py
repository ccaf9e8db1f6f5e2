"""Multinomial logistic regression on features: one convex problem solved to its minimum, or clip-benchmark's short
training.

`fit` minimises  mean cross-entropy + decay / 2 * |W|^2  (the bias is free) in float64 by L-BFGS over all rows at once:
no learning rate, no batches, no luck; the same input gives the same answer. `fit_adamw` repeats the arithmetic of
clip-benchmark 1.6.2's linear probe (AdamW, batches, cosine), to compare figures with it and for nothing else. Rows are
used as they come (image features: L2-normalised, not standardised).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROWS = 16_384  # rows at once: bounds the table of logits, and fixes the order of the sum
MEMORY = 12  # pairs of steps that L-BFGS remembers
TOLERANCE = 1e-6  # largest component of the gradient at which the minimum is reached
MOST_STEPS = 1_000
HELD_OUT = 5  # one in five training examples chooses the decay


@dataclass(frozen=True)
class Linear:
    """Logits are `features @ weights + bias`. `classes` names the columns; a class without training examples has none."""

    weights: Floats  # D x C
    bias: Floats  # C
    classes: NDArray[np.int64]  # C
    loss: float  # of the whole objective, over the rows it was fitted on
    gradient: float  # largest component at the end
    steps: int

    def logits(self, features: NDArray[np.floating[Any]], count: int) -> Floats:
        """N x `count`; classes that were never seen get a score below all others."""
        scores = np.asarray(features, np.float64) @ self.weights + self.bias
        full = np.full((len(scores), count), -np.inf)
        full[:, self.classes] = scores
        return full


def fit(
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    decay: float,
    *,
    start: Linear | None = None,
    device: str = "cpu",
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
) -> Linear:
    """The minimum over all rows (N x D, N labels); `start` is where to begin, such as the answer for a stronger decay."""
    import torch

    classes, targets = np.unique(np.asarray(labels, np.int64), return_inverse=True)
    rows = np.asarray(features, np.float64)
    # Centred rows move the minimum only into the bias, which is free, and take far fewer steps.
    centre = rows.mean(axis=0)
    inputs = torch.from_numpy(np.column_stack([rows - centre, np.ones(len(rows))])).to(device)
    objective = _Objective(inputs, torch.from_numpy(targets).to(device), len(classes), decay)
    begin = np.zeros((inputs.shape[1], len(classes)))
    if start is not None and np.array_equal(start.classes, classes):
        begin = np.vstack([start.weights, start.bias + centre @ start.weights])
    theta, loss, gradient, steps = _lbfgs(
        objective, torch.from_numpy(begin).to(device), tolerance, most_steps
    )
    found = theta.cpu().numpy()
    weights = found[:-1]
    return Linear(weights, found[-1] - centre @ weights, classes, loss, gradient, steps)


def choose_decay(
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    decays: Sequence[float],
    *,
    seed: int,
    device: str = "cpu",
) -> tuple[float, dict[float, float]]:
    """The decay with the best accuracy on a held-out fifth, and that accuracy for each; of equals the strongest."""
    held = held_out(labels, seed=seed)
    kept, wanted = ~held, np.asarray(labels)[held]
    count = int(np.max(labels)) + 1
    accuracies: dict[float, float] = {}
    model: Linear | None = None
    for decay in sorted(decays, reverse=True):  # strong first: each answer is a good start for the next
        model = fit(features[kept], labels[kept], decay, start=model, device=device)
        guesses = model.logits(features[held], count).argmax(axis=1)
        accuracies[decay] = float((guesses == wanted).mean()) if len(wanted) else 0.0
    return max(accuracies, key=lambda decay: (accuracies[decay], decay)), accuracies


def held_out(labels: NDArray[np.integer[Any]], *, seed: int) -> NDArray[np.bool_]:
    """True for a fifth of each class, rounded down: a class of fewer than five stays whole."""
    rng = np.random.Generator(np.random.PCG64(seed))
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        chosen[rng.permutation(places)[: len(places) // HELD_OUT]] = True
    return chosen


def fit_adamw(
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    *,
    learning_rate: float,
    epochs: int,
    batch: int,
    weight_decay: float,
    seed: int,
    device: str = "cpu",
) -> Linear:
    """clip-benchmark 1.6.2's training: AdamW, the rate falling with a cosine from the first batch on, float32.

    Start values and the order of rows are drawn as torch's Linear and DataLoader draw them after `manual_seed(seed)`, so
    on the CPU the same rows in the same order give the same weights. The program itself shuffles the rows once before
    that, by what its random numbers have come to, and on a GPU computes in half precision: there, figures agree within
    its own noise.
    """
    import torch

    count = int(np.max(labels)) + 1
    x = torch.from_numpy(np.ascontiguousarray(features, np.float32))
    y = torch.from_numpy(np.asarray(labels, np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(x.shape[1], count).to(device)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=learning_rate, weight_decay=weight_decay)
        starts = range(0, len(x), batch)
        total, done, last = epochs * len(starts), 0, 0.0
        for _ in range(epochs):
            torch.empty((), dtype=torch.int64).random_()  # the seed a DataLoader keeps for its workers
            shuffle = torch.Generator()
            shuffle.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
            order = torch.randperm(len(x), generator=shuffle)
            for first in starts:
                rows = order[first : first + batch]
                for group in optimizer.param_groups:
                    group["lr"] = 0.5 * (1 + np.cos(np.pi * done / total)) * learning_rate
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(layer(x[rows].to(device)), y[rows].to(device))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                done, last = done + 1, float(loss.detach())
    weights = layer.weight.detach().cpu().numpy().astype(np.float64).T
    bias = layer.bias.detach().cpu().numpy().astype(np.float64)
    return Linear(weights, bias, np.arange(count, dtype=np.int64), last, float("nan"), done)


class _Objective:
    """Value and gradient of the regularised cross-entropy; the last row of theta is the bias."""

    def __init__(self, inputs: Any, targets: Any, classes: int, decay: float) -> None:
        self._inputs, self._targets, self._classes, self._decay = inputs, targets, classes, decay

    def __call__(self, theta: Any) -> tuple[float, Any]:
        import torch

        count = len(self._inputs)
        gradient = torch.zeros_like(theta)
        loss = torch.zeros((), dtype=theta.dtype, device=theta.device)
        for first in range(0, count, ROWS):
            x, y = self._inputs[first : first + ROWS], self._targets[first : first + ROWS]
            scores = x @ theta
            norm = torch.logsumexp(scores, dim=1)
            loss += (norm - scores.gather(1, y[:, None])[:, 0]).sum()
            shares = torch.exp(scores - norm[:, None])
            shares[torch.arange(len(y), device=y.device), y] -= 1
            gradient += x.T @ shares
        weights = theta[:-1]
        gradient = gradient / count
        gradient[:-1] += self._decay * weights
        return float(loss / count + 0.5 * self._decay * (weights * weights).sum()), gradient


def _lbfgs(
    objective: _Objective, theta: Any, tolerance: float, most_steps: int
) -> tuple[Any, float, float, int]:
    """Nocedal and Wright, Numerical Optimization, algorithms 7.4 and 7.5; steps meet the weak Wolfe conditions."""
    loss, gradient = objective(theta)
    pairs: list[tuple[Any, Any, float]] = []
    step = 0
    while step < most_steps and float(gradient.abs().max()) > tolerance:
        direction = -_times_inverse_hessian(gradient, pairs)
        slope = float((gradient * direction).sum())
        if slope >= 0:  # only rounding does that: forget the curvature, go straight down
            pairs, direction = [], -gradient
            slope = float((gradient * direction).sum())
        length = 1.0 if pairs else min(1.0, 1.0 / float(gradient.abs().sum()))
        low, high, found = 0.0, float("inf"), None
        for _ in range(50):
            trial = theta + length * direction
            value, slant = objective(trial)
            if value > loss + 1e-4 * length * slope:
                high = length
            elif float((slant * direction).sum()) < 0.9 * slope:
                low, found = length, (trial, value, slant)
            else:
                found = (trial, value, slant)
                break
            length = (low + high) / 2 if high < float("inf") else 2 * length
        if found is None:  # no better point that float64 can tell apart
            break
        trial, value, slant = found
        moved, bent = trial - theta, slant - gradient
        curvature = float((moved * bent).sum())
        if curvature > 1e-10 * float((bent * bent).sum()):
            pairs = [*pairs, (moved, bent, curvature)][-MEMORY:]
        theta, loss, gradient = trial, value, slant
        step += 1
    return theta, loss, float(gradient.abs().max()), step


def _times_inverse_hessian(gradient: Any, pairs: list[tuple[Any, Any, float]]) -> Any:
    result = gradient.clone()
    shares = []
    for moved, bent, curvature in reversed(pairs):
        share = float((moved * result).sum()) / curvature
        shares.append(share)
        result -= share * bent
    if pairs:
        _, bent, curvature = pairs[-1]
        result *= curvature / float((bent * bent).sum())
    for (moved, bent, curvature), share in zip(pairs, reversed(shares), strict=True):
        result += (share - float((bent * result).sum()) / curvature) * moved
    return result
