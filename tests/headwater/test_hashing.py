"""Digests of a file from one read, and the cache that spares the second."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import blake3
import pytest

from headwater import hashing
from headwater.errors import IntegrityError, MissingInput
from headwater.hashing import DigestCache, digest_file

LONG_AGO = time.time_ns() - 3600 * 10**9


def old_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


@pytest.mark.parametrize(
    "size", [0, 1, hashing.BLOCK_BYTES - 1, hashing.BLOCK_BYTES, hashing.BLOCK_BYTES * 2 + 7]
)
def test_all_digests_of_one_read(size: int, tmp_path: Path) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    (tmp_path / "f").write_bytes(data)
    found = digest_file(tmp_path / "f")
    assert found.size_bytes == size
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.hex["blake3"] == blake3.blake3(data).hexdigest()


def test_a_file_that_grows_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1234")

    class Growing:
        def update(self, data: object) -> None:
            with open(path, "ab") as handle:
                handle.write(b"5")

        def hexdigest(self) -> str:
            return ""

    monkeypatch.setattr(hashing, "_hasher", lambda name: Growing())
    with pytest.raises(IntegrityError, match="changed while it was read"):
        digest_file(path, ["sha256"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="nothing-here"):
        digest_file(tmp_path / "nothing-here")


def test_a_file_seen_once_is_not_read_again(tmp_path: Path) -> None:
    old_file(tmp_path / "f", b"data")
    first = DigestCache(tmp_path, tmp_path / "c")
    one = first.get("f")
    assert first.read_bytes == 4
    first.save()
    second = DigestCache(tmp_path, tmp_path / "c")
    assert second.get("f") == one
    assert second.read_bytes == 0


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_changed_file_is_read_again(change: str, tmp_path: Path) -> None:
    path = old_file(tmp_path / "f", b"data")
    first = DigestCache(tmp_path, tmp_path / "c")
    first.get("f")
    first.save()
    if change == "size":
        old_file(path, b"longer")
    elif change == "time":
        path.write_bytes(b"DATA")
    else:
        old_file(tmp_path / "g", b"DATA")
        os.replace(tmp_path / "g", path)
    second = DigestCache(tmp_path, tmp_path / "c")
    assert second.get("f").sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert second.read_bytes == path.stat().st_size


def test_a_file_changed_just_now_is_not_cached(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    cache = DigestCache(tmp_path, tmp_path / "c")
    cache.get("f")
    cache.save()
    assert not (tmp_path / "c").exists()


def test_distrust_finds_bytes_that_changed_under_the_same_time(tmp_path: Path) -> None:
    path = old_file(tmp_path / "f", b"data")
    first = DigestCache(tmp_path, tmp_path / "c")
    first.get("f")
    first.save()
    with open(path, "r+b") as handle:
        handle.write(b"dat4")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert DigestCache(tmp_path, tmp_path / "c").get("f").sha256 == hashlib.sha256(b"data").hexdigest()
    with pytest.raises(IntegrityError, match="its bytes changed although"):
        DigestCache(tmp_path, tmp_path / "c", distrust=True).get("f")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"f": 3}', b"\xff"])
def test_a_cache_that_cannot_be_read_costs_time_only(content: bytes, tmp_path: Path) -> None:
    old_file(tmp_path / "f", b"data")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "digests.json").write_bytes(content)
    cache = DigestCache(tmp_path, tmp_path / "c")
    assert cache.get("f").sha256 == hashlib.sha256(b"data").hexdigest()
    cache.save()
    assert json.loads((tmp_path / "c" / "digests.json").read_bytes())["f"]["hex"]


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    old_file(tmp_path / "f", b"data")
    (tmp_path / "c").write_text("a file where the cache folder should be")
    cache = DigestCache(tmp_path, tmp_path / "c")
    assert cache.get("f").size_bytes == 4
    cache.save()
