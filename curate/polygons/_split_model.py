"""Split files: which image goes into which split, as data.

    format: split/1
    name: by-year
    splits: [train, vali, test]
    groups_by: [group]                 # images of one group go together
    rules:                             # the first rule whose condition holds decides
      - {to: test, when: {has: contributor}}
      - {to: vali, when: {all: [{time: {years: [2024]}}, {ordinal_day: {divisor: 3}}]}}
      - {share: {of: {train: 0.9, vali: 0.1}, salt: a}}
    rest: null                         # images that no rule takes: a split, or left out

A condition has exactly one key: time, ordinal_day, in, has, group, ids, annotated, any, all, not. Keys are columns of the images table,
keys of `extra` (`a.b` reaches into objects), and `folder`, the folder part of the file name.
"""

from __future__ import annotations

from datetime import date, datetime
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from headwater.errors import nearest
from headwater.manifest import Record

Key = Annotated[str, Field(min_length=1, max_length=200)]
SplitName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=80)]


def _when(value: Any) -> Any:
    """YAML gives dates and times as such; text is ISO 8601."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is no ISO 8601 date or time") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 (local time, as cameras write it)
    if isinstance(value, datetime) and value.tzinfo is not None:
        raise ValueError("write the local time of the camera, without an offset")
    return value


When = Annotated[datetime, BeforeValidator(_when, json_schema_input_type=str)]


class Time(Record):
    """The local time as the image says it (its offset is not looked at): from `from` on, before `before`, in one of `years`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    from_: When | None = Field(None, alias="from")
    before: When | None = None
    years: list[Annotated[int, Field(ge=1, le=9999)]] | None = None

    @model_validator(mode="after")
    def _some(self) -> Time:
        if self.from_ is None and self.before is None and self.years is None:
            raise ValueError("give from, before or years")
        if self.from_ is not None and self.before is not None and self.from_ >= self.before:
            raise ValueError("no time lies between from and before")
        return self


class OrdinalDay(Record):
    """The local day, as a number in the proleptic Gregorian calendar (0001-01-01 is 1), leaves one of `remainders` when divided."""

    divisor: Annotated[int, Field(ge=1, le=1_000_000)]
    remainders: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]

    @model_validator(mode="after")
    def _below(self) -> OrdinalDay:
        if max(self.remainders) >= self.divisor:
            raise ValueError(f"a remainder is below the divisor {self.divisor}")
        return self


class In(Record):
    """The column is one of `values`; text and numbers are not equal."""

    column: Key
    values: Annotated[list[str | int | float | bool], Field(min_length=1)]


class Group(Record):
    """The image is in a group, of at least so many images, with one of `values` under a key of `groups_by`."""

    values: list[str | int | float] | None = None
    least_images: Annotated[int, Field(ge=1)] = 1


class Ids(Record):
    """Listed images. A group is taken when one of its images is listed."""

    ids: list[int] = Field(default_factory=list)
    file_names: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _some(self) -> Ids:
        if not self.ids and not self.file_names:
            raise ValueError("give ids or file_names")
        return self


class Condition(Record):
    """What has to hold; exactly one key. For a group, its first image (by time, then file name) is looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    time: Time | None = None
    ordinal_day: OrdinalDay | None = None
    in_: In | None = Field(None, alias="in")
    has: Key | None = Field(None, description="a column that is not empty")
    group: Group | None = None
    ids: Ids | None = None
    annotated: bool | None = Field(None, description="whether the image has annotations")
    any_: Annotated[list[Condition], Field(min_length=1)] | None = Field(None, alias="any")
    all_: Annotated[list[Condition], Field(min_length=1)] | None = Field(None, alias="all")
    not_: Condition | None = Field(None, alias="not")

    @model_validator(mode="after")
    def _one(self) -> Condition:
        names = ("time", "ordinal_day", "in_", "has", "group", "ids", "annotated", "any_", "all_", "not_")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "a condition has exactly one of time, ordinal_day, in, has, group, ids, annotated, any, all, not;"
                f" this has {len(given)}"
            )
        return self

    @property
    def children(self) -> list[Condition]:
        """Conditions inside this one."""
        return (self.any_ or []) + (self.all_ or []) + ([self.not_] if self.not_ else [])

    def keys(self) -> set[str]:
        """Keys that it reads, those of times not included."""
        own = {self.in_.column} if self.in_ else {self.has} if self.has else set()
        return own.union(*(child.keys() for child in self.children))


class Share(Record):
    """By a hash of a key and `salt`: each of the splits gets about its share of the groups; what is left goes on to the next rule."""

    of: Annotated[dict[SplitName, Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    key: Key | None = Field(None, description="default: the name of the group, else the file name")
    salt: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Share:
        if sum(self.bounds()[-1:]) > 1:
            raise ValueError("the shares add up to more than 1")
        return self

    def bounds(self) -> list[Fraction]:
        """Upper ends of the shares within 0 to 1, exact in the decimals as written."""
        total, found = Fraction(0), []
        for share in self.of.values():
            total += Fraction(repr(share))
            found.append(total)
        return found


class Rule(Record):
    """One rule: exactly one of `to`, `share` and `leave_out`; without `when` it holds for every image."""

    id: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    when: Condition | None = None
    to: SplitName | None = None
    share: Share | None = None
    leave_out: Annotated[str, Field(min_length=1, max_length=80)] | None = Field(
        None, description="the reason"
    )

    @model_validator(mode="after")
    def _one(self) -> Rule:
        given = [value for value in (self.to, self.share, self.leave_out) if value is not None]
        if len(given) != 1:
            raise ValueError(f"a rule has exactly one of to, share, leave_out; this has {len(given)}")
        return self

    @property
    def targets(self) -> list[str]:
        """The splits that it fills."""
        return list(self.share.of) if self.share else [self.to] if self.to else []


class SplitFile(Record):
    """`split/1`: named splits and the ordered rules that fill them."""

    format: Literal["split/1"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    summary: str = ""
    source: str = Field("", description="where the rules come from")
    splits: Annotated[list[SplitName], Field(min_length=1)]
    groups_by: Annotated[list[Key], Field(max_length=16)] = Field(
        default_factory=list,
        description="images that share a value of one of these keys go together, also over several steps",
    )
    time_key: Key = Field("datetime", description="where the time of an image stands")
    optional: list[Key] = Field(default_factory=list, description="keys that no image needs to have")
    rules: list[Rule]
    rest: SplitName | None = None

    @model_validator(mode="after")
    def _names(self) -> SplitFile:
        for name in self.splits:
            if self.splits.count(name) > 1:
                raise ValueError(f"split {name!r} is named twice")
        targets = [name for rule in self.rules for name in rule.targets]
        for name in [*targets, *([self.rest] if self.rest else [])]:
            if name not in self.splits:
                raise ValueError(f"there is no split {name!r}: {nearest(name, self.splits)}")
        for number, key in enumerate(self.groups_by):
            if key in self.groups_by[:number]:
                raise ValueError(f"groups_by names {key!r} twice")
        return self

    def keys(self) -> set[str]:
        """Every key that images must have, at least one of them."""
        found = set(self.groups_by)
        for rule in self.rules:
            found |= rule.when.keys() if rule.when else set()
            found |= {rule.share.key} if rule.share and rule.share.key else set()
        return found - set(self.optional)

    def label(self, position: int) -> str:
        """What rule number `position` (from 0) is called in messages."""
        return self.rules[position].id or f"rule {position + 1}"
