"""The IPFS transport against a gateway of our own: whatever part is asked for comes, in few requests, every block checked."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from distribute.cid import Cid
from distribute.transports._base import NotThere, Refused, Unreachable, Wanted, WrongBytes
from distribute.transports._blocks import Ahead, Nodes, file_range
from distribute.transports._ipfs_location import parse_location
from distribute.transports.ipfs import CAR_FROM_BYTES, SCHEMES, alive, open_source
from distribute.unixfs import PROFILES
from headwater.errors import IntegrityError, UsageError
from tests.distribute.ipfs_kit import (
    DEFAULT,
    Dag,
    GatewayDouble,
    make_dag,
    make_release,
    quick,
    some_files,
)
from tests.distribute.ipfs_node_double import NodeDouble
from tests.distribute.partners import need_module

MANIFEST = "0" * 64


@pytest.fixture(scope="module")
def dag() -> Dag:
    return make_dag(some_files())


def wanted(dag: Dag, path: str) -> Wanted:
    return Wanted(path, len(dag.contents[path]), cid=dag.files[path].cid.text)


@pytest.mark.parametrize("profile", PROFILES)
def test_listing_and_whole_files_of_every_profile(profile: str, tmp_path: Path) -> None:
    dag = make_dag(some_files(), profile)
    with GatewayDouble(dag.blocks) as gateway:
        source = open_source(f"ipfs://{dag.root.text}", quick(tmp_path, gateway.url))
        found = {file.path: file for file in source.listing()}
        listing_asked = len(gateway.asked)
        assert {path: file.size_bytes for path, file in found.items()} == {
            path: len(data) for path, data in dag.contents.items()
        }
        for path, file in found.items():
            assert file.cid is not None and Cid.parse(file.cid).key == dag.files[path].cid.key
            assert b"".join(source.read(file, 0, file.size_bytes)) == dag.contents[path]
        source.close()
    # folders and the tops of files that have several chunks, and no leaf
    assert listing_asked == 5 + sum(
        file.cid is not None and file.cid[:4] != "bafk" for file in found.values()
    )


@pytest.mark.parametrize("profile", [DEFAULT, "kubo-v1-raw"])
def test_ranges(profile: str, tmp_path: Path) -> None:
    dag = make_dag(some_files(), profile)
    data = dag.contents["big.bin"]
    make = random.Random(2)
    with GatewayDouble(dag.blocks) as gateway:
        source = open_source(dag.root.text, quick(tmp_path, gateway.url))
        edges = [(0, 0), (0, 1), (len(data) - 1, 1), (len(data), 0), (1 << 20, 1 << 20), ((1 << 20) - 1, 2)]
        some = [(at, make.randrange(len(data) - at)) for at in make.sample(range(len(data)), 6)]
        for offset, length in edges + some:
            assert b"".join(source.read(wanted(dag, "big.bin"), offset, length)) == data[offset:][:length]
        source.close()


def test_long_ranges_come_as_one_stream_and_short_ones_as_blocks(dag: Dag, tmp_path: Path) -> None:
    with GatewayDouble(dag.blocks) as gateway:
        source = open_source(dag.root.text, quick(tmp_path, gateway.url))
        file = wanted(dag, "big.bin")
        b"".join(source.read(file, 100, CAR_FROM_BYTES))
        assert (
            len(gateway.asked) == 1 and f"entity-bytes=100%3A{100 + CAR_FROM_BYTES - 1}" in gateway.asked[0]
        )
        gateway.asked.clear()
        b"".join(source.read(file, 0, 1 << 20))
        # its node is known from the first range
        assert len(gateway.asked) == 1 and "format=raw" in gateway.asked[0]
        source.close()


def test_a_repeated_leaf_is_sent_once_or_often(dag: Dag, tmp_path: Path) -> None:
    class Once(GatewayDouble):
        def sections(self, found):  # type: ignore[no-untyped-def]
            return dict.fromkeys(found)

    for kind in (GatewayDouble, Once):
        with kind(dag.blocks) as gateway:
            source = open_source(dag.root.text, quick(tmp_path, gateway.url))
            file = wanted(dag, "zeros.bin")
            assert b"".join(source.read(file, 0, file.size_bytes)) == dag.contents["zeros.bin"]
            assert len(gateway.asked) == 1
            source.close()


def test_nodes_that_are_handed_in_are_not_fetched(dag: Dag, tmp_path: Path) -> None:
    release = make_release(tmp_path / "release", dag.contents)
    with GatewayDouble(dag.leaves) as gateway:  # a gateway without a single node
        source = open_source(dag.root.text, quick(tmp_path, gateway.url))
        source.add_nodes(release.file("nodes.car").read_bytes())
        found = {file.path: file for file in source.listing()}
        assert not gateway.asked
        got = b"".join(source.read(found["big.bin"], 1 << 20, 2 << 20))
        assert got == dag.contents["big.bin"][1 << 20 :][: 2 << 20]
        assert len(gateway.asked) == 2
        with pytest.raises(IntegrityError):
            source.add_nodes(b"no car")
        source.close()


def test_a_manifest_is_the_block_of_its_id(dag: Dag, tmp_path: Path) -> None:
    release = make_release(tmp_path / "release", {"a": b"1"})
    raw = release.file("manifest.json").read_bytes()
    cid = Cid(1, 0x55, bytes.fromhex(release.release.manifest_id))
    with GatewayDouble(dag.blocks | {cid.digest: (cid, raw)}) as gateway:
        context = quick(tmp_path, gateway.url)
        source = open_source(f"ipfs://{dag.root.text}?manifest={release.release.manifest_id}", context)
        assert source.release_file("manifest.json") == raw
        assert source.release_file("v2.torrent") is None
        assert source.by_digest(MANIFEST) is None
        source.close()
        plain = open_source(dag.root.text, context)
        assert plain.release_file("manifest.json") is None
        plain.close()


def test_a_cid_of_another_profile_is_found_by_its_path(dag: Dag, tmp_path: Path) -> None:
    other = make_dag(dag.contents, "kubo-v1-raw")
    with GatewayDouble(other.blocks) as gateway:
        source = open_source(other.root.text, quick(tmp_path, gateway.url))
        file = wanted(dag, "big.bin")  # named by its CID under unixfs-v1-2025
        assert b"".join(source.read(file, 5, 3 << 20)) == dag.contents["big.bin"][5 : 5 + (3 << 20)]
        unnamed = Wanted("z/deep/er/one.txt", 6)
        assert b"".join(source.read(unnamed, 0, 6)) == b"hello\n"
        with pytest.raises(NotThere, match="no file 'other'"):
            list(source.read(Wanted("other", 6), 0, 6))
        with pytest.raises(WrongBytes, match="6 bytes there, 7 are right"):
            list(source.read(Wanted("z/deep/er/one.txt", 7), 0, 7))
        source.close()


def test_a_cid_that_is_a_file(dag: Dag, tmp_path: Path) -> None:
    file = dag.files["z/deep/er/one.txt"].cid
    with GatewayDouble(dag.blocks) as gateway:
        for location, path in ((file.text, file.text), (f"ipfs://{file.text}?filename=one.txt", "one.txt")):
            source = open_source(location, quick(tmp_path, gateway.url))
            (found,) = source.listing()
            assert (found.path, found.size_bytes) == (path, 6)
            assert b"".join(source.read(found, 0, 6)) == b"hello\n"
            source.close()


def test_a_big_flat_folder_is_a_hamt(tmp_path: Path) -> None:
    dag = make_dag({f"{number:04}{'x' * 200}": b"%d" % number for number in range(1100)})
    assert len(dag.nodes) > 10
    with GatewayDouble(dag.blocks) as gateway:
        source = open_source(dag.root.text, quick(tmp_path, gateway.url))
        found = source.listing()
        assert {file.path for file in found} == set(dag.contents)
        assert len(gateway.asked) == len(dag.nodes)
        source.close()


def test_many_threads_read_at_once(dag: Dag, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    data = dag.contents["big.bin"]
    with GatewayDouble(dag.blocks) as gateway, ThreadPoolExecutor(8) as pool:
        source = open_source(dag.root.text, quick(tmp_path, gateway.url))
        file, step = wanted(dag, "big.bin"), 700_000
        starts = range(0, len(data), step)
        parts = pool.map(lambda at: b"".join(source.read(file, at, min(step, len(data) - at))), starts)
        assert b"".join(parts) == data
        source.close()


def test_a_read_that_is_left_early_blocks_nothing(dag: Dag, tmp_path: Path) -> None:
    with GatewayDouble(dag.blocks) as gateway:
        source = open_source(dag.root.text, quick(tmp_path, gateway.url))
        for _ in range(12):  # more than there are connections
            reading = source.read(wanted(dag, "big.bin"), 0, 8 << 20)
            next(reading)
            reading.close()  # type: ignore[attr-defined]
        assert b"".join(source.read(wanted(dag, "empty"), 0, 0)) == b""
        assert len(b"".join(source.read(wanted(dag, "big.bin"), 0, 8 << 20))) == 8 << 20
        source.close()


def test_a_node_is_a_source_too(dag: Dag, tmp_path: Path) -> None:
    with NodeDouble(dag.blocks) as node:
        source = open_source(dag.root.text, quick(tmp_path, ipfs_api=node.url))
        found = {file.path: file for file in source.listing()}
        for path, file in found.items():
            assert b"".join(source.read(file, 0, file.size_bytes)) == dag.contents[path]
        part = b"".join(source.read(found["big.bin"], 7, 5 << 20))
        assert part == dag.contents["big.bin"][7 : 7 + (5 << 20)]
        source.close()
        # a whole file comes as one export, a range block by block
        assert [command for command, _, _ in node.heard].count("dag/export") == 2


def test_locations() -> None:
    cid = make_dag({"a": b"1"}).root
    assert parse_location(cid.text) == parse_location(f"ipfs://{cid.text}") == (cid, None, "")
    assert parse_location(f"ipfs://{cid.text}/?manifest={'AB' * 32}") == (cid, "ab" * 32, "")
    old = make_dag({"a": b"1"}, "unixfs-v0-2015").root
    assert parse_location(f"ipfs://{old.text}")[0] == old
    assert all(any(text.startswith(s) for s in SCHEMES) for text in (cid.text, old.text, f"ipfs://{cid}"))
    for bad in (
        "ipfs://",
        "ipfs://example",
        f"ipfs://{cid.text[:-1]}",
        f"ipfs://{cid.text}/below",
        f"ipfs://{cid.text}?manifest=12",
        f"ipfs://{cid.text}?filename=../x",
    ):
        with pytest.raises(Refused):
            parse_location(bad)


def test_an_ipns_name_is_asked_of_the_node(dag: Dag, tmp_path: Path) -> None:
    with NodeDouble(dag.blocks) as node:
        node.names["k51abc"] = f"/ipfs/{dag.root.text}"
        source = open_source("ipns://k51abc", quick(tmp_path, ipfs_api=node.url))
        assert source.cid == dag.root
        source.close()
        with pytest.raises(NotThere, match="could not resolve"):
            open_source("ipns://k51other", quick(tmp_path, ipfs_api=node.url))
        with pytest.raises(Refused, match="a node has to say"):
            open_source("ipns://k51abc", quick(tmp_path, node.url))


def test_nobody_to_ask(dag: Dag, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="nobody to ask") as caught:
        open_source(dag.root.text, quick(tmp_path))
    assert "--gateway" in (caught.value.hint or "")
    for bad in ("127.0.0.1:8080", "ftp://host", "file:///etc"):
        with pytest.raises(UsageError):
            open_source(dag.root.text, quick(tmp_path, bad))


def test_a_loopback_gateway_needs_a_word(dag: Dag, tmp_path: Path) -> None:
    import dataclasses

    with GatewayDouble(dag.blocks) as gateway:
        context = dataclasses.replace(quick(tmp_path, gateway.url + "/ipfs/"), allow_private=False)
        source = open_source(dag.root.text, context)
        with pytest.raises(Refused):
            source.listing()
        source.close()
        assert not gateway.asked


def test_only_nodes_of_the_way_are_fetched() -> None:
    """A file of three levels (175 leaves and more need them at 174 links): only the way to a range is asked for."""
    dag = make_dag({"f": random.Random(3).randbytes(180 << 18)}, "kubo-v1-raw")
    cid, size = dag.files["f"].cid, 180 << 18
    asked: list[Cid] = []

    def fetch(wanted: Cid) -> bytes:
        asked.append(wanted)
        return dag.blocks[wanted.digest][1]

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        feed = Ahead(fetch, pool)
        got = b"".join(file_range(cid, size, 177 << 18, 1 << 18, feed, Nodes(), "f"))
    assert got == dag.contents["f"][177 << 18 :][: 1 << 18]
    assert len(asked) == 3


def test_alive_tells_of_every_provider(tmp_path: Path) -> None:
    contents = some_files()
    release = make_release(tmp_path / "release", contents)
    dag = make_dag(contents)
    cut = {digest: section for digest, section in dag.blocks.items() if digest not in dag.leaves}
    with GatewayDouble(dag.blocks) as good, GatewayDouble(cut) as bad, NodeDouble(dag.blocks) as node:
        found = alive(release, quick(tmp_path, good.url, bad.url, "http://127.0.0.1:9", ipfs_api=node.url))
    assert found["cid"] == dag.root.text and found["alive"] is True
    first, second, third, last = found["providers"]
    assert first["alive"] and first["blocks"] >= 6 and not first["missing"] and first["error"] is None
    assert not second["alive"] and second["missing"] and not second["wrong"]
    assert not third["alive"] and "9" in third["error"]
    assert last["alive"] and last["address"] == node.url


def test_our_own_seed_is_a_gateway(tmp_path: Path) -> None:
    need_module("aiohttp")
    from distribute.seeding import Seeding, SeedOptions

    contents = some_files()
    release = make_release(tmp_path / "release", contents, DEFAULT, "kubo-v1-raw")
    with Seeding(release, SeedOptions(bittorrent=False)) as seeding:
        assert seeding.gateway is not None
        context = quick(tmp_path, seeding.gateway)
        for profile, cid in release.release.cids.items():
            source = open_source(f"ipfs://{cid}?manifest={release.release.manifest_id}", context)
            assert source.release_file("manifest.json") == release.file("manifest.json").read_bytes()
            for file in source.listing():
                data = contents[file.path]
                assert b"".join(source.read(file, 0, len(data))) == data, (profile, file.path)
                half = len(data) // 2
                assert b"".join(source.read(file, half, len(data) - half)) == data[half:]
            source.close()
        assert alive(release, context)["alive"]
