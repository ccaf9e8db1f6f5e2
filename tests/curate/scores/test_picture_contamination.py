"""The scorer picture_contamination: against a statement that compares every picture with every reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.pictures import Picture, PictureError
from curate.scores import phash
from headwater.errors import MissingInput, UsageError
from tests.curate.feature_kit import scored, scored_with_facts
from tests.curate.picture_kit import Sample, drawing, encoded, make, plain, samples, uid_of, write_tar

FULL = (1 << 64) - 1
DEFAULTS = {"distance": 6, "correlation": 0.98, "contrast": 4.0}
SIZE = (96, 64)


def reference_set(folder: Path) -> dict[str, bytes]:
    """A set with a tar in a folder, files, one that does not open, and what is passed over; name -> bytes."""
    tar = [Sample(None, encoded(drawing(n, SIZE), "WEBP"), "webp", "class") for n in (1, 2)]
    write_tar(folder / "test" / "0.tar", [*tar, Sample(None, b"junk", "jpg")])
    files = {
        "b/one.jpg": encoded(drawing(1, SIZE), "JPEG", quality=70),
        "a.PNG": encoded(drawing(3, (48, 32))),
        "plain.bmp": encoded(Image.new("RGB", (32, 32), (200, 200, 200)), "BMP"),
        "broken.gif": b"GIF89a",
        "z/same.png": encoded(drawing(5, SIZE)),
        "z/same too.png": encoded(drawing(5, SIZE), optimize=True),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / ".hidden.png").write_bytes(encoded(drawing(7, SIZE)))
    (folder / "labels.txt").write_text("1")
    return files | {f"test/0.tar:{i:06d}.webp": row.data for i, row in enumerate(tar) if row.data}


def facts_of(data: bytes) -> tuple[dict[str, Any], Any] | None:
    picture = Picture(uid=uid_of(1), key="", data=data)
    try:
        image = picture.open()
    except PictureError:
        return None
    answers = phash.Scorer(phash.Config()).score_pictures([picture])
    small = np.asarray(image.resize((32, 32), Image.Resampling.BOX), float).reshape(-1)
    return {k: v[0].as_py() for k, v in answers.items()}, small


def slow(
    pictures: dict[str, bytes], refs: dict[str, bytes], config: dict[str, Any]
) -> dict[str, tuple[int, str | None]]:
    out: dict[str, tuple[int, str | None]] = {}
    known = {name: found for name, data in refs.items() if (found := facts_of(data))}
    for uid, data in pictures.items():
        mine = facts_of(data)
        assert mine is not None
        best: list[tuple[int, float, str]] = []
        for name, (ref, small) in known.items():
            bits = ((mine[0]["phash"] ^ ref["phash"]) & FULL).bit_count()
            spread = mine[1].std() * small.std()
            fit = float(np.corrcoef(mine[1], small)[0, 1]) if spread else 0.0
            busy = min(mine[0]["phash_contrast"], ref["phash_contrast"]) >= config["contrast"]
            if mine[0]["phash_pixels"] == ref["phash_pixels"]:
                best.append((0, -fit, name))
            elif bits <= config["distance"] and busy and fit >= config["correlation"]:
                best.append((bits, -fit, name))
        out[uid] = (min(best)[0], min(best)[2]) if best else (64, None)
    return out


def pool_pictures() -> dict[str, bytes]:
    made = [encoded(drawing(n, SIZE)) for n in range(6)]
    made += [
        encoded(drawing(1, SIZE).resize((50, 40))),
        plain(200),
        plain(201),
        encoded(drawing(3, SIZE), "JPEG"),
    ]
    return {uid_of(n + 1): data for n, data in enumerate(made)}


@pytest.mark.parametrize("config", [{}, {"distance": 0}, {"distance": 11, "correlation": 0.5}])
def test_answers_are_those_of_the_slow_statement(tmp_path: Path, config: dict[str, Any]) -> None:
    refs = reference_set(tmp_path / "set")
    pictures = pool_pictures()
    pool, tars = make(tmp_path, {"a.tar": [Sample(uid, data) for uid, data in pictures.items()]})
    table, facts = scored_with_facts(
        pool, "picture_contamination", shards=tars, reference=tmp_path / "set", **config
    )
    found = {
        row["uid"]: (row["picture_contamination_distance"], row["picture_contamination_of"])
        for row in table.to_pylist()
    }
    assert found == slow(pictures, refs, DEFAULTS | config)
    assert facts["notes"]["references"] == 7 and facts["notes"]["references that do not open"] == 2
    near = [of for _, of in found.values() if of]
    assert facts["notes"]["contaminated rows"] == len(near) and {"z/same too.png", "plain.bmp"} <= set(near)


def test_matches_tell_every_pair_that_was_looked_at(tmp_path: Path) -> None:
    reference_set(tmp_path / "set")
    pictures = pool_pictures()
    rows = [Sample(uid, data) for uid, data in pictures.items()]
    again = Sample(uid_of(100), pictures[uid_of(2)])
    pool, tars = make(tmp_path, {"a.tar": [*rows, again]})
    table, facts = scored_with_facts(
        pool, "picture_contamination", shards=tars, reference=tmp_path / "set", correlation=0.999
    )
    matches = pq.read_table(facts["folder"] / "matches.parquet")
    assert matches.schema.names == ["uid", "of", "distance", "correlation", "verified"]
    listed = matches.to_pylist()
    assert {row["verified"] for row in listed} == {True, False}
    assert listed == sorted(listed, key=lambda row: (row["uid"], row["of"]))
    for row in listed:
        assert row["distance"] <= 6 and -1 <= row["correlation"] <= 1.000001
        assert row["verified"] == (row["correlation"] >= 0.999 or row["of"] == "plain.bmp")
    both = [r["picture_contamination_of"] for r in table.to_pylist() if r["uid"] in (uid_of(2), uid_of(100))]
    assert len(both) == 2 and len(set(both)) == 1
    assert uid_of(2) in matches["uid"].to_pylist() or uid_of(100) in matches["uid"].to_pylist()


def test_the_order_of_tars_and_files_does_not_matter(tmp_path: Path) -> None:
    reference_set(tmp_path / "set")
    rows = [Sample(uid, data) for uid, data in pool_pictures().items()]
    one, tars = make(tmp_path / "1", {"a.tar": rows})
    two, others = make(tmp_path / "2", {"b.tar": rows[6:], "c.tar": rows[:6][::-1]}, shards=3)
    answers = [
        scored(pool, "picture_contamination", shards=folder, reference=tmp_path / "set", correlation=0.9)
        for pool, folder in ((one, tars), (two, others))
    ]
    assert answers[0].equals(answers[1])


def test_one_file_or_tar_may_be_the_reference(tmp_path: Path) -> None:
    reference_set(tmp_path / "set")
    pool, tars = make(tmp_path, {"a.tar": [Sample(uid_of(3), encoded(drawing(3, SIZE)))]})
    for name, of in (("a.PNG", "a.PNG"), ("test/0.tar", None)):
        table = scored(pool, "picture_contamination", shards=tars, reference=tmp_path / "set" / name)
        assert table["picture_contamination_of"].to_pylist() == [of]


def test_another_reference_is_another_score(tmp_path: Path) -> None:
    reference_set(tmp_path / "set")
    pool, tars = make(tmp_path, {"a.tar": samples([1])})
    config = {"shards": tars, "reference": tmp_path / "set"}
    _, first = scored_with_facts(pool, "picture_contamination", **config)
    (tmp_path / "set" / "more.png").write_bytes(encoded(drawing(1)))
    table, second = scored_with_facts(pool, "picture_contamination", **config)
    assert first["folder"] != second["folder"]
    assert table["picture_contamination_distance"].to_pylist() == [0]
    assert table["picture_contamination_of"].to_pylist() == ["more.png"]


def test_rows_without_a_hash_and_small_pools(tmp_path: Path) -> None:
    reference_set(tmp_path / "set")
    config = {"reference": tmp_path / "set"}
    pool, tars = make(tmp_path, {"a.tar": [Sample(uid_of(1), b"junk")]}, [uid_of(1), uid_of(2)])
    table, facts = scored_with_facts(pool, "picture_contamination", shards=tars, **config)
    assert facts["counts"]["invalid"] == {"no perceptual hash": 2}
    assert table["picture_contamination_distance"].null_count == 2
    pool, tars = make(tmp_path / "2", {"a.tar": samples([1])}, [], shards=1)
    assert scored(pool, "picture_contamination", shards=tars, **config).num_rows == 0


def test_a_reference_must_be_named_and_hold_pictures(tmp_path: Path) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1])})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no evaluation set is named"):
        scored(pool, "picture_contamination", shards=tars)
    for name, words in (("nowhere", "no such evaluation set"), ("empty", "no tars and no pictures")):
        with pytest.raises(MissingInput, match=words):
            scored(pool, "picture_contamination", shards=tars, reference=tmp_path / name)


def test_references_none_of_which_opens(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(b"junk")
    pool, tars = make(tmp_path, {"a.tar": samples([1])})
    table = scored(pool, "picture_contamination", shards=tars, reference=tmp_path / "set")
    assert table["picture_contamination_distance"].to_pylist() == [64]
