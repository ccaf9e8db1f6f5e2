"""JSON Schema 2020-12 of every file format we write, generated from its model.

`schemas/` holds these texts; a test generates them again and compares. A format is added by one row of MODELS.
"""

from __future__ import annotations

import importlib
import json
from typing import get_args

from pydantic import BaseModel

from headwater.errors import UsageError, nearest

DIALECT = (
    "https://json-schema.org/draft/2020-12/schema"  # the name of the dialect; nothing is read from there
)

# name -> module:class, imported when it is asked for
MODELS: dict[str, str] = {
    "comparison": "train._comparison_record:Comparison",
    "counts": "headwater.manifest:Counts",
    "energy": "headwater.manifest:Energy",
    "fetch": "distribute.fetching.record:FetchLedger",
    "generation": "curate.generation:Generation",
    "last-seen": "distribute.trust:SeenPointers",
    "leaderboard": "train.leaderboard:Leaderboard",
    "leftovers": "headwater.release:Leftovers",
    "locations": "headwater.release:Locations",
    "manifest": "headwater.manifest:Manifest",
    "partial": "headwater.release:Partial",
    "pointer": "headwater.release:Pointer",
    "recipe": "train.recipe:Recipe",
    "release": "headwater.release:Release",
    "result": "train.results:Results",
    "rule": "curate.rules:RuleFile",
    "run": "train.runs:Run",
    "scorer": "curate.scorer_training:ScorerCard",
    "split": "curate.polygons.splits:SplitFile",
    "step": "headwater.manifest:Step",
    "suite": "train.suite:SuiteFile",
    "votes": "curate._votes:VotesFile",
}


def names() -> list[str]:
    """Names of all formats, sorted."""
    return sorted(MODELS)


def model(name: str) -> type[BaseModel]:
    """The model of one format; an unknown name offers the nearest."""
    if name not in MODELS:
        raise UsageError(f"there is no schema {name!r}: {nearest(name, MODELS)}")
    module, _, attribute = MODELS[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, type) and issubclass(found, BaseModel), MODELS[name]
    return found


def identifier(name: str) -> str:
    """`$id` of a format: `headwater:NAME/VERSION`, the version being the one in its `format` key (else 1)."""
    field = model(name).model_fields.get("format")
    version = get_args(field.annotation)[0].rpartition("/")[2] if field is not None else "1"
    return f"headwater:{name}/{version}"


def schema_text(name: str) -> str:
    """The schema of one format as JSON text with sorted keys."""
    document = {"$schema": DIALECT, "$id": identifier(name), **model(name).model_json_schema()}
    return json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
