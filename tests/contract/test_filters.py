"""What every named filter must do, whichever file it is in; and that a file of one's own can say everything."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from curate.binding import prepare
from curate.clauses import CompiledRule
from curate.filtering import filter_pool
from curate.pool import Pool
from curate.rules import Parameter, RuleFile, load_rule, named_rule
from curate.scoring import settings_of
from curate.sidecars import ScorerRef, known_scorers
from headwater import plugins
from headwater.config import parse_yaml
from headwater.errors import MissingExtra, MissingInput, UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.conftest import PoolBuilder, build_pool
from tests.curate import picture_kit

FILTERS = {plugin.name: plugin for plugin in plugins.family_members("filters")}
POOL_COLUMNS = {"uid", "url", "text", "original_width", "original_height", "sha256", "face_bboxes"}
POOL_COLUMNS |= {"clip_b32_similarity_score", "clip_l14_similarity_score"}
USUAL = {"fraction": 0.5, "threshold": 0.2, "seed": 1, "arch": "l14", "k": 4, "levels": "6,2", "t": 2}
FILES = {"target": "target.npy", "entries": "entries.txt", "votes": "votes.yaml", "shards": "tars"}
ROWS = 64


def document(name: str) -> dict[str, Any]:
    return parse_yaml(FILTERS[name].path.read_bytes(), name)


def values_for(name: str, *, without: str = "") -> dict[str, Any]:
    """Values that make the filter whole: the first choice, a usual number; never two ways to say one thing."""
    parameters = document(name).get("parameters") or {}
    chosen = {}
    for key, spec in parameters.items():
        if spec and spec.get("choices"):
            chosen[key] = spec["choices"][0]
        elif key in USUAL and not (key == "threshold" and "fraction" in parameters):
            chosen[key] = USUAL[key]
        elif key in FILES:
            chosen[key] = FILES[key]
    return {key: value for key, value in chosen.items() if key != without}


def built(name: str) -> RuleFile:
    return named_rule(name, values_for(name))


@pytest.fixture(scope="module")
def whole_pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pool with captions, sizes, scores, features and pictures, and the folder of the files that filters need."""
    base = tmp_path_factory.mktemp("filters")
    rng = np.random.default_rng(5)
    pool = build_pool(base / "pool", rows=ROWS, shards=2)
    numbers = 0
    rows = []
    for path in sorted(pool.glob("*.parquet")):
        table = pq.ParquetFile(path).read(["uid", "text"])
        arrays = {
            f"{arch}_{side}": rng.normal(size=(len(table), 8)).astype(np.float16)
            for arch in ("l14", "b32")
            for side in ("img", "txt")
        }
        arrays["dedup"] = arrays["l14_img"]
        np.savez(path.with_suffix(".npz"), **arrays)
        for uid in table["uid"].to_pylist():
            rows.append(picture_kit.Sample(uid, picture_kit.encoded(picture_kit.drawing(numbers))))
            numbers += 1
    picture_kit.write_tar(base / "tars" / "00000.tar", rows)
    np.save(base / "target.npy", rng.normal(size=(5, 8)).astype(np.float32))
    (base / "entries.txt").write_text("dog\nphoto\nHund\n")
    voters = [
        {"name": "wide", "sql": "original_width >= 600"},
        {"name": "high", "sql": "original_height >= 600"},
        {"name": "fits", "sql": "clip_l14_similarity_score >= 0.2"},
    ]
    (base / "votes.yaml").write_text(yaml.safe_dump({"format": "votes/1", "voters": voters}))
    return pool, base


def test_the_known_filters_are_here() -> None:
    known = {"no_filter", "basic_filter", "clip_score", "laion2b", "text_based", "random"}
    assert known <= set(FILTERS)


@pytest.mark.parametrize("name", FILTERS)
def test_it_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    rule = built(name)
    assert rule.name == name == FILTERS[name].path.stem
    assert len(rule.summary) >= 20 and rule.summary.endswith(".")
    assert FILTERS[name].summary == rule.summary
    assert len(rule.source) >= 10
    for key, spec in (document(name).get("parameters") or {}).items():
        assert Parameter.model_validate(spec or {}).help or "default" in (spec or {}), (
            f"--{key} is not explained"
        )


@pytest.mark.parametrize("name", FILTERS)
def test_every_clause_has_an_id_of_its_own(name: str) -> None:
    ids = [clause.id for clause in built(name).keep]
    assert all(ids) and len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", FILTERS)
def test_its_columns_come_from_the_pool_or_a_scorer_it_names(name: str) -> None:
    rule = built(name)
    scorers = known_scorers()
    for score in rule.scores:
        ref = ScorerRef(score.scorer, tuple(sorted(settings_of(score.scorer, score.config).items())))
        scorers.update(dict.fromkeys(ref.outputs, ref))
    for column in CompiledRule(rule).columns():
        assert column in POOL_COLUMNS or column in scorers, f"nothing makes {column!r}"
        if column not in POOL_COLUMNS:
            assert scorers[column].name in {score.scorer for score in rule.scores}
    for score in rule.scores:
        plugins.find("scores", score.scorer)


@pytest.mark.parametrize("name", FILTERS)
def test_an_unknown_parameter_or_choice_offers_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match=f"filter {name} takes no --frction") as caught:
        named_rule(name, {**values_for(name), "frction": 0.5})
    parameters = document(name).get("parameters") or {}
    if "fraction" in parameters:
        assert "did you mean 'fraction'?" in str(caught.value)
    for key, spec in parameters.items():
        if spec and spec.get("choices"):
            with pytest.raises(UsageError, match=f"--{key} '{spec['choices'][-1]}x': did you mean"):
                named_rule(name, {**values_for(name), key: f"{spec['choices'][-1]}x"})
            if "default" not in spec:
                with pytest.raises(UsageError, match=f"filter {name} needs --{key}: one of "):
                    named_rule(name, values_for(name, without=key))
        if spec and spec.get("required"):
            with pytest.raises(
                UsageError, match=rf"filter {name} needs --(param )?{key}.*: {spec['help'][:20]}"
            ):
                named_rule(name, values_for(name, without=key))


@pytest.mark.parametrize("name", FILTERS)
def test_a_missing_column_is_told_before_any_work(
    name: str, whole_pool: tuple[Path, Path], tmp_path: Path
) -> None:
    rule = built(name)
    (tmp_path / "pool").mkdir()
    pq.write_table(pa.table({"uid": ["0" * 32]}), tmp_path / "pool" / "a.parquet")
    bound = Pool.open(tmp_path / "pool")
    of_pictures = any(ScorerRef(score.scorer).scope == "pictures" for score in rule.scores)
    if (
        not CompiledRule(rule).columns() or of_pictures or name == "near_duplicate_pictures"
    ):  # nothing but uids
        prepare(bound, rule, whole_pool[1])
        return
    with pytest.raises((UsageError, MissingInput), match="the pool has no column '|no features '"):
        prepare(bound, rule, whole_pool[1])


@pytest.mark.parametrize("name", FILTERS)
def test_it_runs_and_its_counts_close(name: str, whole_pool: tuple[Path, Path], tmp_path: Path) -> None:
    folder, base = whole_pool
    outputs = []
    for number in range(2):
        pool = Pool.open(folder, cache=tmp_path / f"cache{number}")
        try:
            bound = prepare(pool, built(name), base)
            out = tmp_path / f"{number}.npy"
            outcome = filter_pool(bound, out, executor=Executor("serial"), options=RunOptions())
            assert outcome is not None
            outputs.append(out.read_bytes())
        except MissingExtra as missing:
            pytest.skip(f"{missing}; {missing.hint}")
    counts = outcome.step.identity.counts
    assert counts.read == ROWS == counts.kept + sum(counts.dropped.values()) + sum(counts.invalid.values())
    assert hashlib.sha256(outputs[0]).digest() == hashlib.sha256(outputs[1]).digest()
    assert len(np.load(tmp_path / "0.npy", allow_pickle=False)) == counts.kept
    if name not in ("laion2b", "text_based", "image_based", "image_based_intersect_clip_score"):
        assert counts.kept  # those want English, which few of these captions are


def test_a_file_of_ones_own_with_every_kind_of_clause(tiny_pool: PoolBuilder, tmp_path: Path) -> None:
    uids = pq.ParquetFile(tiny_pool(name="first") / "00000000.parquet").read(["uid"])["uid"].to_pylist()
    words = np.frombuffer(bytes.fromhex("".join(sorted(uids))), ">u8").astype("<u8")
    np.save(tmp_path / "not.npy", words.view(np.dtype("u8,u8")))
    (tmp_path / "mine.yaml").write_text(
        """format: rule/1
name: mine
summary: Every kind of clause once.
parameters:
  share: {default: 0.9, help: of the pool}
scores: [caption]
keep:
  - {id: words, any: [{sql: n_words > 0}, {sql: n_chars is null}]}
  - {id: others, not: {in: {subset: not.npy}}}
  - {id: b32, top: {column: clip_b32_similarity_score, fraction: "${share}"}}
  - {id: l14, top: {column: clip_l14_similarity_score, threshold: -0.05}}
  - {id: pictures, dedup: {by: [sha256], order: {clip_l14_similarity_score: desc}}}
  - {id: sides, all: [{sql: original_width > 60}, {in: {column: original_height, values: [1, 2, 3]}}, {sql: "true"}]}
  - {id: some, sample: {fraction: 1.0}}
  - {id: few, exact_k: {column: clip_b32_similarity_score, k: 0}}
"""
    )
    bound = prepare(Pool.open(tiny_pool(), cache=tmp_path / "c"), load_rule(tmp_path / "mine.yaml"), tmp_path)
    outcome = filter_pool(bound, tmp_path / "o.npy", executor=Executor("serial"), options=RunOptions())
    assert outcome is not None
    counts = outcome.step.identity.counts
    funnel = outcome.step.details["funnel"]
    kinds = ["any", "not", "top", "top", "dedup", "all", "sample", "exact_k"]
    assert [entry["kind"] for entry in funnel] == kinds
    assert counts.dropped["others"] > 0 and counts.dropped["b32"] > 0 and counts.dropped["sides"] > 0
    assert counts.kept == funnel[-1]["out"] == 0 and funnel[0]["in"] == 60
    assert all(before["out"] == after["in"] for before, after in zip(funnel, funnel[1:], strict=False))
