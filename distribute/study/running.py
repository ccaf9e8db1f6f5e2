"""The study as a step: payloads made, trials run one at a time, each kept as soon as it is over, then the figures.

    OUT/study.json       options, payloads, versions, figures of every cell
    OUT/trials.parquet   one row for each trial
    OUT/study.html       the page

A study that was killed goes on with the same line: trials that were kept are not run again. Measurements differ between runs,
so two studies have different digests; their plan, payloads and order are the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distribute.seeding import need_extra
from distribute.study.environment import environment, netem_problem
from distribute.study.options import DATASET, StudyOptions
from distribute.study.payloads import Payload, files_below, make
from distribute.study.plan import Trial, estimate, order, order_id
from distribute.study.processes import Swarm
from distribute.study.results import FORMAT, row_from, summarise, text_table, write_table
from distribute.study.trial import Row, censor, run_trial
from headwater.console import say, track
from headwater.energy import utc_now
from headwater.errors import HeadwaterError, IntegrityError, MissingExtra, UsageError
from headwater.files import write_json
from headwater.manifest import Counts, InputRef
from headwater.release import open_release
from headwater.steps import Plan, RunOptions, Work, check_output, run_step

STUDY_NAME, TABLE_NAME, PAGE_NAME = "study.json", "trials.parquet", "study.html"
REST_SECONDS = 0.2  # between trials: what the last one left may settle


@dataclass
class _Session:
    """One study under way. `parts` survives a kill."""

    parts: Path
    options: StudyOptions
    payloads: dict[str, Payload] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)


def study(
    output: Path, options: StudyOptions | None = None, run_options: RunOptions | None = None
) -> dict[str, Any]:
    """Run the study into the folder `output`; facts to print, with a "text" for people.

    Raises UsageError, MissingInput, MissingExtra (netem where there is none). A failing method is no error: it is a result.
    """
    options, run_options = options or StudyOptions(), run_options or RunOptions()
    options.check()
    _check_link(options)
    need_extra("aiohttp")  # a study without any seeder would be a list of failures
    check_output(output, "folder")
    if run_options.dry_run:
        return estimate(options, shutil.disk_usage(output.parent).free, _dataset_size(options))
    trials = order(options)
    inputs = [InputRef(role=DATASET, id=_dataset_id(options.dataset))] if options.dataset else []
    plan = Plan(
        step="study",
        version=1,
        config=options.config(),
        inputs=inputs,
        output=output,
        kind="folder",
        seed=options.seed,
        resumable=True,
    )

    def work(task: Work) -> Counts:
        session = _Session(task.parts, options)
        rows = _run(session, trials)
        _write(task, session, rows)
        finished = sum(row.finished for row in rows)
        wrong = {
            status: count
            for status in ("failed", "capped")
            if (count := sum(row.status == status for row in rows))
        }
        return Counts(unit="trials", read=len(rows), kept=finished, invalid=wrong)

    outcome = run_step(plan, work, run_options)
    assert outcome is not None
    return _result(output, cached=outcome.cached)


def _check_link(options: StudyOptions) -> None:
    if options.link_kind != "netem":
        return
    hint = "leave --link out: the proxy needs no rights"
    if problem := netem_problem():
        raise MissingExtra(f"--link netem cannot be used here: {problem}", hint=hint)
    raise UsageError("--link netem is not written yet: only --link proxy", hint=hint)


def _run(session: _Session, trials: list[Trial]) -> list[Row]:
    """All rows, those of earlier sessions and those run now, in the order of the plan."""
    kept_in, scratch = session.parts / "trials", session.parts / "run"
    kept_in.mkdir(exist_ok=True)
    rows = {trial.name: row for trial in trials if (row := _kept(kept_in / f"{trial.name}.json"))}
    left = [trial for trial in trials if trial.name not in rows]
    if rows and left:
        say("info", f"{len(rows):,} of {len(trials):,} trials were run before; the others follow")
    _note_session(session.parts, len(rows))
    for name in session.options.payloads:
        say("debug", f"payload {name}")
        session.payloads[name] = make(name, session.parts / "payloads" / name, session.options)
    if "girder" in session.options.methods:
        _upload_all(session)
    with track("study", total=len(trials), unit="trials") as bar:
        bar.add(len(rows))
        for (payload, _), block in itertools.groupby(left, key=lambda t: (t.cell.payload, t.number)):
            with _swarm(session, payload) as swarm:
                for trial in block:
                    with _fresh(scratch) as folder:
                        row = _one(session, trial, swarm, folder)
                    write_json(kept_in / f"{trial.name}.json", asdict(row))
                    rows[trial.name] = row
                    cell = trial.cell
                    bar.add(
                        note=f"{cell.payload} {cell.method} × {cell.seeders} {cell.link.text}: {_said(row)}"
                    )
                    time.sleep(REST_SECONDS)
    return [rows[trial.name] for trial in trials]


def _one(session: _Session, trial: Trial, swarm: Swarm, folder: Path) -> Row:
    upload = session.uploads.get(trial.cell.payload, {})
    payload = session.payloads[trial.cell.payload]
    girder = upload.get("location") if trial.cell.method == "girder" else None
    if trial.cell.method == "girder" and girder is None:
        row = Row(
            payload=payload.name,
            method="girder",
            seeders=1,
            rate_bits_per_second=trial.cell.link.rate_bits_per_second,
            rtt_seconds=trial.cell.link.rtt_seconds,
            cache=trial.cell.cache,
            trial=trial.number,
            position=trial.position,
            started_at=utc_now(),
            reason=f"the upload failed: {upload.get('error')}",
            payload_files=payload.sent_files,
            payload_bytes=payload.sent_bytes,
        )
        return censor(row, session.options.cap_seconds)
    return run_trial(trial, payload, swarm, session.options, folder, girder)


def _said(row: Row) -> str:
    return f"{row.observed_seconds:.2f} s" if row.finished else f"{row.status} ({row.reason[:80]})"


@contextmanager
def _swarm(session: _Session, payload: str) -> Iterator[Swarm]:
    logs = session.parts / "logs"
    logs.mkdir(exist_ok=True)
    torrents = "bittorrent" in session.options.methods
    swarm = Swarm(session.payloads[payload].release, logs, bittorrent=torrents)
    try:
        yield swarm
    finally:
        swarm.stop()


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kept(path: Path) -> Row | None:
    try:
        return row_from(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # it is run again


def _note_session(parts: Path, kept: int) -> None:
    """Each session of a study notes what it ran on: a study may go on after an upgrade, and then says so."""
    path = parts / "sessions.json"
    known = json.loads(path.read_bytes()) if path.is_file() else []
    now = environment()
    if known and known[-1]["environment"] != now:
        say(
            "warning",
            "versions or the machine have changed since this study was begun; both are in its record",
        )
    known.append({"started_at": utc_now(), "trials_before": kept, "environment": now})
    write_json(path, known)


def _upload_all(session: _Session) -> None:
    """Send each payload to the Girder once; a failure is a result of its trials."""
    from distribute.transports._base import Context
    from distribute.transports.girder import publish
    from headwater.energy import Meter

    assert session.options.girder is not None
    for name, payload in session.payloads.items():
        mark = session.parts / f"girder-{name}.json"
        if mark.is_file():
            session.uploads[name] = json.loads(mark.read_bytes())
            continue
        target = f"{session.options.girder.rstrip('/')}/headwater-study-{payload.manifest_id[:12]}"
        context = Context(work=session.parts / "girder", allow_private=True)
        context.work.mkdir(exist_ok=True)
        try:
            with Meter("upload") as meter:
                sent = publish(open_release(payload.release), target, context, dry_run=False)
        except HeadwaterError as error:
            say("warning", f"girder: {name} could not be sent: {error.message}")
            session.uploads[name] = {"error": error.message}
            continue
        energy = meter.record()
        session.uploads[name] = {
            "location": sent.location.url if sent.location else target,
            "sent_bytes": sent.sent_bytes,
            "seconds": energy.duration_seconds,
            "cpu_seconds": energy.cpu_seconds,
        }
        write_json(mark, session.uploads[name])


def _write(task: Work, session: _Session, rows: list[Row]) -> None:
    from distribute.study.report import page

    options = session.options
    summary = summarise(options, rows)
    document = {
        "format": FORMAT,
        "options": {**options.config(), "seed": options.seed},
        "order_id": order_id(order(options)),
        "payloads": [_payload_facts(payload) for payload in session.payloads.values()],
        "uploads": session.uploads,
        "sessions": json.loads((session.parts / "sessions.json").read_bytes()),
        "trials": len(rows),
        "finished": sum(row.finished for row in rows),
        "verified": sum(row.verified for row in rows),
        "cells": summary,
    }
    write_json(task.stage / STUDY_NAME, document)
    write_table(task.stage / TABLE_NAME, rows)
    (task.stage / PAGE_NAME).write_bytes(page(document, rows))
    task.details = {name: document[name] for name in ("order_id", "trials", "finished", "verified")}
    task.details["manifests"] = {p.name: p.manifest_id for p in session.payloads.values()}


def _payload_facts(payload: Payload) -> dict[str, Any]:
    facts = asdict(payload)
    del facts["release"], facts["base"]
    return {**facts, "has_parent": payload.base is not None}


def _result(output: Path, *, cached: bool) -> dict[str, Any]:
    try:
        document = json.loads((output / STUDY_NAME).read_bytes())
    except ValueError as error:
        raise IntegrityError(
            f"{output / STUDY_NAME}: cannot be read", hint="--force runs it again"
        ) from error
    lines = [
        text_table(document["cells"]),
        f"{document['finished']:,} of {document['trials']:,} trials finished; {document['verified']:,} checked against their manifest",
        f"{output / PAGE_NAME}",
    ]
    keep = ("order_id", "trials", "finished", "verified", "payloads", "cells")
    return {
        "output": str(output),
        "cached": cached,
        **{name: document[name] for name in keep},
        "text": "\n".join(lines),
    }


def _dataset_size(options: StudyOptions) -> tuple[int, int]:
    """Files and bytes of the user's folder."""
    if options.dataset is None:
        return 0, 0
    found = [path.stat().st_size for path in files_below(options.dataset)]
    return len(found), sum(found)


def _dataset_id(folder: Path) -> str:
    """Of names, sizes and times; the manifest id of what was published is in the study."""
    digest = hashlib.sha256()
    for path in files_below(folder):
        state = os.stat(path)
        digest.update(
            f"{path.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(
                "utf-8", "surrogateescape"
            )
        )
    return digest.hexdigest()
