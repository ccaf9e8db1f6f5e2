"""`pool import` from webdataset tars, and uids: hostile and broken samples counted by reason."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.ingest import exit_error
from headwater.errors import BadInputs, IntegrityError, UsageError
from tests.curate.ingest_kit import COLUMNS, invalid, picture, rows_of, run, sample, write_tar

# ---- webdataset tars ----------------------------------------------------------------------------------------


def test_a_tar_with_json_keeps_its_facts_and_scalar_fields(tmp_path: Path) -> None:
    facts = {
        "uid": "ab" * 16,
        "url": "https://x/1",
        "sha256": "cd" * 32,
        "original_width": 900,
        "original_height": 700,
    }
    more = {
        "status": "success",
        "width": 40,
        "ratio": 1.5,
        "ok": True,
        "nested": [1],
        "face_bboxes": [[0.1, 0.2, 0.3, 0.4]],
    }
    write_tar(tmp_path / "src" / "00000000.tar", [sample("000000000", caption="a red boat", **facts, **more)])
    outcome = run(tmp_path / "src", tmp_path / "pool")
    (row,) = rows_of(tmp_path / "pool")
    assert row == {
        **facts,
        **{k: v for k, v in more.items() if k != "nested"},
        "text": "a red boat",
        "key": "000000000",
    }
    assert pq.read_schema(tmp_path / "pool" / "00000000.parquet").names[:7] == [
        *COLUMNS[:5],
        "face_bboxes",
        "sha256",
    ]
    assert exit_error(outcome) is None


def test_a_tar_without_json_gets_sizes_digest_and_uid_from_the_picture(tmp_path: Path) -> None:
    image = picture(33, 44, kind="JPEG")
    write_tar(tmp_path / "src" / "a.tar", [[("k.jpg", image), ("k.txt", b"ein Hund")]])
    run(tmp_path / "src", tmp_path / "pool")
    (row,) = rows_of(tmp_path / "pool")
    digest = hashlib.sha256(image).hexdigest()
    assert (row["original_width"], row["original_height"], row["sha256"]) == (33, 44, digest)
    assert row["uid"] == hashlib.sha256(digest.encode() + b"\0ein Hund").hexdigest()[:32]


def test_the_uid_comes_from_url_and_caption_where_there_is_a_url(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [sample("k", text="t", url="https://x/é")])
    run(tmp_path / "src", tmp_path / "pool")
    assert rows_of(tmp_path / "pool")[0]["uid"] == hashlib.sha256("https://x/é\0t".encode()).hexdigest()[:32]


def test_bad_samples_are_counted_by_reason_and_the_rest_is_kept(tmp_path: Path) -> None:
    good = sample("good")
    bad = [
        [("n.png", picture()), ("n.json", b"{}")],
        [("i.txt", b"no picture")],
        [("j.png", picture()), ("j.txt", b"x"), ("j.json", b'{"a": NaN}')],
        sample("u", text=b"\xff\xfe"),
        sample("h", image=b"<html>not a picture</html>"),
        sample("t", image=picture()[:20]),
        [("r.png", picture()), ("r.png", picture()), ("r.txt", b"x")],
        sample("s", text=None, caption="lone \ud800 surrogate"),
    ]
    write_tar(tmp_path / "src" / "a.tar", [good, *bad])
    outcome = run(tmp_path / "src", tmp_path / "pool")
    reasons = {
        "no_caption": 1,
        "no_image": 1,
        "bad_json": 1,
        "bad_utf8": 2,
        "unreadable_image": 2,
        "repeated_member": 1,
    }
    assert invalid(outcome) == reasons
    assert [row["key"] for row in rows_of(tmp_path / "pool")] == ["good"]
    assert any(line == "a.tar: sample n: no_caption" for line in outcome.step.details["bad"])
    error = exit_error(outcome)
    assert isinstance(error, BadInputs)
    assert "8 of 9 rows were left out" in error.message


def test_nothing_of_a_hostile_tar_is_written_outside(tmp_path: Path) -> None:
    members = [
        ("../../evil.png", picture()),
        ("../../evil.txt", b"x"),
        ("/abs.png", picture()),
        ("/abs.txt", b"y"),
    ]
    write_tar(
        tmp_path / "src" / "a.tar",
        [members, [("p.png", picture()), ("p.txt", b"z"), ("p.pkl", b"cos\nsystem\n")]],
    )
    run(tmp_path / "src", tmp_path / "deep" if (tmp_path / "deep").mkdir() else tmp_path / "deep" / "pool")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "src"]
    assert [row["key"] for row in rows_of(tmp_path / "deep" / "pool")] == ["evil", "abs", "p"]


@pytest.mark.parametrize("cut", range(512 * 4, 512 * 16, 256))
def test_a_truncated_tar_keeps_the_samples_before_the_cut(tmp_path: Path, cut: int) -> None:
    # a sample here is two members of two blocks each, and the last byte of its caption is the 1,546th
    path = write_tar(tmp_path / "src" / "a.tar", [sample(f"k{n}") for n in range(4)])
    path.write_bytes(path.read_bytes()[:cut])
    outcome = run(tmp_path / "src", tmp_path / "pool", on_bad="drop", uid="make")
    whole, rest = sum(cut >= 2048 * n + 1546 for n in range(4)), cut % 2048
    if whole == 1 and rest and cut < 2048 + 512 + len(picture()):
        whole = 0  # nothing before it shows what a whole sample of this tar has
    # the pictures are equal and so are their computed uids: what counts is how many samples were taken
    counts = outcome.step.identity.counts
    assert counts.kept + counts.invalid.get("repeated_uid", 0) == whole
    assert counts.invalid.get("truncated", 0) == (1 if rest else 0)
    assert (exit_error(outcome) is not None) == (rest > 0 or whole > 1)  # copies are told as well
    assert outcome.step.details.get("no_end_mark") == (["a.tar"] if cut % 1024 == 0 else None)


def test_a_header_that_lies_ends_the_import_and_writes_nothing(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "src" / "a.tar", [sample("k0"), sample("k1")])
    data = bytearray(path.read_bytes())
    data[130] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"a\.tar"):
        run(tmp_path / "src", tmp_path / "pool")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["src"]


def test_columns_that_only_the_table_beside_a_tar_has_are_joined_by_key(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "src" / "a.tar",
        [sample("k0", uid="0" * 32, text="x"), sample("k1", uid="1" * 32, text="y")],
    )
    table = {"key": ["k1", "gone", "k0"], "uid": ["f" * 32] * 3, "keywords": [["b"], [], ["a", "c"]]}
    pq.write_table(pa.table(table), tmp_path / "src" / "a.parquet")
    run(tmp_path / "src", tmp_path / "pool")
    found = [(row["uid"][0], row["keywords"]) for row in rows_of(tmp_path / "pool")]
    assert found == [("0", ["a", "c"]), ("1", ["b"])]


def test_fields_of_different_kinds_become_one_column(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "src" / "a.tar",
        [sample("k0", text="x", v=1, w=1, n=None), sample("k1", text="y", v=2, w=2)],
    )
    write_tar(tmp_path / "src" / "b.tar", [sample("k2", text="z", v=0.5, w="word", n=None)])
    run(tmp_path / "src", tmp_path / "pool")
    rows = rows_of(tmp_path / "pool")
    assert [row["v"] for row in rows] == [1.0, 2.0, 0.5]
    assert [row["w"] for row in rows] == ["1", "2", "word"]
    assert [row["n"] for row in rows] == [None, None, None]


# ---- uids ---------------------------------------------------------------------------------------------------

MALFORMED = ["a" * 31, "a" * 33, "A" * 32, "g" * 32, " " + "a" * 31, "0x" + "a" * 30]


@pytest.mark.parametrize("uid", MALFORMED)
def test_a_malformed_uid_is_refused_with_its_row(tmp_path: Path, uid: str) -> None:
    write_tar(tmp_path / "src" / "a.tar", [sample("k0", uid="0" * 32), sample("k1", uid=uid)])
    table = pa.table({"uid": ["0" * 32, uid], "text": ["x", "y"], "url": ["u", "v"]})
    (tmp_path / "tables").mkdir()
    pq.write_table(table, tmp_path / "tables" / "t.parquet")
    with pytest.raises(IntegrityError, match=r"a\.tar: sample k1: uid"):
        run(tmp_path / "src", tmp_path / "pool")
    with pytest.raises(IntegrityError, match=r"t\.parquet: row 1: uid"):
        run(tmp_path / "tables", tmp_path / "pool")
    for name in ("src", "tables"):
        outcome = run(tmp_path / name, tmp_path / f"pool-{name}", on_bad="drop")
        assert invalid(outcome) == {"malformed_uid": 1}
        assert isinstance(exit_error(outcome), BadInputs)
        assert [row["uid"] for row in rows_of(tmp_path / f"pool-{name}")] == ["0" * 32]


def test_a_uid_that_occurs_twice_is_refused_or_kept_once(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "src" / "a.tar", [sample("k0", uid="0" * 32, text="first"), sample("k1", uid="1" * 32)]
    )
    write_tar(
        tmp_path / "src" / "b.tar", [sample("k0", uid="2" * 32), sample("k1", uid="0" * 32, text="second")]
    )
    with pytest.raises(IntegrityError, match=r"b\.tar: row 1: uid 0+ is also that of a\.tar: row 0"):
        run(tmp_path / "src", tmp_path / "pool")
    outcome = run(tmp_path / "src", tmp_path / "pool", on_bad="drop")
    assert invalid(outcome) == {"repeated_uid": 1}
    assert [row["text"] for row in rows_of(tmp_path / "pool") if row["uid"] == "0" * 32] == ["first"]


def test_a_copy_of_picture_and_caption_is_left_out_and_told(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [sample("k0"), sample("k1"), sample("k2", text="another")])
    outcome = run(tmp_path / "src", tmp_path / "pool")
    assert invalid(outcome) == {"repeated_uid": 1}
    assert len(rows_of(tmp_path / "pool")) == 2


def test_uid_policies(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [sample("k0", uid="0" * 32, text="x"), sample("k1", text="y")])
    run(tmp_path / "src", tmp_path / "auto")
    assert rows_of(tmp_path / "auto")[0]["uid"] == "0" * 32
    run(tmp_path / "src", tmp_path / "make", uid="make")
    assert rows_of(tmp_path / "make")[0]["uid"] != "0" * 32
    with pytest.raises(IntegrityError, match="sample k1: no uid"):
        run(tmp_path / "src", tmp_path / "source", uid="source")
    with pytest.raises(UsageError, match="did you mean 'auto'"):
        run(tmp_path / "src", tmp_path / "x", uid="atuo")
