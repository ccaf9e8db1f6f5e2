"""Every subset that DataComp's reference selected, byte for byte; and where we answer otherwise, what we answer instead."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate import assets
from curate.binding import prepare
from curate.filtering import filter_pool
from curate.funnel import check_outcome
from curate.pool import Pool
from curate.rules import named_rule
from headwater.errors import BadInputs, HeadwaterError, IntegrityError, MissingExtra, MissingInput, UsageError
from headwater.executor import Executor
from headwater.steps import Outcome, RunOptions
from tests.conftest import Cli

NAN_POOLS = [
    "all_nan",
    "double_scores",
    "file_names",
    "fraction",
    "nan_scores",
    "no_rows",
    "nothing_kept",
    "null_scores",
    "null_size",
    "null_text",
    "null_uid",
    "one_empty_shard",
    "uid_16_digits",
    "uid_forms",
    "uid_twice",
]
FOLDERS = [("pool", "pool_subsets"), ("pool_npz", "pool_npz_subsets")]
FOLDERS += [(f"nan/{name}", f"nan_subsets/{name}") for name in NAN_POOLS]

NO_NUMBER = "but only {} have a number in clip_{}_similarity_score"
BAD_UID = "is not a uid"

# (pool, entry): the reference's answer (rows kept, or its error), our exit code, and what our message or counts say
OTHERWISE: dict[tuple[str, str], tuple[int | str, int, str]] = {
    # a fraction that is no share of the pool: never a silent answer
    ("pool", "clip_l14_fraction_0"): (1, 2, "must be above 0 and at most 1"),
    ("fraction", "clip_l14_fraction_0"): (1, 2, "must be above 0 and at most 1"),
    ("nan_scores", "clip_l14_fraction_0"): (2, 2, "must be above 0 and at most 1"),
    ("fraction", "clip_l14_fraction_-0.1"): (91, 2, "must be above 0 and at most 1"),
    ("fraction", "clip_l14_fraction_1.5"): (
        "IndexError",
        2,
        "must be above 0 and at most 1",
    ),
    ("fraction", "clip_l14_fraction_nan"): ("ValueError", 2, "--fraction is not a number"),
    # the whole pool, and a share of no rows, have an answer
    ("fraction", "clip_l14_fraction_1"): ("IndexError", 0, "kept 100"),
    ("no_rows", "clip_l14_fraction_0.3"): ("IndexError", 0, "kept 0"),
    # the cut would fall among rows without a score: the reference keeps nothing and succeeds
    ("all_nan", "clip_l14_fraction_0.3"): (0, 1, NO_NUMBER.format(0, "l14")),
    ("nan_scores", "clip_l14_fraction_0.91"): (0, 1, NO_NUMBER.format(359, "l14")),
    ("nan_scores", "clip_l14_fraction_0.95"): (0, 1, NO_NUMBER.format(359, "l14")),
    ("nan_scores", "clip_b32_fraction_0.96"): (0, 1, NO_NUMBER.format(380, "b32")),
    ("null_scores", "clip_l14_fraction_0.95"): (0, 1, NO_NUMBER.format(180, "l14")),
    ("nan_scores", "clip_b32_threshold_nan"): (0, 2, "--threshold is not a number"),
    ("nan_scores", "clip_l14_threshold_-inf"): (
        "baselines.py: error",
        3,
        "kept 359, clip_score: null or NaN 41",
    ),
    # nulls are invalid rows, listed; the others are kept
    ("null_text", "basic_filter"): ("AttributeError", 3, "kept 9, words: null or NaN 1"),
    ("null_text", "text_based"): ("AttributeError", 3, "kept 15, english: null or NaN 1"),
    ("null_text", "laion2b"): ("AttributeError", 3, "kept 5, english: null or NaN 1"),
    ("null_uid", "no_filter"): ("TypeError", 3, "kept 19, uid: null 1"),
    ("null_uid", "basic_filter"): ("TypeError", 0, "kept 12"),  # that row is dropped by its size
    ("null_uid", "clip_l14_threshold_0"): ("TypeError", 3, "kept 19, uid: null 1"),
    # a uid is 32 lower-case hex digits; the reference's filters disagree among themselves on anything else
    ("uid_16_digits", "no_filter"): ("ValueError", 13, BAD_UID),
    ("uid_16_digits", "basic_filter"): (4, 13, BAD_UID),
    ("uid_forms", "no_filter"): (12, 13, BAD_UID),
    ("uid_forms", "basic_filter"): (12, 13, BAD_UID),
    ("uid_forms", "text_based"): (12, 13, BAD_UID),
    ("uid_forms", "clip_b32_threshold_0.28"): (12, 13, BAD_UID),
}


def options_of(entry: dict[str, Any]) -> dict[str, Any]:
    words = shlex.split(entry["options"])
    found: dict[str, Any] = dict(zip((w.removeprefix("--") for w in words[::2]), words[1::2], strict=True))
    return found | {key: float(found[key]) for key in ("fraction", "threshold") if key in found}


def need_assets(name: str) -> None:
    """Skip, with the command that helps, where a filter's model or dictionary is not installed."""
    if name == "laion2b" and importlib.util.find_spec("gcld3") is None:
        pytest.skip(
            "laion2b needs gcld3: sudo apt-get install protobuf-compiler libprotobuf-dev && pip install gcld3"
        )
    if name == "text_based":
        try:
            assets.locate("wordnet")
            assets.locate("imagenet21k")
        except (MissingExtra, MissingInput) as error:
            pytest.skip(f"{error}; {error.hint}")


def run(pool: Path, name: str, values: dict[str, Any], work: Path, **more: Any) -> Outcome:
    bound = prepare(Pool.open(pool, cache=work / "cache"), named_rule(name, values), Path())
    output = work / "out.npy"
    more = {"executor": Executor("serial"), "options": RunOptions(), "keep_repeats": True, **more}
    outcome = filter_pool(bound, output, **more)
    assert outcome is not None
    return outcome


def answer(pool: Path, entry: dict[str, Any], work: Path) -> tuple[int, str, bytes]:
    """(exit code, message or counts, bytes written) for the reference's options."""
    values = options_of(entry)
    name = values.pop("name")
    try:
        outcome = run(pool, name, values, work)
    except HeadwaterError as error:
        return error.exit_code, error.message, b""
    counts = outcome.step.identity.counts
    told = ", ".join([f"kept {counts.kept}", *(f"{key} {n}" for key, n in counts.invalid.items())])
    code = 0
    try:
        check_outcome(outcome, allow_invalid=False)
    except BadInputs as error:
        code = error.exit_code
    return code, told, outcome.path.read_bytes()


@pytest.mark.parametrize(("pool", "subsets"), FOLDERS, ids=[pool for pool, _ in FOLDERS])
def test_subsets_of_the_reference(pool: str, subsets: str, golden: Path, tmp_path: Path) -> None:
    counts = json.loads((golden / subsets / "counts.json").read_bytes())
    skipped = []
    for name, entry in counts.items():
        try:
            need_assets(options_of(entry)["name"])
        except pytest.skip.Exception as skip:
            skipped.append(str(skip))
            continue
        work = tmp_path / name
        work.mkdir()
        code, told, data = answer(golden / pool, entry, work)
        case = (pool.removeprefix("nan/"), name)
        if case in OTHERWISE:
            theirs, ours, text = OTHERWISE[case]
            if isinstance(theirs, int):
                assert entry["kept"] == theirs and entry["return_code"] == 0
            else:
                assert entry["error"].startswith(theirs) and entry["return_code"] != 0
            assert (code, text in told) == (ours, True), (case, code, told)
            continue
        assert code in (0, 3), (case, told)  # 3: rows without a score are told, and the subset is the same
        assert hashlib.sha256(data).hexdigest() == entry["sha256_file"], case
        assert data == (golden / subsets / f"{name}.npy").read_bytes()
        assert f"kept {entry['kept']}" in told
    if skipped and len(skipped) == len(counts):
        pytest.skip("; ".join(sorted(set(skipped))))


@pytest.mark.parametrize("name", ["laion2b", "text_based"])
def test_filters_that_need_more_than_the_base_install(name: str, golden: Path) -> None:
    """Their subsets are compared above where the parts are there; this line says when they were not."""
    need_assets(name)
    assert name in json.loads((golden / "pool_subsets" / "counts.json").read_bytes())


def test_every_exception_is_an_entry_of_the_golden_data(golden: Path) -> None:
    known = set()
    for pool, subsets in FOLDERS:
        counts = json.loads((golden / subsets / "counts.json").read_bytes())
        known |= {(pool.removeprefix("nan/"), name) for name in counts}
    assert set(OTHERWISE) <= known
    assert {f.name for f in (golden / "nan").iterdir()} == set(NAN_POOLS)


COMMANDS = [
    ("pool", "pool_subsets", "clip_l14_fraction_0.3"),
    ("pool_npz", "pool_npz_subsets", "basic_filter"),
    ("nan/uid_twice", "nan_subsets/uid_twice", "no_filter"),
]


@pytest.mark.parametrize(("pool", "subsets", "name"), COMMANDS, ids=[name for *_, name in COMMANDS])
def test_the_command_line_writes_the_same_bytes(
    pool: str, subsets: str, name: str, golden: Path, tmp_path: Path, cli: Cli
) -> None:
    entry = json.loads((golden / subsets / "counts.json").read_bytes())[name]
    out = tmp_path / "out.npy"
    place = ["--cache", tmp_path / "cache", "--keep-repeated-uids", "--json"]
    done = cli("filter-pool", golden / pool, "-o", out, *shlex.split(entry["options"]), *place)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == (golden / subsets / f"{name}.npy").read_bytes()
    document = json.loads(done.stdout)
    assert document["counts"]["kept"] == entry["kept"]
    assert document["outputs"][0]["sha256"] == entry["sha256_file"]


def test_a_uid_that_lies_twice_in_the_pool_is_written_once_and_told(golden: Path, tmp_path: Path) -> None:
    outcome = run(golden / "nan/uid_twice", "no_filter", {}, tmp_path, keep_repeats=False)
    theirs = np.load(golden / "nan_subsets/uid_twice/no_filter.npy")
    assert (np.load(outcome.path) == np.unique(theirs)).all()
    assert outcome.step.identity.counts.invalid == {"uid: occurs more than once": 4}
    with pytest.raises(BadInputs, match="4 × uid: occurs more than once"):
        check_outcome(outcome, allow_invalid=False)


def test_the_funnel_of_basic_filter_follows_from_the_labels(golden: Path, tmp_path: Path) -> None:
    labels = pq.read_table(golden / "pool_labels.parquet").to_pylist()
    sizes = {}
    for shard in sorted({row["shard"] for row in labels}):
        table = pq.ParquetFile(golden / "pool" / f"{shard}.parquet").read(
            ["original_width", "original_height"]
        )
        widths, heights = (table[name].to_pylist() for name in table.column_names)
        sizes |= {(shard, row): pair for row, pair in enumerate(zip(widths, heights, strict=True))}

    def lost_to(row: dict[str, Any]) -> str:
        short, long = sorted(sizes[row["shard"], row["row"]])
        if row["n_words"] <= 2:
            return "words"
        if row["n_code_points"] <= 5:
            return "characters"
        if short < 200:
            return "short_side"
        if long / short > 3.0:
            return "aspect"
        return "kept" if row["fasttext_label"] == "en" else "english"

    expected = Counter(lost_to(row) for row in labels)
    outcome = run(golden / "pool", "basic_filter", {}, tmp_path)
    counts = outcome.step.identity.counts
    assert {**counts.dropped, "kept": counts.kept} == dict(expected)
    scored = outcome.step.details["rows_scored"]
    assert scored == {"language": expected["kept"] + expected["english"]}  # survivors only


def test_flags_of_the_reference_that_do_not_go_together(golden: Path, tmp_path: Path) -> None:
    for name, values, text in (
        ("basic_filter", {"arch": "l14"}, "filter basic_filter takes no --arch"),
        ("basic_filter", {"fraction": 0.3}, "filter basic_filter takes no --fraction"),
        ("clip_score", {}, "filter clip_score needs --arch: which model scored the pool"),
        ("clip_score", {"arch": "l14"}, "give one of fraction and threshold"),
        (
            "clip_score",
            {"arch": "l14", "fraction": 0.3, "threshold": 0.3},
            "give one of fraction and threshold",
        ),
        ("clip_scores", {}, "did you mean 'clip_score'?"),
        ("image_based", {}, "filter image_based needs --param target=…"),
    ):
        with pytest.raises(UsageError) as caught:
            named_rule(name, values)
        assert text in str(caught.value)
    # a model's name is open, since pools may be scored by any; one that did not score this pool is told
    pool = Pool.open(golden / "pool_npz", cache=tmp_path)
    with pytest.raises(UsageError, match="no column 'clip_l41_similarity_score': did you mean 'clip_l14_"):
        prepare(pool, named_rule("clip_score", {"arch": "l41", "fraction": 0.3}), Path())


def test_a_damaged_shard_is_refused_by_name(golden: Path, tmp_path: Path) -> None:
    source = golden / "pool_npz"
    file = next(source.glob("*.parquet"))
    pool = tmp_path / "pool"
    pool.mkdir()
    data = bytearray(file.read_bytes())
    (pool / file.name).write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=f"shard {file.stem}"):
        run(pool, "no_filter", {}, tmp_path)
