"""Broken, hostile and odd pictures through `headwater score` (rows 54-57 of the catalogue)."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from curate._picture_bytes import MAX_SCANS, STATUSES
from curate._picture_decode import PictureError, decode
from tests.curate import picture_kit as pictures
from tests.curate.picture_kit import Sample, drawing, encoded, make, samples, uid_of
from tests.faults import kit

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
}


def statuses(folder: Path, broken: dict[str, bytes]) -> dict[str, str | None]:
    """What `headwater score picture` says of each, in a tar of them between two good ones."""
    names = list(broken)
    rows = [
        Sample(uid_of(n + 1), data, name.rpartition(".")[2]) for n, (name, data) in enumerate(broken.items())
    ]
    good = samples([1000, 1001])
    pool, tars = make(folder, {"a.tar": [good[0], *rows, good[1]]})
    done = kit.run("score", "picture", pool, "--shards", tars, "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["counts"]["invalid"] == {} and answer["counts"]["kept"] == len(rows) + 2
    out = folder / "told.jsonl"
    assert kit.run("pool", "sql", pool, "SELECT uid, picture_status s FROM pool", "-o", out).code == 0
    told = {row["uid"]: row["s"] for row in map(json.loads, out.read_text().splitlines())}
    assert told[uid_of(1000)] == told[uid_of(1001)] == "ok"
    found = {name: told[uid_of(n + 1)] for n, name in enumerate(names)}
    assert set(found.values()) <= set(STATUSES)
    return found


def status(data: bytes) -> str:
    try:
        decode(data)
    except PictureError as error:
        return error.status
    return "ok"


# row 54


def test_cut_pictures_are_told(tmp_path: Path) -> None:
    broken = {}
    for name, (form, options) in FORMS.items():
        data = encoded(drawing(3, (160, 120)), form, **options)
        for eighth in range(1, 8):
            broken[f"{eighth}.{name}"] = data[: len(data) * eighth // 8]
    found = statuses(tmp_path, broken)
    assert set(found.values()) == {"truncated"}


def test_what_is_no_picture_is_told(tmp_path: Path) -> None:
    data = encoded(drawing(3), "JPEG")
    broken = {
        "eoi.jpg": data[:-2],
        "half of eoi.jpg": data[:-1],
        "nothing.jpg": b"",
        "zeros.jpg": bytes(5000),
        "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "json.png": b'{"error": "gone"}',
        "named.png": data,
        "tail.jpg": data + b"\xff\xda more behind the end",
        "flipped.png": pictures.patched(encoded(drawing(3)), 60, b"\0\xff\0"),
        "only start.png": b"\x89PNG",
    }
    assert statuses(tmp_path, broken) == {
        "eoi.jpg": "truncated",
        "half of eoi.jpg": "truncated",
        "nothing.jpg": "empty",
        "zeros.jpg": "not a picture",
        "page.jpg": "not a picture",
        "json.png": "not a picture",
        "named.png": "ok",  # the bytes count, not the name
        "tail.jpg": "ok",
        "flipped.png": "damaged",
        "only start.png": "truncated",
    }


def test_broken_pictures_are_in_no_set_unless_allowed(tmp_path: Path) -> None:
    rows = [*samples([1, 2]), Sample(uid_of(3), b"<html>"), Sample(uid_of(4), None, caption="no picture")]
    pool, tars = make(tmp_path, {"a.tar": rows})
    score = f"scores: [{{scorer: picture, config: {{shards: {tars}}}}}]\n"
    done = kit.select(pool, tmp_path, "{id: a, sql: picture_status = 'ok'}", head=score)
    counts = kit.closes(tmp_path / "out.npy").identity.counts
    assert done.code == 3 and counts.dropped == {"a": 1} and sum(counts.invalid.values()) == 1
    assert kit.words(tmp_path / "out.npy") == sorted([uid_of(1), uid_of(2)])
    done = kit.run("score", "phash", pool, "--shards", tars)
    assert done.code == 3 and "1 × picture: not a picture" in done.out and "1 × no picture" in done.out
    done = kit.run("score", "phash", pool, "--shards", tars, "--allow-invalid", "--force")
    assert done.code == 0


# row 55


@pytest.mark.parametrize(
    "bomb",
    [
        pictures.huge_jpeg,
        pictures.huge_gif_screen,
        pictures.huge_gif_frame,
        pictures.huge_bmp,
        pictures.huge_webp,
        pictures.png_bomb,
    ],
)
def test_bombs_are_refused_by_their_header(
    bomb: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bomb()

    def never(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(Image.Image, "load", never)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    assert status(data) == "too large"


def test_bombs_through_the_command(tmp_path: Path) -> None:
    broken = {
        "a.jpg": pictures.huge_jpeg(),
        "b.gif": pictures.huge_gif_frame(),
        "c.webp": pictures.huge_webp(),
        "d.png": pictures.png_bomb(),
    }
    assert set(statuses(tmp_path, broken).values()) == {"too large"}


def test_sides_and_pixels_at_the_limit() -> None:
    line = encoded(Image.new("1", (65_535, 2)))
    assert status(line) == "ok"
    assert status(pictures.patched(line, 16, (65_536).to_bytes(4, "big"))) == "too large"
    assert status(encoded(Image.new("1", (8192, 8193)))) == "too large"


# row 56


@pytest.mark.parametrize(
    "form", ["TIFF", "ICO", "PPM", "SGI", "PCX", "EPS", "JPEG2000", "DDS", "PDF", "AVIF"]
)
def test_other_formats_are_refused_before_their_readers(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        data = encoded(drawing(1), form)
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow does not write {form}: {error}")

    def never(*_: object, **__: object) -> None:
        raise AssertionError(f"Pillow was asked about {form}")

    monkeypatch.setattr(Image, "open", never)
    assert status(data) == "format not accepted"


def test_programs_and_drawings_are_never_run(tmp_path: Path) -> None:
    broken = {
        "a.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch here) (w) file\n",
        "b.svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "c.psd": b"8BPS" + bytes(40),
        "d.png": b"\xc5\xd0\xd3\xc6" + bytes(40),
        "e.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20),
        "f.tif": b"II*\0" + bytes(20),
    }
    assert set(statuses(tmp_path, broken).values()) == {"format not accepted"}


# row 57


def test_modes_have_one_defined_result() -> None:
    base = drawing(5, (40, 30))
    rgb = np.asarray(base)
    assert np.array_equal(np.asarray(decode(encoded(base))), rgb)
    deep = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    found = np.asarray(decode(encoded(Image.fromarray(deep))))
    assert all(np.array_equal(found[..., channel], deep >> 8) for channel in range(3))
    cmyk = encoded(base.convert("CMYK"), "JPEG", quality=95)
    assert np.array_equal(np.asarray(decode(cmyk)), np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB")))
    clear = Image.new("RGBA", (5, 4), (10, 20, 30, 0))
    clear.putpixel((0, 0), (10, 20, 30, 255))
    found = np.asarray(decode(encoded(clear)))
    assert found[0, 0].tolist() == [10, 20, 30] and set(found.reshape(-1, 3)[1:].reshape(-1).tolist()) == {
        255
    }
    palette = base.quantize(8)
    index = palette.getpixel((0, 0))
    found = np.asarray(decode(encoded(palette, "PNG", transparency=index)))
    assert np.array_equal((found == 255).all(axis=2), np.asarray(palette) == index)
    for mode in ("1", "L", "LA", "P"):
        assert decode(encoded(base.convert(mode))).mode == "RGB"


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_orientation_is_applied(value: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    data = encoded(drawing(6, (40, 20)), form, exif=exif, lossless=True)
    found = decode(data)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert found.size == expected.size == found.info["size"]
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_of_a_jpeg(value: int) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", value
    data = encoded(
        drawing(6, (48, 32), 3), "JPEG", exif=exif, quality=95, comment=b"words", icc_profile=b"x" * 99
    )
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decode(data).tobytes() == expected.tobytes() and decode(data).size == expected.size


def hostile_exif(entries: int) -> bytes:
    """An EXIF block whose entries all hold the same many bytes: a reader that keeps them all needs gigabytes."""
    entry = b"".join(struct.pack("<HHII", 0x8000 + n, 7, 12 * entries, 8) for n in range(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + entry


def test_exif_blocks_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = hostile_exif(5000)
    jpeg = encoded(drawing(6), "JPEG")
    at = jpeg.index(b"\xff\xdb")
    jpeg = (
        jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[at:]
    )  # no JFIF: Pillow looks for a density
    png = encoded(drawing(6))
    png = png[:33] + pictures.chunk(b"eXIf", exif[6:]) + png[33:]
    webp = encoded(drawing(6), "WEBP", exif=exif)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("an EXIF block was read")

    monkeypatch.setattr(Image.Exif, "load", never)
    assert [status(data) for data in (jpeg, png, webp)] == ["ok", "ok", "ok"]


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_cut_exif_blocks_are_upright(cut: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    for block in (raw[:cut], raw[:14] + b"\xff\xff\xff\xff" + raw[18:cut], raw[:10] + b"\xff" * cut):
        data = pictures.patched(encoded(drawing(1, (40, 20))), 0, b"")
        data = data[:33] + pictures.chunk(b"eXIf", block) + data[33:]
        assert decode(data).size in ((40, 20), (20, 40))


def test_pictures_packed_by_runs_are_bounded() -> None:
    head = b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078)
    head += struct.pack("<IiiHHIIiiII", 40, 2000, 2000, 1, 8, 1, 0, 0, 0, 256, 0) + bytes(1024)
    assert status(head + (b"\xfa\7" * 8 + b"\0\0") * 2000 + b"\0\1") == "ok"
    assert status(head + b"\1\7" * (3 << 20)) == "too much work"


def test_profiles_and_texts_are_not_read(tmp_path: Path) -> None:
    text = pictures.chunk(b"zTXt", b"k\0\0" + pictures.zlib.compress(bytes(65 << 20), 1))
    packed = pictures.zlib.compress((b"\0" + bytes(range(48))) * 16)
    found = statuses(
        tmp_path,
        {
            "profile.png": pictures.png_profile(50 << 20),
            "text.png": pictures.png(16, 16, packed, extra=text),
            "profile.jpg": encoded(drawing(1), "JPEG", icc_profile=bytes(12 << 20)),
        },
    )
    assert set(found.values()) == {"ok"}


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_the_first_frame_of_an_animation(form: str) -> None:
    frames = [drawing(n, (40, 30)).quantize(16) for n in (1, 2, 3)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    assert np.array_equal(np.asarray(decode(data)), np.asarray(frames[0].convert("RGB")))
    # what lies behind the first frame is not looked at
    if form == "GIF":
        assert status(data[: -len(data) // 3]) == "ok"


def test_scans_are_bounded() -> None:
    assert status(pictures.many_scans(100)) == "ok"
    assert status(pictures.many_scans(MAX_SCANS)) == "too much work"
    assert status(pictures.many_scans(10_000)) == "too much work"
    assert status(pictures.patched(pictures.many_scans(400), 0, b"\xff\xd8")) == "ok"


def test_scans_of_large_pictures_are_bounded_sooner() -> None:
    data = encoded(Image.new("L", (4096, 4096)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert status(data) == "ok"
    assert status(data[:-2] + last * 70 + b"\xff\xd9") == "too much work"


def test_files_of_tiny_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 20_000
    monkeypatch.setattr("curate._picture_bytes.MAX_BLOCKS", most)
    jpeg = encoded(drawing(1), "JPEG")
    assert status(jpeg[:2] + b"\xff\xfe\0\2" * 20_000 + jpeg[2:]) == "too much work"
    assert status(jpeg[:2] + b"\xff" * 100_000 + jpeg[2:]) == "too much work"
    gif = encoded(drawing(1), "GIF")
    at = gif.index(b"\x2c\0\0\0\0")
    assert status(gif[:at] + b"\x21\xfe" + b"\1a" * (most + 1) + b"\0" + gif[at:]) == "too much work"
    assert status(gif[:at] + b"\x21\xfe" + b"\1a" * 1000 + b"\0" + gif[at:]) == "ok"
    png = encoded(drawing(1))
    assert status(png[:33] + pictures.chunk(b"tEXt", b"") * (most + 1) + png[33:]) == "too much work"


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_no_bytes_do_more_than_give_a_status(name: str) -> None:
    form, options = FORMS[name]
    good = encoded(drawing(3, (64, 48)), form, **options)
    rng = np.random.default_rng(11)
    seen = set()
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(0, min(len(data), 2000)))] = int(rng.integers(0, 256))
        cut = len(data) if rng.random() < 0.7 else int(rng.integers(0, len(data)))
        seen.add(status(bytes(data[:cut])))
    assert seen <= set(STATUSES) and {"ok", "truncated"} <= seen | {"ok"}
