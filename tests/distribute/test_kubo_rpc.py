"""The client of a node's RPC, and publishing through it, against the contract double of ipfs_kit (Kubo's answers by hand)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distribute.car import car_header, car_section
from distribute.cid import RAW, Cid
from distribute.transports._base import NotThere, Refused, SourceError, Stalled, Unreachable, WrongBytes
from distribute.transports._kubo import AUTH_VARIABLE, Kubo, Pin
from distribute.transports._kubo_wire import authorization, json_lines, multipart, rpc_address
from distribute.transports.ipfs import publish
from headwater.errors import HeadwaterError, IntegrityError, UsageError
from headwater.release import OpenRelease, open_release
from tests.distribute.ipfs_kit import (
    SHORT,
    Dag,
    Reply,
    make_dag,
    make_release,
    quick,
    some_files,
    within,
)
from tests.distribute.ipfs_node_double import NodeDouble

ABSENT = Cid.of(RAW, b"nobody has this")
ARG = {"cid-base": "base32"}


@pytest.fixture(scope="module")
def dag() -> Dag:
    return make_dag(some_files())


@pytest.fixture
def node(dag: Dag) -> Iterator[NodeDouble]:
    with NodeDouble(dag.blocks) as double:
        yield double


@pytest.fixture
def kubo(node: NodeDouble, tmp_path: Path) -> Iterator[Kubo]:
    client = Kubo(node.url, quick(tmp_path))
    yield client
    client.close()


def car_of(dag: Dag) -> Iterator[bytes]:
    yield car_header([dag.root])
    for cid, block in dag.ordered():
        yield car_section(cid, block)


def test_what_it_is(kubo: Kubo, node: NodeDouble) -> None:
    assert kubo.version() == "0.43.1" and kubo.id()["ID"] == "12D3KooW"
    assert [command for command, _, _ in node.heard] == ["version", "id"]


def test_blocks(kubo: Kubo, node: NodeDouble, dag: Dag) -> None:
    block = dag.blocks[dag.root.digest][1]
    assert kubo.block(dag.root) == block and kubo.block_size(dag.root) == len(block)
    with pytest.raises(NotThere, match=ABSENT.text):
        kubo.block(ABSENT)
    node.replies["block/get"] = lambda options: Reply([b"something else"])
    with pytest.raises(WrongBytes, match=dag.root.text):
        kubo.block(dag.root)


def test_import_and_export(kubo: Kubo, node: NodeDouble, dag: Dag) -> None:
    node.blocks.clear()
    assert kubo.import_car(car_of(dag)) == [dag.root]
    assert node.blocks.keys() == dag.blocks.keys()
    assert node.heard[0][1] == {"pin-roots": "true", "silent": "false", "stats": "true"} | ARG
    assert kubo.pins(dag.root) == [Pin(dag.root, "recursive", "")]
    assert dict(kubo.export(dag.root)) == dict(dag.blocks.values())


def test_an_incomplete_import_is_an_error(kubo: Kubo, node: NodeDouble, dag: Dag) -> None:
    node.blocks.clear()
    parts = list(car_of(dag))
    with pytest.raises(SourceError, match="could not pin .* could not find"):
        kubo.import_car(parts[:-1])
    assert kubo.pins(dag.root) == []


def test_add(kubo: Kubo, node: NodeDouble, dag: Dag) -> None:
    files = [(path, [data[:9], data[9:]]) for path, data in dag.contents.items() if "/" not in path]
    flat = make_dag({path: dag.contents[path] for path, _ in files}, "kubo-v1-raw")
    found = kubo.add(files, wrap=True)
    assert found == {path: built.cid for path, built in flat.files.items()} | {"": flat.root}
    options = node.heard[0][1]
    assert options["cid-version"] == "1" and options["raw-leaves"] == "true"
    assert options["chunker"] == "size-262144" and options["cid-base"] == "base32"


def test_pins_and_names(kubo: Kubo, node: NodeDouble, dag: Dag) -> None:
    kubo.pin(dag.root, "my data")
    assert kubo.pins() == kubo.pins(dag.root) == [Pin(dag.root, "recursive", "my data")]
    kubo.unpin(dag.root)
    assert kubo.pins(dag.root) == []
    with pytest.raises(NotThere):
        kubo.unpin(dag.root)
    assert kubo.new_key("latest") == "k51latest" and set(kubo.keys()) == {"self", "latest"}
    name = kubo.publish_name(dag.root, "latest")
    assert kubo.resolve_name(f"/ipns/{name}") == dag.root
    with pytest.raises(NotThere, match="no key"):
        kubo.publish_name(dag.root, "other")
    kubo.connect("/ip4/127.0.0.1/tcp/1/p2p/12D3KooW")


def test_pinning_what_lacks_a_block(kubo: Kubo, node: NodeDouble, dag: Dag) -> None:
    del node.blocks[next(iter(dag.leaves))]
    with pytest.raises(SourceError, match="could not find"):
        kubo.pin(dag.root)
    with pytest.raises(NotThere):
        kubo.pin(ABSENT)


def test_a_stall_names_the_cid(
    node: NodeDouble, dag: Dag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distribute.transports._kubo.PATIENCE", 1)
    kubo = Kubo(node.url, quick(tmp_path, stall=SHORT))
    node.replies["block/get"] = lambda options: Reply([b"a", node.wait])
    with within(60), pytest.raises(Stalled, match=f"block/get {dag.root.text} stalled"):
        kubo.block(dag.root)

    def progress(options: dict[str, str]) -> Reply:
        # what Kubo sends while it looks for a block that nobody has: the same count, for ever
        line = json.dumps({"Progress": 7}).encode() + b"\n"

        def again() -> Iterator[bytes | Callable[[], object]]:
            while not node.stopping.is_set():
                yield line
                yield lambda: node.stopping.wait(0.05)

        return Reply(again(), kind="application/json")

    node.replies["pin/add"] = progress
    with within(60), pytest.raises(Stalled, match=f"pin/add {dag.root.text} stalled.*7 blocks"):
        kubo.pin(dag.root)
    kubo.close()


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (NodeDouble.error("merkledag: broken"), SourceError, "merkledag: broken"),
        (NodeDouble.error("no", 403), Refused, "no"),
        (NodeDouble.error("nope", 401), Refused, "nope"),
        (Reply([b"404 page not found"], 404, "text/plain"), SourceError, "does not know this command"),
        (Reply([b"<html>router</html>"], 200, "text/html"), WrongBytes, "no JSON"),
        (Reply([b"[1, 2]"], 200, "application/json"), WrongBytes, "no JSON"),
        (Reply([], 200, "application/json"), SourceError, "answered nothing"),
        (Reply([b'{"Message":"late","Code":0,"Type":"error"}']), SourceError, "late"),
        (Reply([], 302, headers={"Location": "http://127.0.0.1:1/"}), Refused, "sends"),
        (Reply([b'{"Ver'], cut=True), Unreachable, "broke"),
    ],
)
def test_errors_of_the_node(
    kubo: Kubo, node: NodeDouble, reply: Reply, kind: type[SourceError], words: str
) -> None:
    node.replies["version"] = lambda options: reply
    with pytest.raises(kind, match=words) as caught:
        kubo.version()
    assert type(caught.value) is kind


def test_an_answer_that_ends_before_its_result_is_a_failure(kubo: Kubo, node: NodeDouble, dag: Dag) -> None:
    """Kubo tells of late errors in a trailer, which is not seen; then the result itself is missing."""
    late = {"Trailer": "X-Stream-Error"}
    stats = json.dumps({"Stats": {"BlockCount": 1, "BlockBytesCount": 1}}).encode()
    node.replies["dag/import"] = lambda options: Reply([stats], headers=late)
    with pytest.raises(SourceError, match="without saying what it pinned"):
        kubo.import_car(car_of(dag))
    node.replies["pin/add"] = lambda options: Reply([b'{"Progress":3}\n'], headers=late)
    with pytest.raises(SourceError, match="without saying that it pinned"):
        kubo.pin(dag.root)
    node.replies["add"] = lambda options: Reply([], headers=late)
    with pytest.raises(SourceError, match="without a CID"):
        kubo.add([("a", [b"1"])])


def test_daemon_down(node: NodeDouble, tmp_path: Path) -> None:
    node.close()
    client = Kubo(node.url, quick(tmp_path))
    with within(60), pytest.raises(Unreachable, match="no connection") as caught:
        client.version()
    assert "daemon" in (caught.value.hint or "")
    client.close()


def test_the_secret_is_sent_and_never_told(
    node: NodeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dag: Dag
) -> None:
    monkeypatch.setenv(AUTH_VARIABLE, "bearer:canary-7b1")
    client = Kubo(node.url, quick(tmp_path))
    assert client.version() == "0.43.1"
    assert node.heard[0][2]["authorization"] == "Bearer canary-7b1"
    node.replies["version"] = lambda options: NodeDouble.error("bad token: Bearer canary-7b1", 403)
    with pytest.raises(Refused) as caught:
        client.version()
    assert "canary-7b1" not in caught.value.message + (caught.value.hint or "")
    assert AUTH_VARIABLE in (caught.value.hint or "")
    assert "canary" not in client.label and "canary" not in repr(vars(client))
    client.close()


def test_authorization_forms() -> None:
    basic = "Basic " + base64.b64encode(b"user:a:b").decode()
    assert authorization("") == authorization(" ") == {}
    assert authorization("tok") == authorization("Bearer:tok") == {"Authorization": "Bearer tok"}
    assert authorization("user:a:b") == authorization("basic:user:a:b") == {"Authorization": basic}


def test_addresses() -> None:
    for text in (
        "http://127.0.0.1:5001",
        "http://127.0.0.1:5001/api/v0/",
        "/ip4/127.0.0.1/tcp/5001",
        "/ip4/127.0.0.1/tcp/5001/http",
    ):
        assert rpc_address(text) == "http://127.0.0.1:5001"
    assert rpc_address("/dns4/node.example/tcp/443/https") == "https://node.example:443"
    assert rpc_address("/ip6/::1/tcp/5001") == "http://[::1]:5001"
    for bad in ("", "127.0.0.1:5001", "/unix/tmp/x", "/ip4/127.0.0.1/udp/1", "ftp://host"):
        with pytest.raises(UsageError):
            rpc_address(bad)


def test_lines_and_bodies() -> None:
    assert list(json_lines([b'{"a"', b': 1}\n\n{"b":2', b"}"])) == [{"a": 1}, {"b": 2}]
    for bad in (b"<html>", b"[1]\n", b'{"a":'):
        with pytest.raises(WrongBytes):
            list(json_lines([bad]))
    body = b"".join(multipart([('a"b/\r\n.txt', [b"1", b"2"])], "X"))
    assert body == (
        b'--X\r\nContent-Disposition: form-data; name="file"; filename="a%22b%2F%0D%0A.txt"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n12\r\n--X--\r\n"
    )


# publishing


@pytest.fixture
def release(tmp_path: Path) -> OpenRelease:
    return make_release(tmp_path / "release", some_files(), "unixfs-v1-2025", "kubo-v1-raw")


def test_publish(release: OpenRelease, tmp_path: Path, dag: Dag) -> None:
    context = quick(tmp_path)
    with NodeDouble() as node:
        plan = publish(release, node.url, context, dry_run=True)
        assert not node.blocks and not node.pins
        assert plan.location is not None and plan.location.url == f"ipfs://{dag.root.text}"
        assert any("second full copy" in line for line in plan.actions)
        done = publish(release, node.url, context, dry_run=False)
        manifest = bytes.fromhex(release.release.manifest_id)
        assert node.blocks.keys() == dag.blocks.keys() | {manifest}
        assert {name for _, name in node.pins.values()} == {"data", "data manifest"}
        assert done.location == plan.location and done.files == 5
        assert release.release.size_bytes < done.sent_bytes + (4 << 20)  # five equal chunks are one block
        assert f"?manifest={release.release.manifest_id}" in done.text
        # what is there is not sent again
        node.heard.clear()
        again = publish(release, node.url, context, dry_run=False)
        assert again.sent_bytes == 0 and "dag/import" not in [command for command, _, _ in node.heard]
        named = publish(release, f"{node.url}#key=self", context, dry_run=False)
        assert "ipns://k51self" in named.text and node.names == {"k51self": f"/ipfs/{dag.root.text}"}


def test_only_what_is_new_is_sent(release: OpenRelease, tmp_path: Path) -> None:
    context = quick(tmp_path)
    changed = make_release(tmp_path / "next", some_files() | {"new.txt": b"new\n"})
    with NodeDouble() as node:
        publish(release, node.url, context, dry_run=False)
        plan = publish(changed, node.url, context, dry_run=True)
        assert any("leave out 13," in line for line in plan.actions)
        done = publish(changed, node.url, context, dry_run=False)
        assert done.sent_bytes < 10_000 and len(node.pins) == 4
        # a file whose top is there and one of whose blocks is not: the pin fails, and everything is sent
        node.pins.clear()
        del node.blocks[
            next(d for d, (_, block) in make_dag(some_files()).leaves.items() if len(block) == 1 << 20)
        ]
        again = publish(changed, node.url, context, dry_run=False)
        assert again.sent_bytes > 8 << 20 and len(node.pins) == 2


def test_a_file_that_changed_is_not_published(release: OpenRelease, tmp_path: Path) -> None:
    path = release.data / "big.bin"
    data = bytearray(path.read_bytes())
    data[5 << 20] ^= 1
    path.write_bytes(data)
    with NodeDouble() as node:
        with pytest.raises(IntegrityError):
            publish(release, node.url, quick(tmp_path), dry_run=False)
        assert not node.pins
        path.unlink()
        with pytest.raises(HeadwaterError, match="big.bin"):
            publish(release, node.url, quick(tmp_path), dry_run=False)
        assert not node.pins


def test_a_node_that_forgets_is_noticed(release: OpenRelease, tmp_path: Path) -> None:
    with NodeDouble() as node:
        node.replies["pin/ls"] = lambda options: NodeDouble.error("path is not pinned")
        with pytest.raises(SourceError, match="not list .* among its pins"):
            publish(release, node.url, quick(tmp_path), dry_run=False)


def test_a_release_without_nodes_says_so(release: OpenRelease, tmp_path: Path) -> None:
    release.file("nodes.car").unlink()
    with NodeDouble() as node, pytest.raises(HeadwaterError, match=r"nodes\.car"):
        publish(open_release(release.meta), node.url, quick(tmp_path), dry_run=False)
