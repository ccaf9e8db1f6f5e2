"""The category table: Parquet and key,value lists there and back, and tables that lie."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.categories import CategoryTable, read_params, read_parquet
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError

KINDS = {"vertex_num": "int32", "perlin": "double", "kind": "string"}
ROWS: list[dict[str, Any]] = [
    {"vertex_num": 200, "perlin": 0.1, "kind": "a"},
    {"vertex_num": 7, "perlin": 1 / 65536, "kind": "bé"},
    {"vertex_num": 9, "perlin": 4.0, "kind": ""},
]


def table(first: int = 5) -> CategoryTable:
    return CategoryTable.collect(first, KINDS, ROWS, len(ROWS))


def test_the_digest_is_of_the_stated_form() -> None:
    text = '["category","vertex_num","perlin","kind"]\n[5,200,0.1,"a"]\n[6,7,1.52587890625e-05,"bé"]\n[7,9,4.0,""]\n'
    assert table().sha256() == hashlib.sha256(text.encode()).hexdigest()
    assert table(6).sha256() != table().sha256()


def test_parquet_there_and_back(tmp_path: Path) -> None:
    table().write_parquet(tmp_path / "t.parquet")
    found = read_parquet(tmp_path / "t.parquet", KINDS)
    assert found.first == 5 and found.sha256() == table().sha256()
    assert found.records(range(3)) == ROWS and found.records([2, 0]) == [ROWS[2], ROWS[0]]
    assert pq.read_table(tmp_path / "t.parquet").column_names == ["category", *KINDS]


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), finite), min_size=1, max_size=20))
def test_key_value_lists_are_exact(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float]]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    kinds = {"vertex_num": "int32", "perlin": "double"}
    records = [{"vertex_num": v, "perlin": p} for v, p in rows]
    made = CategoryTable.collect(3, kinds, records, len(records))
    made.write_params(folder)
    found = read_params(folder / "param", kinds)
    assert found.first == 3 and found.records(range(len(records))) == records


def test_key_value_lists_have_the_scripts_names(tmp_path: Path) -> None:
    table(0).write_params(tmp_path)
    assert (tmp_path / "param/00001.csv").read_text() == "Vertex,7\nPerlin_noise,1.52587890625e-05\nkind,bé\n"


def test_other_tools_lists_are_read(tmp_path: Path) -> None:
    (tmp_path / "00000.csv").write_text("Vertex,12\r\nPERLIN_noise, 1e-3\n\nunknown,7\nkind,x\n")
    assert read_params(tmp_path, KINDS).records([0]) == [{"vertex_num": 12, "perlin": 0.001, "kind": "x"}]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("Vertex,1\n", UsageError, "does not say Perlin_noise"),
        ("Vertex\n", IntegrityError, "not key,value"),
        ("Vertex,1.5\nPerlin_noise,1\nkind,x\n", IntegrityError, "vertex_num is '1.5'"),
        ("Vertex,1\nPerlin_noise,nan\nkind,x\n", IntegrityError, "perlin is 'nan'"),
        ("Vertex,1\nPerlin_noise,inf\nkind,x\n", IntegrityError, "perlin is 'inf'"),
        (f"Vertex,{'9' * 5000}\nPerlin_noise,1\nkind,x\n", IntegrityError, "vertex_num is"),
        ("x,1\n" * 20_000, IntegrityError, "larger than"),
    ],
)
def test_lists_that_are_none_are_refused(
    tmp_path: Path, text: str, kind: type[HeadwaterError], said: str
) -> None:
    (tmp_path / "00000.csv").write_text(text)
    with pytest.raises(kind) as caught:
        read_params(tmp_path, KINDS)
    assert said in caught.value.message


def test_gaps_and_odd_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        read_params(tmp_path, KINDS)
    for name in ("00000.csv", "00002.csv"):
        (tmp_path / name).write_text("Vertex,1\n")
    with pytest.raises(IntegrityError, match="consecutive"):
        read_params(tmp_path, KINDS)
    (tmp_path / "00002.csv").rename(tmp_path / "x.csv")
    with pytest.raises(IntegrityError, match="consecutive"):
        read_params(tmp_path, KINDS)


def test_tables_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(MissingInput):
        read_parquet(path, KINDS)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_parquet(path, KINDS)
    good = {"category": [0, 1], "vertex_num": [1, 2], "perlin": [0.5, 0.5], "kind": ["a", "b"]}
    for change, said in (
        ({"category": [0, 2]}, "not consecutive"),
        ({"category": [-1, 0]}, "not consecutive"),
        ({"perlin": [0.5, None]}, "lacks a value"),
        ({"vertex_num": [2**40, 1]}, "cannot be read"),
        ({"kind": None}, "columns missing"),
        ({"more": [1, 2]}, "others"),
    ):
        columns = {name: values for name, values in {**good, **change}.items() if values is not None}
        pq.write_table(pa.table(columns), path)
        with pytest.raises(IntegrityError, match=said):
            read_parquet(path, KINDS)
