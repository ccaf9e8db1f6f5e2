"""The indexed stream has the statistics of the reference stream: same categories, other random numbers, same features of the pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from curate.generators import visualatom

pytest.importorskip("numba")

CLASSES, REFERENCE, INDEXED = 20, 20, 60  # categories, and pictures of each from either stream
NAMES = ("lit share", "mean", "sigma", "mean horizontal gradient", "share of horizontal changes")


def features(pixels: npt.NDArray[np.uint8]) -> list[float]:
    """The five features, of one picture."""
    steps = np.abs(np.diff(pixels.astype(np.int16), axis=1))
    return [
        float((pixels > 0).mean()),
        float(pixels.mean()),
        float(pixels.std()),
        float(steps.mean()),
        float((steps > 0).mean()),
    ]


@pytest.mark.slow
def test_features_agree_with_the_reference_stream(record_property: Callable[[str, object], None]) -> None:
    from curate.generators._script import ScriptStream

    config = visualatom.Config()
    script = ScriptStream(config, classes=CLASSES, instances=REFERENCE, processes=1, index=0, start_class=0)
    records = script.categories()
    drawn = [features(pixels) for _, _, _, pixels in script.block(0, CLASSES * REFERENCE)]
    reference = np.array(drawn).reshape(CLASSES, REFERENCE, len(NAMES))

    painter = visualatom.Generator(config, seed=6).painter()
    indexed = np.array(
        [
            [features(painter.paint(record, index, instance).pixels) for instance in range(INDEXED)]
            for index, record in enumerate(records)
        ]
    )
    error = np.sqrt(reference.var(axis=1, ddof=1) / REFERENCE + indexed.var(axis=1, ddof=1) / INDEXED)
    z = (reference.mean(axis=1) - indexed.mean(axis=1)) / error
    for at, name in enumerate(NAMES):
        spread, shift = float(np.sqrt((z[:, at] ** 2).mean())), float(z[:, at].mean())
        record_property(name, f"rms z {spread:.2f}, mean z {shift:+.2f}")
        # one category's z is about t-distributed with 20 or more degrees of freedom: rms 1.04 +- 0.17, mean 0 +- 0.23
        assert spread < 1.6, (name, z[:, at])
        assert abs(shift) < 0.7, (name, z[:, at])
    for at in range(len(NAMES)):  # and over all categories
        assert abs(reference[..., at].mean() / indexed[..., at].mean() - 1) < 0.05
