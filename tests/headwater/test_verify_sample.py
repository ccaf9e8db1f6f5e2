"""`headwater verify` of releases, of a sample, and after a stop (faults 93 and 94)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from headwater import manifest as manifest_module
from headwater.checkpoint import Checkpoint
from headwater.errors import Cancelled, IntegrityError, UsageError
from headwater.hashing import Digests, digest_file
from headwater.manifest import Manifest, describe_folder
from headwater.verify import verify_path
from tests.conftest import Cli
from tests.distribute.publish_kit import make_release, some_tree


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def many(folder: Path, count: int = 100) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}").write_bytes(bytes([number % 256]) * 50)
    (folder / "manifest.json").write_text(Manifest(entries=describe_folder(folder)).model_dump_json())
    return folder


def test_a_sample_says_what_it_cannot_see(tmp_path: Path) -> None:
    folder = many(tmp_path / "m")
    result = verify_path(folder, sample=0.05, seed=3).as_result()
    assert (result["files"], result["sampled_of_files"]) == (5, 100)
    # 1 - 0.05 ** (1/5): the share that five good draws exclude at 95 %
    assert result["bad_share_excluded_at_95_percent"] == pytest.approx(0.4507, abs=1e-4)
    assert "a sample of 5 of 100 files, seed 3" in result["text"]
    assert verify_path(folder, sample=1.0).as_result()["bad_share_excluded_at_95_percent"] == 0.0


def test_a_sample_is_fixed_by_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many(tmp_path / "m")
    read: list[str] = []

    def note(path: Path, algorithms: tuple[str, ...]) -> Digests:
        read.append(path.name)
        return digest_file(path, algorithms)

    monkeypatch.setattr(manifest_module, "digest_file", note)
    draws = []
    for seed in (1, 1, 2):
        read.clear()
        verify_path(folder, sample=0.1, seed=seed)
        draws.append(sorted(read))
    assert draws[0] == draws[1] != draws[2] and len(draws[0]) == 10


def test_a_sample_still_sees_what_is_missing_or_too_much(tmp_path: Path) -> None:
    folder = many(tmp_path / "m")
    (folder / "050").unlink()
    (folder / "more").touch()
    with pytest.raises(IntegrityError, match=r"(?s)050: missing.*more: not named"):
        verify_path(folder, sample=0.01, seed=1).as_result()


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none(share: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--sample"):
        verify_path(many(tmp_path / "m", 2), sample=share)


def test_a_verification_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many(tmp_path / "m")
    read: list[str] = []

    def stop_after_60(path: Path, algorithms: tuple[str, ...]) -> Digests:
        if len(read) == 60:
            raise Cancelled("stopped")
        read.append(path.name)
        return digest_file(path, algorithms)

    monkeypatch.setattr(manifest_module, "digest_file", stop_after_60)
    with pytest.raises(Cancelled):
        verify_path(folder, workers=1)
    monkeypatch.setattr(manifest_module, "digest_file", digest_file)
    first = (folder / read[0]).stat()
    (folder / read[1]).write_bytes(b"x" * 50)  # changed since: must be read again
    with pytest.raises(IntegrityError, match=f"{read[1]}: sha256"):
        verify_path(folder, resume=True, workers=1).as_result()
    (folder / read[1]).write_bytes(bytes([int(read[1])]) * 50)
    result = verify_path(folder, workers=1).as_result()  # without --resume everything is read
    assert "resumed_files" not in result and (folder / read[0]).stat().st_mtime_ns == first.st_mtime_ns


def test_resuming_skips_what_was_right(tmp_path: Path) -> None:
    folder = many(tmp_path / "m", 10)
    notes = Checkpoint(folder, resume=False)
    entries = describe_folder(folder, skip=frozenset({"manifest.json"}))
    for entry in entries[:7]:
        notes.note(folder / entry.path, entry)
    notes.close(finished=False)
    result = verify_path(folder, resume=True).as_result()
    assert result["resumed_files"] == 7 and result["files"] == 10
    assert not list((tmp_path / "cache" / "headwater" / "verify").iterdir())  # finished: nothing is left


def test_notes_that_cannot_be_written_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert verify_path(many(tmp_path / "m", 3)).as_result()["ok"]


@pytest.mark.parametrize("fetched", [False, True])
def test_a_release_is_checked_whole(fetched: bool, tmp_path: Path) -> None:
    make_release(some_tree(tmp_path / "d"), tmp_path / "rel", data="copy")
    release = tmp_path / "rel"
    data = release / "d"
    if fetched:  # as fetch lays it out
        data = tmp_path / "f"
        os.rename(release / "d", data)
        (data / ".headwater").mkdir()
        (release / "step.json").unlink()
        os.rename(release, data / ".headwater" / "release")
    path = data if fetched else release
    assert verify_path(path).as_result()["ok"]
    with open(data / "sub" / "big.bin", "r+b") as handle:
        handle.seek(1_000_000)
        handle.write(b"\0\0\0")
    with pytest.raises(IntegrityError, match=r"sub/big\.bin: sha256 is"):
        verify_path(path).as_result()


def test_a_release_with_a_changed_document(tmp_path: Path) -> None:
    make_release(some_tree(tmp_path / "d"), tmp_path / "rel")
    document = json.loads((tmp_path / "rel" / "manifest.json").read_bytes())
    document["entries"].pop()
    (tmp_path / "rel" / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match=r"manifest\.json: its SHA-256 is"):
        verify_path(tmp_path / "rel").as_result()


def test_the_command(tmp_path: Path, cli: Cli) -> None:
    many(tmp_path / "m", 4)
    done = cli("verify", "m", "--sample", "0.5", "--seed", "2", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["files"] == 2
    assert "would check" in cli("verify", "m", "--dry-run").stdout
    assert cli("verify", "m", "--sample", "2").returncode == 2


def fetched(tmp_path: Path) -> tuple[Path, Path]:
    """A folder laid out as fetch leaves it, and where its documents are."""
    make_release(some_tree(tmp_path / "d"), tmp_path / "rel", data="copy")
    data = tmp_path / "f"
    os.rename(tmp_path / "rel" / "d", data)
    (data / ".headwater").mkdir()
    (tmp_path / "rel" / "step.json").unlink()
    os.rename(tmp_path / "rel", data / ".headwater" / "release")
    return data, data / ".headwater" / "release"


def test_a_partial_fetch_is_checked_for_what_was_chosen(tmp_path: Path) -> None:
    data, meta = fetched(tmp_path)
    for path in data.rglob("*.bin"):
        path.unlink()
    with pytest.raises(IntegrityError, match=r"z\.bin: missing"):
        verify_path(data).as_result()
    manifest_id = json.loads((meta / "release.json").read_bytes())["manifest_id"]
    partial = {"format": "partial/1", "manifest_id": manifest_id, "paths": ["a.txt", "empty"]}
    (meta / "partial.json").write_text(json.dumps(partial))
    result = verify_path(data).as_result()
    assert (result["files"], result["left_out_files"]) == (2, 4) and "were left out" in result["text"]
    (data / "a.txt").write_bytes(b"hallo\n")
    with pytest.raises(IntegrityError, match=r"a\.txt: sha256"):
        verify_path(data).as_result()
    (meta / "partial.json").write_text(json.dumps(partial | {"manifest_id": "0" * 64}))  # of another release
    with pytest.raises(IntegrityError, match=r"z\.bin: missing"):
        verify_path(data).as_result()


def test_files_of_an_older_release_are_told_apart(tmp_path: Path) -> None:
    data, meta = fetched(tmp_path)
    (data / "old.txt").write_bytes(b"old\n")
    (data / "mine.txt").write_bytes(b"mine\n")
    [entry] = [entry for entry in describe_folder(data) if entry.path == "old.txt"]
    document = {"format": "leftovers/1", "entries": [entry.model_dump(mode="json")]}
    (meta / "leftovers.json").write_text(json.dumps(document))
    with pytest.raises(
        IntegrityError, match=r"(?s)mine\.txt: not named by the record\n.*old\.txt: not named.*--prune"
    ):
        verify_path(data).as_result()
