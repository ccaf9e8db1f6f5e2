"""Swarms beside range sources: they share the work, and a lying or silent one is replaced."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distribute.fetching import board
from distribute.fetching import resolve as resolving
from distribute.transports._base import (
    Context,
    SourceError,
    Stalled,
    SwarmSource,
    Unreachable,
    Wanted,
    WrongBytes,
)
from distribute.transports._torrent_session import SeedSession
from headwater.errors import IntegrityError
from tests.distribute.loopback import Mirror
from tests.distribute.partners import need_module
from tests.distribute.release_kit import build_release, same
from tests.distribute.swarm_kit import NAME, PIECE, Liar, make_tree
from tests.faults import fetch_kit
from tests.faults.fetch_kit import FILES, SIZE, bring

release, mirror, healthy, said = fetch_kit.release, fetch_kit.mirror, fetch_kit.healthy, fetch_kit.said


# swarms


class Swarm(SwarmSource):
    """A swarm that brings files from a folder; `trouble` is asked before each."""

    kind = "bittorrent"
    label = "swarm"

    def __init__(self, folder: Path, trouble: Callable[[str], bytes | None] = lambda path: None) -> None:
        self.folder, self.trouble = folder, trouble
        self.calls: list[list[str]] = []

    def release_file(self, name: str) -> bytes | None:
        return None

    def read(self, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        raise SourceError("whole files only")

    def download(
        self,
        wanted: Sequence[Wanted],
        folder: Path,
        progress: Callable[[str, int], None],
        *,
        cancelled: Callable[[], bool],
    ) -> Iterator[Path]:
        self.calls.append([file.path for file in wanted])
        for file in wanted:
            if cancelled():
                return
            data = self.trouble(file.path) or (self.folder / file.path).read_bytes()
            place = folder / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            progress("10.0.0.1:6881", len(data))
            yield place


def swarm_and(monkeypatch: pytest.MonkeyPatch, swarm: Swarm) -> None:
    real = resolving._open

    def opened(location: str, context: Context) -> Any:
        return swarm if location == "magnet:?swarm" else real(location, context)

    monkeypatch.setattr(resolving, "_open", opened)


def test_a_swarm_alone_and_beside_a_mirror(
    release: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = Swarm(release / "set")
    swarm_and(monkeypatch, swarm)
    result = bring("magnet:?swarm", to=tmp_path / "out", manifest=str(release / "manifest.json"))
    assert same(tmp_path / "out", FILES)
    assert result["sources"][0]["peers"] == {"10.0.0.1:6881": SIZE}
    mirror.pause, mirror.pause_below = 0.05, "set/"
    monkeypatch.setattr(board, "SMALL_BYTES", 0)
    result = bring("magnet:?swarm", mirror.url, to=tmp_path / "second")
    assert same(tmp_path / "second", FILES)
    assert sum(row["used_bytes"] for row in result["sources"]) == SIZE
    assert result["sources"][0]["used_bytes"] > 0


def test_a_swarm_that_brings_wrong_files(
    release: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm_and(
        monkeypatch, Swarm(release / "set", lambda path: b"x" * len(FILES[path]) if "big" in path else None)
    )
    manifest = str(release / "manifest.json")
    with pytest.raises(IntegrityError, match="big0.bin"):
        bring("magnet:?swarm", to=tmp_path / "out", manifest=manifest)
    assert not (tmp_path / "out/big0.bin").exists()
    mirror.pause, mirror.pause_below = 0.05, "set/"
    monkeypatch.setattr(board, "SMALL_BYTES", 0)
    result = bring("magnet:?swarm", mirror.url, to=tmp_path / "second", manifest=manifest)
    assert same(tmp_path / "second", FILES)
    assert {lie["source"] for lie in result["liars"]} == {"swarm"}
    assert "wrong bytes, thrown away" in result["text"]


def test_a_small_release_does_not_come_twice(
    release: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = Swarm(release / "set")
    swarm_and(monkeypatch, swarm)
    result = bring("magnet:?swarm", mirror.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert result["bytes_received"] <= 1.3 * SIZE and not swarm.calls


def test_a_swarm_begins_when_the_others_are_slow_or_gone(
    release: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "HEAD_START_SECONDS", 0.3)
    swarm = Swarm(release / "set")
    swarm_and(monkeypatch, swarm)
    mirror.pause, mirror.pause_below = 1.0, "set/"
    result = bring("magnet:?swarm", mirror.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert result["sources"][0]["used_bytes"] > 0 and result["bytes_received"] <= 1.3 * SIZE
    monkeypatch.setattr(board, "HEAD_START_SECONDS", 60.0)
    mirror.wrong["*"] = lambda handler, path: handler.body(500, b"no")
    manifest = str(release / "manifest.json")
    result = bring("magnet:?swarm", mirror.url, to=tmp_path / "second", manifest=manifest)
    assert same(tmp_path / "second", FILES)
    assert result["sources"][0]["used_bytes"] == SIZE


def test_a_swarm_that_stalls_falls_back(
    release: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stall(path: str) -> bytes | None:
        raise Stalled("swarm: no byte for 20 s")

    swarm_and(monkeypatch, Swarm(release / "set", stall))
    manifest = str(release / "manifest.json")
    with pytest.raises(Unreachable, match="no byte for 20 s"):
        bring("magnet:?swarm", to=tmp_path / "out", manifest=manifest, patience_seconds=1.0)
    bring("magnet:?swarm", mirror.url, to=tmp_path / "out", manifest=manifest)
    assert same(tmp_path / "out", FILES)


def test_a_swarm_whose_pieces_are_all_wrong_ends_with_13(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(Swarm):
        def download(  # type: ignore[override]
            self, wanted: Any, folder: Any, progress: Any, *, cancelled: Any, liar: Any
        ) -> Iterator[Path]:
            liar("10.0.0.9:6881", 7, ["big0.bin"])
            if self.calls:  # never: it only makes this a generator
                yield folder
            raise WrongBytes("swarm: piece 7 of big0.bin failed its hash in every copy")

    swarm_and(monkeypatch, Told(release / "set"))
    with pytest.raises(IntegrityError, match="piece 7 of big0.bin") as caught:
        bring("magnet:?swarm", to=tmp_path / "out", manifest=str(release / "manifest.json"))
    assert caught.value.exit_code == 13
    ledger = json.loads((tmp_path / "out/.headwater/release/fetch.json").read_bytes())
    assert ledger["liars"][0]["peer"] == "10.0.0.9:6881" and ledger["liars"][0]["piece"] == 7


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_lying_peer_is_named_in_the_result(tmp_path: Path, kind: str) -> None:
    """libtorrent's own seeds: one sends a wrong piece, the other is right. The fetch ends well and says who lied about what."""
    need_module("libtorrent")
    tree = make_tree(tmp_path, kind)
    damaged = tree.copy(tmp_path / "damaged")
    # wherever it is asked, but where a piece of v1 reaches into the next file and a lie is about both
    for at in range(0, (tree.parent / NAME / "big.bin").stat().st_size - PIECE, PIECE):
        damaged.flip("big.bin", at)
    (tmp_path / "rel").mkdir()
    build_release(tmp_path / "rel", tree.files, name=NAME)
    with (
        Liar(damaged) as liar,
        SeedSession([tree.torrent], tree.parent, local_only=True, upload_limit=1_500_000) as seed,
    ):
        result = bring(
            str(tree.torrent),
            to=tmp_path / "out",
            manifest=str(tmp_path / "rel/manifest.json"),
            peers=(f"127.0.0.1:{liar.port}", f"127.0.0.1:{seed.port}"),
            local_only=True,
            stall_seconds=20.0,
            patience_seconds=40.0,
        )
        lied = f"127.0.0.1:{liar.port}"
    assert same(tmp_path / "out", tree.files)
    assert {(lie["peer"], lie["path"]) for lie in result["liars"]} == {(lied, "big.bin")}
    assert f"{lied}: big.bin, piece {result['liars'][0]['piece']}" in result["text"]
