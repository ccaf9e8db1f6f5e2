"""Subset files: the bytes that DataComp reads and writes, and what is refused."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _order, subset
from curate._order import sort_words
from headwater.errors import IntegrityError, MissingInput, UsageError

# few distinct uids, so that repeats and overlaps are usual; words that differ in one half only
UIDS = st.tuples(st.sampled_from([0, 1, 2**63, 2**64 - 1]), st.integers(0, 5))
MULTISETS = st.lists(UIDS, max_size=30)


def words(pairs: list[tuple[int, int]]) -> Any:
    return np.array(sorted(pairs), "<u8").reshape(-1, 2)


def pairs(found: Any) -> list[tuple[int, int]]:
    return [(int(hi), int(lo)) for hi, lo in found]


def saved(found: Any) -> bytes:
    """The file that numpy.save writes."""
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(found, "<u8").view(np.dtype("u8,u8")).reshape(-1))
    return out.getvalue()


def write(path: Path, found: Any) -> Path:
    with open(path, "wb") as handle:
        subset.write_sorted(handle, [found])
    return path


@pytest.mark.parametrize("count", [0, 1, 9, 10, 10**6, 12_800_000_000])
def test_the_header_is_that_of_numpy(count: int) -> None:
    out = io.BytesIO()
    fake = {"descr": [("f0", "<u8"), ("f1", "<u8")], "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(out, fake)
    assert subset.header(count) == out.getvalue()
    assert len(subset.header(count)) == 128


@given(found=MULTISETS, cut=st.integers(0, 30))
def test_written_files_are_those_of_numpy_save(found: list[tuple[int, int]], cut: int) -> None:
    whole = words(found)
    out = io.BytesIO()
    assert subset.write_sorted(out, [whole[:cut], whole[cut:]]) == len(whole)
    assert out.getvalue() == saved(whole)
    out.seek(0)
    array = np.load(out, allow_pickle=False)
    assert array.dtype == np.dtype("u8,u8") and array.tolist() == sorted(found)


@given(runs=st.lists(MULTISETS, max_size=4), once=st.booleans())
def test_merging_sorted_runs(runs: list[list[tuple[int, int]]], once: bool) -> None:
    out = io.BytesIO()
    written, surplus, examples = subset.merge_to(out, [words(run) for run in runs], once=once)
    every = Counter(p for run in runs for p in run)
    expected = sorted(every) if once else sorted(every.elements())
    assert out.getvalue() == saved(np.array(expected, "<u8").reshape(-1, 2))
    assert written == len(expected)
    assert surplus == sum(every.values()) - len(every)
    repeated = {f"{hi:016x}{lo:016x}" for (hi, lo), n in every.items() if n > 1}
    assert set(examples) <= repeated and bool(examples) == bool(repeated)


def test_small_and_mapped_files_and_raw_records(tmp_path: Path) -> None:
    for count in (0, 3, 1000):  # 1000 entries are mapped
        found = words([(n % 7, n) for n in range(count)])
        npy = write(tmp_path / "s.npy", found)
        assert pairs(subset.load_words(npy)) == pairs(found)
        if count:
            raw = tmp_path / "s.raw"
            raw.write_bytes(np.ascontiguousarray(found).tobytes())
            raw.chmod(0o444)  # the reference opens it for writing; reading is enough
            assert pairs(subset.load_words(raw)) == pairs(found)
            raw.unlink()


@pytest.mark.parametrize("rows", [[(5, 0), (4, 0)], [(1, 2), (1, 1)]])
@pytest.mark.parametrize("start", [0, 999])
def test_an_unsorted_file_is_refused_by_entry(start: int, rows: list[Any], tmp_path: Path) -> None:
    found = np.array([(0, n) for n in range(start)] + rows, "<u8").reshape(-1, 2)
    path = write(tmp_path / "s.npy", found)
    with pytest.raises(IntegrityError, match=f"not sorted: entry {start + 1:,} is smaller") as caught:
        subset.load_words(path)
    assert "--unsorted" in (caught.value.hint or "")
    assert len(subset.load_words(path, check_sorted=False)) == start + 2


def test_the_check_looks_across_its_own_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_order, "SEARCH_ROWS", 4)
    found = np.array([(0, n) for n in range(9)], "<u8")
    subset.load_words(write(tmp_path / "good.npy", found))
    found[4] = (0, 2)  # the first entry of the second block
    with pytest.raises(IntegrityError, match="entry 4 "):
        subset.load_words(write(tmp_path / "bad.npy", found))


NOT_SUBSETS = {
    "numbers": np.arange(4, dtype="<u8"),
    "pairs in two dimensions": np.zeros((4, 2), "<u8"),
    "two dimensions of records": np.zeros((2, 2), "u8,u8"),
    "floats": np.zeros(4, "f8,f8"),
    "big-endian": np.zeros(4, ">u8,>u8"),
    "four small words": np.zeros(4, "u4,u4,u4,u4"),
    "three words": np.zeros(4, "u8,u8,u8"),
    "text": np.array(["0" * 32]),
}


@pytest.mark.parametrize("name", NOT_SUBSETS)
def test_other_arrays_are_refused(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", NOT_SUBSETS[name])
    with pytest.raises(IntegrityError, match="a subset is a list of u8,u8 pairs"):
        subset.load_words(tmp_path / "s.npy")


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin1")


HOSTILE = {
    "empty": b"",
    "not whole records": b"x" * 17,
    "magic only": b"\x93NUMPY",
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n")
    + b"cos\nsystem\n(S'true'\ntR.",
    "code": npy("__import__('os').system('true')\n"),
    "too many": npy("{'descr': [('f0','<u8'),('f1','<u8')], 'fortran_order': False, 'shape': (10**12,), }\n"),
    "far too many": npy(
        "{'descr': [('f0','<u8'),('f1','<u8')], 'fortran_order': False, 'shape': (1" + "0" * 12 + ",), }\n"
    ),
    "beyond any": npy(
        "{'descr': [('f0','<u8'),('f1','<u8')], 'fortran_order': False, 'shape': (1" + "0" * 30 + ",), }\n"
    ),
    "negative": npy("{'descr': [('f0','<u8'),('f1','<u8')], 'fortran_order': False, 'shape': (-1,), }\n"),
    "cut short": npy("{'descr': [('f0','<u8'),('f1','<u8')], 'fortran_order': False, 'shape': (5,), }\n")
    + b"x" * 20,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("padding", [0, 8192])
def test_hostile_files_are_refused(name: str, padding: int, tmp_path: Path) -> None:
    if padding and name in ("empty", "not whole records", "cut short", "magic only"):
        padding = 0
    (tmp_path / "s.npy").write_bytes(HOSTILE[name] + b"\0" * padding)
    with pytest.raises(IntegrityError):
        subset.load_words(tmp_path / "s.npy")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        subset.load_words(tmp_path / "s.npy")
    with pytest.raises(MissingInput):
        subset.load_words(tmp_path)


@given(found=MULTISETS)
def test_text_form(found: list[tuple[int, int]]) -> None:
    texts = [f"{hi:016x}{lo:016x}" for hi, lo in sorted(found)]
    assert subset.to_hex(words(found)) == texts
    assert pairs(subset.from_hex(texts)) == sorted(found)


@pytest.mark.parametrize("bad", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "٣" * 32, " " * 32])
def test_malformed_text_is_refused_by_number(bad: str) -> None:
    with pytest.raises(UsageError, match="uid 2: "):
        subset.from_hex(["0" * 32, bad])


def multiset(found: Any) -> Counter[tuple[int, int]]:
    return Counter(pairs(found))


@settings(max_examples=60)
@given(a=MULTISETS, b=MULTISETS, c=MULTISETS)
def test_algebra_is_that_of_multisets(a: Any, b: Any, c: Any) -> None:
    x, y, z = words(a), words(b), words(c)
    assert multiset(subset.union([x, y, z])) == Counter(a) | Counter(b) | Counter(c)
    assert multiset(subset.intersect([x, y, z])) == Counter(a) & Counter(b) & Counter(c)
    kept = Counter({p: n for p, n in Counter(a).items() if p not in set(b) | set(c)})
    assert multiset(subset.subtract(x, [y, z])) == kept
    for made in (subset.union([x, y, z]), subset.intersect([x, y, z]), subset.subtract(x, [y, z])):
        assert pairs(made) == sorted(pairs(made))
    assert pairs(subset.union([x, y])) == pairs(subset.union([y, x]))
    assert pairs(subset.intersect([x, y])) == pairs(subset.intersect([y, x]))
    assert pairs(subset.union([x, x])) == pairs(subset.intersect([x, x])) == pairs(x)
    assert len(subset.subtract(x, [x])) == 0 and pairs(subset.subtract(x, [])) == pairs(x)
    assert pairs(subset.unique(x)) == sorted(set(a))
    assert pairs(subset.repeat(x, 3)) == sorted(a * 3)


@given(a=MULTISETS, b=MULTISETS)
def test_difference_counts_uids(a: Any, b: Any) -> None:
    facts = subset.difference(words(a), words(b))
    assert facts == {
        "entries_a": len(a),
        "entries_b": len(b),
        "uids_a": len(set(a)),
        "uids_b": len(set(b)),
        "only_in_a": len(set(a) - set(b)),
        "only_in_b": len(set(b) - set(a)),
        "in_both": len(set(a) & set(b)),
    }


def test_the_algebra_takes_mapped_files(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.npy", words([(n, i) for n in range(600)])) for i in range(3)]
    loaded = [subset.load_words(f) for f in files]
    assert len(subset.union(loaded)) == 1800 and len(subset.intersect(loaded)) == 0
    assert len(subset.subtract(loaded[0], loaded[1:])) == 600


@given(found=MULTISETS, seed=st.integers(0, 5), data=st.data())
def test_a_sample_is_a_sub_multiset_that_the_seed_decides(found: Any, seed: int, data: Any) -> None:
    whole = words(found)
    count = data.draw(st.integers(0, len(found)))
    once = subset.sample(whole, count=count, fraction=None, seed=seed)
    assert len(once) == count and not Counter(pairs(once)) - Counter(found)
    assert pairs(once) == sorted(pairs(once))
    assert pairs(once) == pairs(subset.sample(whole, count=count, fraction=None, seed=seed))


def test_samples_differ_by_seed_and_are_uniform() -> None:
    whole = words([(n, 0) for n in range(40)])
    drawn = Counter(
        p for seed in range(600) for p in pairs(subset.sample(whole, count=10, fraction=None, seed=seed))
    )
    assert len(drawn) == 40
    # 600 draws at 1/4: 150 expected, standard deviation 10.6
    assert all(100 < n < 200 for n in drawn.values())
    assert len(subset.sample(whole, count=None, fraction=0.29, seed=0)) == 11


@pytest.mark.parametrize(
    ("count", "fraction"),
    [(None, None), (1, 0.5), (-1, None), (41, None), (None, 0.0), (None, 1.1), (None, float("nan"))],
)
def test_samples_that_make_no_sense(count: int | None, fraction: float | None) -> None:
    with pytest.raises(UsageError):
        subset.sample(words([(n, 0) for n in range(40)]), count=count, fraction=fraction, seed=0)


def test_repeat_zero_times() -> None:
    with pytest.raises(UsageError, match="--times 0"):
        subset.repeat(words([(1, 1)]), 0)


def soft(scores: Any, *, count: int, penalty: float = 0.15, batch: int = 10, seed: int = 0) -> Any:
    whole = words([(n, 0) for n in range(len(scores))])
    found = subset.soft_cap(
        whole, np.array(scores, float), count=count, penalty=penalty, batch=batch, seed=seed
    )
    return np.bincount(found[:, 0].astype(int), minlength=len(scores))


def test_soft_cap_draws_the_count_and_repeats_the_best() -> None:
    times = soft([0.0] * 50 + [5.0], count=300)
    assert times.sum() == 300
    assert times[50] == times.max() > 2 * np.median(times)
    assert (times == soft([0.0] * 50 + [5.0], count=300)).all()
    assert (times != soft([0.0] * 50 + [5.0], count=300, seed=1)).any()


def test_a_batch_never_draws_a_row_twice() -> None:
    times = soft([0.0, 0.0, 50.0], count=6, batch=3)
    assert times.tolist() == [2, 2, 2]
    assert soft([0.0] * 4, count=7, batch=100).sum() == 7


def test_a_higher_penalty_spreads_the_draws() -> None:
    scores = np.linspace(0, 3, 40)
    most = [soft(scores, count=800, penalty=p, batch=5).max() for p in (0.0, 0.1, 0.5, 3.0)]
    assert most == sorted(most, reverse=True) and most[0] > most[-1]
    # a penalty that dwarfs the scores makes every row equal, up to one round
    even = soft(scores, count=800, penalty=1e6, batch=5)
    assert even.min() == even.max() == 20


def test_one_draw_follows_the_softmax() -> None:
    scores = np.log([1.0, 2.0, 5.0])
    first = Counter(int(soft(scores, count=1, batch=1, seed=s).argmax()) for s in range(2000))
    for row, share in enumerate([0.125, 0.25, 0.625]):
        assert abs(first[row] / 2000 - share) < 0.05  # more than four standard deviations


@pytest.mark.parametrize("values", [{"count": 0}, {"count": 1, "batch": 0}, {"count": 1, "penalty": -1.0}])
def test_soft_cap_refuses_nonsense(values: Any) -> None:
    with pytest.raises(UsageError):
        soft([0.0, 1.0], **values)
    with pytest.raises(UsageError):
        soft([], count=1)


def test_sorting_accepts_what_unsorted_means() -> None:
    mixed = np.array([(2, 1), (1, 9), (2, 0), (1, 9)], "<u8")
    assert pairs(sort_words(mixed)) == [(1, 9), (1, 9), (2, 0), (2, 1)]
