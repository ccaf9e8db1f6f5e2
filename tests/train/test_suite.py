"""A suite's id covers what decides its figures and nothing else; what is wrong with its file or shards is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.train.eval_kit import COLOURS, caption_set, colour_set, picture, task, write_suite, write_tar
from train.suite import digest_suite, load_suite, shard_paths, suite_id


@pytest.fixture
def root(tmp_path: Path) -> Path:
    colour_set(tmp_path / "colours", train=6)
    caption_set(tmp_path / "captions")
    return write_suite(tmp_path, TASKS)


TASKS = [
    task("colours", groups=["both"]),
    task("captions", family="retrieval", main_metric="mean_recall@1", groups=["both"]),
    task("absent"),
]


def rewrite(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = yaml.safe_load((root / "suite.yaml").read_text())
    change(document)
    (root / "suite.yaml").write_text(yaml.safe_dump(document))


def test_a_suite_is_found_as_folder_file_and_under_another_root(root: Path, tmp_path: Path) -> None:
    suite = load_suite(root)
    assert [suite.missing(one) for one in suite.tasks] == [False, False, True]
    assert suite_id(load_suite(root / "suite.yaml")) == suite_id(suite)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    document = {**yaml.safe_load((root / "suite.yaml").read_text()), "root": ".."}
    (elsewhere / "mine.yaml").write_text(yaml.safe_dump(document))
    assert suite_id(load_suite(elsewhere / "mine.yaml")) == suite_id(suite)
    assert suite_id(load_suite(elsewhere / "mine.yaml", root=root)) == suite_id(suite)


def test_digests_of_missing_sets_are_none_and_the_cache_changes_nothing(root: Path, tmp_path: Path) -> None:
    found = digest_suite(load_suite(root))
    assert found.tasks["absent"] is None and None not in (found.tasks["colours"], found.tasks["captions"])
    assert digest_suite(load_suite(root), cache=tmp_path / "cache", distrust_cache=True) == found


def change_template(root: Path) -> None:
    (root / "colours/zeroshot_classification_templates.txt").write_text("a drawing of {c}\n")


def change_classname(root: Path) -> None:
    path = root / "colours/classnames.txt"
    path.write_text(path.read_text().replace("red", "Red"))


def change_picture(root: Path) -> None:
    write_tar(root / "colours/test/0.tar", [("x", {"png": picture(COLOURS["red"], 1), "cls": b"0"})])


@pytest.mark.parametrize(
    "change",
    [
        change_template,
        change_classname,
        change_picture,
        lambda root: rewrite(root, lambda d: d["tasks"][0].update(main_metric="acc5")),
        lambda root: rewrite(root, lambda d: d["tasks"][0].update(size=12)),
        lambda root: rewrite(root, lambda d: d["tasks"][0].update(options={"x": 1})),
        lambda root: rewrite(root, lambda d: d["tasks"][0].update(family="probe")),
        lambda root: rewrite(root, lambda d: d["tasks"][0].update(key="colors")),
    ],
)
def test_what_decides_figures_changes_the_digest(root: Path, change: Callable[[Path], None]) -> None:
    before = digest_suite(load_suite(root))
    change(root)
    after = digest_suite(load_suite(root))
    assert after.suite_id != before.suite_id
    assert after.tasks[load_suite(root).tasks[0].key] != before.tasks["colours"]
    assert after.tasks["captions"] == before.tasks["captions"]


def test_labels_are_not_in_a_task_digest(root: Path) -> None:
    before = digest_suite(load_suite(root))
    rewrite(
        root, lambda d: (d["tasks"][0].update(name="Other"), d.update(name="other"), d["tasks"].reverse())
    )
    assert digest_suite(load_suite(root)) == before
    rewrite(root, lambda d: d["tasks"][0].update(groups=["one"]))
    after = digest_suite(load_suite(root))
    assert (
        after.tasks == before.tasks and after.suite_id != before.suite_id
    )  # another list for the aggregates


def test_only_splits_that_the_family_reads_count(root: Path) -> None:
    before = digest_suite(load_suite(root)).tasks["colours"]
    shutil.rmtree(root / "colours/train")
    assert digest_suite(load_suite(root)).tasks["colours"] == before  # zero-shot learns nothing
    rewrite(root, lambda d: d["tasks"][0].update(family="probe"))
    with pytest.raises(IntegrityError, match="train/nshards.txt"):
        digest_suite(load_suite(root))


def test_select_keeps_the_order_and_offers_names(root: Path) -> None:
    suite = load_suite(root)
    assert [one.key for one in suite.select(["captions", "colours"]).tasks] == ["colours", "captions"]
    assert suite.select(None) is suite
    with pytest.raises(UsageError, match="did you mean 'colours'"):
        suite.select(["colors"])
    with pytest.raises(UsageError, match="no task is left"):
        suite.select([])


def test_groups_say_which_tasks_an_aggregate_is_over(root: Path) -> None:
    assert load_suite(root).groups() == {
        "both": ["colours", "captions"],
        "average": ["colours", "captions", "absent"],
    }
    rewrite(root, lambda d: d["tasks"][0].update(groups=["average"]))
    assert load_suite(root).groups()["average"] == ["colours"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d["tasks"].append(task("colours")), "two tasks with the key 'colours'"),
        (
            lambda d: d["tasks"].extend([task("a/b", folder="a"), task("A__b", folder="a")]),
            "file name 'a__b'",
        ),
        (lambda d: d["tasks"][0].update(folder="../elsewhere"), "does not stay inside"),
        (lambda d: d["tasks"][0].update(folder="/elsewhere"), "does not stay inside"),
        (lambda d: d["tasks"][0].update(key="../up"), "tasks.0.key"),
        (lambda d: d["tasks"][0].update(sise=3), "tasks.0.sise"),
        (lambda d: d.update(tasks=[]), "tasks"),
        (lambda d: d.update(format="suite/2"), "format"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(root: Path, change: Callable[[Any], object], told: str) -> None:
    rewrite(root, change)
    with pytest.raises(UsageError, match=told):
        load_suite(root)


def test_files_that_are_no_suite(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    with pytest.raises(MissingInput, match=r"no suite\.yaml"):
        load_suite(tmp_path)
    with pytest.raises(MissingInput, match="no such suite"):
        load_suite("folder/none")
    with pytest.raises(UsageError, match="unknown suite 'none'"):
        load_suite("none")
    path.write_text("tasks: [")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_suite(tmp_path)
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_suite(tmp_path)
    path.write_text("[1]")
    with pytest.raises(UsageError, match="must be a mapping"):
        load_suite(tmp_path)
    write_suite(tmp_path, [task("a")])
    with pytest.raises(MissingInput, match="looks for its sets there"):
        load_suite(tmp_path, root=tmp_path / "gone")


def test_an_unknown_family_is_told_with_the_nearest(root: Path) -> None:
    rewrite(root, lambda d: d["tasks"][0].update(family="zero-shot"))
    with pytest.raises(UsageError, match="zeroshot"):
        suite_id(load_suite(root))


def test_shards_are_checked_against_their_number(root: Path) -> None:
    folder = root / "colours"
    assert [path.name for path in shard_paths(folder, "test")] == ["0.tar", "1.tar"]
    (folder / "test/nshards.txt").write_text("4")
    with pytest.raises(IntegrityError, match=r"2 of 4 shards are missing: 2\.tar, 3\.tar"):
        shard_paths(folder, "test")
    (folder / "test/nshards.txt").write_text("1")
    with pytest.raises(IntegrityError, match=r"says 1, but 1\.tar is there too"):
        shard_paths(folder, "test")
    for text in ("", "two", "-1", "0", "9" * 40, "1e3"):
        (folder / "test/nshards.txt").write_text(text)
        with pytest.raises(IntegrityError, match="no number of shards"):
            shard_paths(folder, "test")
    (folder / "test/nshards.txt").unlink()
    with pytest.raises(IntegrityError, match="whether shards are missing"):
        shard_paths(folder, "test")
