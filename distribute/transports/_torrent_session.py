"""A seed that never writes: torrents served from files that may be the user's only copy.

In libtorrent's seed mode a piece is checked when it is first asked for; one that fails makes the torrent an ordinary one,
which would fetch the piece from a healthy peer and write it over the user's file. `upload_mode` forbids every request, so
that no byte is ever written: the damage is reported instead, and the piece is not offered any more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from distribute.transports._redact import redact
from distribute.transports._torrent_basics import (
    FROM_ANYWHERE,
    allowed_urls,
    bracketed,
    files_of,
    hash_text,
    load,
    need_libtorrent,
    open_session,
    own_paths,
    place,
    settings,
)
from headwater.console import say
from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from headwater.release import read_limited

if TYPE_CHECKING:
    import libtorrent

    from distribute.torrents import TorrentFile


class SeedSession:
    """Serves torrents from files that are only ever read, until `close`. A context manager, safe to ask from any thread.

    `torrents` are .torrent files of one folder of data: `data` itself, or NAME below `data_parent`. `trackers` come on top of
    those in the torrents; `announce=False` tells nobody (peers must be told where we are). `upload_limit` in bytes per second.
    Raises MissingInput and IntegrityError when a file is missing or has another size, MissingExtra without libtorrent.
    """

    def __init__(
        self,
        torrents: Sequence[Path],
        data_parent: Path | None,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        data: Path | None = None,
        trackers: Sequence[str] = (),
        upload_limit: int = 0,
        local_only: bool = False,
        announce: bool = True,
        utp: bool = False,
    ) -> None:
        lt = need_libtorrent()
        self._lock = threading.Lock()
        self._damaged: dict[tuple[str, int], str] = {}
        self._files: dict[str, tuple[libtorrent.file_storage, list[str | None]]] = {}
        self._handles: list[libtorrent.torrent_handle] = []
        self.host = host
        self.names: list[str] = []
        loaded = []
        for torrent in torrents:
            parameters, parsed = _loaded(torrent)
            loaded.append(parameters)
            folder = data if data is not None else _below(data_parent, parsed)
            paths = own_paths(parameters, parsed)
            place(parameters, paths, folder)
            _all_there(parsed, folder)
            assert parameters.ti is not None
            self._files[hash_text(parameters.ti.info_hashes())] = (parameters.ti.layout(), paths)
            self.names.append(parsed.name)
            # no web seed: an HTTP face of ours would be asked by ourselves
            parameters.url_seeds, parameters.http_seeds = [], []
            known = allowed_urls([*parameters.trackers, *trackers], local_only=local_only)
            parameters.trackers = list(dict.fromkeys(known)) if announce else []
            parameters.tracker_tiers = [0] * len(parameters.trackers)
            parameters.flags = lt.torrent_flags.seed_mode | lt.torrent_flags.upload_mode
            if not announce:
                parameters.flags |= lt.torrent_flags.disable_dht | lt.torrent_flags.disable_lsd
        chosen = settings(host, port, local_only=local_only, utp=utp, upload_limit=upload_limit)
        if not announce:
            chosen["enable_dht"] = chosen["enable_lsd"] = False
        # a seed connects to nobody that it was not told of by a tracker or by the peer itself
        session = open_session(chosen, local_only=local_only, allow_private=True)
        self._session: libtorrent.session | None = session
        self.port = int(session.listen_port())
        for parameters in loaded:
            self._handles.append(session.add_torrent(parameters))

    def __enter__(self) -> SeedSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def magnets(self) -> list[str]:
        """A magnet link for each torrent, in the order given, with trackers and, where it is one address, our own."""
        from distribute.torrents import magnet

        peers = [] if self.host in ("", *FROM_ANYWHERE) else [f"{bracketed(self.host)}:{self.port}"]
        links = []
        for handle, name in zip(self._handles, self.names, strict=True):
            hashes = handle.info_hashes()
            links.append(
                magnet(
                    v1=str(hashes.v1) if hashes.has_v1() else None,
                    v2=str(hashes.v2) if hashes.has_v2() else None,
                    name=name,
                    trackers=[tracker["url"] for tracker in handle.trackers()],
                    peers=peers,
                )
            )
        return links

    def stats(self) -> dict[str, Any]:
        """{"uploaded_bytes", "upload_bytes_per_second", "peers", "damaged": [text], "torrents"} since the start."""
        with self._lock:
            if self._session is None:
                raise HeadwaterError("the seed was closed")
            self._listen_to_alerts(self._session)
            states = [handle.status() for handle in self._handles]
            return {
                "uploaded_bytes": sum(state.total_payload_upload for state in states),
                "upload_bytes_per_second": sum(state.upload_payload_rate for state in states),
                "peers": sum(state.num_peers for state in states),
                "damaged": list(self._damaged.values()),
                "torrents": len(states),
            }

    def _listen_to_alerts(self, session: libtorrent.session) -> None:
        lt = need_libtorrent()
        for alert in session.pop_alerts():
            if isinstance(alert, lt.hash_failed_alert):
                layout, paths = self._files[hash_text(alert.handle.info_hashes())]
                names = ", ".join(files_of(layout, paths, alert.piece_index))
                text = f"{names}: piece {alert.piece_index} on this disk fails its hash; it is not served"
                key = (names, alert.piece_index)
            elif isinstance(alert, lt.file_error_alert):
                text = redact(alert.message())
                key = (text, -1)
            else:
                continue
            if key not in self._damaged:
                self._damaged[key] = text
                say("error", text)

    def connect(self, host: str, port: int) -> None:
        """Dial a peer: for one that cannot reach us."""
        for handle in self._handles:
            handle.connect_peer((host, port))

    def close(self) -> None:
        """Stop; a second call does nothing."""
        with self._lock:
            session, self._session = self._session, None
            self._handles.clear()
        if session is not None:
            session.pause()
            del session  # waits until its threads have ended


def _loaded(path: Path) -> tuple[libtorrent.add_torrent_params, TorrentFile]:
    from distribute.torrents import TorrentFile

    raw = read_limited(path)
    return load(raw, TorrentFile.parse(raw, names="safe"))


def _below(data_parent: Path | None, parsed: TorrentFile) -> Path:
    if data_parent is None:
        raise MissingInput("a seed needs the folder of its files")
    return data_parent if parsed.single else data_parent / parsed.name


def _all_there(parsed: TorrentFile, folder: Path) -> None:
    """libtorrent makes missing files itself; it must find none missing and none of another size."""
    for file in parsed.files:
        path = folder / file.path
        try:
            size = path.stat().st_size
        except OSError as error:
            raise MissingInput(
                f"{path}: cannot be seeded ({error.strerror})", hint="headwater verify"
            ) from error
        if size != file.size_bytes:
            raise IntegrityError(
                f"{path}: {size:,} bytes, the torrent says {file.size_bytes:,}", hint="headwater verify"
            )
