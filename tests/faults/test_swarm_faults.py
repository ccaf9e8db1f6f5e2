"""Rows 83 and 84: wrong pieces, trackers that are down, web seeds that lie, nobody there, and ends in the middle.

Never a hang: what does not finish ends within the stall limit with an error that names what is missing, and its state kept.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from distribute.transports import bittorrent
from distribute.transports._base import SourceError, Stalled, Unreachable, WrongBytes
from distribute.transports._torrent_session import SeedSession
from headwater.errors import HeadwaterError
from tests.conftest import ROOT, clean_environment
from tests.distribute.partners import free_port, need_module, running, until
from tests.distribute.swarm_kit import PIECE, Ledger, Liar, Tree, content, context, equal, make_tree, web_seed

KINDS = ["v1", "v2", "hybrid"]
FLIPPED = 1_000_000
STALL = 2.0
SLACK = 8.0  # for a machine with other work


@pytest.fixture(autouse=True)
def _libtorrent() -> None:
    need_module("libtorrent")


def fetch(
    tree: Tree, folder: Path, ledger: Ledger, *ports: int, web: tuple[str, ...] = (), stall: float = 15.0
) -> None:
    peers = tuple(f"127.0.0.1:{port}" for port in ports)
    source = bittorrent.open_source(str(tree.torrent), context(folder / "work", peers=peers, stall=stall))
    for _ in source.download(
        tree.wanted(), folder / "out", ledger.progress, liar=ledger.liar, extra_web_seeds=web
    ):
        pass


def fails(
    kind: type[SourceError],
    tree: Tree,
    folder: Path,
    *ports: int,
    web: tuple[str, ...] = (),
    ledger: Ledger | None = None,
) -> SourceError:
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        fetch(tree, folder, ledger or Ledger(), *ports, web=web, stall=STALL)
    assert time.monotonic() - start < STALL + SLACK
    assert type(caught.value) is kind
    return caught.value


def broken(tmp_path: Path, kind: str) -> tuple[Tree, Tree, str]:
    """(damaged, healthy, the words that name the place)."""
    healthy = make_tree(tmp_path, kind)
    damaged = healthy.copy(tmp_path / "damaged")
    damaged.flip("big.bin", FLIPPED)
    return damaged, healthy, f"piece {FLIPPED // PIECE} of big.bin"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_the_only_seed_is_damaged(tmp_path: Path, kind: str) -> None:
    """Our seed looks at what it sends: it withdraws the piece. The reader says which, and that the copy there is not whole."""
    damaged, healthy, place = broken(tmp_path, kind)
    with SeedSession([damaged.torrent], damaged.parent, local_only=True) as seed:
        error = fails(WrongBytes, healthy, tmp_path, seed.port)
        assert error.exit_code == 13
        assert place in error.message
        assert f"127.0.0.1:{seed.port}" in error.message
        assert place.split(" of ")[0] in seed.stats()["damaged"][0]
    ledger = Ledger()
    with SeedSession([healthy.torrent], healthy.parent, local_only=True) as seed:
        fetch(healthy, tmp_path, ledger, seed.port)
    equal(tmp_path / "out", healthy.files)
    assert sum(ledger.bytes.values()) < len(healthy.files["big.bin"]) / 2  # most was there already


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_the_only_peer_lies(tmp_path: Path, kind: str) -> None:
    damaged, healthy, place = broken(tmp_path, kind)
    ledger = Ledger()
    with Liar(damaged) as liar:
        error = fails(WrongBytes, healthy, tmp_path, liar.port, ledger=ledger)
        assert error.exit_code == 13
        assert place in error.message
        assert f"127.0.0.1:{liar.port}" in error.message
        assert ledger.liars == [(f"127.0.0.1:{liar.port}", FLIPPED // PIECE, ["big.bin"])]


@pytest.mark.parametrize("kind", KINDS)
def test_one_liar_among_good_peers(tmp_path: Path, kind: str) -> None:
    damaged, healthy, _ = broken(tmp_path, kind)
    for at in range(0, 3_000_000, 100_000):  # wherever it is asked
        if at != FLIPPED:
            damaged.flip("big.bin", at)
    ledger = Ledger()
    with Liar(damaged) as liar, SeedSession([healthy.torrent], healthy.parent, local_only=True) as good:
        fetch(healthy, tmp_path, ledger, liar.port, good.port, stall=10)
        equal(tmp_path / "out", healthy.files)
        assert {who for who, _, _ in ledger.liars} == {f"127.0.0.1:{liar.port}"}


@pytest.mark.slow
def test_a_liar_that_was_alone_first(tmp_path: Path) -> None:
    """It keeps dialling us from new ports; it must not spoil the piece for the good one for ever (v2 was seen to)."""
    damaged, healthy, _ = broken(tmp_path, "v2")
    ledger = Ledger()
    with Liar(damaged) as liar, ExitStack() as later:
        good: list[SeedSession] = []
        spare = free_port()

        def told(who: str, piece: int, files: list[str]) -> None:
            ledger.liar(who, piece, files)
            if not good:
                good.append(
                    later.enter_context(
                        SeedSession([healthy.torrent], healthy.parent, port=spare, local_only=True)
                    )
                )

        source = bittorrent.open_source(
            str(healthy.torrent),
            context(tmp_path / "work", peers=(f"127.0.0.1:{liar.port}", f"127.0.0.1:{spare}"), stall=15),
        )
        list(source.download(healthy.wanted(), tmp_path / "out", ledger.progress, liar=told))
        assert [who for who, _, _ in ledger.liars] == [f"127.0.0.1:{liar.port}"]
    equal(tmp_path / "out", healthy.files)


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, True])
def test_a_web_seed_with_wrong_bytes(tmp_path: Path, second: bool) -> None:
    damaged, healthy, place = broken(tmp_path, "v1")
    ledger = Ledger()
    with web_seed(damaged.parent) as base:
        if not second:
            error = fails(WrongBytes, healthy, tmp_path, web=(base,), ledger=ledger)
            assert place in error.message
            assert base in error.message
        else:
            with SeedSession([healthy.torrent], healthy.parent, local_only=True) as good:
                # the good one comes when the bad one has been tried
                with pytest.raises(WrongBytes):
                    fetch(healthy, tmp_path, ledger, web=(base,), stall=STALL)
                fetch(healthy, tmp_path, ledger, good.port, web=(base,))
            equal(tmp_path / "out", healthy.files)
    assert (base, FLIPPED // PIECE, ["big.bin"]) in ledger.liars


@pytest.mark.slow
@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_a_web_seed_that_has_nothing(tmp_path: Path, status: int) -> None:
    tree, ledger = make_tree(tmp_path), Ledger()
    with web_seed(tree.parent, lambda path, data: (status, b"<html>no</html>")) as base:
        error = fails(Unreachable, tree, tmp_path, web=(base,))
        assert base in error.message
        assert (
            str(status) in error.message
            or "error" in error.message.lower()
            or "not found" in error.message.lower()
        )
        with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
            fetch(tree, tmp_path, ledger, seed.port, web=(base,))
    equal(tmp_path / "out", tree.files)
    assert ledger.liars == []


@pytest.mark.slow
def test_a_web_seed_that_answers_html(tmp_path: Path) -> None:
    """200 and a page for every path: the lengths do not fit, or the hash; no such byte stays."""
    tree = make_tree(tmp_path)
    with web_seed(tree.parent, lambda path, data: (200, b"<html>Please log in</html>" * 200_000)) as base:
        fails(WrongBytes, tree, tmp_path, web=(base,))
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        fetch(tree, tmp_path, Ledger(), seed.port)
    equal(tmp_path / "out", tree.files)


@pytest.mark.slow
def test_a_tracker_that_is_down(tmp_path: Path) -> None:
    """Named with what it said; and no reason to fail while a peer is there."""
    url = f"http://127.0.0.1:{free_port()}/announce?passkey=canary"
    tree, ledger = make_tree(tmp_path, trackers=(url,)), Ledger()
    error = fails(Unreachable, tree, tmp_path)
    assert "tracker http://127.0.0.1" in error.message
    assert "canary" not in f"{error.message} {error.hint}"
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        fetch(tree, tmp_path, ledger, seed.port)
    equal(tmp_path / "out", tree.files)


@pytest.mark.slow
def test_nobody_is_there(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    error = fails(Unreachable, tree, tmp_path, free_port())
    assert "no peers within 2 s" in error.message
    link = f"magnet:?xt=urn:btih:{'5' * 40}&x.pe=127.0.0.1:{free_port()}"
    source = bittorrent.open_source(link, context(tmp_path / "work", stall=0.5))
    with pytest.raises(Unreachable):
        source.listing()


@pytest.mark.slow
def test_a_peer_without_the_torrent(tmp_path: Path) -> None:
    """It answers, and has something else."""
    tree = make_tree(tmp_path)
    other = make_tree(tmp_path / "other", files={"x": b"y" * 100_000})
    with SeedSession([other.torrent], other.parent, local_only=True) as seed:
        error = fails(Unreachable, tree, tmp_path, seed.port)
    assert "no peers" in error.message


def test_a_hybrid_whose_halves_disagree(tmp_path: Path) -> None:
    """The v1 digest of one piece belongs to other bytes: whoever has the v2 bytes is no liar, the torrent is wrong."""
    from distribute import bencode

    tree = make_tree(tmp_path, "hybrid")
    document = bencode.decode(tree.raw)
    pieces = bytearray(document[b"info"][b"pieces"])
    pieces[20 * 15] ^= 1
    document[b"info"][b"pieces"] = bytes(pieces)
    wrong = Tree(tree.parent, bencode.encode(document), tmp_path / "wrong.torrent", tree.files)
    wrong.torrent.write_bytes(wrong.raw)
    with Liar(wrong) as seed:  # an honest one would find out by itself
        start = time.monotonic()
        with pytest.raises(WrongBytes) as caught:
            fetch(wrong, tmp_path, Ledger(), seed.port, stall=STALL)
        assert time.monotonic() - start < STALL + SLACK
    assert caught.value.exit_code == 13
    assert "hash" in caught.value.message


def test_a_full_disk_is_said(tmp_path: Path, small_disk: Path) -> None:
    tree = make_tree(tmp_path, files=content(big=8_000_000))
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        source = bittorrent.open_source(
            str(tree.torrent), context(tmp_path / "work", peers=(f"127.0.0.1:{seed.port}",))
        )
        with pytest.raises(HeadwaterError, match="no space left"):
            list(source.download(tree.wanted(), small_disk / "out", Ledger().progress))
        ledger = Ledger()
        fetch(tree, tmp_path, ledger, seed.port)
    equal(tmp_path / "out", tree.files)


@contextmanager
def seeding(tree: Tree, port: int, limit: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A seed in a process of its own, listening on `port`."""
    command = [
        sys.executable,
        "-m",
        "tests.distribute.swarm_kit",
        "seed",
        tree.torrent,
        tree.parent,
        port,
        limit,
    ]
    environment = clean_environment(tree.parent)
    with running(
        [str(part) for part in command], env=environment, cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == str(port).encode()
        try:
            yield process
        finally:
            process.stdout.close()


def _sent(seed: SeedSession, amount: float) -> bool:
    return bool(seed.stats()["uploaded_bytes"] > amount)


@pytest.mark.slow
def test_the_reader_is_killed_at_every_tenth(tmp_path: Path) -> None:
    """kill -9 at 10…90 %: each run goes on from what is there; all that is sent in the end is little more than the data."""
    tree = make_tree(tmp_path, files=content(big=40_000_000, small=30))
    total = sum(map(len, tree.files.values()))
    port = free_port()
    command = ["fetch", tree.torrent, tmp_path / "out", tmp_path / "work", f"127.0.0.1:{port}"]
    line = [sys.executable, "-m", "tests.distribute.swarm_kit", *map(str, command)]
    had = []
    with SeedSession(
        [tree.torrent], tree.parent, port=port, local_only=True, upload_limit=12_000_000
    ) as seed:
        for tenth in range(1, 10):
            with running(line, cwd=ROOT, env=clean_environment(tmp_path)) as process:
                until(partial(_sent, seed, total * tenth / 10), seconds=60, what=f"{tenth}0 % are sent")
                assert process.poll() is None
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            had.append(seed.stats()["uploaded_bytes"])
        done = subprocess.run(
            line, cwd=ROOT, env=clean_environment(tmp_path), capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        sent = seed.stats()["uploaded_bytes"]
    equal(tmp_path / "out", tree.files)
    assert int(done.stdout.splitlines()[-1]) < total * 0.45
    assert sent < total * 1.5, (total, had, done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_seed_is_killed_and_comes_back(tmp_path: Path) -> None:
    tree, ledger = make_tree(tmp_path, files=content(big=40_000_000)), Ledger()
    total, port = sum(map(len, tree.files.values())), free_port()
    source = bittorrent.open_source(
        str(tree.torrent), context(tmp_path / "work", peers=(f"127.0.0.1:{port}",), stall=20)
    )
    with ExitStack() as stack:
        first = stack.enter_context(seeding(tree, port, 15_000_000))
        killed = False

        def progress(who: str, amount: int) -> None:
            nonlocal killed
            ledger.progress(who, amount)
            if not killed and sum(ledger.bytes.values()) > total / 4:
                killed = True
                first.kill()
                first.wait(10)
                stack.enter_context(seeding(tree, port))

        list(source.download(tree.wanted(), tmp_path / "out", progress))
        assert killed
    equal(tmp_path / "out", tree.files)
    assert sum(ledger.bytes.values()) < total * 1.1


@pytest.mark.slow
def test_the_seed_never_comes_back(tmp_path: Path) -> None:
    """A named error in the stated time, and another seed later finishes from what was kept."""
    tree, ledger = make_tree(tmp_path, files=content(big=30_000_000)), Ledger()
    total, port = sum(map(len, tree.files.values())), free_port()
    with seeding(tree, port, 3_000_000) as process:
        source = bittorrent.open_source(
            str(tree.torrent), context(tmp_path / "work", peers=(f"127.0.0.1:{port}",), stall=STALL)
        )
        when = 0.0

        def progress(who: str, amount: int) -> None:
            nonlocal when
            ledger.progress(who, amount)
            if not when and sum(ledger.bytes.values()) > total / 10:
                process.kill()
                process.wait(10)
                when = time.monotonic()

        with pytest.raises(Stalled) as caught:
            list(source.download(tree.wanted(), tmp_path / "out", progress))
        assert 0 < time.monotonic() - when < STALL + SLACK
        assert "no peer is left" in caught.value.message
        assert "of big.bin" in caught.value.message
    before = sum(ledger.bytes.values())
    with SeedSession([tree.torrent], tree.parent, local_only=True) as seed:
        fetch(tree, tmp_path, ledger, seed.port)
    equal(tmp_path / "out", tree.files)
    assert sum(ledger.bytes.values()) - before < total - before + 10 * PIECE
