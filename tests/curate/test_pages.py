"""Uids from Parquet pages: every way of writing them, malformed uids, and damaged files."""

from __future__ import annotations

import io
import itertools
import random
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _chunk, _pages
from headwater.errors import IntegrityError

CODECS = ["none", "snappy", "gzip", "zstd", "lz4", "brotli"]


def uids(n: int, *, seed: int = 1, distinct: int | None = None) -> list[str]:
    pick = random.Random(seed)
    if distinct is None:
        return [f"{pick.getrandbits(128):032x}" for _ in range(n)]
    some = [f"{pick.getrandbits(128):032x}" for _ in range(distinct)]
    return [pick.choice(some) for _ in range(n)]


def numbers(values: list[Any]) -> list[list[int]]:
    return [[int(v[:16], 16), int(v[16:], 16)] for v in values]


def shard(
    values: list[Any], *, kind: pa.DataType | None = None, nullable: bool = True, **options: Any
) -> bytes:
    schema = pa.schema([pa.field("n", pa.int64()), pa.field("uid", kind or pa.string(), nullable=nullable)])
    columns = [pa.array(range(len(values)), pa.int64()), pa.array(values, schema.field("uid").type)]
    out = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), out, **options)
    return out.getvalue()


def fast(data: bytes, row_group: int = 0) -> Any:
    file = io.BytesIO(data)
    return _pages.read_uids(file, pq.read_metadata(file), row_group, 1, shard_name="a.parquet")


def full(data: bytes) -> tuple[Any, Any]:
    file = io.BytesIO(data)
    return _pages.read_uids_any(pq.ParquetFile(file), 0, shard_name="a.parquet", file=file)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(("dictionary", "nullable"), list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize("page_bytes", [300, 1 << 20])
def test_every_way_to_write(
    codec: str, version: str, dictionary: bool, nullable: bool, page_bytes: int
) -> None:
    for values in (uids(1_000), uids(1_000, distinct=37), uids(1), uids(900, distinct=1)):
        data = shard(
            values, nullable=nullable, compression=codec, data_page_version=version, use_dictionary=dictionary,
            data_page_size=page_bytes, write_batch_size=64, dictionary_pagesize_limit=20_000,
        )  # fmt: skip
        words = fast(data)
        assert words is not None
        assert words.dtype == np.dtype("<u8")
        assert words.tolist() == numbers(values)


def test_without_the_snappy_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_chunk, "cramjam", None)
    values = uids(500)
    assert fast(shard(values, compression="snappy")).tolist() == numbers(values)


def test_row_groups_and_pages_larger_than_a_step() -> None:
    values = uids(3 * _pages.STEP_ROWS)
    data = shard(values, row_group_size=2 * _pages.STEP_ROWS + 7, data_page_size=1 << 30)
    parts = [fast(data, group) for group in range(2)]
    assert np.concatenate(parts).tolist() == numbers(values)


def test_empty_shards_and_row_groups() -> None:
    out = io.BytesIO()
    table = pa.table({"n": pa.array([], pa.int64()), "uid": pa.array([], pa.string())})
    with pq.ParquetWriter(out, table.schema) as writer:
        writer.write_table(table, row_group_size=1)
    if pq.read_metadata(out).num_row_groups:
        words, bad = full(out.getvalue())
        assert words.shape == (0, 2)
        assert len(bad) == 0
    words, bad = _pages.words_of(pa.array([], pa.string()))
    assert words.shape == (0, 2)
    assert len(bad) == 0


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int16(), pa.string()),
        pa.binary(32),
    ],
    ids=str,
)
def test_every_type(kind: pa.DataType) -> None:
    values = uids(100)
    raw = [v.encode() for v in values] if "binary" in str(kind) else values
    words, bad = full(shard(raw, kind=kind))
    assert words.tolist() == numbers(values)
    assert len(bad) == 0
    again, bad = _pages.words_of(pa.chunked_array([pa.array(raw, kind)[3:], pa.array(raw, kind)[:3]]))
    assert again.tolist() == numbers(values[3:] + values[:3])
    assert len(bad) == 0


def test_sixteen_raw_bytes() -> None:
    values = uids(10)
    words, bad = full(shard([bytes.fromhex(v) for v in values[:9]] + [None], kind=pa.binary(16)))
    assert words.tolist() == [*numbers(values[:9]), [0, 0]]
    assert bad.tolist() == [9]


def test_other_types_are_refused() -> None:
    with pytest.raises(IntegrityError, match=r"a\.parquet.*uid.*int64"):
        full(shard([1, 2], kind=pa.int64()))
    with pytest.raises(IntegrityError, match=r"a\.parquet: no flat column 'key'"):
        _pages.read_uids_any(
            pq.ParquetFile(io.BytesIO(shard(uids(1)))), 0, shard_name="a.parquet", column="key"
        )


GOOD = "0123456789abcdef" * 2
MALFORMED = {
    "31 digits": GOOD[1:], "33 digits": GOOD + "0", "upper case": GOOD.upper(), "one capital": GOOD[:-1] + "F",
    "not hex": GOOD[:-1] + "g", "leading space": " " + GOOD[1:], "0x": "0x" + GOOD[2:], "empty": "", "null": None,
    "hyphens": "01234567-89ab-cdef-0123-456789abcdef", "not ascii": "é" + GOOD[2:], "nul": "\0" + GOOD[1:],
    "36 then 28": GOOD + "0123", "underscore": "_" + GOOD[1:], "full width": "０" + GOOD[3:],
    "long": "a" * 100_000, "backquote": "`" + GOOD[1:], "slash": "/" + GOOD[1:], "colon": ":" + GOOD[1:],
}  # fmt: skip


@pytest.mark.parametrize("case", list(MALFORMED))
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("row", [0, 499, 999])
def test_malformed_uids_are_found_and_never_repaired(case: str, dictionary: bool, row: int) -> None:
    values: list[str | None] = [*uids(1_000)]
    values[row] = MALFORMED[case]
    data = shard(values, use_dictionary=dictionary)
    assert fast(data) is None
    words, bad = full(data)
    assert bad.tolist() == [row]
    assert words[row].tolist() == [0, 0]
    values[row] = "0" * 32
    assert words.tolist() == numbers(values)


@given(
    st.lists(
        st.one_of(st.none(), st.text("0123456789abcdefABg x", min_size=30, max_size=34), st.just(GOOD)),
        max_size=20,
    )
)
def test_the_rule_for_a_uid(values: list[str | None]) -> None:
    bad = [i for i, v in enumerate(values) if v is None or not re.fullmatch("[0-9a-f]{32}", v)]
    found = full(shard(values))[1] if values else _pages.words_of(pa.array(values, pa.string()))[1]
    assert found.tolist() == bad


def test_bytes_that_are_no_utf8() -> None:
    raw = pa.array([GOOD.encode(), b"\xff" * 32])
    for kind in (pa.string(), pa.string_view()):
        hidden = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
        if kind == pa.string_view():
            hidden = raw.cast(pa.binary_view()).view(kind)
        assert _pages.words_of(hidden)[1].tolist() == [1]


# ---- damage: an error of ours or an answer, never a crash or another exception


@pytest.fixture(scope="module")
def samples() -> list[bytes]:
    kinds: list[dict[str, Any]] = [
        {
            "compression": codec,
            "data_page_version": version,
            "use_dictionary": dictionary,
            "data_page_size": 2_000,
        }
        for codec, version, dictionary in itertools.product(
            ["none", "snappy", "zstd"], ["1.0", "2.0"], [True, False]
        )
    ]
    return [shard(uids(400, distinct=150), write_batch_size=50, **kind) for kind in kinds]


def survives(data: bytes, metadata: pq.FileMetaData) -> bool:
    try:
        words = _pages.read_uids(io.BytesIO(data), metadata, 0, 1, shard_name="a.parquet")
    except IntegrityError as error:
        assert "a.parquet" in str(error)
        return False
    assert words is None or words.shape == (400, 2)
    return True


def column_of(data: bytes) -> tuple[pq.FileMetaData, int, int]:
    metadata = pq.read_metadata(io.BytesIO(data))
    facts = metadata.row_group(0).column(1)
    start = min(x for x in (facts.dictionary_page_offset, facts.data_page_offset) if x)
    return metadata, start, facts.total_compressed_size


def test_truncation(samples: list[bytes]) -> None:
    for data in samples:
        metadata, start, size = column_of(data)
        assert survives(data, metadata)
        for sixteenth in range(16):
            assert not survives(data[: start + size * sixteenth // 16], metadata)


def test_flipped_bits_in_every_header_and_all_over(samples: list[bytes]) -> None:
    pick = random.Random(2)
    for data in samples:
        metadata, start, size = column_of(data)
        places = [start + i for i in range(40)] + [start + pick.randrange(size) for _ in range(150)]
        for place in places:
            for bit in range(8) if place < start + 40 else [pick.randrange(8)]:
                broken = bytearray(data)
                broken[place] ^= 1 << bit
                survives(bytes(broken), metadata)


@settings(max_examples=200)
@given(choice=st.integers(0, 11), place=st.floats(0, 1), junk=st.binary(min_size=1, max_size=24))
def test_junk_in_the_column(samples: list[bytes], choice: int, place: float, junk: bytes) -> None:
    data = samples[choice]
    metadata, start, size = column_of(data)
    at = start + int(place * (size - len(junk)))
    survives(data[:at] + junk + data[at + len(junk) :], metadata)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def header(kind: int, plain_size: int, size: int, values: int, encoding: int = 0) -> bytes:
    def field(number: int) -> bytes:
        return varint((number << 1) ^ (number >> 63) if number >= 0 else ((-number) << 1) - 1)

    inner = b"\x15" + field(values) + b"\x15" + field(encoding) + b"\x15\x06\x15\x06\x00"
    return (
        b"\x15"
        + field(kind)
        + b"\x15"
        + field(plain_size)
        + b"\x15"
        + field(size)
        + b"\x2c"
        + inner
        + b"\x00"
    )


HOSTILE = {
    "10 GB": header(0, 10 << 30, 100, 400),
    "10 GB on disk": header(0, 100, 10 << 30, 400),
    "negative size": header(0, 100, -5, 400),
    "negative plain size": header(0, -5, 100, 400),
    "negative values": header(0, 100, 100, -400),
    "2 G values": header(0, 100, 100, 2**31 - 1),
    "endless number": b"\x15" + b"\xff" * 200,
    "endless nesting": b"\x1c" * 400,
    "a list of 2^60": b"\x19\xf5" + varint(1 << 60) + b"\x00" * 60,
    "zeros": b"\x00" * 400,
    "ones": b"\xff" * 400,
    "no details": b"\x15\x00\x15\x02\x15\x02\x00",
    "wrong types": b"\x11\x11\x11\x00",
    "only empty pages": header(0, 0, 0, 0) * 40,
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_hostile_headers(case: str) -> None:
    data = shard(uids(400), compression="none", use_dictionary=False)
    metadata, start, _ = column_of(data)
    assert not survives(data[:start] + HOSTILE[case] + data[start + len(HOSTILE[case]) :], metadata)


@pytest.mark.parametrize("width", range(33))
def test_hybrid_numbers_of_every_width(width: int) -> None:
    pick = random.Random(width)
    values = [pick.getrandbits(width) if width else 0 for _ in range(64)]
    packed = sum(v << (i * width) for i, v in enumerate(values)).to_bytes(8 * width, "little")
    repeated = pick.getrandbits(width) if width else 0
    run = varint(5 << 1) + repeated.to_bytes((width + 7) // 8, "little")
    half = len(packed) // 2
    data = varint(4 << 1 | 1) + packed[:half] + run + varint(4 << 1 | 1) + packed[half:]
    wanted = values[:32] + [repeated] * 5 + values[32:]
    for n in (len(wanted), len(wanted) - 3, 36, 31, 0):
        got = _chunk.hybrid(np.frombuffer(data, np.uint8), width, n)
        assert got.tolist() == wanted[:n]
    groups = varint(8 << 1 | 1) + packed
    assert _chunk.hybrid(np.frombuffer(groups, np.uint8), width, 61).tolist() == values[:61]
    with pytest.raises((_chunk.Damaged, _chunk.Unusual)):
        _chunk.hybrid(np.frombuffer(data, np.uint8), width, len(wanted) + 1)


@pytest.mark.parametrize("run", [b"\x00", b"\x01"])
def test_runs_of_nothing_are_refused(run: bytes) -> None:
    with pytest.raises(_chunk.Unusual):
        _chunk.hybrid(np.frombuffer(run * 10_000_000, np.uint8), 1, 8)
