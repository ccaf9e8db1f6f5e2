"""Rule files: which rows a filter keeps, as data.

A rule is an ordered list of clauses. A row is kept when every clause holds; its reason is the first clause that drops it.
A named filter is a rule file in `curate/filters/`, with `${parameter}` in the places that the command line fills.

Clauses (exactly one key each, besides `id`):

    sql: an expression over columns        in: {column, values} or {subset: FILE.npy}
    top: {column, fraction | threshold}    exact_k: {column, k}            sample: {fraction}
    dedup: {by, at_most, order}            any: [...]   all: [...]   not: {...}

An expression that is neither true nor false for a row (a null, or a NaN) makes the row invalid, never kept.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from headwater import plugins
from headwater.config import MAX_BYTES, load_yaml, parse_yaml, validate
from headwater.errors import UsageError, nearest
from headwater.manifest import Record

Fraction = Annotated[float, Field(gt=0, le=1)]


class Top(Record):
    """Keep rows whose column is at least the value at rank floor(fraction x rows) (DataComp's rule), or at least `threshold`.

    Ties with the cut are kept. Rows without a number count in `rows`, and are never kept.
    """

    column: str
    fraction: Fraction | None = None
    threshold: float | Literal["inf", "-inf"] | None = Field(
        None, description="compared in the column's own precision"
    )
    of: Literal["pool", "survivors"] = Field(
        "pool", description="what `rows` counts: the pool, or rows that got this far"
    )

    @model_validator(mode="after")
    def _one(self) -> Top:
        if (self.fraction is None) == (self.threshold is None):
            raise ValueError("give one of fraction and threshold")
        return self

    @property
    def least(self) -> float | None:
        """The threshold as a number."""
        return None if self.threshold is None else float(self.threshold)


class ExactK(Record):
    """Keep exactly `k` rows: the largest of `column`, ties settled by the lowest uid."""

    column: str
    k: Annotated[int, Field(ge=0)]
    of: Literal["pool", "survivors"] = "survivors"


class Dedup(Record):
    """Keep at most `at_most` rows for each value of the columns `by`: the first ones by `order`, then by uid."""

    by: Annotated[list[str], Field(min_length=1)]
    at_most: Annotated[int, Field(ge=1)] = 1
    order: dict[str, Literal["asc", "desc"]] = Field(default_factory=dict, description="column: asc or desc")


class In(Record):
    """Keep rows whose column is one of `values`, or whose uid is in the subset file `subset`."""

    column: str | None = None
    values: list[str | int | float] | None = None
    subset: str | None = None

    @model_validator(mode="after")
    def _one(self) -> In:
        if (self.subset is None) == (self.column is None) or (self.column is None) != (self.values is None):
            raise ValueError("give column and values, or subset")
        return self


class Sample(Record):
    """Keep a uniform share of rows, chosen by a hash of uid and seed: the same rows whatever else is in the pool."""

    fraction: Fraction
    seed: int = 0


class Clause(Record):
    """One condition. `id` is the reason given to the rows it drops."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    id: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    sql: str | None = None
    in_: In | None = Field(None, alias="in")
    top: Top | None = None
    exact_k: ExactK | None = None
    dedup: Dedup | None = None
    sample: Sample | None = None
    any_: Annotated[list[Clause], Field(min_length=1)] | None = Field(None, alias="any")
    all_: Annotated[list[Clause], Field(min_length=1)] | None = Field(None, alias="all")
    not_: Clause | None = Field(None, alias="not")

    @model_validator(mode="after")
    def _one(self) -> Clause:
        if len(self.kinds) != 1:
            raise ValueError(
                f"a clause has exactly one of sql, in, top, exact_k, dedup, sample, any, all, not; this has {len(self.kinds)}"
            )
        return self

    @property
    def kinds(self) -> list[str]:
        """Which keys are given."""
        names = ("sql", "in_", "top", "exact_k", "dedup", "sample", "any_", "all_", "not_")
        return [name for name in names if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        return self.kinds[0].rstrip("_")

    @property
    def children(self) -> list[Clause]:
        """Clauses inside this one."""
        return (self.any_ or []) + (self.all_ or []) + ([self.not_] if self.not_ else [])

    def text(self) -> str:
        """The clause in one line, for people."""
        if self.sql is not None:
            return " ".join(self.sql.split())
        if self.kind in ("any", "all"):
            return f"{self.kind}({', '.join(child.text() for child in self.children)})"
        if self.not_ is not None:
            return f"not({self.not_.text()})"
        if self.in_ is not None:
            return (
                f"{self.in_.column} in ({_short(self.in_.values)})"
                if self.in_.column
                else f"uid in {self.in_.subset}"
            )
        if self.top is not None:
            share = f"top {self.top.fraction or 0:g} of the {self.top.of} by {self.top.column}"
            return share if self.top.fraction is not None else f"{self.top.column} >= {self.top.threshold}"
        if self.exact_k is not None:
            return f"the {self.exact_k.k:,} largest {self.exact_k.column}"
        if self.dedup is not None:
            order = f", {_short(self.dedup.order)} first" if self.dedup.order else ""
            return f"at most {self.dedup.at_most} per {_short(self.dedup.by)}{order}"
        assert self.sample is not None
        return f"a share of {self.sample.fraction:g} by uid, seed {self.sample.seed}"


class ScoreRef(Record):
    """A scorer whose columns the rule uses, with values for its configuration."""

    scorer: str
    config: dict[str, Any] = Field(default_factory=dict)


def _named(value: Any) -> Any:
    return {"scorer": value} if isinstance(value, str) else value


# a scorer at its defaults may be written as its name alone
ScoreOrName = Annotated[ScoreRef, BeforeValidator(_named, json_schema_input_type=ScoreRef | str)]


class Parameter(Record):
    """A value that the command line fills in."""

    choices: list[str] | None = None
    default: bool | int | float | str | None = None
    required: bool = False
    help: str = ""


class RuleFile(Record):
    """`rule/1`: a rule as people write it."""

    format: Literal["rule/1"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    summary: str = ""
    source: str = Field("", description="where the rule comes from")
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    scores: list[ScoreOrName] = Field(default_factory=list)
    keep: list[Clause]

    @model_validator(mode="after")
    def _ids(self) -> RuleFile:
        ids = [clause.id or clause.text() for clause in self.keep]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f"two clauses are called {name!r}: give each its own id")
        return self

    def reason(self, position: int) -> str:
        """The reason that clause number `position` gives."""
        clause = self.keep[position]
        return clause.id or clause.text()


def load_rule(path: Path, values: Mapping[str, Any] | None = None) -> RuleFile:
    """The rule in `path` (`-` is standard input) with its parameters filled from `values`."""
    if str(path) == "-":
        return _build(
            parse_yaml(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input"),
            dict(values or {}),
            "standard input",
        )
    return _build(load_yaml(path), dict(values or {}), str(path))


def named_rule(name: str, values: Mapping[str, Any]) -> RuleFile:
    """The named filter `name`; an unknown name, parameter or choice offers the nearest."""
    plugin = plugins.find("filters", name)
    return _build(parse_yaml(plugin.path.read_bytes(), name), dict(values), name)


def _build(document: dict[str, Any], values: dict[str, Any], name: str) -> RuleFile:
    values = {key: value for key, value in values.items() if value is not None}
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise UsageError(f"{name}: parameters must be a mapping")
    if "seed" not in parameters:
        values.pop("seed", None)  # a global option: without effect where nothing is random
    for key in values:
        if key not in parameters:
            raise UsageError(
                f"filter {name} takes no --{key}" + (f": {nearest(key, parameters)}" if parameters else "")
            )
    filled: dict[str, Any] = {}
    for key, raw in parameters.items():
        spec = validate(Parameter, raw or {}, f"{name}: parameters.{key}")
        value = values.get(key, spec.default)
        if isinstance(value, dict):
            raise UsageError(f"{_flag(key)} is a mapping, and a parameter is a value or a list of values")
        if spec.choices and value is None:
            raise UsageError(f"filter {name} needs --{key}: one of {', '.join(spec.choices)}")
        if spec.required and value is None:
            raise UsageError(f"filter {name} needs {_flag(key)}: {spec.help}")
        if spec.choices and value not in spec.choices:
            raise UsageError(f"--{key} {value!r}: {nearest(str(value), spec.choices)}")
        if isinstance(value, float) and math.isnan(value):
            raise UsageError(f"--{key} is not a number")
        if key == "fraction" and isinstance(value, int | float) and not 0 < value <= 1:
            raise UsageError(f"--fraction {value}: must be above 0 and at most 1")
        infinite = isinstance(value, float) and math.isinf(value)
        filled[key] = str(value) if infinite else value  # canonical JSON has no infinity
    template = {k: v for k, v in document.items() if k != "parameters"}
    _need_cut(template.get("keep"), filled, name)
    body = _fill(template, filled, name)
    return validate(RuleFile, body, name)


def _need_cut(value: Any, filled: Mapping[str, Any], name: str) -> None:
    """Raises UsageError naming the parameters when none of those that a clause `top` takes its cut from was given."""
    if isinstance(value, list):
        for item in value:
            _need_cut(item, filled, name)
    if not isinstance(value, dict):
        return
    top = value.get("top")
    if isinstance(top, dict):
        given = [str(top[key]) for key in ("fraction", "threshold") if top.get(key) is not None]
        keys = [match.group(1) for text in given if (match := re.fullmatch(r"\$\{(\w+)\}", text))]
        if keys and len(keys) == len(given) and all(filled.get(key, "") is None for key in keys):
            needed = " or ".join(_flag(key) for key in keys)
            also = ": give one of fraction and threshold" if len(keys) > 1 else ""
            raise UsageError(f"filter {name} needs {needed}{also}")
    for key in ("any", "all", "not"):
        _need_cut(value.get(key), filled, name)


def _flag(key: str) -> str:
    """How a parameter is given on the command line."""
    return f"--{key}" if key in ("arch", "fraction", "threshold", "seed") else f"--param {key}=…"


def _fill(value: Any, filled: Mapping[str, Any], name: str) -> Any:
    """`value` with `${key}` replaced; an entry whose whole key or value is a parameter that was not given is left out, and a
    list in the place of a list's item takes its place item by item.
    """
    if isinstance(value, dict):
        items = {_fill(k, filled, name): _fill(v, filled, name) for k, v in value.items()}
        return {k: v for k, v in items.items() if k is not _ABSENT and v is not _ABSENT}
    if isinstance(value, list):
        out: list[Any] = []
        for item in value:
            made = _fill(item, filled, name)
            splice = isinstance(made, list) and isinstance(item, str)
            out.extend(made if splice else [] if made is _ABSENT else [made])
        return out
    if not isinstance(value, str) or "${" not in value:
        return value
    whole = re.fullmatch(r"\$\{(\w+)\}", value)
    if whole:
        found = _lookup(whole.group(1), filled, name)
        return _ABSENT if found is None else found
    return re.sub(r"\$\{(\w+)\}", lambda m: str(_lookup(m.group(1), filled, name)), value)


def _lookup(key: str, filled: Mapping[str, Any], name: str) -> Any:
    if key not in filled:
        raise UsageError(f"{name}: ${{{key}}} is not one of its parameters: {nearest(key, filled)}")
    return filled[key]


_ABSENT = object()


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(v) for v in value[:6]) + (" …" if len(value) > 6 else "")
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
