"""Families of one-file extensions: the file name is the registered name, nothing else registers anything.

Listing reads the folder and the first docstring line (or, for YAML, the `summary` key's line) without importing.
Third parties add members through the entry-point group `headwater.FAMILY` or with `--plugin FILE`.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from headwater.console import say
from headwater.errors import MissingInput, UsageError, nearest

ROOT = Path(__file__).resolve().parent.parent

FAMILIES: dict[str, tuple[str, str]] = {
    "scores": ("curate/scores", ".py"),
    "filters": ("curate/filters", ".yaml"),
    "generators": ("curate/generators", ".py"),
    "transports": ("distribute/transports", ".py"),
    "recipes": ("train/recipes", ".yaml"),
    "evals": ("train/evals", ".py"),
}


@dataclass(frozen=True)
class Plugin:
    """One member of a family."""

    family: str
    name: str
    summary: str
    path: Path


def family_members(family: str) -> list[Plugin]:
    """Members of `family`, sorted by name. Raises UsageError for an unknown family."""
    if family not in FAMILIES:
        raise UsageError(f"unknown plug-in family {family!r}: {nearest(family, FAMILIES)}")
    return list(_scan(family, ROOT))


@functools.lru_cache
def _scan(family: str, root: Path) -> tuple[Plugin, ...]:
    """Look once per process: a command asks for the members of a family several times."""
    folder, suffix = FAMILIES[family]
    found = {
        path.stem: Plugin(family, path.stem, _summary(path), path)
        for path in sorted((root / folder).glob(f"*{suffix}"))
        if not path.stem.startswith("_")
    }
    for point in importlib.metadata.entry_points(group=f"headwater.{family}"):
        try:
            spec = importlib.util.find_spec(point.module)
        except (ImportError, ValueError):  # a broken package of someone else must not end the listing
            say("warning", f"plug-in {point.name!r} of {family}: {point.module} cannot be found")
            continue
        if spec and spec.origin and point.name not in found:
            path = Path(spec.origin)
            found[point.name] = Plugin(family, point.name, _summary(path), path)
    return tuple(found[name] for name in sorted(found))


def find(family: str, name: str) -> Plugin:
    """The member called `name`; an unknown name offers the nearest one."""
    members = {plugin.name: plugin for plugin in family_members(family)}
    if name not in members:
        raise UsageError(f"unknown {family.rstrip('s')} {name!r}: {nearest(name, members)}")
    return members[name]


def load(family: str, name: str) -> ModuleType:
    """Import the Python member `name` of `family`."""
    plugin = find(family, name)
    folder = FAMILIES[family][0]
    if plugin.path.parent == ROOT / folder:
        return importlib.import_module(f"{folder.replace('/', '.')}.{name}")
    return load_file(plugin.path)


def load_file(path: Path) -> ModuleType:
    """Import a plug-in file that the user named. It is code: name only files you trust."""
    if not path.is_file():
        raise MissingInput(f"{path}: no such plug-in file")
    spec = importlib.util.spec_from_file_location(f"headwater_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: a plug-in must be a .py file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _summary(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".yaml":
        match = re.search(r"^summary:\s*(.+)$", text, re.MULTILINE)
        return match.group(1).strip().strip("\"'") if match else ""
    try:
        doc = ast.get_docstring(ast.parse(text)) or ""
    except (SyntaxError, ValueError):
        return "cannot be read as Python"
    return doc.strip().splitlines()[0] if doc.strip() else ""
