"""How several subsets overlap: for each its share of the pool, for each two what they have in common.

Uids are counted once, however often a file repeats them. Subsets are sorted, so slices of all of them are met side by side and
memory does not grow with the files; every uid of a slice gets one bit for each subset it is in, and all counts are sums over
those patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from curate._order import search_words, sort_words
from curate.pool import Pool
from curate.subset import Words, load_words, unique
from curate.views import RawView
from headwater.console import track
from headwater.errors import UsageError
from headwater.files import atomic_file
from headwater.pages import visible

MOST_SUBSETS = 24  # more do not fit a table that people can read
SLICE_ROWS = 1 << 21  # about how many entries of all subsets together are looked at at a time
SPLITTER_SPACING = 1 << 14
MARK = b"<!doctype html>\n<!-- headwater overlap/1 -->"
CELL, LABEL_WIDTH, LABEL_HEIGHT = 64, 190, 40

Counts = npt.NDArray[np.int64]


@dataclass
class Overlap:
    """What subsets have in common. `common[i, j]` counts uids that both i and j have; its diagonal the uids of each."""

    names: list[str]
    entries: list[int]
    common: Counts
    alone: list[int]  # uids that no other subset has
    union: int
    in_all: int
    pool_rows: int | None = None
    rows_kept: list[int] = field(default_factory=list)  # pool rows whose uid the subset has

    def share(self, i: int, j: int) -> float | None:
        """|i ∩ j| / |i|; None when i is empty."""
        own = int(self.common[i, i])
        return int(self.common[i, j]) / own if own else None

    def jaccard(self, i: int, j: int) -> float | None:
        """|i ∩ j| / |i ∪ j|; None when both are empty."""
        either = int(self.common[i, i] + self.common[j, j] - self.common[i, j])
        return int(self.common[i, j]) / either if either else None

    @property
    def facts(self) -> dict[str, Any]:
        """Everything as JSON holds it."""
        numbers = range(len(self.names))
        rows = []
        for i, name in enumerate(self.names):
            row: dict[str, Any] = {"name": name, "entries": self.entries[i], "uids": int(self.common[i, i])}
            row["only_here"] = self.alone[i]
            if self.pool_rows is not None:
                row["pool_rows_kept"] = self.rows_kept[i]
                row["share_of_pool"] = self.rows_kept[i] / self.pool_rows if self.pool_rows else None
                row["uids_not_in_pool_at_least"] = max(int(self.common[i, i]) - self.rows_kept[i], 0)
            rows.append(row)
        return {
            "subsets": rows,
            "pool_rows": self.pool_rows,
            "union": self.union,
            "in_all": self.in_all,
            "in_both": self.common.tolist(),
            "share_of_row": [[self.share(i, j) for j in numbers] for i in numbers],
            "jaccard": [[self.jaccard(i, j) for j in numbers] for i in numbers],
        }


def overlap(paths: Sequence[Path], pool: Pool | None = None) -> Overlap:
    """Compare subset files. Raises MissingInput, IntegrityError (not a sorted subset), UsageError (too many)."""
    if not 1 <= len(paths) <= MOST_SUBSETS:
        raise UsageError(f"subset overlap: {len(paths)} files; at most {MOST_SUBSETS}")
    subsets = [load_words(path) for path in paths]
    count = len(subsets)
    seen: dict[int, int] = {}  # pattern of subsets -> uids
    with track("compare subsets", total=sum(map(len, subsets)), unit="uids") as bar:
        for parts in _slices(subsets):
            every = unique(sort_words(np.concatenate([unique(np.asarray(part)) for part in parts])))
            bits = np.zeros(len(every), np.uint32)
            for number, part in enumerate(parts):
                left, right = search_words(part, every)
                bits |= (right > left).astype(np.uint32) << np.uint32(number)
            for pattern, uids in zip(*np.unique(bits, return_counts=True), strict=True):
                seen[int(pattern)] = seen.get(int(pattern), 0) + int(uids)
            bar.add(sum(map(len, parts)))
    common = np.zeros((count, count), np.int64)
    for pattern, uids in seen.items():
        mine = [i for i in range(count) if pattern >> i & 1]
        common[np.ix_(mine, mine)] += uids
    found = Overlap(
        names=_names(paths),
        entries=[len(words) for words in subsets],
        common=common,
        alone=[seen.get(1 << i, 0) for i in range(count)],
        union=sum(seen.values()),
        in_all=seen.get((1 << count) - 1, 0),
    )
    if pool is not None:
        found.pool_rows, found.rows_kept = pool.rows, _rows_kept(subsets, pool)
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """File names where they differ, else as much of the path as was given."""
    names = [path.name.removesuffix(".npy") for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _slices(subsets: Sequence[Words]) -> Iterator[list[Words]]:
    """Pieces of all subsets between the same uids, none of which cuts the entries of one uid apart."""
    total = sum(map(len, subsets))
    pieces = -(-total // SLICE_ROWS)
    if pieces <= 1:
        if total:
            yield list(subsets)
        return
    samples = [np.asarray(words[SPLITTER_SPACING - 1 :: SPLITTER_SPACING]) for words in subsets]
    ordered = sort_words(np.concatenate(samples))
    chosen = unique(ordered[:: max(len(ordered) // pieces, 1)][1:])
    ends = [search_words(words, chosen)[0] for words in subsets]
    starts = [0] * len(subsets)
    for at in range(len(chosen) + 1):
        stops = [int(e[at]) if at < len(chosen) else len(w) for e, w in zip(ends, subsets, strict=True)]
        parts = [w[a:b] for w, a, b in zip(subsets, starts, stops, strict=True)]
        starts = stops
        if any(map(len, parts)):
            yield parts


def _rows_kept(subsets: Sequence[Words], pool: Pool) -> list[int]:
    kept = [0] * len(subsets)
    with track(f"look through {pool.path.name}", total=pool.rows, unit="rows") as bar:
        for shard in pool.shards:
            for block in RawView(shard, {}).blocks():
                theirs, bad = block.uids()
                theirs = np.delete(theirs, bad, axis=0) if len(bad) else theirs
                for number, words in enumerate(subsets):
                    left, right = search_words(words, theirs)
                    kept[number] += int(np.count_nonzero(right > left))
                bar.add(block.rows)
    return kept


def as_text(found: Overlap) -> str:
    """The tables for a terminal."""
    wide = max(len(name) for name in found.names)
    with_pool = found.pool_rows is not None
    lines = [
        f"{'':>4}  {'':<{wide}}  {'uids':>14}  {'only here':>12}" + ("  of the pool" if with_pool else "")
    ]
    for i, name in enumerate(found.names):
        line = f"{_letter(i):>4}  {name:<{wide}}  {int(found.common[i, i]):>14,}  {found.alone[i]:>12,}"
        if with_pool:
            line += f"  {_percent(found.rows_kept[i] / found.pool_rows if found.pool_rows else None):>11}"
            lost = int(found.common[i, i]) - found.rows_kept[i]
            line += f"  (at least {lost:,} of its uids are not in the pool)" if lost > 0 else ""
        lines.append(line)
    lines.append(f"{'':>4}  {'in any':<{wide}}  {found.union:>14,}")
    lines.append(f"{'':>4}  {'in all':<{wide}}  {found.in_all:>14,}")
    letters = "".join(f"{_letter(j):>9}" for j in range(len(found.names)))
    for title, value in (
        ("share of the row's uids that the column has", found.share),
        ("Jaccard", found.jaccard),
    ):
        lines += ["", f"      {title}", f"      {letters}"]
        for i in range(len(found.names)):
            cells = "".join(f"{_percent(value(i, j)):>9}" for j in range(len(found.names)))
            lines.append(f"{_letter(i):>4}  {cells}")
    return "\n".join(lines)


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def write_page(found: Overlap, output: Path, title: str) -> int:
    """One self-contained page with the tables and the two matrices drawn; returns its size in bytes."""
    from curate.report import render

    rows = [
        {
            "letter": _letter(i),
            "name": name,
            "entries": found.entries[i],
            "uids": int(found.common[i, i]),
            "alone": found.alone[i],
            "kept": found.rows_kept[i] if found.pool_rows is not None else None,
            "share": _percent(found.rows_kept[i] / found.pool_rows) if found.pool_rows else "–",
        }
        for i, name in enumerate(found.names)
    ]
    page = {
        "title": title,
        "rows": rows,
        "union": found.union,
        "in_all": found.in_all,
        "pool_rows": found.pool_rows,
        "matrices": [
            {
                "title": "Share of the row’s uids that the column has too",
                "svg": _matrix(found, found.share, "share"),
            },
            {
                "title": "Jaccard: in both, of those in either",
                "svg": _matrix(found, found.jaccard, "Jaccard"),
            },
        ],
    }
    text = render(page, "overlap.html.j2")
    with atomic_file(output) as handle:
        handle.write(text)
    return len(text)


def _safe(text: str) -> str:
    return str(escape(visible(text)))


def _matrix(found: Overlap, value: Any, what: str) -> Markup:
    """Squares whose darkness is the share, with the figure in each."""
    count = len(found.names)
    width, height = LABEL_WIDTH + CELL * count, LABEL_HEIGHT + CELL * count
    parts = []
    for i, name in enumerate(found.names):
        short = name if len(name) <= 20 else f"{name[:12]}…{name[-7:]}"
        y = LABEL_HEIGHT + i * CELL
        parts.append(
            f'<text x="{LABEL_WIDTH - 10}" y="{y + CELL / 2 + 4:g}" text-anchor="end">{_safe(short)}  {_letter(i)}</text>'
        )
        x = LABEL_WIDTH + i * CELL + CELL / 2
        parts.append(f'<text x="{x:g}" y="{LABEL_HEIGHT - 12}" text-anchor="middle">{_letter(i)}</text>')
        for j, other in enumerate(found.names):
            share = value(i, j)
            told = f"{name} and {other}: {int(found.common[i, j]):,} uids in both, {what} {_percent(share)}"
            left = LABEL_WIDTH + j * CELL
            ink = " over" if share is not None and share > 0.5 else ""
            parts.append(
                f'<rect class="cell" x="{left + 1}" y="{y + 1}" width="{CELL - 2}" height="{CELL - 2}" rx="3"'
                f' fill-opacity="{0.06 + 0.9 * (share or 0):.3f}"><title>{_safe(told)}</title></rect>'
                f'<text class="figure{ink}" x="{left + CELL / 2:g}" y="{y + CELL / 2 + 4:g}" text-anchor="middle">'
                f"{_percent(share)}</text>"
            )
    label = f"{what} of {count} subsets"
    return Markup(  # noqa: S704 - put together from numbers and escaped text
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
