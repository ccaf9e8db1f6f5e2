"""What every libtorrent session here shares: settings that were measured to matter, addresses it may use, safe paths.

uTP is off: on a local network it was measured at 12 MB/s where TCP gave 200. Peers, trackers and web seeds at addresses
that the context does not allow are blocked inside libtorrent, on the address that is connected to. A torrent is read by our
own parser first, and its files are called on disk what that parser found safe.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headwater.errors import HeadwaterError, IntegrityError, MissingExtra

if TYPE_CHECKING:
    import libtorrent

    from distribute.torrents import TorrentFile

START_SECONDS = 10.0  # in which a session must listen
FROM_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - a seed is for others

# what is_global leaves out, as the ranges that libtorrent's filter takes
PRIVATE = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/3", "::/127", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "2001:db8::/32", "fc00::/7"),
    *("fe80::/10", "fec0::/10", "ff00::/8"),
)
OUTSIDE_LOOPBACK = (
    "0.0.0.0-126.255.255.255 128.0.0.0-255.255.255.255 ::-:: ::2-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
)


def need_libtorrent() -> Any:
    """The module. Raises MissingExtra with the command that installs it."""
    try:
        import libtorrent as lt
    except ImportError as error:
        raise MissingExtra(
            "BitTorrent needs the package libtorrent", hint="pip install 'headwater[torrent]'"
        ) from error
    return lt


def settings(
    host: str,
    port: int,
    *,
    local_only: bool,
    utp: bool = False,
    upload_limit: int = 0,
    quick: bool = False,
) -> dict[str, Any]:
    """Settings of a session that listens on host:port (0: any). `upload_limit` in bytes per second, 0 is none.

    `quick` ticks ten times a second, so that a fetch starts at once; a seed does not need it.
    """
    lt = need_libtorrent()
    kinds = lt.alert.category_t
    outside = not local_only
    return {
        "user_agent": "headwater",
        "listen_interfaces": ",".join(f"{bracketed(h)}:{port}" for h in _listening(host)),
        "listen_system_port_fallback": False,  # another port than the one that was asked for helps nobody
        "max_retry_port_bind": 0,
        "enable_dht": outside,
        "enable_lsd": outside,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": utp,
        "enable_incoming_utp": utp,
        "allow_multiple_connections_per_ip": True,  # several seeds on one machine
        "apply_ip_filter_to_trackers": True,
        "announce_to_all_trackers": True,
        "announce_to_all_tiers": True,
        "min_reconnect_time": 1,  # a seed that comes back is taken up at once
        "max_failcount": 100,
        "connections_limit": 400,
        "listen_queue_size": 50,
        "tick_interval": 100 if quick else 500,
        "stop_tracker_timeout": 1,
        "alert_queue_size": 200_000,
        "alert_mask": kinds.error_notification
        | kinds.status_notification
        | kinds.storage_notification
        | kinds.tracker_notification
        | kinds.connect_notification
        | kinds.peer_notification
        | kinds.ip_block_notification
        | kinds.file_progress_notification,
        "upload_rate_limit": upload_limit,
        "local_upload_rate_limit": upload_limit,  # peers of the same network have a limit of their own
        # libtorrent's own buffers, queues and threads are left alone: on 1 GB over loopback larger send buffers cost a third of
        # the rate, longer request queues, other disk back ends and more hashing threads gained nothing
        "unchoke_slots_limit": -1,  # who asks is served
        "urlseed_timeout": 10,
        "urlseed_wait_retry": 5,
    }


def _listening(host: str) -> tuple[str, ...]:
    return FROM_ANYWHERE if host in ("", "*", FROM_ANYWHERE[0]) else (host,)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def endpoint(text: str) -> tuple[str, int]:
    """("127.0.0.1", 6881) from host:port or [host]:port. Raises ValueError."""
    host, _, port = text.rpartition(":")
    number = int(port)
    if not host or not 0 < number < 65536:
        raise ValueError(f"not host:port: {text!r}")
    return host.strip("[]"), number


def open_session(
    chosen: dict[str, Any], *, local_only: bool, allow_private: bool, besides: Iterable[str] = ()
) -> libtorrent.session:
    """A session whose connections obey the rule about addresses; those in `besides` were named by the user.

    Raises HeadwaterError when the port is taken.
    """
    lt = need_libtorrent()
    # without its plug-in smart_ban: on the way to a liar it was seen to ban the honest peer that sent the piece again;
    # what stays is the ban of who sent a whole bad piece alone, after suspects have had to send whole pieces
    session: libtorrent.session = lt.session(chosen, 0)
    session.set_ip_filter(
        _address_filter(local_only=local_only, allow_private=allow_private, besides=besides)
    )
    session.add_extension("ut_metadata")
    session.add_extension("ut_pex")
    _listening_or_error(session, chosen["listen_interfaces"])
    return session


def _listening_or_error(session: libtorrent.session, wanted: str) -> None:
    lt = need_libtorrent()
    end = time.monotonic() + START_SECONDS
    refused = ""
    while not session.is_listening():
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.listen_failed_alert):
                refused = alert.message()
        if refused or time.monotonic() > end:
            raise HeadwaterError(
                f"cannot listen on {wanted}: {refused}", hint="choose another port or address"
            )


def _address_filter(*, local_only: bool, allow_private: bool, besides: Iterable[str]) -> libtorrent.ip_filter:
    lt = need_libtorrent()
    rules: libtorrent.ip_filter = lt.ip_filter()
    blocked = 1
    if local_only:
        for start, _, stop in (text.partition("-") for text in OUTSIDE_LOOPBACK.split()):
            rules.add_rule(start, stop, blocked)
    elif not allow_private:
        for network in map(ipaddress.ip_network, PRIVATE):
            rules.add_rule(str(network[0]), str(network[-1]), blocked)
        for address in besides:
            try:
                rules.add_rule(str(ipaddress.ip_address(address)), address, 0)
            except ValueError:
                continue  # a name: its address is judged like any other
    return rules


def allowed_urls(urls: Iterable[str], *, local_only: bool) -> list[str]:
    """Trackers or web seeds that may be asked at all: http, https, udp; with `local_only` on this machine only."""
    kept = []
    for url in urls:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            continue
        if parts.scheme not in ("http", "https", "udp") or not host:
            continue
        if local_only and not _loopback(host):
            continue
        kept.append(url)
    return kept


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_paths(parameters: libtorrent.add_torrent_params, parsed: TorrentFile) -> list[str | None]:
    """For each file of libtorrent's list the path that our own reader found safe, None for padding.

    Raises IntegrityError when the two do not list the same files.
    """
    lt = need_libtorrent()
    assert parameters.ti is not None
    layout = parameters.ti.layout()
    pads = [bool(layout.file_flags(n) & lt.file_flags_t.flag_pad_file) for n in range(layout.num_files())]
    sizes = [layout.file_size(n) for n, pad in enumerate(pads) if not pad]
    if sizes != [file.size_bytes for file in parsed.files]:
        raise IntegrityError("torrent: two readers see other files in it", hint="do not use this torrent")
    rest = iter(parsed.files)
    return [None if pad else next(rest).path for pad in pads]


def hash_text(hashes: libtorrent.info_hash_t) -> str:
    """Both infohashes in hex: libtorrent's own text of the pair is the address of an object."""
    return f"{hashes.v1} {hashes.v2}"


def files_of(layout: libtorrent.file_storage, paths: Sequence[str | None], piece: int) -> list[str]:
    """Paths of the files that have bytes in a piece."""
    first, last = layout.file_index_at_piece(piece), layout.last_file_index_at_piece(piece)
    indexes = range(first, (first if last is None else last) + 1)
    return [path for n in indexes if layout.file_size(n) and (path := paths[n]) is not None]


def place(parameters: libtorrent.add_torrent_params, paths: Sequence[str | None], folder: Path) -> None:
    """Put the files of a torrent right below `folder`, under our own names, instead of below `folder/NAME`."""
    lt = need_libtorrent()
    assert parameters.ti is not None
    layout = parameters.ti.layout()
    names = lt.renamed_files()
    for index, path in enumerate(paths):
        if path is not None:
            names.rename_file(layout, index, path)
    parameters.renamed_files = names.export_filenames(layout)
    parameters.save_path = str(folder)


def load(raw: bytes, parsed: TorrentFile) -> tuple[libtorrent.add_torrent_params, TorrentFile]:
    """libtorrent's view of a torrent that our reader has passed. Raises IntegrityError when libtorrent refuses it."""
    lt = need_libtorrent()
    try:
        parameters = lt.load_torrent_buffer(raw)
    except RuntimeError as error:
        raise IntegrityError(
            f"torrent: libtorrent refuses it ({error})", hint="do not use this torrent"
        ) from error
    if parameters.ti is None:
        raise IntegrityError("torrent: it has no info dictionary", hint="do not use this torrent")
    return parameters, parsed
