"""study.html: one file, no scripts, that shows every trial and says what the study cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distribute.study.drawings import Lane, scale, split, strip
from distribute.study.options import LinkSpec
from distribute.study.results import seconds, speed
from distribute.study.trial import Row

ABOUT = {
    "few-large": "files of about 6.4 MB, the shape of ScatSpotter's photographs",
    "many-small": "files of about 30 kB, 200 to a folder",
    "one-archive": "a single file",
    "update": "the receiver has the parent release; one part in 42 is new, and only that is sent",
    "annotation": "the receiver has the parent release; one annotation file of some kilobytes has changed",
    "dataset": "a folder of the user's",
}
CAVEATS = (
    "Client, seeders and link share the cores of one machine: without a rate the figures show processor cost, not networks.",
    "Seeders read the same files through one page cache: N seeders here do not have N disks.",
    "The link is a program of ours: rate, delay and the round trip of TCP's handshake are there; loss, jitter, slow start and congestion are not. The rate is each seeder's own, each way; the receiver's line has none.",
    "What the link carries is TCP payload: headers of TCP, IP and below are not counted.",
    "Discovery has the start of the client program in it; finding peers on the open network (DHT, trackers, IPNS) is not studied.",
    "Bytes are checked as they come, by every method; “finish” is what is left to do after the last byte.",
    "A cold cache means that pages of the seeders' files were given back to the system; caches of the disk, of folders and of programs stay.",
)


def page(document: dict[str, Any], rows: Sequence[Row]) -> bytes:
    """The page as bytes. `document` is study.json."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["n"] = lambda value: f"{value:,}"
    text = environment.get_template("page.html.j2").render(facts(document, rows))
    return text.encode("utf-8", "backslashreplace")


def facts(document: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """What the template shows."""
    session = document["sessions"][-1]["environment"]
    options = document["options"]
    sections = [
        _section(payload, [c for c in document["cells"] if c["payload"] == payload["name"]], rows)
        for payload in document["payloads"]
    ]
    failures = sorted(
        ((name, cell) for cell in document["cells"] for name in cell["reasons"]), key=lambda pair: pair[0]
    )
    others = [
        row.other_cpu_seconds / (row.ended_seconds * session["cores"])
        for row in rows
        if row.other_cpu_seconds is not None and row.ended_seconds
    ]
    loads = [row.load_average_before for row in rows if row.load_average_before is not None]
    return {
        "title": "Distribution study",
        "sentence": _sentence(document),
        "tiles": [
            (f"{document['trials']:,}", "trials"),
            (f"{document['finished']:,}", "finished"),
            (f"{document['verified']:,}", "read again and right"),
            (f"{len(document['cells']):,}", "combinations"),
            (_bytes(max(p["size_bytes"] for p in document["payloads"])), "the largest payload"),
            (f"{options['cap_seconds']:g} s", "cap"),
        ],
        "sections": sections,
        "methods": options["methods"],
        "failures": [
            {"reason": name, "times": cell["reasons"][name], "where": _where(cell)} for name, cell in failures
        ],
        "caveats": CAVEATS,
        "load": f"{min(loads):.1f} to {max(loads):.1f}" if loads else "not known",
        "others": f"{sorted(others)[len(others) // 2]:.0%}" if others else "not known",
        "others_most": f"{max(others):.0%}" if others else "not known",
        "uploads": document["uploads"],
        "environment": session,
        "sessions": document["sessions"],
        "options": options,
        "order_id": document["order_id"],
        "joules": any(c["of_finished"]["client_joules_modelled"] is not None for c in document["cells"]),
        "measured": any(c["of_finished"]["machine_joules_measured"] is not None for c in document["cells"]),
    }


def _sentence(document: dict[str, Any]) -> str:
    options = document["options"]
    seeders = options["seeders"]
    return (
        f"{_count(len(options['payloads']), 'payload')} by {', '.join(options['methods'])}, from {_numbers(seeders)} "
        f"{'seeder' if seeders == [1] else 'seeders'}, over {_count(len(options['links']), 'link')}, {_times(options['trials'])}, one at a time, in an order drawn from seed {options['seed']}."
    )


def _section(payload: dict[str, Any], cells: list[dict[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
    """All about one payload. Its drawings share one axis, so that links can be compared."""
    mine = [row for row in rows if row.payload == payload["name"]]
    axis = scale([row.observed_seconds for row in mine])
    groups = list(dict.fromkeys((LinkSpec(*_link(cell)), cell["cache"]) for cell in cells))
    caches = len({cache for _, cache in groups}) > 1
    charts = []
    for link, cache in groups:
        there = [cell for cell in cells if LinkSpec(*_link(cell)) == link and cell["cache"] == cache]
        title = link.words + (f", {cache} cache" if caches else "")
        charts.append(
            {
                "title": title,
                "svg": strip([_lane(cell, mine) for cell in there], axis, f"{payload['name']}, {title}"),
                "rows": [_figures(cell, _longest(there)) for cell in there],
            }
        )
    parent = payload["has_parent"]
    size = f"{_count(payload['sent_files'], 'file')}, {_bytes(payload['sent_bytes'])}" + (
        f" to send, of {payload['files']:,} files, {_bytes(payload['size_bytes'])}" if parent else ""
    )
    return {
        "name": payload["name"],
        "about": ABOUT[payload["name"]],
        "size": size,
        "manifest": payload["manifest_id"],
        "publish": f"{seconds(payload['publish_seconds'])} s, {seconds(payload['publish_cpu_seconds'])} s of CPU",
        "torrent": payload["torrent"],
        "charts": charts,
        "log": axis.log,
    }


def _link(cell: dict[str, Any]) -> tuple[float | None, float]:
    return cell["rate_bits_per_second"], cell["rtt_seconds"]


def _lane(cell: dict[str, Any], rows: list[Row]) -> Lane:
    marks = [
        (row.observed_seconds, row.finished)
        for row in rows
        if (row.method, row.seeders, row.rate_bits_per_second, row.rtt_seconds, row.cache)
        == (cell["method"], cell["seeders"], *_link(cell), cell["cache"])
    ]
    return Lane(
        f"{cell['method']} × {cell['seeders']}",
        cell["method"],
        marks,
        cell["median_seconds"],
        cell["median_low_seconds"],
        cell["median_high_seconds"],
    )


def _longest(cells: list[dict[str, Any]]) -> float:
    return max((sum(value for _, value in _phases(cell)) for cell in cells), default=0.0)


def _phases(cell: dict[str, Any]) -> list[tuple[str, float]]:
    done = cell["of_finished"]
    return [
        ("discovery", done["first_byte_seconds"] or 0.0),
        (cell["method"], done["transfer_seconds"] or 0.0),
        ("finish", done["finish_seconds"] or 0.0),
    ]


def _figures(cell: dict[str, Any], longest: float) -> dict[str, Any]:
    done = cell["of_finished"]
    share = done["busiest_seeder_share"]
    return {
        "method": cell["method"],
        "seeders": cell["seeders"],
        "median": seconds(cell["median_seconds"], "not reached"),
        "limits": f"{seconds(cell['median_low_seconds'], 'open')} – {seconds(cell['median_high_seconds'], 'open')}",
        "success": f"{cell['finished']}/{cell['trials']}",
        "success_limits": f"{cell['success_low']:.0%} – {cell['success_high']:.0%}",
        "bad": cell["finished"] < cell["trials"],
        "speed": speed(cell["bytes_per_second"], "–"),
        "client_cpu": seconds(done["client_cpu_seconds"]),
        "seeders_cpu": seconds(done["seeders_cpu_seconds"]),
        "overhead": "–" if done["overhead_share"] is None else f"{done['overhead_share']:.2%}",
        "busiest": "–" if share is None else f"{share:.0%}",
        "client_joules": seconds(done["client_joules_modelled"]),
        "seeders_joules": seconds(done["seeders_joules_modelled"]),
        "machine_joules": seconds(done["machine_joules_measured"]),
        "memory": "–"
        if done["client_peak_rss_bytes"] is None
        else f"{done['client_peak_rss_bytes'] / 1e6:.0f}",
        "phases": [(name, seconds(value)) for name, value in _phases(cell)],
        "split": split(
            _phases(cell), longest, f"{cell['method']}, {cell['seeders']} seeders: where the time goes"
        ),
        "finished": cell["finished"] > 0,
    }


def _where(cell: dict[str, Any]) -> str:
    return f"{cell['payload']}, {cell['method']} × {cell['seeders']}, {LinkSpec(*_link(cell)).text}"


def _numbers(values: Sequence[int]) -> str:
    return " or ".join(str(value) for value in values)


def _count(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _times(count: int) -> str:
    return "once each" if count == 1 else f"{count} times each"


def _bytes(size: int) -> str:
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size:,} bytes"
