"""One torrent in a session of its own: what its peers, trackers and web seeds say, kept so that a stall can be explained.

libtorrent never gives up by itself: without peers, with a piece that always fails its hash, with a tracker that answers
errors it waits. What it tells about each of these is remembered here, and `explain` turns it into one named error.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from distribute.transports._base import Context, SourceError, Stalled, Unreachable, WrongBytes
from distribute.transports._redact import redact
from distribute.transports._torrent_basics import (
    FROM_ANYWHERE,
    bracketed,
    endpoint,
    files_of,
    need_libtorrent,
    open_session,
    settings,
)
from headwater.errors import HeadwaterError
from headwater.files import explain_os_error

if TYPE_CHECKING:
    import libtorrent

Liar = Callable[[str, int, list[str]], None]  # who, piece, files
SAMPLE_SECONDS = 0.5
PACE_SECONDS = 0.03
FLUSH_SECONDS = 120.0  # for what lies in memory to reach the disk
NAMED = 3  # of a list in a message


class Swarm:
    """A handle, its session, and what they said. `paths` names each file of libtorrent's list, None for padding."""

    def __init__(
        self,
        context: Context,
        label: str,
        parameters: libtorrent.add_torrent_params,
        paths: Sequence[str | None] = (),
        *,
        peers: Iterable[str] = (),
        liar: Liar | None = None,
        utp: bool = False,
    ) -> None:
        lt = need_libtorrent()
        self.context, self.label, self.paths = context, label, paths
        self._liar = liar
        self._peers = _dialled(peers)
        self.trackers: dict[str, str] = {}  # last error, empty after an answer
        self.web_seeds: dict[str, str] = dict.fromkeys(parameters.url_seeds, "")
        self.failed: dict[int, set[str]] = {}  # piece: who was told to have sent it wrong
        self.banned: set[tuple[str, int]] = set()
        self._bad: list[int] = []  # pieces that failed, and
        self._guilty: list[tuple[str, int]] = []  # peers that were banned, not yet brought together
        self.seen: set[tuple[str, int]] = set()  # peers that shook hands
        self._met: dict[tuple[str, int], None] = {}  # that were connected, in order
        self._hashfails: dict[tuple[str, int], int] = {}
        self._claimed: set[tuple[str, int]] = set()  # peers that said they had everything
        self._blocked = ""
        self._last_lost = ""
        self._counted: dict[tuple[str, int], int] = {}
        self._sampled = self._heard = 0.0
        self.checked = False
        self.completed: list[int] = []  # files, in the order they became whole
        self._flushed = 0
        chosen = settings(
            "127.0.0.1" if context.local_only else FROM_ANYWHERE[0],
            0,
            local_only=context.local_only,
            utp=utp,
            quick=True,
        )
        # a peer that has nothing for us now stays, so that we know what it has when nothing comes any more
        chosen["close_redundant_connections"] = False
        self.session: libtorrent.session = open_session(
            chosen,
            local_only=context.local_only,
            allow_private=context.allow_private,
            besides=[host for host, _ in self._peers],
        )
        parameters.flags |= lt.torrent_flags.apply_ip_filter
        self.handle: libtorrent.torrent_handle = self.session.add_torrent(parameters)
        self._dial()

    def close(self) -> None:
        """End the session; waits for its threads."""
        self.session.pause()
        del self.handle, self.session

    # ---- what it says

    def listen(self, milliseconds: int = 200) -> None:
        """Wait for events, and take them in. Raises HeadwaterError when the disk fails."""
        self.session.wait_for_alert(milliseconds)
        # it wakes for every single event, of which there may be thousands a second
        time.sleep(max(0.0, self._heard + PACE_SECONDS - time.monotonic()))
        self._heard = time.monotonic()
        batch = self.session.pop_alerts()
        kinds = need_libtorrent()
        for alert in batch:
            if isinstance(alert, kinds.hash_failed_alert):
                self.failed.setdefault(alert.piece_index, set())
                self._bad.append(alert.piece_index)
            self._hear(alert)
        if self._bad and not self._guilty:
            self._suspect()
        self._blame()

    def _suspect(self) -> None:
        """Who sent a bad piece without being banned for it: a web seed, or the only peer there ever was."""
        lt = need_libtorrent()
        new = []
        for peer in self.handle.get_peer_info():
            if peer.num_hashfails > self._hashfails.get(peer.ip, 0):
                self._hashfails[peer.ip] = peer.num_hashfails
                new.append(peer)
        if len(new) == 1 and (
            new[0].connection_type != lt.peer_info.standard_bittorrent or len(self._met) == 1
        ):
            self._guilty.append(new[0].ip)

    def _hear(self, alert: Any) -> None:
        kinds = need_libtorrent()
        if isinstance(alert, kinds.file_completed_alert):
            self.completed.append(alert.index)
        elif isinstance(alert, kinds.cache_flushed_alert):
            self._flushed += 1
        elif isinstance(alert, kinds.torrent_checked_alert):
            self.checked = True
        elif isinstance(alert, kinds.peer_ban_alert):
            self._ban(alert.endpoint)
        elif isinstance(alert, kinds.peer_connect_alert):
            self._met[alert.endpoint] = None
        elif isinstance(alert, kinds.tracker_error_alert):
            self.trackers[alert.url] = redact(alert.error_message() or alert.failure_reason() or "no answer")
        elif isinstance(alert, kinds.tracker_reply_alert):
            self.trackers[alert.url] = ""
        elif isinstance(alert, kinds.url_seed_alert):
            self.web_seeds[alert.server_url()] = redact(alert.error_message())
        elif isinstance(alert, kinds.peer_blocked_alert):
            self._blocked = alert.endpoint[0]
        elif isinstance(alert, kinds.peer_disconnected_alert):
            self._last_lost = alert.error.message() if alert.error.value() else self._last_lost
        elif isinstance(alert, kinds.file_error_alert | kinds.torrent_error_alert):
            self._broken(alert)

    def _broken(self, alert: Any) -> None:
        """The torrent stopped: the disk failed, or its v1 and v2 digests cannot both be right."""
        error = alert.error
        name = alert.filename() if hasattr(alert, "filename") else alert.torrent_name
        if error.category().name() == "libtorrent":
            raise WrongBytes(f"{self.label}: {error.message()}", hint="do not use this torrent: take another")
        raise explain_os_error(OSError(error.value(), error.message(), name), name)

    def _ban(self, who: tuple[str, int]) -> None:
        """libtorrent bans an endpoint; a liar that dials us comes from another port each time, so more is closed."""
        self.banned.add(who)
        self._guilty.append(who)
        shared = {host for host, _ in {*self._peers, *self.seen} - {who}}
        if who[0] in shared or ipaddress.ip_address(who[0]).is_loopback:
            self.session.apply_settings({"enable_incoming_tcp": False})
        else:
            rules = self.session.get_ip_filter()
            rules.add_rule(who[0], who[0], 1)
            self.session.set_ip_filter(rules)

    def _blame(self) -> None:
        """Bring bans and failed pieces together: they come in either order, and not always at once."""
        if not self._bad or not self._guilty:
            return
        for who in dict.fromkeys(self._guilty):
            for piece in dict.fromkeys(self._bad):
                known = self.name_of(who) in self.failed[piece]
                self.failed[piece].add(self.name_of(who))
                if self._liar is not None and not known:
                    self._liar(self.name_of(who), piece, self.files_in(piece))
        self._guilty.clear()
        self._bad.clear()

    def name_of(self, who: tuple[str, int]) -> str:
        """How messages and ledgers call a peer: host:port, or the URL of a web seed without its secrets."""
        for url in self.web_seeds:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            if port == who[1] and (parts.hostname == who[0] or not _numeric(parts.hostname or "")):
                return redact(url)
        return f"{bracketed(who[0])}:{who[1]}"

    def files_in(self, piece: int) -> list[str]:
        """Paths of the files that have bytes in a piece."""
        information = self.handle.torrent_file()
        return [] if information is None else files_of(information.layout(), self.paths, piece)

    # ---- who brought what

    def sample(self, progress: Callable[[str, int], None] | None = None, *, last: bool = False) -> None:
        """Every half second: tell `progress` what came from whom, and dial the peers that we were told of again."""
        lt = need_libtorrent()
        now = time.monotonic()
        if now - self._sampled < SAMPLE_SECONDS and not last:
            return
        self._sampled = now
        connected = set()
        for peer in self.handle.get_peer_info():
            who = peer.ip
            connected.add(who)
            if peer.flags & (lt.peer_info.connecting | lt.peer_info.handshake):
                continue
            if peer.connection_type == lt.peer_info.standard_bittorrent:
                self.seen.add(who)
            if peer.flags & lt.peer_info.seed:
                self._claimed.add(who)
            self._count(who, peer.total_download, progress)
        if last:
            total = self.handle.status().total_payload_download
            missed = total - sum(self._counted.values())
            # a peer that came and went between two samples; the one with the most stands for it
            if missed > 0 and progress is not None:
                most = max(self._counted, key=lambda who: self._counted[who], default=None)
                others = [self.name_of(who) for who in self._met if who not in self.banned]
                others += [redact(url) for url in self.web_seeds]
                name = self.name_of(most) if most else next(iter(others), "peers that left")
                progress(name, missed)
            return
        self._dial(besides=connected)

    def _count(self, who: tuple[str, int], total: int, progress: Callable[[str, int], None] | None) -> None:
        before = self._counted.get(who, 0)
        new = total - before if total >= before else total  # it came back with a counter of its own
        if new > 0:
            self._counted[who] = before + new
            if progress is not None:
                progress(self.name_of(who), new)

    def _dial(self, besides: Iterable[tuple[str, int]] = ()) -> None:
        for peer in self._peers - set(besides) - self.banned:
            self.handle.connect_peer(peer)

    # ---- what it does

    def flush(self) -> None:
        """Bring all that was received to the disk. Raises HeadwaterError when that does not end."""
        before = self._flushed
        self.handle.flush_cache()
        end = time.monotonic() + FLUSH_SECONDS
        while self._flushed == before:
            self.listen(50)
            if time.monotonic() > end:
                raise HeadwaterError(f"{self.label}: the disk took nothing for {FLUSH_SECONDS:g} s")

    def missing(self) -> list[int]:
        """Pieces that are wanted and not there."""
        have = self.handle.status(need_libtorrent().torrent_handle.query_pieces).pieces
        wanted = self.handle.get_piece_priorities()
        return [piece for piece, rank in enumerate(wanted) if rank and not (have and have[piece])]

    def explain(self, seconds: float) -> SourceError:
        """Why nothing came for `seconds`: a WrongBytes that names the piece, an Unreachable, or a Stalled."""
        lt = need_libtorrent()
        missing = self.missing() if self.handle.status().has_metadata else []
        if bad := [piece for piece in missing if piece in self.failed]:
            who = sorted(set().union(*(self.failed[piece] for piece in bad)))
            sent = f"; sent by {_some(who)}" if who else ""
            return WrongBytes(
                f"{self.label}: {self._pieces(bad)} failed its hash{sent}, and nobody else has it",
                hint="add another source",
            )
        peers = [
            peer
            for peer in self.handle.get_peer_info()
            if not peer.flags & (lt.peer_info.connecting | lt.peer_info.handshake)
        ]
        swarm = [peer for peer in peers if peer.connection_type == lt.peer_info.standard_bittorrent]
        nobody = [p for p in missing if not any(p < len(peer.pieces) and peer.pieces[p] for peer in swarm)]
        if swarm and nobody and not any(not error for error in self.web_seeds.values()):
            text = f"{self.label}: no peer has {self._pieces(nobody)}"
            broken = [
                self.name_of(peer.ip)
                for peer in swarm
                if peer.flags & lt.peer_info.upload_only or peer.ip in self._claimed
            ]
            if broken:
                return WrongBytes(
                    f"{text}: the copy of {_some(broken)} is damaged or not whole", hint="add another source"
                )
            return Stalled(text, hint="wait for a seed, or add another source")
        reasons = [f"tracker {redact(url)}: {error}" for url, error in self.trackers.items() if error]
        reasons += [f"web seed {redact(url)}: {error}" for url, error in self.web_seeds.items() if error]
        if self._blocked and not swarm:
            reasons.append(f"{self._blocked} is a private address (--allow-private)")
        if not swarm and self._last_lost:
            reasons.append(f"last connection: {self._last_lost}")
        why = f" ({'; '.join(reasons[:NAMED])})" if reasons else ""
        hint = "see that a seed runs and can be reached, or add another source"
        if not self.seen and not self._counted:
            return Unreachable(f"{self.label}: no peers within {seconds:g} s{why}", hint=hint)
        state = f"{len(swarm)} peers send nothing" if swarm else "no peer is left"
        what = f"; missing is {self._pieces(missing)}" if missing else ""
        return Stalled(f"{self.label}: no byte for {seconds:g} s: {state}{why}{what}", hint=hint)

    def _pieces(self, pieces: list[int]) -> str:
        shown = [f"piece {piece} of {_some(self.files_in(piece))}" for piece in pieces[:NAMED]]
        more = f" and {len(pieces) - NAMED:,} more" if len(pieces) > NAMED else ""
        return ", ".join(shown) + more


def _dialled(peers: Iterable[str]) -> set[tuple[str, int]]:
    """host:port of peers, numeric: libtorrent dials no names."""
    import socket

    found = set()
    for text in peers:
        try:
            host, port = endpoint(text)
            found.add((host if _numeric(host) else str(socket.gethostbyname(host)), port))
        except (ValueError, OSError) as error:
            raise HeadwaterError(f"peer {text!r}: {error}", hint="write it as host:port") from error
    return found


def _numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
