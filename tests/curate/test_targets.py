"""Target embeddings from every kind of file: the same rows, the same names, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import _target_files
from curate.targets import read_target, target_id
from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.curate.feature_kit import feature_pool, uid_of, write_npz
from tests.curate.filter_kit import listening

Rows = npt.NDArray[np.float32]
ROWS: Rows = np.arange(1, 13, dtype=np.float32).reshape(4, 3)


def all_of(
    path: Path, *, width: int = 3, array: str = "x", rows: int = 100
) -> tuple[Rows, list[int], list[str]]:
    target = read_target(path, width=width, array=array)
    blocks = list(target.blocks(rows))
    numbers = np.concatenate([b.numbers for b in blocks])
    return np.concatenate([b.values for b in blocks]), numbers.tolist(), target.labels(numbers).to_pylist()


def lists(rows: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(rows.tolist(), kind)


def written(folder: Path, kind: str, rows: npt.NDArray[Any]) -> Path:
    """The rows in a file of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "npy":
        np.save(folder / "t.npy", rows)
        return folder / "t.npy"
    if kind == "fortran.npy":
        np.save(folder / "t.npy", np.asfortranarray(rows))
        return folder / "t.npy"
    if kind == "npz":
        return write_npz(folder / "t.npz", {"x": rows, "y": rows[:, :1]})
    if kind == "packed":
        return write_npz(folder / "t.npz", {"other": rows}, packed=True)
    if kind == "fortran.npz":
        np.savez(folder / "t.npz", x=np.asfortranarray(rows))
        return folder / "t.npz"
    width = pa.list_(pa.float32(), rows.shape[1])
    column = lists(
        rows, {"fixed": width, "list": pa.list_(pa.float64()), "large": pa.large_list(pa.float32())}[kind]
    )
    pq.write_table(pa.table({"n": range(len(rows)), "x": column}), folder / "t.parquet", row_group_size=2)
    return folder / "t.parquet"


KINDS = ["npy", "fortran.npy", "npz", "packed", "fortran.npz", "fixed", "list", "large"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows(tmp_path: Path, kind: str, dtype: Any) -> None:
    path = written(tmp_path, kind, ROWS.astype(dtype))
    values, numbers, names = all_of(path)
    assert values.dtype == np.float32 and values.tolist() == ROWS.tolist()
    assert numbers == [0, 1, 2, 3] and names == [f"{path.name}:{i}" for i in range(4)]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 12))
def test_blocks_run_across_files_in_the_order_of_names(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], block: int
) -> None:
    if not sum(sizes):
        return
    folder = tmp_path_factory.mktemp("t")
    rows = np.random.default_rng(0).normal(size=(sum(sizes), 2)).astype(np.float32)
    first = 0
    for number, size in enumerate(sizes):
        np.save(folder / f"{number}.npy", rows[first : first + size])
        first += size
    (folder / "notes.txt").write_text("not read")
    values, numbers, names = all_of(folder, width=2, rows=block)
    assert values.tolist() == rows.tolist() and numbers == list(range(len(rows)))
    assert names[-1].split(":")[0] == f"{max(i for i, s in enumerate(sizes) if s)}.npy"
    read = read_target(folder, width=2, array="x")
    assert [len(b.values) for b in read.blocks(block)][:-1] == [block] * ((len(rows) - 1) // block)


def test_names_come_from_a_uid_column(tmp_path: Path) -> None:
    table = pa.table({"uid": ["a", None, "c", "d"], "x": lists(ROWS, pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "t.parquet")
    target = read_target(tmp_path / "t.parquet", width=3, array="x")
    assert target.labels(np.array([2, 1, -1, 0])).to_pylist() == ["c", "t.parquet:1", None, "a"]


def test_another_pool_is_a_target(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"x": ROWS.astype(np.float16)}, shards=2)
    values, _, names = all_of(pool)
    assert values.tolist() == ROWS.tolist() and names == [uid_of(i) for i in range(4)]
    with pytest.raises(MissingInput, match="no features 'l14_img'"):
        read_target(pool, width=3, array="l14_img")


def test_rows_without_a_direction_are_left_out_and_told(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[1], rows[2, 1], rows[3, 0] = 0, np.nan, np.inf
    np.save(tmp_path / "t.npy", np.vstack([rows, ROWS]))
    with listening() as heard:
        target = read_target(tmp_path / "t.npy", width=3, array="x")
    assert target.left_out == {"features: zero vector": 1, "features: NaN or infinite": 2}
    assert target.used == 5 and target.rows == 8
    assert [b.numbers.tolist() for b in target.blocks(2)] == [[0, 4], [5, 6], [7]]
    assert any("1 of 8 rows are left out (features: zero vector)" in text for text in heard.warnings)
    assert any("2 of 8 rows" in text for text in heard.warnings)


def test_a_null_row_of_a_table_is_left_out(tmp_path: Path) -> None:
    for number, kind in enumerate([pa.list_(pa.float32()), pa.list_(pa.float32(), 2)]):
        column = pa.array([None, [1.0, 2.0], [3.0, None], [5.0, 6.0]], kind)
        pq.write_table(pa.table({"x": column}), tmp_path / f"{number}.parquet")
        values, numbers, _ = all_of(tmp_path / f"{number}.parquet", width=2)
        assert numbers == [1, 3] and values.tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "npz"])  # that one has two arrays
def test_another_width_names_both(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, ROWS)
    with pytest.raises(
        IntegrityError, match=rf"{path.name}: 3 numbers a row, but features l14 have 768"
    ) as told:
        read_target(path, width=768, array="l14")
    assert told.value.exit_code == 13 and "embed the target" in (told.value.hint or "")


def test_rows_of_unequal_width(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [[1.0, 2.0, 3.0], [1.0, 2.0]]}), tmp_path / "t.parquet")
    with pytest.raises(IntegrityError, match="2 numbers in one row of 'x', 3 in another"):
        read_target(tmp_path / "t.parquet", width=3, array="x")


@pytest.mark.parametrize("kind", ["npy", "npz", "list"])
def test_no_rows_is_told(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, np.zeros((0, 3), np.float32))
    with pytest.raises(UsageError, match="has no rows") as told:
        read_target(path, width=3, array="x")
    assert told.value.exit_code == 2


def test_nothing_usable_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.zeros((3, 3)))
    with pytest.raises(UsageError, match="has 3 rows, and none can be used"):
        read_target(tmp_path / "t.npy", width=3, array="x")


def test_no_target_a_missing_one_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a target is needed"):
        read_target(None, width=3, array="x")
    with pytest.raises(MissingInput, match="no such file or folder"):
        target_id(tmp_path / "nowhere", "x")
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(UsageError, match=r"no embeddings in it \(readme.txt"):
        read_target(tmp_path, width=3, array="x")


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "name", ["t.npy", "t.npz", "t.pt", "t.pkl", "renamed.npy", "renamed.npz", "renamed.parquet"]
)
def test_python_objects_are_never_unpickled(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "executed"
    path = tmp_path / name
    objects = np.array([Touch(mark)], dtype=object)
    if name == "t.npy":
        np.save(path, objects)
    elif name == "t.npz":
        np.savez(path, x=objects)
    else:
        path.write_bytes(pickle.dumps([Touch(mark)]))
    with pytest.raises((IntegrityError, UsageError), match=name):
        read_target(path, width=3, array="x")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("array", "told"),
    [(np.zeros((2, 3), np.int32), "int32"), (np.zeros(3), "shape"), (np.zeros((2, 0)), "shape"), (np.zeros((2, 3, 1)), "shape")],
)  # fmt: skip
def test_what_is_no_array_of_float_rows(tmp_path: Path, array: Any, told: str) -> None:
    np.save(tmp_path / "t.npy", array)
    np.savez(tmp_path / "t.npz", x=array)
    for path in (tmp_path / "t.npy", tmp_path / "t.npz"):
        with pytest.raises(IntegrityError, match=told):
            read_target(path, width=3, array="x")


def test_which_of_several_arrays_is_meant(tmp_path: Path) -> None:
    write_npz(tmp_path / "t.npz", {"l14_img": ROWS, "l14_txt": ROWS})
    with pytest.raises(IntegrityError, match="2 arrays, and none is 'l14_imh'") as told:
        read_target(tmp_path / "t.npz", width=3, array="l14_imh")
    assert "did you mean 'l14_img'?" in (told.value.hint or "")
    two = pa.table({"a": lists(ROWS, pa.list_(pa.float32())), "b": lists(ROWS, pa.list_(pa.float32()))})
    pq.write_table(two, tmp_path / "t.parquet")
    with pytest.raises(IntegrityError, match="2 list columns of floats, and none is 'c'"):
        read_target(tmp_path / "t.parquet", width=3, array="c")
    assert all_of(tmp_path / "t.parquet", array="b")[0].tolist() == ROWS.tolist()


@pytest.mark.parametrize("kind", ["npy", "packed", "fixed"])
def test_a_damaged_file_is_named(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind, np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=path.name):
        read_target(path, width=3, array="x")
    if kind == "packed":
        path.write_bytes(data[:300] + bytes(40) + data[340:])
        with pytest.raises(IntegrityError, match=path.name):
            read_target(path, width=3, array="x")


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.parquet"])
def test_a_file_of_no_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(IntegrityError, match=name):
        read_target(tmp_path / name, width=3, array="x")


def test_the_id_is_that_of_the_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_target_files, "_digest_once", _target_files._digest_once.__wrapped__)
    a, b = (written(tmp_path / name, "npy", ROWS) for name in "ab")
    assert target_id(a, "x") == target_id(b, "x") == read_target(a, width=3, array="x").id
    np.save(b, ROWS[::-1])
    assert target_id(a, "x") != target_id(b, "x")
    pool = feature_pool(tmp_path / "pool", {"x": ROWS, "y": ROWS}, shards=1)
    assert target_id(pool, "x") != target_id(pool, "y")
