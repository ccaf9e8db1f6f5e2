"""Whether there is room is asked before anything is drawn; and what a generator of somebody else does wrong is told as theirs."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from curate import _making_space, making
from curate._making_space import check_space
from curate.make_request import resolve
from headwater.errors import HeadwaterError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.curate.made_kit import contents, make, request
from tests.faults import kit

FREE = 40_000


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk that says it has little room."""
    told = SimpleNamespace(free=FREE, nodes=None)
    monkeypatch.setattr(_making_space, "room", lambda folder: (told.free, told.nodes))
    monkeypatch.setattr(making, "room", lambda folder: (told.free, told.nodes))
    return told


@pytest.mark.parametrize("sink", ["tar", "folder", "parquet"])
@pytest.mark.parametrize("force", [False, True])
def test_what_does_not_fit_is_not_begun(
    tmp_path: Path, little: SimpleNamespace, sink: str, force: bool
) -> None:
    with pytest.raises(
        HeadwaterError, match=r"500 pictures need about .* \(modelled\), and 40 kB are free"
    ) as told:
        make(tmp_path / "out", request(5, 100), sink=sink, force=force)
    assert told.value.exit_code == 1 and "nothing was drawn" in str(told.value.hint)
    assert list(tmp_path.iterdir()) == []
    little.free = 10**9
    make(tmp_path / "out", request(5, 100), sink=sink)
    little.free = FREE
    make(tmp_path / "out", request(5, 100), sink=sink)  # what is there needs no room


def test_a_recipe_needs_no_room_and_a_small_set_is_not_modelled(
    tmp_path: Path, little: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "recipe", request(5, 100), sink="recipe")
    little.free = 10**7
    monkeypatch.setattr(_making_space, "estimate_generation", lambda *a, **k: pytest.fail("it was modelled"))
    make(tmp_path / "out", request(5, 100), sink="tar")


def test_blocks_that_are_there_are_not_counted(tmp_path: Path, little: SimpleNamespace) -> None:
    little.free = 10**9
    make(tmp_path / "out", request(5, 100, block_size=50), sink="tar")
    little.free = 200_000
    with pytest.raises(HeadwaterError, match="500 pictures need"):
        make(tmp_path / "out", request(5, 200, block_size=50), sink="tar", grow=True)
    make(tmp_path / "out", request(5, 101, block_size=50), sink="tar", grow=True)
    whole = resolve(request(5, 200, block_size=50), "tar")
    there = {name for name, _, _ in list(whole.cut())[1:]}
    check_space(whole, "tar", annotated=False, folder=tmp_path, there=there)
    with pytest.raises(HeadwaterError, match="1,000 pictures need"):
        check_space(whole, "tar", annotated=False, folder=tmp_path)


def test_loose_files_need_names_as_well(tmp_path: Path, little: SimpleNamespace) -> None:
    little.free, little.nodes = 10**9, 99
    with pytest.raises(HeadwaterError, match="100 files are to be written, .* room for 99"):
        make(tmp_path / "out", request(5, 20), sink="folder")
    make(tmp_path / "out", request(5, 20), sink="tar")
    assert contents(tmp_path / "out")


def test_a_dry_run_says_that_there_is_no_room(tmp_path: Path, little: SimpleNamespace) -> None:
    plan = making.plan_make(request(5, 100), tmp_path / "out", sink="tar")
    facts = making.estimate(plan, Executor("serial"))
    assert facts["free_bytes"] == FREE and "there is no room for it: 40 kB are free" in facts["text"]
    little.free = 10**9
    assert "no room" not in making.estimate(plan, Executor("serial"))["text"]


def test_a_set_is_no_stream(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="-o -: a set is a folder"):
        making.plan_make(request(), Path("-"))


def test_a_small_disk_refuses_at_once(small_disk: Path) -> None:
    size = shutil.disk_usage(small_disk).free - 40_000
    (small_disk / "ballast").write_bytes(bytes(size))
    plan = making.plan_make(request(5, 100), small_disk / "out", sink="tar")
    with pytest.raises(HeadwaterError, match="are free"):
        making.run_make(plan, executor=Executor("serial"), options=RunOptions())
    assert kit.temporaries(small_disk) == []


def test_what_a_run_and_a_dry_run_tell(tmp_path: Path) -> None:
    asked = ["make", "visualatom", "--preset", "nano", "--classes", 2, "--instances", 3, "--image-size", 64]
    done = kit.run(*asked, "--min-lit", 0.99, "--attempts", 2, "--sink", "recipe", "-o", tmp_path / "out")
    assert done.code == 0 and "6 × near-empty, kept" in done.out and " kB" in done.out, done
    done = kit.run("make", "scenes", "--preset", "scenes-nano", "--dry-run", "-o", tmp_path / "scenes")
    assert done.code == 0 and "masks and polygons are not counted" in done.out
    done = kit.run(*asked, "--dry-run", "-o", tmp_path / "more")
    assert done.code == 0 and "masks" not in done.out
