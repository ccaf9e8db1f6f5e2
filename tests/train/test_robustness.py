"""Robustness: what a model sees, which pictures are taken, and figures that follow from the examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.errors import HeadwaterError, UsageError
from tests.train.eval_kit import ColourModel, colour_set, task
from train import _patches
from train.evaldata import TaskData
from train.evals import family_of
from train.evals.robustness import DEFAULT, _Eye
from train.suite import Task

FEW = {"corruptions": ["gaussian_noise", "contrast", "patch_drop"], "strengths": [1, 5]}


class Seeing(ColourModel):
    """The colour model behind a transform of the usual kind: 16 pixels, a mean and a deviation for each channel."""

    mean, deviation = np.array([0.48, 0.46, 0.41]), np.array([0.27, 0.26, 0.28])

    def transform(self, image: Any) -> Any:
        if image.size != (16, 16):
            side = min(image.size)
            image = image.crop((0, 0, side, side)).resize((16, 16), 3)
        pixels = np.asarray(image, np.float64) / 255
        return ((pixels - self.mean) / self.deviation).transpose(2, 0, 1).astype(np.float32)

    def encode_images(self, batch: Any) -> Any:
        pixels = np.asarray(batch).transpose(0, 2, 3, 1) * self.deviation + self.mean
        thumbnail = pixels.reshape(len(batch), 4, 4, 4, 4, 3).mean(axis=(2, 4)) * 2 - 1
        return super().encode_images(thumbnail.transpose(0, 3, 1, 2))


def measure(folder: Path, *, seed: int = 0, workers: int = 1, model: Any = None, **fields: Any) -> Any:
    fields = {"main_metric": "mean_corrupted_acc1", "options": FEW, **fields}
    declared = Task.model_validate(task("set", family="robustness", **fields))
    family_of("robustness").check(declared, folder)
    result = family_of("robustness").run(
        TaskData(declared, folder, workers=workers), model or Seeing(), seed=seed, workers=workers
    )
    result.check()
    return result


def test_figures_follow_from_each_other_and_from_the_examples(tmp_path: Path) -> None:
    folder = colour_set(tmp_path / "set", n=24)
    result = measure(folder)
    found = result.metrics
    assert (
        result.n == 24
        and result.main_metric_name == "mean_corrupted_acc1"
        and result.chance == pytest.approx(1 / 6)
    )
    score = np.asarray(result.examples["score"], np.float64)
    assert result.main_metric == found["mean_corrupted_acc1"] == pytest.approx(score.mean(), abs=1e-7)
    assert result.standard_error == pytest.approx(score.std(ddof=1) / np.sqrt(24), rel=1e-5)
    assert found["clean_acc1"] == np.asarray(result.examples["clean_correct"]).mean() == 1
    assert found["relative_acc1"] == found["mean_corrupted_acc1"]
    names = FEW["corruptions"]
    for name in names:
        assert found[f"acc1_{name}"] == pytest.approx((found[f"acc1_{name}_1"] + found[f"acc1_{name}_5"]) / 2)
    assert found["mean_corrupted_acc1"] == pytest.approx(np.mean([found[f"acc1_{name}"] for name in names]))
    assert found["patch_acc1"] == found["acc1_patch_drop"]
    assert found["common_acc1"] == pytest.approx((found["acc1_gaussian_noise"] + found["acc1_contrast"]) / 2)
    assert found["acc1_strength_5"] == pytest.approx(np.mean([found[f"acc1_{name}_5"] for name in names]))
    assert found["acc1_patch_drop_5"] < found["acc1_patch_drop_1"], "nine tenths of the picture are black"


def test_neither_workers_nor_chunks_nor_other_corruptions_change_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = colour_set(tmp_path / "set", n=12)
    whole = measure(folder)
    assert measure(folder, workers=3).metrics == whole.metrics
    monkeypatch.setattr("train.evals.robustness.CHUNK", 5)
    assert measure(folder).metrics == whole.metrics
    alone = measure(folder, options={"corruptions": ["patch_drop"], "strengths": [5]})
    assert alone.metrics["acc1_patch_drop_5"] == whole.metrics["acc1_patch_drop_5"]
    assert alone.metrics["common_acc1"] is None


def test_all_corruptions_by_default(tmp_path: Path) -> None:
    assert len(DEFAULT) == 17
    model = Seeing()
    result = measure(colour_set(tmp_path / "set", n=6), options={"limit": 2}, model=model)
    assert result.n == 2
    assert {f"acc1_{name}_{s}" for name in DEFAULT for s in range(1, 6)} <= result.metrics.keys()
    assert model.pictures == 3 * 64, "2 x 86 pictures in batches of 64"


def test_limit_takes_the_same_pictures_whatever_their_order(tmp_path: Path) -> None:
    taken = [
        set(
            measure(
                colour_set(tmp_path / str(shards), n=24, shards=shards), options={**FEW, "limit": 7}
            ).examples["key"]
        )
        for shards in (1, 4)
    ]
    assert taken[0] == taken[1] and len(taken[0]) == 7
    assert taken[0] != {f"0-{i:04d}" for i in range(7)}, (
        "sets are often sorted by class: the first ones will not do"
    )
    more = measure(colour_set(tmp_path / "more", n=24), options={**FEW, "limit": 8}, seed=5)
    assert taken[0] < set(more.examples["key"]), "nor the seed"


def test_what_a_model_sees_is_found_without_knowing_its_normalisation() -> None:
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    model = Seeing()
    seen = _Eye(model).look(picture)
    assert seen.shape == (16, 16, 3)
    assert model.transform(Image.fromarray(seen)) == pytest.approx(model.transform(picture), abs=1e-6)


@pytest.mark.slow
def test_what_a_model_of_open_clip_sees() -> None:
    """Both ways of resizing, and a size that is no multiple of anything."""
    pytest.importorskip("open_clip")
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    for mode in ("shortest", "squash", "longest"):
        transform = image_transform_v2(PreprocessCfg(size=60, resize_mode=mode), is_train=False)
        seen = _Eye(type("Model", (), {"transform": staticmethod(transform)})()).look(picture)  # type: ignore[arg-type]
        assert seen.shape == (60, 60, 3)


def test_a_transform_that_cannot_be_undone_is_refused() -> None:
    from PIL import Image

    class Turning(Seeing):
        def transform(self, image: Any) -> Any:
            return super().transform(image.rotate(90))

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    with pytest.raises(HeadwaterError, match="no resizing"):
        _Eye(Turning()).look(picture)


def test_clean_accuracy_may_be_the_main_metric(tmp_path: Path) -> None:
    result = measure(colour_set(tmp_path / "set"), main_metric="clean_acc1")
    assert result.main_metric == 1 == np.asarray(result.examples["score"]).mean()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"corruptions": ["gausian_noise"]}, "did you mean 'gaussian_noise'"),
        ({"corruptions": []}, "corruptions"),
        ({"corruptions": ["fog", "fog"]}, "repeats"),
        ({"strengths": [0]}, "1 to 5"),
        ({"strengths": [True]}, "1 to 5"),
        ({"limit": 0}, "limit"),
        ({"patches": 197}, "patches"),
        ({"severity": 3}, "no option"),
    ],
)
def test_options_are_refused_before_any_time_is_spent(
    tmp_path: Path, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError) as caught:
        measure(colour_set(tmp_path / "set"), options=options)
    assert word in caught.value.message


def test_patch_perturbations_take_their_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    perturb = _patches.perturb

    def spy(pixels: Any, name: str, strength: int, **given: Any) -> Any:
        asked.append((name, given["patches"]))
        return perturb(pixels, name, strength, **given)

    monkeypatch.setattr(_patches, "perturb", spy)
    options = {"corruptions": ["contrast", "patch_contrast"], "strengths": [5], "limit": 1}
    measure(colour_set(tmp_path / "set"), options={**options, "patches": 3})
    measure(colour_set(tmp_path / "set"), options=options)
    assert asked == [("patch_contrast", 3), ("patch_contrast", 49)]
