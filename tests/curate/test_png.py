"""The PNG encoder: bytes that follow from the pixels, the stated rules, and every reader sees the pixels again."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate._png import ENCODER, Encoder, distances
from tests.curate.png_plain import png as plain_png

Pixels = npt.NDArray[np.uint8]


def encode(pixels: Pixels) -> bytes:
    return Encoder(*pixels.shape).encode(pixels)


def with_pillow(data: bytes) -> Pixels:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def with_opencv(data: bytes) -> Pixels:
    cv2 = pytest.importorskip("cv2")
    pixels: Pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[:, :, ::-1]


def with_torchvision(data: bytes) -> Pixels:
    torch = pytest.importorskip("torch")
    io_ = pytest.importorskip("torchvision.io")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # moves to another package
        pixels: Pixels = io_.decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8)).numpy()
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def noise(seed: int, *shape: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def lines(seed: int, height: int, width: int) -> Pixels:
    """Thin lines on black, as the generators draw them."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width), np.uint8)
    for _ in range(60):
        y0, y1, x0, x1 = rng.integers(0, [height, height, width, width])
        along = np.arange(max(height, width)) * 65536 // max(height, width)
        pixels[(y0 * 65536 + (y1 - y0) * along) >> 16, (x0 * 65536 + (x1 - x0) * along) >> 16] = rng.integers(
            256
        )
    return pixels


def ramp(height: int, width: int) -> Pixels:
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, x + y], axis=2).astype(np.uint8)


@st.composite
def pictures(draw: st.DrawFn) -> Pixels:
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    shape = (height, width) if draw(st.booleans()) else (height, width, 3)
    levels = draw(st.sampled_from([1, 2, 3, 256]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pixels = rng.integers(0, levels, shape, np.uint8)
    return np.repeat(pixels, draw(st.sampled_from([1, 2, 40])), axis=draw(st.integers(0, 1)))


@given(pictures())
@settings(deadline=None, max_examples=60)
def test_bytes_are_those_of_the_rules(pixels: Pixels) -> None:
    assert encode(pixels) == plain_png(pixels)


@given(pictures())
@settings(deadline=None, max_examples=60)
def test_readers_see_the_pixels(pixels: Pixels) -> None:
    data = encode(pixels)
    for read in (with_pillow, with_opencv, with_torchvision):
        assert np.array_equal(read(data), pixels), read.__name__


LARGER = {
    "lines": lines(1, 300, 400),
    "black": np.zeros((512, 512), np.uint8),
    "noise": noise(2, 200, 301),
    "ramp": ramp(150, 200),
    "mixed": np.concatenate([noise(3, 90, 256), np.zeros((300, 256), np.uint8), lines(4, 200, 256)]),
    "wide grey": np.concatenate([noise(5, 1, 16000), noise(5, 1, 16000)]),
    "wide colour": np.concatenate([noise(6, 1, 12000, 3)] * 3),
    "rows of 3": noise(7, 4000, 2),
    "two levels": noise(8, 300, 300) & 1,
    "rare bytes": np.minimum(255, noise(9, 400, 300).astype(np.uint16) ** 6 >> 4).astype(np.uint8),
}


@pytest.mark.parametrize("name", LARGER)
def test_several_blocks(name: str) -> None:
    pixels = LARGER[name]
    data = encode(pixels)
    assert data == plain_png(pixels)
    for read in (with_pillow, with_opencv, with_torchvision):
        assert np.array_equal(read(data), pixels), read.__name__


@pytest.mark.parametrize("length", [257, 258, 259, 260, 261, 262, 516, 517, 518, 519, 520])
def test_long_runs_are_cut_as_stated(length: int) -> None:
    pixels = np.full((1, length + 5), 9, np.uint8)
    pixels[0, length + 1 :] = [1, 2, 3, 4]
    assert encode(pixels) == plain_png(pixels)


def test_code_length_limit_is_reached() -> None:
    # Fibonacci counts ask for codes of 20 bits and more
    a, b, parts = 1, 1, []
    for value in range(22):
        parts.append(np.full(a, value, np.uint8))
        a, b = b, a + b
    values = np.concatenate(parts)
    shuffled = np.random.default_rng(0).permutation(values)[: 150 * 300].reshape(150, 300)
    data = encode(shuffled)
    assert data == plain_png(shuffled)
    assert np.array_equal(with_pillow(data), shuffled)


def test_never_above_stored_blocks() -> None:
    for pixels in (noise(0, 1, 1), noise(1, 3, 5), noise(2, 300, 300), noise(3, 300, 100, 3)):
        size = pixels.size + len(pixels)
        assert len(encode(pixels)) <= 8 + 25 + 12 + 2 + size + 5 * -(-size // 65535) + 4 + 12


def test_form_of_the_file() -> None:
    data = encode(lines(5, 64, 80))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        body = data[at + 4 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(body)
        chunks.append(body)
        at += 12 + size
    assert [chunk[:4] for chunk in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    rows = np.frombuffer(zlib.decompress(chunks[1][4:]), np.uint8).reshape(64, 81)
    assert not rows[:, 0].any()


def test_a_used_encoder_forgets() -> None:
    encoder = Encoder(200, 301)
    for pixels in (LARGER["noise"], lines(0, 200, 301), np.zeros((200, 301), np.uint8), lines(6, 200, 301)):
        assert encoder.encode(pixels) == encode(pixels)
    turned = lines(7, 301, 200).T  # not contiguous
    assert encoder.encode(turned) == encode(np.ascontiguousarray(turned))


DIGESTS = {
    "lines": "d9e7aabc8c1f5684",
    "black": "400ddafca1c8ed38",
    "noise": "076ac883959f8c3a",
    "ramp": "61c00f0009d0e623",
    "mixed": "d89dcfc22bfa4025",
}


def test_bytes_stay_what_they_are() -> None:
    """Recipes name the encoder: other bytes need another name."""
    assert ENCODER == "headwater-png/1"
    pixels = {name: LARGER[name] for name in DIGESTS}
    assert {name: sha256(encode(it)).hexdigest()[:16] for name, it in pixels.items()} == DIGESTS


def test_distances_are_used_once_and_in_range() -> None:
    far, masks = distances(3, 1)  # two pixels: R = 3, R-1 = 2, R-2 = 1 again, R-3 = 0
    assert [int(d) for d, m in zip(far, masks, strict=True) if m] == [1, 3, 2, 4, 5, 6]
    far, masks = distances(49153, 3)
    assert [int(d) for d, m in zip(far, masks, strict=True) if m] == [3, 1]


@pytest.mark.parametrize("shape", [(0, 5, 1), (5, 0, 1), (5, 5, 2), (40000, 40000, 1)])
def test_what_has_no_encoder(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no PNG of"):
        Encoder(*shape)


def test_other_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8 of"):
        Encoder(4, 4).encode(np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match="float64 pixels"):
        Encoder(4, 4).encode(np.zeros((4, 4)))  # type: ignore[arg-type]
