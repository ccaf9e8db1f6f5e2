"""The command itself: help, the table of sub-commands, narrow or odd terminals, streams that are closed or full (20, 100)."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from headwater import __version__
from headwater.cli import COMMANDS, SECTIONS, _open_standard_streams
from tests.conftest import clean_environment

HEAVY = (
    "numpy",
    "pyarrow",
    "duckdb",
    "pydantic",
    "rich",
    "yaml",
    "torch",
    "blake3",
    "jinja2",
    "PIL",
    "codecarbon",
)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_row_of_the_table_is_a_command(name: str) -> None:
    entry = COMMANDS[name]
    module, _, attribute = entry.target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.help and command.help.strip()
    assert entry.section in SECTIONS and entry.summary.endswith(".") and len(entry.summary) < 80


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_the_global_options(name: str) -> None:
    module, _, attribute = COMMANDS[name].target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        names = {option for parameter in leaf.params for option in parameter.opts}
        assert {"--json", "--quiet", "--verbose", "--dry-run", "--config", "--set", "--force"} <= names, (
            leaf.name
        )


def test_help_lists_every_command_under_its_folder(cli: Any) -> None:
    done = cli("--help")
    assert done.returncode == 0 and done.stderr == ""
    places = [done.stdout.index(f"\n  {name} ") for name in COMMANDS]
    assert all(place > 0 for place in places)
    for section, title in SECTIONS.items():
        assert (title in done.stdout) == any(entry.section == section for entry in COMMANDS.values())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["plugins", "--help"], ["verify", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from headwater.options import run_command\n"
        "from headwater.cli import cli\n"
        f"code = run_command(cli, {arguments!r})\n"
        f"print('HEAVY', code, [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "HEAVY 0 []", done.stderr


def test_version(cli: Any) -> None:
    assert cli("--version").stdout == f"headwater, version {__version__}\n"


def test_an_unknown_command_offers_the_nearest(cli: Any) -> None:
    done = cli("filter-pol")
    assert done.returncode == 2 and "did you mean 'filter-pool'" in done.stderr


def test_no_command_at_all_is_a_usage_error_with_help(cli: Any) -> None:
    done = cli()
    assert done.returncode == 2
    assert "verify" in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"COLUMNS": "20"},
        {"COLUMNS": "1"},
        {"NO_COLOR": "1", "TERM": "dumb"},
        {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "tr_TR.ISO-8859-9", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": ""},
    ],
    ids=lambda env: ",".join(env),
)
def test_odd_terminals(env: dict[str, str], cli: Any, tmp_path: Path) -> None:
    for arguments in (["--help"], ["plugins"], ["doctor", "--dry-run"], ["verify", "naïve-日本"]):
        done = cli(*arguments, env=env)
        assert done.returncode == (10 if arguments[0] == "verify" else 0), (arguments, done.stderr)
        assert "Traceback" not in done.stderr and "\x1b[" not in done.stdout + done.stderr
    if env.get("COLUMNS") == "20":
        text = cli("--help", env=env).stdout
        assert max(map(len, text.splitlines())) <= 45  # titles and long words stay whole
        assert "filter-pool" in text


def test_json_stays_json_on_an_ascii_terminal(cli: Any) -> None:
    done = cli("verify", "naïve-日本", "--json", env={"PYTHONIOENCODING": "ascii"})
    assert json.loads(done.stdout)["error"]["message"].startswith("naïve-日本")


ARGUMENTS = [["--help"], ["--version"], ["plugins"], ["schema", "step"], ["doctor", "--dry-run", "--json"]]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_full_standard_output_is_1_without_a_traceback(arguments: list[str], cli: Any) -> None:
    with open("/dev/full", "wb") as full:
        done = cli(*arguments, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "standard output: no space left" in done.stderr and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_closed_standard_output_is_1_without_a_traceback(arguments: list[str], cli: Any) -> None:
    done = cli(*arguments, preexec_fn=lambda: os.close(1))
    assert done.returncode == 1
    assert "standard output" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [*ARGUMENTS, ["verify", "none"]])
def test_a_reader_that_leaves_is_no_noise(arguments: list[str], cli: Any) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = cli(*arguments, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert done.returncode == (10 if arguments[0] == "verify" else 1)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_closed_or_full_standard_error_changes_no_result(cli: Any) -> None:
    wanted = cli("schema", "step").stdout
    assert cli("schema", "step", preexec_fn=lambda: os.close(2)).stdout == wanted
    with open("/dev/full", "wb") as full:
        assert cli("schema", "step", stderr=full, stdout=subprocess.PIPE).stdout == wanted
        assert cli("schema", "nothing", stderr=full, stdout=subprocess.PIPE).returncode == 2
    assert cli("schema", "nothing", preexec_fn=lambda: os.close(2)).returncode == 2


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    script = (
        "import os; from headwater.cli import main; import sys; sys.argv[1:] = ['doctor', '--json']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        preexec_fn=lambda: os.closerange(0, 3),
        timeout=60,
    )
    assert done.returncode == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_open_streams_are_left_alone() -> None:
    before = [os.fstat(number).st_ino for number in range(3)]
    _open_standard_streams()
    assert [os.fstat(number).st_ino for number in range(3)] == before


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell: str, cli: Any) -> None:
    done = cli("completion", shell)
    assert done.returncode == 0
    assert "_HEADWATER_COMPLETE" in done.stdout and "headwater" in done.stdout


def test_completion_offers_commands(cli: Any) -> None:
    env = {"_HEADWATER_COMPLETE": "bash_complete", "COMP_WORDS": "headwater ver", "COMP_CWORD": "1"}
    assert "plain,verify" in cli(env=env).stdout


def test_plugins_lists_families_and_members(cli: Any) -> None:
    listed = cli("plugins").stdout.splitlines()
    assert "scores" in listed and any(line.startswith("  caption ") for line in listed)
    found = json.loads(cli("plugins", "filters", "--json").stdout)["plugins"]
    assert {plugin["family"] for plugin in found} == {"filters"}
    assert all(plugin["summary"] for plugin in found)


def test_schema_prints_the_committed_text(cli: Any) -> None:
    committed = Path(__file__).parents[2] / "schemas" / "step.schema.json"
    assert cli("schema", "step").stdout == committed.read_text(encoding="utf-8")
    assert "step" in cli("schema").stdout.split()
    assert json.loads(cli("schema", "step", "--json").stdout)["$id"] == "headwater:step/1"


def test_doctor_tells_everything_as_json(cli: Any) -> None:
    done = cli("doctor", "--json")
    facts = json.loads(done.stdout)
    assert facts["headwater"] == __version__ and facts["cores"] >= 1
    assert facts["write_mb_per_second"] > 0 and facts["free_bytes"] > 0
    assert set(facts["assets"]) == {"wordnet", "imagenet21k", "lid176", "lite0", "minilm"}
    assert set(facts["energy"]) == {"codecarbon", "rapl", "nvml", "HEADWATER_METER"}


def test_doctor_leaves_nothing_and_a_dry_run_does_not_write(cli: Any, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    assert cli("doctor", cwd=place).returncode == 0
    assert json.loads(cli("doctor", "--dry-run", "--json", cwd=place).stdout)["write_mb_per_second"] is None
    assert list(place.iterdir()) == []


def test_doctor_tells_shadowed_names(cli: Any, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "curate").mkdir(parents=True)
    (place / "curate" / "__init__.py").write_text("")
    (place / "train.py").write_text("raise SystemExit('not this one')")
    (place / "distribute").mkdir()  # a folder of data hides nothing
    done = cli("doctor", "--json", "--dry-run", cwd=place)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["shadowed"]
    assert len(told) == 2 and "curate" in told[0] and "train.py" in told[1]


def test_doctor_fetch_of_an_unknown_asset(cli: Any) -> None:
    done = cli("doctor", "--fetch", "wordnets")
    assert done.returncode == 2 and "wordnet" in done.stderr
