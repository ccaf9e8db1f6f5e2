"""CPU nanoseconds per row of the column kernels beside the Arrow call that does the same; one JSON line each.

Run: python -m tests.bench.kernels POOL [--groups 8] [--repeat 5]. POOL is a folder of Parquet shards with
`uid` and `text`. One thread; the median of the repeats; the Arrow figure is null where Arrow has no such call.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import _captions, _order, _pages, _text
from curate._memory import tune_allocator


class Bench:
    def __init__(self, repeat: int) -> None:
        self.repeat = repeat

    def cost(self, work: Callable[[], object], rows: int) -> float:
        figures = []
        for _ in range(self.repeat):
            before = time.process_time_ns()
            work()
            figures.append((time.process_time_ns() - before) / rows)
        return round(statistics.median(figures), 2)

    def show(
        self, kernel: str, rows: int, ours: Callable[[], object], arrow: Callable[[], object] | None = None
    ) -> None:
        line = {"kernel": kernel, "rows": rows, "ns_per_row": self.cost(ours, rows)}
        line["arrow_ns_per_row"] = self.cost(arrow, rows) if arrow else None
        line["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def row_groups(pool: Path, limit: int) -> list[tuple[pq.ParquetFile, BinaryIO, int]]:
    found: list[tuple[pq.ParquetFile, BinaryIO, int]] = []
    for path in sorted(pool.glob("*.parquet")):
        shard, file = pq.ParquetFile(path), path.open("rb", buffering=0)
        found += [(shard, file, group) for group in range(shard.num_row_groups)]
    return found[:limit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    tune_allocator()
    pa.set_cpu_count(1)
    bench = Bench(options.repeat)
    groups = row_groups(options.pool, options.groups)
    rows = sum(shard.metadata.row_group(group).num_rows for shard, _, group in groups)

    def uids() -> Iterator[Any]:
        for shard, file, group in groups:
            words, bad = _pages.read_uids_any(shard, group, shard_name="bench", file=file)
            assert not len(bad)
            yield words

    def column(name: str) -> Iterator[pa.Array]:
        for shard, _, group in groups:
            yield from shard.read_row_group(group, [name], use_threads=False).column(0).chunks

    def over(function: Callable[[Any], object], values: list[Any]) -> Callable[[], object]:
        def all_of_them() -> None:
            for value in values:
                function(value)

        return all_of_them

    bench.show("read_uids", rows, lambda: sum(map(len, uids())), lambda: sum(map(len, column("uid"))))

    def counted() -> None:
        for shard, file, group in groups:
            _captions.count_captions_any(shard, group, shard_name="bench", file=file)

    def counted_from_arrow() -> None:
        for shard, _, group in groups:
            _captions.count_captions_any(shard, group, shard_name="bench")

    bench.show("count_captions, arrow: decode + ours", rows, counted, counted_from_arrow)
    text = list(column("text"))
    size = sum(len(_text.plain_parts(part)[0]) for part in text)
    bench.show("count_words", rows, over(_text.count_words, text))
    bench.show("count_chars", rows, over(_text.count_chars, text), over(pc.utf8_length, text))
    bench.show(f"words and chars, {size / rows:.0f} B a row", rows, over(_text.count_words_and_chars, text))
    bench.show(
        "invalid_utf8_rows",
        rows,
        over(_text.invalid_utf8_rows, text),
        over(lambda part: part.validate(full=True), text),
    )
    del text
    runs = list(uids())

    def by_arrow(a: Any) -> None:
        keys = {"hi": np.ascontiguousarray(a[:, 0]), "lo": np.ascontiguousarray(a[:, 1])}
        pc.sort_indices(pa.table(keys), [("hi", "ascending"), ("lo", "ascending")])

    bench.show("sort_words, one run", rows, over(_order.sort_words, runs), over(by_arrow, runs))
    ordered = [_order.sort_words(run) for run in runs]
    bench.show("merge_runs", rows, lambda: _order.merge_runs(ordered, lambda block: None))
    whole = np.concatenate(ordered)
    bench.show("sort_words, all", rows, lambda: len(_order.sort_words(whole)), lambda: by_arrow(whole))
    haystack = _order.sort_words(whole)
    needles = runs[0]
    bench.show("search_words, per needle", len(needles), lambda: len(_order.search_words(haystack, needles)))


if __name__ == "__main__":
    main()
