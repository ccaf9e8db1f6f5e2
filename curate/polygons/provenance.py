"""Who drew a polygon: a person, a model, or a person upon a model's proposal; one short text in the column `source`.

    person          person:ann          model:sam2@2.1          model:sam2@2.1+person:ann          null: not known

A name is letters, digits and . _ - only, so that the text can be taken apart. Other texts, as other tools write them, are kept and count as such.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from curate.polygons.store import Annotations, set_column
from headwater.errors import UsageError

_NAME = r"[A-Za-z0-9._-]+"
_TEXT = re.compile(
    rf"(?:model:(?P<model>{_NAME})(?:@(?P<version>{_NAME}))?)?(?P<plus>\+)?(?:(?P<person>person)(?::(?P<who>{_NAME}))?)?"
)


@dataclass(frozen=True)
class Provenance:
    """`model` and `version` of what proposed the polygon, `person` whether somebody drew or corrected it, `who` that was."""

    person: bool = False
    who: str | None = None
    model: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        for name in (self.who, self.model, self.version):
            if name is not None and not re.fullmatch(_NAME, name):
                raise UsageError(
                    f"{name!r} is no name of a source", hint="letters, digits, '.', '_' and '-' only"
                )
        if (self.who is not None and not self.person) or (self.version is not None and self.model is None):
            raise UsageError("a source has a person's name without a person, or a version without a model")
        if not self.person and self.model is None:
            raise UsageError("a source is a person, a model, or both")

    @property
    def kind(self) -> str:
        """person, model, or model then person."""
        return " then ".join(["model"] * (self.model is not None) + ["person"] * self.person)

    def __str__(self) -> str:
        model = f"model:{self.model}" + (f"@{self.version}" if self.version else "") if self.model else ""
        person = "person" + (f":{self.who}" if self.who else "") if self.person else ""
        return "+".join(filter(None, (model, person)))


def parse(text: str) -> Provenance | None:
    """What a text of the column `source` says; None for another tool's text."""
    found = _TEXT.fullmatch(text)
    if (
        not found
        or not (found["model"] or found["person"])
        or bool(found["plus"]) != bool(found["model"] and found["person"])
    ):
        return None
    return Provenance(bool(found["person"]), found["who"], found["model"], found["version"])


def with_source(
    annotations: Annotations, source: Provenance, rows: Iterable[int] | None = None
) -> Annotations:
    """A copy that names `source` for these annotation rows; without `rows`, for all that name none yet."""
    texts = annotations.annotations["source"].to_pylist()
    chosen = [row for row, text in enumerate(texts) if text is None] if rows is None else list(rows)
    for row in chosen:
        texts[row] = str(source)
    return annotations.replace(annotations=set_column(annotations.annotations, "source", texts))


def corrected(annotations: Annotations, who: str | None, rows: Iterable[int]) -> Annotations:
    """A copy in which a person has gone over these annotation rows: what a model drew is a model's, then a person's."""
    texts = annotations.annotations["source"].to_pylist()
    for row in rows:
        before = parse(texts[row]) if texts[row] is not None else None
        texts[row] = str(Provenance(True, who, *((before.model, before.version) if before else ())))
    return annotations.replace(annotations=set_column(annotations.annotations, "source", texts))


def count_kinds(annotations: Annotations) -> dict[str, int]:
    """Annotations by kind of source: person, model, model then person, other, not known."""
    kinds: Counter[str] = Counter()
    for text in annotations.annotations["source"].to_pylist():
        found = parse(text) if text is not None else None
        kinds[found.kind if found else "not known" if text is None else "other"] += 1
    return dict(kinds)
