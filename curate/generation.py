"""`generation/1`: what a set of generated pictures is, small enough to send instead of the pictures (`recipe.json`).

It names the generator with its version, every parameter, how many categories and pictures, and for each block of consecutive
pictures one digest of its pixels. Who has the same version of the generator makes the same pictures from it, and knows it.

Pictures are numbered. Order "class": number = row * instances + instance, so a set grows by more classes; order "instance":
number = instance * classes + row, so every shard mixes the classes and a set grows by more instances. `row` counts categories from 0
in this set; the category's index, which its pictures follow from and which is their label, is first_category + row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SerializerFunctionWrapHandler, ValidationError, model_serializer

from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from headwater.files import named_io
from headwater.manifest import Hex64, Record, identity_id

FORMAT = "generation/1"
RECIPE_NAME = "recipe.json"
RECIPE_LIMIT_BYTES = 16 << 20  # ours stay below 4 MB
MAX_CLASSES = 1_000_000
MAX_START = 2_000_000_000  # indices fit in 32 bits
MAX_INSTANCES = 100_000_000
MAX_PICTURES = 1_000_000_000
MAX_BLOCK_SIZE = 10_000_000
MAX_BLOCKS = 14_000  # keeps the recipe below 4 MB
SAFE_INTEGER = 2**53 - 1
BLOCK_SIZE, SMALL_BLOCK_SIZE = 10_000, 1_000
SMALL_SET = 100_000  # pictures; below, blocks are small, so that there are enough of them for several workers

Whole = Annotated[int, Field(ge=0, le=SAFE_INTEGER, strict=True)]
Value = (
    Annotated[bool, Field(strict=True)]
    | Annotated[int, Field(strict=True)]
    | Annotated[float, Field(strict=True)]
    | str
)


class Perturb(Record):
    """Every category is a perturbation of one (1p-frac's idea, arXiv 2408.00677)."""

    delta: Annotated[float, Field(gt=0)] = Field(
        description="how far a parameter may be from the base's, as the generator reads it"
    )
    base: Whole = Field(description="index of the category that is perturbed")


class Rejection(Record):
    """Near-empty drawings are drawn again with the next attempt; the last attempt is kept whatever it shows."""

    min_lit: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="smallest share of pixels that differ from the background"
    )
    attempts: Annotated[int, Field(ge=2, le=1000, strict=True)]


class Processes(Record):
    """The reference stream: how many processes the published script was started with, and which of them (null: all)."""

    processes: Annotated[int, Field(ge=1, le=MAX_CLASSES, strict=True)]
    index: Whole | None = None


class Table(Record):
    """The category table, by its digest."""

    rows: Whole
    sha256: Hex64 = Field(description="of its canonical form: see curate.categories")


class Block(Record):
    """Consecutive pictures, and what their pixels are."""

    name: Annotated[str, Field(pattern=r"^[0-9]{8}$")]
    first: Whole = Field(description="number of its first picture")
    pictures: Annotated[int, Field(ge=1, le=MAX_BLOCK_SIZE, strict=True)]
    pixels: Hex64 = Field(
        description="BLAKE3 of the BLAKE3 digests (32 bytes each) of the raw pixels of its pictures, in order; of annotated pictures the"
        " label map follows the pixels"
    )
    rejected: Whole = Field(0, description="near-empty drawings that were drawn again")
    near_empty: Whole = Field(0, description="pictures kept although their last drawing was near-empty, too")


class Generation(Record):
    """`generation/1`: generated pictures, by what they follow from."""

    format: Literal["generation/1"] = "generation/1"
    id: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = Field(
        "", description="SHA-256 of the RFC 8785 form of everything else"
    )
    generator: Annotated[str, Field(min_length=1, max_length=200)]
    version: Whole
    stream: Literal["indexed", "reference"]
    seed: Whole
    parameters: dict[str, Value] = Field(description="every parameter of the generator")
    perturb: Perturb | None = None
    start_class: Annotated[int, Field(ge=0, le=MAX_START, strict=True)] = 0
    classes: Annotated[int, Field(ge=1, le=MAX_CLASSES, strict=True)] = Field(
        description="categories in this set"
    )
    instances: Annotated[int, Field(ge=1, le=MAX_INSTANCES, strict=True)] = Field(
        description="pictures of each"
    )
    rejection: Rejection | None = None
    reference: Processes | None = None
    order: Literal["class", "instance"] = "class"
    block_size: Annotated[int, Field(ge=1, le=MAX_BLOCK_SIZE, strict=True)] = BLOCK_SIZE
    encoder: str = Field(description="what makes the files of the pixels")
    pixels: Literal["grey8", "rgb8"]
    records: Table | None = Field(
        None,
        description="the table that the categories were taken from, where they do not follow from their index; absent otherwise."
        " It lies beside the recipe, as param/categories.parquet",
    )
    categories: Table | None = None
    blocks: list[Block] = Field(default_factory=list, max_length=MAX_BLOCKS)

    _place: Path | None = PrivateAttr(None)

    @model_serializer(mode="wrap")
    def _told(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `records` where there are none: the ids of such recipes are what they were before there could be any."""
        found: dict[str, Any] = told(self)
        return found if found.get("records") else {k: v for k, v in found.items() if k != "records"}

    @property
    def table_at(self) -> Path | None:
        """Where the table of `records` lies; no part of the recipe."""
        return self._place

    def placed(self, path: Path) -> Generation:
        """With the table of its `records` at `path`."""
        found = self.model_copy()
        found._place = path
        return found

    @property
    def pictures(self) -> int:
        """How many pictures there are."""
        return self.classes * self.instances

    @property
    def first_category(self) -> int:
        """Index of row 0."""
        skipped = (self.reference.index or 0) * self.classes if self.reference else 0
        return self.start_class + skipped

    def place(self, number: int) -> tuple[int, int]:
        """(row, instance) of picture `number`, which counts from 0."""
        if self.order == "class":
            return divmod(number, self.instances)
        instance, row = divmod(number, self.classes)
        return row, instance

    def number(self, row: int, instance: int) -> int:
        """The inverse of `place`."""
        return row * self.instances + instance if self.order == "class" else instance * self.classes + row

    def cut(self) -> Iterator[tuple[str, int, int]]:
        """(name, first, pictures) of every block, in order. No block holds pictures of two processes of the reference stream."""
        parts = self.reference.processes if self.reference and self.reference.index is None else 1
        share, k = self.pictures // parts, 0
        for start in range(0, self.pictures, share):
            for first in range(start, start + share, self.block_size):
                yield f"{k:08d}", first, min(self.block_size, start + share - first)
                k += 1

    def sealed(self) -> Generation:
        """With the id that its content has."""
        return self.model_copy(update={"id": self.content_id()})

    def content_id(self) -> str:
        """What `id` must be."""
        return identity_id(self.model_dump(mode="json", exclude={"id"}))

    def drawn(self) -> dict[str, Any]:
        """What decides the pixels of a picture with a given row and instance: equal for sets of which one continues the other."""
        kept = {
            "generator",
            "version",
            "stream",
            "seed",
            "parameters",
            "perturb",
            "start_class",
            "rejection",
            "reference",
            "records",
        }
        return self.model_dump(mode="json", include=kept)

    def drawn_id(self) -> str:
        """Digest of `drawn`, for caches."""
        return hashlib.sha256(repr(sorted(self.drawn().items())).encode()).hexdigest()


def load_recipe(path: Path) -> Generation:
    """The recipe at `path`, or in the folder `path`; nothing in it is believed before it was checked.

    Raises MissingInput, and IntegrityError for what is no sound recipe. Whether this program can draw it is not asked.
    """
    file = path / RECIPE_NAME if path.is_dir() else path
    if not file.is_file():
        raise MissingInput(
            f"{file}: no such recipe", hint="name a recipe.json, or the folder of a set that headwater made"
        )
    with named_io(file), open(file, "rb") as handle:
        data = handle.read(RECIPE_LIMIT_BYTES + 1)
    if len(data) > RECIPE_LIMIT_BYTES:
        raise IntegrityError(f"{file}: larger than {RECIPE_LIMIT_BYTES:,} bytes: not a recipe of pictures")
    recipe = parse_recipe(data, str(file))
    return recipe.placed(file.parent) if recipe.records else recipe


def parse_recipe(data: bytes, name: str) -> Generation:
    """The recipe in `data`; `name` stands in messages. Raises like `load_recipe`."""
    import json

    try:
        document = json.loads(data)
        found = document.get("format") if isinstance(document, dict) else None
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{name}: not a recipe of pictures: no JSON document", hint="fetch or make it again"
        ) from error
    if found != FORMAT:
        known = isinstance(found, str) and found.partition("/")[0] == "generation"
        raise (HeadwaterError if known else IntegrityError)(
            f"{name}: its format is {str(found)[:40]!r}, read here is {FORMAT!r}",
            hint="a newer Headwater may read it" if known else "name a recipe.json that headwater make wrote",
        )
    try:
        recipe = Generation.model_validate_json(data)
    except (ValidationError, ValueError) as error:
        raise IntegrityError(
            f"{name}: not a sound recipe: {_why(error)}", hint="fetch or make it again"
        ) from error
    problem = _unsound(recipe)
    if problem:
        raise IntegrityError(f"{name}: not a sound recipe: {problem}", hint="fetch or make it again")
    return recipe


def _why(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)[:200]
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part)[:60] for part in first['loc'])}: {first['msg']}"


def _unsound(recipe: Generation) -> str | None:
    """What contradicts itself in a recipe of the right form."""
    if recipe.id != recipe.content_id():
        return "its id is not that of its content: it was changed"
    if (recipe.stream == "reference") != (recipe.reference is not None):
        return "its stream and its processes contradict each other"
    if recipe.reference and recipe.reference.index is None and recipe.classes % recipe.reference.processes:
        return "its classes are not divided among its processes"
    if recipe.records and (
        recipe.stream != "indexed" or recipe.perturb or recipe.records.rows != recipe.classes
    ):
        return "its categories cannot be those of a table"
    if recipe.records and recipe.categories and recipe.records != recipe.categories:
        return "it names two tables of categories"
    if recipe.pictures > MAX_PICTURES:
        return f"{recipe.pictures:,} pictures are more than {MAX_PICTURES:,}"
    if recipe.pictures > recipe.block_size * MAX_BLOCKS:
        return f"{recipe.pictures:,} pictures in blocks of {recipe.block_size:,} are more than {MAX_BLOCKS:,} blocks"
    if recipe.blocks and [(b.name, b.first, b.pictures) for b in recipe.blocks] != list(recipe.cut()):
        return "its blocks are not those of its pictures"
    return None
