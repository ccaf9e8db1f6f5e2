"""An index of packed files from outside: rows that make no sense, rows that lie, files that are no index."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distribute import packindex
from distribute.packing import PackIndex
from headwater.errors import IntegrityError, MissingInput


def forge(folder: Path, **changes: Any) -> Path:
    row = {
        "path": "a",
        "shard": "s-00000.tar",
        "offset_bytes": 0,
        "length_bytes": 4,
        "sha256": hashlib.sha256(b"data").hexdigest(),
    }
    folder.mkdir()
    (folder / "s-00000.tar").write_bytes(b"data")
    rows = changes.pop("rows", [{**row, **changes}])
    pq.write_table(pa.Table.from_pylist(rows, schema=packindex._schema()), folder / "index.parquet")
    return folder


def test_a_good_forged_index_opens(tmp_path: Path) -> None:
    assert PackIndex.open(forge(tmp_path / "x")).extract("a") == b"data"


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "../a"},
        {"path": "/etc/passwd"},
        {"shard": "../s-00000.tar"},
        {"shard": "/etc/passwd"},
        {"shard": "sub/s.tar"},
        {"offset_bytes": -1},
        {"length_bytes": -1},
        {"offset_bytes": (1 << 63) - 1},
        {"sha256": "00"},
    ],
)
def test_rows_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        PackIndex.open(forge(tmp_path / "x", **changes))


@pytest.mark.parametrize(
    "changes", [{"length_bytes": 5}, {"length_bytes": 1 << 61}, {"offset_bytes": 1}, {"sha256": "0" * 64}]
)
def test_rows_that_lie_are_found_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    index = PackIndex.open(forge(tmp_path / "x", **changes))
    with pytest.raises(IntegrityError):
        index.extract("a")


def test_indexes_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        PackIndex.open(tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(IntegrityError, match="not an index"):
        PackIndex.open(tmp_path)
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "index.parquet")
    with pytest.raises(IntegrityError, match="not an index"):
        PackIndex.open(tmp_path)
    folder = forge(tmp_path / "x")
    row = pq.read_table(folder / "index.parquet").to_pylist()[0]
    shutil.rmtree(folder)
    with pytest.raises(IntegrityError, match="twice"):
        PackIndex.open(forge(tmp_path / "x", rows=[row, row]))


def test_an_index_that_is_too_large_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = forge(tmp_path / "x")
    assert len(PackIndex.open(folder)) == 1
    for name in ("INDEX_LIMIT", "ROWS_LIMIT"):
        with monkeypatch.context() as patch:
            patch.setattr(packindex, name, 0)
            with pytest.raises(IntegrityError, match="not an index"):
                PackIndex.open(folder)
    row = pq.read_table(folder / "index.parquet").to_pylist()[0]
    shutil.rmtree(folder)
    forge(tmp_path / "x", rows=[{**row, "path": f"{n}"} for n in range(5000)])
    size = (folder / "index.parquet").stat().st_size
    monkeypatch.setattr(packindex, "INDEX_LIMIT", size)  # the file fits, what is in it does not
    with pytest.raises(IntegrityError, match="not an index"):
        PackIndex.open(folder)
