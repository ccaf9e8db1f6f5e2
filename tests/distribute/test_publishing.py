"""`headwater publish`: what a release holds, that it depends on nothing but the files, and living datasets."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distribute.car import load_car, read_car
from distribute.cid import RAW, Cid
from distribute.publishing import PublishOptions, piece_size_for, publish
from distribute.torrents import TorrentFile
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.release import Locations, Pointer, open_release, read_document
from headwater.steps import RunOptions, read_record
from headwater.verify import verify_path
from tests.conftest import Cli, clean_environment
from tests.distribute.publish_kit import make_release, some_tree, write_tree
from tests.distribute.seed_kit import hearing


def test_a_release_holds_everything(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    facts = make_release(tree, tmp_path / "rel")
    opened = open_release(tmp_path / "rel")
    assert sorted(path.name for path in (tmp_path / "rel").iterdir()) == [
        "d",
        "locations.json",
        "manifest.json",
        "nodes.car",
        "release.json",
        "release.meta4",
        "step.json",
        "v1.torrent",
        "v2.torrent",
    ]
    raw = (tmp_path / "rel" / "manifest.json").read_bytes()
    assert (
        hashlib.sha256(raw).hexdigest()
        == opened.release.manifest_id
        == facts["manifest_id"]
        == opened.manifest.id
    )
    for entry in opened.manifest.entries:
        data = (tree / entry.path).read_bytes()
        assert entry.sha256 == hashlib.sha256(data).hexdigest() and entry.size_bytes == len(data)
        assert os.path.samefile(opened.data / entry.path, tree / entry.path)  # hard links: no second copy
    assert (opened.data / "nothing inside").is_dir()
    assert opened.manifest.extensions == {"empty_folders": ["nothing inside"]}
    assert facts["second_copy_bytes"] == 0 and facts["read_bytes"] == opened.release.size_bytes
    assert facts["counts"] == {
        "unit": "files",
        "read": 6,
        "kept": 6,
        "dropped": {},
        "invalid": {},
        "extra": {},
    }
    assert verify_path(tmp_path / "rel").as_result()["ok"]


def test_the_documents_agree_with_each_other(tmp_path: Path) -> None:
    make_release(some_tree(tmp_path / "d"), tmp_path / "rel", torrents=("v1", "v2", "hybrid"), name="set")
    opened = open_release(tmp_path / "rel")
    sizes = {entry.path: entry.size_bytes for entry in opened.manifest.entries}
    for kind, torrent in opened.release.torrents.items():
        parsed = TorrentFile.parse(opened.file(torrent.file).read_bytes())
        assert parsed.name == "set" and {file.path: file.size_bytes for file in parsed.files} == sizes
        assert torrent.infohash == (parsed.infohash_v2 if kind == "v2" else parsed.infohash_v1)
        if kind != "v1":
            roots = {file.path: file.root.hex() if file.root else None for file in parsed.files}
            assert roots == {entry.path: entry.bt_v2_root for entry in opened.manifest.entries}
    with open(opened.file("nodes.car"), "rb") as handle:
        roots, _ = load_car(handle)
    assert {root.text for root in roots} == set(opened.release.cids.values())
    locations = read_document(opened.file("locations.json"), Locations)
    assert {location.kind for location in locations.locations} == {"bittorrent", "ipfs"}


def test_order_time_mode_and_place_do_not_matter(tmp_path: Path) -> None:
    """Fault 88: the same files give the same names, however they came to lie there."""
    tree = some_tree(tmp_path / "one" / "d")
    other = tmp_path / "two" / "d"
    other.mkdir(parents=True)
    for path in sorted(tree.rglob("*"), reverse=True):  # another order in the folder
        target = other / path.relative_to(tree)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o600)
    here, there = (make_release(folder, folder.parent / "rel") for folder in (tree, other))
    assert [here[name] for name in ("manifest_id", "cids", "torrents")] == [
        there[name] for name in ("manifest_id", "cids", "torrents")
    ]
    for name in ("manifest.json", "release.json", "v1.torrent", "v2.torrent", "nodes.car", "release.meta4"):
        assert (tree.parent / "rel" / name).read_bytes() == (other.parent / "rel" / name).read_bytes()


def test_a_second_time_nothing_is_read(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    make_release(tree, tmp_path / "rel")
    assert make_release(tree, tmp_path / "rel")["up_to_date"]
    again = make_release(tree, tmp_path / "other")
    assert again["read_bytes"] == 0 and not again["up_to_date"]
    assert make_release(tree, tmp_path / "third", distrust_cache=True)["read_bytes"] == again["size_bytes"]


def test_bytes_that_change_behind_size_and_time_are_told(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    make_release(tree, tmp_path / "rel")
    status = (tree / "z.bin").stat()
    with open(tree / "z.bin", "r+b") as handle:
        handle.write(b"\0\0\0\0")
    os.utime(tree / "z.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(IntegrityError, match=r"z\.bin"):
        make_release(tree, tmp_path / "other", distrust_cache=True)
    assert not (tmp_path / "other").exists()


def test_a_child_tells_reads_and_sends_only_what_is_new(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    parent = make_release(tree, tmp_path / "rel")
    write_tree(tree, {"sub/new.bin": b"n" * 400_000, "a.txt": b"hallo\n"})
    (tree / "empty").unlink()
    child = make_release(tree, tmp_path / "rel2", parent=tmp_path / "rel")
    assert child["parents"] == [parent["manifest_id"]] and child["manifest_id"] != parent["manifest_id"]
    assert (child["new_files"], child["new_bytes"], child["gone_files"]) == (2, 400_006, 1)
    # the new bytes, once for all digests and once more for the pieces of the delta torrent
    assert child["read_bytes"] == 400_006 and child["read_again_bytes"] <= 400_006
    opened = open_release(tmp_path / "rel2")
    delta = TorrentFile.parse(opened.file("delta.torrent").read_bytes())
    assert [file.path for file in delta.files] == ["a.txt", "sub/new.bin"] and delta.name == "d"
    assert set(opened.release.torrents) == {"delta", "v2"}
    assert opened.release.torrents["delta"].size_bytes == 400_006
    # unchanged files keep their roots and CIDs, so that a v2 client and an IPFS node have them already
    before = {entry.path: entry for entry in open_release(tmp_path / "rel").manifest.entries}
    same = [entry for entry in opened.manifest.entries if before.get(entry.path) == entry]
    assert len(same) == 4
    assert verify_path(tmp_path / "rel2").as_result()["ok"]


def test_new_files_are_read_once_for_all_torrents(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    make_release(tree, tmp_path / "rel")
    write_tree(tree, {"a-new.bin": b"a" * 300_000, "sub/new.bin": b"n" * 400_000})
    child = make_release(tree, tmp_path / "rel2", parent=tmp_path / "rel", torrents=("delta", "v2"))
    assert (child["new_files"], child["read_bytes"], child["read_again_bytes"]) == (2, 700_000, 0)


def test_an_edit_in_place_that_damages_the_parent_is_told(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    make_release(tree, tmp_path / "rel")
    with open(tree / "a.txt", "ab") as handle:
        handle.write(b"more\n")
    (tree / "z.bin").unlink()  # replaced, as most programs do it: nothing to tell
    write_tree(tree, {"z.bin": b"z"})
    with hearing() as said:
        make_release(tree, tmp_path / "rel2", parent=tmp_path / "rel")
    [warning] = [text for _, text in said.messages if "edited in place" in text]
    assert "a.txt" in warning and "z.bin" not in warning and "--data copy" in warning


def test_a_child_without_changes_has_no_delta(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    make_release(tree, tmp_path / "rel")
    child = make_release(tree, tmp_path / "rel2", parent=tmp_path / "rel")
    assert (child["new_files"], child["new_bytes"]) == (0, 0) and "delta" not in child["torrents"]


def test_copies_where_there_can_be_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = some_tree(tmp_path / "d")

    def refuse(*args: object, **more: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    facts = make_release(tree, tmp_path / "rel")
    assert facts["second_copy_bytes"] == facts["size_bytes"]
    assert not os.path.samefile(tmp_path / "rel" / "d" / "z.bin", tree / "z.bin")
    assert verify_path(tmp_path / "rel").as_result()["ok"]


def test_copies_and_none_on_request(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    linked = make_release(tree, tmp_path / "linked")
    copied = make_release(tree, tmp_path / "copied", data="copy")
    bare = make_release(tree, tmp_path / "bare", data="none")
    assert copied["second_copy_bytes"] == copied["size_bytes"] and bare["second_copy_bytes"] == 0
    assert linked["manifest_id"] == copied["manifest_id"] == bare["manifest_id"]
    assert not (tmp_path / "bare" / "d").exists()


def test_a_file_that_changes_between_reading_and_linking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = some_tree(tmp_path / "d")
    link = os.link

    def change_then_link(source: Path, target: Path, **options: bool) -> None:
        if source.name == "z.bin":
            source.write_bytes(b"another content")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", change_then_link)
    with pytest.raises(IntegrityError, match=r"z\.bin: changed while it was published"):
        make_release(tree, tmp_path / "rel")
    assert not (tmp_path / "rel").exists()


def test_packed_small_files(tmp_path: Path) -> None:
    write_tree(
        tmp_path / "d",
        {f"{n:03}.jpg": bytes([n]) * 1000 for n in range(50)} | {"large.bin": b"x" * 2_000_000},
    )
    facts = make_release(tmp_path / "d", tmp_path / "rel", pack=True)
    paths = [entry.path for entry in open_release(tmp_path / "rel").manifest.entries]
    assert paths == ["d-00000.tar", "index.parquet", "large.bin"] and facts["files"] == 3
    assert facts["second_copy_bytes"] == 50_000  # what is in the tar; the large file is a link
    assert verify_path(tmp_path / "rel").as_result()["ok"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "rel"]  # nothing of the packing stays


def test_the_step_that_made_the_folder_is_named(tmp_path: Path) -> None:
    from tests.headwater.test_verify import make

    step = make(tmp_path / "out", "folder")
    make_release(tmp_path / "out", tmp_path / "rel")
    assert open_release(tmp_path / "rel").manifest.step_id == step.id
    record = read_record(tmp_path / "rel")
    assert record is not None and record.identity.step == "publish"
    assert record.identity.inputs[0].id == open_release(tmp_path / "rel").release.manifest_id


@pytest.mark.parametrize(
    ("size", "piece"),
    [
        (0, 1 << 18),
        (500 << 20, 1 << 18),
        ((500 << 20) + 1, 1 << 19),
        (2_000 << 24, 1 << 24),
        (10**13, 1 << 24),
    ],
)
def test_the_piece_size_follows_from_the_size(size: int, piece: int) -> None:
    assert piece_size_for(size) == piece


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"piece_size_bytes": 100_000}, "must be a power of two"),
        ({"piece_size_bytes": 1 << 13}, "must be a power of two"),
        ({"torrents": ("v3",)}, "unknown kind of torrent"),
        ({"torrents": ("delta",)}, "since a parent"),
        ({"name": "../x"}, "cannot be the name"),
        ({"name": ".hidden"}, "cannot be the name"),
        ({"name": "manifest.json"}, "cannot be the name"),
        ({"profiles": ("no-such",)}, "no-such"),
    ],
)
def test_wrong_options(options: dict[str, object], told: str, tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    with pytest.raises(UsageError, match=told):
        make_release(tree, tmp_path / "rel", **options)
    assert not (tmp_path / "rel").exists()


def test_places_that_cannot_be(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    with pytest.raises(UsageError, match="lies inside"):
        make_release(tree, tree / "rel")
    with pytest.raises(UsageError):
        make_release(tree, tmp_path)
    with pytest.raises(MissingInput, match="no such folder to publish"):
        make_release(tmp_path / "none", tmp_path / "rel")
    (tmp_path / "nothing").mkdir()
    with pytest.raises((UsageError, MissingInput)):
        make_release(tmp_path / "nothing", tmp_path / "rel")
    assert not (tmp_path / "rel").exists()


def test_a_dry_run_writes_nothing_and_tells_the_numbers(tmp_path: Path) -> None:
    tree = some_tree(tmp_path / "d")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    facts = publish(tree, tmp_path / "rel", PublishOptions(), RunOptions(dry_run=True))
    assert facts["size_bytes"] == sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert facts["second_copy_bytes"] == 0 and "estimate" in facts["text"]
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_the_command_with_everything(tmp_path: Path, cli: Cli) -> None:
    tree = some_tree(tmp_path / "d")
    assert cli("key", "k.pem").returncode == 0
    done = cli(
        "publish",
        tree,
        "-o",
        "rel",
        "--key",
        "k.pem",
        "--car",
        "all.car",
        "--bagit",
        "bag",
        "--mirror",
        "https://data.example/d",
        "--tracker",
        "https://tracker.example/announce",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    opened = open_release(tmp_path / "rel")
    pointer = read_document(opened.file("latest.json"), Pointer)
    assert pointer.body.manifest_id == facts["manifest_id"] and pointer.body.version == 1
    torrent = TorrentFile.parse(opened.file("v1.torrent").read_bytes())
    assert torrent.web_seeds == ("https://data.example/d/",)
    assert torrent.trackers == (("https://tracker.example/announce",),)
    with open(tmp_path / "all.car", "rb") as handle:
        reader = read_car(handle)
        blocks = list(reader)  # each is checked as it is read
    assert reader.roots[0].text == facts["cids"]["unixfs-v1-2025"]
    assert Cid(1, RAW, hashlib.sha256(b"hello\n").digest()) in {cid for cid, _ in blocks}
    assert (tmp_path / "bag" / "data" / "a.txt").read_bytes() == b"hello\n"
    assert cli("verify", "rel").returncode == 0
    write_tree(tree, {"new": b"new"})
    done = cli("publish", tree, "-o", "rel2", "--parent", "rel", "--key", "k.pem", "--json")
    assert done.returncode == 0, done.stderr
    after = read_document(tmp_path / "rel2" / "latest.json", Pointer)
    assert after.body.version == 2 and after.body.previous == facts["manifest_id"]


def test_a_missing_key_is_told_before_anything_is_read(tmp_path: Path, cli: Cli) -> None:
    tree = some_tree(tmp_path / "d")
    done = cli("publish", tree, "-o", "rel", "--key", "none.pem")
    assert done.returncode == 10 and "none.pem" in done.stderr and not (tmp_path / "rel").exists()


def test_an_unknown_transport_and_a_missing_target(tmp_path: Path, cli: Cli) -> None:
    tree = some_tree(tmp_path / "d")
    assert "did you mean 'girder'" in cli("publish", tree, "-o", "rel", "--via", "girdr").stderr
    done = cli("publish", tree, "-o", "rel", "--via", "girder")
    assert done.returncode == 2 and "--girder LOCATION" in done.stderr and not (tmp_path / "rel").exists()


def test_killed_while_reading_it_goes_on_from_there(tmp_path: Path) -> None:
    """Fault 4: what was digested before the kill is not read again, and the ids are the same."""
    tree = tmp_path / "d"
    write_tree(tree, {f"{n:02}.bin": os.urandom(4_000_000) for n in range(30)})
    script = (
        "import os, signal, distribute.digestcache as c\n"
        "put, n = c.TreeCache.put, [0]\n"
        "def slow(self, *a):\n"
        "    put(self, *a); n[0] += 1\n"
        "    if n[0] == 20: self.save(now=True); os.kill(os.getpid(), signal.SIGKILL)\n"
        "c.TreeCache.put = slow\n"
        "from headwater.cli import main; import sys; sys.argv = ['headwater', 'publish', 'd', '-o', 'rel', '--json']; main()\n"
    )
    environment = clean_environment(tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, env=environment, capture_output=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "rel").exists()
    facts = make_release(tree, tmp_path / "rel")
    assert facts["read_bytes"] == 10 * 4_000_000
    shutil.copytree(tree, tmp_path / "copy" / "d", ignore=shutil.ignore_patterns(".headwater"))
    assert (
        make_release(tmp_path / "copy" / "d", tmp_path / "copy" / "rel")["manifest_id"]
        == facts["manifest_id"]
    )
