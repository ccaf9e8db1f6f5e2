"""Categories that somebody wrote down, instead of those that follow from their index: the classes are exactly those records.

The recipe names such a table by its digest, and the table travels with the recipe (`param/categories.parquet` beside recipe.json). What
an instance adds to its category (centre, grey levels, noise) still follows from seed, index and instance alone, so any picture can
be drawn alone here too. Numbers that are not whole are drawn at the resolution of the generator (1/65536 for contours).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from curate.categories import PARAM_FOLDER, TABLE_NAME, CategoryTable, read_params, read_parquet
from curate.generation import MAX_CLASSES, MAX_START, Generation, Table
from headwater import plugins
from headwater.errors import IntegrityError, MissingInput, UsageError

if TYPE_CHECKING:
    from curate.make_request import MakeRequest

PARQUET_NAME = Path(TABLE_NAME).name


def read_given(path: Path, kinds: Mapping[str, str]) -> CategoryTable:
    """The table at `path`: a Parquet file, a folder of CCCCC.csv files, or a folder (a made set, a published one) that has `param/`.

    Columns that the generator does not have are left out. Raises MissingInput, UsageError for a parameter that is not told,
    IntegrityError for what is no such table.
    """
    if not path.exists():
        raise MissingInput(f"--from-params {path}: no such file or folder")
    if path.is_dir():
        places = (path, path / PARAM_FOLDER)
        whole = [place / PARQUET_NAME for place in places if (place / PARQUET_NAME).is_file()]
        loose = [place for place in places if any(place.glob("*.csv"))]
        if not whole and not loose:
            raise MissingInput(
                f"--from-params {path}: holds neither {PARQUET_NAME} nor files CCCCC.csv, here or in {PARAM_FOLDER}/"
            )
        table = read_parquet(whole[0], kinds, others=True) if whole else read_params(loose[0], kinds)
    else:
        table = read_parquet(path, kinds, others=True)
    if not 1 <= len(table) <= MAX_CLASSES or table.first > MAX_START:
        raise UsageError(
            f"--from-params {path}: {len(table):,} categories from {table.first:,} on; there can be 1 to {MAX_CLASSES:,}"
        )
    return table


def listed(table: CategoryTable) -> Table:
    """How a recipe names it."""
    return Table(rows=len(table), sha256=table.sha256())


def given_table(generation: Generation) -> CategoryTable:
    """The table that the recipe names. Raises MissingInput where it is not at hand, IntegrityError where it is another one."""
    assert generation.records is not None
    if generation.table_at is None:
        raise MissingInput(
            "the recipe's categories come from a table, and nothing says where that is",
            hint="load the recipe from the folder that has param/categories.parquet beside it, or name it: --from-params",
        )
    at = generation.table_at
    return _read(at, generation.records.sha256, generation.generator, _stamp(at))


def _stamp(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when somebody changes the table."""
    places = [path, path / PARAM_FOLDER] if path.is_dir() else []
    files = [file for place in places for file in sorted(place.glob("*.*"))] if places else [path]
    found = ((str(file), file.stat()) for file in files if file.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in found)


@lru_cache(maxsize=1)
def _read(path: Path, sha256: str, generator: str, stamp: object) -> CategoryTable:
    table = read_given(path, plugins.load("generators", generator).CATEGORY)
    if table.sha256() != sha256:
        raise IntegrityError(
            f"{path}: not the table of categories that the recipe names",
            hint="fetch the recipe and its param/categories.parquet together",
        )
    return table


def asked_table(request: MakeRequest, module: ModuleType) -> CategoryTable:
    """The table that a request names, or the recipe that it makes again. Raises also UsageError, IntegrityError for another one."""
    told = request.recipe.records if request.recipe else None
    if request.from_params is None:
        assert request.recipe is not None
        return given_table(request.recipe)
    if module.ANNOTATED:
        raise UsageError(
            f"--from-params: a picture of {request.generator} is composed of more than its category",
            hint="visualatom, rcdb and fractaldb can be drawn from a table",
        )
    if request.recipe is not None and told is None:
        raise UsageError(
            "--from-params: the recipe's categories follow from their index", hint="leave it out"
        )
    table = read_given(request.from_params, module.CATEGORY)
    if told is not None and listed(table) != told:
        raise IntegrityError(f"--from-params {request.from_params}: not the table that the recipe names")
    return table


def check_table(request: MakeRequest, table: CategoryTable, classes: int) -> None:
    """Raises UsageError where the request says otherwise than the table."""
    if request.stream != "indexed":
        raise UsageError(
            "--from-params: the reference stream draws its own categories", hint="--stream indexed"
        )
    if classes != len(table):
        raise UsageError(
            f"--classes {classes:,}: the table has {len(table):,} categories, and they are the classes"
        )
    if request.start_class not in (0, table.first):
        last = table.first + len(table) - 1
        raise UsageError(
            f"--start-class {request.start_class}: the table has categories {table.first} to {last}"
        )
