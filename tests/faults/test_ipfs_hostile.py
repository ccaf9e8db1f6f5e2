"""Rows 78 and 79 of the fault catalogue, as the IPFS transport meets them: names, shapes and CIDs that are hostile or weak.

Every block here is true to its CID; what it says is what must be refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from distribute.cid import DAG_PB, RAW, Cid
from distribute.dagpb import DIRECTORY, Link, UnixFs, encode_node, link_bytes, node_bytes
from distribute.transports import ipfs
from distribute.transports._base import Refused, Wanted, WrongBytes
from distribute.transports._ipfs_location import parse_location
from distribute.transports.ipfs import open_source
from tests.distribute.ipfs_kit import GatewayDouble, Section, make_dag, quick, some_files, within


def folder_of(links: list[Link]) -> Section:
    block = encode_node(links, UnixFs(DIRECTORY).encode())
    return Cid.of(DAG_PB, block), block


@pytest.mark.parametrize(
    "names",
    [["../up"], [".."], ["."], [""], ["a/b"], ["/etc/passwd"], ["a\\b"], ["nul\0"], ["same", "same"]],
)
def test_hostile_names(names: list[str], tmp_path: Path) -> None:
    leaf = Cid.of(RAW, b"x")
    rows = [link_bytes(name.encode(), leaf.bytes, 1) for name in names]
    block = node_bytes(rows, UnixFs(DIRECTORY).encode())
    root = Cid.of(DAG_PB, block)
    with GatewayDouble({root.digest: (root, block), leaf.digest: (leaf, b"x")}) as gateway:
        source = open_source(root.text, quick(tmp_path, gateway.url))
        with pytest.raises(WrongBytes, match=root.text):
            source.listing()
        source.close()


def test_folders_in_each_other_without_end(tmp_path: Path) -> None:
    blocks: dict[bytes, Section] = {}
    cid, block = folder_of([])
    for _ in range(400):
        blocks[cid.digest] = (cid, block)
        cid, block = folder_of([Link("d", cid, 1)])
    blocks[cid.digest] = (cid, block)
    with GatewayDouble(blocks) as gateway:
        source = open_source(cid.text, quick(tmp_path, gateway.url))
        with pytest.raises(WrongBytes, match="folders in each other"):
            source.listing()
        source.close()


def test_few_blocks_that_unfold_into_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten entries that are all the same folder of ten: eight blocks name 10^8 files."""
    monkeypatch.setattr(ipfs, "ENTRIES", 2_000)
    leaf = Cid.of(RAW, b"x")
    blocks: dict[bytes, Section] = {leaf.digest: (leaf, b"x")}
    cid = leaf
    for _ in range(8):
        cid, block = folder_of([Link(str(n), cid, 1) for n in range(10)])
        blocks[cid.digest] = (cid, block)
    with GatewayDouble(blocks) as gateway, within(60):
        source = open_source(cid.text, quick(tmp_path, gateway.url))
        with pytest.raises(WrongBytes, match="more than 2000 entries"):
            source.listing()
        source.close()


def test_a_file_whose_nodes_contradict_each_other(tmp_path: Path) -> None:
    leaf = Cid.of(RAW, b"12345")
    link = Link("", leaf, 5)
    cases = {
        "sizes": UnixFs(2, filesize=9, blocksizes=(9,)),
        "counts": UnixFs(2, filesize=5, blocksizes=(5, 0)),
        "folder": UnixFs(DIRECTORY),
    }
    for message in cases.values():
        block = encode_node([link], message.encode())
        cid = Cid.of(DAG_PB, block)
        with GatewayDouble({leaf.digest: (leaf, b"12345"), cid.digest: (cid, block)}) as gateway:
            for size in (5, 9):
                source = open_source(cid.text, quick(tmp_path, gateway.url))
                with pytest.raises(WrongBytes, match="f: baf"):
                    list(source.read(Wanted("f", size, cid=cid.text), 0, size))
                source.close()


@pytest.mark.parametrize(
    "text",
    [
        Cid(1, RAW, hashlib.sha1(b"x").digest(), 0x11).text,
        Cid(1, RAW, b"x" * 100, 0x00).text,
        Cid(1, 0x78, b"x" * 32).text,
        Cid(1, RAW, b"x" * 32, 0x13).text,
        "b" + "a" * 2_000_000,
        "zdj7",
    ],
)
def test_weak_unknown_and_carrying_cids_are_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_location(f"ipfs://{text}")
    assert len(caught.value.message) < 1000


def test_one_block_under_two_names(tmp_path: Path) -> None:
    """A CIDv0 and the CIDv1 of the same block, in any base and case, are one."""
    old = make_dag(some_files(), "unixfs-v0-2015")
    new = old.root.with_version(1)
    with GatewayDouble(old.blocks) as gateway:
        lists = []
        for text in (old.root.text, new.text, new.text.upper(), "f" + new.bytes.hex()):
            source = open_source(f"ipfs://{text}", quick(tmp_path, gateway.url))
            lists.append(source.listing())
            source.close()
    assert lists[0] == lists[1] == lists[2] == lists[3]
