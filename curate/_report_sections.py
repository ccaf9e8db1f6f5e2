"""Sections of a report's page as plain data: numbers already written out, drawings already made."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from curate import _report_svg as svg
from curate._report_data import KEPT, PICTURE, TEXT, Pick
from curate._report_groups import Groups
from curate._report_pictures import Album
from curate._report_pool import Look
from headwater.manifest import Step

MOST_SHOWN = 400  # characters of a caption on the page
TOP_VALUES = 15
TOP_CAPTIONS = 10
TOP_PICTURES = 8
REASON_SHARE = 3  # a reason gets one third of the rows that the kept ones get


def percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0 %"


def _plural(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def share(code: int, thumbnails: int) -> int:
    return thumbnails if code == KEPT else -(-thumbnails // REASON_SHARE)


def funnel(record: Step | None) -> list[dict[str, Any]]:
    if record is None:
        return []
    counts, rows = record.identity.counts, []
    read = counts.read
    for number, clause in enumerate(record.details.get("funnel", []), 1):
        invalid = {why: n for why, n in counts.invalid.items() if why.startswith(f"{clause['id']}: ")}
        dropped, came, left = counts.dropped.get(clause["id"], 0), clause["in"], clause["out"]
        cut = clause.get("cut")
        bar = svg.bars(
            [
                (left / read if read else 0, "kept"),
                (sum(invalid.values()) / read if read else 0, "bad"),
                (dropped / read if read else 0, "dropped"),
            ],
            f"{clause['id']}: {left:,} of {came:,} rows go on",
        )
        rows.append(
            {
                "number": number,
                "id": clause["id"],
                "text": clause["clause"],
                "cut": svg.number(cut) if isinstance(cut, int | float) else cut,
                "came": came,
                "dropped": dropped,
                "dropped_share": percent(dropped, came),
                "invalid": invalid,
                "left": left,
                "share": percent(left, read),
                "bar": bar,
            }
        )
    return rows


def histograms(seen: Look | None, *, kept: bool) -> list[dict[str, Any]]:
    drawn = []
    for measure, axis, counts in (
        zip(seen.measures, seen.axes, seen.facts.histograms, strict=False) if seen else ()
    ):
        if axis is None or not counts.readable or not counts.counted:
            continue
        notes = []
        outside = [(counts.below, "left"), (counts.above, "right")]
        for (every, of_kept), side in outside:
            if every:
                notes.append(
                    f"{_plural(every)} {side} of the picture" + (f" ({of_kept:,} kept)" if kept else "")
                )
        if counts.without[0]:
            notes.append(f"{_plural(counts.without[0])} without a number")
        drawn.append(
            {
                "title": measure.title,
                "text": measure.text if measure.text != measure.title else "",
                "svg": svg.histogram(measure, axis, counts, kept=kept),
                "notes": notes,
            }
        )
    return drawn


def categories(seen: Look | None) -> list[dict[str, Any]]:
    out = []
    for name, values in seen.facts.categories.items() if seen else ():
        assert seen is not None
        scored = {value: counts for value, counts in values.items() if value is not None}
        order = sorted(scored.items(), key=lambda item: (-item[1][0], str(item[0])))
        most = max((counts[0] for counts in scored.values()), default=1) or 1
        total = sum(counts[0] for counts in scored.values())
        wanted = set(seen.wanted.get(name, ()))
        rows = [
            {
                "value": value,
                "rows": every,
                "share": percent(every, total),
                "kept": kept,
                "wanted": value in wanted,
                "bar": svg.bars(
                    [(kept / most, "kept"), ((every - kept) / most, "pool")],
                    f"{value}: {every:,} rows, {kept:,} kept",
                ),
            }
            for value, (every, kept) in order[:TOP_VALUES]
        ]
        rest = sum(counts[0] for _, counts in order[TOP_VALUES:])
        out.append(
            {
                "name": name,
                "rows": rows,
                "rest": rest,
                "rest_values": max(len(order) - TOP_VALUES, 0),
                "scored": total,
                "without": values.get(None, [0, 0])[0],
                "crowded": name in seen.facts.crowded,
            }
        )
    return out


def _card(pick: Pick, album: Album) -> dict[str, Any]:
    caption = pick.caption
    return {
        "uid": pick.uid,
        "place": f"shard {pick.shard}, row {pick.row}",
        "caption": None if caption is None else caption[:MOST_SHOWN],
        "cut": pick.caption_chars if pick.caption_chars > MOST_SHOWN else 0,
        "values": pick.values,
        "uri": Markup(album.uris[pick.uid]) if pick.uid in album.uris else None,  # noqa: S704 - our own base64
        "problem": album.problems.get(pick.uid),
    }


def galleries(seen: Look | None, album: Album, rows: list[Pick], thumbnails: int) -> list[dict[str, Any]]:
    if rows:
        return [
            {
                "title": "Some of the samples",
                "kind": "kept",
                "total": None,
                "cards": [_card(p, album) for p in rows],
            }
        ]
    out = []
    for code, picks in sorted(seen.facts.picks.items()) if seen else ():
        assert seen is not None
        verdict, reason = seen.reasons.get(code, ("dropped", "?"))
        title = reason or ("Kept" if seen.wanted or len(seen.reasons) > 1 else "Some of the rows")
        out.append(
            {
                "title": title,
                "kind": verdict,
                "cards": [_card(p, album) for p in picks[: share(code, thumbnails)]],
            }
        )
    return out


def captions(seen: Look | None, *, kept: bool) -> dict[str, Any] | None:
    groups = seen.groups.get(TEXT) if seen else None
    if groups is None:
        return None
    rows = [
        {
            "caption": (g.members[0].caption or "")[:MOST_SHOWN] if g.members else "",
            "cut": g.members[0].caption_chars if g.members and g.members[0].caption_chars > MOST_SHOWN else 0,
            "rows": g.rows,
            "kept": g.kept,
        }
        for g in groups.top[:TOP_CAPTIONS]
    ]
    return {"rows": rows, "show_kept": kept, **_group_counts(groups)}


def _group_counts(groups: Groups) -> dict[str, Any]:
    return {
        "groups": groups.groups,
        "in_groups": groups.rows,
        "surplus": groups.rows - groups.groups,
        "distinct": groups.distinct,
    }


def duplicates(seen: Look | None, album: Album, *, kept: bool) -> dict[str, Any] | None:
    groups = seen.groups.get(PICTURE) if seen else None
    if groups is None:
        return None
    rows: list[dict[str, Any]] = [
        {
            "card": _card(g.members[0], album),
            "rows": g.rows,
            "kept": g.kept,
            "captions": list(dict.fromkeys((m.caption or "")[:90] for m in g.members)),
        }
        for g in groups.top[:TOP_PICTURES]
        if g.members
    ]
    return {
        "rows": rows,
        "pictures": any(row["card"]["uri"] for row in rows),
        "show_kept": kept,
        **_group_counts(groups),
    }


def scatter(seen: Look | None, *, kept: bool) -> dict[str, Any] | None:
    """One score against another, with what the picture leaves out."""
    if seen is None or seen.scatter is None or seen.facts.scatter is None:
        return None
    x, y = (seen.measures[n] for n in seen.scatter)
    xa, ya = (seen.axes[n] for n in seen.scatter)
    grid = seen.facts.scatter
    shown = int(grid[0].sum())
    if not shown or xa is None or ya is None:
        return None
    return {
        "x": x.title,
        "y": y.title,
        "svg": svg.scatter(x, y, xa, ya, grid, kept=kept),
        "shown": shown,
        "left_out": seen.facts.rows - shown,
        "show_kept": kept,
    }


def removed_alone(seen: Look | None) -> list[dict[str, Any]]:
    """For each clause the rows it removed, failed anywhere, and removed alone."""
    if seen is None or seen.facts.alone is None:
        return []
    rows = []
    for (name, text), counts in zip(seen.clauses, seen.facts.alone.tolist(), strict=True):
        removed, fails, unclear, single, perhaps = counts
        rows.append(
            {
                "id": name,
                "text": text if text != name else "",
                "removed": removed,
                "fails": fails,
                "fails_open": unclear,
                "alone": single,
                "alone_open": perhaps,
                "share": percent(single, seen.facts.rows),
            }
        )
    return rows


def similar(seen: Look | None, album: Album) -> dict[str, Any]:
    """Sheets of clusters, and pairs of duplicates by kind."""
    sheets = []
    for cluster in seen.clusters if seen else ():
        sides = [("nearest to the centre", cluster.nearest), ("farthest from it", cluster.farthest)]
        sheets.append(
            {
                "number": cluster.number,
                "rows": cluster.rows,
                "kept": cluster.kept,
                "why": cluster.why,
                "sides": [
                    {"title": title, "cards": [_marked(album, *entry) for entry in side]}
                    for title, side in sides
                    if side
                ],
            }
        )
    kinds: dict[str, list[dict[str, Any]]] = {}
    for pair in seen.pairs if seen else ():
        kinds.setdefault(pair.kind, []).append(
            {
                "cards": [
                    _marked(album, pair.survivor, None, pair.survivor_kept),
                    _marked(album, pair.other, None, pair.other_kept),
                ],
                "similarity": None if pair.similarity is None else f"{pair.similarity:.3f}",
            }
        )
    return {"clusters": sheets, "pairs": kinds}


def _marked(album: Album, pick: Pick, similarity: float | None, kept: bool) -> dict[str, Any]:
    told = [("similarity", f"{similarity:.3f}")] if similarity is not None and similarity > -1e9 else []
    return {**_card(pick, album), "kept": kept, "values": told}


def shown_similar(seen: Look) -> list[Pick]:
    """Rows whose pictures `similar` shows."""
    rows = [pick for c in seen.clusters for pick, _, _ in (*c.nearest, *c.farthest)]
    return [*rows, *(pick for pair in seen.pairs for pick in (pair.survivor, pair.other))]
