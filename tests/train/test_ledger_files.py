"""Files of the ledger that do not belong, are damaged or are hostile: each is named, none is unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import IntegrityError
from tests.train.ledger_kit import account, total
from train.ledger import part_name, read_part, write_part


def _rename(folder: Path) -> str:
    (folder / part_name(1, 0)).rename(folder / part_name(2, 0))
    write_part(folder, account(1))
    return part_name(2, 0)


def _twice(folder: Path) -> str:
    (folder / "part_0001_rank_000.npz").write_bytes((folder / part_name(1, 0)).read_bytes())
    return "part_0001_rank_000.npz|part_001_rank_000.npz"


def _stray(folder: Path) -> str:
    (folder / "part_001_rank_000 (copy).npz").write_bytes(b"")
    return r"part_001_rank_000 \(copy\)\.npz"


def _replaced(part: int, **changes: Any) -> Any:
    def change(folder: Path) -> str:
        (folder / part_name(part, 0)).unlink()
        one = account(part, **changes)
        write_part(folder, one)
        return part_name(one.part, one.rank)

    return change


def _extra_rank(folder: Path) -> str:
    write_part(folder, account(1, rank=1, world=2))
    return part_name(1, 1)


def _missing(folder: Path) -> str:
    (folder / part_name(2, 0)).unlink()
    return part_name(2, 0) + ".*missing"


@pytest.mark.parametrize(
    "damage",
    [
        _missing,
        _rename,
        _twice,
        _stray,
        _extra_rank,
        _replaced(2, run_key="another run"),
        _replaced(2, world=2),
        _replaced(2, step=np.array([4, 5])),
        _replaced(2, step=np.array([3, 5])),
        _replaced(1, shard=np.full(8, 2)),
        _replaced(1, shard=np.full(8, -1)),
        _replaced(1, sample=np.full(8, 3)),
        _replaced(1, sample=np.full(8, -1)),
        _replaced(2, shard=np.zeros(7, np.int32), sample=np.zeros(7, np.int32)),
        _replaced(1, skipped_shard=np.array([0]), skipped_sample=np.array([4]), skipped_code=np.array([0])),
    ],
)
def test_what_does_not_belong_is_named(tmp_path: Path, damage: Any) -> None:
    for part in (1, 2):
        write_part(tmp_path, account(part))
    total(tmp_path, parts=2)
    name = damage(tmp_path)
    with pytest.raises(IntegrityError, match=name) as caught:
        total(tmp_path, parts=2)
    assert caught.value.exit_code == 13 and caught.value.hint


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_part(tmp_path_factory.mktemp("good"), account()).read_bytes()


@given(data=st.data())
def test_a_damaged_file_is_told_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, good: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / part_name(1, 0)
    if data.draw(st.booleans(), "truncated"):
        path.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
        with pytest.raises(IntegrityError, match="part_001_rank_000"):
            read_part(path)
        return
    place = data.draw(st.integers(0, len(good) - 1))
    path.write_bytes(good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :])
    try:
        found = read_part(path)
    except IntegrityError as error:
        assert "part_001_rank_000" in error.message
        return
    # a bit that carries nothing: dates, versions and attributes of the zip
    np.testing.assert_array_equal(found.loss, account().loss)
    np.testing.assert_array_equal(found.sample, account().sample)


def _arrays() -> dict[str, np.ndarray[Any, Any]]:
    out = {}
    for name, value in vars(account()).items():
        out[name] = np.asarray(value)
    return {**out, "format": np.array("ledger/1"), "samples": np.array(8)}


def _zip(path: Path, arrays: dict[str, Any], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            if isinstance(array, bytes):
                data.write(array)
            else:
                np.lib.format.write_array(data, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", data.getvalue())


class Trap:
    """Would leave a mark when unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("unpickled",))


def _claims(rows: str) -> bytes:
    header = b"{'descr': '<i4', 'fortran_order': False, 'shape': (%s,), }" % rows.encode()
    return b"\x93NUMPY\x01\x00" + len(header + b"\n").to_bytes(2, "little") + header + b"\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"shard": np.array([Trap()], object)},
        {"run_key": np.array("x" * 300)},
        {"run_key": np.array(["run"])},
        {"shard": np.zeros((2, 4), np.int32)},
        {"shard": np.zeros(8, np.int64)},
        {"shard": np.zeros(8, ">i4")},
        {"shard": _claims("99999999999")},
        {"shard": _claims("-1")},
        {"shard": b"\x93NUMPY\x01\x00"},
        {
            "shard": _claims("8,").replace(b"NUMPY\x01\x00", b"NUMPY\x01\x00\xff\xff")[:10]
            + _claims("8,")[10:]
            + bytes(32)
        },
        {"samples": np.array(9)},
        {"format": np.array("ledger/2")},
        {"rank": np.array(1)},
        {"part": np.array(7)},
        {"more": np.zeros(1)},
        {"loss": None},
    ],
)
def test_hostile_arrays_are_refused(
    tmp_path: Path, changes: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / part_name(1, 0)
    _zip(path, _arrays())
    assert read_part(path).samples == 8
    _zip(path, {name: value for name, value in {**_arrays(), **changes}.items() if value is not None})
    with pytest.raises(IntegrityError, match="part_001_rank_000"):
        read_part(path)
    assert capfd.readouterr().out == ""


def test_a_member_that_claims_more_than_the_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / part_name(1, 0)
    _zip(path, _arrays())
    with zipfile.ZipFile(path, "a") as archive:
        entry = archive.getinfo("shard.npy")
        entry.file_size = entry.compress_size = 1 << 30
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(IntegrityError, match="larger than the file"):
        read_part(path)


def test_packed_and_large_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / part_name(1, 0)
    _zip(path, {**_arrays(), "shard": np.zeros(1 << 20, np.int32)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(IntegrityError, match="packed"):
        read_part(path)
    write_part(tmp_path, account())
    with pytest.raises(IntegrityError, match="more than the 100"):
        read_part(path, limit_bytes=100)
