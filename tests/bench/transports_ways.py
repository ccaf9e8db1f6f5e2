"""Publishing, and fetching from our own seed or a plain web server: families of the benchmark of transports, which add `Way`s.

Ours and the library alone take turns against the same server. Programs that have no end of their own (rtorrent, qBittorrent,
Kubo) are asked, and their CPU seconds are read from /proc at that moment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distribute.digests import TreeFile
from tests.bench.digests import tools
from tests.bench.transports_servers import (
    OURS,
    changed,
    cpu_of,
    opentracker,
    rclone,
    rtorrent,
    seed,
    seeders,
)
from tests.bench.transports_table import Cost, Found, Way
from tests.distribute.partners import free_port, running, until
from tests.distribute.swarm_kit import infohashes
from tests.distribute.test_bittorrent_partners import aria2, qbittorrent

BARE = Path(__file__).with_name("transports_bare.py")
SECONDS = 120.0  # for one transfer
Spent = tuple[float, float, float | None]  # of the client, in seconds: wall, CPU, and of that in user mode
Runner = Callable[[Path], Spent]  # fills a folder


@dataclass
class Bench:
    """One tree, its release, and where results go."""

    tree: str
    source: Path
    release: Path
    work: Path
    found: Found
    pairs: int
    wire: bool
    size: int = 0
    turn: int = field(default=0)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def manifest(self) -> str:
        return str(self.release / "manifest.json")

    def way(self, what: str, name: str, checked: str, beside: str = "") -> Way:
        found = Way(self.tree, what, name, checked, self.size, beside)
        self.found.ways.append(found)
        return found

    def measure(self, way: Way, run: Runner, servers: Sequence[int] = (), *, below: str = "") -> None:
        """One transfer into an empty folder, compared with the source afterwards; `below` is where the files are in it."""
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        os.sync()  # what an earlier run left to be written is not ours to wait for
        before, wire = [cpu_of(pid) for pid in servers], lo_bytes()
        wall, cpu, user = run(out)
        used = [cpu_of(pid) - was for pid, was in zip(servers, before, strict=True)]
        sent = lo_bytes() - wire if self.wire and servers else None
        way.costs.append(Cost(wall, cpu, sum(used) if servers else None, sent, user))
        if way.what == "fetch":
            command = ["diff", "-r", "-x", ".headwater", str(self.source), str(out / below)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{way.name}: {done.stdout[-1000:]}"
        shutil.rmtree(out, ignore_errors=True)
        rate = self.size / wall / 1e6
        print(
            f"{self.tree} {way.what} {way.name}: {wall:.1f} s, {rate:.0f} MB/s, CPU {cpu:.2f}",
            file=sys.stderr,
        )

    def turns(
        self, ways: Mapping[Way, Runner], servers: Sequence[int], below: Mapping[str, str] | None = None
    ) -> None:
        """All of them, again and again, in an order that turns."""
        names = list(ways)
        for pair in range(self.pairs):
            for way in names if pair % 2 else names[::-1]:
                self.measure(way, ways[way], servers, below=(below or {}).get(way.name, ""))


def lo_bytes() -> int:
    """Bytes that went through this network's loopback interface."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[0])
    return 0


def process(command: Sequence[str | Path], **environment: str) -> Spent:
    """Run a command, with what it waits for."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )
    assert child.stderr is not None
    words = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    assert child.returncode == 0, f"{command}\n{words.decode()[-2000:]}"
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_utime


def fetch(bench: Bench, *locations: str, **environment: str) -> Runner:
    """Our command."""
    options = ["--manifest", bench.manifest, "--local", "--quiet"]
    return lambda out: process([*OURS, "fetch", *locations, "-o", out, *options], **environment)


def bare(*arguments: str, python: str = sys.executable, **environment: str) -> Runner:
    """A script of the library alone; `{out}` is where it puts the files."""
    return lambda out: process(
        [python, BARE, *(one.replace("{out}", str(out)) for one in arguments)], **environment
    )


def publish(bench: Bench) -> None:
    """A release from nothing: no cache, hard links."""
    way = bench.way("publish", "headwater publish", "all digests in one read")

    def run(out: Path) -> Spent:
        shutil.rmtree(bench.work / "cache", ignore_errors=True)
        return process(
            [*OURS, "publish", bench.source, "-o", out, "--cache", bench.work / "cache", "--quiet"]
        )

    for _ in range(bench.pairs):
        bench.measure(way, run)
    files = []
    for path in sorted(bench.source.rglob("*.bin")):
        facts = path.stat()
        relative = path.relative_to(bench.source).as_posix()
        files.append(TreeFile(relative, path, facts.st_size, facts.st_mtime_ns, facts.st_ino))
    each = tools(bench.source, files)
    for name, (wall, cpu) in each.items():
        bench.way("publish", name, "this digest alone").costs.append(Cost(wall, cpu))
    alone = Cost(sum(wall for wall, _ in each.values()), sum(cpu for _, cpu in each.values()))
    bench.way("publish", "these tools, one after another", "").costs.append(alone)


def faces(bench: Bench) -> None:
    """Our seed: HTTP and torrents beside the bare libraries, the gateway, and all at once."""
    with seed(bench.release, bench.work / "seed.log") as ours:
        pid, links = [ours.pid], ours.facts["magnets"]
        base = ours.url + f"{bench.name}/"
        bench.turns(
            {
                bench.way("fetch", "ours, HTTP", "BLAKE3 or pieces", "bare httpx2"): fetch(bench, ours.url),
                bench.way("fetch", "bare httpx2", "SHA-256 afterwards"): bare(
                    "http", base, bench.manifest, "{out}"
                ),
            },
            pid,
        )
        for kind in ("v1", "v2"):
            link = "&".join(part for part in links[kind].split("&") if not part.startswith("ws="))
            name, torrent = f"bare libtorrent {kind}", str(bench.release / f"{kind}.torrent")
            bench.turns(
                {
                    bench.way("fetch", f"ours, magnet {kind}", "pieces and BLAKE3", name): fetch(bench, link),
                    bench.way("fetch", name, "pieces, SHA-256 afterwards"): bare(
                        "torrent", torrent, ours.peer, bench.manifest, "{out}"
                    ),
                },
                pid,
                {name: bench.name},
            )
        way = bench.way("fetch", "ours, IPFS gateway", "CIDs and BLAKE3")
        bench.turns({way: fetch(bench, ours.cid(), "--gateway", ours.gateway)}, pid)
        way = bench.way("fetch", "ours, three faces at once", "pieces and BLAKE3")
        everything = (ours.url, links["v2"], ours.cid(), "--gateway", ours.gateway)
        bench.measure(way, fetch(bench, *everything), pid)


def clients(bench: Bench) -> None:
    """aria2, rtorrent, qBittorrent from our seed: v1, once each; aria2 also over HTTP."""
    torrent = changed(
        bench.release / "v1.torrent", bench.work / "x.torrent", drop=["url-list", "announce", "announce-list"]
    )
    infohash, _ = infohashes(torrent.read_bytes())
    port = free_port()
    announce = f"http://127.0.0.1:{port}/announce"
    with (
        opentracker(bench.work / "tracker", port, infohash),
        seed(bench.release, bench.work / "seed.log", "--tracker", announce) as ours,
    ):
        until(lambda: seeders(announce, infohash), seconds=30, what="the tracker knows our seed")
        # rtorrent before all that the tracker would still name at the seed's address: it dials one of them only
        rtorrent_way(bench, ours.pid, torrent, announce)
        aria2_ways(bench, ours.pid, ours.url, torrent, announce)
        qbittorrent_way(bench, ours.pid, ours.peer, torrent)


def aria2_ways(bench: Bench, pid: int, url: str, torrent: Path, announce: str) -> None:
    by_peer = bench.way("fetch", "aria2, v1", "SHA-1 pieces")
    bench.measure(
        by_peer,
        lambda out: process(aria2(torrent, out, "--seed-time=0", f"--bt-tracker={announce}")),
        [pid],
        below=bench.name,
    )
    by_web = bench.way("fetch", "aria2, v1 by web seed (HTTP)", "SHA-1 pieces")
    web = changed(torrent, bench.work / "web.torrent", web_seed=url)
    bench.measure(by_web, lambda out: process(aria2(web, out, "--seed-time=0")), [pid], below=bench.name)


def rtorrent_way(bench: Bench, pid: int, torrent: Path, announce: str) -> None:
    tracked = changed(torrent, bench.work / "tracked.torrent", announce=announce)

    def run(out: Path) -> Spent:
        command = rtorrent(bench.work / "rtorrent", tracked, out)
        return asked(command, lambda: _whole(bench, out), cwd=bench.work / "rtorrent")

    bench.measure(bench.way("fetch", "rtorrent, v1", "SHA-1 pieces"), run, [pid], below=bench.name)


def asked(command: Sequence[str], over: Callable[[], Any], **options: Any) -> Spent:
    """Start a program that does not end, until `over`; its start counts."""
    begun = time.perf_counter()
    with running(command, **options) as child:
        until(over, seconds=SECONDS, what=f"{command[0]} has it all")
        return time.perf_counter() - begun, cpu_of(child.pid), None


def qbittorrent_way(bench: Bench, pid: int, peer: str, torrent: Path) -> None:
    """From the moment it gets the torrent."""
    profile = bench.work / "qb"
    profile.mkdir(exist_ok=True)
    with qbittorrent(profile, free_port()) as api:
        program = next(
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit() and str(profile).encode() in _words(path)
        )

        def run(out: Path) -> Spent:
            begun, was = time.perf_counter(), cpu_of(program)
            api.post("torrents/add", {"savepath": str(out)}, torrent.read_bytes())
            until(api.state, seconds=20, what="qBittorrent has the torrent")
            api.post("torrents/addPeers", {"hashes": api.state()["hash"], "peers": peer})
            until(lambda: api.state().get("progress") == 1, seconds=SECONDS, what="qBittorrent has it all")
            until(lambda: _whole(bench, out), seconds=60, what="its files are on the disk")
            return time.perf_counter() - begun, cpu_of(program) - was, None

        bench.measure(bench.way("fetch", "qBittorrent, v1", "SHA-1 pieces"), run, [pid], below=bench.name)


def _words(path: Path) -> bytes:
    try:
        return (path / "cmdline").read_bytes()
    except OSError:
        return b""


def _whole(bench: Bench, out: Path) -> bool:
    time.sleep(0.2)  # looking costs CPU seconds, too
    return _sizes(out / bench.name) == bench.size


def _sizes(folder: Path) -> int:
    """Bytes that are allocated below a folder, without our own cache: a file that is not written yet has none."""
    found = 0
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != ".headwater"]
        for name in names:
            facts = os.stat(os.path.join(base, name))
            found += min(facts.st_size, facts.st_blocks * 512)
    return found


def mirror(bench: Bench) -> None:
    """A plain web server (rclone) as mirror and as web seed."""
    with rclone(bench.release) as (base, pid):
        bench.measure(
            bench.way("fetch", "ours, HTTP from rclone", "BLAKE3 or pieces"), fetch(bench, base), [pid]
        )
        torrent = changed(bench.release / "v1.torrent", bench.work / "web.torrent", web_seed=base)
        way = bench.way("fetch", "ours, v1 torrent by web seed rclone", "pieces and BLAKE3")
        bench.measure(way, fetch(bench, str(torrent)), [pid])
