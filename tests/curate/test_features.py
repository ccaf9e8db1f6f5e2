"""Feature arrays: where they are found, what is refused, and that rows come out as they lie in the file."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate import features
from curate.features import NOT_FINITE, ZERO, feature_names, normalise, open_features, to_float32, unusable
from curate.pool import Pool
from headwater.errors import IntegrityError, MissingInput
from tests.curate.feature_kit import feature_pool, split, write_npz
from tests.faults.kit import age

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def numbers(rows: int, width: int = 3, dtype: Any = np.float16, seed: int = 0) -> npt.NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(dtype)


def whole(pool: Path, name: str = "l14_img", rows: int = 65_536) -> npt.NDArray[np.float32]:
    parts = [block.values for block in open_features(Pool.open(pool), name).blocks(rows)]
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def write_member(path: Path, name: str, values: npt.NDArray[Any], kind: int) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive, archive.open(f"{name}.npy", "w") as handle:
        np.lib.format.write_array(handle, values, allow_pickle=True)


def store(pool: Path, shard: str, name: str, values: npt.NDArray[Any], how: str) -> None:
    """Put one array where `how` says."""
    if how in ("stored", "packed", "fortran"):
        array = np.asfortranarray(values) if how == "fortran" else values
        kind = zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED
        write_member(pool / f"{shard}.npz", name, array, kind)
    elif how == "alone":
        np.save(pool / f"{shard}.{name}.npy", values)
    elif how == "made":
        folder = pool / ".headwater" / "features" / "clip-12345678"
        folder.mkdir(parents=True, exist_ok=True)
        write_npz(folder / f"{shard}.npz", {name: values})
    else:
        path = pool / f"{shard}.parquet"
        flat = pa.array(values.ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        pq.write_table(pq.read_table(path).append_column(name, column), path, row_group_size=5)


@settings(max_examples=60, **COMMON)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    hows=st.lists(
        st.sampled_from(["stored", "packed", "fortran", "alone", "made", "column"]), min_size=4, max_size=4
    ),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    block=st.integers(1, 12),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_rows_come_as_they_lie(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    hows: list[str],
    dtype: Any,
    block: int,
    width: int,
    seed: int,
) -> None:
    values = numbers(sum(sizes), width, dtype, seed)
    pool = feature_pool(
        tmp_path_factory.mktemp("p") / "pool", {}, shards=sizes, columns={"n": range(sum(sizes))}
    )
    first = 0
    for number, (size, how) in enumerate(zip(sizes, hows, strict=False)):
        store(pool, f"{number:08d}", "emb", values[first : first + size], how)
        first += size
    found = open_features(Pool.open(pool), "emb")
    assert found.rows == len(values) and found.width == width
    wanted = values.astype(np.float32)
    place = {(n, i): None for n, size in enumerate(sizes) for i in range(size)}
    made = list(found.blocks(block))
    assert [(b.shard, b.first + i) for b in made for i in range(b.rows)] == list(place)
    assert np.concatenate([b.values for b in made] or [wanted]).tobytes() == wanted.tobytes()
    assert all(b.values.flags.c_contiguous and b.rows <= block for b in made)
    start = np.cumsum([0, *sizes])
    for number, size in enumerate(sizes):
        some = np.random.default_rng(seed).integers(0, size, 5) if size else np.zeros(0, np.int64)
        assert found.take(number, some).tobytes() == wanted[start[number] + some].tobytes()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 700), width=st.integers(1, 9), torch=st.booleans())
def test_float16_is_converted_exactly(seed: int, rows: int, width: int, torch: bool) -> None:
    bits = np.random.default_rng(seed).integers(0, 1 << 16, (rows, width)).astype(np.uint16)
    values = bits.view(np.float16)
    wanted = values.astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        if torch:
            pytest.importorskip("torch")
        else:
            patch.delitem(sys.modules, "torch", raising=False)
        made = to_float32(values)
    assert (np.isnan(made) == np.isnan(wanted)).all()
    plain = ~np.isnan(wanted)
    assert made[plain].tobytes() == wanted[plain].tobytes()


def test_every_float16_is_converted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    wanted = values.astype(np.float32)
    made = to_float32(values)
    assert (np.isnan(made) == np.isnan(wanted)).all()
    assert made[~np.isnan(wanted)].tobytes() == wanted[~np.isnan(wanted)].tobytes()


def test_rows_without_a_direction_are_told_one_by_one() -> None:
    values = np.ones((6, 3), np.float32)
    values[1] = 0
    values[2, 0] = np.nan
    values[3, 2] = -np.inf
    values[4] = 1e38  # its squares overflow, it does not
    values[5] = -0.0
    assert unusable(values).tolist() == [0, ZERO, NOT_FINITE, NOT_FINITE, 0, ZERO]
    scaled = normalise(values)
    np.testing.assert_allclose(scaled[4], 3**-0.5, rtol=1e-6)
    assert scaled[1].tolist() == [0, 0, 0]
    assert np.isnan(scaled[2, 0])


def test_float64_beyond_float32_is_infinite_and_told(tmp_path: Path) -> None:
    values = np.ones((4, 2))
    values[2, 1] = 1e39
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=1)
    (block,) = open_features(Pool.open(pool), "l14_img").blocks()
    assert block.bad.tolist() == [0, 0, NOT_FINITE, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 600), width=st.integers(1, 40))
def test_normalise_depends_on_the_row_alone(seed: int, rows: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(rows, width)) * 10.0 ** rng.integers(-18, 18, (rows, 1))).astype(np.float32)
    made = normalise(values)
    for i in range(0, rows, 97):
        x = values[i].astype(np.float64)
        length = np.sqrt(np.add.reduce(x * x)) or 1.0
        assert made[i].tobytes() == (x / length).astype(np.float32).tobytes()


@pytest.mark.parametrize("how", ["stored", "packed", "alone", "column"])
def test_other_values_make_another_id(tmp_path: Path, how: str) -> None:
    ids = []
    for seed in (0, 0, 1):
        pool = feature_pool(tmp_path / f"{len(ids)}", {}, shards=1, columns={"n": range(5)})
        store(pool, "00000000", "emb", numbers(5, seed=seed), how)
        ids.append(open_features(Pool.open(pool), "emb").id)
    # a zip carries the time at which it was made
    assert ids[0] == ids[1] or how in ("stored", "packed")
    assert ids[2] not in ids[:2]


def test_a_file_that_changes_gives_another_id_though_its_digest_is_kept(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": numbers(6)}, shards=1)
    age(pool / "00000000.npz")
    before = open_features(Pool.open(pool), "l14_img").id
    assert open_features(Pool.open(pool), "l14_img").id == before
    write_npz(pool / "00000000.npz", {"l14_img": numbers(6, seed=1)})
    assert open_features(Pool.open(pool), "l14_img").id != before
    assert (whole(pool) == numbers(6, seed=1).astype(np.float32)).all()


def test_a_packed_array_is_unpacked_once_and_again_when_that_is_damaged(tmp_path: Path) -> None:
    values = numbers(40)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=1, packed=True)
    assert (whole(pool) == values.astype(np.float32)).all()
    (kept,) = (pool / ".headwater" / "features" / "inflated").iterdir()
    made = kept.stat().st_mtime_ns
    assert (whole(pool) == values.astype(np.float32)).all()
    assert kept.stat().st_mtime_ns == made
    kept.write_bytes(kept.read_bytes()[:-10])
    assert (whole(pool) == values.astype(np.float32)).all()
    assert kept.stat().st_size > 0


def test_a_null_vector_is_a_row_without_features(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {}, shards=1, columns={"n": range(3)})
    path = pool / "00000000.parquet"
    column = pa.array([[1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32(), 2))
    pq.write_table(pq.read_table(path).append_column("emb", column), path)
    (block,) = open_features(Pool.open(pool), "emb").blocks()
    assert block.bad.tolist() == [0, NOT_FINITE, NOT_FINITE]
    assert block.values[0].tolist() == [1, 2]


def test_what_is_missing_is_named_with_what_is_there(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": numbers(4), "b32_img": numbers(4)}, shards=2)
    with pytest.raises(MissingInput, match="no features 'l14_imgs'") as caught:
        open_features(Pool.open(pool), "l14_imgs")
    assert caught.value.hint is not None
    assert "b32_img, l14_img" in caught.value.hint and "did you mean 'l14_img'" in caught.value.hint
    assert feature_names(Pool.open(pool)) == ["b32_img", "l14_img"]
    (pool / "00000001.npz").unlink()
    with pytest.raises(MissingInput, match="shard 00000001: no features 'l14_img'"):
        open_features(Pool.open(pool), "l14_img")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (numbers(3), "3 rows of features l14_img, but the shard has 4"),
        (numbers(4).ravel(), r"shape \(12,\)"),
        (numbers(4)[:, :0], r"shape \(4, 0\)"),
        (numbers(4).astype(np.int32), "int32, not float16"),
        (numbers(4).astype(">f4"), ">f4, not float16"),
        (numbers(4).astype(np.complex64), "complex64, not float16"),
        (np.array([[None, {}]] * 4, object), "Python objects"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_other_arrays_are_refused(tmp_path: Path, values: Any, told: str, packed: bool) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": numbers(4)}, shards=1)
    path = pool / "00000000.npz"
    write_member(path, "l14_img", values, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    with pytest.raises(IntegrityError, match=told):
        open_features(Pool.open(pool), "l14_img")


def test_another_width_in_a_later_shard_is_refused(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": numbers(6)}, shards=2)
    write_npz(pool / "00000001.npz", {"l14_img": numbers(3, width=4)})
    with pytest.raises(IntegrityError, match="4 numbers a row in shard 00000001, but 3 in shard 00000000"):
        open_features(Pool.open(pool), "l14_img")


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_or_flipped_anywhere_is_told(tmp_path: Path, packed: bool) -> None:
    """Never another exception than ours, never a crash; a stored array whose numbers alone changed is another array."""
    values = numbers(30, width=4)
    pool = feature_pool(tmp_path / "pool", {"l14_img": values}, shards=1, packed=packed)
    path = pool / "00000000.npz"
    good = path.read_bytes()
    wanted = open_features(Pool.open(pool), "l14_img").id
    step = max(1, len(good) // 40)
    for at in range(0, len(good), step):
        for data in (good[:at], good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :]):
            path.write_bytes(data)
            try:
                found = open_features(Pool.open(pool), "l14_img")
                assert sum(block.rows for block in found.blocks()) == 30
                assert found.id != wanted
            except (IntegrityError, MissingInput):
                pass


@pytest.mark.parametrize("name", ["00000000.l14_img.npy"])
def test_a_bare_array_cut_short_or_pickled_is_told(tmp_path: Path, name: str) -> None:
    pool = feature_pool(tmp_path / "pool", {}, shards=1, columns={"n": range(30)})
    np.save(pool / name, numbers(30))
    good = (pool / name).read_bytes()
    for data in (good[:-1], good[:60], b"", b"junk" * 40):
        (pool / name).write_bytes(data)
        with pytest.raises(IntegrityError):
            open_features(Pool.open(pool), "l14_img")
    np.save(pool / name, np.array([[{}]] * 30, object), allow_pickle=True)
    with pytest.raises(IntegrityError, match="never unpickled"):
        open_features(Pool.open(pool), "l14_img")


def test_a_file_cut_short_while_it_is_read_is_told(tmp_path: Path) -> None:
    pool = feature_pool(tmp_path / "pool", {"l14_img": numbers(3000, width=64)}, shards=1)
    found = open_features(Pool.open(pool), "l14_img")
    path = pool / "00000000.npz"
    with open(path, "r+b") as handle:
        handle.truncate(path.stat().st_size // 2)
    with pytest.raises(IntegrityError, match="became shorter"):
        list(found.blocks())


def test_no_shards_and_no_rows(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    found = open_features(Pool.open(tmp_path / "none"), "l14_img")
    assert (found.rows, found.width, list(found.blocks())) == (0, 0, [])
    pool = feature_pool(tmp_path / "pool", {"l14_img": numbers(3)}, shards=[0, 3, 0])
    assert [block.shard for block in open_features(Pool.open(pool), "l14_img").blocks()] == [1]


def test_shards_are_split_as_asked() -> None:
    assert split(7, 3) == [3, 2, 2] and split(7, [7, 0]) == [7, 0]
    assert features.REASONS.keys() == {ZERO, NOT_FINITE}
