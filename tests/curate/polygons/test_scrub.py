"""Scrubbed photos: what is private is gone, the pixels' bytes are the same, and a sealed sidecar brings the original back (fault row 58)."""

from __future__ import annotations

import io
import os
import stat
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curate.polygons.exif import photo_of
from curate.polygons.intake import take_in
from curate.polygons.labelme import read_labelme
from curate.polygons.labelme_writing import write_labelme
from curate.polygons.scrub import scrub_annotations, scrub_bytes, scrub_folder
from curate.polygons.sealing import Copy, Key, Literal, make_key, read_key, seal, unseal
from headwater.errors import BadInputs, IntegrityError, MissingInput, SignatureFailure, UsageError
from tests.curate.polygons.photo_kit import (
    GPS,
    exif_bytes,
    photo,
    picture_bytes,
    pixels,
    polygon,
    sidecar,
    tree_bytes,
)
from tests.curate.polygons.private_kit import FORMATS, SECRET, private_exif, private_picture, stored

KEY = Key(bytes(range(64)))


@pytest.mark.parametrize("form", FORMATS)
def test_a_clean_picture_is_not_changed(form: str) -> None:
    data = picture_bytes(form)
    assert scrub_bytes(data).data == data
    assert scrub_bytes(data, orientation="apply").data == data


def test_times_can_go_as_well() -> None:
    found = scrub_bytes(private_picture("JPEG"), keep_times=False)
    assert "times" in found.removed
    assert b"2024:05:01" not in found.data
    assert photo_of(found.data).taken is None


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_applied(form: str, orientation: int) -> None:
    data = private_picture(form, orientation)
    found = scrub_bytes(data, orientation="apply")
    assert SECRET.encode() not in found.data
    assert found.coded_again == (orientation != 1)
    after = photo_of(found.data)
    assert (after.orientation, after.private, after.taken) == (None, (), "2024-05-01T10:20:30+02:00")
    apart = np.abs(stored(found.data).astype(int) - stored(data, shown=True))
    assert apart.mean() < 3 if form == "JPEG" else not apart.any()


@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_other_kinds_are_turned(sampling: int, mode: str) -> None:
    out = io.BytesIO()
    image = Image.fromarray(pixels()).convert(mode)
    image.save(out, "JPEG", exif=private_exif(8), subsampling=sampling, quality=95)
    found = scrub_bytes(out.getvalue(), orientation="apply")
    turned = Image.open(io.BytesIO(found.data))
    assert (turned.mode, turned.size) == (mode, (24, 40))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", ["keep", "apply"])
def test_a_sealed_sidecar_brings_the_original_back(form: str, orientation: str) -> None:
    data = private_picture(form)
    found = scrub_bytes(data, orientation=orientation)
    sidecar_bytes = seal("a/b.jpg", data, found.data, found.ops, KEY)
    assert SECRET.encode() not in sidecar_bytes and b"b.jpg" not in sidecar_bytes
    assert sidecar_bytes == seal("a/b.jpg", data, found.data, found.ops, KEY)
    assert unseal(sidecar_bytes, found.data, KEY) == ("a/b.jpg", data)
    if orientation == "keep":
        kept = sum(op.length for op in found.ops if isinstance(op, Copy))
        assert kept + sum(len(op.data) for op in found.ops if isinstance(op, Literal)) == len(data)
        assert len(sidecar_bytes) < len(data) + 2000 - kept  # the picture itself is not in it
    with pytest.raises(SignatureFailure, match="key"):
        unseal(sidecar_bytes, found.data, Key(bytes(64)))
    for at in (8, len(sidecar_bytes) // 2, len(sidecar_bytes) - 1):
        changed = bytearray(sidecar_bytes)
        changed[at] ^= 1
        with pytest.raises(SignatureFailure):
            unseal(bytes(changed), found.data, KEY)
    with pytest.raises(IntegrityError, match="belongs to"):
        unseal(sidecar_bytes, found.data + b"x", KEY)
    with pytest.raises(IntegrityError, match="not a sealed"):
        unseal(b"x", found.data, KEY)


def test_keys_are_files_of_their_owner(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    assert read_key(tmp_path / "key") == key
    assert stat.S_IMODE(os.stat(tmp_path / "key").st_mode) == 0o600
    assert "secret" not in repr(key) and repr(key.secret) not in repr(key)
    with pytest.raises(UsageError, match="exists"):
        make_key(tmp_path / "key")
    with pytest.raises(MissingInput):
        read_key(tmp_path / "no")
    for text in ("", "headwater-seal-key-1:", "headwater-seal-key-1:AAAA", "x" * 2000):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(SignatureFailure):
            read_key(tmp_path / "bad")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damaged_files_are_refused_or_scrubbed(form: str, data: st.DataObject) -> None:
    damaged = bytearray(private_picture(form))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = scrub_bytes(bytes(damaged), orientation=data.draw(st.sampled_from(["keep", "apply"])))
    except (IntegrityError, BadInputs):
        return
    assert photo_of(found.data).private == ()
    assert unseal(seal("x", bytes(damaged), found.data, found.ops, KEY), found.data, KEY)[1] == bytes(damaged)


def test_a_broken_block_goes_and_its_orientation_stays() -> None:
    block = bytearray(private_exif(6, thumbnail=False))
    data = picture_bytes("JPEG", exif=bytes(block))
    at = (
        data.index(struct.pack("<HHI", 0x013B, 2, len(SECRET) + 1))
        if block[6:8] == b"II"
        else data.index(struct.pack(">HHI", 0x013B, 2, len(SECRET) + 1))
    )
    broken = data[: at + 4] + b"\x7f\xff\xff\x7f" + data[at + 8 :]
    assert photo_of(broken).trouble
    found = scrub_bytes(broken)
    assert SECRET.encode() not in found.data and "exif" in found.removed
    assert photo_of(found.data).orientation == photo_of(broken).orientation


def test_huge_values_of_harmless_tags_go() -> None:
    found = scrub_bytes(picture_bytes(exif=exif_bytes(3, main={0x010F: "x" * 60000})))
    after = photo_of(found.data)
    assert (after.orientation, after.make, found.removed) == (3, None, ("other tags",))


@pytest.mark.parametrize("orientation", ["keep", "apply"])
def test_a_folder_with_its_polygons(tmp_path: Path, orientation: str) -> None:
    source, target, vault = tmp_path / "in", tmp_path / "out", tmp_path / "vault"
    ring = [[4.0, 3.0], [14.0, 3.0], [14.0, 9.0]]
    for turn in range(1, 9):
        photo(source, f"s/{turn}", turn, gps=GPS, taken="2024:05:01 10:20:30")
        sidecar(source, f"s/{turn}", [polygon(points=ring)], (24, 40) if turn > 4 else (40, 24))
    (source / "cut.jpg").write_bytes(picture_bytes()[:200])
    found = take_in(source)
    before = tree_bytes(source)
    names = [*found.annotations.images["file_name"].to_pylist(), "cut.jpg", "gone.jpg", "../x.jpg"]
    report = scrub_folder(names, source, target, orientation=orientation, sealed=(vault, KEY))
    assert tree_bytes(source) == before
    assert sorted(name for name, _ in report.bad) == ["../x.jpg", "cut.jpg", "gone.jpg"]
    assert sorted(tree_bytes(target)) == [f"s/{turn}.jpg" for turn in range(1, 9)]
    for name, data in tree_bytes(target).items():
        assert unseal((vault / f"{name}.sealed").read_bytes(), data, KEY) == (name, before[name])
    clean = scrub_annotations(found.annotations, report, orientation=orientation)
    assert '"gps"' in str(found.annotations.images["extra"].to_pylist())
    assert '"gps"' not in str(clean.images["extra"].to_pylist())
    assert clean.images["datetime"].to_pylist() == ["2024-05-01T10:20:30"] * 8
    write_labelme(clean, tmp_path / "labelme", pictures=target)
    again = read_labelme(tmp_path / "labelme")
    assert again.images["sha256"].to_pylist() == [row["sha256_after"] for row in report.rows]
    for row in range(8):
        points = again.polygons_of(row)[0][0].tolist()
        assert points == (
            ring if orientation == "apply" else found.annotations.polygons_of(row)[0][0].tolist()
        )
    assert take_in(tmp_path / "labelme").bad == []


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    photo(tmp_path / "in", "a")
    with pytest.raises(UsageError):
        scrub_bytes(picture_bytes(), orientation="turn")
    with pytest.raises(UsageError):
        scrub_folder([], tmp_path / "in", tmp_path / "out", orientation="turn")
    with pytest.raises(UsageError, match="not empty"):
        scrub_folder(["a.jpg"], tmp_path / "in", tmp_path / "in")
    with pytest.raises(UsageError, match="published"):
        scrub_folder(["a.jpg"], tmp_path / "in", tmp_path / "out", sealed=(tmp_path / "out" / "v", KEY))
    animation = io.BytesIO()
    first, second = (Image.fromarray(pixels(seed=seed)) for seed in (1, 2))
    first.save(animation, "WEBP", save_all=True, append_images=[second], exif=exif_bytes(6))
    with pytest.raises(BadInputs, match="animation"):
        scrub_bytes(animation.getvalue(), orientation="apply")
    assert photo_of(scrub_bytes(animation.getvalue()).data).orientation == 6
