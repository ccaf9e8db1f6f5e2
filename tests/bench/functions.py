"""Parts of ours that are timed inside their process; one JSON line.

Run: python tests/bench/functions.py POOL ROWS FILE: uids of text form, in memory, to a sorted subset file.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate._memory import tune_process
from curate._order import sort_words
from curate._pages import words_of
from curate.subset import write_sorted


def main(pool: Path, rows: int, file: Path) -> None:
    tune_process()
    chunks: list[pa.Array] = []
    for path in sorted(pool.glob("*.parquet")):
        chunks += pq.ParquetFile(path).read(["uid"], use_threads=False)["uid"].chunks
        if sum(map(len, chunks)) >= rows:
            break
    uids = pa.chunked_array(chunks).slice(0, rows)
    before = time.process_time()
    words, malformed = words_of(uids)
    with open(file, "wb") as handle:
        write_sorted(handle, [sort_words(words)])
    seconds = time.process_time() - before
    assert not np.count_nonzero(malformed)
    print(json.dumps({"rows": len(uids), "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
