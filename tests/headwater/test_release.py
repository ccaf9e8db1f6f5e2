"""Opening a release that a stranger made: its names act on no disk and no terminal but where they should."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import HeadwaterError, IntegrityError
from headwater.manifest import canonical
from headwater.release import FOLDERS, open_release
from headwater.verify import verify_path
from tests.distribute.publish_kit import make_release, some_tree


@pytest.fixture
def release(tmp_path: Path) -> Path:
    make_release(some_tree(tmp_path / "d"), tmp_path / "rel")
    return tmp_path / "rel"


def change(folder: Path, change: Callable[[Any, Any], None]) -> None:
    """Change manifest and release; the id is made to fit again, as a hostile publisher would."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    document = json.loads((folder / "release.json").read_bytes())
    change(manifest, document)
    raw = canonical(manifest)
    document["manifest_id"] = hashlib.sha256(raw).hexdigest()
    (folder / "manifest.json").write_bytes(raw)
    (folder / "release.json").write_bytes(canonical(document))


@pytest.mark.parametrize(
    "path",
    [
        "../out",
        "a\x1b[31m",
        "a\nb",
        "a\x7f",
        "a\x9b2J",
        "n" * 256,
        "d/" * (FOLDERS + 1) + "f",
        "é" * 128,
        "/".join(["d" * 200] * 21),
    ],
)
def test_paths_that_no_disk_or_terminal_should_get(release: Path, path: str) -> None:
    change(release, lambda manifest, _: manifest.update(entries=[{**manifest["entries"][0], "path": path}]))
    with pytest.raises(IntegrityError) as told:
        open_release(release)
    assert told.value.message.isprintable() and len(told.value.message) < 400
    with pytest.raises(IntegrityError) as told:
        verify_path(release).as_result()
    assert "\x1b" not in told.value.message and "not named" not in told.value.message


def test_the_longest_paths_are_taken(release: Path) -> None:
    for path in ("n" * 255, "d/" * FOLDERS + "f", "/".join(["d" * 200] * 20)):

        def rename(manifest: Any, _: Any, path: str = path) -> None:
            manifest["entries"] = [{**manifest["entries"][0], "path": path}]

        change(release, rename)
        assert open_release(release).manifest.entries[0].path == path


@pytest.mark.parametrize("name", ["../d", "a/b", ".headwater", "a\nb", ""])
def test_names_that_are_no_folder_of_it(release: Path, name: str) -> None:
    change(release, lambda _, document: document.update(name=name))
    with pytest.raises(IntegrityError):
        open_release(release)


@pytest.mark.parametrize("file", ["../x.torrent", "/x.torrent", ".x.torrent", "release.json", "a b.torrent"])
def test_torrents_that_lie_elsewhere(release: Path, file: str) -> None:
    change(release, lambda _, document: document["torrents"]["v1"].update(file=file))
    with pytest.raises(IntegrityError, match="not a release document"):
        open_release(release)


def test_what_was_fetched_comes_before_files_of_the_same_name(release: Path, tmp_path: Path) -> None:
    fetched = tmp_path / "fetched"
    shutil.copytree(release / "d", fetched)
    shutil.copytree(release, fetched / ".headwater" / "release", ignore=lambda *_: ["d"])
    (fetched / "manifest.json").write_text("{}")
    (fetched / "release.json").write_text("{}")
    assert open_release(fetched).meta == fetched / ".headwater" / "release"
    with pytest.raises(IntegrityError, match=r"manifest\.json: not named by the record"):
        verify_path(fetched).as_result()


def test_a_record_of_another_step_may_hold_a_release_json(tmp_path: Path) -> None:
    from headwater.manifest import Counts
    from headwater.steps import Plan, RunOptions, Work, run_step

    def work(job: Work) -> Counts:
        (job.stage / "release.json").write_text("{}")
        return Counts(unit="files", read=1, kept=1)

    plan = Plan(step="tiny", version=1, config={}, inputs=[], output=tmp_path / "out", kind="folder")
    run_step(plan, work, RunOptions())
    assert verify_path(tmp_path / "out").as_result()["ok"]
    (tmp_path / "out" / "more").write_text("")
    with pytest.raises(HeadwaterError, match="more: not named"):
        verify_path(tmp_path / "out").as_result()
