"""FractalDB in colour: the same fractals, each point with the next of 128 hues.

The released script's `patch_color`: the colour goes by the point's place in the orbit. Options, presets, systems and shapes are those of
`fractaldb`, also pixel for pixel: what is grey there is coloured here.
"""

from __future__ import annotations

from curate.generators import fractaldb
from curate.generators.fractaldb import ANNOTATED, CATEGORY, PRESETS, STREAMS, Config

__all__ = ["ANNOTATED", "CATEGORY", "KIND", "PRESETS", "STREAMS", "VERSION", "Config", "Generator"]

VERSION = 1
KIND = "colour"


class Generator(fractaldb.Generator):
    """`fractaldb.Generator` whose painter draws (S, S, 3) pictures."""

    kind = KIND
