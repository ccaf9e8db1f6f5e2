"""Asking each location of a release whether it is alive and right: it answers, with this manifest, and sampled pieces fit.

What counts as right is decided here, by the release on this disk; a location says nothing that is believed. A sample that fits
does not prove the rest: what it cannot see is told with it.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from distribute.fetching.pieces import Pieces, right_bytes
from distribute.torrents import TorrentFile
from distribute.transports._base import (
    Context,
    NotThere,
    Source,
    SwarmSource,
    Wanted,
    WrongBytes,
)
from distribute.transports._redact import redact
from distribute.transports._registry import open_source, transport_of
from headwater.console import track
from headwater.errors import BadInputs, HeadwaterError, IntegrityError, MissingInput
from headwater.manifest import FileEntry
from headwater.release import (
    LOCATIONS_NAME,
    MANIFEST_NAME,
    Locations,
    OpenRelease,
    read_document,
    read_limited,
)

State = Literal["right", "wrong", "incomplete", "dead", "not asked"]
WHOLE_BYTES = (
    64 << 20
)  # a file without a piece layer is read whole: up to this size, where there are such files


@dataclass
class Answer:
    """What one location had to say."""

    location: str
    kind: str
    state: State = "dead"
    detail: str = ""
    manifest: Literal["this", "another", "none"] | None = None
    pieces_asked: int = 0
    pieces_right: int = 0
    read_bytes: int = 0
    first_byte_seconds: float | None = None
    seconds: float = 0.0


def ask_all(
    release: OpenRelease, locations: Sequence[str], context: Context, *, pieces: int = 5, seed: int = 0
) -> list[Answer]:
    """What each of `locations` answers, in their order. Raises MissingInput when there is none."""
    asked = list(dict.fromkeys(locations))
    if not asked:
        raise MissingInput(
            f"{release.meta}: no location is known", hint="name one: headwater mirror RELEASE https://…"
        )
    probes = choose_probes(release, pieces, seed)
    with (
        track("ask", total=len(asked), unit="locations") as bar,
        ThreadPoolExecutor(min(len(asked), 8)) as pool,
    ):

        def one(numbered: tuple[int, str]) -> Answer:
            number, location = numbered
            own = replace(context, work=context.work / str(number))
            answer = ask(release, location, probes, own, seed)
            bar.add(note=answer.location[:40])
            return answer

        return list(pool.map(one, enumerate(asked)))


def table(release: OpenRelease, answers: list[Answer]) -> dict[str, Any]:
    """The answers as a document."""
    found = [asdict(answer) for answer in answers]
    return {"manifest_id": release.release.manifest_id, "locations": found}


def report(release: OpenRelease, answers: list[Answer]) -> dict[str, Any]:
    """The table as a result.

    Raises IntegrityError when one gave wrong bytes, BadInputs when one is dead or incomplete; the table is in the message.
    """
    width = max(len(answer.state) for answer in answers)
    lines = [
        f"{answer.state:<{width}}  {answer.kind:<10}  {answer.location}: {answer.detail}"
        for answer in answers
    ]
    text = "\n".join(lines)
    states = [answer.state for answer in answers]
    if "wrong" in states:
        raise IntegrityError(
            f"a location gives wrong bytes:\n{text}", hint="take it out of the list, and tell its keeper"
        )
    if any(state in ("dead", "incomplete") for state in states):
        alive = states.count("right")
        raise BadInputs(
            f"{alive} of {len(states)} locations are alive and right:\n{text}",
            hint="put it there again: headwater publish --via",
        )
    return {**table(release, answers), "text": text}


@dataclass(frozen=True)
class Probe:
    """One stretch of a file that must have known bytes."""

    wanted: Wanted
    offset: int
    length: int
    piece: int | None  # of `pieces`; None: the whole file
    pieces: Pieces | None


def choose_probes(release: OpenRelease, count: int, seed: int) -> list[Probe]:
    """`count` pieces drawn by size: every byte that can be looked at without reading a large file whole is as likely. Fixed by the seed."""
    layers = piece_layers(release)
    entries = [entry for entry in release.manifest.entries if entry.size_bytes]
    if not entries:
        return []
    affordable = [entry for entry in entries if entry.path in layers or entry.size_bytes <= WHOLE_BYTES]
    entries = affordable or [min(entries, key=lambda entry: entry.size_bytes)]
    chance = random.Random(seed)
    drawn = chance.choices(entries, weights=[entry.size_bytes for entry in entries], k=count)
    return [_probe(entry, layers, chance) for entry in drawn]


def piece_layers(release: OpenRelease) -> dict[str, tuple[int, bytes]]:
    """By path, (piece size, layer) of files larger than a piece, from the release's own v2 or hybrid torrent."""
    for kind in ("v2", "hybrid"):
        if kind in release.release.torrents:
            file = release.file(release.release.torrents[kind].file)
            try:
                torrent = TorrentFile.parse(read_limited(file), names="safe")
            except IntegrityError as error:
                raise IntegrityError(
                    f"{file}: {error.message}", hint="take it from another place, or publish again"
                ) from error
            roots = {entry.path: entry.bt_v2_root for entry in release.manifest.entries}
            return {
                one.path: (torrent.piece_size, one.layer)
                for one in torrent.files
                if one.root is not None and one.layer and roots.get(one.path) == one.root.hex()
            }
    return {}


def _probe(entry: FileEntry, layers: dict[str, tuple[int, bytes]], chance: random.Random) -> Probe:
    wanted = Wanted.of(entry)
    piece_size, layer = layers.get(entry.path, (0, b""))
    if entry.bt_v2_root is None or not layer:
        return Probe(wanted, 0, entry.size_bytes, None, None)
    pieces = Pieces(entry.size_bytes, piece_size, bytes.fromhex(entry.bt_v2_root), layer)
    number = chance.randrange(len(pieces))
    offset, length = pieces.span(number)
    return Probe(wanted, offset, length, number, pieces)


def ask(release: OpenRelease, location: str, probes: list[Probe], context: Context, seed: int) -> Answer:
    """Everything about one location; never raises for what the other side does."""
    started = time.monotonic()
    answer = Answer(location=redact(location), kind="?")
    try:
        answer.kind = transport_of(location)
        if answer.kind == "ipfs" and not (context.gateways or context.ipfs_api):
            answer.state, answer.detail = (
                "not asked",
                "name a gateway to ask: --gateway URL, or --ipfs-api URL",
            )
            return answer
        source = open_source(location, context)
        try:
            if isinstance(source, SwarmSource):
                _ask_swarm(source, context, answer, seed)
            else:
                _ask_source(source, release, probes, answer)
        finally:
            source.close()
    except WrongBytes as error:
        answer.state, answer.detail = "wrong", error.message
    except NotThere as error:
        answer.state, answer.detail = "incomplete", error.message
    except HeadwaterError as error:
        answer.state = "dead"
        answer.detail = f"{error.message} ({error.hint})" if error.hint else error.message
    finally:
        answer.seconds = round(time.monotonic() - started, 3)
    return answer


def _ask_source(source: Source, release: OpenRelease, probes: list[Probe], answer: Answer) -> None:
    raw = source.release_file(MANIFEST_NAME)
    if raw is None:
        answer.manifest = "none"
    elif hashlib.sha256(raw).hexdigest() != release.release.manifest_id:
        answer.manifest = "another"
        raise NotThere("it has another manifest: an older or a newer version")
    else:
        answer.manifest = "this"
    for probe in probes:
        started = time.monotonic()
        data = bytearray()
        for block in source.read(probe.wanted, probe.offset, probe.length):
            if answer.first_byte_seconds is None:
                answer.first_byte_seconds = round(time.monotonic() - started, 4)
            data += block
        answer.pieces_asked += 1
        answer.read_bytes += len(data)
        if not _fits(probe, data):
            where = (
                f"piece {probe.piece} at {probe.offset:,}" if probe.piece is not None else "the whole file"
            )
            raise WrongBytes(f"{probe.wanted.path}, {where}: not the bytes of the manifest")
        answer.pieces_right += 1
    answer.state = "right"
    has = {"this": "has the manifest", "none": "has no manifest.json"}[answer.manifest]
    answer.detail = f"{has}; {answer.pieces_right} sampled pieces ({answer.read_bytes:,} bytes) fit"


def _fits(probe: Probe, data: bytearray) -> bool:
    if len(data) != probe.length:
        return False
    if probe.pieces is not None and probe.piece is not None:
        return probe.pieces.right(probe.piece, bytes(data))
    return right_bytes(probe.wanted, bytes(data))


def _ask_swarm(source: SwarmSource, context: Context, answer: Answer, seed: int) -> None:
    from distribute.transports.bittorrent import BitTorrentSource, alive

    assert isinstance(source, BitTorrentSource)
    found = alive(source, context, seed=seed)
    answer.pieces_asked = answer.pieces_right = int(found.sampled_piece is not None)
    if not found.alive:
        answer.detail = found.error or "no peer has it"
        return
    complete = found.distributed_copies >= 1 or found.seeds or found.web_seeds
    answer.state = "right" if complete else "incomplete"
    answer.detail = (
        f"{found.peers} peers, {found.seeds} seeds, {found.web_seeds} web seeds; {found.distributed_copies:.1f} copies of the rarest "
        f"piece; piece {found.sampled_piece} fits"
    )


def known_locations(release: OpenRelease) -> list[str]:
    """What locations.json says, in its order."""
    file = release.file(LOCATIONS_NAME)
    if not file.is_file():
        return []
    found = read_document(file, Locations)
    if found.manifest_id != release.release.manifest_id:
        raise IntegrityError(f"{file}: is about another manifest", hint="remove it, or publish again")
    return [location.url for location in found.locations]
