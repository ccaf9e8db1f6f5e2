"""Pages of results: one self-contained file from a template; text from outside can neither be markup nor hide itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headwater.pages import visible

MINUS = "−"  # the sign, as wide as a plus


def render(template: str, page: dict[str, Any]) -> bytes:
    """The template filled, as UTF-8; every value is escaped unless it is Markup."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        n=lambda value: f"{value:,}", points=points, signed=signed, p=p_text, short=short
    )
    return environment.get_template(template).render(page).encode("utf-8", "backslashreplace")


def points(fraction: float | None, digits: int = 2) -> str:
    """A fraction as percentage points, `–` where it is not known."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f}"


def signed(fraction: float | None) -> str:
    """A difference in points with its sign."""
    if fraction is None:
        return "–"
    text = f"{100 * abs(fraction):.2f}"
    return text if text == "0.00" else f"{'+' if fraction > 0 else MINUS}{text}"


def p_text(p: float | None) -> str:
    """A p-value to the digits that can be trusted."""
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def short(digest: str | None) -> str:
    """The beginning of an id."""
    return digest[:12] if digest else "not known"


def quantity(value: float | None) -> str:
    """Joules and the like in four digits."""
    if value is None:
        return "not known"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
