"""`pool validate`: every fault of the catalogue is found, named with shard, column and row, and none hides another."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import validate
from curate._validate_shard import CODES, MAX_ROWS_TOLD
from curate.validate import Findings, validate_pool
from headwater.errors import BadInputs, HeadwaterError, IntegrityError, MissingInput
from headwater.executor import Executor
from headwater.files import write_json
from headwater.manifest import Manifest, describe_folder

SERIAL = Executor("serial", 1)


def check(path: Path, *, deep: bool = False) -> Findings:
    return validate_pool(path, deep=deep, executor=SERIAL)


def uids(n: int, *, start: int = 0) -> list[str]:
    return [f"{number + 1:032x}" for number in range(start, start + n)]


def write(folder: Path, name: str = "a.parquet", **columns: Any) -> Path:
    folder.mkdir(exist_ok=True)
    rows = next((len(values) for values in columns.values() if values is not None), 4)
    table = {
        "uid": pa.array(uids(rows), pa.string()),
        "text": pa.array([f"caption {n}" for n in range(rows)], pa.string()),
        "original_width": pa.array([100] * rows, pa.int64()),
        "original_height": pa.array([100] * rows, pa.int64()),
        "clip_l14_similarity_score": pa.array([0.25] * rows, pa.float32()),
        "sha256": pa.array([f"{n:064x}" for n in range(rows)], pa.string()),
        **columns,
    }
    pq.write_table(
        pa.table({k: v for k, v in table.items() if v is not None}),
        folder / name,
        write_page_checksum=True,
        compression="none",
    )
    return folder


def places(found: Findings, code: str) -> list[tuple[str | None, str | None, int | None]]:
    return [(f.shard, f.column, f.row) for f in found.findings if f.code == code]


def test_a_clean_pool_has_no_findings_and_exit_code_0(tmp_path: Path) -> None:
    found = check(write(tmp_path / "pool"), deep=True)
    assert (found.totals, found.worst(), found.exit_error()) == ({}, None, None)
    assert (found.rows, found.shards, found.distinct_uids) == (4, 1, 4)
    assert "nothing found" in found.text()


@pytest.mark.parametrize(
    ("columns", "totals"),
    [
        ({"uid": [*uids(2), None]}, {"uid_null": 1}),
        (
            {"uid": ["a" * 31, "a" * 33, "A" * 32, "g" * 32, " " + "a" * 31, "0x" + "a" * 30, ""]},
            {"uid_malformed": 7},
        ),
        ({"uid": [*uids(3), *uids(2)]}, {"uid_repeated": 2}),
        ({"text": ["a", None, ""]}, {"text_null": 1, "text_empty": 1}),
        (
            {"original_width": [1, 0, -5, None, 1 << 31, 65536, (1 << 31) - 1]},
            {"size_range": 3, "size_null": 1},
        ),
        ({"original_height": pa.array([1, 0, 200], pa.uint8())}, {"size_range": 1}),
        ({"sha256": ["0" * 64, "0" * 63, "A" * 64, "", None]}, {"sha256_malformed": 3, "sha256_null": 1}),
        (
            {
                "clip_l14_similarity_score": pa.array(
                    [0.1, None, np.nan, np.inf, -np.inf, -0.0, 1e-40], pa.float32()
                )
            },
            {"score_null": 1, "score_nan": 1, "score_inf": 2},
        ),
    ],
)
def test_faults_of_rows_end_with_3(tmp_path: Path, columns: dict[str, Any], totals: dict[str, int]) -> None:
    found = check(write(tmp_path / "pool", **columns))
    assert found.totals == totals
    assert isinstance(found.exit_error(), BadInputs)
    (name,) = columns
    assert {finding.column for finding in found.findings} == {name}
    assert all(finding.row is not None and finding.shard == "a" for finding in found.findings)


def test_the_row_is_that_of_the_shard_also_beyond_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate._validate_shard.BATCH_ROWS", 7)
    monkeypatch.setattr(validate, "BATCH_ROWS", 5)
    names: list[Any] = uids(40)
    names[23], names[38] = "x", names[11]
    found = check(write(tmp_path / "pool", uid=names))
    assert places(found, "uid_malformed") == [("a", "uid", 23)]
    assert places(found, "uid_repeated") == [("a", "uid", 38)]
    assert "shard a row 11" in next(f.message for f in found.findings if f.code == "uid_repeated")


def test_uids_repeated_across_shards_are_found_and_malformed_ones_are_not_equal(tmp_path: Path) -> None:
    write(tmp_path / "pool", "a.parquet", uid=[*uids(3), "bad", "bad"])
    write(tmp_path / "pool", "b.parquet", uid=[*uids(3, start=2), None, None])
    found = check(tmp_path / "pool")
    assert places(found, "uid_repeated") == [("b", "uid", 0)]
    assert found.distinct_uids == 5


def test_half_equal_uids_are_not_equal(tmp_path: Path) -> None:
    half = "f" * 16
    names = [half + "0" * 16, half + "1" * 16, "0" * 16 + half, "1" * 16 + half]
    assert check(write(tmp_path / "pool", uid=names)).totals == {}


def test_only_some_rows_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    found = check(write(tmp_path / "pool", text=[None] * 500, uid=["x"] * 500))
    assert found.totals == {"text_null": 500, "uid_malformed": 500}
    assert len(found.findings) == 2 * MAX_ROWS_TOLD


def test_a_64_mb_caption_and_odd_blanks_are_fine_nul_is_kept_and_bad_utf8_is_found(tmp_path: Path) -> None:
    raw = [b"ok", b"\xff", b"nul\0", "\u00a0\u3000\u202e\ufeff".encode(), b"\xed\xa0\x80", b"x" * (8 << 20)]
    values = pa.array(raw, pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(raw), values.buffers())
    found = check(write(tmp_path / "pool", text=text))
    assert places(found, "text_not_utf8") == [("a", "text", 1), ("a", "text", 4)]
    assert found.totals == {"text_not_utf8": 2}


# ---- schemas ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "code"),
    [
        (pa.float64(), "type_drift"),
        (pa.string(), "type_differs"),
        (pa.int64(), "type_differs"),
    ],
)
def test_types_that_differ_are_told_by_shard_and_column(
    tmp_path: Path, type_: pa.DataType, code: str
) -> None:
    name = "clip_l14_similarity_score"
    write(tmp_path / "pool", "a.parquet")
    write(tmp_path / "pool", "b.parquet", uid=uids(4, start=9), **{name: pa.array([1] * 4).cast(type_)})
    found = check(tmp_path / "pool")
    assert [(f.code, f.shard, f.column) for f in found.findings] == [(code, "b", name)]
    assert (found.exit_error() is None) == (code == "type_drift")


def test_text_types_and_column_order_may_differ(tmp_path: Path) -> None:
    write(tmp_path / "pool", "a.parquet")
    table = pq.ParquetFile(tmp_path / "pool" / "a.parquet").read()
    table = table.set_column(0, "uid", pa.array(uids(4, start=9), pa.large_string()))
    table = table.set_column(1, "text", table["text"].dictionary_encode())
    pq.write_table(table.select(table.column_names[::-1]), tmp_path / "pool" / "b.parquet")
    found = check(tmp_path / "pool")
    assert set(found.totals) <= {"type_drift"}
    assert found.exit_error() is None


def test_a_missing_column_is_damage(tmp_path: Path) -> None:
    write(tmp_path / "pool", "a.parquet")
    write(tmp_path / "pool", "b.parquet", uid=uids(4, start=9), sha256=None)
    found = check(tmp_path / "pool")
    assert places(found, "column_missing") == [("b", "sha256", None)]
    assert isinstance(found.exit_error(), IntegrityError)
    write(tmp_path / "kinds", text=[1, 2, 3, 4], original_width=["a"] * 4)
    kinds = check(tmp_path / "kinds")
    assert places(kinds, "wrong_type") == [("a", "text", None), ("a", "original_width", None)]
    write(tmp_path / "other", uid=None)
    assert places(check(tmp_path / "other"), "no_uid_column") == [("a", "uid", None)]


# ---- files --------------------------------------------------------------------------------------------------


def test_damaged_shards_do_not_hide_the_others(tmp_path: Path) -> None:
    pool = write(tmp_path / "pool", "d.parquet", text=["x", None, "y", "z"])
    whole = (pool / "d.parquet").read_bytes()
    (pool / "a.parquet").write_bytes(b"")
    (pool / "b.parquet").write_bytes(whole[: len(whole) // 2])
    (pool / "c.parquet").write_bytes(b"PAR1" + b"\xff" * 200 + b"PAR1")
    found = check(pool)
    assert found.totals == {"empty_file": 1, "not_parquet": 2, "text_null": 1}
    assert [f.shard for f in found.findings] == ["a", "b", "c", "d"]
    assert isinstance(found.exit_error(), IntegrityError)


def test_a_shard_cut_at_every_sixteenth_is_damage(tmp_path: Path) -> None:
    pool = write(tmp_path / "pool")
    whole = (pool / "a.parquet").read_bytes()
    for part in range(16):
        (pool / "a.parquet").write_bytes(whole[: len(whole) * part // 16])
        assert check(pool).worst() == "damage", part


def test_a_flipped_bit_in_any_page_is_found_by_deep(tmp_path: Path) -> None:
    pool = write(tmp_path / "pool", text=[f"a caption number {n}" for n in range(300)])
    whole = (pool / "a.parquet").read_bytes()
    metadata = pq.read_metadata(pool / "a.parquet").row_group(0)
    for at in range(metadata.num_columns):
        column = metadata.column(at)
        damaged = bytearray(whole)
        start = column.dictionary_page_offset or column.data_page_offset
        damaged[start + column.total_compressed_size - 1] ^= 1  # the last byte of the last page
        (pool / "a.parquet").write_bytes(damaged)
        found = check(pool, deep=True)
        assert "bad_page" in found.totals, column.path_in_schema
        assert isinstance(found.exit_error(), IntegrityError)


def test_names_that_are_read_or_not_read_against_expectation(tmp_path: Path) -> None:
    write(tmp_path / "pool", "a.PARQUET")
    write(tmp_path / "pool", "b.parquet.bak")
    write(tmp_path / "pool", "b.parquet", uid=uids(4, start=9))
    (tmp_path / "pool" / "gone.parquet").symlink_to(tmp_path / "nowhere")
    found = check(tmp_path / "pool")
    assert found.totals == {"odd_name": 2, "shard_twice": 1, "broken_link": 1}


def test_no_shards_an_empty_shard_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    assert check(tmp_path / "pool").totals == {"no_shards": 1}
    write(tmp_path / "pool", uid=pa.array([], pa.string()))
    found = check(tmp_path / "pool", deep=True)
    assert (found.totals, found.rows) == ({}, 0)
    with pytest.raises(MissingInput):
        check(tmp_path / "nothing")


def test_a_footer_that_claims_more_than_the_file_is_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = write(tmp_path / "pool", text=["x" * 100] * 5000)
    monkeypatch.setattr("curate._validate_shard.PLAUSIBLE_BYTES", 100_000)
    monkeypatch.setattr("curate._validate_shard.MAX_RATIO", 0)
    assert places(check(pool), "bad_footer") == [("a", None, None)]
    (tmp_path / "wide").mkdir()
    pq.write_table(pa.table({f"c{n}": [1] for n in range(10_001)}), tmp_path / "wide" / "w.parquet")
    assert check(tmp_path / "wide").totals == {"not_parquet": 1}


def test_a_reader_that_dies_is_one_finding_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / "pool", f"{name}.parquet", uid=uids(4, start=ord(name) * 10))

    class Dying(Executor):
        def map_shards(self, fn: Callable[..., Any], shards: Any, **options: Any) -> Any:
            for shard in shards:
                if shard.name == "b":
                    raise HeadwaterError("a worker process died at item 2 of 3")
                yield fn(shard)

    found = validate_pool(tmp_path / "pool", executor=Dying("serial", 1))
    assert places(found, "reader_died") == [("b", None, None)]
    assert found.rows == 8


# ---- features and manifest ----------------------------------------------------------------------------------


def test_features_are_checked_from_their_headers(tmp_path: Path) -> None:
    pool = write(tmp_path / "pool")
    np.savez_compressed(pool / "a.npz", good=np.zeros((4, 3), np.float16), short=np.zeros((3, 3), np.float32))
    assert places(check(pool), "npz_rows") == [("a", "short", None)]
    np.savez(pool / "a.npz", wide=np.zeros((4, 3)))
    assert places(check(pool), "npz_dtype") == [("a", "wide", None)]
    np.savez(pool / "a.npz", evil=np.array([{"a": 1}] * 4, object))
    found = check(pool)
    assert found.totals == {"npz_damaged": 1}
    assert "Python objects" in found.findings[0].message
    (pool / "a.npz").write_bytes(b"PK\3\4 nothing")
    assert check(pool).totals == {"npz_damaged": 1}
    os.rename(pool / "a.npz", pool / "alone.npz")
    assert check(pool).totals == {"npz_alone": 1}


def test_an_npz_bomb_is_not_inflated(tmp_path: Path) -> None:
    pool = write(tmp_path / "pool")
    header = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f2', 'fortran_order': False, 'shape': (4, 512), }"
    with zipfile.ZipFile(pool / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.ljust(127) + b"\n" + bytes(50_000_000))
    assert (pool / "a.npz").stat().st_size < 100_000
    found = check(pool)
    assert found.totals == {"npz_damaged": 1}
    assert "needs 4,224 bytes, but its member has 50,000,128" in found.findings[0].message


def test_a_manifest_is_compared(tmp_path: Path) -> None:
    pool = write(tmp_path / "pool", "a.parquet")
    write(pool, "b.parquet", uid=uids(4, start=9))
    write(pool, "c.parquet", uid=uids(4, start=19))
    document = Manifest(entries=describe_folder(pool)).model_dump(mode="json")
    write_json(pool / "manifest.json", document)
    assert check(pool).totals == {}
    os.unlink(pool / "c.parquet")
    write(pool, "b.parquet", uid=uids(4, start=29))
    write(pool, "d.parquet", uid=uids(4, start=39))
    found = check(pool)
    assert found.totals == {"manifest_missing": 1, "manifest_mismatch": 1, "manifest_extra": 1}
    document["entries"][0]["path"] = "../a.parquet"
    write_json(pool / "manifest.json", document)
    assert check(pool).totals["manifest_damaged"] == 1
    (pool / "manifest.json").write_text("[]")
    assert check(pool).totals == {"manifest_damaged": 1}


# ---- the answer ---------------------------------------------------------------------------------------------


def test_the_answer_is_the_same_with_processes_and_can_be_read_by_machines(
    tmp_path: Path, tiny_pool: Any
) -> None:
    pool = tiny_pool(rows=60, shards=3)
    (pool / "zz.parquet").write_bytes(b"")
    os.truncate(pool / "00000002.parquet", 900)
    serial, parallel = check(pool), validate_pool(pool, executor=Executor("pool", 2))
    assert serial.as_dict() == parallel.as_dict()
    document = serial.as_dict()
    assert set(document["findings"][0]) == {"severity", "code", "shard", "column", "row", "message"}
    assert document["worst"] == "damage"
    for code in document["totals"]:
        assert code in CODES
        assert code in serial.text()


GOLDEN_TOTALS: dict[str, dict[str, int]] = {
    "null_uid": {"uid_null": 1},
    "uid_forms": {"uid_malformed": 5, "uid_repeated": 2},
    "uid_16_digits": {"uid_malformed": 1},
    "uid_twice": {"uid_repeated": 4},
    "null_text": {"text_null": 1},
    "null_scores": {"score_null": 30},
    "all_nan": {"score_nan": 24},
    "null_size": {"size_null": 4},
    "file_names": {"odd_name": 2},
    "no_rows": {},
    "one_empty_shard": {},
    "double_scores": {},
}


@pytest.mark.parametrize("case", sorted(GOLDEN_TOTALS))
def test_golden_awkward_pools(golden: Path, case: str) -> None:
    assert check(golden / "nan" / case, deep=True).totals == GOLDEN_TOTALS[case]
