"""Cost of the scores that compare: negCLIPLoss beside a plain matrix product, MetaCLIP's search beside pyahocorasick.

    python -m tests.bench.contrast [--rows N] [--width D] [--captions N] [--entries N] [--pairs N] [--only products|search]

CPU seconds of this process, medians over pairs that change places each time. Products: the whole scorer, from memory-mapped
features to a column, and the floating-point operations of its batches; beside it one product of the same shapes, cut into strips
whose result fits the cache or not as BLAS likes it. Search: captions of made-up words with Zipf's frequencies. Prints a table, then
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32_768
STRIP = 4096


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_pairs(one: Callable[[], Any], two: Callable[[], Any], pairs: int) -> tuple[list[float], list[float]]:
    """CPU seconds of both, in turns."""
    a, b = [], []
    for number in range(pairs):
        for work, seconds in ((one, a), (two, b)) if number % 2 else ((two, b), (one, a)):
            seconds.append(cpu(work))
    return a, b


def features(rows: int, width: int) -> dict[str, Any]:
    """Pictures and captions that spread like CLIP's: a direction that all share, topics, and noise."""
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(40, width)).astype(np.float32) / np.sqrt(width)
    mean = rng.normal(size=(3, width)).astype(np.float32) / np.sqrt(width)
    of_row = rng.normal(size=(rows, 40)).astype(np.float32)
    strength = 0.6 * rng.uniform(0, 1.6, (rows, 1)).astype(np.float32)
    caption = of_row * strength + 0.8 * rng.normal(size=(rows, 40)).astype(np.float32)
    noise = [0.55 * rng.normal(size=(rows, width)).astype(np.float32) / np.sqrt(width) for _ in range(2)]
    images = 0.6 * mean[0] + 0.5 * mean[1] + 0.09 * of_row @ topics + noise[0]
    texts = 0.25 * mean[0] + 0.6 * mean[2] + 0.09 * caption @ topics + noise[1]
    return {"l14_img": images.astype(np.float16), "l14_txt": texts.astype(np.float16)}


def write_pool(folder: Path, arrays: dict[str, Any]) -> Path:
    """Four shards with their features."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.curate.feature_kit import write_npz

    folder.mkdir()
    rows = len(arrays["l14_img"])
    for number, part in enumerate(np.array_split(np.arange(rows), 4)):
        uids = [f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}{i:016x}" for i in part.tolist()]
        pq.write_table(pa.table({"uid": uids, "text": uids}), folder / f"{number:08d}.parquet")
        write_npz(folder / f"{number:08d}.npz", {name: values[part] for name, values in arrays.items()})
    return folder


def products(rows: int, width: int, pairs: int, folder: Path) -> list[dict[str, Any]]:
    """negCLIPLoss with one shuffle beside a plain product, at each precision there is."""
    import torch

    from curate.products import bf16_available
    from tests.curate.feature_kit import scored_with_facts

    torch.set_num_threads(1)
    arrays = features(rows, width)
    pool = write_pool(folder / "pool", arrays)
    sizes = [len(part) for part in np.array_split(np.arange(rows), -(-rows // BATCH))]
    work = sum(2 * width * size * size for size in sizes)
    out, kept = [], {}
    for precision in ["f32", "bf16"] if bf16_available() else ["f32"]:
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        left, right = (torch.from_numpy(arrays[name][: sizes[0]]).to(kind) for name in arrays)

        def score(precision: str = precision) -> None:
            table, _ = scored_with_facts(
                pool, "negcliploss", force=True, batch=BATCH, shuffles=1, precision=precision
            )
            kept[precision] = table["negcliploss"].to_numpy()

        def plain(left: Any = left, right: Any = right) -> None:
            for size in sizes:
                for first in range(0, size, STRIP):
                    torch.mm(left[first : min(first + STRIP, size)], right[:size].t())

        plain()
        ours, theirs = in_pairs(score, plain, pairs)
        each = [b / a for a, b in zip(ours, theirs, strict=True)]
        out.append(
            {
                "rows": rows,
                "width": width,
                "precision": precision,
                "gflops": work / statistics.median(ours) / 1e9,
                "gflops_plain_product": work / statistics.median(theirs) / 1e9,
                "share_of_plain_product": statistics.median(each),
                "shares": each,
            }
        )
    if len(kept) > 1:
        ranks = [np.argsort(np.argsort(kept[p])) for p in ("f32", "bf16")]
        error = np.abs(kept["f32"] - kept["bf16"])
        out[1] |= {
            "largest_error": float(error.max()),
            "rms_error": float(np.sqrt((error**2).mean())),
            "rank_correlation": float(np.corrcoef(*ranks)[0, 1]),
        }
    return out


def captions(count: int, entries: int) -> tuple[list[str], list[str]]:
    """Captions of 3 to 17 words, and entries of one to three words that are taken from them or from the dictionary."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfw"))
    sizes = np.clip(rng.normal(6, 2.5, 150_000).round().astype(int), 1, None)
    words = ["".join(rng.choice(letters, size)) for size in sizes]
    often = 1 / np.arange(2, len(words) + 2)
    lengths = rng.integers(3, 18, count)
    drawn = rng.choice(len(words), int(lengths.sum()), p=often / often.sum())
    made, at = [], 0
    for length in lengths:
        text = " ".join(words[i] for i in drawn[at : at + length])
        at += length
        made.append(text.replace(" ", ", ", int(rng.integers(0, 2))) + "." * int(rng.integers(0, 2)))
    listed = set(words[: int(entries * 0.6)])
    while len(listed) < entries:
        text = made[int(rng.integers(0, count))].split()
        first = int(rng.integers(0, len(text)))
        listed.add(" ".join(text[first : first + int(rng.integers(1, 4))]))
    return made, sorted(listed)


def search(count: int, entries: int, pairs: int) -> dict[str, Any]:
    """MetaCLIP's search of all captions, from a string column, beside pyahocorasick's on spaced strings if that is installed."""
    import pyarrow as pa

    from curate._aho import Matcher
    from curate.scores.metaclip import _captions

    texts, listed = captions(count, entries)
    column = pa.array(texts, pa.string())
    matcher = Matcher([e.encode() for e in listed])
    found = [0, 0]

    def ours() -> None:
        found[0] = sum(len(matcher.find(data, offsets)[0]) for data, offsets, _ in _captions(column))

    out: dict[str, Any] = {"captions": count, "entries": entries}
    out["seconds_to_build"] = cpu(lambda: Matcher([e.encode() for e in listed]))
    try:
        import ahocorasick
    except ImportError:
        mine = [cpu(ours) for _ in range(pairs)]
        return out | {"captions_per_cpu_second": count / statistics.median(mine), "matches": found[0]}
    automaton = ahocorasick.Automaton()
    for number, entry in enumerate(listed):
        automaton.add_word(f" {entry} ", number)
    automaton.make_automaton()

    def theirs() -> None:
        found[1] = sum(len({n for _, n in automaton.iter(spaced(text))}) for text in texts)

    mine, other = in_pairs(ours, theirs, pairs)
    if found[0] != found[1]:
        raise SystemExit(f"bench: we find {found[0]:,} matches, pyahocorasick {found[1]:,}")
    return out | {
        "captions_per_cpu_second": count / statistics.median(mine),
        "captions_per_cpu_second_pyahocorasick": count / statistics.median(other),
        "times_as_fast": statistics.median(b / a for a, b in zip(mine, other, strict=True)),
        "matches": found[0],
    }


def spaced(text: str) -> str:
    """A caption as MetaCLIP's code looks at it."""
    text = f" {text} "
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for blank in "\t\n\r":
        text = text.replace(blank, " ")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--captions", type=int, default=200_000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", choices=["products", "search"])
    options = parser.parse_args()
    document: dict[str, Any] = {}
    if options.only != "search":
        with tempfile.TemporaryDirectory() as folder:
            document["negcliploss"] = products(options.rows, options.width, options.pairs, Path(folder))
        for line in document["negcliploss"]:
            print(
                f"negcliploss {line['precision']:4}  {line['gflops']:7.1f} GFLOP/s, plain product "
                f"{line['gflops_plain_product']:7.1f}: {line['share_of_plain_product']:.2f} of it"
            )
    if options.only != "products":
        line = document["metaclip"] = search(options.captions, options.entries, options.pairs)
        peer = line.get("captions_per_cpu_second_pyahocorasick")
        print(
            f"metaclip search   {line['captions_per_cpu_second']:9,.0f} captions a CPU second"
            + (f", pyahocorasick {peer:9,.0f}: {line['times_as_fast']:.2f} x" if peer else "")
        )
    print(json.dumps(document))


if __name__ == "__main__":
    main()
