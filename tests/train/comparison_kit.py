"""Arms of evaluations whose answers differ by a known share and by luck."""

from __future__ import annotations

import numpy as np

from tests.train.results_kit import results, task

N = 400


def answers(share: float, salt: int, n: int = N) -> np.ndarray:
    """Right answers of a run: the same hard and easy examples for all, and some luck."""
    ease = np.random.default_rng(0).random(n)
    luck = np.random.default_rng(salt).random(n)
    return 0.7 * ease + 0.3 * luck < share


def arm(root, data, share, seeds=(0, 1, 2), **more):
    """Evaluations of runs on `data`; `share` of the examples are right, a little different for each seed."""
    folders = []
    for seed in seeds:
        folder = root / f"{data}-s{seed}"
        salt = len(data) * 100 + seed
        lines = [
            task(folder, "one", answers(share + 0.01 * seed, salt)),
            task(folder, "two", answers(share + 0.01 * seed, salt + 50)),
        ]
        folders.append(results(folder, lines, data=data, seed=seed, **more))
    return folders
