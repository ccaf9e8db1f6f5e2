"""The suite that ships with the repository: whole, free, small, and clear of the shipped training pool."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.examples_kit import ROOT, SUITES, modules

SMALL = SUITES / "small"
POOL = ROOT / "examples" / "openclipart" / "pool"
FREE = {
    "http://web.resource.org/cc/PublicDomain",
    "http://creativecommons.org/licenses/publicdomain/",
    "Apache-2.0",
    "MIT",
}


@pytest.fixture(scope="module")
def kit() -> Iterator[SimpleNamespace]:
    with modules() as found:
        yield found


def splits() -> list[Path]:
    return sorted(path.parent for path in SMALL.rglob("nshards.txt"))


@pytest.fixture(scope="module")
def suite(kit: SimpleNamespace) -> dict[str, list[dict[str, Any]]]:
    """The samples of every split of the shipped suite, by "FOLDER/SPLIT"."""
    return {
        split.relative_to(SMALL).as_posix(): [
            s for path in sorted(split.glob("*.tar")) for s in kit.near.samples(path)
        ]
        for split in splits()
    }


def test_the_suite_is_small_enough_for_git() -> None:
    files = sorted(p for p in SMALL.rglob("*") if p.is_file() and ".headwater" not in p.parts)
    packed = sum(len(gzip.compress(p.read_bytes())) for p in files)
    assert packed <= 3_000_000


def test_our_own_evaluation_accepts_every_task() -> None:
    from train.evals import family_of
    from train.suite import load_suite

    suite = load_suite(SMALL)
    assert {t.family for t in suite.tasks} >= {"zeroshot", "retrieval", "probe", "groups", "robustness"}
    for task in suite.tasks:
        family_of(task.family).check(task, suite.folder(task))


def test_every_split_is_whole(suite: dict[str, list[dict[str, Any]]]) -> None:
    for split in splits():
        tars = sorted(p.name for p in split.glob("*.tar"))
        assert tars == [f"{i}.tar" for i in range(int((split / "nshards.txt").read_text()))]
    for name, samples in suite.items():
        keys = [s["key"] for s in samples]
        assert len(set(keys)) == len(keys), name
    listed = yaml.safe_load((SMALL / "suite.yaml").read_text())["tasks"]
    assert {t["folder"] for t in listed} == {p.name for p in SMALL.iterdir() if p.is_dir()} - {
        ".headwater",
        "LICENSES",
    }
    for task in listed:
        if task["family"] != "winogavil":
            assert task["size"] == len(suite[f"{task['folder']}/test"]), task["key"]


def test_labels_and_class_names_agree(suite: dict[str, list[dict[str, Any]]]) -> None:
    for path in SMALL.glob("*/classnames.txt"):
        names = path.read_text().splitlines()
        assert len(set(names)) == len(names) > 1
        templates = (path.parent / "zeroshot_classification_templates.txt").read_text().splitlines()
        assert all("{c}" in t for t in templates)
        for split in ("test", "train"):
            found = Counter(int(s["cls"]) for s in suite.get(f"{path.parent.name}/{split}", []))
            if found:
                assert sorted(found) == list(range(len(names))), path
                assert max(found.values()) <= 4 * min(found.values()), path


def test_captions_are_unique_and_say_something(suite: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("clipart-titles/test", "emoji-names-noto/test"):
        captions = [s["txt"].decode() for s in suite[name]]
        assert len({c.casefold() for c in captions}) == len(captions)
        assert all(c == " ".join(c.split()) and "\n" not in c and len(c) >= 2 for c in captions)
    titles = [s["txt"].decode() for s in suite["clipart-titles/test"]]
    assert min(len(t.split()) for t in titles) >= 2


def test_pictures_decode_and_are_free(suite: dict[str, list[dict[str, Any]]]) -> None:
    for name, samples in suite.items():
        for s in samples:
            with Image.open(io.BytesIO(s["webp"])) as image:
                image.load()
                assert (image.format, image.mode) == ("WEBP", "RGB"), name
                assert max(image.size) <= 64
            told = json.loads(s["json"])
            assert told["license"] in FREE
            assert told["source"].startswith(("debian:openclipart-png/", "npm:"))


def test_nothing_is_in_the_shipped_pool_or_near_it(
    kit: SimpleNamespace, suite: dict[str, list[dict[str, Any]]]
) -> None:
    pool = kit.near.Seen(kit.near.held(POOL))
    digests = {r for p in POOL.glob("*.parquet") for r in pq.read_table(p)["sha256"].to_pylist()}
    assert pool.digests == digests
    told = [(name, json.loads(s["json"])) for name, samples in suite.items() for s in samples]
    assert {t["sha256"] for _, t in told} & digests == set()
    near = [(n, t["source"]) for n, t in told if pool.distance(int(t["difference_hash"], 16)) <= 4]
    assert near == []


def test_what_the_probe_learns_from_is_not_what_it_is_tested_on(
    kit: SimpleNamespace, suite: dict[str, list[dict[str, Any]]]
) -> None:
    test, train = (
        [json.loads(s["json"]) for s in suite[f"clipart-folders/{split}"]] for split in ("test", "train")
    )
    seen = kit.near.Seen((t["sha256"], int(t["difference_hash"], 16)) for t in test)
    assert [t["source"] for t in train if seen.reason(t["sha256"], int(t["difference_hash"], 16))] == []


def test_the_documents_quote_what_was_counted(suite: dict[str, list[dict[str, Any]]]) -> None:
    told = json.loads((SMALL / "provenance.json").read_bytes())
    for folder, sizes in told["folders"].items():
        assert sizes["test"] == len(suite[f"{folder}/test"])
    counts = told["openclipart_files_eligible"]
    text = (SUITES / "PROVENANCE.md").read_text()
    assert counts.values() and sum(counts.values()) == 8_020
    for n in counts.values():
        assert f"{n:,}" in text
    for package in told["packages"].values():
        assert package["sha256"] in text
