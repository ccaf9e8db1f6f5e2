"""Families of one-file extensions: listing without importing, nearest names, other people's broken packages."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from headwater import plugins
from headwater.errors import MissingInput, UsageError
from tests.conftest import clean_environment


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "curate" / "scores"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""Not a member."""')
    (folder / "_helper.py").write_text('"""Not a member."""')
    (folder / "brightness.py").write_text(
        '"""Mean brightness of the picture.\n\nMore."""\nraise SystemExit(1)\n'
    )
    (folder / "broken.py").write_text("def (:\n")
    (folder / "silent.py").write_text("VALUE = 3\n")
    (folder / "notes.txt").write_text("not a member")
    monkeypatch.setattr(plugins, "ROOT", tmp_path)
    return folder


def test_names_are_file_names_and_summaries_first_lines(family: Path) -> None:
    found = {plugin.name: plugin.summary for plugin in plugins.family_members("scores")}
    assert found == {
        "brightness": "Mean brightness of the picture.",
        "broken": "cannot be read as Python",
        "silent": "",
    }


def test_yaml_members_tell_their_summary_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "curate" / "filters"
    folder.mkdir(parents=True)
    (folder / "big.yaml").write_text("format: rule/1\nsummary: 'Large pictures.'\nkeep: []\n")
    (folder / "plain.yaml").write_text("keep: []\n")
    monkeypatch.setattr(plugins, "ROOT", tmp_path)
    assert [(p.name, p.summary) for p in plugins.family_members("filters")] == [
        ("big", "Large pictures."),
        ("plain", ""),
    ]


def test_listing_every_real_family_imports_none_of_its_members(tmp_path: Path) -> None:
    script = (
        "import sys; from headwater.plugins import FAMILIES, family_members\n"
        "print(sum(len(family_members(name)) for name in FAMILIES))\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('curate', 'distribute', 'train', 'numpy')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    count, modules = done.stdout.splitlines()
    assert int(count) > 0, done.stderr
    assert modules == "[]"


def test_an_unknown_family_or_member_offers_the_nearest(family: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'scores'"):
        plugins.family_members("score")
    with pytest.raises(UsageError, match="unknown score 'brightnes': did you mean 'brightness'"):
        plugins.find("scores", "brightnes")


def test_a_member_of_someone_else_is_listed_and_loaded(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "their_scorer.py").write_text('"""Theirs."""\nVALUE = 7\n')
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    points = [
        importlib.metadata.EntryPoint("theirs", "their_scorer", "headwater.scores"),
        importlib.metadata.EntryPoint("gone", "no_such_package.inside", "headwater.scores"),
        importlib.metadata.EntryPoint("brightness", "their_scorer", "headwater.scores"),
    ]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: points if group == "headwater.scores" else []
    )
    found = {plugin.name: plugin for plugin in plugins.family_members("scores")}
    assert found["theirs"].summary == "Theirs."
    assert found["brightness"].path.parent == family  # ours is not replaced by a package
    assert "gone" not in found
    assert plugins.load("scores", "theirs").VALUE == 7


def test_a_file_named_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("VALUE = 5\n")
    assert plugins.load_file(path).VALUE == 5
    with pytest.raises(MissingInput):
        plugins.load_file(tmp_path / "none.py")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match=r"must be a \.py file"):
        plugins.load_file(tmp_path / "mine.txt")
