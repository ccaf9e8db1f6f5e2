"""The page of a run: `build_run_report(RunFacts)` gives one self-contained HTML file, with drawings inside and no scripts.

It shows which recipe, data and seed; the loss against its chance level; the ledger; attempts; energy; the whole recipe. The page loads
nothing and forbids that by its own policy; text from data and records is escaped, cut, and shown with control and direction marks
made visible. Measured and modelled energy are never added. The same facts give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from headwater.pages import visible
from train._curve import bar, loss_curve
from train._run_facts import (
    AttemptFacts,
    ComponentFacts,
    EnergyFacts,
    PartFacts,
    RunFacts,
    SkippedFacts,
    ledger_facts,
)

__all__ = [
    "AttemptFacts",
    "ComponentFacts",
    "EnergyFacts",
    "PartFacts",
    "RunFacts",
    "SkippedFacts",
    "build_run_report",
    "ledger_facts",
]

MARK = b"<!doctype html>\n<!-- headwater run-report/1 -->"
MOST_TEXT = 200  # characters of a key, a name or a value on the page
MOST_EXAMPLES = 3  # of each reason for skipping
MOST_ROWS = 200  # of a table of parts, attempts or settings
UNKNOWN = "not known"

REASONS = {
    "no_image": "no picture",
    "no_caption": "no caption",
    "empty_caption": "empty caption",
    "undecodable": "picture cannot be decoded",
    "too_large": "too large",
    "damaged_tar": "tar is damaged",
    "other": "other",
}
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


def build_run_report(facts: RunFacts) -> bytes:
    """The page about one run, as UTF-8."""
    short_id = facts.recipe_id[:8]
    # what finished lost nothing
    attempts = [replace(a, samples_lost=0) if a.ended == "finished" else a for a in facts.attempts]
    if facts.loss_kind == "sigmoid":
        chance = f"chance {facts.global_batch:,}·H(1/{facts.global_batch:,}) = {facts.chance_loss:.3f}"
    else:
        chance = f"chance ln({facts.global_batch:,}) = {facts.chance_loss:.3f}"
    drawn = (facts.curve_samples, facts.curve_loss, facts.curve_lr)
    told: dict[str, Any] = {
        "chance": facts.chance_loss,
        "chance_text": chance,
        "checkpoints": facts.checkpoints,
    }
    rates = [rate for rate in facts.curve_lr if math.isfinite(rate)]
    return render(
        {
            "facts": facts,
            "title": f"Run {cut(facts.recipe_name, 60)} {short_id}, seed {facts.seed}",
            "tiles": _tiles(facts),
            "warnings": _warnings(facts),
            "overrides": [
                (cut(key), value_text(value)) for key, value in list(facts.overrides.items())[:MOST_ROWS]
            ],
            "wide": loss_curve(*drawn, **told),
            "narrow": loss_curve(*drawn, **told, width=380, height=270),
            "peak_rate": f"{max(rates):.3g}" if rates and max(rates) > 0 else "",
            "repeats": _repeats(facts),
            "skipped": _skipped(facts),
            "skips": sum(facts.skipped.values()),
            "parts": facts.parts[:MOST_ROWS],
            "attempts": attempts[:MOST_ROWS],
            "lost": _lost(attempts),
            "energy": _energy(facts),
            "recipe": recipe_cards(facts.recipe),
            "environment": [
                (cut(key), cut(str(value))) for key, value in sorted(facts.environment.items())[:MOST_ROWS]
            ],
        }
    )


def _tiles(facts: RunFacts) -> list[tuple[str, str]]:
    final = "not finite" if facts.final_loss is None else f"{facts.final_loss:.3f}"
    epochs = f"{facts.samples_seen / facts.readable_samples:.3g}" if facts.readable_samples else "–"
    rate = UNKNOWN if facts.samples_per_second is None else f"{facts.samples_per_second:,.4g}"
    return [
        (f"{facts.samples_seen:,}", "samples seen"),
        (f"{facts.unique_samples:,}", f"different, of {facts.readable_samples:,}"),
        (epochs, "times through the data"),
        (final, f"loss at the end; chance {facts.chance_loss:.3f}"),
        (rate, "samples per second"),
        (percent(facts.wait_share), "waited for the loader"),
    ]


def _warnings(facts: RunFacts) -> list[str]:
    found = {
        "diverged": "Diverged: the loss of the last tenth of the steps is not finite. The weights are of no use.",
        "at chance": "At chance: the loss at the end is within 1 % of what a model that learnt nothing has.",
        "worse than chance": "Worse than chance: the loss at the end is above what a model that learnt nothing has.",
    }.get(facts.verdict)
    out = [found] if found else []
    if facts.non_finite_steps and facts.verdict != "diverged":
        out.append(f"{facts.non_finite_steps:,} steps had a loss that is not finite; the run got over them.")
    if facts.samples_budget is not None and facts.samples_seen != facts.samples_budget:
        out.append(f"The budget is {facts.samples_budget:,} samples; {facts.samples_seen:,} were seen.")
    return out + [cut(note) for note in facts.notes]


def _repeats(facts: RunFacts) -> list[dict[str, Any]]:
    most = max((count for _, count in facts.repeats), default=0) or 1
    return [
        {
            "label": label,
            "count": count,
            "share": percent(count / facts.readable_samples if facts.readable_samples else None),
            "bar": bar(
                count / most, "rest" if label == "0" else "kept", f"seen {label} times: {count:,} samples"
            ),
        }
        for label, count in facts.repeats
    ]


def _skipped(facts: RunFacts) -> list[dict[str, Any]]:
    drawn = facts.samples_seen + sum(facts.skipped.values())
    rows = []
    for reason, count in facts.skipped.items():
        if not count:
            continue
        some = [e for e in facts.skipped_examples if e.reason == reason][:MOST_EXAMPLES]
        rows.append(
            {
                "reason": REASONS.get(reason, reason),
                "count": count,
                "share": percent(count / drawn),
                "examples": [
                    {
                        "key": cut(e.key) if e.key is not None else "",
                        "place": cut(e.shard) + ("" if e.sample is None else f", sample {e.sample:,}"),
                    }
                    for e in some
                ],
            }
        )
    return rows


def _lost(attempts: Sequence[AttemptFacts]) -> str:
    if len(attempts) < 2:
        return ""
    lost = [attempt.samples_lost for attempt in attempts]
    known = sum(value for value in lost if value is not None)
    unknown = sum(value is None for value in lost)
    more = f" (of {unknown:,} of the attempts it is not known)" if unknown else ""
    return (
        f"Resumed {len(attempts) - 1:,} time{'s' * (len(attempts) > 2)}. {known:,} samples had been seen after a last checkpoint "
        f"and were lost{more}; they are not in the counts above."
    )


def _energy(facts: RunFacts) -> dict[str, Any] | None:
    energy = facts.energy
    if energy is None:
        return None
    seen = facts.samples_seen
    sums = [("measured", energy.measured_joules), ("modelled or assumed", energy.modelled_joules)]
    return {
        "components": [
            {
                "device": cut(c.device),
                "joules": joules(c.joules),
                "quality": cut(c.quality) if c.joules is not None else "",
                "method": METHODS.get(c.method, cut(c.method)),
                "share": "whole machine" if c.share == "machine" else "this process",
            }
            for c in energy.components[:MOST_ROWS]
        ],
        "sums": [
            {
                "label": label,
                "joules": joules(value),
                "known": value is not None,
                "kwh": "" if value is None else f"{value / 3.6e6:.3g} kWh",
                "per_thousand": joules(value / seen * 1000 if value is not None and seen else None),
            }
            for label, value in sums
        ],
        "time": seconds(energy.duration_seconds),
        "cpu": seconds(energy.cpu_seconds),
        "memory": UNKNOWN if energy.peak_rss_bytes is None else f"{energy.peak_rss_bytes / 1e9:.3g} GB",
        "carbon": UNKNOWN if energy.kg_co2e is None else f"{energy.kg_co2e:.3g} kg CO₂e",
        "carbon_text": cut(energy.carbon),
        "provider": cut(energy.provider),
    }


def recipe_cards(recipe: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The recipe as small tables, one per section; nested settings with dotted names."""
    plain = [
        (cut(str(key)), value_text(value)) for key, value in recipe.items() if not isinstance(value, Mapping)
    ]
    cards = [("recipe", plain[:MOST_ROWS])] if plain else []
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            cards.append((cut(str(key)), _flat(value, "")[:MOST_ROWS]))
    return cards


def _flat(value: Mapping[str, Any], prefix: str, depth: int = 0) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item and depth < 8:
            rows += _flat(item, f"{name}.", depth + 1)
        else:
            rows.append((cut(name), value_text(item)))
    return rows


def value_text(value: Any) -> str:
    """A setting as JSON writes it; text without quotes; nothing as –."""
    if value is None:
        return "–"
    return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def cut(text: str, most: int = MOST_TEXT) -> str:
    """At most `most` characters of `text`, and how many there are."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def percent(share: float | None) -> str:
    """A share of one, or that it is not known."""
    if share is None:
        return UNKNOWN
    return "< 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def joules(value: float | None) -> str:
    """An amount of energy, or that it is not known."""
    if value is None:
        return UNKNOWN
    for limit, scale, unit in ((1e3, 1.0, "J"), (1e6, 1e3, "kJ"), (1e9, 1e6, "MJ")):
        if abs(value) < limit:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e9:,.3g} GJ"


def seconds(value: float | None) -> str:
    """A duration, or that it is not known."""
    if value is None:
        return UNKNOWN
    if value < 100:
        return f"{value:.2f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def render(page: dict[str, Any]) -> bytes:
    """The page as bytes."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
        keep_trailing_newline=True,
    )
    environment.filters.update(n=lambda value: f"{value:,}", percent=percent, seconds=seconds, cut=cut)
    text = environment.get_template("run.html.j2").render(page)
    return text.encode("utf-8", "backslashreplace")
