"""Packing small files: tars that other readers open, the same bytes everywhere, an index whose every offset is right."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distribute import _tar
from distribute.packing import PackIndex, advise, pack_tree, plan_shards
from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.distribute.partners import need_program


@dataclass(frozen=True)
class Item:
    path: str
    absolute: Path
    size_bytes: int


def plant(folder: Path, files: dict[str, bytes]) -> list[Item]:
    """Write the files and list them as a scan would."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return [Item(path, folder / path, len(files[path])) for path in sorted(files, key=str.encode)]


def fake(path: str, size: int) -> Item:
    return Item(path, Path("/nowhere"), size)


SMALL = {
    "a.jpg": b"\xff\xd8" * 50,
    "a.json": b"{}",
    "a-1.jpg": b"other",
    "a.b/c.txt": b"in a folder that sorts between",
    "deep/er/file": b"",
    "deep/日本 é.txt": b"not ASCII",
    "long/" + "x" * 150 + ".txt": b"pax",
    "n" * 60 + "/" + "m" * 60 + "/f.txt": b"prefix of ustar",
}
LARGE = {"big.bin": b"L" * 5000, "deep/large.bin": b"M" * 6000}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    files = plant(tmp_path / "tree", {**SMALL, **LARGE})
    result = pack_tree(
        files, tmp_path / "out", name="set", small_bytes=4096, shard_bytes=8192, empty_folders=["empty/x"]
    )
    assert result.packed_files == len(SMALL) and result.large_files == 2 and result.copied_bytes == 0
    assert result.packed_bytes == sum(map(len, SMALL.values()))
    assert len(result.shards) > 1
    return tmp_path / "out"


def test_every_file_is_there_once(packed: Path) -> None:
    shards = sorted(packed.glob("set-*.tar"))
    found: dict[str, bytes] = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                assert member.isreg() and member.uid == member.gid == 0 and member.mtime == 0
                assert member.mode == 0o644 and member.uname == member.gname == ""
                assert member.name not in found
                handle = tar.extractfile(member)
                assert handle is not None
                found[member.name] = handle.read()
    assert found == SMALL
    loose = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert loose == {*LARGE, *(shard.name for shard in shards), "index.parquet"}
    assert (packed / "empty" / "x").is_dir()


def test_large_files_are_hard_links(packed: Path, tmp_path: Path) -> None:
    for path in LARGE:
        assert (packed / path).stat().st_ino == (tmp_path / "tree" / path).stat().st_ino


def test_the_index_says_where_each_byte_is(packed: Path) -> None:
    index = PackIndex.open(packed)
    assert len(index) == len(SMALL)
    assert [member.path for member in index] == sorted(SMALL, key=str.encode)
    for path, data in SMALL.items():
        member = index.locate(path)
        raw = (packed / member.shard).read_bytes()
        assert raw[member.offset_bytes : member.offset_bytes + member.length_bytes] == data
        assert member.sha256 == hashlib.sha256(data).hexdigest()
        assert index.extract(path) == data
    with pytest.raises(MissingInput, match="big.bin"):
        index.extract("big.bin")


def test_samples_stay_together(packed: Path) -> None:
    for shard in packed.glob("*.tar"):
        with tarfile.open(shard) as tar:
            members = [m.name for m in tar]
        if "a.jpg" in members:
            at = members.index("a.jpg")
            assert members[at : at + 2] == ["a.jpg", "a.json"]
            return
    pytest.fail("a.jpg is in no shard")


@pytest.mark.slow
def test_gnu_tar_reads_it(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "unpacked"
    target.mkdir()
    for shard in sorted(packed.glob("*.tar")):
        done = subprocess.run(
            [need_program("tar"), "xf", shard, "-C", target], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
    assert {
        p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()
    } == SMALL


def test_same_bytes_whatever_the_order_times_and_modes(tmp_path: Path) -> None:
    files = plant(tmp_path / "tree", SMALL)
    pack_tree(files, tmp_path / "one", name="set", shard_bytes=8192)
    for file in files:
        os.utime(file.absolute, (5, 5))
        os.chmod(file.absolute, 0o600)
    pack_tree(list(reversed(files)), tmp_path / "two", name="set", shard_bytes=8192)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / side).iterdir()} for side in ("one", "two")
    )
    assert one == two


def test_bytes_of_a_tar_are_pinned(tmp_path: Path) -> None:
    # a change here changes every release that was packed before
    pack_tree(plant(tmp_path / "tree", SMALL), tmp_path / "out", name="set")
    digest = hashlib.sha256((tmp_path / "out" / "set-00000.tar").read_bytes()).hexdigest()
    assert digest == "2305e4526082c9d9e3b995e9a5423528d28f762183088327ffecdae609a883a2"


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0\\", exclude_categories=["Cc", "Cs"]),
    min_size=1,
    max_size=70,
)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=6).map("/".join)


@given(PATHS, st.integers(0, 1 << 40))
@example("x" * 100, 0)
@example("x" * 101, 0)
@example("p" * 155 + "/" + "n" * 100, 1)
@example("p" * 156 + "/" + "n" * 100, 1)
@example("p" * 155 + "/" + "n" * 101, 1)
@example("a", 8**11 - 1)
@example("a", 8**11)
@example("é" * 50, 3)
def test_any_name_and_size_is_read_back(path: str, size: int) -> None:
    raw = _tar.header(path, size)
    assert len(raw) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(raw + _tar.END), errorlevel=2) as tar:
        member = tar.next()
        assert member is not None
        assert (member.name, member.size, member.isreg()) == (path, size, True)
        assert member.offset_data == len(raw)
    plain = path.isascii() and len(path) <= 100 and size < 8**11
    assert len(raw) == 512 or not plain


@given(
    st.dictionaries(
        st.text("ab.-", min_size=1, max_size=6).filter(lambda n: n.strip(".") != ""),
        st.integers(0, 3000),
        max_size=30,
    ),
    st.integers(1, 9000),
)
def test_plans_hold_every_file_and_split_no_sample(files: dict[str, int], shard_bytes: int) -> None:
    items = [fake(f"f/{name}", size) for name, size in files.items()]
    plan = plan_shards(items, shard_bytes)
    assert sorted(item.path for shard in plan for item in shard) == sorted(item.path for item in items)
    stems = [[item.path.rpartition("/")[2].partition(".")[0] for item in shard] for shard in plan]
    flat = [stem for shard in stems for stem in shard]
    runs = [stem for at, stem in enumerate(flat) if at == 0 or flat[at - 1] != stem]
    assert len(runs) == len(set(runs))  # each stem is one run of neighbours
    for before, after in zip(stems, stems[1:], strict=False):
        assert before[-1] != after[0]  # and in one shard
    for shard, inside in zip(plan, stems, strict=True):
        size = sum(512 + -(-item.size_bytes // 512) * 512 for item in shard) + 1024
        assert size <= shard_bytes or len(set(inside)) == 1


@given(
    st.dictionaries(
        PATHS.filter(lambda p: len(p.encode()) < 200 and max(map(len, map(str.encode, p.split("/")))) < 256),
        st.binary(max_size=1500),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=12)
def test_offsets_of_any_tree(files: dict[str, bytes]) -> None:
    paths = set(files)
    if any(other.startswith(f"{path}/") for path in paths for other in paths):
        return  # one name cannot be file and folder
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = plant(folder / "tree", files)
        pack_tree(items, folder / "out", name="s", shard_bytes=4000)
        index = PackIndex.open(folder / "out")
        assert {path: index.extract(path) for path in files} == files


def test_a_file_that_changes_is_an_integrity_error(tmp_path: Path) -> None:
    files = plant(tmp_path / "tree", {"a": b"1", "b": b"22"})
    files[1].absolute.write_bytes(b"333")
    with pytest.raises(IntegrityError, match=r"tree/b: changed"):
        pack_tree(files, tmp_path / "out")
    assert not (tmp_path / "out").exists() and list(tmp_path.glob(".out*")) == []


def test_a_file_that_changes_under_the_reader_is_an_integrity_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = plant(tmp_path / "tree", {"a": b"11"})
    os.utime(file.absolute, (5, 5))
    look = os.fstat

    def meddled(fd: int) -> os.stat_result:
        found = look(fd)
        file.absolute.write_bytes(b"22")  # after the first look, and of the same length
        return found

    monkeypatch.setattr(os, "fstat", meddled)
    with pytest.raises(IntegrityError, match=r"tree/a: changed"):
        pack_tree([file], tmp_path / "out")


def test_a_small_file_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    files = plant(tmp_path / "tree", {"a": b"1"})
    files[0].absolute.unlink()
    files[0].absolute.symlink_to("/etc/hostname")
    with pytest.raises(Exception, match="tree/a"):
        pack_tree(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_large_file_that_became_a_link_is_refused(tmp_path: Path) -> None:
    files = plant(tmp_path / "tree", {"a": b"1" * 100})
    files[0].absolute.unlink()
    files[0].absolute.symlink_to("/etc/hostname")
    with pytest.raises(IntegrityError, match="symbolic link"):
        pack_tree(files, tmp_path / "out", small_bytes=10)


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    files = plant(tmp_path / "tree", {"a": b"1"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(UsageError, match="already there"):
        pack_tree(files, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "keep"
    (tmp_path / "out" / "mine").unlink()
    pack_tree(files, tmp_path / "out")  # an empty folder is taken
    assert PackIndex.open(tmp_path / "out").extract("a") == b"1"


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".out.tmp-999999999"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    pack_tree(plant(tmp_path / "tree", {"a": b"1"}), tmp_path / "out")
    assert not left.exists()


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / ".out.tmp-1"
    theirs.mkdir()
    pack_tree(plant(tmp_path / "tree", {"a": b"1"}), tmp_path / "out")
    assert theirs.exists()


@pytest.mark.parametrize("clash", ["index.parquet", "out-00000.tar", "index.parquet/inside"])
def test_names_that_packing_gives_are_refused(tmp_path: Path, clash: str) -> None:
    files = plant(tmp_path / "tree", {"a": b"1", clash: b"2" * 100})
    with pytest.raises(UsageError, match="index.parquet|out-00000.tar"):
        pack_tree(files, tmp_path / "out", small_bytes=10)
    pack_tree(files, tmp_path / "out")  # packed itself, its name is in a tar
    assert PackIndex.open(tmp_path / "out").extract(clash) == b"2" * 100


def test_where_nothing_can_be_linked_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*arguments: Any, **options: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    result = pack_tree(plant(tmp_path / "tree", {"a": b"1" * 100}), tmp_path / "out", small_bytes=10)
    assert result.copied_bytes == 100 and result.shards == []
    assert (tmp_path / "out" / "a").read_bytes() == b"1" * 100
    assert not (tmp_path / "out" / "index.parquet").exists()


# advice


def test_advice_counts() -> None:
    files = [fake(f"{n}.jpg", 1000) for n in range(3000)] + [fake("big.bin", 5 << 20)]
    told = advise(files, shard_bytes=1 << 20)
    assert told.worth and told.files == 3001 and told.small_files == 3000 and told.small_bytes == 3_000_000
    assert told.shards == len(plan_shards(files[:-1], 1 << 20)) == 5
    assert told.files_after == 1 + 5 + 1
    assert (
        "3,000 of 3,001" in told.text and "7 files" in told.text and "3.5" in told.text and "35" in told.text
    )


def test_no_advice_for_few_or_large_files() -> None:
    assert not advise([fake(f"{n}", 1000) for n in range(999)]).worth
    assert not advise([fake(f"{n}", 2 << 20) for n in range(5000)]).worth
    assert not advise([]).worth
