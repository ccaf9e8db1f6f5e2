"""What the generators need beyond the base install."""

from __future__ import annotations

import importlib.util

from headwater.errors import MissingExtra


def need_numba() -> None:
    """Raises MissingExtra where numba, which compiles the kernels, is not installed."""
    if importlib.util.find_spec("numba") is None:
        raise MissingExtra(
            "drawing pictures needs numba, which is not installed", hint="pip install 'headwater[synth]'"
        )
