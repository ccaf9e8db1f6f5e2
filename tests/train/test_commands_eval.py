"""`headwater eval` from outside: exit codes, what goes where, what it cost, and that JSON holds what the text says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headwater import energy
from headwater.manifest import Step
from headwater.steps import read_record
from tests.conftest import clean_environment
from tests.curate.filter_kit import Told, in_process
from tests.faults import energy_kit
from tests.train import eval_kit
from tests.train import kit as train_kit
from tests.train.command_kit import fake_models, made_run, plain_weights, small_suite, state_energy, valid
from train.results import read_results

Command = Callable[..., Told]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Commands in `tmp_path`, where `suite` lies and every model is one of colours."""
    fake_models(monkeypatch)
    monkeypatch.delenv("HEADWATER_REGION", raising=False)
    small_suite(tmp_path / "suite")
    return in_process(tmp_path, monkeypatch)


def test_an_evaluation_a_second_time_and_another_one(command: Command, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    first = command("eval", "run", "--suite", "suite", "-o", "out")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("out: run on tiny\n")
    for words in (
        "Colours",
        "Captions",
        "missing",
        "chance",
        "16.67 %",
        "mean of 2 tasks",
        "not DataComp's 38",
    ):
        assert words in first.stdout
    assert "task absent: its set is missing" in first.stderr
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = command("eval", run, "--suite", "suite/suite.yaml", "-o", "out")
    assert again.returncode == 0 and "(already there)" in again.stdout and "up to date" in again.stderr
    assert {path: path.read_bytes() for path in before} == before
    other = command("eval", "run", "--suite", "suite", "-o", "out", "--task", "colours")
    assert other.returncode == 2 and "--force replaces it" in other.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert (
        command("eval", "run", "--suite", "suite", "-o", "out", "--task", "colours", "--force").returncode
        == 0
    )
    assert [line.key for line in read_results(tmp_path / "out").tasks] == ["colours"]
    verified = command("verify", "out")
    assert verified.returncode == 0 and "step eval" in verified.stdout


def test_json_is_one_document_that_holds_what_the_text_says(command: Command, tmp_path: Path) -> None:
    state_energy(made_run(tmp_path / "run"))
    text = command("eval", "run", "--suite", "suite", "-o", "out", "--region", "DEU", "--pue", "1.5").stdout
    line = ("eval", "run", "--suite", "suite", "-o", "out", "--region", "DEU", "--pue", "1.5", "--json")
    done = command(*line)
    document = json.loads(done.stdout)
    assert all(isinstance(json.loads(event), dict) for event in done.stderr.splitlines())
    valid("result", document["results"])
    assert document["up_to_date"] is True and document["step_id"][:12] in text
    for task in document["results"]["tasks"]:
        value = task["metrics"]["main_metric"]
        assert task["dataset"] in text and (value is None or f"{100 * value:.2f} %" in text)
    for mean in document["results"]["aggregates"]:
        assert f"{mean['name']}: {100 * mean['value']:.2f} %" in text and mean["task_list_id"][:6] in text
    assert document["results"]["missing"] == ["absent"]
    costs = document["training_costs"]
    assert costs["samples"] == 192 and costs["pue"] == 1.5 and costs["carbon"]["region"] == "DEU"
    assert "PUE 1.5" in text and "DEU" in text
    rows = {(row["device"], row["sum"]): row for row in costs["rows"]}
    assert rows["gpu0", False]["quality"] == "measured" and rows["cpu", False]["quality"] == "modelled"
    assert rows["gpu0", True]["joules"] == 900 and rows["cpu", True]["joules"] == 500  # 1,400 is nowhere
    assert "1,400" not in text and "1400" not in text
    kg = 900 / 3.6e6 * 1.5 * costs["carbon"]["g_per_kwh"] / 1000
    assert rows["gpu0", False]["kg_co2e"] == pytest.approx(kg)
    main = document["results"]["aggregates"][0]
    chance = sum(task["chance"] for task in document["results"]["tasks"][:2]) / 2
    assert costs["points_above_chance"] == pytest.approx(100 * (main["value"] - chance))
    assert rows["gpu0", False]["joules_per_point"] == pytest.approx(900 / costs["points_above_chance"])
    assert f"{900 / costs['points_above_chance']:.4g}" in text


def test_a_training_that_was_resumed_cost_at_least_that(command: Command, tmp_path: Path) -> None:
    state_energy(made_run(tmp_path / "run"), attempts=3)
    done = command("eval", "run", "--suite", "suite", "-o", "out")
    assert "≥ 900" in done.stdout and "2 of 3 left no record of their energy" in done.stdout
    costs = json.loads(command("eval", "run", "--suite", "suite", "-o", "out", "--json").stdout)[
        "training_costs"
    ]
    assert (costs["records"], costs["lost"]) == (1, 2) and not any(row["complete"] for row in costs["rows"])


def test_the_evaluation_has_its_own_joules(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of 20 W, measured, for 10 s; nothing could measure the memory, which is then not told as 0."""
    from headwater import clip_model

    made_run(tmp_path / "run")
    machine = energy_kit.install(monkeypatch, tmp_path)
    monkeypatch.setattr(
        energy, "account_for_everything", lambda: None
    )  # of a process that is only this command
    monkeypatch.setattr(energy, "_begun", [])
    machine.zone("intel-rapl:0", "package-0")
    load = clip_model.load_model

    def slow(folder: Path, **options: Any) -> Any:
        machine.pass_time(10, cpu=4, _0=20)
        return load(folder, **options)

    monkeypatch.setattr(clip_model, "load_model", slow)
    done = command("eval", "run", "--suite", "suite", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "this evaluation: 10.0 s, 4.0 CPU s; cpu 200 J (rapl" in done.stdout
    document = json.loads(command("eval", "run", "--suite", "suite", "-o", "out", "--json").stdout)
    used = document["energy"]
    assert used["measured_joules"] == pytest.approx(200) and used["modelled_joules"] is None
    ram = [part for part in used["components"] if part["device"] == "ram"]
    assert all(part["joules"] is None for part in ram) and "ram" not in done.stdout
    # what the training used is not known, and not 0
    assert all(row["joules"] is None for row in document["training_costs"]["rows"])
    assert "what the training cost" not in done.stdout


@pytest.mark.parametrize("what", ["checkpoint", "soup", "elsewhere"])
def test_no_price_is_told_for_what_was_not_that_training(what: str, command: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run, more = state_energy(made_run(tmp_path / "run")), ()
    if what == "checkpoint":
        (tmp_path / "part.safetensors").write_bytes(plain_weights(tmp_path, 1.0))
        more = ("--weights", "part.safetensors")
    elif what == "soup":
        path = run / "step.json"
        step = Step.model_validate_json(path.read_bytes())
        soup = step.identity.model_copy(update={"step": "soup"})
        path.write_text(step.model_copy(update={"identity": soup}).model_dump_json())
    else:
        run = tmp_path / "foreign"
        run.mkdir()
        (run / "open_clip_config.json").write_bytes((tmp_path / "run/open_clip_config.json").read_bytes())
        (run / "open_clip_model.safetensors").write_bytes(plain_weights(tmp_path, 1.0))
    done = command("eval", run, "--suite", "suite", "-o", "out", "--json", *more)
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["training_costs"] is None
    assert document["results"]["conforming"] is {"checkpoint": False, "soup": True, "elsewhere": None}[what]


def test_a_dry_run_writes_nothing_and_says_whether_it_is_done(command: Command, tmp_path: Path) -> None:
    made_run(tmp_path / "run")
    line = ("eval", "run", "--suite", "suite", "-o", "out")
    done = command(*line, "--dry-run")
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    assert done.stdout == "out: would evaluate 2 tasks; sets that are missing: 1\n"
    document = json.loads(command(*line, "--dry-run", "--json").stdout)
    assert document["tasks"] == ["colours", "captions"] and document["missing"] == ["absent"]
    assert document["up_to_date"] is False
    assert command(*line, "--quiet").stderr == ""
    assert json.loads(command(*line, "--dry-run", "--json").stdout)["up_to_date"] is True
    assert "is there already" in command(*line, "--dry-run").stdout


def test_a_dry_run_loads_no_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    made_run(tmp_path / "run")
    small_suite(tmp_path / "suite")
    line = ["eval", "run", "--suite", "suite", "-o", "out", "--dry-run", "--task", "colours"]
    code = (
        "import sys\nfrom headwater.options import run_command\nfrom headwater.cli import cli\n"
        f"code = run_command(cli, {line!r})\n"
        "print(code, sorted({'torch', 'open_clip', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env=clean_environment(tmp_path),
        cwd=tmp_path,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_the_number_of_workers_shows_in_no_byte(command: Command, tmp_path: Path) -> None:
    made_run(tmp_path / "run")
    ids = []
    for workers in (1, 3):
        line = ("eval", "run", "--suite", "suite", "-o", f"out{workers}", "--workers", workers, "--json")
        ids.append(json.loads(command(*line).stdout)["step_id"])
    assert ids[0] == ids[1]


def test_bad_pictures_end_with_3_and_one_document(command: Command, tmp_path: Path) -> None:
    made_run(tmp_path / "run")
    samples = eval_kit.colour_samples(24)
    samples[5][1]["png"] = samples[5][1]["png"][:60]
    eval_kit.write_split(tmp_path / "suite/colours/test", samples)
    done = command("eval", "run", "--suite", "suite", "-o", "out", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 3 and document["problem"]["exit_code"] == 3
    assert "colours/0-0005" in document["problem"]["message"] and "0-0005" in done.stderr
    assert document["results"]["tasks"][0]["n"] == 23
    text = command("eval", "run", "--suite", "suite", "-o", "out")
    assert text.returncode == 3 and "(already there)" in text.stdout and "--allow-invalid" in text.stderr
    assert command("eval", "run", "--suite", "suite", "-o", "out", "--allow-invalid").returncode == 0


def test_names_of_a_suite_steer_no_terminal(command: Command, tmp_path: Path) -> None:
    made_run(tmp_path / "run")
    suite = [eval_kit.task("colours", name="red\x1b[2J"), eval_kit.task("absent", name="\x07")]
    eval_kit.write_suite(tmp_path / "suite", suite, name="bell\x1b]0;x\x07")
    done = command("eval", "run", "--suite", "suite", "-o", "out")
    assert done.returncode == 0 and r"red\x1b[2J" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr and "\x07" not in done.stdout + done.stderr


EVAL_WORDS: list[tuple[str, int, str]] = [
    ("run --suite nowhere -o out", 2, "known: datacomp38"),
    ("run --suite datacomp39 -o out", 2, "did you mean 'datacomp38'?"),
    ("run --suite ./nowhere -o out", 10, "nowhere: no such suite"),
    ("run --suite run -o out", 10, "no suite.yaml in this folder"),
    ("run --suite datacomp38 -o out", 10, "none of its sets is in"),
    ("run --suite datacomp38 --root nowhere -o out", 10, "nowhere: no such folder"),
    ("run --suite suite -o out --strict", 10, "absent"),
    ("run --suite suite -o out --task colour", 2, "did you mean 'colours'?"),
    ("run --suite suite -o out --task absent", 10, "none of its sets is in"),
    ("nowhere --suite suite -o out", 10, "nowhere: no such folder"),
    ("suite --suite suite -o out", 10, "no open_clip_config.json"),
    ("run --suite suite -o nowhere/out", 10, "mkdir -p nowhere"),
    ("run --suite suite -o suite", 2, "has no record of how it was made"),
    ("run --suite suite -o run", 2, "exists, made by another run"),
    ("run --suite suite -o run/results", 2, "lies inside the run"),
    ("run --suite suite -o out --device tpu", 2, "--device tpu: auto, cpu or cuda"),
    ("run --suite suite -o out --weights none.pt", 10, "none.pt"),
    ("run --suite suite -o out --pue 0.5", 2, "a PUE of 0.5 cannot be"),
    ("run --suite suite -o out --pue nan", 2, "a PUE of nan cannot be"),
    ("run --suite suite -o out --region XYZ", 2, "unknown region 'XYZ'"),
    ("run --suite suite -o out --seed -1", 2, "--seed -1: must be from 0"),
    ("run --suite suite -o out --workers 0", 2, "--workers is 0"),
    ("run --suite suite -o out --engine rya", 2, "unknown engine 'rya'"),
    ("run --suite suite", 2, "--output"),
    ("run -o out", 2, "--suite"),
]


@pytest.mark.parametrize(("words", "code", "text"), EVAL_WORDS, ids=[words for words, *_ in EVAL_WORDS])
def test_wrong_words_for_eval(words: str, code: int, text: str, command: Command, tmp_path: Path) -> None:
    made_run(tmp_path / "run")
    done = command("eval", *words.split())
    assert done.returncode == code, done.stderr
    assert text in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.headwater").exists()


# a real model


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_training_to_a_comparison_with_real_models(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training in its own processes, its evaluation and its soup, and a run on other data beside it."""
    pytest.importorskip("open_clip")
    changes = {"budget.samples_seen": 64, "budget.checkpoints": 2}
    train_kit.write_shards(tmp_path / "data", samples=32)
    train_kit.write_recipe(tmp_path / "tiny.yaml", **changes)
    small_suite(tmp_path / "suite")
    line = ("train", "--recipe", "tiny.yaml", "--data", "data", "-o", "run", "--threads", 1)
    trained = cli(*line, env={"OMP_NUM_THREADS": "1"}, timeout=500)
    assert trained.returncode == 0, trained.stderr
    run = in_process(tmp_path, monkeypatch)
    done = run("eval", "run", "--suite", "suite", "-o", "res-run", "--json")
    assert done.returncode == 0, done.stderr
    results, record = json.loads(done.stdout)["results"], read_record(tmp_path / "run")
    assert record is not None and results["conforming"] is True and results["run_id"] == record.id
    weights = train_kit.tiny_run(tmp_path / "random", seed=3, **changes) / "open_clip_model.safetensors"
    made_run(tmp_path / "other", data="other", weights=weights.read_bytes(), **changes)
    soup = run("soup", "run", "run/checkpoints/part_1.safetensors", "-o", "soup")
    assert soup.returncode == 0, soup.stderr
    for name in ("other", "soup"):
        found = run("eval", name, "--suite", "suite", "-o", f"res-{name}")
        assert found.returncode == 0, found.stderr
    assert run("compare", "res-run", "res-other").returncode == 0
    mixed = run("compare", "res-run", "res-soup")
    assert mixed.returncode == 2 and "res-soup: its run does not conform" in mixed.stderr
    assert run("compare", "res-run", "res-soup", "--allow-nonconforming").returncode == 0
    verified = run("verify", ".")
    assert verified.returncode == 0 and verified.stdout.count(" ok\n") == 6
