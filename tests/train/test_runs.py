"""Folders with a model: read back safely, and to the same features that open_clip itself gives for them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.clip_model import CONFIG, WEIGHTS, find_weights, load_model
from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from headwater.weights import read_weights, write_weights
from tests.faults.train_kit import prepare, train
from tests.train.kit import picture, tiny_run
from train.runs import open_run

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")
CAPTIONS = ["a red circle", "a blue square", "", "zwölf Boxkämpfer", "x " * 400]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as open_clip itself leaves it: no record."""
    return tiny_run(tmp_path_factory.mktemp("runs") / "foreign", seed=3)


def pictures() -> list[Any]:
    from PIL import Image

    return [Image.open(io.BytesIO(picture(n, 40 + 7 * n)[0])).convert("RGB") for n in range(4)]


def features(folder: Path) -> tuple[Any, Any]:
    """Of pictures and captions, through our own loading."""
    model = load_model(folder)
    batch = torch.stack([model.transform(one) for one in pictures()])
    return model.encode_images(batch), model.encode_texts(CAPTIONS)


def theirs(folder: Path) -> tuple[Any, Any]:
    """The same through open_clip alone, which knows nothing of us."""
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    batch = torch.stack([transform(one) for one in pictures()])
    model.eval()
    with torch.inference_mode():
        images = model.encode_image(batch, normalize=True)
        return images.numpy(), model.encode_text(tokenizer(CAPTIONS), normalize=True).numpy()


def test_a_foreign_folder_has_an_id_and_no_record(foreign: Path, tmp_path: Path) -> None:
    found = open_run(foreign)
    assert (found.run, found.recipe, found.step) == (None, None, None)
    assert len(found.id) == 64 and open_run(foreign).id == found.id
    other = tiny_run(tmp_path / "other", seed=4)
    assert open_run(other).id != found.id
    shutil.copytree(foreign, tmp_path / "copy")
    assert open_run(tmp_path / "copy").id == found.id, "where it lies does not matter"


def test_our_loading_gives_the_features_of_open_clip(foreign: Path) -> None:
    mine, other = features(foreign), theirs(foreign)
    for a, b in zip(mine, other, strict=True):
        assert a.dtype == np.float32 and a.shape == b.shape and np.array_equal(a, b)
        assert np.allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)
    assert load_model(foreign).logit_scale == pytest.approx(1 / 0.07, rel=1e-5)


def test_many_captions_are_those_of_a_few(foreign: Path) -> None:
    model = load_model(foreign)
    texts = [f"number {n}" for n in range(600)]
    whole = model.encode_texts(texts)
    assert whole.shape == (600, 32)
    assert np.allclose(whole[500:503], model.encode_texts(texts[500:503]), atol=1e-6)
    assert model.encode_texts([]).shape[0] == 0


def test_other_weights_may_be_named(foreign: Path, tmp_path: Path) -> None:
    other = tiny_run(tmp_path / "other", seed=9)
    first = load_model(foreign, weights=other / WEIGHTS).encode_texts(CAPTIONS)
    assert np.array_equal(first, load_model(other).encode_texts(CAPTIONS))


def test_a_checkpoint_of_open_clip_is_read_too(foreign: Path, tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in read_weights(foreign / WEIGHTS).items()}
    torch.save({"epoch": 2, "name": "x", "state_dict": state, "optimizer": {}}, tmp_path / "epoch_2.pt")
    shutil.copy(foreign / CONFIG, tmp_path / CONFIG)
    assert find_weights(tmp_path).name == "epoch_2.pt"
    assert np.array_equal(features(tmp_path)[0], features(foreign)[0])


@pytest.mark.parametrize("what", ["folder", CONFIG, WEIGHTS])
def test_what_is_missing_is_named(what: str, foreign: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if what != "folder":
        shutil.copytree(foreign, folder)
        (folder / what).unlink()
    with pytest.raises(MissingInput, match="no such folder|has no open_clip_config|holds no weights"):
        open_run(folder)


def change(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / CONFIG).read_text())
    for path, value in changes.items():
        *parts, last = path.split("__")
        target = document
        for part in parts:
            target = target[part]
        target[last] = value
    (folder / CONFIG).write_text(json.dumps(document))


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"model_cfg__text_cfg__hf_model_name": "someone/else"}, "comes from a model hub"),
    ({"model_cfg__text_cfg__hf_tokenizer_name": "someone/else"}, "comes from a model hub"),
    ({"model_cfg__text_cfg": 5}, ""),
    ({"model_cfg__vision_cfg": None}, ""),
    ({"model_cfg": []}, "not an open_clip configuration"),
    ({"model_cfg__surprise": 1}, "cannot be built"),
    ({"model_cfg__embed_dim": 64}, "the weights are not those of its configuration"),
    ({"model_cfg__embed_dim": "wide"}, ""),
    ({"preprocess_cfg__size": "large"}, ""),
    ({"preprocess_cfg": 7}, ""),
    ({"model_cfg__vision_cfg__timm_model_pretrained": True}, "comes from a model hub"),
    ({"model_cfg__vision_cfg__image_size": -4}, ""),
]


@pytest.mark.parametrize(("changes", "words"), HOSTILE, ids=lambda value: str(value)[:50])
def test_a_configuration_that_cannot_be_is_refused(
    changes: dict[str, Any], words: str, foreign: Path, tmp_path: Path
) -> None:
    shutil.copytree(foreign, tmp_path / "run")
    change(tmp_path / "run", **changes)
    with pytest.raises(HeadwaterError, match=words or "."):
        load_model(tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"model_cfg": {}}', "[" * 100_000, " " * (2 << 20)],
    ids=lambda text: text[:12],
)
def test_a_file_that_is_no_configuration_is_refused(text: str, foreign: Path, tmp_path: Path) -> None:
    shutil.copytree(foreign, tmp_path / "run")
    (tmp_path / "run" / CONFIG).write_text(text)
    with pytest.raises(IntegrityError, match="configuration"):
        load_model(tmp_path / "run")


# runs of our own


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The end of `headwater train` for a sigmoid recipe with an average."""
    here = prepare(
        tmp_path_factory.mktemp("siglip"),
        **{"loss.kind": "sigmoid", "ema": {"decay": 0.7, "warmup": True}, "budget.checkpoints": 2},
    )
    done = train(here, "run")
    assert done.code == 0, done
    return here / "run"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_sigmoid_run_loads_back_through_open_clip(trained: Path) -> None:
    found = open_run(trained)
    assert found.run is not None and found.recipe is not None and found.step is not None
    assert found.id == found.step.id and found.recipe.loss.kind == "sigmoid"
    for a, b in zip(features(trained), theirs(trained), strict=True):
        assert np.array_equal(a, b)
    state = read_weights(trained / WEIGHTS)
    assert state["logit_bias"].item() == pytest.approx(-10, abs=0.5), "starts at -10 (arXiv 2303.15343)"
    assert state["logit_scale"].exp().item() == pytest.approx(10, rel=0.2), "starts at 10"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_averaged_weights_are_the_model_and_the_raw_ones_stand_beside(trained: Path) -> None:
    average, raw = read_weights(trained / WEIGHTS), read_weights(trained / "raw.safetensors")
    last = read_weights(trained / "checkpoints" / "part_2.safetensors")
    assert all(torch.equal(raw[name], last[name]) for name in raw)
    assert not all(torch.equal(raw[name], average[name]) for name in raw)
    first = load_model(trained, weights=trained / "raw.safetensors").encode_texts(CAPTIONS)
    assert not np.array_equal(first, load_model(trained).encode_texts(CAPTIONS))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("damage", ["run.json", "recipe", "no record", "half"])
def test_a_run_that_was_changed_is_refused(damage: str, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    if damage == "run.json":
        (folder / "run.json").write_text('{"format": "run/1"}')
    elif damage == "recipe":
        text = (folder / "recipe.yaml").read_text()
        assert "lr: 0.001" in text
        (folder / "recipe.yaml").write_text(text.replace("lr: 0.001", "lr: 0.002"))
    elif damage == "no record":
        (folder / "step.json").unlink()
    else:
        (folder / "run.json").write_text((folder / "run.json").read_text()[:100])
    with pytest.raises(IntegrityError):
        open_run(folder)


def test_weights_of_another_model_are_refused(foreign: Path, tmp_path: Path) -> None:
    shutil.copytree(foreign, tmp_path / "run")
    state = read_weights(foreign / WEIGHTS)
    del state["logit_scale"]
    write_weights(state, tmp_path / "run" / WEIGHTS)
    with pytest.raises(IntegrityError, match="the weights are not those of its configuration"):
        load_model(tmp_path / "run")
