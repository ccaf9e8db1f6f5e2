"""What every page that we draw does with text from outside: nothing in it may turn letters around or vanish."""

from __future__ import annotations

import unicodedata
from typing import Any

from markupsafe import Markup

_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(value: Any) -> Any:
    """Text with control and direction marks shown as ‹U+202E›; everything else, and finished markup, unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(_shown(c) for c in value)


def _shown(c: str) -> str:
    if c in "\n\t" or (c not in _DIRECTION and unicodedata.category(c) not in ("Cc", "Cs", "Co", "Cn")):
        return c
    return f"‹U+{ord(c):04X}›"
