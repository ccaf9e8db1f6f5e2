"""Asking a swarm whether it lives: how many peers, which pieces they have, and one piece really fetched and checked."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from distribute.transports._base import Context
from distribute.transports._redact import redact
from distribute.transports._torrent_basics import allowed_urls, load, need_libtorrent, own_paths, place
from distribute.transports._torrent_swarm import Swarm
from headwater.files import FOLDER_MODE, named_io

if TYPE_CHECKING:
    from distribute.torrents import TorrentFile

HELD_BACK = 4  # the sampled piece would take so many seconds, until all have been counted
MEET_SECONDS = 1.0  # after the first peer, for others to come


@dataclass
class Alive:
    """What was found. `distributed_copies`: how often the rarest piece is there, with a fraction for the rest."""

    alive: bool = False
    peers: int = 0
    seeds: int = 0
    web_seeds: int = 0
    pieces: int | None = None
    pieces_available: int = 0
    distributed_copies: float = 0.0
    sampled_piece: int | None = None
    sampled_files: list[str] = field(default_factory=list)
    sampled_from: list[str] = field(default_factory=list)
    trackers: dict[str, str] = field(default_factory=dict)  # error, or ok
    error: str | None = None
    seconds: float = 0.0


def sample_piece(
    raw: bytes,
    parsed: TorrentFile,
    label: str,
    context: Context,
    peers: Sequence[str],
    answer: Alive,
    chance: random.Random,
) -> None:
    """Fill `answer`; what is fetched goes to a folder that is taken away. Raises what `Swarm.explain` says."""
    with named_io(context.work):
        context.work.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="sample-", dir=context.work))
    try:
        lt = need_libtorrent()
        parameters, _ = load(raw, parsed)
        paths = own_paths(parameters, parsed)
        place(parameters, paths, folder)
        parameters.trackers = allowed_urls(parameters.trackers, local_only=context.local_only)
        parameters.tracker_tiers = [0] * len(parameters.trackers)
        seeds = parameters.url_seeds if parsed.pieces is not None else []
        parameters.url_seeds = allowed_urls(seeds, local_only=context.local_only)
        parameters.http_seeds = []
        assert parameters.ti is not None
        answer.pieces = parameters.ti.num_pieces()
        piece = chance.randrange(answer.pieces)
        # a reader that wants nothing is left alone by seeds: one piece is wanted from the start, and held back by the limit
        # until all have been counted
        parameters.piece_priorities = [7 if n == piece else 0 for n in range(answer.pieces)]
        parameters.download_limit = parsed.piece_size // HELD_BACK
        flags = lt.torrent_flags
        parameters.flags = flags.default_flags & ~(flags.auto_managed | flags.paused)
        swarm = Swarm(context, label, parameters, paths, peers=peers)
        try:
            _meet(swarm, answer)
            _fetch(swarm, answer, piece, chance)
        finally:
            answer.trackers = {redact(url): error or "ok" for url, error in swarm.trackers.items()}
            swarm.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _meet(swarm: Swarm, answer: Alive) -> None:
    """Wait until somebody is there, or until all trackers and web seeds have had their time."""
    lt = need_libtorrent()
    limit = swarm.context.limits.stall_seconds
    end, met = time.monotonic() + limit, 0.0
    while not swarm.context.stop.is_set():
        swarm.listen(50)
        swarm.sample()
        now = time.monotonic()
        met = met or (now if swarm.seen or swarm.web_seeds else 0.0)
        if now > end or (met and now - met > MEET_SECONDS):
            break
    status = swarm.handle.status(lt.torrent_handle.query_distributed_copies)
    there = [
        p
        for p in swarm.handle.get_peer_info()
        if not p.flags & (lt.peer_info.connecting | lt.peer_info.handshake)
    ]
    answer.peers, answer.seeds = len(there), sum(bool(p.flags & lt.peer_info.seed) for p in there)
    answer.web_seeds = len(swarm.web_seeds)
    answer.distributed_copies = round(max(status.distributed_copies, 0.0), 3)
    answer.pieces_available = sum(count > 0 for count in swarm.handle.piece_availability())


def _fetch(swarm: Swarm, answer: Alive, piece: int, chance: random.Random) -> None:
    limit = swarm.context.limits.stall_seconds
    had = [n for n, count in enumerate(swarm.handle.piece_availability()) if count]
    if not had and swarm.web_seeds:
        had = list(range(answer.pieces or 0))
    if not had:
        raise swarm.explain(limit)
    if piece not in had and not swarm.handle.have_piece(piece):
        piece = chance.choice(had)
    answer.sampled_piece, answer.sampled_files = piece, swarm.files_in(piece)
    swarm.handle.piece_priority(piece, 7)
    swarm.handle.set_download_limit(0)
    senders: dict[str, int] = {}

    def count(who: str, amount: int) -> None:
        senders[who] = senders.get(who, 0) + amount

    end = time.monotonic() + limit
    while not swarm.handle.have_piece(piece):
        swarm.listen(50)
        swarm.sample(count)
        if piece in swarm.failed or swarm.context.stop.is_set() or time.monotonic() > end:
            raise swarm.explain(limit)
    swarm.sample(count, last=True)
    answer.sampled_from = sorted(senders)
    answer.alive = True
