"""What `headwater train` costs over plain open_clip: the same list of arguments, the same shards, CPU seconds.

Run: python tests/bench/train_overhead.py [--quick] [--only nano,heavy] [--pairs N] [--samples SMALL,LARGE] [--keep FOLDER] [--out FOLDER]
Two contestants take turns, each with a small and a large budget: our training process (train/_engine.py), and one with open_clip's
own `main` on the same arguments, both of train_sides.py. Between two budgets start-up, checkpoints and exit cancel: the slope is
what a sample costs. The whole command `headwater train`, with the check of the shards before and the account after, is told beside
them. Both sides have one thread, one loader process, the same environment and packages, and are seen to have taken the same
optimizer steps before anything is timed; each tells apart what it spent itself (the loop) and what its loader spent.
Beside other work these figures scatter by more than the target. What differs between the sides is therefore also measured alone,
without a model: our hooks around a step, and one loader against the other; their sum over the cost of a plain sample is the third
figure that is judged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine, tell
from measure import Contestant, become_reaper, compete, run
from report import table
from train_agreement import make_shards

HERE = Path(__file__).resolve().parent
TARGET = 0.02
PARTS = 2
SIDES = ("ours", "plain")
ALONE = (
    2_560,
    4_096,
)  # webdataset's shuffle reads two samples for each that it gives until 5,000 lie in its buffer


@dataclass(frozen=True)
class Variant:
    """A recipe near clip-nano: other towers, and the two budgets (samples) that the slope lies between."""

    towers: Mapping[str, Any]
    batch: int
    samples: tuple[int, int]
    quick: tuple[int, int]


VARIANTS = {
    "nano": Variant({}, 128, (2_560, 12_800), (512, 1_024)),
    "heavy": Variant(
        {"layers": 6, "width": 256, "head_width": 64, "patch_size": 8}, 128, (512, 2_048), (256, 512)
    ),
}


def recipe_of(variant: Variant, samples: int) -> str:
    """The text of the recipe file. One stream of samples: open_clip's loader then has one process too."""
    from train.recipe import Recipe, load_recipe, recipe_text

    found: dict[str, Any] = load_recipe("clip-nano").model_dump(mode="json")
    found["name"], found["summary"] = "bench", "made by the bench"
    found["model"]["open_clip_config"]["vision_cfg"].update(variant.towers)
    found["budget"].update({"samples_seen": samples, "checkpoints": PARTS, "global_batch": variant.batch})
    found["sampling"]["streams"] = 1
    return recipe_text(Recipe.model_validate(found))


@dataclass
class Contest:
    """One variant: what is run, and what each run was seen to spend."""

    name: str
    variant: Variant
    shards: Path
    work: Path
    samples: tuple[int, int]
    alone: tuple[int, int]  # samples of a loader without a model, and those before
    spent: dict[str, dict[int, list[dict[str, float]]]] = field(default_factory=dict)

    def prepare(self) -> None:
        for samples in self.samples:
            file = self.work / f"recipe-{samples}.yaml"
            file.write_text(recipe_of(self.variant, samples))
            folder = str(self.work / str(samples))
            self._side("prepare", str(file), str(self.shards), folder, str(self.work / "cache"))

    def same(self) -> list[int]:
        """Both sides take the same steps; [parts, steps] of the small budget."""
        found = {}
        for who in SIDES:
            self.cpu(who, self.samples[0])
            found[who] = self._side("steps", str(self.work / "out"))[0]
        self.spent.clear()
        steps = self.samples[0] // self.variant.batch
        if any(one != {"parts": PARTS, "steps": [steps]} for one in found.values()):
            raise SystemExit(f"bench: {self.name}: {steps} steps in {PARTS} parts were asked for: {found}")
        return [PARTS, steps]

    def cpu(self, who: str, samples: int) -> float:
        """A contestant: CPU seconds of the whole process tree."""
        out = self._fresh()
        shutil.copytree(self.work / str(samples), out)
        spent, seconds = self._side(who, str(out))
        self.spent.setdefault(who, {}).setdefault(samples, []).append(spent)
        return seconds

    def command(self) -> float:
        """CPU seconds of `headwater train` with the large budget."""
        out, recipe = self._fresh(), str(self.work / f"recipe-{self.samples[1]}.yaml")
        words = ["train", "--recipe", recipe, "--data", str(self.shards), "-o", str(out), "--seed", "0"]
        words += ["--device", "cpu", "--threads", "1", "--workers", "1", "--quiet"]
        program = str(Path(sys.executable).parent / "headwater")
        return run([program, *words, "--cache", str(self.work / "cache")], self._environment()).cpu_seconds

    def loader(self, who: str) -> float:
        """CPU seconds a sample of a loader alone."""
        folder = str(self.work / str(self.samples[0]))
        return float(self._side("loader", who, folder, *map(str, self.alone))[0]["seconds_a_sample"])

    def watching(self) -> float:
        """CPU seconds a step of our hooks alone."""
        steps = max(self.samples[1] // self.variant.batch, 100)
        return float(self._side("watching", str(self.variant.batch), str(steps))[0]["seconds_a_step"])

    def slope(self, who: str, part: str) -> float:
        """Seconds a sample of one part of a side, between the medians."""
        small, large = (
            statistics.median(one[part] for one in self.spent[who][samples]) for samples in self.samples
        )
        return (large - small) / (self.samples[1] - self.samples[0])

    def _fresh(self) -> Path:
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        return out

    def _side(self, *words: str) -> tuple[dict[str, Any], float]:
        """What a process of train_sides.py says at its end, and its CPU seconds."""
        usage = run([sys.executable, str(HERE / "train_sides.py"), *words], self._environment())
        found: dict[str, Any] = json.loads(usage.output.splitlines()[-1])
        return found, usage.cpu_seconds

    def _environment(self) -> dict[str, str]:
        from train._child import _environment
        from train.arguments import Placement

        return _environment(Placement("cpu", 1, self.variant.batch, 1, 1))


def measure_variant(contest: Contest, pairs: int) -> dict[str, Any]:
    """All figures of one variant; the document of it."""
    steps = contest.same()
    contestants: dict[str, Contestant] = {who: partial(contest.cpu, who) for who in SIDES}
    series = compete(contestants, contest.samples, pairs)
    ours, plain = series["ours"], series["plain"]
    alone: dict[str, list[float]] = {"ours": [], "plain": [], "watching": []}
    for pair in range(pairs):
        for who in SIDES if pair % 2 else SIDES[::-1]:
            alone[who].append(contest.loader(who))
        alone["watching"].append(contest.watching() / contest.variant.batch)
    mine, theirs, watching = (statistics.median(alone[who]) for who in ("ours", "plain", "watching"))
    parts = {who: {part: contest.slope(who, part) for part in ("loop", "loader")} for who in SIDES}
    return {
        "variant": contest.name,
        "samples": contest.samples,
        "batch": contest.variant.batch,
        "parts_and_steps": steps,
        "target": TARGET,
        "slope_overhead": ours.slope / plain.slope - 1,
        "process_overhead": statistics.median(ours.large) / statistics.median(plain.large) - 1,
        "process_overheads": [one / two - 1 for one, two in zip(ours.large, plain.large, strict=True)],
        "alone_overhead": (watching + mine - theirs) / plain.slope,
        "alone_seconds_a_sample": alone,
        # some seconds at its start and end more, told and not judged: fewer runs do
        "command_cpu_seconds": [contest.command() for _ in range(max(pairs // 2, 1))],
        "seconds_a_sample": parts,
        "loader_share": {who: one["loader"] / sum(one.values()) for who, one in parts.items()},
        "series": {who: one.document() for who, one in series.items()},
        "spent": contest.spent,
    }


def rows_of(found: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the table: what, ours, plain, ours over plain, the same of each pair, target, verdict."""
    name, large, target = found["variant"], found["samples"][1], found["target"]
    series, parts, alone = found["series"], found["seconds_a_sample"], found["alone_seconds_a_sample"]
    slopes = {who: series[who]["nanoseconds_per_row_of_medians"] / 1e9 for who in SIDES}
    whole = {who: statistics.median(series[who]["cpu_seconds_large"]) for who in SIDES}
    middle = {who: statistics.median(values) for who, values in alone.items()}
    command = statistics.median(found["command_cpu_seconds"])
    each = found["process_overheads"]

    def line(
        what: str, one: str, two: str, over: float | None, judged: bool = False, pairs: str = ""
    ) -> None:
        verdict = "PASS" if judged and over is not None and over <= target else "FAIL"
        end = [f"<= {target:.0%}", verdict] if judged else ["", ""]
        shown = "" if over is None else f"{over:+.1%}" if abs(over) >= 0.001 else f"{over:+.2%}"
        rows.append([f"{name}: {what}", one, two, shown, pairs, *end])

    def both(what: str, of: Mapping[str, float], judged: bool = False) -> None:
        shown = [f"{of[who] * 1e3:.3f} ms" for who in SIDES]
        line(what, *shown, of["ours"] / of["plain"] - 1, judged)

    rows: list[list[str]] = []
    both("a sample", slopes, judged=True)
    for part in ("loop", "loader"):
        both(f"of that the {part}", {who: parts[who][part] for who in SIDES})
    line("the loader's share", *(f"{found['loader_share'][who]:.1%}" for who in SIDES), None)
    pairs = f"{min(each):+.1%} to {max(each):+.1%}"
    seconds = [f"{whole[who]:.2f} s" for who in SIDES]
    line(f"training process, {large:,} samples", *seconds, found["process_overhead"], True, pairs)
    both("the loader alone, a sample", middle)
    hooks = middle["watching"]
    line("our hooks alone, a sample", f"{hooks * 1e3:.4f} ms", "", hooks / slopes["plain"])
    line("hooks and loaders alone, over a plain sample", "", "", found["alone_overhead"], True)
    line(f"whole command, {large:,} samples", f"{command:.2f} s", seconds[1], command / whole["plain"] - 1)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny budgets and one pair: checks the bench")
    parser.add_argument("--only", default=",".join(VARIANTS), help=f"some of {', '.join(VARIANTS)}")
    parser.add_argument("--pairs", type=int, help="pairs of runs (default 5; quick 1)")
    parser.add_argument("--samples", metavar="SMALL,LARGE", help="other budgets, in samples")
    parser.add_argument("--keep", type=Path, default=HERE.parents[1] / ".bench" / "train")
    parser.add_argument("--out", type=Path, help="where overhead.json and overhead.md go (default: the same)")
    options = parser.parse_args()
    names = options.only.split(",")
    for name in names:
        if name not in VARIANTS:
            parser.error(f"no variant {name!r}: {', '.join(VARIANTS)}")
    keep = options.keep.resolve()
    out, pairs = options.out or keep, options.pairs or (1 if options.quick else 5)
    tell("overhead: shards")
    shards = make_shards(keep)
    become_reaper()
    start = machine()
    found = []
    for name in names:
        variant = VARIANTS[name]
        work = keep / f"overhead-{os.getpid()}"
        work.mkdir(parents=True)
        try:
            tell(f"overhead: {name}, {pairs} pairs")
            sizes = variant.quick if options.quick else variant.samples
            sizes = tuple(map(int, options.samples.split(","))) if options.samples else sizes
            alone = (256, 256) if options.quick else ALONE
            contest = Contest(name, variant, shards, work, sizes, alone)
            contest.prepare()
            found.append(measure_variant(contest, pairs))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        told = ["# Overhead over plain open_clip, CPU seconds\n"]
        told += [f"- {key}: {value}" for key, value in start.items()]
        told += [f"- load at end: {machine()['load at start']}", f"- pairs: {pairs}", ""]
        head = "what|ours|plain|over plain|pairs|target|"
        told += table(head, [line for one in found for line in rows_of(one)])
        out.mkdir(parents=True, exist_ok=True)
        document = {"format": "overhead/1", "machine": start, "pairs": pairs, "variants": found}
        (out / "overhead.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (out / "overhead.md").write_text("\n".join(told) + "\n", encoding="utf-8")
    tell("done\n\n")
    sys.stdout.write("\n".join(told) + "\n")


if __name__ == "__main__":
    main()
