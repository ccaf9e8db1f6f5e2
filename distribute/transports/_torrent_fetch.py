"""A download through one swarm: only the wanted files, what is there is kept, each file given out when it is on the disk.

work/HASH-FOLDER.resume   written when a download ends in order, taken away when one starts: after a kill nothing is
                          believed, and every piece that is there is hashed again
work/.HASH.parts          bytes of unwanted files that share a piece with wanted ones (v1), so that no such file appears
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distribute.transports._base import Context, Wanted
from distribute.transports._torrent_basics import allowed_urls, load, need_libtorrent, own_paths, place
from distribute.transports._torrent_swarm import Liar, Swarm
from headwater.errors import HeadwaterError
from headwater.files import FOLDER_MODE, atomic_file, named_io
from headwater.release import read_limited

if TYPE_CHECKING:
    import libtorrent

    from distribute.torrents import TorrentFile

GIVE_SECONDS = 1.0  # between two flushes that give out files
RESUME_SECONDS = 10.0  # for libtorrent to say what it has


class Download:
    """One run of a download. `wanted` by the torrent's path; sizes fit, none is empty."""

    def __init__(
        self,
        raw: bytes,
        parsed: TorrentFile,
        label: str,
        wanted: Mapping[str, Wanted],
        folder: Path,
        context: Context,
        *,
        peers: Sequence[str] = (),
        trackers: Sequence[str] = (),
        web_seeds: Sequence[str] = (),
        liar: Liar | None = None,
        utp: bool = False,
    ) -> None:
        lt = need_libtorrent()
        for place_to_be in (folder, context.work):
            with named_io(place_to_be):
                place_to_be.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        parameters, _ = load(raw, parsed)
        paths = own_paths(parameters, parsed)
        place(parameters, paths, folder)
        # libtorrent takes it as relative to the save path, always
        parameters.part_file_dir = os.path.relpath(context.work, folder)
        parameters.trackers = allowed_urls([*parameters.trackers, *trackers], local_only=context.local_only)
        parameters.tracker_tiers = [0] * len(parameters.trackers)
        # v2 over web seeds was seen never to end on small files with odd names: those come over HTTP by the engine itself
        seeds = [*parameters.url_seeds, *web_seeds] if parsed.pieces is not None else []
        parameters.url_seeds = list(dict.fromkeys(allowed_urls(seeds, local_only=context.local_only)))
        parameters.http_seeds = []
        parameters.file_priorities = [4 if path in wanted else 0 for path in paths]
        parameters.flags = lt.torrent_flags.default_flags & ~(
            lt.torrent_flags.auto_managed | lt.torrent_flags.paused
        )
        self._todo = {n: path for n, path in enumerate(paths) if path is not None and path in wanted}
        self._folder, self._context = folder, context
        key = hashlib.sha256(
            f"{parsed.infohash_v2 or parsed.infohash_v1} {folder.absolute()}".encode()
        ).hexdigest()
        self._state = context.work / f"{key[:32]}.resume"
        self._resumed = self._load_state(parameters)
        self.swarm = Swarm(context, label, parameters, paths, peers=peers, liar=liar, utp=utp)

    def run(self, progress: Callable[[str, int], None], cancelled: Callable[[], bool]) -> Iterator[Path]:
        """Paths of the files below the folder, each when it is whole and on the disk. Raises what `explain` says."""
        swarm, limit = self.swarm, self._context.limits.stall_seconds
        try:
            best, moved, given = -1, time.monotonic(), time.monotonic()
            looked = False
            while self._todo and not cancelled() and not self._context.stop.is_set():
                swarm.listen()
                swarm.sample(progress)
                status = swarm.handle.status()
                now = time.monotonic()
                checking = int(status.state) in (
                    int(status.states.checking_files),
                    int(status.states.checking_resume_data),
                )
                if swarm.checked and not looked and not checking:
                    looked = self._look()
                if checking or status.total_wanted_done > best:
                    best, moved = max(best, status.total_wanted_done), now
                ready = [n for n in swarm.completed if n in self._todo]
                if ready and (now - given > GIVE_SECONDS or len(ready) == len(self._todo)):
                    swarm.flush()
                    for n in ready:
                        if n in self._todo:
                            yield self._folder / self._todo.pop(n)
                    swarm.completed = [n for n in swarm.completed if n in self._todo and n not in ready]
                    given = time.monotonic()
                    moved += given - now  # the reader's own time is no stall
                elif now - moved > limit:
                    raise swarm.explain(limit)
        finally:
            swarm.sample(progress, last=True)
            self._end()

    def _look(self) -> bool:
        """Files that were whole from the start. After a resume such a file may have been found bad: it is hashed again."""
        swarm = self.swarm
        layout_sizes = swarm.handle.torrent_file()
        assert layout_sizes is not None
        layout = layout_sizes.layout()
        have = swarm.handle.file_progress(1)  # whole pieces only
        whole = [n for n in self._todo if have[n] == layout.file_size(n)]
        if whole and self._resumed:
            self._resumed, swarm.checked, swarm.completed = False, False, []
            swarm.handle.force_recheck()
            return False
        swarm.completed += [n for n in whole if n not in swarm.completed]
        return True

    def _load_state(self, parameters: libtorrent.add_torrent_params) -> bool:
        lt = need_libtorrent()
        if not self._state.is_file():
            return False
        try:
            saved = lt.read_resume_data(read_limited(self._state))
        except (RuntimeError, HeadwaterError):
            return False  # without it everything is hashed again
        finally:
            self._state.unlink(missing_ok=True)
        if not saved.have_pieces:
            return False
        parameters.have_pieces = saved.have_pieces
        parameters.unfinished_pieces = saved.unfinished_pieces
        return True

    def _end(self) -> None:
        swarm = self.swarm
        with contextlib.suppress(HeadwaterError, OSError):  # what went wrong before is what must be told
            if self._todo:
                swarm.handle.pause()
                swarm.flush()
                self._save_state()
            else:
                self._forget()
        swarm.close()

    def _save_state(self) -> None:
        module = need_libtorrent()
        handle = self.swarm.handle
        handle.save_resume_data(module.save_resume_flags_t.flush_disk_cache)
        end = time.monotonic() + RESUME_SECONDS
        while time.monotonic() < end:
            self.swarm.session.wait_for_alert(100)
            for alert in self.swarm.session.pop_alerts():
                if isinstance(alert, module.save_resume_data_alert):
                    with atomic_file(self._state) as file:
                        file.write(module.write_resume_data_buf(alert.params))
                    return
                if isinstance(alert, module.save_resume_data_failed_alert):
                    return

    def _forget(self) -> None:
        """All is there: the neighbours' bytes are of no more use."""
        self.swarm.flush()
        hashes = self.swarm.handle.info_hashes()
        for name in {str(hashes.v1), str(hashes.v2), str(hashes.v2)[:40]}:
            (self._context.work / f".{name}.parts").unlink(missing_ok=True)
