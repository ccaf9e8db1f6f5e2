"""Hostile features, entry lists and votes for the scores that compare (row 44 of the catalogue, and the lists users write)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.curate.feature_kit import feature_pool, write_npz
from tests.curate.test_aho import naive
from tests.faults.kit import Done, closes, names, nothing_at, run, spawn, temporaries


def pairs(rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(rows)
    images = rng.normal(size=(rows, 8)).astype(np.float32)
    return {"l14_img": images, "l14_txt": images + rng.normal(size=(rows, 8)).astype(np.float32)}


def facts(done: Done) -> dict[str, Any]:
    return dict(json.loads(done.out))


def score(name: str, pool: Path, *options: object) -> Done:
    return run("score", name, pool, "--engine", "serial", "--json", *options)


# row 44


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (0.0, "features: zero vector"),
        (np.nan, "features: NaN or infinite"),
        (np.inf, "features: NaN or infinite"),
        (-np.inf, "features: NaN or infinite"),
    ],
)
@pytest.mark.parametrize("array", ["l14_img", "l14_txt"])
def test_row_44_rows_without_a_direction(tmp_path: Path, array: str, bad: float, reason: str) -> None:
    arrays = pairs(20)
    good = feature_pool(tmp_path / "good", {k: np.delete(v, 4, axis=0) for k, v in arrays.items()})
    arrays[array][4] = bad
    pool = feature_pool(tmp_path / "pool", arrays)
    done = score("negcliploss", pool)
    assert done.code == 3 and "1 of 20 rows have no score" in done.err
    assert facts(done)["counts"] == {**facts(done)["counts"], "read": 20, "kept": 19, "invalid": {reason: 1}}
    assert score("negcliploss", pool, "--allow-invalid").code == 0
    # the other rows score as if the bad one were not there
    out = tmp_path / "out.npy"
    for path, code in ((pool, 3), (good, 0)):
        command = ("filter-pool", path, "-o", out, "--name", "negcliploss", "--fraction", "0.5", "--force")
        done = run(*command, "--engine", "serial")
        assert done.code == code
        assert closes(out).identity.counts.kept in (10, 11)
    assert temporaries(tmp_path) == []


def test_row_44_no_vector_of_length_one(tmp_path: Path) -> None:
    arrays = pairs(16)
    large = {k: v.astype(np.float64) * 1e30 for k, v in arrays.items()}
    tiny = {k: v.astype(np.float64) * 1e-30 for k, v in arrays.items()}
    kept = []
    for name, values in (("plain", arrays), ("large", large), ("tiny", tiny)):
        pool = feature_pool(tmp_path / name, values)
        done = run(
            "filter-pool", pool, "-o", tmp_path / f"{name}.npy", "--name", "negcliploss", "--engine", "serial"
        )
        assert done.code == 0, done.err
        kept.append((tmp_path / f"{name}.npy").read_bytes())
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("none", 10, "no features 'l14_txt'"),
        ("rows", 13, "rows of features l14_txt"),
        ("width", 2, "not of one model"),
        ("objects", 13, "l14_txt"),
        ("cut", 13, ""),
    ],
)
def test_row_44_features_that_do_not_fit(tmp_path: Path, change: str, code: int, words: str) -> None:
    arrays = pairs(10)
    pool = feature_pool(tmp_path / "pool", arrays, shards=1)
    archive = pool / "00000000.npz"
    if change == "none":
        write_npz(archive, {"l14_img": arrays["l14_img"]})
    elif change == "rows":
        write_npz(archive, {**arrays, "l14_txt": arrays["l14_txt"][:9]})
    elif change == "width":
        write_npz(archive, {**arrays, "l14_txt": arrays["l14_txt"][:, :5]})
    elif change == "objects":
        np.savez(archive, l14_img=arrays["l14_img"], l14_txt=np.array([{}] * 10, object))
    else:
        os.truncate(archive, archive.stat().st_size // 2)
    done = score("negcliploss", pool)
    assert (done.code, words in done.err) == (code, True), done.err
    out = tmp_path / "out.npy"
    assert run("filter-pool", pool, "-o", out, "--name", "negcliploss").code == code
    nothing_at(out)


def test_settings_are_refused_before_any_work(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", pairs(4))
    before = names(pool)
    for option, value in (
        ("--batch", 0),
        ("--temperature", -1),
        ("--temperature", "nan"),
        ("--shuffles", 0),
        ("--precision", "f8"),
    ):
        assert score("negcliploss", pool, option, value).code == 2
    assert names(pool) == before


# entry lists


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (None, 10, "no such file of entries"),
        (b"", 2, "holds no entries"),
        (b"cat\n\ndog\n", 13, "line 2 is empty"),
        (b"cat\n\xff\xfe\n", 13, "line 2 is not UTF-8"),
        (b"x" * (1 << 20) + b"y", 13, "line 1 has 1,048,577 bytes"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, data: bytes | None, code: int, words: str) -> None:
    pool = feature_pool(tmp_path / "pool", {}, columns={"text": ["a cat", "a dog"]})
    path = tmp_path / "entries.txt"
    if data is not None:
        path.write_bytes(data)
    done = score("metaclip", pool, "--entries", path)
    assert (done.code, words in done.err) == (code, True), done.err
    assert score("metaclip", pool).code == 2


def test_a_list_with_repeats_is_told_and_used_once(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {}, columns={"text": ["a cat", "a dog", None]})
    path = tmp_path / "entries.txt"
    path.write_text("cat\ndog\ncat\ncat\nDr. Who\n")
    done = score("metaclip", pool, "--entries", path)
    assert done.code == 3 and "2 entries are repeats and count once, such as 'cat'" in done.err
    found = facts(done)
    assert found["counts"]["invalid"] == {"text: null": 1} and found["counts"]["kept"] == 2
    expected = {"entries": 3, "repeated_entries": 2, "entries_that_cannot_match": 1, "matches": 2}
    assert expected.items() <= found["notes"].items()


def test_captions_that_try_it_on(tmp_path: Path) -> None:
    texts = [
        "a " * 60_000,  # every start goes on matching to the end of the longest entry
        "a" * 200_000,
        "," * 50_000,
        "\0 a \0",
        "",
        " ",
        "\u202ea a\u00a0a",
        "cat\r\ncat",
    ]
    pool = feature_pool(tmp_path / "pool", {}, columns={"text": texts}, shards=1)
    entries = tmp_path / "entries.txt"
    entries.write_bytes(
        b"\n".join([b"a", b"a a a", b"a " * 30 + b"a", b", ,", b",  ,", b"\0", b"cat  cat", b"cat"])
    )
    done = score("metaclip", pool, "--entries", entries)
    assert done.code == 0, done.err
    found = naive(texts, entries.read_text().split("\n"))
    assert facts(done)["notes"]["matches"] == len(found) == 8


def test_captions_that_are_no_text_leave_no_scores(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {}, columns={"text": pa.array([1, 2, 3], pa.int64())})
    entries = tmp_path / "entries.txt"
    entries.write_text("cat\n")
    done = spawn("score", "metaclip", pool, "--entries", entries, home=tmp_path)
    assert done.code == 2 and "needs text" in done.err
    assert not list((pool / ".headwater" / "scores").rglob("step.json"))


# votes


def test_votes_from_strangers(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {}, columns={"s": [1.0, 2.0]})
    path = tmp_path / "votes.yaml"
    for text, code in (
        ("format: votes/1\nvoters: [{name: a, sql: \"read_text('/etc/passwd') = 'x'\"}]\n", 2),
        ("format: votes/1\nvoters: [{name: a, sql: s > 1; DROP TABLE t}]\n", 2),
        ("format: votes/1\nvoters: [{name: ../../a, sql: s > 1}]\n", 2),
        ("format: votes/1\nvoters: !!python/object/apply:os.system ['true']\n", 2),
        ("format: votes/2\nvoters: [{name: a, sql: s > 1}]\n", 2),
        ("format: votes/1\nvoters: [{name: a, subset: missing.npy}]\n", 10),
        ("- a list\n", 2),
    ):
        path.write_text(text)
        done = score("vote", pool, "--votes", path)
        assert done.code == code, (text, done.err)
    subset = tmp_path / "sorted.npy"
    np.save(subset, np.array([(2, 0), (1, 0)], "u8,u8"))
    path.write_text("format: votes/1\nvoters: [{name: a, subset: sorted.npy}]\n")
    done = score("vote", pool, "--votes", path)
    assert done.code == 13 and "not sorted" in done.err
