"""What compiled kernels need beyond the base install."""

from __future__ import annotations

import importlib.util

from headwater.errors import MissingExtra


def need_numba() -> None:
    """Raises MissingExtra where numba, which compiles the kernels, is not installed."""
    if importlib.util.find_spec("numba") is None:
        raise MissingExtra(
            "numba, which compiles the inner loops of this, is not installed",
            hint="pip install 'headwater[synth]'",
        )
