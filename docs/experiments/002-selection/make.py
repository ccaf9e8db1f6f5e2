#!/usr/bin/env python3
"""What do the filters of this repository keep of a real pool, and how good is a scorer that was trained on its own best titles?

    python docs/experiments/002-selection/make.py CLIPART WORK [--seeds 3]

CLIPART is what `examples/openclipart/build.py CLIPART --all` writes, WORK a folder for everything that is made. Every step is a
`headwater` command that knows when it is done: stop this script at any time, and the same line goes on. Writes WORK/results.json and
prints the tables of the README. A filter is added by one line of FILTERS.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
COMMAND = [sys.executable, "-P", "-m", "headwater.cli"]
SCORE = "two_tower_similarity"
# name -> a named filter with its parameters (SHARDS, ENTRIES and VOTES are filled in), or None for rules/NAME.yaml
FILTERS: dict[str, list[str] | None] = {
    "random": ["fraction=0.3"],
    "basic_filter": [],
    "text_based": [],
    "exact_duplicates": [f"best={SCORE}"],
    "near_duplicate_captions": [f"best={SCORE}"],
    "near_duplicate_pictures": ["shards=SHARDS", f"best={SCORE}"],
    "two_tower": None,
    "negcliploss": ["arch=two_tower", "fraction=0.3"],
    "semdedup": ["arch=two_tower", "k=20"],
    "density": ["arch=two_tower", "fraction=0.5", "k=100"],
    "ssp": ["arch=two_tower", "fraction=0.5", "k=100"],
    "d4": ["arch=two_tower", "fraction=0.5", "k=100"],
    "hierarchy": ["arch=two_tower", "fraction=0.3", "levels=300,50,10"],
    "metaclip": ["entries=ENTRIES", "t=20"],
    "vote": ["votes=VOTES", "threshold=0.5"],
    "two_tower_deduplicated": None,
}
SHARED_BY = 20  # a title on so many pictures or more says nothing about one of them
HELD_OUT = 500


def headwater(*arguments: object, ok: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run one command; its JSON. A failure ends the script with the command's own words."""
    command = [*COMMAND, *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in ok:
        sys.exit(f"{' '.join(map(str, arguments))}\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def query(pool: Path, sql: str) -> list[dict[str, Any]]:
    """Rows of a query over the pool and the scores beside it."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.jsonl"
        headwater("pool", "sql", pool, sql, "-o", answer)
        return [json.loads(line) for line in answer.read_text().splitlines()]


def uids(subset: Path) -> set[str]:
    """The uids of a subset file."""
    return {f"{int(hi):016x}{int(lo):016x}" for hi, lo in np.load(subset, allow_pickle=False).tolist()}


def held_out(scorer: Path) -> set[str]:
    """The uids that a scorer was not trained on."""
    import pyarrow.parquet as pq

    return set(pq.read_table(scorer / "held_out.parquet")["uid"].to_pylist())


def train(pool: Path, shards: Path, work: Path, seeds: int) -> dict[str, Any]:
    """Scorers of all seeds; the first one scores the pool."""
    trusted = work / "trusted.npy"
    headwater("filter-pool", pool, "-o", trusted, "--rule", HERE / "rules" / "trusted.yaml")
    found = {}
    for seed in range(seeds):
        scorer = work / f"scorer-s{seed}"
        made = headwater(
            *("score", "train", pool, "--shards", shards, "--trusted", trusted, "-o", scorer),
            *("--held-out", HELD_OUT, "--seed", seed),
        )
        found[str(seed)] = {
            "counts": made["counts"],
            "held_out": {k: v for k, v in made["details"].items() if k != "scores"},
            "scores": made["details"]["scores"],
            "cpu_seconds": round(made["energy"]["cpu_seconds"], 1),
            "seconds": round(made["energy"]["duration_seconds"], 1),
        }
    headwater(
        "score", "two_tower", pool, "--shards", shards, "--scorer", work / "scorer-s0", "--device", "cpu"
    )
    return found


def write_entries(pool: Path, path: Path) -> int:
    """Words of three letters or more that stand in at least two different titles, as they are written."""
    counts: Counter[str] = Counter()
    for row in query(pool, "select distinct text from pool"):
        counts.update({word for word in row["text"].split() if len(word) > 2 and word.isalpha()})
    words = sorted(word for word, count in counts.items() if count > 1)
    path.write_text("".join(f"{word}\n" for word in words))
    return len(words)


def select(pool: Path, shards: Path, work: Path) -> tuple[list[str], dict[str, str]]:
    """Subsets of all filters; those that could not be made, with the reason."""
    votes = work / "votes.yaml"
    votes.write_bytes((HERE / "votes.yaml").read_bytes())
    places = {"SHARDS": shards, "ENTRIES": work / "entries.txt", "VOTES": votes}
    made, failed = [], {}
    for name, parameters in FILTERS.items():
        rule = ["--rule", HERE / "rules" / f"{name}.yaml"] if parameters is None else ["--name", name]
        for text in parameters or []:
            key, _, value = text.partition("=")
            rule += ["--param", f"{key}={places.get(value, value)}"]
        # 3: some rows could not be judged, and are not kept
        done = subprocess.run(
            [*COMMAND, "filter-pool", str(pool), "-o", str(work / f"{name}.npy"), *map(str, rule), "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode in (0, 3):
            made.append(name)
            sys.stderr.write(f"{name}: {len(uids(work / (name + '.npy'))):,} rows\n")
        else:
            failed[name] = done.stderr.strip().splitlines()[0][:300]
            sys.stderr.write(f"{name}: {failed[name]}\n")
    return made, failed


def untrusted_area(pool: Path, trusted: set[str]) -> dict[str, float | int]:
    """AUC of true against wrong captions on rows that no rule trusted: one for each title that at most three pictures have."""
    rows = query(
        pool,
        "select uid, text, two_tower_similarity from pool where text in "
        "(select text from pool group by 1 having count(*) <= 3) order by uid",
    )
    texts: set[str] = set()
    chosen = []
    for row in rows:
        if row["uid"] not in trusted and row["text"] not in texts:
            texts.add(row["text"])
            chosen.append(row["uid"])
    order = {row["uid"]: number for number, row in enumerate(query(pool, "select uid from pool"))}
    image, text = (features(pool, name) for name in ("two_tower_img", "two_tower_txt"))
    places = [order[uid] for uid in chosen]
    similarity = image[places] @ text[places].T
    own = np.sort(np.diag(similarity))
    wrong = similarity[~np.eye(len(places), dtype=bool)]
    below = np.searchsorted(own, wrong, "left") + np.searchsorted(own, wrong, "right")
    return {"rows": len(places), "auc": round(1 - float(below.mean()) / (2 * len(own)), 4)}


def mean_scores(pool: Path, trusted: set[str], scorer: Path) -> dict[str, dict[str, float | int]]:
    """Similarity of pairs that were trained on (and scored out of fold), held out, left out beside those, and not trusted."""
    import pyarrow.parquet as pq

    held = held_out(scorer)
    trained = set(pq.read_table(scorer / "trained.parquet", columns=["uid"])["uid"].to_pylist())
    groups: dict[str, list[float]] = {"trained": [], "held out": [], "left out": [], "not trusted": []}
    for row in query(pool, "select uid, two_tower_similarity as score from pool"):
        if row["score"] is not None:
            uid = row["uid"]
            group = "trained" if uid in trained else "held out" if uid in held else "left out"
            groups[group if uid in trusted else "not trusted"].append(row["score"])
    return {
        name: {
            "rows": len(s),
            "mean": round(float(np.mean(s)), 4),
            "deviation": round(float(np.std(s)), 4),
        }
        for name, s in groups.items()
    }


def features(pool: Path, name: str) -> Any:
    """An array of all rows, float32, in the order of the pool's shards."""
    folders = sorted(
        (pool / ".headwater" / "features").glob("two_tower-*"), key=lambda path: path.stat().st_mtime
    )
    parts = [np.load(path, allow_pickle=False)[name] for path in sorted(folders[-1].glob("*.npz"))]
    return np.concatenate(parts).astype(np.float32)


def describe(pool: Path, work: Path, names: list[str]) -> dict[str, Any]:
    """What each filter keeps."""
    import pyarrow.parquet as pq

    repeated = {
        row["uid"]
        for row in query(
            pool,
            f"select uid from pool where text in (select text from pool group by 1 having count(*) >= {SHARED_BY})",
        )
    }
    facts = {
        row["uid"]: row for row in query(pool, "select uid, text, sha256, two_tower_similarity from pool")
    }
    trusted = uids(work / "trusted.npy")
    held = held_out(work / "scorer-s0")
    trained = set(pq.read_table(work / "scorer-s0" / "trained.parquet", columns=["uid"])["uid"].to_pylist())
    found = {}
    for name, kept in {
        "the pool": set(facts),
        **{name: uids(work / f"{name}.npy") for name in names},
    }.items():
        scores = [facts[uid]["two_tower_similarity"] for uid in kept]
        found[name] = {
            "rows": len(kept),
            "share": len(kept) / len(facts),
            "shared_titles_kept": len(kept & repeated) / len(repeated),
            "held_out_kept": len(kept & held) / len(held),
            "trained_kept": len(kept & trained) / len(trained),
            "distinct_titles": len({facts[uid]["text"] for uid in kept}),
            "distinct_files": len({facts[uid]["sha256"] for uid in kept}),
            "trusted": len(kept & trusted) / len(kept),
            "mean_score": float(np.mean([s for s in scores if s is not None])),
        }
    return found


def tables(results: dict[str, Any]) -> str:
    """The README's tables."""
    lines = ["| measure | " + " | ".join(f"seed {seed}" for seed in results["scorers"]) + " | chance |"]
    lines.append("| --- |" + " --- |" * (len(results["scorers"]) + 1))
    names = [f"{side}_r{k}" for side in ("image_to_text", "text_to_image") for k in (1, 5, 10)] + ["auc"]
    for name in names:
        cells = [facts["held_out"][name] for facts in results["scorers"].values()]
        shown = [f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" for c in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + f" | {cells[0]['chance']:g} |")
    lines += [
        "",
        "| mean score of true pairs | " + " | ".join(f"seed {seed}" for seed in results["scorers"]) + " |",
    ]
    lines.append("| --- |" + " --- |" * len(results["scorers"]))
    for name in next(iter(results["scorers"].values()))["scores"]:
        cells = [facts["scores"][name] for facts in results["scorers"].values()]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    lines += [
        "",
        "| filter | rows | share | held-out pairs kept | trained pairs kept | rows with a shared title kept | titles | files | trusted |",
    ]
    lines.append("| --- |" + " --- |" * 8)
    for name, f in results["filters"].items():
        lines.append(
            f"| {name} | {f['rows']:,} | {f['share']:.1%} | {f['held_out_kept']:.1%} | {f['trained_kept']:.1%} | {f['shared_titles_kept']:.1%} | "
            f"{f['distinct_titles']:,} | {f['distinct_files']:,} | {f['trusted']:.1%} |"
        )
    order = results["overlap"]["order"]
    lines += [
        "",
        "| of the row, kept by the column | " + " | ".join(str(i + 1) for i in range(len(order))) + " |",
    ]
    lines.append("| --- |" + " --- |" * len(order))
    for number, (name, row) in enumerate(zip(order, results["overlap"]["share_of_row"], strict=True), 1):
        lines.append(f"| {number} {name} | " + " | ".join(f"{share * 100:.0f}" for share in row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clipart", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    pool = work / "pool"
    headwater("pool", "import", options.clipart, "-o", pool, "--allow-invalid")  # one row has no caption
    scorers = train(pool, options.clipart, work, options.seeds)
    entries = write_entries(pool, work / "entries.txt")
    names, failed = select(pool, options.clipart, work)
    kept = {name: uids(work / f"{name}.npy") for name in names}
    results = {
        "rows": headwater("pool", "describe", pool)["rows"],
        "entries": entries,
        "scorers": scorers,
        "untrusted": untrusted_area(pool, uids(work / "trusted.npy")),
        "mean_scores": mean_scores(pool, uids(work / "trusted.npy"), work / "scorer-s0"),
        "filters": describe(pool, work, names),
        "failed": failed,
        "overlap": {
            "order": names,
            "share_of_row": [[round(len(kept[a] & kept[b]) / len(kept[a]), 4) for b in names] for a in names],
        },
    }
    (work / "results.json").write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    sys.stdout.write(tables(results) + "\n")


if __name__ == "__main__":
    main()
