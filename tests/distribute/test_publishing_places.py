"""`headwater publish` where a stranger slips: places, repeats, exports, two at once; told before a byte is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from distribute import publishing, sending
from distribute.pointer import new_key
from distribute.pointing import sign_release
from distribute.publishing import PublishOptions, publish
from distribute.scan import scan_tree
from headwater.errors import HeadwaterError, Locked, MissingInput, UsageError
from headwater.files import locked
from headwater.release import open_release
from headwater.steps import RunOptions
from headwater.verify import verify_path
from tests.conftest import Cli
from tests.distribute.publish_kit import make_release, some_tree, write_tree
from tests.distribute.seed_kit import hearing


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return some_tree(tmp_path / "d")


def refused(folder: Path, output: Path, **options: Any) -> str:
    """The message of a publishing that reads nothing."""
    with pytest.raises(HeadwaterError) as told:
        make_release(folder, output, **options)
    assert not output.exists() and not (folder / ".headwater").exists()
    return f"{told.value.message} {told.value.hint}"


def test_a_release_is_not_published_again(tree: Path, tmp_path: Path) -> None:
    make_release(tree, tmp_path / "rel")
    told = refused(tmp_path / "rel", tmp_path / "again")
    assert "is a release itself" in told and "headwater seed" in told and str(tmp_path / "rel" / "d") in told


def test_a_fetched_folder_is_published_under_the_name_it_had(tree: Path, tmp_path: Path) -> None:
    make_release(tree, tmp_path / "rel", name="set")
    fetched = tmp_path / "fetched"
    shutil.copytree(tree, fetched)
    shutil.rmtree(fetched / ".headwater")
    shutil.copytree(tmp_path / "rel", fetched / ".headwater" / "release", ignore=lambda *_: ["set"])
    with hearing() as said:
        make_release(fetched, tmp_path / "again")
    assert any("--name set" in text for _, text in said.messages)


def test_files_with_the_names_of_documents(tree: Path, tmp_path: Path) -> None:
    """A published folder may hold manifest.json, release.json, step.json; fetched, they are files and nothing more."""
    make_release(tree, tmp_path / "other", data="none")
    for name in ("manifest.json", "release.json", "step.json"):
        shutil.copy(tmp_path / "other" / name, tree / name)
    make_release(tree, tmp_path / "rel")
    assert verify_path(tmp_path / "rel").as_result()["ok"]
    assert open_release(tmp_path / "rel").manifest.step_id is None  # the record tells of other files
    fetched = tmp_path / "fetched"
    shutil.copytree(tmp_path / "rel" / "d", fetched)
    shutil.copytree(tmp_path / "rel", fetched / ".headwater" / "release", ignore=lambda *_: ["d"])
    assert open_release(fetched).release == open_release(tmp_path / "rel").release
    assert [r["kind"] for r in verify_path(fetched).as_result()["records"]] == ["manifest"]


def test_a_step_json_that_is_something_else(tmp_path: Path) -> None:
    write_tree(tmp_path / "d", {"step.json": b"{}", "a": b"a"})
    make_release(tmp_path / "d", tmp_path / "rel")
    assert open_release(tmp_path / "rel").manifest.step_id is None
    assert verify_path(tmp_path / "rel").as_result()["ok"]


def test_a_tree_too_deep_for_v2(tmp_path: Path) -> None:
    deepest = "/".join("d" * 95) + "/f"  # 96 parts
    write_tree(tmp_path / "ok", {deepest: b"x"})
    make_release(tmp_path / "ok", tmp_path / "rel-ok", torrents=("v1", "v2", "hybrid"))
    write_tree(tmp_path / "d", {"d/" + deepest: b"x"})
    assert "--torrent v1" in refused(tmp_path / "d", tmp_path / "rel")
    make_release(tmp_path / "d", tmp_path / "rel", torrents=("v1",))
    assert verify_path(tmp_path / "rel").as_result()["ok"]


def test_a_path_too_long_for_windows_is_told_once(tmp_path: Path) -> None:
    write_tree(tmp_path / "d", {"/".join(["d" * 100] * 4) + "/f": b"x"})
    [warning] = scan_tree(tmp_path / "d").warnings
    assert warning.path.endswith("/f") and "259" in warning.detail


def test_options_that_contradict_each_other(tree: Path, tmp_path: Path) -> None:
    assert "--cache" in refused(tree, tmp_path / "rel", cache=tree / "sub" / "cache")
    assert "--data none" in refused(tree, tmp_path / "rel", pack=True, data="none")
    assert "not an address" in refused(tree, tmp_path / "rel", mirrors=("foo/",))
    assert "not an address" in refused(tree, tmp_path / "rel", trackers=("foo",))
    told = refused(tree, tmp_path / "rel", mirrors=("https://me:S3CRET@host/",))
    assert "password" in told and "S3CRET" not in told
    assert "no other kind" in refused(tree, tmp_path / "rel", torrents=("none", "v1"))
    make_release(tree, tmp_path / "rel", cache=tree / ".headwater")  # its own place


def test_two_at_once(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "digest", lambda *_, **__: pytest.fail("it read the files"))
    with locked(tmp_path / ".rel.publish", tmp_path / "rel"), pytest.raises(Locked):
        make_release(tree, tmp_path / "rel")


def test_no_room_for_copies(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "1,000 are free" in refused(tree, tmp_path / "rel", data="copy")
    monkeypatch.setattr(publishing, "_device", lambda path: hash(path))  # every folder on a disk of its own
    assert "no hard links to another file system" in refused(tree, tmp_path / "rel")
    facts = publish(tree, tmp_path / "rel", PublishOptions(), RunOptions(dry_run=True))
    assert facts["second_copy_bytes"] == facts["size_bytes"] and "free there: 1,000 bytes" in facts["text"]


def test_a_full_disk_names_what_was_written(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path, **_: bool) -> None:
        raise OSError(28, "No space left on device", str(source))  # as shutil does: the source

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(HeadwaterError) as told:
        make_release(tree, tmp_path / "rel", data="copy")
    assert str(tree) + "/" not in told.value.message and "no space left" in told.value.message


def test_exports_stay_out_of_the_files_and_of_the_release(tree: Path, tmp_path: Path) -> None:
    rel, notes = tmp_path / "rel", tmp_path / "notes.txt"
    for place in (tree / "x", rel / "x", rel, tree):
        for extras in (sending.Extras(bagit=place), sending.Extras(car=place)):
            with pytest.raises(UsageError, match="lies inside"):
                sending.check(extras, tree, rel)
    notes.write_text("mine")
    with pytest.raises(UsageError, match="no CAR"):
        sending.check(sending.Extras(car=notes), tree, rel)
    sending.check(sending.Extras(car=notes), tree, rel, force=True)


def test_the_same_line_twice(tree: Path, tmp_path: Path, cli: Cli) -> None:
    """Exports and the pointer that are there already stay; those of another release are not replaced unasked."""
    assert cli("key", "k").returncode == 0
    line = (
        "publish",
        tree,
        "-o",
        "rel",
        "--car",
        "all.car",
        "--bagit",
        "bag",
        "--key",
        "k",
        "--data",
        "none",
    )
    first, second = cli(*line), cli(*line)
    assert first.returncode == second.returncode == 0, second.stderr
    assert "version 1" in second.stdout and "was there" in second.stdout
    write_tree(tmp_path / "e", {"f": b"e"})
    for option, place in (("--car", "all.car"), ("--bagit", "bag")):
        done = cli("publish", "e", "-o", "rel-e", option, place)
        assert done.returncode == 2 and place in done.stderr, done.stderr


def test_a_car_on_standard_output_is_alone_there(tree: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("publish", tree, "-o", "rel", "--car", "all.car").returncode == 0
    with open(tmp_path / "piped.car", "wb") as pipe:
        done = cli("publish", tree, "-o", "rel", "--car", "-", stdout=pipe, stderr=subprocess.PIPE)
    assert (tmp_path / "piped.car").read_bytes() == (tmp_path / "all.car").read_bytes()
    assert "manifest" in done.stderr
    refused = cli("publish", tree, "-o", "rel", "--car", "-", "--json")
    assert refused.returncode == 2 and json.loads(refused.stdout)["error"]["exit_code"] == 2


def test_no_secret_of_the_command_line_is_published_or_shown(tree: Path, tmp_path: Path, cli: Cli) -> None:
    places = ("--ipfs-api", "http://me:S3CRET@127.0.0.1:9", "--http-target", "s3://KEY:S3CRET@bucket/x")
    assert cli("publish", tree, "-o", "rel", *places).returncode == 0
    assert not any(b"S3CRET" in path.read_bytes() for path in (tmp_path / "rel").glob("*.json"))
    done = cli("publish", tree, "-o", "rel2", *places, "--via", "ipfs,http", "--dry-run", "--json")
    assert "S3CRET" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["would_send"] == {
        "ipfs": "http://***@127.0.0.1:9",
        "s3": "s3://***@bucket/x",
    }


def test_a_version_that_was_given_out_is_never_given_again(tree: Path, tmp_path: Path) -> None:
    key, one, two = tmp_path / "k", tmp_path / "one", tmp_path / "two"
    new_key(key)
    make_release(tree, one)
    assert sign_release(open_release(one), key).body.version == 1
    write_tree(tree, {"new": b"new"})
    make_release(tree, two, parent=one)
    assert sign_release(open_release(two), key, after=one, keep=True).body.version == 2
    kept = sign_release(open_release(two), key)  # renewed by itself
    before = (two / "latest.json").read_bytes()
    assert sign_release(open_release(two), key, dry_run=True).body.version == 4
    assert sign_release(open_release(two), key, after=one, keep=True) == kept  # nothing new to say
    assert kept.body.version == 3 and (two / "latest.json").read_bytes() == before
    write_tree(tree, {"new": b"newer"})
    make_release(tree, two, parent=one, run=RunOptions(force=True))
    body = sign_release(open_release(two), key, after=one, keep=True).body
    assert (body.version, body.previous) == (4, kept.body.manifest_id)
    for _ in range(5):  # the other line went on: the pointer here is an old one now
        sign_release(open_release(one), key)
    assert sign_release(open_release(two), key, after=one, keep=True).body.version == 7


def test_a_trackers_key_is_told_and_not_shown(tree: Path, tmp_path: Path) -> None:
    with hearing() as said:
        make_release(tree, tmp_path / "rel", trackers=("https://t/announce?passkey=S3CRET",))
    [warning] = [text for level, text in said.messages if level == "warning"]
    assert "will be public" in warning and "S3CRET" not in warning


def test_a_number_of_workers_that_cannot_be(tree: Path, tmp_path: Path) -> None:
    make_release(tree, tmp_path / "rel")
    for workers in (0, -3):
        with pytest.raises(UsageError, match="--workers"):
            verify_path(tmp_path / "rel", workers=workers)
        with pytest.raises(UsageError, match="--workers"):
            publish(tree, tmp_path / "rel2", PublishOptions(), RunOptions(), workers=workers)


def test_the_next_line_can_be_typed(tree: Path, tmp_path: Path) -> None:
    facts = make_release(tree, tmp_path / "a b")
    assert facts["text"].endswith(f"headwater seed '{tmp_path / 'a b'}'")


def test_a_key_and_what_is_missing_for_it(tmp_path: Path, cli: Cli) -> None:
    done = cli("key", "no/k")
    assert done.returncode == 10 and "mkdir -p no" in done.stderr
    assert cli("key", "k").returncode == 0 and "was there" in cli("key", "k").stdout
    assert os.stat(tmp_path / "k").st_mode & 0o777 == 0o600


def test_verify_of_a_release_without_files(tree: Path, tmp_path: Path) -> None:
    make_release(tree, tmp_path / "rel", data="none")
    with pytest.raises(MissingInput, match="--data none"):
        verify_path(tmp_path / "rel")
