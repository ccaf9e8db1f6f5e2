"""The BitTorrent transport against its own seed: all kinds of torrent, parts of one, resuming, addresses, hostile input."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute.transports import bittorrent
from distribute.transports._base import SourceError
from distribute.transports._torrent_session import SeedSession
from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from tests.distribute.partners import need_module
from tests.distribute.swarm_kit import (
    PIECE,
    Ledger,
    Tree,
    content,
    context,
    equal,
    make_tree,
    web_seed,
)

KINDS = ["v1", "v2", "hybrid"]


@pytest.fixture(autouse=True)
def _libtorrent() -> None:
    need_module("libtorrent")


def fetch(
    tree: Tree,
    folder: Path,
    ledger: Ledger,
    *seeds: SeedSession,
    location: str = "",
    paths: tuple[str, ...] = (),
    stall: float = 5.0,
) -> list[Path]:
    """Download to folder/out from these seeds; the paths in the order they came."""
    peers = tuple(f"127.0.0.1:{seed.port}" for seed in seeds)
    source = bittorrent.open_source(
        location or str(tree.torrent), context(folder / "work", peers=peers, stall=stall)
    )
    return list(source.download(tree.wanted(*paths), folder / "out", ledger.progress, liar=ledger.liar))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["file", "magnet"])
def test_all_files_come_whole(tmp_path: Path, kind: str, way: str) -> None:
    tree, ledger = make_tree(tmp_path, kind), Ledger()
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        location = seed.magnets()[0] if way == "magnet" else ""
        came = fetch(tree, tmp_path, ledger, seed, location=location)
        assert seed.stats()["uploaded_bytes"] >= sum(map(len, tree.files.values()))
        assert seed.stats()["damaged"] == []
        served = f"127.0.0.1:{seed.port}"
    assert {path.relative_to(tmp_path / "out").as_posix() for path in came} == set(tree.files)
    equal(tmp_path / "out", tree.files)
    assert list(ledger.bytes) == [served]
    assert ledger.liars == []


def test_a_magnet_carries_the_seeds_address(tmp_path: Path) -> None:
    tree, ledger = make_tree(tmp_path), Ledger()
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        source = bittorrent.open_source(
            seed.magnets()[0], context(tmp_path / "work")
        )  # no peers from elsewhere
        assert [(f.path, f.size_bytes) for f in source.outline()] == [
            (p, len(c)) for p, c in tree.files.items()
        ]
        assert source.listing() is None
        assert source.release_file("manifest.json") is None
        list(source.download(tree.wanted(), tmp_path / "out", ledger.progress))
    again = bittorrent.open_source(source._magnet.text, context(tmp_path / "work"))  # type: ignore[union-attr]
    assert again.torrent == source.torrent  # kept: no peer is asked for the metadata again


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_wanted_files_appear(tmp_path: Path, kind: str) -> None:
    """The neighbours that share a piece leave nothing below the folder, and nothing beside it in the end."""
    tree, ledger = make_tree(tmp_path, kind), Ledger()
    some = ("süß/part 3 é.bin", "empty file.txt", "süß/part 4 é.bin")
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        fetch(tree, tmp_path, ledger, seed, paths=some)
        equal(tmp_path / "out", {path: tree.files[path] for path in some})
        assert [path for path in (tmp_path / "work").rglob("*") if path.is_file()] == []
        assert sum(ledger.bytes.values()) <= sum(len(tree.files[path]) for path in some) + 4 * PIECE
        fetch(
            tree, tmp_path, ledger, seed
        )  # the rest; what is there is not sent again, up to the pieces at the edges
    equal(tmp_path / "out", tree.files)
    assert sum(ledger.bytes.values()) <= sum(map(len, tree.files.values())) + 8 * PIECE


def test_a_torrent_of_one_file(tmp_path: Path) -> None:
    lt = need_module("libtorrent")
    data = content()["big.bin"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one é.bin").write_bytes(data)
    creator = lt.create_torrent(
        [lt.create_file_entry("one é.bin", len(data))], PIECE, flags=lt.create_torrent.v1_only
    )
    lt.set_piece_hashes(creator, str(tmp_path / "data"))
    (tmp_path / "one.torrent").write_bytes(lt.bencode(creator.generate()))
    tree, ledger = Tree(tmp_path / "data", b"", tmp_path / "one.torrent", {"one é.bin": data}), Ledger()
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        fetch(tree, tmp_path, ledger, seed)
    equal(tmp_path / "out", tree.files)


def test_a_fetched_folder_is_seeded_under_another_name(tmp_path: Path) -> None:
    tree, ledger = make_tree(tmp_path), Ledger()
    tree.data.rename(tmp_path / "elsewhere")
    with SeedSession([tree.torrent], None, data=tmp_path / "elsewhere", local_only=True) as seed:
        fetch(tree, tmp_path, ledger, seed)
    equal(tmp_path / "out", tree.files)


def test_two_torrents_of_one_folder_are_seeded_at_once(tmp_path: Path) -> None:
    one, two = make_tree(tmp_path, "v1"), make_tree(tmp_path, "v2")
    with SeedSession([one.torrent, two.torrent], one.parent, local_only=True) as seed:
        assert seed.stats()["torrents"] == 2
        assert [link.startswith("magnet:?xt=urn:bt") for link in seed.magnets()] == [True, True]
        for number, tree in enumerate((one, two)):
            fetch(tree, tmp_path / str(number), Ledger(), seed)
            equal(tmp_path / str(number) / "out", tree.files)


def test_a_web_seed_alone(tmp_path: Path) -> None:
    tree, ledger = make_tree(tmp_path), Ledger()
    with web_seed(tree.parent) as base:
        source = bittorrent.open_source(str(tree.torrent), context(tmp_path / "work"))
        list(source.download(tree.wanted(), tmp_path / "out", ledger.progress, extra_web_seeds=[base]))
        assert list(ledger.bytes) == [base]
    equal(tmp_path / "out", tree.files)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_never_writes(tmp_path: Path, kind: str) -> None:
    """A damaged seed beside a healthy one, and a reader that wants all: the damaged file stays as it is, and is named."""
    tree = make_tree(tmp_path, kind)
    good = tree.copy(tmp_path / "good")
    tree.flip("big.bin", 1_000_000)
    before = {
        path: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in tree.data.rglob("*")
        if path.is_file()
    }
    with (
        SeedSession([tree.torrent], tree.parent, local_only=True) as damaged,
        SeedSession([tree.torrent], good.parent, local_only=True) as healthy,
    ):
        damaged.connect("127.0.0.1", healthy.port)
        first = threading.Thread(target=_attempt, args=(tree, tmp_path / "first", damaged))
        first.start()
        end = time.monotonic() + 20
        while not damaged.stats()["damaged"] and time.monotonic() < end:
            time.sleep(0.05)
        assert "big.bin" in damaged.stats()["damaged"][0]
        assert f"piece {1_000_000 // PIECE}" in damaged.stats()["damaged"][0] or kind != "v1"
        damaged.connect("127.0.0.1", healthy.port)
        fetch(tree, tmp_path, Ledger(), damaged, healthy)
        first.join(30)
        assert damaged._handles[0].status().total_payload_download == 0
    equal(tmp_path / "out", tree.files)
    after = {
        path: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in tree.data.rglob("*")
        if path.is_file()
    }
    assert after == before


def _attempt(tree: Tree, folder: Path, seed: SeedSession) -> None:
    try:
        fetch(tree, folder, Ledger(), seed, stall=1.0)
    except SourceError:
        pass


@pytest.mark.parametrize("change", ["missing", "short", "long"])
def test_a_seed_refuses_files_that_do_not_fit(tmp_path: Path, change: str) -> None:
    tree = make_tree(tmp_path)
    path = tree.data / "big.bin"
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(b"x" * (10 if change == "short" else len(tree.files["big.bin"]) + 1))
    left = path.read_bytes() if path.exists() else None
    with pytest.raises(MissingInput if change == "missing" else IntegrityError, match=r"big\.bin"):
        SeedSession([tree.torrent], tree.parent, local_only=True)
    assert (path.read_bytes() if path.exists() else None) == left


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    with (
        SeedSession([tree.torrent], tree.parent, local_only=True) as seed,
        pytest.raises(HeadwaterError, match="cannot listen"),
    ):
        SeedSession([tree.torrent], tree.parent, "127.0.0.1", seed.port, local_only=True)


def test_a_closed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    """The reader stops after the first file; the next call brings the rest and little else."""
    tree, ledger = make_tree(tmp_path, files=content(big=20_000_000)), Ledger()
    with SeedSession([tree.torrent], tree.parent, local_only=True, upload_limit=0) as seed:
        source = bittorrent.open_source(
            str(tree.torrent), context(tmp_path / "work", peers=(f"127.0.0.1:{seed.port}",))
        )
        walk = source.download(tree.wanted(), tmp_path / "out", ledger.progress)
        next(walk)  # the empty file: nothing was asked for yet
        assert isinstance(walk, Iterator)
        next(walk)
        walk.close()  # type: ignore[attr-defined]
        had = sum(ledger.bytes.values())
        list(source.download(tree.wanted(), tmp_path / "out", ledger.progress))
    equal(tmp_path / "out", tree.files)
    total = sum(map(len, tree.files.values()))
    assert had > 0
    assert sum(ledger.bytes.values()) < total * 1.2


def test_a_file_changed_after_a_resume_is_sent_again(tmp_path: Path) -> None:
    """The state on disk is no proof: a file that it calls whole is hashed before it is given out."""
    tree, ledger = make_tree(tmp_path), Ledger()
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        source = bittorrent.open_source(
            str(tree.torrent), context(tmp_path / "work", peers=(f"127.0.0.1:{seed.port}",))
        )
        paths = [path for path in tree.files if path != "z last.bin"]
        list(source.download(tree.wanted(*paths), tmp_path / "out", ledger.progress))
        flag = False

        def stop() -> bool:
            return flag

        walk = source.download(tree.wanted(), tmp_path / "out", ledger.progress, cancelled=stop)
        for path in walk:
            flag = path.name == "big.bin" or flag
        with open(tmp_path / "out" / "big.bin", "r+b") as file:
            file.seek(500_000)
            file.write(b"damage")
        list(source.download(tree.wanted(), tmp_path / "out", ledger.progress))
    equal(tmp_path / "out", tree.files)


def test_cancelled_before_it_starts(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    source = bittorrent.open_source(str(tree.torrent), context(tmp_path / "work"))
    start = time.monotonic()
    came = list(
        source.download(tree.wanted("big.bin"), tmp_path / "out", Ledger().progress, cancelled=lambda: True)
    )
    assert came == []
    assert time.monotonic() - start < 4  # and not the stall
