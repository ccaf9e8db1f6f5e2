"""CLIP scores over shards equal open_clip's own, for folders and for files of weights; names of columns; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.features import open_features
from curate.pool import Pool
from curate.pooldata import bind, ensure_scored
from curate.sidecars import ScorerRef, read_sidecar
from headwater.errors import IntegrityError, UsageError
from headwater.executor import Executor
from tests.curate import tower_kit as kit
from tests.curate.feature_kit import scored, uid_of

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from curate.scores import clip  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.clip_folder(tmp_path_factory.mktemp("clip") / "Tiny-Model")


def direct(model: Any, transform: Any, tokenizer: Any, numbers: list[int]) -> tuple[Any, Any]:
    """open_clip asked one sample at a time."""
    import io

    from PIL import Image

    images, texts = [], []
    with torch.inference_mode():
        for number in numbers:
            with Image.open(io.BytesIO(kit.picture(number))) as image:
                images.append(model.encode_image(transform(image.convert("RGB"))[None], normalize=True))
            texts.append(model.encode_text(tokenizer([kit.caption(number)]), normalize=True))
    return torch.cat(images).numpy(), torch.cat(texts).numpy()


def column(pool: Path, **config: Any) -> Any:
    """The scores in the order of the pool of `small_world`; `name` is a setting here."""
    opened = Pool.open(pool)
    ref = bind(ScorerRef("clip", tuple(sorted(config.items()))), opened)
    ensure_scored(opened, ref, executor=Executor("serial", 1))
    (shard,) = opened.shards
    table = read_sidecar(opened.cache, ref, shard.name, opened.digests(shard).sha256)
    assert table is not None
    return np.array(table[f"clip_{config['name']}_similarity_score"])


def half(values: Any) -> Any:
    return np.asarray(values).astype(np.float16).astype(np.float32)


def test_scores_and_rows_are_those_of_open_clip(tmp_path: Path, folder: Path) -> None:
    pool, tars, _ = kit.small_world(tmp_path, pairs=21)
    table = scored(pool, "clip", shards=tars, pretrained=Path(f"local-dir:{folder}"), batch=8)
    assert table.column_names == ["uid", "clip_tiny_model_similarity_score"]
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    images, texts = direct(model.eval(), transform, tokenizer, list(range(21)))
    found = np.array(table.column(1))
    np.testing.assert_allclose(found, half((images * texts).sum(1)), atol=2e-3)
    assert (found == half(found)).all()  # on the grid of float16
    opened = Pool.open(pool)
    for name, rows in (("tiny_model_img", images), ("tiny_model_txt", texts)):
        features = open_features(opened, name)
        block = features.block(0, 0, 21)
        assert features.parts[0].values.dtype == np.float16 and features.width == 24
        np.testing.assert_allclose(block.values, rows, atol=2e-3)


def test_a_named_model_with_a_file_of_weights(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "Tiny-Test.json").write_text(json.dumps(kit.MODEL))
    open_clip.add_model_config(configs)
    pool, tars, _ = kit.small_world(tmp_path, pairs=9)
    weights = folder / "open_clip_model.safetensors"
    first = column(pool, shards=tars, model="Tiny-Test", pretrained=weights, name="mine")
    second = scored(pool, "clip", shards=tars, pretrained=Path(f"local-dir:{folder}"))
    assert first.tolist() == np.array(second.column(1)).tolist()
    # of another model: the first tensor that differs is named
    (configs / "Tiny-Wide.json").write_text(json.dumps({**kit.MODEL, "embed_dim": 32}))
    open_clip.add_model_config(configs)
    with pytest.raises(
        IntegrityError, match=r"tensor 'text_projection' is \[32, 24\], the model needs \[32, 32\]"
    ):
        column(pool, shards=tars, model="Tiny-Wide", pretrained=weights, name="wide")


def test_rows_without_caption_or_picture_have_no_score(tmp_path: Path, folder: Path) -> None:
    uids = [uid_of(n) for n in range(6)]
    captions: list[str | None] = [kit.caption(n) for n in range(6)]
    captions[2], captions[3] = None, "  "
    pool = kit.write_pool(tmp_path / "pool", uids, captions)
    pictures = [kit.picture(n) for n in range(5)]
    pictures[1] = pictures[1][:60]
    tars = kit.write_tars(tmp_path / "tars", list(zip(uids, pictures, strict=False)))
    table = scored(pool, "clip", shards=tars, pretrained=folder)
    score = table.column(1).to_pylist()
    assert [value is None for value in score] == [False, True, True, True, False, True]
    rows = open_features(Pool.open(pool), "tiny_model_img").block(0, 0, 6).values
    assert [bool(row.any()) for row in rows] == [True, False, True, True, True, False]


def test_bf16_is_near_and_of_length_one(tmp_path: Path, folder: Path) -> None:
    pool, tars, _ = kit.small_world(tmp_path, pairs=9)
    exact = column(pool, shards=tars, pretrained=folder, name="a")
    fast = column(pool, shards=tars, pretrained=folder, name="b", precision="bf16")
    np.testing.assert_allclose(fast, exact, atol=0.05)
    rows = open_features(Pool.open(pool), "b_img").block(0, 0, 9).values
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=2e-3)


def test_names_of_columns() -> None:
    names = {"ViT-B-32": "b32", "ViT-L-14": "l14", "ViT-H-14-378-quickgelu": "vit_h_14_378_quickgelu"}
    for model, name in names.items():
        assert list(clip.OUTPUT(clip.Config(model=model))) == [f"clip_{name}_similarity_score"]
    assert list(clip.OUTPUT(clip.Config(name="mine_2"))) == ["clip_mine_2_similarity_score"]
    for bad in ("B32", "a b", "_x", "x" * 40):
        with pytest.raises(UsageError, match="small letters"):
            clip.OUTPUT(clip.Config(name=bad))


def test_where_a_folder_lies_is_read_off_as_written(tmp_path: Path) -> None:
    from curate._clip_source import local_folder

    assert local_folder(Path("local-dir:runs/x")) == Path("runs/x")
    assert local_folder(Path("rules") / Path("local-dir:runs/x")) == Path("rules/runs/x")
    assert local_folder(Path("rules") / Path("local-dir:/runs/x")) == Path("/runs/x")
    assert local_folder(tmp_path) == tmp_path
    assert local_folder(tmp_path / "x.pt") is None


def test_a_hub_is_never_asked(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="--pretrained") as none:
        clip.Scorer(clip.Config())
    assert "never downloaded" in str(none.value.hint)
    with pytest.raises(UsageError, match="laion2b_s34b_b79k: is no file or folder here"):
        clip.Scorer(clip.Config(pretrained=Path("laion2b_s34b_b79k")))
    with pytest.raises(UsageError, match="'ViT-B-32'"):
        clip.Scorer(clip.Config(model="ViT-B-33", pretrained=Path("x.pt")))
    with pytest.raises(UsageError, match="open_clip has no such model"):
        clip.Scorer(clip.Config(model="hf-hub:a/b", pretrained=Path("x.pt")))
    weights = folder / "open_clip_model.safetensors"
    source = clip.Scorer(clip.Config(model="roberta-ViT-B-32", pretrained=weights))
    with pytest.raises(UsageError, match="hf_model_name"):
        _ = source._model
    with pytest.raises(UsageError, match="--batch 0"):
        clip.Scorer(clip.Config(pretrained=folder, batch=0))


def test_identity_is_of_bytes_and_not_of_places(tmp_path: Path, folder: Path) -> None:
    import shutil

    other = Path(shutil.copytree(folder, tmp_path / "Tiny-Model"))
    refs = [
        ScorerRef("clip", (("pretrained", place),)) for place in (folder, other, Path(f"local-dir:{other}"))
    ]
    assert refs[0].identity == refs[1].identity == refs[2].identity
    config = json.loads((other / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["interpolation"] = "bilinear"
    (other / "open_clip_config.json").write_text(json.dumps(config))
    assert ScorerRef("clip", (("pretrained", other),)).identity != refs[0].identity
