"""The trained scorer over a pool: rows and scores are those of towers and projections, and rules may use the column."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.features import open_features
from curate.pool import Pool
from curate.scores import two_tower
from curate.subset import to_hex
from headwater.errors import UsageError
from headwater.steps import RunOptions
from tests.curate import tower_kit as kit
from tests.curate.feature_kit import scored, uid_of

pytest.importorskip("torch")
pytest.importorskip("open_clip")

from curate import scorer_training as training
from curate.towers import open_towers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Pool, tars, and a scorer trained on them."""
    folder = tmp_path_factory.mktemp("world")
    pool, tars, trusted = kit.small_world(folder)
    model = kit.clip_folder(folder / "model")
    job = training.Job(tars, trusted, folder / "scorer", f"local-dir:{model}", held_out=12, epochs=3)
    opened = Pool.open(pool)
    plan, facts = training.plan_training(opened, job)
    training.train_scorer(opened, job, plan, facts, options=RunOptions())
    return pool, tars, job.output


def test_scores_are_cosines_of_projected_rows(world: tuple[Path, Path, Path]) -> None:
    pool, tars, folder = world
    found = np.array(scored(pool, "two_tower", shards=tars, scorer=folder, batch=7)["two_tower_similarity"])
    scorer = training.load_scorer(folder)
    towers = open_towers(scorer.towers)
    fold = dict(zip(to_hex(scorer.trained.uids), scorer.trained.fold.tolist(), strict=True))
    assert 0 < len(fold) < 48
    expected, images, texts = [], [], []
    for number in range(48):
        with Image.open(io.BytesIO(kit.picture(number))) as image:
            picture = towers.pictures([towers.prepare(image.convert("RGB"))])
        # a trained pair by the projections without its fold, any other one by all
        use = np.array([[uid_of(number) not in fold or fold[uid_of(number)] == f for f in range(5)]])
        u = scorer.projections.pictures(picture, use)[0]
        v = scorer.projections.texts(towers.texts([kit.caption(number)]), use)[0]
        images.append(u)
        texts.append(v)
        expected.append(float(u @ v))
    np.testing.assert_allclose(found, expected, atol=3e-3)
    for name, rows in (("two_tower_img", images), ("two_tower_txt", texts)):
        np.testing.assert_allclose(
            open_features(Pool.open(pool), name).block(0, 0, 48).values, rows, atol=3e-3
        )


def test_the_held_out_similarities_come_back(world: tuple[Path, Path, Path]) -> None:
    import pyarrow.parquet as pq

    pool, tars, folder = world
    table = scored(pool, "two_tower", shards=tars, scorer=folder)
    score = dict(zip(table["uid"].to_pylist(), table["two_tower_similarity"].to_pylist(), strict=True))
    held = pq.read_table(folder / "held_out.parquet")
    again = [score[uid] for uid in held["uid"].to_pylist()]
    np.testing.assert_allclose(again, held["similarity"].to_pylist(), atol=3e-3)


def test_rows_that_lack_a_side_have_no_score(world: tuple[Path, Path, Path], tmp_path: Path) -> None:
    *_, folder = world
    uids = [uid_of(n) for n in range(4)]
    pool = kit.write_pool(tmp_path / "pool", uids, ["a dog", None, "a cat", "a cow"])
    pictures = [kit.picture(0), kit.picture(1), b"<html>"]
    tars = kit.write_tars(tmp_path / "tars", list(zip(uids, pictures, strict=False)), tars=1)
    score = scored(pool, "two_tower", shards=tars, scorer=folder)["two_tower_similarity"].to_pylist()
    assert [value is None for value in score] == [False, True, True, True]
    empty = kit.write_pool(tmp_path / "empty", [], [])
    assert scored(empty, "two_tower", shards=tars, scorer=folder).num_rows == 0


def test_a_rule_keeps_the_best_share(world: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from tests.faults.kit import run, words

    pool, tars, folder = world
    rule = tmp_path / "rule.yaml"
    rule.write_text(
        "format: rule/1\nname: best\n"
        f"scores: [{{scorer: two_tower, config: {{shards: {tars}, scorer: {folder}}}}}]\n"
        "keep:\n  - top: {column: two_tower_similarity, fraction: 0.3}\n"
    )
    done = run("filter-pool", pool, "-o", tmp_path / "best.npy", "--rule", rule)
    assert done.code == 0, done.said
    score = np.array(scored(pool, "two_tower", shards=tars, scorer=folder)["two_tower_similarity"])
    cut = np.sort(score)[::-1][int(48 * 0.3)]
    assert [uid_of(n) for n in np.flatnonzero(score >= cut)] == words(tmp_path / "best.npy")


def test_settings_that_lack(world: tuple[Path, Path, Path]) -> None:
    with pytest.raises(UsageError, match="--scorer FOLDER"):
        two_tower.Scorer(two_tower.Config())
    with pytest.raises(UsageError, match="--batch 257"):
        two_tower.Scorer(two_tower.Config(scorer=world[2], batch=257))
