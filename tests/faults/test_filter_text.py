"""Captions that are long, strange, or not text at all (rows 30 to 32 of the catalogue)."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.faults import kit
from tests.faults.kit import kept, select

# row 30


def long_caption(characters: int) -> pa.Table:
    text = pa.array(
        ["three short words", "ab " * (characters // 3), "x" * characters, "é" * (characters // 2)],
        pa.string(),
    )
    return kit.rows(range(4), text=text)


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
@pytest.mark.parametrize("index", [False, True], ids=["raw", "index"])
def test_row_30_a_caption_of_a_megabyte(compression: str, index: bool, tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [long_caption(1 << 20)], compression=compression)
    if index:
        assert kit.run("pool", "index", pool).code == 0
    both = ("{id: words, sql: n_words > 2}", "{id: characters, sql: n_chars > 17}")
    assert select(pool, tmp_path, *both, head="scores: [caption]\n").code == 0
    assert kept(tmp_path / "out.npy") == {1}
    assert (
        select(pool, tmp_path, f"{{id: n, sql: n_chars = {1 << 19}}}", head="scores: [caption]\n").code == 0
    )
    assert kept(tmp_path / "out.npy") == {3}
    assert select(pool, tmp_path, "{id: once, dedup: {by: [text]}}").code == 0
    assert kept(tmp_path / "out.npy") == {0, 1, 2, 3}


@pytest.mark.slow
def test_row_30_a_caption_of_64_megabytes_in_bounded_memory(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [long_caption(64 << 20)], compression="snappy")
    both = ("{id: words, sql: n_words > 2}", "{id: once, dedup: {by: [text]}}")
    rule = kit.rule_file(tmp_path, *both, head="scores: [caption]\n")
    output = tmp_path / "out.npy"
    done = kit.spawn("filter-pool", pool, "-o", output, "--rule", rule, home=tmp_path)
    assert done.code == 0, done
    assert kept(output) == {0, 1}
    # one row group of 192 MiB of text: pages, the column and copies of it
    peak = kit.record(output).energy.peak_rss_bytes
    assert peak is not None and peak < 8 * (192 << 20)
    capped = kit.spawn(
        "filter-pool", pool, "-o", output, "--rule", rule, "--force", home=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20)),
    )  # fmt: skip
    assert capped.code in (0, 1, 13) and kept(output) == {0, 1}
    assert kit.temporaries(tmp_path) == []
    assert not (Path.cwd() / ".tmp").exists()


# row 31

BLANKS = "\u00a0\u1680\u2000\u2005\u200a\u2028\u2029\u202f\u205f\u3000\t\n\v\f\r\x1c\x1d\x1e\x1f\x85 "
TEXTS = [
    *(f"one{blank}two" for blank in BLANKS),
    "zero\u200bwidth", "\ufeffmark here", "\u202eright to left\u202c", "\u2066iso\u2069lates", "e\u0301 combining e\u0301",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea flag", "赤い車の写真",
    "赤い　車の　写真", " ", "", "\u3000", "a", "NUL\0 in side", "ﷺ", "Ω≈ç√∫˜µ≤≥÷", "'; drop table pool; --", "${jndi:x} %s {0}",
    "<script>alert(1)</script>", "١٢٣ ٤٥٦", "ｆｕｌｌ　ｗｉｄｔｈ", "\u00ad soft hyphen", "a\u2060b word joiner",
    "z\u0360\u0361\u0362 a\u0315l\u0358g\u034do", "نص عربي قصير", "test\u0000", "\x7f\x80 controls",
]  # fmt: skip


@pytest.mark.parametrize("index", [False, True], ids=["raw", "index"])
@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_row_31_words_and_characters_are_pythons(compression: str, index: bool, tmp_path: Path) -> None:
    table = kit.rows(range(len(TEXTS)), text=pa.array(TEXTS, pa.string()))
    pool = kit.write_pool(tmp_path / "pool", [table], compression=compression, use_dictionary=False)
    if index:
        assert kit.run("pool", "index", pool).code == 0
    for count, rule in (("n_words", lambda t: len(t.split())), ("n_chars", len)):
        for least in (1, 2, 3, 6, 9):
            done = select(pool, tmp_path, f"{{id: it, sql: {count} >= {least}}}", head="scores: [caption]\n")
            assert done.code == 0
            assert kept(tmp_path / "out.npy") == {n for n, t in enumerate(TEXTS) if rule(t) >= least}, (
                count,
                least,
            )


def test_row_31_equal_text_is_equal_bytes(tmp_path: Path) -> None:
    # one written with a combining mark, one without: two captions
    texts = ["é", "e\u0301", "é", "É", " é", "\u2028", "\u2029"]
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(7), text=pa.array(texts, pa.string()))])
    assert select(pool, tmp_path, "{id: once, dedup: {by: [text]}}").code == 0
    twice = min((0, 2), key=kit.uid)
    assert kept(tmp_path / "out.npy") == {twice, 1, 3, 4, 5, 6}
    assert select(pool, tmp_path, "{id: it, sql: \"text = 'é'\"}").code == 0
    assert kept(tmp_path / "out.npy") == {0, 2}


# row 32


def raw_text(values: list[bytes]) -> pa.Array:
    """A string column with these bytes, whatever they are."""
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(values), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(values))]
    )


INVALID = {
    "stray byte": b"caf\xe9 au lait",
    "lone surrogate": b"a \xed\xa0\x80 b",
    "cut short": b"two words \xe8\xb5",
    "overlong": b"a \xc0\xaf b",
    "beyond": b"\xf5\x80\x80\x80 x",
}


@pytest.mark.parametrize("bad", INVALID.values(), ids=INVALID)
def test_row_32_text_that_is_not_utf8_is_refused_by_row_where_it_is_read(bad: bytes, tmp_path: Path) -> None:
    values = [b"one two three", b"x", bad, b"four five six"]
    pool = kit.write_pool(
        tmp_path / "pool", [kit.rows([50, 51]), kit.rows(range(4), text=raw_text(values))], row_group_size=2
    )
    for clause in (
        "{id: once, dedup: {by: [text]}}",
        "{id: it, sql: \"text <> 'x'\"}",
        "{id: it, in: {column: text, values: [x]}}",
    ):
        done = select(pool, tmp_path, clause)
        assert done.code == 13, done
        assert "shard 00000001, column text, row 2: not valid UTF-8" in done.err
        kit.nothing_at(tmp_path / "out.npy")
    # counts take bytes as they are
    done = select(pool, tmp_path, "{id: words, sql: n_words > 1}", head="scores: [caption]\n")
    assert done.code == 0
    assert kept(tmp_path / "out.npy") >= {0, 2, 3} and 1 not in kept(tmp_path / "out.npy")


def test_row_32_text_that_is_not_utf8_is_refused_by_a_scorer(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(2), text=raw_text([b"fine", b"caf\xe9"]))])
    done = kit.run("score", "language", pool)
    if done.code == 4:
        pytest.skip(f"the language model is not here: {done.err.splitlines()[0]}")
    assert done.code == 13 and "shard 00000000, column text, row 1: not valid UTF-8" in done.err
    assert kit.temporaries(tmp_path) == []


def test_row_32_nul_is_a_character_like_any(tmp_path: Path) -> None:
    texts = ["a\0b", "a", "a\0", "\0"]
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(4), text=pa.array(texts, pa.string()))])
    assert select(pool, tmp_path, "{id: once, dedup: {by: [text]}}").code == 0
    assert kept(tmp_path / "out.npy") == {0, 1, 2, 3}
    assert select(pool, tmp_path, "{id: n, sql: n_chars = 3}", head="scores: [caption]\n").code == 0
    assert kept(tmp_path / "out.npy") == {0}
    assert select(pool, tmp_path, "{id: n, sql: length(text) = 2}").code == 0
    assert kept(tmp_path / "out.npy") == {2}


def test_row_32_a_null_byte_reaches_explain_as_text(tmp_path: Path) -> None:
    pool = kit.write_pool(tmp_path / "pool", [kit.rows(range(2), text=pa.array(["a\0b", "c"], pa.string()))])
    assert select(pool, tmp_path, "{id: it, sql: \"text <> 'c'\"}").code == 0
    done = kit.run("explain", tmp_path / "out.npy", kit.uid(0), "--json")
    assert done.code == 0
    assert json.loads(done.out)["uids"][0]["values"]["text"] == "a\0b"
