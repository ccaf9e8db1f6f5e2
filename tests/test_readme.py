"""The README is executed: its commands run in order, its help text is the command's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\S+)(?: (\S+))?\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _environment(tmp_path: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "100"}


def test_every_command_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    commands = [
        line
        for kind, mode, text in BLOCKS
        if (kind, mode) == ("sh", "run")
        for line in text.splitlines()
        if line
    ]
    assert len(commands) >= 15, "the README has lost its commands"
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert list((tmp_path / "shards").glob("*.tar"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_a_training_runs(tmp_path: Path) -> None:
    """The blocks marked slow, after those they build on."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    lines = [
        line
        for kind, mode, text in BLOCKS
        if (kind, mode) in (("sh", "run"), ("sh", "slow"))
        for line in text.splitlines()
        if line
    ]
    needed = (
        "pool import",
        "pool index",
        "filter-pool pool -o subset.npy",
        "reshard ",
        "filter-pool pool -o every",
    )
    trained = ("train ", "eval ", "compare ", "leaderboard ", "soup ")
    needed += ("score picture", "filter-pool pool -o pictures", "filter-pool pool -o trusted", "score train")
    needed += ("score two_tower", "filter-pool pool -o scored")
    commands = [line for line in lines if line.removeprefix("headwater ").startswith((*needed, *trained))]
    assert len(commands) >= 12, "the README has lost its training"
    environment = {**_environment(tmp_path), "OMP_NUM_THREADS": "1"}
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "compare.html").stat().st_size > 10_000
    assert (tmp_path / "leaderboard.html").stat().st_size > 5_000
    assert (tmp_path / "scored.npy").stat().st_size > 1_000


def test_python_in_the_readme_runs(tmp_path: Path) -> None:
    programs = [text for kind, mode, text in BLOCKS if (kind, mode) == ("python", "run")]
    assert programs
    for program in programs:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=tmp_path,
            env={**_environment(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, f"{program}\n{done.stderr}"


def test_rule_in_the_readme_is_valid(tmp_path: Path) -> None:
    from curate.rules import load_rule

    rules = [text for kind, _, text in BLOCKS if kind == "yaml"]
    assert rules
    for text in rules:
        (tmp_path / "rule.yaml").write_text(text)
        assert load_rule(tmp_path / "rule.yaml").keep


@pytest.mark.parametrize("command", [mode for kind, mode, _ in BLOCKS if kind == "help"])
def test_help_is_up_to_date(command: str, tmp_path: Path) -> None:
    text = next(text for kind, mode, text in BLOCKS if (kind, mode) == ("help", command))
    shown = help_text(command, _environment(tmp_path))
    assert text == shown, "run `make readme` to write the help text anew"


def help_text(command: str, environment: dict[str, str]) -> str:
    """What `headwater COMMAND --help` prints on 100 columns."""
    done = subprocess.run(
        ["headwater", *command.split(), "--help"], env=environment, capture_output=True, text=True, check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"


def write_help() -> None:
    """Put the current help texts into the README."""
    environment = _environment(ROOT)

    def fill(match: re.Match[str]) -> str:
        return f"```help {match[1]}\n{help_text(match[1], environment)}```"

    text = re.sub(r"^```help (\S+)\n.*?^```$", fill, README, flags=re.MULTILINE | re.DOTALL)
    (ROOT / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_help()
