"""DAGs from outside that must be refused, each with an error that names the CID."""

from __future__ import annotations

import pytest

from distribute.car import BlockStore, MissingBlock
from distribute.cid import DAG_PB, RAW, Cid
from distribute.dagpb import DIRECTORY, FILE, SYMLINK, Link, UnixFs, encode_node
from distribute.unixfs import (
    PROFILES,
    Built,
    iter_leaves,
    leaf_data,
    leaf_layout,
    tree,
    walk,
)
from headwater.errors import IntegrityError

V1 = PROFILES["unixfs-v1-2025"]


def hostile(
    *links: Link, data: UnixFs | None = None, store: BlockStore | None = None
) -> tuple[Cid, BlockStore]:
    """A folder, or node of another kind, that no honest tool writes."""
    store = BlockStore() if store is None else store
    block = encode_node(links, (data or UnixFs(DIRECTORY)).encode())
    cid = Cid.of(DAG_PB, block)
    store.add(cid, block)
    return cid, store


LEAF = Cid.of(RAW, b"x")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc/passwd", "../x", "a\\b", "a\0b"])
def test_names_that_leave_the_folder(name: str) -> None:
    root, store = hostile(Link("fine", LEAF, 1), Link(name, LEAF, 1))
    with pytest.raises(IntegrityError, match=root.text):
        list(walk(root, store.get))


def test_a_name_twice() -> None:
    root, store = hostile(Link("a", LEAF, 1), Link("a", Cid.of(RAW, b"y"), 1))
    with pytest.raises(IntegrityError, match=f"{root.text}.*'a' twice"):
        list(walk(root, store.get))


def test_a_block_that_is_missing_false_or_too_large() -> None:
    root, store = hostile(Link("a", LEAF, 1))
    upper, _ = hostile(Link("d", root, 50), store=store)
    assert [node.path for node in walk(upper, store.get)] == ["d/a"]
    with pytest.raises(MissingBlock, match=root.text):
        list(walk(upper, BlockStore([(upper, store.get(upper))]).get))

    def flipped(cid: Cid) -> bytes:
        block = bytearray(store.get(cid))
        block[-1] ^= cid == root
        return bytes(block)

    with pytest.raises(IntegrityError, match=root.text):
        list(walk(upper, flipped))
    with pytest.raises(IntegrityError, match=upper.text):
        list(walk(upper, lambda cid: store.get(root)))  # the block of another CID
    with pytest.raises(IntegrityError, match="above the limit"):
        list(walk(upper, lambda cid: bytes(3 << 20)))


def chain(depth: int) -> tuple[Cid, BlockStore]:
    cid, store = hostile(Link("f", LEAF, 1))
    for _ in range(depth):
        cid, _ = hostile(Link("d", cid, 1), store=store)
    return cid, store


def test_folders_ten_thousand_deep() -> None:
    root, store = chain(10_000)
    with pytest.raises(IntegrityError, match="more than 256 folders"):
        list(walk(root, store.get))
    found = list(walk(root, store.get, depth_limit=20_000))
    assert [node.path for node in found] == ["d/" * 10_000 + "f"]
    built = tree(V1, {"d/" * 10_000 + "f": Built(LEAF, 1, 1)})  # nor does building recurse
    assert len(built.nodes) == 10_001


def test_a_small_dag_with_endless_entries() -> None:
    cid, store = hostile(Link("f", LEAF, 1))
    for _ in range(60):  # 2 to the 60 files in 61 blocks
        cid, _ = hostile(Link("a", cid, 1), Link("b", cid, 1), store=store)
    with pytest.raises(IntegrityError, match="more than 1000 entries"):
        list(walk(cid, store.get, entries_limit=1000))


@pytest.mark.parametrize("kind", [SYMLINK, 3])
def test_only_files_and_folders(kind: int) -> None:
    child, store = hostile(data=UnixFs(kind, b"/etc/passwd"))
    root, _ = hostile(Link("a", child, 1), store=store)
    with pytest.raises(IntegrityError, match=f"{child.text}.*symbolic"):
        list(walk(root, store.get))


def test_other_codecs_have_no_place() -> None:
    other = Cid.of(0x71, b"\xa0")
    root, store = hostile(Link("a", other, 1))
    with pytest.raises(IntegrityError, match=f"{other.text}.*dag-cbor"):
        list(walk(root, store.get))
    file, _ = hostile(Link("", other, 1), data=UnixFs(FILE, filesize=1, blocksizes=(1,)), store=store)
    with pytest.raises(IntegrityError, match="dag-cbor"):
        leaf_layout(file, store.get)


def part(*sizes: int, filesize: int | None = None, data: bytes = b"") -> UnixFs:
    return UnixFs(FILE, data, sum(sizes) if filesize is None else filesize, sizes)


BAD_FILES = {
    "sum": ([Link("", LEAF, 1)], part(1, filesize=2)),
    "sizes without parts": ([], part(1)),
    "parts without sizes": ([Link("", LEAF, 1)], part()),
    "one size too many": ([Link("", LEAF, 1)], part(1, 1)),
    "part of no bytes": ([Link("", LEAF, 1)] * 2, part(1, 0)),
    "data beside parts": ([Link("", LEAF, 1)], part(1, filesize=2, data=b"z")),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_do_not_add_up(name: str) -> None:
    links, data = BAD_FILES[name]
    file, store = hostile(*links, data=data)
    with pytest.raises(IntegrityError, match=file.text):
        leaf_layout(file, store.get)


def test_a_node_with_another_size_than_its_parent_says() -> None:
    inner, store = hostile(Link("", LEAF, 1), data=part(1))
    outer, _ = hostile(Link("", inner, 1), data=part(5), store=store)
    with pytest.raises(IntegrityError, match=f"{inner.text}.*1 bytes where its parent says 5"):
        leaf_layout(outer, store.get)


def test_a_leaf_of_another_length_than_its_node_says() -> None:
    file, store = hostile(Link("", LEAF, 1), data=part(1000))
    ((_, length, cid),) = leaf_layout(file, store.get)
    with pytest.raises(IntegrityError, match=f"{LEAF.text}.*1 bytes where 1000"):
        leaf_data(cid, b"x", length)


def test_small_files_that_claim_to_be_endless() -> None:
    size = 1
    cid, store = LEAF, BlockStore()
    for _ in range(6):  # 1000 to the 6 leaves in 7 blocks
        cid, _ = hostile(*[Link("", cid, 1)] * 1000, data=part(*[size] * 1000), store=store)
        size *= 1000
    with pytest.raises(IntegrityError, match="too many blocks"):
        leaf_layout(cid, store.get, limit=5000)
    cid = LEAF
    for _ in range(100):  # one link each
        cid, _ = hostile(Link("", cid, 1), data=part(1), store=store)
    with pytest.raises(IntegrityError, match="too many blocks"):
        leaf_layout(cid, store.get)


def test_the_root_may_be_one_file() -> None:
    store = BlockStore([(LEAF, b"x")])
    (node,) = walk(LEAF, store.get)
    assert (node.path, node.size_bytes) == ("", 1)
    assert leaf_layout(LEAF, store.get) == [(0, 1, LEAF)]
    assert list(iter_leaves(LEAF, BlockStore().get, size_bytes=1)) == [(0, 1, LEAF)]  # nothing is fetched
