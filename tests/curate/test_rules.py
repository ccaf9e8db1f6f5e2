"""Rule files: what they may say, what is refused and how, and how parameters are filled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curate.rules import RuleFile, load_rule, named_rule
from headwater.config import validate
from headwater.errors import MissingInput, UsageError


def rule(*keep: Any, **more: Any) -> RuleFile:
    return validate(RuleFile, {"format": "rule/1", "name": "t", "keep": list(keep), **more}, "t.yaml")


def write(folder: Path, text: str) -> Path:
    path = folder / "rule.yaml"
    path.write_text(text, encoding="utf-8")
    return path


HEAD = "format: rule/1\nname: t\n"


def test_every_kind_of_clause(tmp_path: Path) -> None:
    loaded = load_rule(
        write(
            tmp_path,
            HEAD
            + """summary: all of them
source: here
scores: [caption, {scorer: language, config: {most_chars: 100}}]
keep:
  - {id: s, sql: "n_words > 2"}
  - {id: t, top: {column: a, fraction: 0.3, of: survivors}}
  - {id: u, top: {column: a, threshold: inf}}
  - {id: e, exact_k: {column: a, k: 5}}
  - {id: d, dedup: {by: [sha256], at_most: 2, order: {a: desc}}}
  - {id: i, in: {column: language, values: [en, de]}}
  - {id: f, in: {subset: other.npy}}
  - {id: p, sample: {fraction: 0.5, seed: 3}}
  - {id: n, not: {any: [{sql: a > 1}, {all: [{sql: b}]}]}}
""",
        )
    )
    assert [clause.kind for clause in loaded.keep] == [
        "sql",
        "top",
        "top",
        "exact_k",
        "dedup",
        "in",
        "in",
        "sample",
        "not",
    ]
    assert [score.scorer for score in loaded.scores] == ["caption", "language"]
    assert loaded.keep[2].top is not None and loaded.keep[2].top.least == float("inf")
    again = RuleFile.model_validate_json(loaded.model_dump_json(by_alias=True, exclude_none=True))
    assert again == loaded


def test_clauses_in_one_line() -> None:
    texts = [
        ({"sql": "a\n  > 1"}, "a > 1"),
        ({"any": [{"sql": "a"}, {"not": {"sql": "b"}}]}, "any(a, not(b))"),
    ]
    for clause, text in texts:
        assert rule(clause).keep[0].text() == text
        assert rule(clause).reason(0) == text
    kinds = [
        {"top": {"column": "score", "fraction": 0.3}},
        {"top": {"column": "score", "threshold": 0.3}},
        {"exact_k": {"column": "score", "k": 12}},
        {"dedup": {"by": ["score"], "order": {"n": "desc"}}},
        {"in": {"column": "score", "values": [1, 2, 3, 4, 5, 6, 7, 8]}},
        {"in": {"subset": "score.npy"}},
        {"sample": {"fraction": 0.25}},
    ]
    told = [rule(clause).keep[0].text() for clause in kinds]
    assert len(set(told)) == len(told)
    assert all("score" in text for text in told[:-1]) and all("\n" not in text for text in told)


REFUSED: list[tuple[Any, str]] = [
    ({}, "exactly one of"),
    ({"id": "x"}, "exactly one of"),
    ({"sql": "a", "top": {"column": "a", "fraction": 0.1}}, "this has 2"),
    ({"slq": "a"}, "did you mean"),
    ({"sql": 3}, "keep.0.sql"),
    ({"sql": "a", "id": ""}, "keep.0.id"),
    ({"sql": "a", "id": "x" * 81}, "keep.0.id"),
    ({"any": []}, "keep.0.any"),
    ({"all": []}, "keep.0.all"),
    ({"not": []}, "keep.0.not"),
    ({"top": {"column": "a"}}, "one of fraction and threshold"),
    ({"top": {"column": "a", "fraction": 0.1, "threshold": 1}}, "one of fraction and threshold"),
    ({"top": {"column": "a", "fraction": 0}}, "greater than 0"),
    ({"top": {"column": "a", "fraction": 1.01}}, "less than or equal to 1"),
    ({"top": {"column": "a", "fraction": float("nan")}}, "keep.0.top.fraction"),
    ({"top": {"column": "a", "threshold": float("nan")}}, "keep.0.top.threshold"),
    ({"top": {"column": "a", "fraction": 0.1, "of": "all"}}, "'pool' or 'survivors'"),
    ({"top": {"column": "a", "fraction": 0.1, "ties": 1}}, "unknown key"),
    ({"exact_k": {"column": "a", "k": -1}}, "greater than or equal to 0"),
    ({"exact_k": {"column": "a", "k": 1.5}}, "keep.0.exact_k.k"),
    ({"exact_k": {"k": 1}}, "keep.0.exact_k.column"),
    ({"dedup": {"by": []}}, "keep.0.dedup.by"),
    ({"dedup": {"by": "a"}}, "keep.0.dedup.by"),
    ({"dedup": {"by": ["a"], "at_most": 0}}, "keep.0.dedup.at_most"),
    ({"dedup": {"by": ["a"], "order": {"b": "down"}}}, "'asc' or 'desc'"),
    ({"in": {}}, "column and values, or subset"),
    ({"in": {"column": "a"}}, "column and values, or subset"),
    ({"in": {"column": "a", "values": [1], "subset": "s.npy"}}, "column and values, or subset"),
    ({"in": {"column": "a", "values": [[1]]}}, "keep.0.in.values"),
    ({"sample": {}}, "keep.0.sample.fraction"),
    ({"sample": {"fraction": 0}}, "greater than 0"),
    ({"sample": {"fraction": 0.5, "seed": 1.5}}, "keep.0.sample.seed"),
]


@pytest.mark.parametrize(("clause", "text"), REFUSED)
def test_refused_clauses(clause: Any, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        rule(clause)
    assert text in str(caught.value) and str(caught.value).startswith("t.yaml: ")


def test_two_clauses_of_one_name() -> None:
    for keep in (
        [{"id": "a", "sql": "x"}, {"id": "a", "sql": "y"}],
        [{"sql": "x > 1"}, {"sql": "x  >  1"}],
        [{"id": "x > 1", "sql": "y"}, {"sql": "x > 1"}],
    ):
        with pytest.raises(UsageError, match="two clauses are called"):
            rule(*keep)
    # names of clauses inside others are told in messages only
    assert len(rule({"id": "a", "any": [{"id": "a", "sql": "x"}]}, {"sql": "y"}).keep) == 2


PARAMETERS = """parameters:
  arch: {choices: [b32, l14], help: which}
  fraction: {}
  seed: {default: 4}
keep:
  - top: {column: "clip_${arch}_score", fraction: "${fraction}", threshold: 0.5}
  - sample: {fraction: 0.5, seed: "${seed}"}
"""


def test_parameters_fill_whole_values_and_parts(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + PARAMETERS)
    loaded = load_rule(path, {"arch": "l14"})
    assert loaded.keep[0].top is not None and loaded.keep[1].sample is not None
    assert (loaded.keep[0].top.column, loaded.keep[0].top.fraction) == ("clip_l14_score", None)
    assert loaded.keep[1].sample.seed == 4
    seeded = load_rule(path, {"arch": "b32", "seed": 0}).keep[1].sample
    assert seeded is not None and seeded.seed == 0
    for values, text in (
        ({}, "needs --arch: one of b32, l14"),
        ({"arch": "l15"}, "--arch 'l15': did you mean 'l14'?"),
        ({"arch": "l14", "fracton": 1}, "takes no --fracton: did you mean 'fraction'?"),
        ({"arch": "l14", "fraction": 0.1}, "one of fraction and threshold"),
        ({"arch": "l14", "fraction": float("nan")}, "--fraction is not a number"),
        ({"arch": "l14", "fraction": "${arch}"}, "fraction: Input should be a valid number"),
    ):
        with pytest.raises(UsageError) as caught:
            load_rule(path, values)
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("d4", {}, "filter d4 needs --fraction: share of the rows"),
        ("ssp", {}, "filter ssp needs --fraction: share of the pool"),
        ("vote", {"votes": "v.yaml"}, "filter vote needs --fraction or --threshold: give one of"),
        ("clip_score", {"arch": "l14"}, "filter clip_score needs --fraction or --threshold: give one of"),
    ],
)
def test_filters_without_a_cut_say_what_to_give(name: str, values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        named_rule(name, values)
    assert str(caught.value).startswith(text)


def test_a_cut_inside_other_clauses_is_asked_for_too(tmp_path: Path) -> None:
    text = (
        HEAD
        + """parameters:
  best: {}
keep:
  - not: {any: [{top: {column: c, threshold: "${best}"}}, {sql: x > 1}]}
"""
    )
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=r"needs --param best=…$"):
        load_rule(path, {})
    assert load_rule(path, {"best": 1}).keep[0].not_ is not None


def test_a_list_takes_the_place_of_an_item_and_a_key_may_be_a_parameter(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        HEAD
        + "parameters: {by: {default: a}, best: {}, more: {}}\n"
        + "keep:\n  - dedup: {by: ['${by}', '${more}'], order: {'${best}': desc}}\n",
    )
    for values, by, order in (
        ({}, ["a"], {}),
        ({"by": ["u", "t"], "best": "s"}, ["u", "t"], {"s": "desc"}),
        ({"more": "m"}, ["a", "m"], {}),
    ):
        dedup = load_rule(path, values).keep[0].dedup
        assert dedup is not None and (dedup.by, dedup.order) == (by, order)
    with pytest.raises(UsageError, match="--param best=… is a mapping"):
        load_rule(path, {"best": {"s": "desc"}})


def test_a_value_is_not_read_as_a_template(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        HEAD + "parameters: {a: {}, b: {default: secret}}\nkeep:\n  - {in: {column: x, values: ['${a}']}}\n",
    )
    loaded = load_rule(path, {"a": "${b}"}).keep[0].in_
    assert loaded is not None and loaded.values == ["${b}"]


def test_a_placeholder_that_is_no_parameter(tmp_path: Path) -> None:
    path = write(
        tmp_path, HEAD + "parameters: {fraction: {}}\nkeep:\n  - sample: {fraction: '${fractoin}'}\n"
    )
    with pytest.raises(
        UsageError, match=r"\$\{fractoin\} is not one of its parameters: did you mean 'fraction'"
    ):
        load_rule(path, {"fraction": 0.5})


def test_infinite_thresholds_from_the_command_line() -> None:
    for value, text in ((float("inf"), "inf"), (float("-inf"), "-inf")):
        top = named_rule("clip_score", {"arch": "l14", "threshold": value}).keep[0].top
        assert top is not None and top.threshold == text and top.least == value


ATTACKS: dict[str, tuple[str, str]] = {
    "object": ("keep:\n  - !!python/object/apply:os.system [true]\n", "not valid YAML"),
    "name": ("keep: !!python/name:os.system\n", "not valid YAML"),
    "alias": ("keep: &a [{sql: x}]\nscores: *a\n", "aliases are not allowed"),
    "laughs": ("a: &a [x, x]\nb: &b [*a, *a]\nkeep: [*b, *b]\n", "aliases are not allowed"),
    "merge": ("x: &x {sql: a}\nkeep:\n  - {<<: *x}\n", "aliases are not allowed"),
    "twice": ("keep: []\nkeep: [{sql: x}]\n", "occurs twice"),
    "number as key": ("1: x\nkeep: []\n", "is not text"),
    "two documents": ("keep: []\n---\nkeep: []\n", "not valid YAML"),
    "unknown key": ("keep: []\nkeeep: []\n", "unknown key 'keeep': did you mean 'keep'?"),
    "no keep": ("summary: x\n", "keep: Field required"),
    "scalar": ("keep: all\n", "keep: "),
    "a mapping": ("keep: {sql: x}\n", "keep: "),
    "parameters as a list": ("parameters: [a]\nkeep: []\n", "parameters must be a mapping"),
    "odd parameter": ("parameters: {a: [1]}\nkeep: []\n", "parameters.a"),
    "date": ("keep:\n  - {sql: 2024-01-01}\n", "keep.0.sql"),
    "not a number": ("keep:\n  - top: {column: a, threshold: .nan}\n", "keep.0.top.threshold"),
    "control character": ('keep:\n  - {sql: "a\x01"}\n', "not valid YAML"),
    "deep lists": ("keep: " + "[" * 4000 + "]" * 4000 + "\n", ""),
    "deep clauses": ("keep:\n  - " + "{not: " * 3000 + "{sql: x}" + "}" * 3000 + "\n", ""),
    "fairly deep clauses": ("keep:\n  - " + "{not: " * 150 + "{slq: x}" + "}" * 150 + "\n", ""),
    "tabs": ("keep:\n\t- sql: x\n", "not valid YAML"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_files_are_refused_with_a_message(name: str, tmp_path: Path) -> None:
    text, expected = ATTACKS[name]
    with pytest.raises(UsageError) as caught:
        load_rule(write(tmp_path, HEAD + text))
    assert expected in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        load_rule(tmp_path / "nowhere.yaml")
    (tmp_path / "rule.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_rule(tmp_path / "rule.yaml")
    (tmp_path / "big.yaml").write_bytes(b"# " + b"x" * (5 << 20))
    with pytest.raises(UsageError, match="larger than"):
        load_rule(tmp_path / "big.yaml")
    for head, text in (
        ("format: rule/2\nname: t\nkeep: []\n", "format"),
        ("format: rule/1\nname: ../t\nkeep: []\n", "name"),
    ):
        with pytest.raises(UsageError, match=text):
            load_rule(write(tmp_path, head))


def test_words_that_yaml_takes_for_truth_values_stay_text(tmp_path: Path) -> None:
    body = "keep:\n  - in: {column: language, values: [no, on, yes, en]}\n"
    found = load_rule(write(tmp_path, HEAD + body)).keep[0].in_
    assert found is not None and found.values == ["no", "on", "yes", "en"]
