"""Sources that fail at random: a fetch with one good source among them always ends well, and its ledger closes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distribute.cid import Cid, raw_cid_of_sha256
from distribute.fetch import FetchOptions, fetch
from distribute.fetching import board, jobs, plan, resolve, workers
from distribute.transports._base import (
    Context,
    NotThere,
    Refused,
    Source,
    SourceError,
    Stalled,
    Unreachable,
    Wanted,
    WrongBytes,
)
from distribute.transports._gateway import Provider
from distribute.transports._providers import Providers
from distribute.transports._web import Busy, Failing
from headwater.errors import HeadwaterError
from tests.distribute.release_kit import MIB, build_release, same, sample_files

FILES = sample_files(small=10, big=(3 * MIB + 5, 2 * MIB))
SIZE = sum(map(len, FILES.values()))


class Moody(Source):
    """Gives the right bytes with probability `good`; otherwise an error, wrong bytes, too few or too many."""

    kind = "moody"

    def __init__(self, label: str, folder: Path, good: float, seed: int, *, ranges: bool = True) -> None:
        self.label, self.folder, self.good, self.ranges = label, folder, good, ranges
        self.dice, self.lock, self.sent = random.Random(seed), threading.Lock(), 0

    def release_file(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def read(self, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        data = FILES[wanted.path][offset : offset + length]
        with self.lock:
            mood = "good" if self.dice.random() < self.good else self.dice.choice(
                ["flip", "short", "long", "break", NotThere, Refused, Stalled, Unreachable, WrongBytes, SourceError, Busy]
            )  # fmt: skip
            at = self.dice.randrange(len(data))
        if isinstance(mood, type):
            raise mood(f"{self.label}: {mood.__name__}")
        if mood == "flip":
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        elif mood in ("short", "break"):
            data = data[:at]
        elif mood == "long":
            data += b"more"
        for start in range(0, len(data), 60_000):
            block = data[start : start + 60_000]
            with self.lock:
                self.sent += len(block)
            yield block
        if mood == "break":
            raise Unreachable(f"{self.label}: broke off")


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (jobs, plan, workers, board):  # so that a few MiB make many runs
        monkeypatch.setattr(module, "RUN_BYTES", 512 << 10)
    folder = tmp_path / "rel"
    folder.mkdir()
    build_release(folder, FILES)
    return folder


def go(
    sources: list[Moody], out: Path, monkeypatch: pytest.MonkeyPatch, **options: float
) -> dict[str, object]:
    named = {source.label: source for source in sources}

    def opened(location: str, context: Context) -> Source:
        return named[location]

    monkeypatch.setattr(resolve, "_open", opened)
    monkeypatch.setattr(resolve, "transport_of", lambda location: "moody")
    values = {"stall_seconds": 2.0, "patience_seconds": 5.0, **options}
    return fetch(list(named), out, FetchOptions(**values))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(8))
def test_one_good_source_among_bad_ones(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    sources = [
        Moody(
            f"bad{n}", release, dice.choice([0.0, 0.3, 0.7, 0.9]), seed * 10 + n, ranges=dice.random() < 0.7
        )
        for n in range(3)
    ]
    sources.insert(dice.randrange(4), Moody("good", release, 1.0, 0, ranges=dice.random() < 0.5))
    begun = time.monotonic()
    result = go(sources, tmp_path / "out", monkeypatch)
    assert time.monotonic() - begun < 20
    assert same(tmp_path / "out", FILES)
    rows = result["sources"]
    assert isinstance(rows, list)
    assert sum(row["used_bytes"] for row in rows) == SIZE
    for row, source in zip(rows, sources, strict=True):
        assert row["used_bytes"] <= row["received_bytes"] <= source.sent
        assert row["source"] != "good" or row["wrong_bytes"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_with_bad_ones_only_it_ends_and_nothing_wrong_is_placed(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    out = tmp_path / "out"
    done = 0
    for turn in range(40):  # the same line again and again gets there in the end
        sources = [Moody(f"bad{n}", release, 0.5, seed * 100 + turn * 3 + n) for n in range(2)]
        try:
            go(sources, out, monkeypatch, patience_seconds=1.0)
            done = 1
            break
        except HeadwaterError as error:
            assert error.exit_code in (1, 10, 13)
        for path, data in FILES.items():
            if (out / path).exists():
                assert (out / path).read_bytes() == data
    assert done and same(out, FILES)


def test_a_gateway_that_answers_500_is_not_taken_for_one_that_is_away() -> None:
    """What is said decides how long the block is asked for: an absent gateway may come back, a damaged block will not."""

    class Gate(Provider):
        def __init__(self, label: str, error: type[SourceError]) -> None:
            self.label, self.error = label, error

        def block(self, cid: Cid, limit_bytes: int = 0) -> bytes:
            raise self.error(f"{self.label}: {cid.text}")

        def car(self, cid: Cid, first: int, last: int, *, whole: bool) -> None:
            return None

    cid = raw_cid_of_sha256(bytes(32))
    for kinds, expected in (
        ([Failing], Failing),
        ([Failing, NotThere], Failing),
        ([Unreachable, NotThere], Unreachable),
        ([Failing, WrongBytes], WrongBytes),
    ):
        gates = [Gate(f"gate{n}", kind) for n, kind in enumerate(kinds)]
        with pytest.raises(expected, match=cid.text) as caught:
            Providers(gates, threading.Event()).block(cid)
        assert type(caught.value) is expected
