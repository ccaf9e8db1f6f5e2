"""What a report tells from step records alone: sums, energy, neighbours in the chain, commands, configuration as YAML."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from curate.rules import RuleFile
from headwater.errors import HeadwaterError
from headwater.manifest import Energy, Step
from headwater.steps import RECORD_NAME, read_record

MOST_NEIGHBOURS = 500
MOST_RECORD_BYTES = 8 << 20
MOST_LINKS = 12
MOST_FILES = 40
FEW_ROWS = 100_000  # below this, the fixed cost of a run hides the cost of a row

METHODS = {
    "nvml_counter": "the GPU's own energy counter",
    "nvml_poll": "GPU power, polled",
    "rapl": "the processor's energy counters (RAPL)",
    "psys": "the platform's energy counter",
    "tdp_load": "rated power × load",
    "constant": "a constant power",
    "external_meter": "an outside meter",
    "none": "nothing here can tell",
}


@dataclass(frozen=True)
class Link:
    """One step of the chain."""

    step: str
    name: str
    id: str
    counts: str
    here: bool = False


def joules(value: float | None) -> str:
    """An amount of energy, or that it is not known."""
    if value is None:
        return "not known"
    for limit, scale, unit in ((1e3, 1, "J"), (1e6, 1e3, "kJ"), (1e9, 1e6, "MJ")):
        if abs(value) < limit:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e9:,.3g} GJ"


def seconds(value: float) -> str:
    """A duration."""
    if value < 100:
        return f"{value:.2f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def size(value: int | None) -> str:
    """A number of bytes."""
    if value is None:
        return "not known"
    for limit, scale, unit in ((1e3, 1, "B"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if value < limit:
            return f"{value / scale:.4g} {unit}"
    return f"{value / 1e12:,.4g} TB"


def energy_table(energy: Energy, rows: int, unit: str) -> dict[str, Any]:
    """Per component and in sums; measured and modelled figures are never added together."""

    def per_thousand(value: float | None) -> str:
        return joules(value / rows * 1000) if value is not None and rows else "not known"

    sums = []
    for label, value in (
        ("measured", energy.measured_joules),
        ("modelled or assumed", energy.modelled_joules),
    ):
        sums.append(
            {
                "label": label,
                "joules": joules(value),
                "per_thousand": per_thousand(value),
                "known": value is not None,
            }
        )
    return {
        "components": [
            {
                "device": c.device,
                "joules": joules(c.joules),
                "method": METHODS.get(c.method, c.method),
                "quality": c.quality,
                "share": "whole machine" if c.share == "machine" else "this process",
                "known": c.joules is not None,
            }
            for c in energy.components
        ],
        "sums": sums,
        "unit": unit,
        "wall": seconds(energy.duration_seconds),
        "cpu": seconds(energy.cpu_seconds),
        "memory": size(energy.peak_rss_bytes),
        "cpu_per_million": seconds(energy.cpu_seconds / rows * 1e6) if rows >= FEW_ROWS else None,
        "carbon": None if energy.kg_co2e is None else f"{energy.kg_co2e:.4g} kg CO₂e",
        "provider": energy.provider,
        "started": energy.started_at,
        "finished": energy.finished_at,
    }


def sum_line(step: Step) -> list[dict[str, Any]]:
    """Terms of `read = kept + dropped + invalid`, zero terms left out but for kept."""
    counts = step.identity.counts
    terms = [{"label": "kept", "rows": counts.kept, "class": "kept"}]
    order = [clause["id"] for clause in step.details.get("funnel", [])]

    def place(item: tuple[str, int]) -> tuple[int, str]:
        name = item[0].rpartition(": ")[0] or item[0]
        found = item[0] if item[0] in order else name
        return (order.index(found) if found in order else len(order)), item[0]

    for kind, reasons in (("dropped", counts.dropped), ("invalid", counts.invalid)):
        terms += [
            {"label": name, "rows": n, "class": kind} for name, n in sorted(reasons.items(), key=place) if n
        ]
    return terms


def command_line(step: Step) -> str:
    """The command of the record as a shell takes it."""
    words = [str(word) for word in step.observation.get("command") or []]
    if not words:
        return ""
    if Path(words[0]).name in ("headwater", "cli.py", "__main__.py"):
        words[0] = "headwater"
    return shlex.join(words)


def config_yaml(step: Step) -> str:
    """The rule of a filter, or the configuration of any other step."""
    config = step.identity.config
    document: Any = config
    if step.identity.step == "filter-pool" and isinstance(config.get("rule"), dict):
        try:
            rule = RuleFile.model_validate({"format": "rule/1", **config["rule"]})
            document = rule.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        except ValidationError:
            document = config["rule"]
    return as_yaml(document)


def as_yaml(document: Any) -> str:
    """Readable YAML in the order of the document."""
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=96)) if document else ""


def scorers_of(step: Step) -> str:
    """Scorers with version, settings and digests of their assets, as YAML."""
    return as_yaml(step.identity.config.get("scorers")) if step.identity.step == "filter-pool" else ""


def files_of(step: Step) -> dict[str, Any]:
    """Inputs and outputs with their ids."""
    outputs = step.identity.outputs
    return {
        "inputs": [{"role": ref.role, "id": ref.id} for ref in step.identity.inputs[:MOST_FILES]],
        "more_inputs": max(len(step.identity.inputs) - MOST_FILES, 0),
        "outputs": [
            {
                "path": entry.path,
                "size": size(entry.size_bytes),
                "sha256": entry.sha256,
                "blake3": entry.blake3,
            }
            for entry in outputs[:MOST_FILES]
        ],
        "more_outputs": max(len(outputs) - MOST_FILES, 0),
        "bytes": size(sum(entry.size_bytes for entry in outputs)),
    }


def neighbours(places: Iterable[Path]) -> list[tuple[Path, Step]]:
    """Outputs with a record in these folders and one level below, each once, in order of their paths."""
    files: dict[Path, Path] = {}
    for folder in places:
        if not folder.is_dir():
            continue
        for file in sorted(
            [*folder.glob(f"*.{RECORD_NAME}"), *folder.glob(f"*/{RECORD_NAME}"), folder / RECORD_NAME]
        ):
            output = (
                file.parent
                if file.name == RECORD_NAME
                else file.with_name(file.name.removesuffix(f".{RECORD_NAME}"))
            )
            if not file.name.startswith(".") and not file.parent.name.startswith("."):
                files.setdefault(output.absolute(), output)
    found = []
    for output in list(files.values())[:MOST_NEIGHBOURS]:
        try:
            record = (
                output / RECORD_NAME if output.is_dir() else output.with_name(f"{output.name}.{RECORD_NAME}")
            )
            step = (
                read_record(output)
                if record.is_file() and record.stat().st_size <= MOST_RECORD_BYTES
                else None
            )
        except (HeadwaterError, OSError):
            continue  # a neighbour's broken record is not this page's business
        if step is not None:
            found.append((output, step))
    return found


def ids_of(step: Step) -> set[str]:
    """What other steps may name this one's output by."""
    return {step.id, step.key} | {entry.sha256 for entry in step.identity.outputs}


def chain(path: Path, step: Step, others: list[tuple[Path, Step]], *, pool: Path | None = None) -> list[Link]:
    """The steps this one came from and those that used it, oldest first. `pool` is where the pool lies now, if it is known."""
    before: list[Link] = []
    at, seen = step, {step.id}
    while len(before) < MOST_LINKS:
        inputs = {ref.id for ref in at.identity.inputs}
        parent = next(((o, s) for o, s in others if s.id not in seen and ids_of(s) & inputs), None)
        if parent is None:
            of_pool = next((ref.id for ref in at.identity.inputs if ref.role == "pool"), None)
            place = pool or Path(str(at.observation.get("pool") or "pool"))
            if of_pool is None:
                break
            # a pool's id is not among the digests of the step that made it: its place tells
            parent = next(
                ((o, s) for o, s in others if s.id not in seen and o.absolute() == place.absolute()), None
            )
            if parent is None:
                before.insert(0, Link("pool", place.name, of_pool, ""))
                break
        at = parent[1]
        seen.add(at.id)
        before.insert(0, _link(*parent))
    after: list[Link] = []
    front = ids_of(step)
    for output, record in others:
        if record.id not in seen and front & {ref.id for ref in record.identity.inputs}:
            seen.add(record.id)
            after.append(_link(output, record))
    return [*before, _link(path, step, here=True), *after[:MOST_LINKS]]


def _link(output: Path, record: Step, *, here: bool = False) -> Link:
    counts = record.identity.counts
    told = f"{counts.kept:,} of {counts.read:,} {counts.unit}"
    return Link(record.identity.step, output.name, record.id, told, here)
