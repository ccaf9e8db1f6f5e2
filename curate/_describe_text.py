"""The text form of `pool describe`: one screen, with small histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BARS = " ▁▂▃▄▅▆▇█"
MAX_CAPTION_CHARS = 60


def render(found: dict[str, Any]) -> str:
    """`describe_pool`'s answer for people."""
    lines = [
        f"{found['pool']}: {found['rows']:,} rows in {found['shards']} shards, {_bytes(found['size_bytes'])}",
        f"id {found['id']}" + ("  (manifest checked)" if found["manifest"] else ""),
        "",
    ]
    lines += _columns(found["columns"])
    uid = found["uid"]
    lines += [
        "",
        f"uid        {uid['distinct']:,} distinct, {uid['rows_repeated']:,} rows share one, {uid['malformed_or_null']:,} malformed or null",
    ]
    lines += _captions(found["captions"])
    images = found["sha256"]
    if images:
        lines.append(
            f"sha256     {images['distinct']:,} distinct, {images['rows_repeated']:,} rows share one (compared by the {images['compared']})"
        )
    lines += _beside(found)
    return "\n".join(lines) + "\n"


def sparkline(counts: Sequence[int]) -> str:
    """One character a bin; a bin that holds anything is never blank."""
    most = max(counts, default=0)
    if not most:
        return ""
    return "".join(BARS[0 if not n else max(1, round(n / most * (len(BARS) - 1)))] for n in counts)


def _columns(columns: list[dict[str, Any]]) -> list[str]:
    width = max((len(c["name"]) for c in columns), default=0)
    lines = [
        f"{'column':{width}}  {'type':22} {'stored':>9} {'nulls':>9} {'NaN':>7} {'min':>10} {'median':>10} {'max':>10}"
    ]
    for column in columns:
        nulls = "?" if column["nulls"] is None else f"{column['nulls']:,}"
        type_ = "/".join(column["types"])
        type_ = type_ if len(type_) <= 22 else type_[:21] + "…"
        numbers = [_number(column.get(key)) for key in ("min", "median", "max")]
        line = f"{_clean(column['name']):{width}}  {type_:22} {_bytes(column['size_bytes']):>9} {nulls:>9}"
        line += f" {_number(column.get('nan')):>7} {numbers[0]:>10} {numbers[1]:>10} {numbers[2]:>10}"
        histogram = column.get("histogram")
        if histogram:
            line += f"  {sparkline(histogram['counts'])}"
        notes = []
        if column.get("float16_grid"):
            notes.append("float16 grid")
        if column.get("exact") is False:
            notes.append(f"quantiles within {column['relative_error']:.1e}")
        if column["missing_in"]:
            notes.append(f"missing in {len(column['missing_in'])} shards")
        lines.append(line + (f"  ({', '.join(notes)})" if notes else ""))
    lines.append("histograms: least value to 99th percentile, the last bar holds all above")
    return lines


def _captions(text: dict[str, Any] | None) -> list[str]:
    if text is None:
        return ["captions   there is no text column"]
    shared = f"{text['distinct']:,} distinct, {text['rows_with_a_shared_caption']:,} rows share one"
    bad = f"{text['nulls']:,} null, {text['empty']:,} empty, {text['not_utf8']:,} not UTF-8"
    lines = [f"captions   {shared}, {bad}"]
    for name in ("words", "chars"):
        length = text[name]
        if length["median"] is None:
            continue
        quantiles = "  ".join(
            f"{key} {length[key]:,}" for key in ("min", "p05", "p25", "median", "p75", "p95", "p99", "max")
        )
        lines.append(f"  {name:8} {quantiles}  {sparkline(length['histogram']['counts'])}")
    for entry in text["top"]:
        shown = _clean(entry["text"][: MAX_CAPTION_CHARS + 1])
        shown = shown if len(shown) <= MAX_CAPTION_CHARS else shown[: MAX_CAPTION_CHARS - 1] + "…"
        lines.append(f"  {entry['rows']:>10,} x “{shown}”")
    return lines


def _beside(found: dict[str, Any]) -> list[str]:
    lines = []
    for array in found["features"]:
        shape = " x ".join(map(str, array["row_shape"])) or "scalar"
        fits = "" if array["fits"] else ", ROWS DO NOT FIT"
        lines.append(
            f"features   {array['name']}: {array['dtype']}, {shape} a row, in {array['shards']} shards{fits}"
        )
    for entry in found["sidecars"]:
        stale = f", {entry['stale']} stale" if entry["stale"] else ""
        lines.append(
            f"scores     {entry['name']}: {', '.join(entry['columns'])} for {entry['shards']} shards{stale}"
        )
    index = found["index"]
    if index is None:
        lines.append("index      none (headwater pool index POOL makes one)")
    else:
        lines.append(
            f"index      {index['shards']} of {found['shards']} shards"
            + (f", {index['stale']} stale" if index["stale"] else "")
        )
    return lines


def _number(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )


def _bytes(size: int) -> str:
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size} B"


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
