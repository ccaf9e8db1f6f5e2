"""One trial: N seeders, a link, one client from a fresh folder, and what could be seen of it from outside.

    start ── first connection ── first byte ── last byte ── end
      └ discovery ┘              └ transfer ┘  └ finish ┘

Times of bytes are those at which the link handed them to the client. Discovery has the start of the program in it; bytes are
checked as they come, so finish is what is left after the last one: last checks, placing, writing the record to the disk.
A trial counts as finished when the client ended with 0, told the right manifest id, and every file was read again and is right.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from distribute.study.options import StudyOptions
from distribute.study.payloads import Payload, set_cache
from distribute.study.plan import Trial
from distribute.study.processes import (
    Ended,
    LinkProcess,
    Seeder,
    Swarm,
    headwater,
    machine_cpu_seconds,
    run_client,
    tail,
)
from headwater.energy import rapl_joules, rated_power, read_rapl, utc_now
from headwater.errors import HeadwaterError
from headwater.release import INSIDE, MANIFEST_NAME, open_release


@dataclass
class Row:
    """One trial as it is kept: a row of trials.parquet. Missing is null, never 0. `observed_seconds`: see `censor`."""

    payload: str
    method: str
    seeders: int
    rate_bits_per_second: float | None
    rtt_seconds: float
    cache: str
    trial: int
    position: int
    started_at: str
    status: str = "failed"  # finished, failed, capped
    reason: str = ""
    finished: bool = False
    observed_seconds: float = 0.0
    ended_seconds: float | None = None  # when the client ended or was ended, also a failed one
    discovery_seconds: float | None = None
    first_byte_seconds: float | None = None
    last_byte_seconds: float | None = None
    transfer_seconds: float | None = None
    finish_seconds: float | None = None
    verified: bool = False
    manifest_id: str | None = None
    payload_files: int = 0
    payload_bytes: int = 0
    link_down_bytes: int | None = None
    link_up_bytes: int | None = None
    overhead_share: float | None = None
    connections: int | None = None
    busiest_seeder_share: float | None = None
    client_cpu_seconds: float | None = None
    seeders_cpu_seconds: float | None = None
    link_cpu_seconds: float | None = None
    other_cpu_seconds: float | None = None
    client_peak_rss_bytes: int | None = None
    seeders_peak_rss_bytes: int | None = None
    client_joules_modelled: float | None = None
    seeders_joules_modelled: float | None = None
    machine_joules_measured: float | None = None
    load_average_before: float | None = None
    torrent: str | None = None


class Failed(Exception):
    """The trial did not come about, or its result is wrong; the reason is kept in its row."""


def run_trial(
    trial: Trial, payload: Payload, swarm: Swarm, options: StudyOptions, folder: Path, girder: str | None
) -> Row:
    """Run it in the empty folder `folder`. Never raises for a failing method: the row tells it, censored at the cap."""
    cell = trial.cell
    row = Row(
        payload=cell.payload,
        method=cell.method,
        seeders=cell.seeders,
        rate_bits_per_second=cell.link.rate_bits_per_second,
        rtt_seconds=cell.link.rtt_seconds,
        cache=cell.cache,
        trial=trial.number,
        position=trial.position,
        started_at=utc_now(),
        payload_files=payload.sent_files,
        payload_bytes=payload.sent_bytes,
        torrent=payload.torrent if cell.method == "bittorrent" else None,
    )
    try:
        _run(row, trial, payload, swarm, options, folder, girder)
    except (Failed, HeadwaterError) as error:
        row.reason = str(error)
    except OSError as error:
        row.reason = f"{error.filename or folder}: {error.strerror or error}"
    return censor(row, options.cap_seconds)


def censor(row: Row, cap_seconds: float) -> Row:
    """What survival analysis is told. A client that gave up had not finished at the cap either: censored there, not when it gave up."""
    row.finished = row.status == "finished"
    if not row.finished:
        row.observed_seconds = cap_seconds
    else:
        assert row.ended_seconds is not None
        row.observed_seconds = row.ended_seconds
    return row


def _run(
    row: Row,
    trial: Trial,
    payload: Payload,
    swarm: Swarm,
    options: StudyOptions,
    folder: Path,
    girder: str | None,
) -> None:
    cell = trial.cell
    seeders = [] if cell.method == "girder" else swarm.first(cell.seeders)
    if cell.method == "bittorrent" and swarm.without:
        raise Failed(swarm.without)
    output = folder / "out"
    if payload.base is not None:
        shutil.copytree(payload.base, output)
    set_cache(payload, cell.cache)
    link = LinkProcess(
        cell.link.rate_bits_per_second, cell.link.rtt_seconds, _targets(cell.method, seeders, girder)
    )
    try:
        ports = [line[0] for line in link.ports]
        command, environment = _command(cell.method, payload, ports, output, options, girder)
        row.load_average_before = round(os.getloadavg()[0], 2)
        before = [seeder.usage.cpu_seconds for seeder in seeders]
        link_before = link.usage.cpu_seconds
        counters, machine = read_rapl(), machine_cpu_seconds()
        ours = os.times()
        ended = run_client(command, folder, options.cap_seconds, environment)
        machine = machine_cpu_seconds() - machine
        row.machine_joules_measured = rapl_joules(counters, read_rapl())
        after = os.times()
        lines, link_cpu = link.report(), link.usage.cpu_seconds - link_before
    finally:
        link.stop()
    spent = [seeder.usage.cpu_seconds - was for seeder, was in zip(seeders, before, strict=True)]
    row.ended_seconds = ended.seconds
    row.client_cpu_seconds, row.client_peak_rss_bytes = ended.usage.cpu_seconds, ended.usage.peak_rss_bytes
    row.link_cpu_seconds = round(link_cpu, 3)
    if seeders:
        row.seeders_cpu_seconds = round(sum(spent), 3)
        row.seeders_peak_rss_bytes = max(seeder.usage.peak_rss_bytes for seeder in seeders)
        harness = after.user + after.system - ours.user - ours.system
        known = ended.usage.cpu_seconds + sum(spent) + link_cpu + harness
        row.other_cpu_seconds = round(max(machine - known, 0.0), 3)
    _energy(row)
    _timeline(row, ended, lines)
    _judge(row, ended, payload, output)


def _targets(method: str, seeders: list[Seeder], girder: str | None) -> list[list[tuple[str, int]]]:
    """Where the link leads to: one port of each seeder."""
    if method == "girder":
        assert girder is not None
        parts = urlsplit(girder.removeprefix("girder+"))
        return [[(parts.hostname or "", parts.port or 80)]]
    found = []
    for seeder in seeders:
        place = seeder.facts["peer"] if method == "bittorrent" else urlsplit(seeder.facts["url"]).netloc
        if not place:
            raise Failed("the seeder serves no BitTorrent")
        host, _, port = str(place).rpartition(":")
        found.append([(host, int(port))])
    return found


def _command(
    method: str, payload: Payload, ports: list[int], output: Path, options: StudyOptions, girder: str | None
) -> tuple[list[str], dict[str, str]]:
    """The client's command line: every method is given the manifest as a file, and the link's addresses, nothing else."""
    release = open_release(payload.release)
    bases = [f"http://127.0.0.1:{port}" for port in ports]
    environment: dict[str, str] = {}
    extra: list[str] = []
    if method == "http":
        places = [f"{base}/" for base in bases]
    elif method == "ipfs":
        places = [f"ipfs://{release.release.cids[release.manifest.cid_profile or '']}"]
        extra = [word for base in bases for word in ("--gateway", base)]
    elif method == "bittorrent":
        from distribute.torrents import magnet

        hashes = {payload.torrent: release.release.torrents[payload.torrent].infohash}
        places = [magnet(v1=hashes.get("v1"), v2=hashes.get("v2"))]
        extra = ["--local", *(word for port in ports for word in ("--peer", f"127.0.0.1:{port}"))]
    else:
        assert girder is not None
        parts = urlsplit(girder.removeprefix("girder+"))
        through = parts._replace(netloc=f"127.0.0.1:{ports[0]}")
        places = [f"girder+{urlunsplit(through)}"]
        environment["GIRDER_API_URL"] = urlunsplit(through._replace(fragment="")).rstrip("/")
    manifest = ["--manifest", str(release.file(MANIFEST_NAME))]
    patience = ["--patience", f"{options.cap_seconds:g}", "--allow-private", "--force", "--json"]
    return headwater("fetch", *places, *manifest, *patience, *extra, "-o", str(output)), environment


def _energy(row: Row) -> None:
    """Rated power times CPU time over cores, as headwater.energy does for a step; for both ends alike."""
    rated = rated_power() if os.environ.get("HEADWATER_METER", "auto") != "none" else None
    if rated is None:
        return
    watts = rated.cpu_watts / (os.cpu_count() or 1)
    if row.client_cpu_seconds is not None:
        row.client_joules_modelled = round(watts * row.client_cpu_seconds, 3)
    if row.seeders_cpu_seconds is not None:
        row.seeders_joules_modelled = round(watts * row.seeders_cpu_seconds, 3)


def _timeline(row: Row, ended: Ended, lines: list[dict[str, Any]]) -> None:
    row.link_down_bytes = sum(line["down_bytes"] for line in lines)
    row.link_up_bytes = sum(line["up_bytes"] for line in lines)
    row.connections = sum(line["connections"] for line in lines)
    if row.link_down_bytes:
        row.busiest_seeder_share = max(line["down_bytes"] for line in lines) / row.link_down_bytes

    def since(name: str, choose: Any) -> float | None:
        known = [line[name] for line in lines if line[name] is not None]
        return round(choose(known) - ended.started, 4) if known else None

    row.discovery_seconds = since("first_connection", min)
    row.first_byte_seconds, row.last_byte_seconds = since("first_down", min), since("last_down", max)


def _judge(row: Row, ended: Ended, payload: Payload, output: Path) -> None:
    """Finished only when everything is right. Raises Failed with the reason."""
    if ended.code is None:
        row.status = "capped"
        raise Failed(f"not finished after {ended.seconds:g} s: {tail(ended.err)}")
    if ended.code != 0:
        raise Failed(f"exit code {ended.code}: {tail(ended.err)}")
    try:
        row.manifest_id = json.loads(ended.out)["manifest_id"]
    except (ValueError, KeyError, TypeError):
        raise Failed("the client's result cannot be read") from None
    if row.manifest_id != payload.manifest_id:
        raise Failed(f"the client told manifest {row.manifest_id}")
    if problem := differs(output, payload):
        raise Failed(f"after the fetch {problem}")
    row.verified = True
    if row.link_down_bytes is None or row.link_down_bytes < row.payload_bytes:
        raise Failed("bytes came past the link: its figures mean nothing")
    row.status = "finished"
    if row.payload_bytes:
        row.overhead_share = round(row.link_down_bytes / row.payload_bytes - 1, 6)
    if row.last_byte_seconds is not None and row.first_byte_seconds is not None:
        row.transfer_seconds = round(row.last_byte_seconds - row.first_byte_seconds, 4)
        row.finish_seconds = round(ended.seconds - row.last_byte_seconds, 4)


def differs(output: Path, payload: Payload) -> str:
    """What is not as the manifest says, in words; empty when all is right. Reads every file, outside the trial's time."""
    from headwater.manifest import verify_entries

    found = open_release(output)
    if found.release.manifest_id != payload.manifest_id or not (output / INSIDE / MANIFEST_NAME).is_file():
        return "the folder names another manifest"
    entries = open_release(payload.release).manifest.entries
    difference = verify_entries(output, entries, allow_extra=None, workers=2)
    wrong = [*difference.removed, *difference.changed]
    return f"{len(wrong):,} files are missing or wrong, such as {wrong[0]}" if wrong else ""
