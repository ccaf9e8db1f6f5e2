"""The trustless gateway, request by request as its specification says; every block is checked here too."""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from distribute.car import load_car, read_car
from distribute.cid import Cid
from distribute.dagpb import decode_node
from distribute.faces.blocks import BlockMap, equal_links
from distribute.faces.dag import Bytes
from distribute.faces.shelf import NotHere, Shelf
from distribute.seeding import Seeding, SeedOptions
from distribute.unixfs import PROFILES, file_bytes
from distribute.walking import walk
from tests.distribute.seed_kit import MANY_CHUNKS, Answer, ask, make_release, some_files

CHUNK = 1 << 20
OPTIONS = SeedOptions(bittorrent=False)
RAW = "application/vnd.ipld.raw"
CAR = "application/vnd.ipld.car"
BIG = "many chunks.bin"
ABSENT = Cid.of(0x55, b"nobody has this").text


@pytest.fixture(scope="module")
def seeding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeding]:
    with Seeding(make_release(tmp_path_factory.mktemp("gateway")), OPTIONS) as seeding:
        yield seeding


@pytest.fixture(scope="module")
def root(seeding: Seeding) -> str:
    return seeding.release.release.cids["unixfs-v1-2025"]


def get(seeding: Seeding, path: str, **headers: str) -> Answer:
    return ask(seeding.port, path, **headers)


def cids(answer: Answer) -> list[str]:
    """CIDs of the blocks of a CAR in their order; reading checks each block."""
    assert answer.status == 200, answer.body
    return [cid.text for cid, _ in read_car(io.BytesIO(answer.body))]


def entry_cid(seeding: Seeding, path: str) -> str:
    return next(entry.cid or "" for entry in seeding.release.manifest.entries if entry.path == path)


# -- statuses ----------------------------------------------------------------------------------------------

STATUSES: list[tuple[str, dict[str, str], int]] = [
    ("/ipfs/{root}?format=raw", {}, 200),
    ("/ipfs/{root}?format=car", {}, 200),
    ("/ipfs/{root}", {"Accept": RAW}, 200),
    ("/ipfs/{root}", {"Accept": CAR}, 200),
    ("/ipfs/{root}/", {"Accept": CAR}, 200),
    ("/ipfs/{root}", {"Accept": f"{CAR}; version=1; order=dfs; dups=y"}, 200),
    ("/ipfs/{root}", {"Accept": f"{CAR};order=foo, {CAR};order=dfs;dups=y;q=0.5"}, 200),
    ("/ipfs/{root}", {"Accept": f"text/html, {RAW};q=0.1"}, 200),
    ("/ipfs/{root}?format=car", {"Accept": "text/html"}, 200),  # format wins
    ("/ipfs/{root}?format=car&car-version=1&car-order=unk&car-dups=n", {}, 200),
    ("/ipfs/{upper}?format=raw", {}, 200),
    ("/ipfs/{base16}?format=raw", {}, 200),
    ("/ipfs/bafkqaaa?format=raw", {}, 200),
    ("/ipfs/bafkqaaa?format=car", {}, 200),
    ("/ipfs/{root}/a.txt?format=car", {}, 200),
    ("/ipfs/{manifest}?format=raw", {}, 200),
    # not said what: 400; something else: 406
    ("/ipfs/{root}", {}, 400),
    ("/ipfs/{root}", {"Accept": "*/*"}, 406),
    ("/ipfs/{root}", {"Accept": "text/html"}, 406),
    ("/ipfs/{root}", {"Accept": f"{CAR};version=2"}, 406),
    ("/ipfs/{root}", {"Accept": f"{RAW};q=0"}, 406),
    ("/ipfs/{root}?format=tar", {}, 406),
    ("/ipfs/{root}?format=ipns-record", {}, 406),
    ("/ipfs/{root}?format=nonsense", {}, 400),
    ("/ipfs/{root}?format=car&car-version=2", {}, 400),
    ("/ipfs/{root}?format=car&car-order=bfs", {}, 400),
    ("/ipfs/{root}?format=car&car-dups=maybe", {}, 400),
    ("/ipfs/{root}?format=car&dag-scope=some", {}, 400),
    ("/ipfs/{root}/a.txt?format=car&entity-bytes=5", {}, 400),
    ("/ipfs/{root}/a.txt?format=car&entity-bytes=5:2", {}, 400),
    ("/ipfs/{root}/a.txt?format=car&entity-bytes=*:2", {}, 400),
    ("/ipfs/{root}/a.txt?format=car&entity-bytes=1_0:2_0", {}, 400),
    ("/ipfs/{root}/a.txt?format=car&entity-bytes=6:7", {}, 400),  # wholly outside, known here
    ("/ipfs/{root}/many%20chunks.bin?format=car&entity-bytes=9999999:*", {}, 400),
    # CIDs that are none, or prove nothing
    ("/ipfs/?format=raw", {}, 400),
    ("/ipfs/nonsense?format=raw", {}, 400),
    ("/ipfs/QmInvalid?format=raw", {}, 400),
    ("/ipfs/bafkqaadmnzqq?format=raw", {}, 400),  # carries its data
    ("/ipfs/bafkrwibnkrwigyynn6fnavnq6ywz3ydzqu6i6cvhf6xbhcscrxzmkfswcyy?format=raw", {}, 400),
    ("/ipfs/" + "b" * 3000 + "?format=raw", {}, 400),
    # what is not in this release
    ("/ipfs/{absent}?format=raw", {}, 404),
    ("/ipfs/{absent}?format=car", {}, 404),
    ("/ipfs/{root}/nothing?format=car", {}, 404),
    ("/ipfs/{root}/a.txt/below?format=car", {}, 404),
    ("/ipfs/{root}/deep/er/nothing?format=car", {}, 404),
    ("/ipfs/{absent}?format=raw", {"Cache-Control": "only-if-cached"}, 412),
    ("/ipfs/{root}?format=raw", {"Cache-Control": "only-if-cached"}, 200),
    ("/ipfs/{root}/../a.txt?format=car", {}, 400),
    ("/ipfs/{root}//a.txt?format=car", {}, 400),
    ("/ipns/example.org?format=raw", {}, 501),
]


@pytest.mark.parametrize(("address", "headers", "status"), STATUSES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_statuses(
    seeding: Seeding, root: str, address: str, headers: dict[str, str], status: int, method: str
) -> None:
    names = {
        "root": root,
        "upper": root.upper(),
        "base16": "f" + Cid.parse(root).bytes.hex(),
        "absent": ABSENT,
        "manifest": Cid(1, 0x55, bytes.fromhex(seeding.release.release.manifest_id)).text,
    }
    sent = {key.replace("-", "_"): value for key, value in headers.items()}
    got = ask(seeding.port, address.format(**names), method=method, **sent)
    assert got.status == status, got.body
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    if method == "HEAD":
        assert got.body == b""


def test_methods(seeding: Seeding, root: str) -> None:
    assert ask(seeding.port, f"/ipfs/{root}?format=raw", method="POST").status == 405
    assert ask(seeding.port, f"/ipfs/{root}?format=raw", method="OPTIONS").status == 204


# -- raw blocks --------------------------------------------------------------------------------------------


def test_headers_of_a_raw_block(seeding: Seeding) -> None:
    cid = entry_cid(seeding, "a.txt")
    got = get(seeding, f"/ipfs/{cid}", Accept=RAW)
    assert got.body == b"hello\n"
    headers = got.headers
    assert headers["Content-Type"] == RAW
    assert headers["Content-Length"] == "6"
    assert headers["Content-Disposition"] == f'attachment; filename="{cid}.bin"'
    assert headers["X-Ipfs-Path"] == f"/ipfs/{cid}"
    assert headers["X-Ipfs-Roots"] == cid
    assert headers["Etag"] == f'"{cid}.raw"'
    assert headers["Content-Location"] == f"/ipfs/{cid}?format=raw"
    assert {"public", "immutable", "max-age=29030400"} <= set(headers["Cache-Control"].split(", "))
    assert get(seeding, f"/ipfs/{cid}?format=raw", If_None_Match=headers["Etag"]).status == 304
    named = get(seeding, f"/ipfs/{cid}?format=raw&filename=f%22oo%0d%0aX:%C3%BC.bin").headers
    assert named["Content-Disposition"].startswith('attachment; filename="f_oo__X__.bin"; filename*=UTF-8')
    assert named["X"] is None


def test_every_block_of_the_release_comes_raw(seeding: Seeding) -> None:
    for root in seeding.release.release.cids.values():
        found = cids(get(seeding, f"/ipfs/{root}?format=car"))
        assert len(found) == len(set(found)) > 8
        for text in found:
            got = get(seeding, f"/ipfs/{text}?format=raw")
            Cid.parse(text).check(got.body)
            head = ask(seeding.port, f"/ipfs/{text}?format=raw", method="HEAD")
            assert head.headers["Content-Length"] == str(len(got.body))


def test_the_manifest_is_a_block(seeding: Seeding) -> None:
    digest = bytes.fromhex(seeding.release.release.manifest_id)
    got = get(seeding, f"/ipfs/{Cid(1, 0x55, digest).text}?format=raw")
    assert got.body == seeding.release.file("manifest.json").read_bytes()
    assert hashlib.sha256(got.body).digest() == digest


# -- CAR ---------------------------------------------------------------------------------------------------


def test_the_car_of_a_folder_is_the_whole_tree(seeding: Seeding) -> None:
    for root in seeding.release.release.cids.values():
        got = get(seeding, f"/ipfs/{root}?format=car")
        assert got.headers["Content-Type"] == f"{CAR}; version=1; order=dfs; dups=n"
        assert got.headers["Content-Disposition"] == f'attachment; filename="{root}.car"'
        roots, store = load_car(io.BytesIO(got.body))
        assert [cid.text for cid in roots] == [root]
        names = {node.path: node.size_bytes for node in walk(roots[0], store.get)}
        assert names == {entry.path: entry.size_bytes for entry in seeding.release.manifest.entries}
        assert get(seeding, f"/ipfs/{root}?format=car").body == got.body  # the same bytes each time


def test_depth_first_and_parents_first(seeding: Seeding, root: str) -> None:
    content = dict(read_car(io.BytesIO(get(seeding, f"/ipfs/{root}?format=car&car-dups=y").body)))
    order: list[str] = []

    def visit(cid: Cid) -> None:
        order.append(cid.text)
        if cid.codec == 0x70:
            for link in decode_node(content[cid]).links:
                visit(link.cid)

    visit(Cid.parse(root))
    assert cids(get(seeding, f"/ipfs/{root}?format=car&car-dups=y")) == order
    once = cids(get(seeding, f"/ipfs/{root}", Accept=f"{CAR};order=dfs;dups=n"))
    assert once == list(dict.fromkeys(order))
    assert len(order) > len(once)  # the twin


def test_scopes_along_a_path(seeding: Seeding, root: str) -> None:
    folder = get(seeding, f"/ipfs/{root}/deep?format=car&dag-scope=block")
    assert len(cids(folder)) == 2
    assert cids(folder)[0] == root
    assert folder.headers["X-Ipfs-Roots"].split(",") == cids(folder)
    assert cids(get(seeding, f"/ipfs/{root}/deep?format=car&dag-scope=entity")) == cids(folder)
    everything = cids(get(seeding, f"/ipfs/{root}/deep?format=car"))
    assert everything[:2] == cids(folder)
    assert len(everything) == 5  # the path, the folder in it, its file, and the twins once
    address = f"/ipfs/{root}/{quote(BIG)}?format=car"
    assert len(cids(get(seeding, address))) == 6  # root, node, four leaves
    assert cids(get(seeding, f"{address}&dag-scope=entity")) == cids(get(seeding, address))
    assert len(cids(get(seeding, f"{address}&dag-scope=block"))) == 2
    one = f"/ipfs/{root}/a.txt?format=car"
    assert cids(get(seeding, one)) == [root, entry_cid(seeding, "a.txt")]


def test_odd_names_along_a_path(seeding: Seeding, root: str) -> None:
    for path in some_files():
        got = get(seeding, f"/ipfs/{root}/{quote(path)}?format=car&dag-scope=block")
        assert cids(got)[-1] == entry_cid(seeding, path)


PARTS: list[tuple[str, list[int]]] = [
    ("0:*", [0, 1, 2, 3]),
    ("0:0", [0]),
    (f"0:{CHUNK - 1}", [0]),
    (f"0:{CHUNK}", [0, 1]),
    (f"{CHUNK}:{CHUNK}", [1]),
    (f"{CHUNK - 1}:{CHUNK}", [0, 1]),
    (f"{2 * CHUNK + 5}:{3 * CHUNK + 5}", [2, 3]),
    ("-1:*", [3]),
    ("-4321:*", [3]),
    ("-4322:*", [2, 3]),
    ("-4322:-4322", [2]),
    (f"{CHUNK}:-{CHUNK + 4322}", [1]),
    (f"{3 * CHUNK}:99999999999", [3]),
    ("-99999999:5", [0]),
]


@pytest.mark.parametrize(("part", "leaves"), PARTS)
def test_entity_bytes(seeding: Seeding, part: str, leaves: list[int]) -> None:
    cid = entry_cid(seeding, BIG)
    whole = cids(get(seeding, f"/ipfs/{cid}?format=car"))
    got = get(seeding, f"/ipfs/{cid}?format=car&entity-bytes={part}")
    first, last = part.split(":")
    size = MANY_CHUNKS
    begin = max(int(first) + size, 0) if int(first) < 0 else int(first)
    end = size - 1 if last == "*" else min(int(last) + (size if int(last) < 0 else 0), size - 1)
    assert leaves == list(range(begin // CHUNK, end // CHUNK + 1))  # the table is right
    assert cids(got) == [whole[0], *(whole[1 + leaf] for leaf in leaves)]


def test_entity_bytes_of_a_folder_are_ignored(seeding: Seeding, root: str) -> None:
    assert cids(get(seeding, f"/ipfs/{root}?format=car&entity-bytes=0:5")) == [root]
    # an empty file has no bytes outside of it
    empty = get(seeding, f"/ipfs/{root}/empty?format=car&entity-bytes=0:*")
    assert cids(empty) == [root, entry_cid(seeding, "empty")]


def test_tags_tell_requests_apart(seeding: Seeding, root: str) -> None:
    queries = [
        "",
        "&dag-scope=block",
        "&dag-scope=entity",
        "&entity-bytes=0:5",
        "&entity-bytes=0:6",
        "&car-dups=y",
    ]
    tags = [get(seeding, f"/ipfs/{root}?format=car{query}").headers["Etag"] for query in queries]
    assert len(set(tags)) == len(queries)
    assert get(seeding, f"/ipfs/{root}?format=car", If_None_Match=tags[0]).status == 304
    assert get(seeding, f"/ipfs/{root}?format=car", If_None_Match=tags[1]).status == 200


def test_the_empty_block_that_tells_a_gateway(seeding: Seeding) -> None:
    assert get(seeding, "/ipfs/bafkqaaa?format=raw").body == b""
    car = get(seeding, "/ipfs/bafkqaaa", Accept=CAR)
    assert b"\x00\x01\x55\x00\x00" in car.body  # its only root
    assert car.headers["Content-Type"].startswith(CAR)


def test_a_folder_too_large_for_one_block(tmp_path: Path) -> None:
    files = {f"{n:04d}" + "x" * 240: b"%d" % n for n in range(950)} | {"big": os.urandom(CHUNK + 1)}
    release = make_release(tmp_path / "r", files, name="n", torrents=False)
    with Seeding(release, OPTIONS) as seeding:
        for root in release.release.cids.values():
            nodes = cids(get(seeding, f"/ipfs/{root}?format=car&dag-scope=entity"))
            assert len(nodes) > 100
            assert len(cids(get(seeding, f"/ipfs/{root}?format=car"))) > len(nodes) + 950
            name = "0777" + "x" * 240
            found = cids(get(seeding, f"/ipfs/{root}/{name}?format=car"))
            assert found[0] == root
            assert set(found[:-1]) <= set(nodes)
            assert found[-1] == Cid.of(0x55, b"777").text
            assert 2 <= len(found) <= 5
            for absent in ("0777", "FF", "", "0777" + "y" * 240, "00"):
                address = f"/ipfs/{root}/{absent}/x?format=car" if absent else f"/ipfs/{root}/x?format=car"
                assert get(seeding, address).status == 404


# -- the map -----------------------------------------------------------------------------------------------


def test_the_map_knows_every_leaf_without_reading_data(tmp_path: Path) -> None:
    release = make_release(tmp_path / "r")
    contents = {entry.path: (release.data / entry.path).read_bytes() for entry in release.manifest.entries}
    for path, data in contents.items():
        os.truncate(release.data / path, 0)
        os.truncate(release.data / path, len(data))  # sizes are right, and everything is zeros
    blocks = BlockMap(Shelf(release))
    for profile in ("unixfs-v1-2025", "kubo-v1-raw"):
        step = PROFILES[profile].chunk_bytes
        for path, data in contents.items():
            for at in range(0, max(len(data), 1), step):
                chunk = data[at : at + step]
                places = blocks.places(hashlib.sha256(chunk).digest())
                here = [place for place in places if place.item.path == release.data / path]
                assert (here[0].offset, here[0].length) == (at, len(chunk))
    assert len(blocks.places(hashlib.sha256(contents["deep/twin.bin"]).digest())) == 2
    with pytest.raises(NotHere):
        blocks.read(bytes(32))
    assert blocks.number(b"") is None


def test_nodes_over_nodes_and_repeated_leaves(tmp_path: Path) -> None:
    chunk = PROFILES["kubo-v1-raw"].chunk_bytes
    make = random.Random(1)
    parts = [make.randbytes(64) * (chunk // 64) for _ in range(5)]
    data = b"".join(parts[n * n % 5] for n in range(180)) + b"end"  # 181 leaves: 174 + 7, two levels
    release = make_release(tmp_path / "r", {"f": data}, name="n", profiles=("kubo-v1-raw",), torrents=False)
    with Seeding(release, OPTIONS) as seeding:
        cid = entry_cid(seeding, "f")
        every = cids(get(seeding, f"/ipfs/{cid}?format=car&car-dups=y"))
        assert len(every) == 1 + 2 + 181
        once = cids(get(seeding, f"/ipfs/{cid}?format=car"))
        assert once == list(dict.fromkeys(every))
        last = cids(get(seeding, f"/ipfs/{cid}?format=car&entity-bytes=-1:*"))
        assert last == [every[0], every[1 + 174 + 1], every[-1]]
        middle = 174 * chunk
        both = cids(get(seeding, f"/ipfs/{cid}?format=car&car-dups=y&entity-bytes={middle - 1}:{middle}"))
        assert both == [every[0], every[1], every[1 + 174], every[1 + 174 + 1], every[1 + 174 + 2]]


def test_equal_links_are_what_the_decoder_finds() -> None:
    profile = PROFILES["kubo-v1-raw"]
    for size in (0, 1, 2, 3, 173, 174):
        data = random.Random(size).randbytes(64) * (profile.chunk_bytes // 64 * size // 8) + b"tail"
        for _, block in file_bytes(profile, data).nodes:
            run, rest = equal_links(block)
            found = [run[at : at + 32] for at in range(0, len(run), 32)]
            found += [link.cid.digest for link in decode_node(rest).links]
            assert found == [link.cid.digest for link in decode_node(block).links]
    for odd in (b"", b"\x12", b"\x0a\x02\x08\x02", b"\x12\x28" + b"\x0a\x24\x01\x55\x12\x20" + b"x" * 10):
        assert equal_links(odd) == (b"", odd)


def test_byte_ranges() -> None:
    assert Bytes(0, None).within(10) == (0, 10)
    assert Bytes(9, 9).within(10) == (9, 10)
    assert Bytes(10, None).within(10) is None
    assert Bytes(-3, -2).within(10) == (7, 9)
    assert Bytes(-30, 0).within(10) == (0, 1)
    assert Bytes(0, -11).within(10) is None
    assert Bytes(0, None).within(0) is None
