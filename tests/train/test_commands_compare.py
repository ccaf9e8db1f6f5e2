"""`headwater compare | leaderboard | soup` from outside: what is refused and how it is named, pages, and JSON beside the text."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from tests.curate.filter_kit import Told, in_process
from tests.train.command_kit import fake_models, made_run, plain_weights, small_suite, state_energy, valid
from train import commands_eval

Command = Callable[..., Told]
COMMANDS = {
    "eval": commands_eval.evaluate,
    "compare": commands_eval.compare,
    "leaderboard": commands_eval.leaderboard,
    "soup": commands_eval.soup,
}


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluations of two datasets with two seeds each, and one of another recipe; nothing may be written here."""
    folder = tmp_path_factory.mktemp("arms")
    small_suite(folder / "suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWATER_METER", "none")
        fake_models(patch)
        run = in_process(folder, patch)
        for data in ("all", "some"):
            for seed in (0, 1):
                state_energy(made_run(folder / f"run-{data}-s{seed}", data=data, seed=seed))
                done = run("eval", f"run-{data}-s{seed}", "--suite", "suite", "-o", f"{data}-s{seed}")
                assert done.returncode == 0, done.stderr
        made_run(folder / "run-other", data="some", **{"optim.lr": 0.01})
        made_run(folder / "run-odd", data="odd", overrides=("optim.lr=0.01",))
        made_run(folder / "run-new", data="new")
        for name in ("other", "odd"):
            assert run("eval", f"run-{name}", "--suite", "suite", "-o", name).returncode == 0
        part = ("--task", "colours")
        assert run("eval", "run-some-s0", "--suite", "suite", "-o", "part", *part).returncode == 0
        assert run("eval", "run-some-s0", "--suite", "suite", "-o", "seed", "--seed", "7").returncode == 0
    return folder


@pytest.fixture
def at_arms(arms: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.delenv("HEADWATER_REGION", raising=False)
    return in_process(arms, monkeypatch)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Commands in `tmp_path`, where `suite` lies and every model is one of colours."""
    fake_models(monkeypatch)
    monkeypatch.delenv("HEADWATER_REGION", raising=False)
    small_suite(tmp_path / "suite")
    return in_process(tmp_path, monkeypatch)


# compare


def test_two_datasets_with_two_seeds(at_arms: Command, arms: Path, tmp_path: Path) -> None:
    line = ("compare", "all-s0", "all-s1", "some-s0", "some-s1", "--region", "DEU", "--pue", "1.2")
    page = tmp_path / "page.html"
    done = at_arms(*line, "-o", page)
    assert done.returncode == 0, done.stderr
    assert (
        "some against all" in done.stdout and "±seeds" in done.stdout and "no difference shown" in done.stdout
    )
    assert "note: CO2e is kWh x PUE 1.2" in done.stdout
    assert page.read_text().startswith("<!doctype html>") and "some against all" in page.read_text()
    document = json.loads(at_arms(*line, "--json").stdout)
    valid("comparison", document, "page", "carbon")
    assert document["page"] is None and document["carbon"]["pue"] == 1.2
    assert [arm["label"] for arm in document["arms"]] == ["all", "some"]
    assert [run["seed"] for run in document["arms"][0]["runs"]] == [0, 1]
    [pair] = document["pairs"]
    baseline, arm = document["arms"]
    for kind in ("tasks", "aggregates"):
        for found in pair[kind]:
            assert found["seed_se"] is not None and found["test_se"] is not None
            difference = arm[kind][found["key"]]["mean"] - baseline[kind][found["key"]]["mean"]
            assert found["difference"] == pytest.approx(difference) and difference != 0
            assert f"{100 * abs(difference):.2f}" in done.stdout
    for task in document["tasks"]:
        assert task["name"] in done.stdout and f"{100 * task['chance']:.2f}" in done.stdout
    joules = {row["joules"] for row in document["arms"][0]["runs"][0]["costs"] if row["sum"]}
    assert joules == {900, 500}
    assert at_arms(*line, "--resamples", "200", "--quiet").stderr == ""


def test_runs_stand_for_their_only_results(at_arms: Command) -> None:
    done = at_arms("compare", "run-all-s0", "run-all-s1", "odd", "--allow-nonconforming")
    assert done.returncode == 0, done.stderr
    assert "does not conform" in done.stdout
    several = at_arms("compare", "all-s0", "run-some-s0")
    assert several.returncode == 2 and "name the RESULTS folder that is meant" in several.stderr
    none = at_arms("compare", "all-s0", "run-new")
    assert none.returncode == 10 and "headwater eval RUN --suite SUITE" in none.stderr


COMPARE_WORDS: list[tuple[str, int, str]] = [
    ("all-s0", 2, "one evaluation cannot be compared"),
    ("all-s0 all-s0", 2, "are results of the same run"),
    ("all-s0 all-s1", 2, "--each-run"),
    ("all-s0 other", 2, "optim.lr 0.01 against 0.001"),
    ("all-s0 odd", 2, "does not conform to its recipe: it changed optim.lr"),
    ("all-s0 part", 2, "task captions is only in one of the suites"),
    ("all-s0 seed", 2, "evaluation seed 7 against 0"),
    ("all-s0 nowhere", 10, "nowhere: no such folder"),
    ("all-s0 suite", 10, "holds neither results.json nor run.json"),
    ("all-s0 some-s0 --resamples 1", 2, "--resamples 1: from 100 to 1,000,000"),
    ("all-s0 some-s0 --pue 0.5", 2, "a PUE of 0.5 cannot be"),
    ("all-s0 some-s0 --region XYZ", 2, "unknown region 'XYZ'"),
    ("all-s0 some-s0 --label x", 2, "like --label shards=filtered"),
    ("all-s0 some-s0 --label x=y", 2, "no arm has the data id or folder 'x'"),
    ("all-s0 some-s0 -o nowhere/page.html", 10, "mkdir -p nowhere"),
    ("all-s0 some-s0 -o suite/suite.yaml", 2, "exists and is no page of ours"),
    ("", 2, "RESULTS"),
]


@pytest.mark.parametrize(
    ("words", "code", "text"), COMPARE_WORDS, ids=[w or "nothing" for w, *_ in COMPARE_WORDS]
)
def test_wrong_words_for_compare(words: str, code: int, text: str, at_arms: Command) -> None:
    done = at_arms("compare", *words.split())
    assert done.returncode == code, done.stderr
    assert text in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


def test_another_prompt_is_named_by_its_task(at_arms: Command, arms: Path, tmp_path: Path) -> None:
    here = tmp_path / "elsewhere"
    small_suite(here)
    (here / "colours/zeroshot_classification_templates.txt").write_text("a drawing of {c}\n")
    with pytest.MonkeyPatch.context() as patch:
        fake_models(patch)
        assert at_arms("eval", "run-some-s1", "--suite", here, "-o", tmp_path / "out").returncode == 0
    done = at_arms("compare", "all-s0", tmp_path / "out")
    assert done.returncode == 2
    assert "task colours has other data, prompts or options" in done.stderr


def test_a_page_is_replaced_and_another_file_is_not(at_arms: Command, tmp_path: Path) -> None:
    page, mine = tmp_path / "page.html", tmp_path / "mine.html"
    mine.write_text("<!doctype html>my own page")
    for name in ("compare all-s0 some-s0", "leaderboard ."):
        assert at_arms(*name.split(), "-o", page).returncode == 0
        refused = at_arms(*name.split(), "-o", mine)
        assert refused.returncode == 2 and "--force" in refused.stderr
        dry = at_arms(*name.split(), "-o", tmp_path / "dry.html", "--dry-run", "--json")
        assert json.loads(dry.stdout)["page"] is None and not (tmp_path / "dry.html").exists()
    assert mine.read_text() == "<!doctype html>my own page"
    assert at_arms("leaderboard", ".", "-o", mine, "--force").returncode == 0
    assert b"headwater" in mine.read_bytes()[:300]


# leaderboard


def test_a_table_for_each_recipe_suite_and_seed(at_arms: Command, tmp_path: Path) -> None:
    done = at_arms("leaderboard", ".", "-o", tmp_path / "board.html")
    assert done.returncode == 0, done.stderr
    document = json.loads(at_arms("leaderboard", ".", "--json").stdout)
    valid("leaderboard", document, "page")
    assert (
        len(document["boards"]) == 4
    )  # the tiny recipe; part of its suite; another evaluation seed; another recipe
    board = document["boards"][0]
    assert [(row["label"], row["runs"], row["rank"]) for row in board["rows"]][-1] == ("odd", 1, None)
    for row in board["rows"]:
        assert row["label"] in done.stdout and f"{100 * row['value']:.2f}" in done.stdout
        assert row["label"] in (tmp_path / "board.html").read_text()
    assert f"chance {100 * board['chance']:.2f}" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("nowhere", 10, "nowhere: no such folder"),
        ("suite", 10, "no evaluations below it"),
        (". -o nowhere/x.html", 10, "mkdir -p nowhere"),
    ],
)
def test_wrong_words_for_leaderboard(words: str, code: int, text: str, at_arms: Command) -> None:
    done = at_arms("leaderboard", *words.split())
    assert done.returncode == code and text in done.stderr and done.stdout == ""


# soup


def test_soups_of_both_kinds(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for seed in range(3):
        made_run(tmp_path / f"run{seed}", seed=seed, weights=plain_weights(tmp_path, float(seed)))
    runs = ("run0", "run1", "run2")
    done = command("soup", *runs, "-o", "uniform")
    assert (done.returncode, done.stdout) == (0, "uniform: uniform soup of 3 of 3 sets of weights\n")
    assert "different seeds" in done.stderr
    assert "(already there)" in command("soup", *reversed(runs), "-o", "uniform").stdout
    dry = command(
        "soup",
        *runs,
        "-o",
        "greedy",
        "--kind",
        "greedy",
        "--suite",
        "suite",
        "--task",
        "colours",
        "--dry-run",
    )
    assert dry.stdout == "greedy: would make a greedy soup of 3 sets of weights\n"
    line = ("soup", *runs, "-o", "greedy", "--kind", "greedy", "--suite", "suite", "--task", "colours")
    text = command(*line)
    assert text.returncode == 0, text.stderr
    document = json.loads(command(*line, "--json").stdout)
    assert document["up_to_date"] is True and document["counts"]["read"] == 3
    told = text.stdout.splitlines()[1:]
    assert len(told) == len(document["details"]["decisions"]) == 3
    for said, one in zip(told, document["details"]["decisions"], strict=True):
        assert said.strip().startswith("kept" if one["kept"] else "left out")
        assert document["weights"][one["weights"]] in said and f"{one['alone']:.2%} alone" in said
    assert command("verify", "greedy").returncode == 0
    loaded = json.loads((tmp_path / "greedy/run.json").read_text())
    assert loaded["extras"]["made_by"] == "soup" and loaded["conforming"] is False


SOUP_WORDS: list[tuple[str, int, str]] = [
    ("run0 run1 -o out --kind gredy", 2, "did you mean 'greedy'?"),
    ("run0 run1 -o out --kind greedy", 2, "--suite is what a greedy soup is chosen by"),
    ("run0 run1 -o out --suite suite", 2, "--suite is what a greedy soup is chosen by"),
    ("run0 run1 -o out --task colours", 2, "there is no --suite"),
    ("run0 run1 -o out --root suite", 2, "there is no --suite"),
    ("run0 run1 -o out --kind greedy --suite suite", 10, "absent"),
    ("run0 run1 -o out --kind greedy --suite suite --task colour", 2, "did you mean 'colours'?"),
    ("run0 run1 -o out --device tpu", 2, "--device tpu"),
    ("run0 run1 -o nowhere/out", 10, "mkdir -p nowhere"),
    ("run0 run1 -o suite", 2, "has no record of how it was made"),
    ("run0 run0 -o out", 2, "hold the same weights"),
    ("run0 other -o out", 2, "they differ in optim.lr"),
    ("run0 suite -o out", 10, "no such file"),
    ("run0 suite/suite.yaml -o out", 2, "belongs to no run"),
    ("-o out", 2, "RUNS"),
]


@pytest.mark.parametrize(("words", "code", "text"), SOUP_WORDS, ids=[words for words, *_ in SOUP_WORDS])
def test_wrong_words_for_soup(words: str, code: int, text: str, command: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for seed in range(2):
        made_run(tmp_path / f"run{seed}", seed=seed)
    made_run(tmp_path / "other", data="other", **{"optim.lr": 0.01})
    done = command("soup", *words.split())
    assert done.returncode == code, done.stderr
    assert text in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert not (tmp_path / "out").exists()


# help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_told_and_the_examples_parse(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.help[0].isupper(), parameter
    examples = re.findall(rf"^\s*headwater {name} (.+)$", command.help, re.MULTILINE)
    assert examples
    for example in examples:
        context = command.make_context(name, shlex.split(example), resilient_parsing=True)
        assert context.params and not context.args
