"""What sources can do to a fetch: lie, stall, vanish, come back, send pages."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from distribute.transports._base import Unreachable
from headwater.errors import IntegrityError, MissingInput
from tests.distribute import loopback
from tests.distribute.loopback import Mirror, flip
from tests.distribute.release_kit import MIB, PIECE_BYTES, build_release, same, sample_files
from tests.faults import fetch_kit
from tests.faults.fetch_kit import FILES, SIZE, Said, bring

release, mirror, healthy, said = fetch_kit.release, fetch_kit.mirror, fetch_kit.healthy, fetch_kit.said


# wrong bytes


def test_one_flipped_bit_at_the_only_source(mirror: Mirror, tmp_path: Path) -> None:
    mirror.wrong["set/big0.bin"] = flip(5 * MIB + 7)
    piece = 5 * MIB // PIECE_BYTES
    begun = time.monotonic()
    with pytest.raises(IntegrityError) as caught:
        bring(mirror.url, to=tmp_path / "out")
    assert time.monotonic() - begun < 30
    assert caught.value.exit_code == 13
    at = piece * PIECE_BYTES
    assert f"big0.bin, piece {piece} (bytes {at:,} to {at + PIECE_BYTES - 1:,})" in caught.value.message
    # everything else is there, and what is wrong is nowhere
    got = {path: (tmp_path / "out" / path).is_file() for path in FILES}
    assert got == {path: path != "big0.bin" for path in FILES}
    ledger = json.loads((tmp_path / "out/.headwater/release/fetch.json").read_bytes())
    assert {(lie["path"], lie["piece"]) for lie in ledger["liars"]} == {("big0.bin", piece)}
    # another source: only that piece is asked for
    mirror.wrong.clear()
    mirror.asked.clear()
    result = bring(mirror.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert mirror.about("set/big0.bin") == [f"bytes={at}-{at + PIECE_BYTES - 1}"]
    assert result["bytes_received"] == PIECE_BYTES


@pytest.mark.parametrize(("path", "offset"), [("big0.bin", 9 * MIB), ("small/005.bin", 17)])
def test_with_a_healthy_second_source_the_liar_is_named(
    mirror: Mirror, healthy: Mirror, tmp_path: Path, said: Said, path: str, offset: int
) -> None:
    mirror.wrong[f"set/{path}"] = flip(offset)
    healthy.gate, healthy.pause_below = lambda: bool(mirror.about(f"set/{path}")), "set/"
    result = bring(mirror.url, healthy.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    liar, good = result["sources"]
    assert liar["source"] == mirror.url.rstrip("/") and liar["wrong_bytes"] > 0 and good["wrong_bytes"] == 0
    assert {lie["path"] for lie in result["liars"]} == {path}
    assert {lie["source"] for lie in result["liars"]} == {liar["source"]}
    lie = result["liars"][0]
    assert lie["offset"] <= offset < lie["offset"] + lie["length"]
    assert any(f"{liar['source']}: wrong bytes in {path}" in line for line in said.lines)
    for row in result["sources"]:
        assert row["received_bytes"] >= row["used_bytes"] + row["wrong_bytes"]
    assert sum(row["used_bytes"] for row in result["sources"]) == SIZE


def test_a_source_that_lies_all_the_time_is_dropped(
    mirror: Mirror, healthy: Mirror, tmp_path: Path, said: Said
) -> None:
    for path in FILES:
        mirror.wrong[f"set/{path}"] = lambda handler, file: handler.file(
            file, data=bytes(file.stat().st_size)
        )
    healthy.pause, healthy.pause_below = 0.05, "set/"
    result = bring(mirror.url, healthy.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert result["sources"][0]["state"].startswith("dropped: sent wrong bytes")
    assert result["sources"][0]["used_bytes"] == 0
    assert any("not asked any more" in line for line in said.lines)


def test_pages_in_the_place_of_files(mirror: Mirror, healthy: Mirror, tmp_path: Path) -> None:
    for path in FILES:
        mirror.wrong[f"set/{path}"] = loopback.page
    with pytest.raises(IntegrityError, match="every source has wrong bytes"):
        bring(mirror.url, to=tmp_path / "out")
    bring(mirror.url, healthy.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)


def test_a_page_in_the_place_of_the_manifest(mirror: Mirror, healthy: Mirror, tmp_path: Path) -> None:
    mirror.wrong["*"] = loopback.page
    with pytest.raises(IntegrityError, match="not a manifest document"):
        bring(mirror.url, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = bring(mirror.url, healthy.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert result["skipped"][0]["source"] == mirror.url.rstrip("/")


def test_a_wrong_file_without_piece_hashes(tmp_path: Path) -> None:
    files = sample_files(small=2, big=(9 * MIB,))
    (tmp_path / "rel").mkdir()
    build_release(tmp_path / "rel", files, layers=False)
    with Mirror(tmp_path / "rel") as bad, Mirror(tmp_path / "rel") as good:
        bad.wrong["set/big0.bin"] = flip(100)
        with pytest.raises(IntegrityError, match=r"big0.bin \(9,437,184 bytes\): every source"):
            bring(bad.url, to=tmp_path / "out")
        good.pause, good.pause_below = 0.1, "set/"
        result = bring(bad.url, good.url, to=tmp_path / "out")
    assert same(tmp_path / "out", files)
    assert result["sources"][1]["used_bytes"] == 9 * MIB


def test_a_file_of_another_size(mirror: Mirror, healthy: Mirror, tmp_path: Path) -> None:
    mirror.wrong["set/big1.bin"] = lambda handler, path: handler.file(path, data=path.read_bytes() + b"more")
    with pytest.raises(IntegrityError, match="big1.bin"):
        bring(mirror.url, to=tmp_path / "out")
    bring(mirror.url, healthy.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)


def test_a_missing_file(mirror: Mirror, healthy: Mirror, tmp_path: Path) -> None:
    mirror.wrong["set/big1.bin"] = mirror.wrong["set/small/001.bin"] = loopback.status(404)
    with pytest.raises(MissingInput, match="2 files could not be had"):
        bring(mirror.url, to=tmp_path / "out")
    bring(mirror.url, healthy.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)


def test_layers_that_do_not_fit_are_not_used(release: Path, tmp_path: Path) -> None:
    """A v2.torrent of other files: nothing can be told from its layers, so files are checked as wholes."""
    bad = tmp_path / "bad"
    bad.mkdir()
    build_release(bad, FILES)
    other = tmp_path / "other"
    other.mkdir()
    build_release(other, {**FILES, "big0.bin": FILES["big0.bin"][::-1]})
    (bad / "v2.torrent").write_bytes((other / "v2.torrent").read_bytes())
    bring(bad, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    (bad / "v2.torrent").write_bytes(b"d4:infod" + b"l" * 100_000)
    bring(bad, to=tmp_path / "second")
    assert same(tmp_path / "second", FILES)


# slow, silent, gone


@pytest.mark.parametrize(
    "wrong",
    [loopback.stall(20), loopback.drip(0.5), loopback.short, loopback.status(503, Retry_After="1000000000")],
)
def test_a_source_that_does_not_go_on_is_replaced(
    mirror: Mirror, healthy: Mirror, tmp_path: Path, wrong: loopback.Wrong
) -> None:
    for path in FILES:
        mirror.wrong[f"set/{path}"] = wrong
    healthy.pause, healthy.pause_below = 0.01, "set/"
    begun = time.monotonic()
    bring(mirror.url, healthy.url, to=tmp_path / "out", stall_seconds=1.0)
    assert time.monotonic() - begun < 20
    assert same(tmp_path / "out", FILES)


@pytest.mark.slow
def test_all_sources_silent_ends_with_unreachable_and_keeps_the_state(mirror: Mirror, tmp_path: Path) -> None:
    mirror.wrong["set/big0.bin"] = lambda handler, path: (
        handler.file(path) if "=0-" in handler.headers["Range"] else loopback.stall(30)(handler, path)
    )
    with pytest.raises(Unreachable, match=r"no source sent anything for 2 s.*stalled") as caught:
        bring(mirror.url, to=tmp_path / "out", stall_seconds=1.0, patience_seconds=2.0)
    assert caught.value.exit_code == 1 and "goes on where" in str(caught.value.hint)
    assert list((tmp_path / "out/.headwater/partial").glob("*.part"))
    mirror.wrong.clear()
    mirror.asked.clear()
    result = bring(mirror.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert result["bytes_resumed"] == 8 * MIB
    assert mirror.about("set/big0.bin") == [f"bytes={8 * MIB}-{len(FILES['big0.bin']) - 1}"]


def test_marked_pieces_are_checked_again_and_not_believed(mirror: Mirror, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mirror.wrong["set/big0.bin"] = flip(9 * MIB)
    with pytest.raises(IntegrityError):
        bring(mirror.url, to=out)
    (part,) = (out / ".headwater/partial").glob("*.part")
    with open(part, "r+b") as handle:
        handle.seek(3 * MIB)
        handle.write(b"damaged while nobody looked")
    mirror.wrong.clear()
    mirror.asked.clear()
    bring(mirror.url, to=out)
    assert same(out, FILES)
    assert f"bytes={3 * MIB}-{3 * MIB + PIECE_BYTES - 1}" in mirror.about("set/big0.bin")


@pytest.mark.slow
def test_a_server_that_goes_down_and_comes_back(mirror: Mirror, tmp_path: Path) -> None:
    mirror.pause, mirror.pause_below = 0.05, "set/small"

    def restart() -> None:
        mirror.stop()
        time.sleep(1.0)
        mirror.start()

    thread = threading.Timer(0.4, restart)
    thread.start()
    result = bring(mirror.url, to=tmp_path / "out", patience_seconds=30.0, connections=1)
    thread.join()
    assert same(tmp_path / "out", FILES)
    assert result["sources"][0]["errors"]  # it was noticed


@pytest.mark.slow
def test_a_source_that_is_down_from_the_start(healthy: Mirror, tmp_path: Path) -> None:
    result = bring("http://127.0.0.1:1/", healthy.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)
    assert result["sources"][0]["received_bytes"] == 0
    with pytest.raises(Unreachable, match="no connection"):
        bring("http://127.0.0.1:1/", to=tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_mirror_without_ranges(mirror: Mirror, tmp_path: Path) -> None:
    for path in FILES:
        mirror.wrong[f"set/{path}"] = loopback.no_ranges
    bring(mirror.url, to=tmp_path / "out")
    assert same(tmp_path / "out", FILES)


@pytest.mark.slow
def test_a_slow_source_does_not_hold_up_the_end(mirror: Mirror, healthy: Mirror, tmp_path: Path) -> None:
    def slow(handler: loopback.Handler, path: Path) -> None:
        time.sleep(15)
        handler.file(path)

    mirror.wrong["set/big0.bin"] = mirror.wrong["set/big1.bin"] = slow
    healthy.pause, healthy.pause_below = 0.02, "set/"
    begun = time.monotonic()
    bring(mirror.url, healthy.url, to=tmp_path / "out", stall_seconds=30.0)
    assert time.monotonic() - begun < 14  # runs of the slow one were given to the other
    assert same(tmp_path / "out", FILES)
