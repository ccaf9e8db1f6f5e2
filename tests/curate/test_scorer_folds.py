"""Cross-fitting: a row that was trained on is scored by what has not seen it, and all rows lie in one space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate._pairs import plain_caption
from curate._tower_folds import Ensemble, Trained, caption_hash, read_trained, write_trained
from curate._tower_split import NEAR
from curate.pool import Pool
from curate.subset import from_hex, to_hex
from headwater.errors import IntegrityError, MissingInput, UsageError
from headwater.steps import RunOptions
from tests.curate import tower_kit as kit
from tests.curate.feature_kit import scored, uid_of

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from curate import scorer_training as training  # noqa: E402
from curate._tower_fit import Projections, fit, one_thread  # noqa: E402
from curate._tower_folds import aligned, read_ensemble  # noqa: E402

HASHES = (0, 31, 2**40 - 1, 2**63 + 1, 2**64 - 1)
EPOCHS = 150
CAPTIONS = ("a dog", "A  Dog", "a cat", "the sea", None)


def trained_of(rows: list[tuple[str, int, int]], models: int) -> Trained:
    """(caption, picture hash, fold) of uids 0, 1, …"""
    return Trained(
        from_hex([uid_of(n) for n in range(len(rows))]),
        np.array([fold for *_, fold in rows], np.int64),
        np.array([caption_hash(caption) for caption, *_ in rows], np.uint64),
        np.array([hashed for _, hashed, _ in rows], np.uint64),
        models,
    )


@given(
    st.dictionaries(st.sampled_from(["a dog", "a cat", "a cow"]), st.integers(0, 2)),
    st.dictionaries(st.sampled_from(HASHES[1:]), st.integers(0, 2)),
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(CAPTIONS), st.sampled_from([None, *HASHES, 30, 16])),
        max_size=8,
    ),
)
def test_which_models_count(
    captions: dict[str, int], hashes: dict[int, int], rows: list[tuple[int, str | None, int | None]]
) -> None:
    # one trained pair for each caption (with a picture like no other) and each picture
    lonely = [sum(1 << (bit * 7 + n) % 64 for bit in range(9)) << 13 & (1 << 64) - 1 for n in range(3)]
    pairs = [(text, lonely[n], fold) for n, (text, fold) in enumerate(captions.items())]
    pairs += [(f"title {hashed}", hashed, fold) for hashed, fold in hashes.items()]
    use = trained_of(pairs, 3).use(
        [uid_of(n) for n, *_ in rows], [t for _, t, _ in rows], [h for *_, h in rows]
    )
    for found, (number, caption, hashed) in zip(use.tolist(), rows, strict=True):
        seen = set()
        for other, (text, known, fold) in enumerate(pairs):
            same_caption = caption is not None and plain_caption(caption) == plain_caption(text)
            same_picture = hashed is not None and (hashed ^ known).bit_count() <= NEAR
            if other == number or same_caption or same_picture:
                seen.add(fold)
        assert found == [fold in seen or not seen for fold in range(3)]


def noise(rows: int) -> tuple[Any, Any]:
    """Pictures and captions that have nothing in common."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 40)).astype(np.float16), rng.normal(size=(rows, 30)).astype(np.float16)


def test_pairs_that_only_learning_by_heart_can_tell_score_nothing_out_of_fold(tmp_path: Path) -> None:
    image, text = noise(90)
    fold = np.arange(90) % 3
    job = training.Job(tmp_path, tmp_path, tmp_path, folds=3, epochs=40)
    with one_thread():
        ensemble, _ = training._fit_folds(image, text, np.arange(90), fold, job)
    scores = training._scores(ensemble, image, text, fold, np.zeros(2))
    assert scores.mean_score_seen > 0.5  # they were learnt by heart
    assert scores.mean_score_out_of_fold is not None and abs(scores.mean_score_out_of_fold) < 0.15
    # a model that saw all of them knows them too, and tells the difference
    whole, _ = training._fit_folds(image, text, np.arange(90), fold, replace(job, folds=1))
    assert training._scores(whole, image, text, np.zeros(90, np.int64), np.zeros(2)).mean_score_seen > 0.5


def cosines(model: Any, image: Any, text: Any) -> Any:
    return np.einsum("ij,ij->i", model.pictures(image), model.texts(text))


def test_turning_into_one_space_changes_no_score_of_a_model() -> None:
    rng = np.random.default_rng(1)
    image, text = noise(80)
    models = [fit(image, text, np.arange(80), epochs=3, seed=seed)[0] for seed in (3, 4)]  # far apart
    together = aligned(models, image, text)
    for before, after in zip(models, together.models, strict=True):
        np.testing.assert_allclose(cosines(before, image, text), cosines(after, image, text), atol=1e-5)
    apart = np.einsum("ij,ij->i", models[0].texts(text), models[1].texts(text)).mean()
    near = np.einsum("ij,ij->i", together.models[0].texts(text), together.models[1].texts(text)).mean()
    assert near > apart + 0.3
    # of one model and its turned copy the turn is undone
    turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(256, 256)))).Q.float()
    copy = dict(models[0].tensors)
    for name in ("image.2.weight", "image.2.bias", "text.weight", "text.bias"):
        copy[name] = turn @ copy[name]
    undone = aligned([models[0], Projections(copy)], image, text)
    np.testing.assert_allclose(undone.models[1].texts(text), models[0].texts(text), atol=1e-4)
    np.testing.assert_allclose(undone.models[1].pictures(image), models[0].pictures(image), atol=1e-4)


def test_several_models_count_by_the_sum_of_their_rows() -> None:
    image, text = noise(40)
    models = tuple(fit(image, text, np.arange(40), epochs=1, seed=seed)[0] for seed in range(3))
    ensemble = Ensemble(models)
    use = np.random.default_rng(2).integers(0, 2, (40, 3)).astype(bool)
    use[:3] = np.eye(3)
    use[~use.any(axis=1)] = True
    found = ensemble.texts(text, use)
    for row in range(40):
        total = sum(models[m].texts(text[row : row + 1])[0] for m in range(3) if use[row, m])
        np.testing.assert_allclose(found[row], total / np.linalg.norm(total), atol=1e-5)
    np.testing.assert_allclose(ensemble.pictures(image), ensemble.pictures(image, np.ones((40, 3), bool)))
    back = read_ensemble(ensemble.tensors, 3, 40, 30)
    np.testing.assert_array_equal(back.pictures(image), ensemble.pictures(image))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Pool, tars, and a scorer with three folds; captions say nothing, so that it can only learn them by heart."""
    folder = tmp_path_factory.mktemp("world")
    _, tars, trusted = kit.small_world(folder)
    pool = kit.write_pool(folder / "noise", [uid_of(n) for n in range(48)], [nonsense(n) for n in range(48)])
    model = kit.clip_folder(folder / "model")
    job = training.Job(
        tars, trusted, folder / "scorer", f"local-dir:{model}", held_out=12, epochs=EPOCHS, folds=3
    )
    train(pool, job)
    return pool, tars, job.output


def nonsense(number: int) -> str:
    """Letters that say nothing of the picture."""
    letters = np.random.default_rng(1000 + number).integers(97, 123, (3, 5), np.uint8)
    return " ".join(bytes(word).decode() for word in letters)


def train(pool: Path, job: training.Job) -> Any:
    opened = Pool.open(pool)
    plan, facts = training.plan_training(opened, job)
    return training.train_scorer(opened, job, plan, facts, options=RunOptions())


def test_a_trained_uid_is_scored_by_a_model_that_did_not_see_it(world: tuple[Path, Path, Path]) -> None:
    pool, tars, folder = world
    table = scored(pool, "two_tower", shards=tars, scorer=folder)
    score = dict(zip(table["uid"].to_pylist(), table["two_tower_similarity"].to_pylist(), strict=True))
    loaded = training.load_scorer(folder)
    own = np.array([score[uid] for uid in to_hex(loaded.trained.uids)])
    facts = loaded.card.scores
    assert facts.mean_score_out_of_fold is not None
    assert own.mean() == pytest.approx(facts.mean_score_out_of_fold, abs=3e-3)
    assert facts.mean_score_seen > facts.mean_score_out_of_fold + 0.3  # by heart it would be this
    # the model that scores a fold is the one of the other folds' pairs: fitted here once more, from nothing else
    towers = training.open_towers(loaded.towers)
    opened = Pool.open(pool)
    kept = training._pairs.read_pairs(
        opened,
        loaded.trained.uids,
        training.open_shards(tars, training.Layout()),
        training.DigestCache(tars, tars / ".headwater"),
        training.describe_towers(loaded.towers),
        towers,
    )
    text = towers.texts(kept.captions)
    for fold in range(3):
        rest, its = loaded.trained.fold != fold, loaded.trained.fold == fold
        again, _ = fit(kept.image[rest], text[rest], np.arange(int(rest.sum())), epochs=EPOCHS, seed=0)
        np.testing.assert_allclose(own[its], cosines(again, kept.image[its], text[its]), atol=3e-3)


def test_an_untrusted_row_with_a_trained_caption_is_not_scored_by_heart(
    world: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    *_, folder = world
    loaded = training.load_scorer(folder)
    numbers = [n for n in range(48) if uid_of(n) in set(to_hex(loaded.trained.uids))]
    uids = [uid_of(1000 + n) for n in numbers]  # of rows that the scorer has never heard of
    pool = kit.write_pool(tmp_path / "pool", uids, [nonsense(n).upper() for n in numbers])
    pictures = [kit.picture(n) for n in numbers]
    tars = kit.write_tars(tmp_path / "tars", list(zip(uids, pictures, strict=True)), tars=1)
    found = np.array(scored(pool, "two_tower", shards=tars, scorer=folder)["two_tower_similarity"])
    assert found.mean() < loaded.card.scores.mean_score_seen - 0.3


def test_one_fold_is_one_model_that_scores_everything(tmp_path: Path) -> None:
    pool, tars, trusted = kit.small_world(tmp_path)
    model = kit.clip_folder(tmp_path / "model")
    job = training.Job(
        tars, trusted, tmp_path / "scorer", f"local-dir:{model}", held_out=12, epochs=2, folds=1
    )
    train(pool, job)
    loaded = training.load_scorer(job.output)
    assert len(loaded.projections.models) == 1 and loaded.card.scores.mean_score_out_of_fold is None
    assert "Do not rank the one among the other" in (job.output / "README.md").read_text()
    assert scored(pool, "two_tower", shards=tars, scorer=job.output)["two_tower_similarity"].null_count == 0


def test_trained_pairs_come_back_and_other_files_are_refused(tmp_path: Path) -> None:
    trained = trained_of([("a dog", 7, 0), ("a cat", 2**64 - 1, 2)], 3)
    path = tmp_path / "trained.parquet"
    write_trained(path, trained)
    back = read_trained(path, 3)
    for name in ("uids", "fold", "captions", "pictures"):
        np.testing.assert_array_equal(getattr(back, name), getattr(trained, name))
    with pytest.raises(IntegrityError, match="fold 2 of a scorer of 2 folds"):
        read_trained(path, 2)
    table = pq.read_table(path)
    damages = {
        "should have": table.drop_columns(["picture"]),
        "without nulls": table.set_column(1, "fold", pa.array([0, None], pa.int32())),
        "hex digits": table.set_column(0, "uid", pa.array(["x", "y"], pa.string())),
    }
    for said, damaged in damages.items():
        pq.write_table(damaged, path)
        with pytest.raises(IntegrityError, match=said):
            read_trained(path, 3)
    path.write_bytes(b"PAR1")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_trained(path, 3)


def test_a_scorer_whose_parts_do_not_fit_is_refused(world: tuple[Path, Path, Path]) -> None:
    loaded = training.load_scorer(world[2])
    tensors, (wide, text) = loaded.projections.tensors, (24, 24)
    with pytest.raises(IntegrityError, match=r"fold2\.\S+ is not there in a scorer of 2 folds"):
        read_ensemble(tensors, 2, wide, text)
    with pytest.raises(IntegrityError, match=r"fold3\.image\.0\.bias is missing"):
        read_ensemble(tensors, 4, wide, text)


def test_folds_that_cannot_be(tmp_path: Path) -> None:
    pool, tars, trusted = kit.small_world(tmp_path)
    model = kit.clip_folder(tmp_path / "model")
    job = training.Job(tars, trusted, tmp_path / "s", f"local-dir:{model}", held_out=12)
    for count in (0, 21):
        with pytest.raises(UsageError, match=f"--folds {count}: from 1 to 20"):
            train(pool, replace(job, folds=count))
    with pytest.raises(
        UsageError, match=r"left to train on 36, 18 without|left to train on 2\d, 1\d without"
    ):
        train(pool, replace(job, held_out=20, folds=2))
    # all captions alike: one group
    uids = [uid_of(n) for n in range(48)]
    alike = kit.write_pool(tmp_path / "alike", uids, ["one"] * 10 + ["two"] * 10 + ["three"] * 28)
    with pytest.raises(UsageError, match="groups of like ones|left to train on"):
        train(alike, replace(job, held_out=2))


def test_a_scorer_without_its_trained_pairs_is_none(world: tuple[Path, Path, Path], tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(world[2], tmp_path / "copy"))
    write_trained(copy / training.TRAINED, trained_of([("a dog", 7, 0)], 3))
    with pytest.raises(IntegrityError, match=r"trained\.parquet: is not the file"):
        training.load_scorer(copy)
    (copy / training.TRAINED).unlink()
    with pytest.raises(MissingInput, match=r"it has no trained\.parquet"):
        training.load_scorer(copy)
