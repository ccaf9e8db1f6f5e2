"""`pool import` from folders of pictures with captions."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.ingest import exit_error
from headwater.errors import IntegrityError, UsageError
from tests.curate.ingest_kit import invalid, picture, rows_of, run

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
