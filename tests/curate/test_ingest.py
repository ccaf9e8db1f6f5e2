"""`pool import`: the three sources, hostile and broken rows, same bytes whatever the workers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate import _ingest_tars as _tars
from curate.ingest import exit_error, import_pool
from curate.pool import MANIFEST_NAME, Pool
from curate.validate import validate_pool
from headwater.errors import BadInputs, HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.executor import Executor
from headwater.manifest import Manifest, verify_entries
from headwater.steps import Outcome, RunOptions

ROOT = Path(__file__).resolve().parents[2]
OPENCLIPART = ROOT / "examples" / "openclipart" / "pool"
SERIAL = Executor("serial", 1)
COLUMNS = ["uid", "url", "text", "original_width", "original_height", "sha256"]


def picture(
    width: int = 40, height: int = 30, *, kind: str = "PNG", orientation: int | None = None, tint: int = 0
) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", (width, height), (tint % 256, 10, 10)).save(out, kind, exif=exif)
    return out.getvalue()


def sample(
    key: str, *, image: bytes | None = None, text: str | bytes | None = "a red boat", **fields: Any
) -> list[tuple[str, bytes]]:
    members = [(f"{key}.png", picture() if image is None else image)]
    if text is not None:
        members.append((f"{key}.txt", text if isinstance(text, bytes) else text.encode()))
    if fields:
        members.append((f"{key}.json", json.dumps(fields).encode()))
    return members


def write_tar(path: Path, samples: list[list[tuple[str, bytes]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (member for one in samples for member in one):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def run(source: Path, output: Path, **how: Any) -> Outcome:
    how.setdefault("executor", SERIAL)
    outcome = import_pool(source, output, options=RunOptions(), **how)
    assert outcome is not None
    return outcome


def rows_of(pool: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(pool.glob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]


def invalid(outcome: Outcome) -> dict[str, int]:
    return dict(outcome.step.identity.counts.invalid)


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


# ---- pictures and captions ----------------------------------------------------------------------------------


def folder_of_pictures(tmp_path: Path, rows: list[dict[str, Any]], form: str, names: list[str]) -> Path:
    root = tmp_path / "pictures"
    for at, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        kind = "JPEG" if name.endswith("jpg") else "PNG"
        (root / name).write_bytes(
            picture(20 + at, 10 + at, kind=kind, orientation=6 if at == 1 else None, tint=at)
        )
    path = root / f"captions.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = {"csv": ",", "tsv": "\t"}[form]
        lines = [separator.join(rows[0])] + [
            separator.join('"' + str(v) + '"' for v in row.values()) for row in rows
        ]
        path.write_text("\ufeff" + "\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_pictures_with_a_captions_file(tmp_path: Path, form: str) -> None:
    names = ["a.jpg", "sub/b.jpg", "sub/deep/c d.png"]
    rows = [{"file_name": name, "caption": f"caption, of\n{name}", "tag": "t"} for name in names]
    root = folder_of_pictures(tmp_path, rows, form, names)
    outcome = run(root, tmp_path / "pool")
    found = rows_of(tmp_path / "pool")
    assert [row["file"] for row in found] == names
    assert [row["text"] for row in found] == [row["caption"] for row in rows]
    assert [(row["original_width"], row["original_height"]) for row in found] == [
        (20, 10),
        (21, 11),
        (22, 12),
    ]
    assert [row["exif_orientation"] for row in found] == [None, 6, None]
    assert [row["sha256"] for row in found] == [
        hashlib.sha256((root / n).read_bytes()).hexdigest() for n in names
    ]
    assert {row["tag"] for row in found} == {"t"}
    assert outcome.step.details["rotated_by_exif"] == 1
    assert exit_error(outcome) is None


def test_bad_rows_and_pictures_without_a_caption_are_told(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "lonely.png"]
    rows = [{"file": name, "text": "t"} for name in ["a.jpg", "gone.jpg", "b.jpg", "./b.jpg", ""]]
    rows[2]["text"] = ""
    root = folder_of_pictures(tmp_path, rows, "csv", names)
    (root / "fake.png").write_text("<html>")
    with open(root / "captions.csv", "a") as handle:
        handle.write('"fake.png","t"\n')
    outcome = run(root, tmp_path / "pool")
    reasons = {"missing_image": 1, "no_caption": 2, "no_file_name": 1, "unreadable_image": 1}
    assert invalid(outcome) == reasons
    assert [row["file"] for row in rows_of(tmp_path / "pool")] == ["a.jpg", "./b.jpg"]
    assert "lonely.png: no_caption" in outcome.step.details["bad"]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "/ABS/secret.png",
        "sub/../../secret.png",
        "link.png",
        "linked/secret.png",
        "..\\secret.png",
    ],
)
def test_a_file_name_that_leaves_the_folder_is_never_opened(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    root = folder_of_pictures(
        tmp_path, [{"file": name.replace("/ABS", str(tmp_path)), "text": "t"}], "jsonl", ["sub/a.jpg"]
    )
    (root / "link.png").symlink_to(secret)
    (root / "linked").symlink_to(tmp_path)
    outcome = run(root, tmp_path / "pool")
    assert invalid(outcome)["unsafe_name"] == 1
    assert rows_of(tmp_path / "pool") == []


def test_a_pipe_among_the_pictures_is_never_opened(tmp_path: Path) -> None:
    root = folder_of_pictures(tmp_path, [{"file": "pipe.png", "text": "t"}], "jsonl", ["a.jpg"])
    os.mkfifo(root / "pipe.png")
    assert invalid(run(root, tmp_path / "pool")) == {"missing_image": 1, "no_caption": 1}


def test_columns_that_could_be_several_are_a_usage_error_that_names_the_option(tmp_path: Path) -> None:
    rows = [{"path": "a.jpg", "image": "a.jpg", "title": "t", "caption": "c"}]
    root = folder_of_pictures(tmp_path, rows, "jsonl", ["a.jpg"])
    with pytest.raises(UsageError, match="path, image") as error:
        run(root, tmp_path / "pool")
    assert error.value.hint == "--map file=path chooses one"
    run(root, tmp_path / "pool", mapping={"file": "path", "text": "title"})
    assert rows_of(tmp_path / "pool")[0]["text"] == "t"
    with pytest.raises(UsageError, match="did you mean 'title'"):
        run(root, tmp_path / "other", mapping={"file": "path", "text": "titel"})


def test_two_captions_files_are_a_usage_error(tmp_path: Path) -> None:
    root = folder_of_pictures(tmp_path, [{"file": "a.jpg", "text": "t"}], "csv", ["a.jpg"])
    (root / "more.jsonl").write_text("{}")
    with pytest.raises(UsageError, match=r"captions\.csv, more\.jsonl"):
        run(root, tmp_path / "pool")
    run(root, tmp_path / "pool", captions=root / "captions.csv")


def test_a_text_file_beside_each_picture_is_its_caption(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for name in ("a", "b"):
        (root / f"{name}.png").write_bytes(picture(tint=ord(name)))
    (root / "a.txt").write_text("a caption\n")
    outcome = run(root, tmp_path / "pool")
    assert [row["text"] for row in rows_of(tmp_path / "pool")] == ["a caption"]
    assert invalid(outcome) == {"no_caption": 1}


def test_a_stated_digest_that_does_not_fit_the_picture_is_told(tmp_path: Path) -> None:
    root = folder_of_pictures(
        tmp_path, [{"file": "a.jpg", "text": "t", "sha256": "0" * 64}], "jsonl", ["a.jpg"]
    )
    assert invalid(run(root, tmp_path / "pool")) == {"sha256_mismatch": 1}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'file,text\na.jpg,"open quote\n', "line"),
        (b"file,text\na.jpg,one,two\n", "line 2: not 2 fields"),
        (b"file,text\na.jpg,\xff\n", "not UTF-8"),
        (b"file,file\na.jpg,b\n", "two columns"),
    ],
)
def test_a_broken_csv_names_its_line(tmp_path: Path, content: bytes, match: str) -> None:
    root = folder_of_pictures(tmp_path, [{"file": "a.jpg", "text": "t"}], "csv", ["a.jpg"])
    (root / "captions.csv").write_bytes(content)
    with pytest.raises((IntegrityError, UsageError), match=match):
        run(root, tmp_path / "pool")


# ---- Parquet ------------------------------------------------------------------------------------------------


def test_a_datacomp_pool_passes_through_with_its_features(tmp_path: Path, tiny_pool: Any) -> None:
    source = tiny_pool(rows=40, shards=2)
    for path in sorted(source.glob("*.parquet")):
        np.savez(path.with_suffix(".npz"), b32_img=np.zeros((20, 4), np.float16))
    table = pq.ParquetFile(source / "00000000.parquet").read()
    good = [bool(text) for text in table["text"].to_pylist()]
    outcome = run(source, tmp_path / "out")
    assert rows_of(tmp_path / "out")[: sum(good)] == [
        row for row, ok in zip(table.to_pylist(), good, strict=True) if ok
    ]
    assert invalid(outcome) == {"no_caption": 40 - len(rows_of(tmp_path / "out"))}
    # rows were left out, so features would be shifted: they are not copied, and that is recorded
    assert outcome.step.details["features_left_out"] == ["00000000", "00000001"]


def test_features_are_copied_where_every_row_is_kept_and_refused_where_they_do_not_fit(
    tmp_path: Path,
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    pq.write_table(pa.table({"uid": ["a" * 32, "b" * 32], "text": ["x", "y"]}), source / "s.parquet")
    np.savez(source / "s.npz", b32_img=np.zeros((2, 4), np.float16))
    run(source, tmp_path / "pool")
    assert (tmp_path / "pool" / "s.npz").read_bytes() == (source / "s.npz").read_bytes()
    np.savez(source / "s.npz", b32_img=np.zeros((3, 4), np.float16))
    with pytest.raises(IntegrityError, match=r"'b32_img' has 3 rows, its shard has 2"):
        run(source, tmp_path / "other")
    np.savez(source / "s.npz", b32_img=np.array([{}, {}], object))
    with pytest.raises(IntegrityError, match="Python objects"):
        run(source, tmp_path / "other")
    run(source, tmp_path / "other", features=False)
    assert not list((tmp_path / "other").glob("*.npz"))


def test_other_column_names_are_mapped_and_types_made_datacomps(tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    table = pa.table(
        {
            "image_url": pa.array(["https://a", "https://b"], pa.large_string()),
            "alt": pa.array(["x", "y"]).dictionary_encode(),
            "width": pa.array([10, 20], pa.int32()),
            "height": pa.array([10, 20], pa.int16()),
            "extra": pa.array([1, 2], pa.uint8()),
        }
    )
    pq.write_table(table, source)
    with pytest.raises(UsageError, match="no caption column"):
        run(source, tmp_path / "pool")
    run(source, tmp_path / "pool", mapping={"text": "alt"})
    schema = pq.read_schema(tmp_path / "pool" / "t.parquet")
    assert schema.names == ["uid", "url", "text", "original_width", "original_height", "extra"]
    assert [str(schema.field(n).type) for n in schema.names] == [
        "string",
        "string",
        "string",
        "int64",
        "int64",
        "uint8",
    ]
    assert rows_of(tmp_path / "pool")[0]["uid"] == hashlib.sha256(b"https://a\0x").hexdigest()[:32]


def test_schema_drift_is_widened_or_refused_with_file_and_column(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()

    def shard(name: str, **columns: pa.Array) -> None:
        uid = pa.array([name * 32])
        pq.write_table(pa.table({"uid": uid, "text": pa.array(["t"]), **columns}), source / f"{name}.parquet")

    score = "clip_l14_similarity_score"
    shard("a", **{score: pa.array([0.25], pa.float32())}, original_width=pa.array([5], pa.int32()))
    shard("b", **{score: pa.array([0.5], pa.float64())}, original_width=pa.array([6], pa.int64()))
    run(source, tmp_path / "pool")
    assert [row[score] for row in rows_of(tmp_path / "pool")] == [0.25, 0.5]
    assert {str(pq.read_schema(p).field(score).type) for p in (tmp_path / "pool").glob("*.parquet")} == {
        "double"
    }
    shard("c", **{score: pa.array([0.5], pa.float32())})
    with pytest.raises(IntegrityError, match=r"c\.parquet: column 'original_width' is missing"):
        run(source, tmp_path / "other")
    shard("c", **{score: pa.array([0.5], pa.float32())}, original_width=pa.array(["wide"]))
    with pytest.raises(UsageError, match="'original_width' is string"):
        run(source, tmp_path / "other")


def test_a_damaged_or_empty_parquet_is_an_integrity_error(tmp_path: Path, tiny_pool: Any) -> None:
    source = tiny_pool(rows=60, shards=2)
    whole = (source / "00000001.parquet").read_bytes()
    for keep in [0, *(len(whole) * part // 16 for part in range(1, 16))]:
        (source / "00000001.parquet").write_bytes(whole[:keep])
        with pytest.raises(IntegrityError, match=r"00000001\.parquet"):
            run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_large_table_becomes_several_shards(tmp_path: Path) -> None:
    table = pa.table({"url": [f"u{n}" for n in range(25)], "text": ["t"] * 25})
    pq.write_table(table, tmp_path / "t.parquet")
    run(tmp_path / "t.parquet", tmp_path / "pool", rows_per_shard=10)
    pool = Pool.open(tmp_path / "pool")
    assert [(shard.name, shard.rows) for shard in pool.shards] == [
        ("t-0000", 10),
        ("t-0001", 10),
        ("t-0002", 5),
    ]
    assert [row["url"] for row in rows_of(tmp_path / "pool")] == [f"u{n}" for n in range(25)]


def test_invalid_utf8_and_empty_captions_are_left_out_nul_is_kept(tmp_path: Path) -> None:
    text = pa.array([b"ok", b"\xff\xfe", b"", None, b"nul\0inside", "\u200b".encode()], pa.binary())
    values = pa.Array.from_buffers(pa.string(), 6, text.buffers(), text.null_count)
    pq.write_table(pa.table({"url": [f"u{n}" for n in range(6)], "text": values}), tmp_path / "t.parquet")
    outcome = run(tmp_path / "t.parquet", tmp_path / "pool")
    assert invalid(outcome) == {"bad_utf8": 1, "no_caption": 2}
    assert [row["text"] for row in rows_of(tmp_path / "pool")] == ["ok", "nul\0inside", "\u200b"]


# ---- the pool that comes out --------------------------------------------------------------------------------


def test_bytes_do_not_depend_on_workers_and_a_second_run_is_up_to_date(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for number in range(5):
        samples = [
            sample(f"{number}{n}", text=f"caption {number} {n}", n=n, url=f"u{number}{n}") for n in range(7)
        ]
        write_tar(source / f"{number:08d}.tar", samples)
    one = run(source, tmp_path / "one", rows_per_shard=10)
    three = run(source, tmp_path / "three", rows_per_shard=10, executor=Executor("pool", 3))
    assert [e.sha256 for e in one.step.identity.outputs] == [e.sha256 for e in three.step.identity.outputs]
    assert sorted(p.name for p in (tmp_path / "one").glob("*.parquet")) == [
        f"{n:08d}.parquet" for n in range(4)
    ]
    assert run(source, tmp_path / "one", rows_per_shard=10).cached


def test_the_pool_has_page_checksums_a_manifest_and_no_dictionary_for_uids(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [sample(f"k{n}", text=f"t{n}") for n in range(50)])
    run(tmp_path / "src", tmp_path / "pool")
    shard = tmp_path / "pool" / "00000000.parquet"
    row_group = pq.read_metadata(shard).row_group(0)
    chunks = {row_group.column(i).path_in_schema: row_group.column(i) for i in range(row_group.num_columns)}
    assert not chunks["uid"].has_dictionary_page
    assert not chunks["sha256"].has_dictionary_page
    assert chunks["original_width"].has_dictionary_page
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    manifest = Manifest.model_validate_json((tmp_path / "pool" / MANIFEST_NAME).read_bytes())
    allowed = frozenset({"step.json", MANIFEST_NAME})
    assert verify_entries(tmp_path / "pool", manifest.entries, allow_extra=allowed).empty
    data = bytearray(shard.read_bytes())
    data[chunks["uid"].data_page_offset + chunks["uid"].total_compressed_size // 2] ^= 4
    shard.write_bytes(data)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.ParquetFile(shard, page_checksum_verification=True).read(columns=["uid"])
    with pytest.raises(IntegrityError, match="not those that manifest"):
        _ = Pool.open(tmp_path / "pool").id


def test_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such file or folder"):
        run(tmp_path / "nothing", tmp_path / "pool")
    (tmp_path / "src").mkdir()
    with pytest.raises(MissingInput, match="holds no tars"):
        run(tmp_path / "src", tmp_path / "pool")
    write_tar(tmp_path / "src" / "a.tar", [sample("k")])
    with pytest.raises(UsageError, match="inside the source"):
        run(tmp_path / "src", tmp_path / "src" / "pool")
    with pytest.raises(UsageError, match="unknown column 'txet'"):
        run(tmp_path / "src", tmp_path / "pool", mapping={"txet": "a"})
    with pytest.raises(UsageError, match="rows-per-shard"):
        run(tmp_path / "src", tmp_path / "pool", rows_per_shard=0)
    assert (
        import_pool(tmp_path / "src", tmp_path / "pool", options=RunOptions(dry_run=True), executor=SERIAL)
        is None
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["src"]


def test_the_clip_art_pool(tmp_path: Path) -> None:
    if not list(OPENCLIPART.glob("*.tar")):
        pytest.skip("examples/openclipart/pool has not been built")
    outcome = run(OPENCLIPART, tmp_path / "pool")
    rows = {row["uid"]: row for row in rows_of(tmp_path / "pool")}
    told = {}
    for path in sorted(OPENCLIPART.glob("*.parquet")):
        told |= {row["uid"]: row for row in pq.ParquetFile(path).read().to_pylist()}
    counts = outcome.step.identity.counts
    assert counts.read == len(told)
    assert len(rows) == counts.kept
    assert set(counts.invalid) <= {"no_caption"}
    for uid, row in rows.items():
        expected = {
            name: told[uid][name] for name in (*COLUMNS, "keywords", "license", "key") if name in told[uid]
        }
        assert {name: row[name] for name in expected} == expected


def test_a_full_disk_leaves_nothing_under_the_final_name(tmp_path: Path, small_disk: Path) -> None:
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(60_000)]
    pq.write_table(pa.table({"url": digests, "text": digests[::-1]}), tmp_path / "t.parquet")
    with pytest.raises(HeadwaterError, match="no space left") as error:
        run(tmp_path / "t.parquet", small_disk / "pool")
    assert error.value.exit_code == 1
    assert not (small_disk / "pool").exists()


def test_an_interrupted_import_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "src"
    for number in range(4):
        write_tar(source / f"{number}.tar", [sample(f"{number}{n}", text=f"{number} {n}") for n in range(3)])
    whole = run(source, tmp_path / "whole")
    read: list[str] = []

    def stopping(unit: Any) -> Any:
        read.append(unit.name)
        if len(read) == 3:
            raise KeyboardInterrupt
        return _tars.import_tar(unit)

    monkeypatch.setattr("curate._ingest_pool.import_tar", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / ".pool.headwater" / "parts").iterdir()}
    assert {"000000.json", "000001.json"} <= kept.keys()
    again = run(source, tmp_path / "pool")
    assert again.step.identity == whole.step.identity
    assert not (tmp_path / ".pool.headwater").exists()


@pytest.mark.parametrize("start", range(0, 120, 10))
def test_damaged_bytes_of_a_table_never_end_in_another_kind_of_error(
    tmp_path: Path, tiny_pool: Any, start: int
) -> None:
    path = tiny_pool(rows=40, shards=1)
    whole = (path / "00000000.parquet").read_bytes()
    random = np.random.default_rng(start)
    for number in range(start, start + 10):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 1 + number % 5):
            damaged[at] ^= 1 << int(random.integers(8))
        (path / "00000000.parquet").write_bytes(damaged)
        validate_pool(path, deep=True, executor=SERIAL)
        try:
            run(path, tmp_path / f"out{number}", on_bad="drop")
        except (IntegrityError, UsageError):
            assert not (tmp_path / f"out{number}").exists()
