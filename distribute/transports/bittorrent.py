"""BitTorrent: a swarm of peers and web seeds as one source, v1, v2 and hybrid, through libtorrent.

    magnet:?xt=…      the metadata comes from peers (`context.peers`, x.pe, trackers, DHT), and is kept in `context.work`
    FILE.torrent      a file here; a torrent from the web goes through `from_bytes`

A torrent is parsed by our own reader before libtorrent sees it; its sizes and paths are bounded. Peers prove every piece
against the infohash; the engine still checks each file against the manifest.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distribute.torrents import Magnet, TorrentFile, magnet, parse_magnet
from distribute.transports._base import Context, NotThere, Published, SourceError, SwarmSource, Wanted
from distribute.transports._torrent_alive import Alive, sample_piece
from distribute.transports._torrent_basics import allowed_urls, need_libtorrent
from distribute.transports._torrent_fetch import Download
from distribute.transports._torrent_swarm import Liar, Swarm
from headwater.errors import HeadwaterError, IntegrityError, UsageError
from headwater.files import FOLDER_MODE, atomic_file, named_io
from headwater.release import Location, OpenRelease, read_limited

SCHEMES = ("magnet:",)  # and any path that ends in .torrent
SUFFIX = ".torrent"


@dataclass(frozen=True)
class Outlined:
    """A file that a torrent has."""

    path: str
    size_bytes: int


def open_source(location: str, context: Context) -> BitTorrentSource:
    """A magnet link, or the path of a .torrent file. The metadata of a magnet is asked for when it is first needed.

    Raises MissingExtra without libtorrent, IntegrityError for a hostile link or torrent, MissingInput for a missing file.
    """
    need_libtorrent()
    if location.lower().startswith("magnet:"):
        return BitTorrentSource(context, magnet_link=parse_magnet(location))
    if location.lower().endswith(SUFFIX) and "://" not in location:
        return from_bytes(read_limited(Path(location), context.limits.document_bytes), location, context)
    raise UsageError(
        f"{location}: neither a magnet link nor a .torrent file",
        hint="a torrent from the web is read over HTTP",
    )


def from_bytes(raw: bytes, label: str, context: Context) -> BitTorrentSource:
    """A source from the bytes of a .torrent file. Raises IntegrityError when they are hostile, MissingExtra."""
    need_libtorrent()
    return BitTorrentSource(context, torrent=raw, label=label)


def publish(release: OpenRelease, target: str, context: Context, *, dry_run: bool) -> Published:
    """The magnet link of a release; nothing is written or sent. `target`: trackers to add, separated by blanks or commas.

    Raises NotThere when the release has no torrent.
    """
    torrents = {kind: t for kind, t in release.release.torrents.items() if kind != "delta"}
    if not torrents:
        raise NotThere(f"{release.meta}: no torrent was made", hint="headwater publish --via bittorrent")
    trackers: list[str] = target.replace(",", " ").split()
    web_seeds: list[str] = []
    for torrent in torrents.values():
        parsed = TorrentFile.parse(read_limited(release.file(torrent.file)), names="safe")
        trackers += [url for tier in parsed.trackers for url in tier]
        web_seeds += parsed.web_seeds
    chosen = torrents.get("v1") or torrents.get("v2") or next(iter(torrents.values()))
    hashes = {("v1" if len(t.infohash) == 40 else "v2"): t.infohash for t in (chosen,)}
    link = magnet(
        **hashes,
        name=release.release.name,
        trackers=list(dict.fromkeys(trackers)),
        web_seeds=list(dict.fromkeys(web_seeds)),
    )
    actions = [f"{kind} torrent {t.infohash}: headwater seed {release.meta}" for kind, t in torrents.items()]
    return Published(Location(kind="bittorrent", url=link), 0, release.release.files, actions, link)


class BitTorrentSource(SwarmSource):
    """One torrent. `download` is for one thread at a time; the rest may be asked from any."""

    kind = "bittorrent"

    def __init__(
        self,
        context: Context,
        *,
        magnet_link: Magnet | None = None,
        torrent: bytes | None = None,
        label: str = "",
    ) -> None:
        self._context = context
        self._magnet = magnet_link
        self._raw = torrent
        self._parsed = None if torrent is None else TorrentFile.parse(torrent, names="safe")
        if magnet_link is not None:
            label = f"magnet {(magnet_link.infohash_v1 or magnet_link.infohash_v2 or '')[:12]}"
        self.label = label

    @property
    def torrent(self) -> TorrentFile:
        """The metadata; from peers when it is not known yet. Raises Unreachable or Stalled after `stall_seconds`."""
        if self._parsed is None:
            self._raw, self._parsed = self._metadata()
        return self._parsed

    def release_file(self, name: str) -> bytes | None:
        """v1.torrent, v2.torrent or hybrid.torrent, whichever this is; a v2 torrent from a magnet has no piece layers: None."""
        parsed = self.torrent
        if name != f"{_kind(parsed)}{SUFFIX}" or (parsed.infohash_v2 and self._magnet is not None):
            return None
        return self._raw

    def listing(self) -> list[Wanted] | None:
        """The files with their v2 roots; None for a v1 torrent, whose pieces prove no file by itself (see `outline`)."""
        parsed = self.torrent
        if parsed.infohash_v2 is None:
            return None
        return [
            Wanted(file.path, file.size_bytes, bt_v2_root=file.root.hex() if file.root else None)
            for file in parsed.files
            if file.root or not file.size_bytes
        ]

    def outline(self) -> list[Outlined]:
        """Paths and sizes in bytes, of any torrent."""
        return [Outlined(file.path, file.size_bytes) for file in self.torrent.files]

    def holds(self, wanted: Wanted) -> bool:
        """Whether the torrent has a file of this path and size, and no other digest for it."""
        return wanted.path in self._matching([wanted])

    def read(self, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        """Not offered: a swarm decides itself which piece comes when. Raises SourceError."""
        raise SourceError(f"{self.label}: a swarm gives whole files only", hint="use download")

    def download(
        self,
        wanted: Sequence[Wanted],
        folder: Path,
        progress: Callable[[str, int], None],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        liar: Liar | None = None,
        extra_web_seeds: Sequence[str] = (),
        utp: bool = False,
    ) -> Iterator[Path]:
        """Bring `wanted` to `folder/PATH` (the folder is for this download alone); yields each path when it is on the disk.

        Files that the torrent does not have are left out; when it has none of them NotThere is raised. Pieces that are below
        `folder` from an earlier run are kept: after a kill they are hashed again, after an end in order they are believed.
        `progress(peer or web seed, bytes)`; `liar(peer or web seed, piece, paths)` once for each that sent wrong bytes.
        `extra_web_seeds` are bases of HTTP mirrors (`<base>/NAME/…`), used with v1.

        Raises after `Limits.stall_seconds` without a byte: WrongBytes naming file and piece where a piece failed its hash or
        no copy has it, Unreachable where no peer answered, Stalled otherwise; HeadwaterError when the disk fails.
        """
        parsed = self.torrent
        assert self._raw is not None
        chosen = self._matching(wanted)
        if wanted and not chosen:
            raise NotThere(
                f"{self.label}: the torrent has none of the {len(wanted):,} files", hint="another source"
            )
        for path in [path for path, file in chosen.items() if not file.size_bytes]:
            del chosen[path]  # no piece holds it
            yield _empty(folder / path)
        if not chosen:
            return
        link = self._magnet
        run = Download(
            self._raw,
            parsed,
            self.label,
            chosen,
            folder,
            self._context,
            peers=self._peers(),
            trackers=link.trackers if link else (),
            web_seeds=[*(link.web_seeds if link else ()), *extra_web_seeds],
            liar=liar,
            utp=utp,
        )
        yield from run.run(progress, cancelled)

    def _peers(self) -> list[str]:
        return [*self._context.peers, *(self._magnet.peers if self._magnet else ())]

    def _matching(self, wanted: Sequence[Wanted]) -> dict[str, Wanted]:
        there = {file.path: file for file in self.torrent.files}
        found = {}
        for file in wanted:
            mine = there.get(file.path)
            if mine is None or mine.size_bytes != file.size_bytes:
                continue
            if mine.root and file.bt_v2_root and mine.root.hex() != file.bt_v2_root:
                continue  # another version of the file
            found[file.path] = file
        return found

    def _metadata(self) -> tuple[bytes, TorrentFile]:
        assert self._magnet is not None
        wanted = self._magnet
        kept = self._context.work / f"{wanted.infohash_v2 or wanted.infohash_v1}{SUFFIX}"
        if kept.is_file():
            try:
                return _proven(read_limited(kept), wanted)
            except HeadwaterError:
                kept.unlink(missing_ok=True)  # damaged here: ask again
        raw, parsed = _proven(_asked(wanted, self.label, self._context, self._peers()), wanted)
        with named_io(kept):
            kept.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        with atomic_file(kept) as file:
            file.write(raw)
        return raw, parsed


def _kind(parsed: TorrentFile) -> str:
    return "hybrid" if parsed.infohash_v1 and parsed.infohash_v2 else "v2" if parsed.infohash_v2 else "v1"


def _empty(path: Path) -> Path:
    with named_io(path):
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        path.write_bytes(b"")
    return path


def _proven(raw: bytes, link: Magnet) -> tuple[bytes, TorrentFile]:
    """A torrent that has the link's infohashes and passes our reader."""
    parsed = TorrentFile.parse(raw, names="safe", need_layers=False)
    for said, found in ((link.infohash_v1, parsed.infohash_v1), (link.infohash_v2, parsed.infohash_v2)):
        if said is not None and said != found:
            raise IntegrityError(f"torrent: its infohash is {found}, the magnet link says {said}")
    return raw, parsed


def _asked(link: Magnet, label: str, context: Context, peers: Sequence[str]) -> bytes:
    """The info dictionary from peers, as a torrent. Raises Unreachable or Stalled after `stall_seconds` of silence."""
    lt = need_libtorrent()
    bare = magnet(v1=link.infohash_v1, v2=link.infohash_v2)
    parameters = lt.parse_magnet_uri(bare)
    parameters.trackers = allowed_urls(link.trackers, local_only=context.local_only)
    parameters.tracker_tiers = [0] * len(parameters.trackers)
    parameters.save_path = str(context.work)
    flags = lt.torrent_flags
    parameters.flags = (flags.default_flags | flags.default_dont_download) & ~(
        flags.auto_managed | flags.paused
    )
    swarm = Swarm(context, label, parameters, peers=peers)
    try:
        limit = context.limits.stall_seconds
        end, met = time.monotonic() + limit, 0
        while not swarm.handle.status().has_metadata:
            swarm.listen(50)
            swarm.sample()
            if len(swarm.seen) > met:  # somebody new may have it
                met, end = len(swarm.seen), time.monotonic() + limit
            if context.stop.is_set() or time.monotonic() > end:
                raise swarm.explain(limit)
        information = swarm.handle.torrent_file()
        assert information is not None
        return b"d4:info" + bytes(information.info_section()) + b"e"
    finally:
        swarm.close()


def alive(source: BitTorrentSource, context: Context, *, seed: int | None = None) -> Alive:
    """Whether a torrent can be had now: one piece, drawn at random from those that somebody has, is fetched and checked.

    Web seeds that the torrent names count as somebody who has everything. Never raises SourceError: it is in `error`.
    """
    start = time.monotonic()
    answer = Alive()
    try:
        parsed = source.torrent
        assert source._raw is not None
        sample_piece(source._raw, parsed, source.label, context, source._peers(), answer, random.Random(seed))
    except SourceError as error:
        answer.error = error.message
    answer.seconds = round(time.monotonic() - start, 3)
    return answer
