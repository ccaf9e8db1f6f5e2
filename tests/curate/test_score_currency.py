"""Scores beside a pool are those of the pool as it is: damaged ones are made again, older ones told, and words are true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate import commands_score
from curate._report_similar import Stored, clusters
from curate.commands_score import scorer_command
from curate.pool import Pool
from curate.query import query
from curate.sidecars import stored_scores
from headwater import console
from headwater.errors import HeadwaterError
from tests.conftest import Cli
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts, write_npz
from tests.curate.test_scoring import score

VALUES = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return feature_pool(tmp_path / "pool", {"l14_img": VALUES})


@pytest.fixture
def heard() -> Any:
    texts: list[str] = []

    class Heard:
        def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
            if level == "warning":
                texts.append(text)

        def progress(self, task: console.Track) -> None:
            pass

    console.listen(Heard())
    yield texts
    console.listen(console.Silent())


def ask(pool: Path, sql: str) -> list[Any]:
    with query(Pool.open(pool), sql) as answer:
        return [row["x"] for row in answer.table().to_pylist()]


def test_a_damaged_sidecar_of_a_whole_pool_is_made_again(pool: Path, heard: list[str]) -> None:
    before, facts = scored_with_facts(pool, "kmeans", k=3)
    file = sorted(Path(facts["folder"]).glob("*.parquet"))[1]
    file.write_bytes(file.read_bytes()[:100])
    assert scored(pool, "kmeans", k=3).equals(before)
    assert any("made again" in text and file.name in text for text in heard)
    heard.clear()
    scored(pool, "kmeans", k=3)
    assert heard == []


def test_scores_of_older_features_are_not_what_a_query_sees(pool: Path, heard: list[str]) -> None:
    old = scored(pool, "kmeans", k=3)["cluster_similarity"].to_pylist()
    write_npz(pool / "00000000.npz", {"l14_img": VALUES[:20] * 3})
    new = scored(pool, "kmeans", k=3)["cluster_similarity"].to_pylist()
    assert old != new
    assert ask(pool, "SELECT cluster_similarity AS x FROM pool ORDER BY uid") == new
    assert any("other features l14_img" in text for text in heard)


def test_a_query_tells_which_of_several_sets_it_takes(pool: Path, heard: list[str]) -> None:
    for k in (2, 5):
        scored(pool, "kmeans", k=k)
    heard.clear()
    ask(pool, "SELECT text AS x FROM pool")
    assert heard == []
    assert len(set(ask(pool, "SELECT cluster AS x FROM pool"))) in (2, 5)
    assert len(heard) == 1 and "column cluster is that of kmeans-v1-" in heard[0] and '.cluster"' in heard[0]


def test_scores_that_cannot_be_kept_are_an_error(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "scores").write_text("a file where the folder should be")
    with pytest.raises((HeadwaterError, OSError)):
        score(pool, tmp_path / "cache", "caption")


def test_words_about_what_was_scored_are_true(cli: Cli, tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "p", {"l14_img": np.concatenate([VALUES, np.zeros((2, 8), np.float32)])})
    assert cli("score", "kmeans", pool, "--k", "3").stdout.startswith("kmeans: scored 40 of 42 rows into ")
    again = cli("score", "kmeans", pool, "--k", "3")
    assert again.returncode == 3 and again.stdout.startswith("kmeans: nothing to do, ")


def test_help_is_wrapped_but_for_examples() -> None:
    text = commands_score._prose("One.\n\nA sentence\nof two lines:\n\n    x = 1\n\n* a\n  b\n* c\n")
    assert text.split("\n\n") == ["One.", "A sentence\nof two lines:", "\b\n    x = 1", "* a b", "* c"]
    options = [parameter.name for parameter in scorer_command("kmeans").params]
    assert options.index("k") < options.index("cache") < options.index("force")


def test_a_report_shows_clusters_of_which_no_row_is_kept() -> None:
    class Seen:
        """What `clusters` asks of a pool: three clusters, the last without a kept row."""

        labels = np.array([0, 0, 1, 2, 2], np.int32)

        def has(self, name: str) -> bool:
            return name == "cluster"

        def shards(self, names: Any) -> Any:
            yield 0, [pa.array(self.labels)]

        def kept(self, number: int) -> Any:
            return self.labels < 2

        def is_kept(self, place: tuple[int, int]) -> bool:
            return bool(self.labels[place[1]] < 2)

        def picks(self, places: Any) -> Any:
            return dict.fromkeys(places)

    found: Any = clusters(Seen(), 0)  # type: ignore[arg-type]
    assert {c.number: (c.rows, c.kept) for c in found} == {0: (2, 2), 1: (1, 1), 2: (2, 0)}


def test_a_report_shows_the_clusters_that_the_rule_used(pool: Path) -> None:
    for k in (2, 5):
        scored(pool, "kmeans", k=k)
    opened = Pool.open(pool)
    digest = opened.digests(opened.shards[0]).sha256
    for ref in stored_scores(opened.cache, opened.shards[0].name, digest):
        assert Stored(opened, (), [ref])._makers["cluster"] == ref


def test_soft_cap_draws_by_scores_beside_the_pool(cli: Cli, pool: Path, tmp_path: Path) -> None:
    subset, drawn = tmp_path / "all.npy", tmp_path / "drawn.npy"
    assert cli("filter-pool", pool, "-o", subset, "--name", "no_filter").returncode == 0
    words = ("subset", "soft-cap", subset, pool, "--count", "200", "--penalty", "0", "--scale", "1000")
    missing = cli(*words, "--column", "cluster_similarity", "-o", drawn)
    assert missing.returncode == 2 and "no column 'cluster_similarity'" in missing.stderr
    table = scored(pool, "kmeans", k=3)
    assert cli(*words, "--column", "cluster_similarity", "--batch", "1", "-o", drawn).returncode == 0
    best = max(zip(table["cluster_similarity"].to_pylist(), table["uid"].to_pylist(), strict=True))[1]
    found = np.load(drawn)
    assert len(found) == 200 and {f"{a:016x}{b:016x}" for a, b in found.tolist()} == {best}
    scored(pool, "kmeans", k=4)
    several = cli(*words, "--column", "cluster_similarity", "-o", tmp_path / "other.npy")
    assert several.returncode == 2 and "several sets of scores" in several.stderr
