"""Our figures beside clip-benchmark's on the same model and the same sets: equal to four digits, or exit code 1.

Run: python tests/bench/train_agreement.py [--quick] [--run RUN] [--recipe NAME] [--keep FOLDER] [--out FOLDER] [--peers PYTHON]
The model is a run of ours, trained here on examples/openclipart unless --run names one; the sets are those of examples/suites/small.
clip-benchmark runs in an environment of its own (train_requirements.lock) and reads both as anybody would: `local-dir:RUN`, `wds/…`,
with --no_amp, since on a CPU it would otherwise compute in bfloat16. Retrieval is compared by our `*_by_index` figures, which take
only the caption that came with a picture, as it does.
Its linear probe demands a GPU. Here its command runs with a shim around that function (`shim` below): "cuda" is read as "cpu", and
the shuffle of the rows that precedes its training is left out, since it depends on all random numbers drawn before. The probe with
that shuffle is told beside it, for several seeds; it is not judged.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
POOL = ROOT / "examples" / "openclipart" / "pool"
SUITE = ROOT / "examples" / "suites" / "small"
DIGITS = 4
SHUFFLES = (0, 1, 2)  # seeds of its own probe
NAMES = {  # family -> our name of a figure: its name
    "zeroshot": {name: name for name in ("acc1", "acc5", "mean_per_class_recall")},
    "retrieval": {
        f"{way}_retrieval_recall@{k}_by_index": f"{way}_retrieval_recall@{k}"
        for way in ("image", "text")
        for k in (1, 5, 10)
    },
    "probe": {name: f"lp_{name}" for name in ("acc1", "acc5", "mean_per_class_recall")},
}
TASKS = {"zeroshot": "zeroshot_classification", "retrieval": "zeroshot_retrieval", "probe": "linear_probe"}
QUICK = {"clipart/folders", "clipart/titles", "clipart/folders-probe"}
QUICK_SAMPLES = 1_280


def environment(threads: int = 1) -> dict[str, str]:
    """One thread, no network, nothing of the surroundings that either side would read."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSTARTUP")}
    named = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    return {**kept, **named, "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}


def do(command: Sequence[str], *, cwd: Path = ROOT) -> str:
    """Run to the end; a failure ends the comparison with its last words."""
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr[-2000:]
        raise SystemExit(f"{' '.join(command[:6])} …\nended with {done.returncode}:\n{words}")
    return done.stdout


def ours(*words: str) -> list[str]:
    return [str(Path(sys.executable).parent / "headwater"), *words, "--quiet"]


def make_shards(keep: Path) -> Path:
    """Every picture of the shipped pool as training shards; made once."""
    shards = keep / "shards"
    if not (shards / "step.json").is_file():
        keep.mkdir(parents=True, exist_ok=True)
        pool, everything = str(keep / "pool"), str(keep / "everything.npy")
        do(ours("pool", "import", str(POOL), "-o", pool, "--allow-invalid", "--force"))
        do(ours("filter-pool", pool, "-o", everything, "--name", "no_filter", "--force"))
        words = ["--shard-size", "500", "--cache", str(keep / "cache"), "--force"]
        do(ours("reshard", str(POOL), "-s", everything, "-o", str(shards), *words))
    return shards


def train(keep: Path, recipe: str, *, quick: bool) -> Path:
    """A run to compare with; one that is there is used again."""
    run = keep / f"run-{recipe}{'-quick' if quick else ''}"
    words = ["--override", f"budget.samples_seen={QUICK_SAMPLES}"] if quick else []
    data = str(make_shards(keep))
    do(
        ours(
            *("train", "--recipe", recipe, "--data", data, "-o", str(run)),
            *("--seed", "0", "--threads", "1", "--device", "cpu", *words),
        )
    )
    return run


@dataclass(frozen=True)
class Task:
    """One set and what is measured on it."""

    key: str
    folder: str
    family: str

    def document(self) -> dict[str, Any]:
        options = {"protocol": "clip_benchmark"} if self.family == "probe" else {}
        name = next(iter(NAMES[self.family]))
        common = {"key": self.key, "folder": self.folder, "name": self.key, "family": self.family}
        return {**common, "main_metric": name, "options": options}


def tasks(*, quick: bool) -> list[Task]:
    """What both programs can measure of the shipped suite."""
    from train.suite import load_suite

    found = [Task(t.key, t.folder, t.family) for t in load_suite(SUITE).tasks if t.family in NAMES]
    return [task for task in found if task.key in QUICK] if quick else found


def our_figures(chosen: Sequence[Task], run: Path, work: Path) -> dict[str, dict[str, Any]]:
    """What `headwater eval` says, by task."""
    suite, results = work / "suite.yaml", work / "ours"
    document = {"format": "suite/1", "name": "agreement", "tasks": [task.document() for task in chosen]}
    suite.write_text(json.dumps(document), encoding="utf-8")
    words = ["--suite", str(suite), "--root", str(SUITE), "-o", str(results), "--cache", str(work / "cache")]
    do(ours("eval", str(run), *words, "--device", "cpu", "--seed", "0"))
    lines = (results / "eval_results.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["key"]: line["metrics"] for line in map(json.loads, lines)}


def their_figures(chosen: Sequence[Task], run: Path, work: Path, peers: str) -> dict[str, dict[str, Any]]:
    """What clip-benchmark says, by task: one process for each family."""
    found = {}
    for family in NAMES:
        sets = [task for task in chosen if task.family == family]
        if sets:
            file = str(work / f"{family}-{{dataset}}.json")
            words = _their_words(family, [task.folder for task in sets], run, work, file)
            do([*_their_program(family, peers), *words], cwd=work)
        for task in sets:
            found[task.key] = json.loads((work / f"{family}-{task.folder}.json").read_text())["metrics"]
    return found


def their_shuffles(task: Task, run: Path, work: Path, peers: str) -> list[dict[str, Any]]:
    """Its probe with its own shuffle, for several seeds; the features are those it kept."""
    found = []
    for seed in SHUFFLES:
        file = work / f"shuffled-{seed}.json"
        words = _their_words("probe", [task.folder], run, work, str(file))
        do([peers, str(HERE / "train_agreement.py"), "shim-shuffled", *words, "--seed", str(seed)], cwd=work)
        found.append(json.loads(file.read_text())["metrics"])
    return found


def _their_program(family: str, peers: str) -> list[str]:
    if family == "probe":
        return [peers, str(HERE / "train_agreement.py"), "shim"]
    return [str(Path(peers).parent / "clip_benchmark")]


def _their_words(family: str, sets: Sequence[str], run: Path, work: Path, output: str) -> list[str]:
    words = ["eval", "--model", f"local-dir:{run.absolute()}", "--pretrained", "run", "--task", TASKS[family]]
    words += ["--dataset", *(f"wds/{name}" for name in sets), "--dataset_root", f"{SUITE}/{{dataset}}"]
    words += ["--no_amp", "--batch_size", "64", "--num_workers", "0", "--quiet", "--output", output]
    if family == "retrieval":
        words += ["--recall_k", "1", "5", "10"]
    return [*words, *(["--feature_root", str(work / "features")] if family == "probe" else [])]


def shim(words: Sequence[str], *, shuffled: bool) -> None:
    """clip-benchmark's command with its probe on the CPU; runs in its environment, without ours."""
    import torch
    from clip_benchmark import cli
    from clip_benchmark.metrics import linear_probe

    class Cpu(str):
        """Answers yes when it is asked whether it is "cuda", and is "cpu" to everybody else."""

        def __eq__(self, other: object) -> bool:
            return other == "cuda" or str.__eq__(self, other)

        __hash__ = str.__hash__

    plain, randperm = linear_probe.evaluate, torch.randperm

    def in_order(count: int, **named: Any) -> Any:
        """The shuffle before the training is the one that names no generator; those of the batches do."""
        return randperm(count, **named) if "generator" in named else torch.arange(count)

    def evaluate(*values: Any, device: str, **named: Any) -> Any:
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self
        if not shuffled:
            torch.randperm = in_order
        return plain(*values, device=Cpu("cpu"), **named)

    linear_probe.evaluate = evaluate
    sys.argv = ["clip_benchmark", *words]
    cli.main()


@dataclass(frozen=True)
class Line:
    """One figure of both programs; None and NaN both say that there is none."""

    task: str
    metric: str
    ours: float | None
    theirs: float | None

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.theirs is None else self.ours - self.theirs

    @property
    def equal(self) -> bool:
        if self.ours is None or self.theirs is None:
            return self.ours is self.theirs
        return abs(self.ours - self.theirs) < 0.5 * 10**-DIGITS

    def cells(self) -> list[str]:
        values = [_shown(self.ours), _shown(self.theirs)]
        difference = "" if self.difference is None else f"{self.difference:+.1e}" if self.difference else "0"
        return [self.task, self.metric, *values, difference, "PASS" if self.equal else "FAIL"]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.{DIGITS + 2}f}"


def lines_of(
    chosen: Sequence[Task], mine: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]]
) -> Iterator[Line]:
    for task in chosen:
        for name, other in NAMES[task.family].items():
            values = (mine[task.key][name], theirs[task.key][other])
            one, two = (None if value is None or math.isnan(value) else float(value) for value in values)
            yield Line(task.key, name, one, two)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a short training, three tasks, no shuffles")
    parser.add_argument("--run", type=Path, help="a run that is there")
    parser.add_argument("--recipe", default="clip-nano", help="what the model is trained by")
    parser.add_argument(
        "--keep", type=Path, default=ROOT / ".bench" / "train", help="where shards and run are kept"
    )
    parser.add_argument(
        "--out", type=Path, help="where agreement.json and agreement.md go (default: the same)"
    )
    named = os.environ.get("HEADWATER_BENCH_TRAIN_PEERS", ".venv-bench-train/bin/python")
    parser.add_argument("--peers", default=named)
    options = parser.parse_args()
    from bench import machine, tell
    from report import table

    keep, peers = options.keep.resolve(), str(Path(options.peers).absolute())
    work = keep / f"agreement-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        tell("agreement: training")
        run = options.run.resolve() if options.run else train(keep, options.recipe, quick=options.quick)
        chosen = tasks(quick=options.quick)
        tell("agreement: ours")
        mine = our_figures(chosen, run, work)
        tell("agreement: clip-benchmark")
        theirs = their_figures(chosen, run, work, peers)
        probes = [task for task in chosen if task.family == "probe" and not options.quick]
        shuffled = {task.key: their_shuffles(task, run, work, peers) for task in probes}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    lines = list(lines_of(chosen, mine, theirs))
    told = ["# Agreement with clip-benchmark 1.6.2\n"]
    told += [f"- {name}: {value}" for name, value in machine().items()]
    told += ["", *table("task|metric|ours|clip-benchmark|difference|", [line.cells() for line in lines])]
    for key, found in shuffled.items():
        values = ", ".join(f"{one['lp_acc1']:.4f}" for one in found)
        told += [f"{key}: lp_acc1 with clip-benchmark's own shuffle, seeds {SHUFFLES}: {values}.\n"]
    out = options.out or keep
    out.mkdir(parents=True, exist_ok=True)
    document = {
        "format": "agreement/1",
        "machine": machine(),
        "equal": all(line.equal for line in lines),
        "lines": [{**vars(line), "difference": line.difference, "equal": line.equal} for line in lines],
        "own_shuffle": {key: [one["lp_acc1"] for one in found] for key, found in shuffled.items()},
    }
    (out / "agreement.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / "agreement.md").write_text("\n".join(told) + "\n", encoding="utf-8")
    tell("done\n\n")
    sys.stdout.write("\n".join(told) + "\n")
    return 0 if document["equal"] else 1


if __name__ == "__main__":
    if sys.argv[1:2] in (["shim"], ["shim-shuffled"]):
        shim(sys.argv[2:], shuffled=sys.argv[1] == "shim-shuffled")
    else:
        sys.exit(main())
