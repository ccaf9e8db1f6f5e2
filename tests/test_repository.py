"""What is true of the repository as a whole: sizes, names that must not appear, the lock, the licence, the tools."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import headwater
from tests.conftest import clean_environment

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("headwater", "curate", "distribute", "train")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
APACHE_SHA256 = "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
LINES_LIMIT = 400

# spelt in two parts, so that this file does not hold what it looks for
REGISTRIES = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "docker" + ".io",
    "gh" + "cr.io",
    "anaconda" + ".org",
    "npm" + "js",
]
MACHINE_PATHS = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/Us" + "ers/", "/tmp" + "/w/"]
BINARY = (".parquet", ".tar", ".npy", ".npz", ".png", ".jpg", ".webp", ".ttf", ".woff2", ".gz", ".ftz")


def repository_files() -> list[Path]:
    """Files that belong to the repository: those git knows, or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    found = []
    for path in repository_files():
        if path.suffix not in BINARY:
            found.append(
                (path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8", errors="replace"))
            )
    return found


@pytest.mark.parametrize("name", REGISTRIES)
def test_no_registry_is_named(name: str) -> None:
    assert [path for path, text in texts() if name in text] == []


@pytest.mark.parametrize("name", MACHINE_PATHS)
def test_no_path_of_some_machine(name: str) -> None:
    pattern = re.compile(r"(?<![\w.$*}~-])" + re.escape(name))
    assert [f"{path}: {m.group()}" for path, text in texts() for m in pattern.finditer(text)] == []


def test_no_python_file_is_too_long() -> None:
    long = {p: len(t.splitlines()) for p, t in texts() if p.endswith(".py")}
    assert {path: lines for path, lines in long.items() if lines > LINES_LIMIT} == {}


def test_every_module_says_what_it_is() -> None:
    silent = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            if not re.search(r"[.:;]$", doc.split("\n\n")[0].strip()):
                silent.append(path.relative_to(ROOT).as_posix())
    assert silent == []


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "LICENSE", "schemas/README.md", "Makefile", ".ci/run"]
)
def test_the_documents_are_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 100


def test_the_licence_is_the_whole_text() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_SHA256


def test_one_version_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert headwater.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "requirements.lock",
        "tests/bench/requirements.lock",
        "tests/bench/train_requirements.lock",
        "tests/bench/polygon_requirements.lock",
    ],
)
def test_the_lock_has_hashes_and_no_addresses(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text and "@ " not in text
    requirements = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(requirements) > 5
    for requirement in requirements:
        assert re.match(r"[a-z0-9._-]+==[\w.]+", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement


def test_the_lock_holds_everything_the_project_names() -> None:
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    project = PROJECT["project"]
    named = [
        *project["dependencies"],
        *project["optional-dependencies"]["energy"],
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["build-system"]["requires"],
    ]
    wanted = {re.match(r"[A-Za-z0-9._-]+", name).group().lower() for name in named}  # type: ignore[union-attr]
    assert wanted - locked == set()


def test_the_makefile_names_its_targets() -> None:
    text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert {f"make {t}" for t in ("setup", "demo", "test", "bench", "lint", "lock", "help")} <= set(
        re.findall(r"^make \w+", text, re.MULTILINE)
    )


def test_an_old_python_is_told_in_one_line(tmp_path: Path) -> None:
    fake = tmp_path / "python-old"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-weights.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "setup", f"PYTHON={fake}"], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_checks_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    assert "set -euo pipefail" in script.read_text()


def test_help_is_light(tmp_path: Path, record_property: Any) -> None:
    script = (
        "import resource, sys\n"
        "from headwater.options import run_command\n"
        "from headwater.cli import cli\n"
        "run_command(cli, ['--help'])\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "heavy = {'pyarrow', 'duckdb', 'numpy', 'pydantic', 'rich', 'torch'} & set(sys.modules)\n"
        "print('CPU', usage.ru_utime + usage.ru_stime, sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    _, seconds, heavy = done.stdout.splitlines()[-1].split(maxsplit=2)
    record_property("help_cpu_seconds", seconds)
    print(f"headwater --help: {float(seconds):.3f} s of CPU")
    assert heavy == "[]"
