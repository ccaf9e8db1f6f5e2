"""Words and characters of captions against Python's own `str.split` and `len`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import _text
from curate._memory import tune_allocator

BLANKS = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000 and chr(i).isspace()]
NEAR_BLANKS = list(
    "\0\x08\x0e\x1b\x7f\x84\x86\u00a1\u00c2\u1681\u180e\u200b\u200c\u200e\u200f\u2027\u202a\u202e"
)
NEAR_BLANKS += list("\u2030\u205e\u2060\u2061\u3001\ufeff\u0120\u0320\u4e00\U0001f3fb\U00012000\U0010ffff")
ALPHABET = BLANKS + NEAR_BLANKS + list("abZé漢あעם👨")
TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]

texts = st.one_of(st.none(), st.text(), st.text(st.sampled_from(ALPHABET)))


def column(values: list[str | None], kind: pa.DataType) -> pa.Array:
    array = pa.array(values, pa.string())
    return array.dictionary_encode() if pa.types.is_dictionary(kind) else array.cast(kind)


def expect(values: Sequence[str | None], array: pa.Array | pa.ChunkedArray) -> None:
    assert _text.count_words(array).tolist() == [-1 if v is None else len(v.split()) for v in values]
    assert _text.count_chars(array).tolist() == [-1 if v is None else len(v) for v in values]
    words, chars = _text.count_words_and_chars(array)
    assert words.tolist() == _text.count_words(array).tolist()
    assert chars.tolist() == _text.count_chars(array).tolist()
    assert words.dtype == chars.dtype == np.int32
    assert _text.invalid_utf8_rows(array).tolist() == []


@pytest.mark.parametrize("kind", TYPES, ids=str)
@given(values=st.lists(texts, max_size=40), skip=st.integers(0, 3))
def test_like_python(kind: pa.DataType, values: list[str | None], skip: int) -> None:
    expect(values[skip:], column(values, kind)[skip:])


@pytest.mark.parametrize("blank", BLANKS, ids=lambda c: f"U+{ord(c):04X}")
def test_every_white_space(blank: str) -> None:
    values = [
        blank,
        "a" + blank,
        blank + "a",
        "a" + blank + "b",
        "",
        "ab",
        blank * 3 + "é" + blank * 2 + "b",
        "c",
    ]
    expect(values, pa.array(values))


@pytest.mark.parametrize("other", NEAR_BLANKS, ids=lambda c: f"U+{ord(c):04X}")
def test_what_only_looks_like_white_space(other: str) -> None:
    values = ["a" + other + "b", other, "a", other + " " + other, "é" + other + "\u3000" + other]
    expect(values, pa.array(values))


def test_all_characters() -> None:
    characters = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    values = ["a" + "a".join(characters[i : i + 7]) + "a" for i in range(0, len(characters), 7)]
    expect(values, pa.array(values))


@pytest.mark.parametrize(
    "alphabet", [ALPHABET, BLANKS, list("あ、\u3000い"), list("ab ")], ids=["all", "blank", "kana", "ascii"]
)
def test_many_rows_of_uneven_length(alphabet: list[str]) -> None:
    pick = random.Random(5)
    lengths = [0, 1, 3, 20, 200]
    values = ["".join(pick.choices(alphabet, k=pick.choice(lengths))) for _ in range(_text.BLOCK_ROWS + 999)]
    expect(values, pa.array(values))


@pytest.mark.parametrize("around", [-1, 0, 1])
def test_rows_at_the_block_size(around: int) -> None:
    size = _text.BLOCK_BYTES + around
    values = ["x", " " * size, "a" * size, "", "a " * (size // 2), "z", "\u3000a" * (size // 4), "y z"]
    expect(values, pa.array(values))


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("piece", ["\u3000", "a\u2003", "é", "👨b ", "\u0085"], ids=ascii)
def test_long_rows_are_cut_between_characters(piece: str, shift: int) -> None:
    values = ["one two", "a" * shift + piece * (3 * _text.SLICE_BYTES // len(piece.encode())), "three"]
    expect(values, pa.array(values))


def test_chunks_empty_columns_and_nulls() -> None:
    expect(
        ["a b", None, "c"],
        pa.chunked_array([pa.array(["a b", None]), pa.array([], pa.string()), pa.array(["c"])]),
    )
    expect([], pa.chunked_array([], pa.string()))
    for kind in TYPES:
        expect([], column([], kind))
        expect([None, None], column([None, None], kind))


@given(
    st.lists(st.one_of(st.none(), st.binary(max_size=12), st.text(max_size=8).map(str.encode)), max_size=30)
)
def test_invalid_utf8(values: list[bytes | None]) -> None:
    def decodes(value: bytes | None) -> bool:
        try:
            return value is None or value.decode() is not None
        except UnicodeDecodeError:
            return False

    bad = [i for i, value in enumerate(values) if not decodes(value)]
    raw = pa.array(values, pa.binary())
    hidden = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), raw.null_count)
    for array in (raw, hidden, hidden.dictionary_encode(), pa.chunked_array([hidden, hidden[:0]])):
        assert _text.invalid_utf8_rows(array).tolist() == bad
    _text.count_words_and_chars(hidden)  # meaningless, but no crash


def test_a_character_split_between_two_rows_is_invalid_in_both() -> None:
    euro = "€".encode()
    assert _text.invalid_utf8_rows(pa.array([b"ok", euro[:1], euro[1:], euro])).tolist() == [1, 2]


def test_golden_labels(golden: Path) -> None:
    labels = pq.read_table(
        golden / "pool_labels.parquet", columns=["shard", "row", "n_words", "n_code_points"]
    )
    seen = 0
    for shard in sorted((golden / "pool").glob("*.parquet")):
        names = labels["shard"].to_pylist()
        rows = [i for i, name in enumerate(names) if name in (shard.name, shard.stem)]
        wanted = labels.take(rows).sort_by("row")
        text = pq.read_table(shard, columns=["text"])["text"]
        assert _text.count_words(text).tolist() == wanted["n_words"].to_pylist()
        assert _text.count_chars(text).tolist() == wanted["n_code_points"].to_pylist()
        seen += len(rows)
    assert seen == len(labels)


def test_tuning_the_allocator_is_harmless() -> None:
    assert tune_allocator() is tune_allocator()
    assert np.arange(1 << 22).sum() == (1 << 21) * ((1 << 22) - 1)
