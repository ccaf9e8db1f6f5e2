"""Counts straight from text pages against `str.split` and `len`, for every way of writing, and damaged files."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _captions
from headwater.errors import IntegrityError

PIECES = [
    "a",
    "of",
    "photo",
    " ",
    "  ",
    "\n",
    "\t",
    "é",
    "家",
    "\u3000",
    "\u2003",
    "\u200b",
    "👨‍👩",
    "\x00",
    "\x01",
]


def captions(n: int, *, seed: int = 1, longest: int = 60) -> list[str]:
    pick = random.Random(seed)
    return ["b" + "".join(pick.choices(PIECES[:13], k=pick.randrange(longest))) for _ in range(n)]


def shard(values: list[str | None], *, nullable: bool = True, **options: Any) -> bytes:
    schema = pa.schema([pa.field("text", pa.string(), nullable=nullable)])
    out = io.BytesIO()
    pq.write_table(pa.table([pa.array(values, pa.string())], schema=schema), out, **options)
    return out.getvalue()


def fast(data: bytes) -> Any:
    file = io.BytesIO(data)
    return _captions.count_captions(file, pq.read_metadata(file), 0, 0, shard_name="a.parquet")


def full(data: bytes) -> Any:
    file = io.BytesIO(data)
    return _captions.count_captions_any(pq.ParquetFile(file), 0, shard_name="a.parquet", file=file)


def lists(counts: Any) -> list[list[int]]:
    return [part.tolist() for part in counts]


def wanted(values: list[str | None]) -> list[list[int]]:
    return [
        [-1 if v is None else len(v.split()) for v in values],
        [-1 if v is None else len(v) for v in values],
    ]


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize("page_bytes", [500, 1 << 20])
def test_every_way_to_write(
    codec: str, version: str, dictionary: bool, nullable: bool, page_bytes: int
) -> None:
    for values in (
        captions(700),
        captions(90) * 7,
        captions(1),
        captions(300, longest=900),
        ["ascii only"] * 300,
    ):
        data = shard(
            [*values], nullable=nullable, compression=codec, data_page_version=version, use_dictionary=dictionary,
            data_page_size=page_bytes, write_batch_size=64, dictionary_pagesize_limit=20_000,
        )  # fmt: skip
        counts = fast(data)
        assert counts is not None
        assert lists(counts) == wanted([*values])


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 257, 511, 512, 65_535, 65_536, 70_000, 2_000_000])
@pytest.mark.parametrize("letter", ["a", " ", "é", "\u3000"], ids=ascii)
def test_lengths_around_the_bytes_of_the_length(size: int, letter: str) -> None:
    values: list[str | None] = [
        "x y",
        letter * (size // len(letter.encode())),
        "z",
        letter * 7,
        "w" * size,
        "v",
    ]
    for dictionary in (True, False):
        data = shard(values, use_dictionary=dictionary)
        assert lists(full(data)) == wanted(values)
        assert size > 65_535 or size == 0 or fast(data) is not None


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(st.none(), st.text(), st.lists(st.sampled_from(PIECES)).map("".join), st.text("\0a\x03 "))
    ),
    st.booleans(),
)
def test_anything(values: list[str | None], dictionary: bool) -> None:
    data = shard([*values, "end"], use_dictionary=dictionary)
    assert lists(full(data)) == wanted([*values, "end"])
    counts = fast(data)
    assert counts is None or lists(counts) == wanted([*values, "end"])


def test_text_made_to_look_like_lengths() -> None:
    fake = "\x05\0\0\0abcde"
    for values in ([fake] * 5, ["\0\0"] * 5, ["a\0\0", "b"], ["\0", "a"], ["", "", "a"], ["a", ""], [""]):
        assert lists(full(shard([*values], use_dictionary=False))) == wanted([*values])


def test_more_rows_than_a_block() -> None:
    values = captions(40_000, longest=8)
    assert lists(fast(shard([*values], data_page_size=1 << 24, use_dictionary=False))) == wanted([*values])


def test_another_column() -> None:
    with pytest.raises(IntegrityError, match=r"a\.parquet.*'caption'"):
        _captions.count_captions_any(
            pq.ParquetFile(io.BytesIO(shard(["a"]))), 0, shard_name="a.parquet", column="caption"
        )


@pytest.fixture(scope="module")
def samples() -> list[bytes]:
    ways = itertools.product(["none", "snappy"], ["1.0", "2.0"], [True, False])
    text: list[str | None] = [*captions(300)]
    return [
        shard(
            text,
            compression=c,
            data_page_version=v,
            use_dictionary=d,
            data_page_size=2_000,
            write_batch_size=50,
        )
        for c, v, d in ways
    ]


def test_damage_never_crashes(samples: list[bytes]) -> None:
    pick = random.Random(4)
    for data in samples:
        metadata = pq.read_metadata(io.BytesIO(data))
        size = metadata.row_group(0).column(0).total_compressed_size
        for number in range(400):
            broken = bytearray(data)
            place = 4 + (number // 8 if number < 320 else pick.randrange(size))
            broken[place] ^= 1 << number % 8
            try:
                counts = _captions.count_captions(io.BytesIO(broken), metadata, 0, 0, shard_name="a.parquet")
            except IntegrityError as error:
                assert "a.parquet" in str(error)
            else:
                assert counts is None or len(counts[0]) == len(counts[1]) == 300
        for sixteenth in range(16):
            with pytest.raises(IntegrityError, match=r"a\.parquet"):
                _captions.count_captions(
                    io.BytesIO(data[: 4 + size * sixteenth // 16]), metadata, 0, 0, shard_name="a.parquet"
                )


def test_golden_labels(golden: Path) -> None:
    labels = pq.read_table(
        golden / "pool_labels.parquet", columns=["shard", "row", "n_words", "n_code_points"]
    )
    names = labels["shard"].to_pylist()
    seen = 0
    for path in sorted((golden / "pool").glob("*.parquet")):
        rows = [i for i, name in enumerate(names) if name in (path.name, path.stem)]
        part = labels.take(rows).sort_by("row")
        with path.open("rb") as file:
            shard_file = pq.ParquetFile(file)
            groups = range(shard_file.num_row_groups)
            parts = [
                _captions.count_captions_any(shard_file, g, shard_name=path.name, file=file) for g in groups
            ]
        assert [n for words, _ in parts for n in words.tolist()] == part["n_words"].to_pylist()
        assert [n for _, chars in parts for n in chars.tolist()] == part["n_code_points"].to_pylist()
        seen += len(rows)
    assert seen == len(labels)
