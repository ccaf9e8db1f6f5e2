"""Families of one-file extensions: the file name is the registered name, nothing else registers anything.

Listing reads the folder and the first docstring line (or, for YAML, the `summary` key's line) without importing.
Third parties add members through the entry-point group `headwater.FAMILY`, or as a file that the user names on the command line
(`headwater score ./mine.py`, `--plugin FILE`). Such a file is code: a rule or a record may name one, but never makes it run.
What goes wrong in code that is not ours is told as an error that names it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from headwater.console import say
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError, nearest

ROOT = Path(__file__).resolve().parent.parent

FAMILIES: dict[str, tuple[str, str]] = {
    "scores": ("curate/scores", ".py"),
    "filters": ("curate/filters", ".yaml"),
    "generators": ("curate/generators", ".py"),
    "reruns": ("curate/reruns", ".py"),
    "transports": ("distribute/transports", ".py"),
    "recipes": ("train/recipes", ".yaml"),
    "evals": ("train/evals", ".py"),
}
# what a member made by someone else must define, so that a missing name is told before anything uses it
NEEDED: dict[str, tuple[str, ...]] = {"scores": ("VERSION", "COLUMNS", "OUTPUT", "COST", "Config", "Scorer")}
MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Plugin:
    """One member of a family."""

    family: str
    name: str
    summary: str
    path: Path
    module: str = ""  # of an installed package that offers it
    sha256: str = ""  # of a file that the user named

    @property
    def foreign(self) -> bool:
        """Whether it is code of someone else."""
        return bool(self.module or self.sha256)


_named: dict[tuple[str, str], Plugin] = {}  # files that the user named, in this process


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
            found[point.name] = Plugin(family, point.name, _summary(path), path, module=point.module)
    return tuple(found[name] for name in sorted(found))


def find(family: str, name: str) -> Plugin:
    """The member called `name`; an unknown name offers the nearest one."""
    if (family, name) in _named:
        return _named[family, name]
    members = {plugin.name: plugin for plugin in family_members(family)}
    if name not in members:
        file = re.fullmatch(r"(.+)-[0-9a-f]{8}", name)
        hint = (
            f"if it was a file of yours: --plugin {file.group(1)}.py, with the same bytes as then"
            if file
            else None
        )
        raise UsageError(f"unknown {family.rstrip('s')} {name!r}: {nearest(name, members)}", hint=hint)
    return members[name]


def add_file(family: str, path: Path, sha256: str | None = None) -> Plugin:
    """Make a file that the user named a member of `family` in this process, called STEM-<first digits of its sha256>.

    With `sha256`, the file must still have those bytes (IntegrityError). Nothing of it runs before it is loaded.
    """
    data = _source(path)
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise IntegrityError(f"{path}: was changed while it was in use", hint="run the same line again")
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)
    plugin = Plugin(family, f"{stem}-{found[:8]}", _summary(path), path.resolve(), sha256=found)
    _named[family, plugin.name] = plugin
    return plugin


def named(family: str, text: str, base: Path = Path()) -> str:
    """The member's name for what a rule says: a name stays, a path of a .py file (relative to `base`) must have been named
    by the user. Raises UsageError for one that was not.
    """
    if not text.endswith(".py"):
        return text
    path = (base / text).resolve()
    for (of, name), plugin in reversed(_named.items()):
        if of == family and plugin.path == path:
            return name
    raise UsageError(
        f"{text}: is a file with code, which runs only when you name it yourself",
        hint=f"if you trust it: --plugin {base / text}",
    )


def load(family: str, name: str, *, whole: bool = False) -> ModuleType:
    """Import the Python member `name` of `family`; with `whole`, one of someone else must define all that NEEDED names."""
    plugin = find(family, name)
    folder = FAMILIES[family][0]
    if not plugin.foreign:
        return importlib.import_module(f"{folder.replace('/', '.')}.{name}")
    with contained(f"{family.rstrip('s')} {name}", "cannot be loaded"):
        module = importlib.import_module(plugin.module) if plugin.module else load_file(plugin.path)
    missing = [word for word in NEEDED.get(family, ()) if whole and not hasattr(module, word)]
    if missing:
        raise UsageError(
            f"{plugin.path}: defines no {', '.join(missing)}", hint=f"{folder}/__init__.py says what it needs"
        )
    return module


def load_file(path: Path) -> ModuleType:
    """Import a plug-in file that the user named. It is code: name only files you trust."""
    data = _source(path)
    stem = re.sub(r"\W", "_", path.stem)
    name = f"headwater_plugin_{stem}_{hashlib.sha256(data + bytes(path.resolve())).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        with contained(str(path), "cannot be loaded"):
            # the bytes that were hashed are those that run: no cached .pyc, and none left beside the file
            exec(compile(data, str(path), "exec"), module.__dict__)  # noqa: S102 - what the user asked for
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _source(path: Path) -> bytes:
    if not path.is_file():
        raise MissingInput(f"{path}: no such plug-in file")
    if path.suffix != ".py":
        raise UsageError(f"{path}: a plug-in must be a .py file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UsageError(f"{path}: more than {MAX_FILE_BYTES:,} bytes are no plug-in")
    return path.read_bytes()


@contextlib.contextmanager
def contained(who: str, what: str) -> Iterator[None]:
    """Code of someone else: what it raises (also SystemExit) becomes a HeadwaterError naming it, what it prints goes to standard
    error, and a child that it forked ends here instead of going on with our work.
    """
    process = os.getpid()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (HeadwaterError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        if os.getpid() == process:
            told = " ".join(str(error).split())[:300]
            raise HeadwaterError(
                f"{who}: {what}: {type(error).__name__}{': ' if told else ''}{told}",
                hint="this is not code of Headwater; --verbose shows where it failed",
            ) from error
    finally:
        if os.getpid() != process:
            os._exit(0)


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
