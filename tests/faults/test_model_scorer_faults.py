"""Model scorers and their training on bad input: named, counted, the right exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import assets
from curate.scores import clip, two_tower
from headwater.errors import IntegrityError, MissingExtra, MissingInput, UsageError
from headwater.steps import RunOptions
from tests.curate import tower_kit as kit
from tests.curate.feature_kit import scored, uid_of

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from curate import _pairs  # noqa: E402
from curate import scorer_training as training  # noqa: E402
from curate.pool import Pool  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.clip_folder(tmp_path_factory.mktemp("faults") / "model")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("scorer")
    pool, tars, trusted = kit.small_world(folder)
    train(pool, training.Job(tars, trusted, folder / "s", f"local-dir:{model}", held_out=10, epochs=1))
    return folder / "s"


def train(pool: Path, job: training.Job) -> Any:
    opened = Pool.open(pool)
    plan, facts = training.plan_training(opened, job)
    return training.train_scorer(opened, job, plan, facts, options=RunOptions())


class Calls:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_weights_that_hold_code_are_refused_by_what_they_would_call(tmp_path: Path, model: Path) -> None:
    pool, tars, trusted = kit.small_world(tmp_path, pairs=8)
    hostile = Path(shutil.copytree(model, tmp_path / "hostile"))
    (hostile / "open_clip_model.safetensors").unlink()
    torch.save(
        {"state_dict": {"logit_scale": Calls(tmp_path / "called")}}, hostile / "open_clip_pytorch_model.bin"
    )
    with pytest.raises(IntegrityError, match=r"would call posix\.mkdir; nothing was run") as refused:
        scored(pool, "clip", shards=tars, pretrained=hostile)
    assert refused.value.exit_code == 13
    weights = hostile / "open_clip_pytorch_model.bin"
    with pytest.raises(IntegrityError, match=r"posix\.mkdir"):
        scored(pool, "clip", shards=tars, pretrained=weights, model="ViT-B-32")
    with pytest.raises(IntegrityError, match=r"posix\.mkdir"):
        train(pool, training.Job(tars, trusted, tmp_path / "s", f"local-dir:{hostile}", held_out=2))
    assert not (tmp_path / "called").exists() and not (tmp_path / "s").exists()


def test_a_trusted_set_that_is_empty_or_too_small(tmp_path: Path, model: Path) -> None:
    pool, tars, trusted = kit.small_world(tmp_path, pairs=20)
    job = training.Job(tars, kit.subset(tmp_path / "none.npy", []), tmp_path / "s", f"local-dir:{model}")
    with pytest.raises(UsageError, match=r"none\.npy: the trusted set is empty"):
        train(pool, job)
    job = training.Job(tars, trusted, tmp_path / "s", f"local-dir:{model}", held_out=500)
    with pytest.raises(
        UsageError, match="of 20 trusted uids 20 are pairs; held out 20 of 500, left to train on 0"
    ) as few:
        train(pool, job)
    assert "--held-out" in str(few.value.hint)
    with pytest.raises(UsageError, match="--held-out is at least 2"):
        train(pool, training.Job(tars, trusted, tmp_path / "s", f"local-dir:{model}", held_out=1))
    assert not (tmp_path / "s").exists()


def test_trusted_uids_that_are_no_pairs_are_counted_by_reason(tmp_path: Path, model: Path) -> None:
    uids = [uid_of(n) for n in range(44)]
    captions: list[str | None] = [kit.caption(n) for n in range(44)]
    captions[3], captions[4] = None, ""
    pool = kit.write_pool(tmp_path / "pool", uids, captions)
    pictures = [kit.picture(n) for n in range(44)]
    pictures[5], pictures[6] = b"", pictures[6][:50]
    samples = [(uid, data) for uid, data in zip(uids, pictures, strict=True) if uid != uids[7]]
    tars = kit.write_tars(tmp_path / "tars", samples)
    trusted = kit.subset(tmp_path / "t.npy", [*uids, uid_of(99)])
    counts = train(
        pool, training.Job(tars, trusted, tmp_path / "s", f"local-dir:{model}", held_out=5, epochs=1)
    ).step.identity.counts
    assert counts.read == 45
    assert counts.invalid == {
        "not in the pool": 1,
        "no caption": 2,
        "empty": 1,
        "truncated": 1,
        "no picture in the shards": 1,
    }


def test_a_trusted_set_of_another_pool_says_so(tmp_path: Path, model: Path) -> None:
    pool, tars, _ = kit.small_world(tmp_path, pairs=8)
    other = kit.subset(tmp_path / "other.npy", [uid_of(1000 + n) for n in range(7)])
    with pytest.raises(MissingInput, match="none of the 7 trusted uids is a pair: 7 not in the pool"):
        train(pool, training.Job(tars, other, tmp_path / "s", f"local-dir:{model}", held_out=2))


def test_a_kept_feature_file_that_is_damaged_is_made_again(tmp_path: Path, model: Path) -> None:
    pool, tars, trusted = kit.small_world(tmp_path)
    job = training.Job(tars, trusted, tmp_path / "a", f"local-dir:{model}", held_out=10, epochs=1)
    first = train(pool, job)
    kept = sorted((pool / ".headwater" / _pairs.FOLDER).rglob("*.npz"))
    assert len(kept) == 2
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    with kept[1].open("wb") as handle:
        np.savez(
            handle,
            uid=np.zeros((1, 2), np.uint64),
            image=np.zeros((1, 3)),
            why=np.array([""]),
            hash=np.zeros(1),
        )
    again = train(
        pool, training.Job(tars, trusted, tmp_path / "b", f"local-dir:{model}", held_out=10, epochs=1)
    )
    assert [e.sha256 for e in first.step.identity.outputs] == [e.sha256 for e in again.step.identity.outputs]


def edit(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / training.CARD
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def cut(folder: Path) -> None:
    path = folder / training.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])


def other_towers(folder: Path) -> None:
    path = folder / training.CLIP / "open_clip_config.json"
    path.write_text(path.read_text().replace('"size": 32', '"size": 32 '))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edit(format="scorer/2"), "format"),
        (edit(extra=1), "extra"),
        (lambda folder: (folder / training.CARD).write_text("[]"), "not a scorer/1 card"),
        (
            lambda folder: (folder / training.CARD).write_text(" " * (training.MAX_CARD_BYTES + 1)),
            "too large",
        ),
        (cut, "is not the file that"),
        (other_towers, "trained on other towers"),
    ],
)
def test_a_damaged_scorer_is_refused(tmp_path: Path, scorer: Path, damage: Any, said: str) -> None:
    copy = Path(shutil.copytree(scorer, tmp_path / "copy"))
    training.load_scorer(copy)
    damage(copy)
    with pytest.raises(IntegrityError, match=said):
        training.load_scorer(copy)


def test_a_folder_that_is_no_scorer_is_told_before_any_work(tmp_path: Path, scorer: Path) -> None:
    with pytest.raises(MissingInput, match=r"is no scorer: it has no scorer\.json"):
        two_tower.Scorer(two_tower.Config(scorer=tmp_path))
    with pytest.raises(MissingInput, match="no such folder"):
        two_tower.Scorer(two_tower.Config(scorer=tmp_path / "nowhere"))
    copy = Path(shutil.copytree(scorer, tmp_path / "copy"))
    (copy / training.WEIGHTS).unlink()
    with pytest.raises(MissingInput, match=r"it has no projections\.safetensors"):
        two_tower.Scorer(two_tower.Config(scorer=copy))


def test_towers_that_are_missing_are_told_before_any_work(
    tmp_path: Path, scorer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(scorer, tmp_path / "copy"))
    card = json.loads((copy / training.CARD).read_text())
    card["towers"]["name"] = "lite0+minilm"
    (copy / training.CARD).write_text(json.dumps(card))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(assets.ENVIRONMENT, raising=False)
    monkeypatch.setattr(assets, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as missing:
        two_tower.Scorer(two_tower.Config(scorer=copy))
    assert missing.value.exit_code == 4
    assert "headwater" in str(missing.value.hint)


def test_weights_and_configuration_of_different_models(tmp_path: Path, model: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    document = json.loads((copy / "open_clip_config.json").read_text())
    document["model_cfg"]["vision_cfg"]["width"] = 48
    (copy / "open_clip_config.json").write_text(json.dumps(document))
    pool, tars, _ = kit.small_world(tmp_path, pairs=4)
    with pytest.raises(IntegrityError, match="visual"):
        scored(pool, "clip", shards=tars, pretrained=copy)
    document["model_cfg"]["embed_dim"] = "wide"
    (copy / "open_clip_config.json").write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="embed_dim"):
        clip.ARRAYS(clip.Config(pretrained=copy))
