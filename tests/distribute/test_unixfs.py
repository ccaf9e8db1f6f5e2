"""Files, folders and trees: published vectors, reading back what was built, bounds on memory."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st

from distribute.car import BlockStore
from distribute.cid import DAG_PB, RAW, Cid
from distribute.dagpb import FILE, UnixFs, encode_node
from distribute.unixfs import (
    PROFILES,
    Profile,
    blocks,
    file_bytes,
    file_from_leaves,
    folder,
    iter_leaves,
    leaf_data,
    leaf_digest,
    leaf_layout,
    leaf_wrap,
    profile_named,
    tree,
    walk,
)
from headwater.errors import IntegrityError, UsageError

V1, KUBO, V0 = (PROFILES[name] for name in ("unixfs-v1-2025", "kubo-v1-raw", "unixfs-v0-2015"))
TINY = Profile("tiny", 4, 3, True, 1, "block")
TINY_V0 = Profile("tiny-v0", 4, 3, False, 0, "links")
LETTERS = b"abcdefghijklmnopqrstuvwxyz01234567890-_"


def keystream(seed: str) -> Callable[[int], bytes]:
    """The test stream of Kubo and of ipfs-unixfs-importer: ChaCha20 keyed by SHA-256 of the seed, zero nonce."""
    cipher = Cipher(ChaCha20(hashlib.sha256(seed.encode()).digest(), bytes(16)), None).encryptor()
    return lambda size: cipher.update(bytes(size))


def test_small_vectors() -> None:
    """Kubo's cid_profiles_test.go and IPIP-499."""
    assert file_bytes(V0, b"hello\n").cid.text == "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN"
    assert file_bytes(V0, b"hello world").cid.text == "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"
    assert (
        file_bytes(V1, b"hello world").cid.text
        == "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    )
    assert (
        folder(V0, {}).cid.text == tree(V0, {}).cid.text == "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
    )
    assert folder(V1, {}).cid.text == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"


def test_the_tree_of_kubos_gateway_tests() -> None:
    text = {
        "hello": b"hello\n",
        "ipfs/ipns/bar": b"text-file-content\n",
        "api/file.txt": b"I am a txt file\n",
        "ipfs/file.txt": b"I am a txt file\n",
    }
    for profile in (V1, KUBO):
        root = tree(profile, {path: file_bytes(profile, data) for path, data in text.items()})
        assert root.cid.text == "bafybeiht6dtwk3les7vqm6ibpvz6qpohidvlshsfyr7l5mpysdw2vmbbhe"
        assert root.size_bytes == sum(map(len, text.values()))


@pytest.mark.parametrize(
    ("profile", "seed", "size", "cid"),
    [
        (V0, "chunk-v0-seed", 262_144, "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE"),
        (V0, "chunk-v0-seed", 262_145, "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ"),
        (V0, "v0-seed", 174 << 18, "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2"),
        (V0, "v0-seed", (174 << 18) + 1, "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW"),
        (V0, "v0-seed", 175 << 18, "QmepeWtdmS1hHXx1oZXsPUv6bMrfRRKfZcoPPU4eEfjnbf"),
        (V1, "chunk-v1-seed", 1 << 20, "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
        (V1, "chunk-v1-seed", (1 << 20) + 1, "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"),
    ],
)
def test_seeded_vectors(profile: Profile, seed: str, size: int, cid: str) -> None:
    assert file_bytes(profile, keystream(seed)(size)).cid.text == cid


@pytest.mark.slow
def test_seeded_vectors_of_a_gibibyte() -> None:
    take = keystream("v1-2025-seed")
    leaves = b"".join(leaf_digest(V1, take(1 << 20)) for _ in range(1024))
    last = take(1 << 20)
    for more, cid in (
        (0, "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"),
        (1, "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"),
        (1 << 20, "bafybeihmzokxxjqwxjcryerhp5ezpcog2wcawfryb2xm64xiakgm4a5jue"),
    ):
        extra = leaf_digest(V1, last[:more]) if more else b""
        assert file_from_leaves(V1, leaves + extra, (1 << 30) + more).cid.text == cid


def test_an_unknown_profile() -> None:
    assert profile_named("kubo-v1-raw") is KUBO
    with pytest.raises(UsageError) as caught:
        profile_named("unixfs-v1-2024")
    assert "unixfs-v1-2025" in str(caught.value.hint)


@given(st.sampled_from([V0, TINY_V0, V1]), st.binary(max_size=300))
def test_wrapped_leaves_are_dag_pb_files(profile: Profile, chunk: bytes) -> None:
    before, after = leaf_wrap(profile, len(chunk))
    block = before + chunk + after
    assert leaf_digest(profile, memoryview(chunk)) == hashlib.sha256(block).digest()
    if profile.raw_leaves:
        assert block == chunk
    else:
        assert block == encode_node([], UnixFs(FILE, chunk, len(chunk)).encode())


@pytest.mark.parametrize("size", [0, 1, 127, 128, 262_143, 262_144])
def test_wrapped_leaves_at_lengths_that_change_a_varint(size: int) -> None:
    before, after = leaf_wrap(V0, size)
    assert before + bytes(size) + after == encode_node([], UnixFs(FILE, bytes(size), size).encode())


@pytest.mark.parametrize(("count", "size"), [(0, 0), (2, 4), (1, 5), (3, 8)])
def test_leaves_that_do_not_fit_the_size(count: int, size: int) -> None:
    with pytest.raises(IntegrityError, match="leaves"):
        file_from_leaves(TINY, bytes(32 * count), size)


class Dag:
    """A tree in memory, with the bytes of its files, read as from elsewhere."""

    def __init__(self, profile: Profile, files: dict[str, bytes], empty: tuple[str, ...] = ()) -> None:
        self.files = files
        self.root = tree(profile, {path: file_bytes(profile, data) for path, data in files.items()}, empty)
        self.store = BlockStore(self.root.nodes)
        for data in files.values():
            for at in range(0, max(1, len(data)), profile.chunk_bytes):
                chunk = data[at : at + profile.chunk_bytes]
                before, after = leaf_wrap(profile, len(chunk))
                cid = Cid(1, RAW if profile.raw_leaves else DAG_PB, leaf_digest(profile, chunk))
                self.store.add(cid, before + chunk + after)

    def read(self, path: str, offset: int, length: int) -> bytes:
        return self.files[path][offset : offset + length]


PATHS = st.lists(st.sampled_from(["a", "b", "c d", "é"]), min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(PATHS.map(lambda path: path + ".x"), st.binary(max_size=200), max_size=8)


@given(st.sampled_from([TINY, TINY_V0]), TREES)
def test_what_is_built_is_found_again(profile: Profile, files: dict[str, bytes]) -> None:
    dag = Dag(profile, files, ("z/empty",))
    found = list(walk(dag.root.cid, dag.store.get))
    assert {node.path: node.size_bytes for node in found if not node.is_folder} == {
        path: len(data) for path, data in files.items()
    }
    assert [node.path for node in found if node.is_folder] == ["z/empty"]
    for node in found:
        if not node.is_folder:
            layout = leaf_layout(node.cid, dag.store.get)
            content = [leaf_data(cid, dag.store.get(cid), length) for _, length, cid in layout]
            assert b"".join(content) == files[node.path]
            assert [offset for offset, _, _ in layout] == [
                sum(map(len, content[:n])) for n in range(len(content))
            ]
    sent = list(blocks(dag.root.cid, dag.store.get, dag.read))
    assert len({cid.digest for cid, _ in sent}) == len(sent) == len(dag.store)
    assert sent[0][0] == dag.root.cid
    for cid, block in sent:
        cid.check(block)


@pytest.mark.parametrize("profile", [TINY, TINY_V0])
@pytest.mark.parametrize("size", [3, 4, 5, 12, 13, 41])
def test_a_range_needs_exactly_its_leaves(profile: Profile, size: int) -> None:
    data = bytes(range(size))
    dag = Dag(profile, {"f": data})
    cid = next(walk(dag.root.cid, dag.store.get)).cid
    whole = leaf_layout(cid, dag.store.get)
    for offset in range(size + 2):
        for length in (1, 3, 4, 5, size, size + 9):
            found = list(iter_leaves(cid, dag.store.get, offset=offset, length=length))
            assert found == [part for part in whole if part[0] < offset + length and sum(part[:2]) > offset]
        assert list(iter_leaves(cid, dag.store.get, offset=offset)) == [
            p for p in whole if sum(p[:2]) > offset
        ]
        assert list(iter_leaves(cid, dag.store.get, offset=offset, length=0)) == []


def test_the_size_of_the_dag_counts_every_block() -> None:
    """Tsize: bytes of all blocks, those met twice counted twice."""
    dag = Dag(TINY, {"a": b"0123456789" * 5, "d/b": b"xy", "d/e/c": b"0123456789"})

    def total(cid: Cid) -> int:
        if cid.codec == RAW:
            return len(dag.store.get(cid))
        from distribute.dagpb import decode_node

        block = dag.store.get(cid)
        return len(block) + sum(total(link.cid) for link in decode_node(block).links)

    assert dag.root.dag_bytes == total(dag.root.cid)


def test_a_tree_does_not_depend_on_the_order_it_is_told_in() -> None:
    files = {f"{n % 7}/{n % 3}/{n}": file_bytes(V1, b"%d" % n) for n in range(100)}
    back = dict(reversed(files.items()))
    assert tree(V1, files).cid == tree(V1, back).cid
    streamed: list[tuple[Cid, bytes]] = []
    one = tree(V1, files, emit=lambda cid, block: streamed.append((cid, block)))
    assert one.nodes == [] and streamed == list(reversed(tree(V1, files).nodes))
    assert tree(V1, files).nodes[0][0] == one.cid


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\\b", "a\0b", "\ud800"]
)
def test_paths_that_no_tree_may_have(path: str) -> None:
    with pytest.raises(IntegrityError):
        tree(V1, {path: file_bytes(V1, b"")})


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a/b", "a")])
def test_a_path_cannot_be_file_and_folder(paths: tuple[str, str]) -> None:
    with pytest.raises(IntegrityError, match=r"'a'|'a/b'"):
        tree(V1, {path: file_bytes(V1, b"") for path in paths})
    with pytest.raises(IntegrityError, match="both a file and a folder"):
        tree(V1, {"a": file_bytes(V1, b"")}, ["a"])


def test_a_file_that_changed_is_not_exported() -> None:
    dag = Dag(TINY, {"a": b"0123456789"})
    with pytest.raises(IntegrityError):
        list(blocks(dag.root.cid, BlockStore(dag.root.nodes).get, lambda path, at, size: b"0123"[:size]))


@settings(max_examples=1)
@given(st.just(1 << 36))
def test_memory_of_a_large_file(size: int) -> None:
    """64 GiB in one-MiB chunks: nothing a leaf is kept beyond its node."""
    leaves = os.urandom(1 << 15) * ((size >> 20) * 32 >> 15)
    tracemalloc.start()
    built = file_from_leaves(V1, leaves, size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = sum(len(block) for _, block in built.nodes)
    assert len(built.nodes) == 65 and peak < kept + (2 << 20)


def counted(store: BlockStore) -> tuple[Callable[[Cid], bytes], list[Cid]]:
    asked: list[Cid] = []

    def get(cid: Cid) -> bytes:
        asked.append(cid)
        return store.get(cid)

    return get, asked


def test_a_walk_fetches_each_node_once_and_no_raw_leaf() -> None:
    dag = Dag(TINY, {"a/b": b"x", "a/c": b"0123456789", "d": b""})
    get, asked = counted(dag.store)
    found: Iterator[object] = walk(dag.root.cid, get)
    assert len(list(found)) == 3
    assert len(asked) == 3 and all(cid.codec == DAG_PB for cid in asked)  # root, a, the root node of a/c
