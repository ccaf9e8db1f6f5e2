"""The peers, each started in a process of its own in the peers' environment; one JSON line on standard output.

Run: python peers.py polars|duckdb|pandas basic|top30|uids POOL [--npy FILE] [--check]
     python peers.py language POOL MODEL ROWS [--check]     row by row: pandas and the language model, as published baselines do
     python peers.py convert POOL ROWS FILE                 uids of text form to a sorted subset file, timed inside
     python peers.py reshard TARS SUBSET OUT                webdataset's reader and TarWriter
     python peers.py checksum FILE.npy | tars FOLDER        what an answer is, whoever made it
Without --npy the uids are left in memory as strings; with it they are written as a sorted `u8,u8` file.
--check adds a checksum of the answer that does not depend on order; it costs time, so it is left out where time is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BLANKS = r"\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
THREE_WORDS = f"[^{BLANKS}][{BLANKS}]+[^{BLANKS}]+[{BLANKS}]+[^{BLANKS}]"  # what len(text.split()) > 2 says
SCORE = "clip_l14_similarity_score"
FRACTION = 0.3
UID = np.dtype("u8,u8")


def shards(pool: str) -> list[str]:
    return [str(path) for path in sorted(Path(pool).glob("*.parquet"))]


def cut(scores: np.ndarray[Any, Any]) -> Any:
    """The score at the descending rank floor(rows x FRACTION): rows at or above it are kept."""
    negated = -scores
    rank = int(len(scores) * FRACTION)
    negated.partition(rank)
    return -negated[rank]


def save(hi: np.ndarray[Any, Any], lo: np.ndarray[Any, Any], path: str) -> None:
    records = np.empty(len(hi), UID)
    records["f0"], records["f1"] = hi, lo
    np.save(path, records)


def polars_(task: str, pool: str, npy: str | None) -> Any:
    import polars as pl

    rows = pl.scan_parquet(pool + "/*.parquet")
    if task == "basic":
        width, height, text = pl.col("original_width"), pl.col("original_height"), pl.col("text")
        short, long = pl.min_horizontal(width, height), pl.max_horizontal(width, height)
        rows = rows.filter(
            (short >= 200) & (long <= 3 * short) & (text.str.len_chars() > 5) & text.str.contains(THREE_WORDS)
        )
    elif task == "top30":
        least = cut(rows.select(SCORE).collect(engine="streaming")[SCORE].to_numpy())
        rows = rows.filter(pl.col(SCORE) >= pl.lit(least, dtype=pl.Float32))
    if npy is None:
        return rows.select("uid").collect(engine="streaming")["uid"]
    # the whole column at once through Arrow: cheaper than decoding string by string inside polars
    text = (
        rows.select("uid").collect(engine="streaming")["uid"].to_arrow(compat_level=pl.CompatLevel.oldest())
    )
    words = np.frombuffer(bytes.fromhex(str(text.buffers()[2], "ascii")), ">u8").astype("<u8")
    frame = pl.DataFrame({"hi": words[0::2], "lo": words[1::2]}).sort("hi", "lo")
    save(frame["hi"].to_numpy(), frame["lo"].to_numpy(), npy)
    return None


def duckdb_(task: str, pool: str, npy: str | None) -> Any:
    import duckdb

    connection = duckdb.connect(config={"preserve_insertion_order": "false"})
    source = f"read_parquet('{pool}/*.parquet')"
    where = "true"
    if task == "basic":
        where = (
            "least(original_width, original_height) >= 200 and length(text) > 5 and "
            "greatest(original_width, original_height) <= 3 * least(original_width, original_height) and "
            f"regexp_matches(text, '{THREE_WORDS}')"
        )
    elif task == "top30":
        least = cut(connection.execute(f"select {SCORE} as s from {source}").fetchnumpy()["s"])
        where = f"{SCORE} >= {float(least)!r}::FLOAT"
    if npy is None:
        return connection.sql(f"select uid from {source} where {where}").to_arrow_table()["uid"]
    halves = "('0x' || uid[1:16])::UBIGINT as hi, ('0x' || uid[17:32])::UBIGINT as lo"
    found = connection.execute(f"select {halves} from {source} where {where} order by hi, lo").fetchnumpy()
    save(found["hi"], found["lo"], npy)
    return None


def pandas_(task: str, pool: str, npy: str | None) -> Any:
    """A frame per shard and a Python function per row."""
    import pandas as pd

    kept = []
    if task == "top30":
        least = cut(
            np.concatenate([pd.read_parquet(p, columns=[SCORE])[SCORE].to_numpy() for p in shards(pool)])
        )
    for path in shards(pool):
        if task == "basic":
            frame = pd.read_parquet(path, columns=["uid", "text", "original_width", "original_height"])
            frame = frame[basic_mask(frame)]
        elif task == "top30":
            frame = pd.read_parquet(path, columns=["uid", SCORE])
            frame = frame[frame[SCORE] >= least]
        else:
            frame = pd.read_parquet(path, columns=["uid"])
        uids = frame["uid"]
        kept.append(uids if npy is None else pairs(uids))
    if npy is None:
        return pd.concat(kept)
    np.save(npy, np.sort(np.concatenate(kept)))
    return None


def basic_mask(frame: Any) -> Any:
    words = frame["text"].apply(lambda text: len(text.split()))
    characters = frame["text"].apply(len)
    width, height = frame["original_width"], frame["original_height"]
    short, long = np.minimum(width, height), np.maximum(width, height)
    return (words > 2) & (characters > 5) & (short >= 200) & (long / short <= 3.0)


def pairs(uids: Any) -> np.ndarray[Any, Any]:
    """The conversion of one uid after the other that subset files are usually made with."""
    return np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], UID)


def language(pool: str, model: str, rows: int) -> Any:
    import fasttext
    import pandas as pd

    identify = fasttext.load_model(model)
    kept = []
    for path in shards(pool):
        frame = pd.read_parquet(path, columns=["uid", "text", "original_width", "original_height"])[:rows]
        rows -= len(frame)
        labels = frame["text"].apply(lambda text: identify.predict(text.replace("\n", " "), k=1)[0][0])
        kept.append(frame["uid"][basic_mask(frame) & (labels == "__label__en")])
        if not rows:
            break
    return pd.concat(kept)


def text_uids(pool: str, rows: int) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = []
    for path in shards(pool):
        parts.append(pq.ParquetFile(path).read(["uid"], use_threads=False)["uid"])
        if sum(map(len, parts)) >= rows:
            break
    return pa.chunked_array([c for part in parts for c in part.chunks]).slice(0, rows)


def convert(pool: str, rows: int, path: str) -> dict[str, Any]:
    uids = text_uids(pool, rows).to_pylist()
    before = time.process_time()
    records = pairs(uids)
    records.sort()
    np.save(path, records)
    return {"rows": len(uids), "seconds": time.process_time() - before}


def reshard(tars: str, subset: str, out: str) -> dict[str, Any]:
    import webdataset as wds

    wanted = {(int(hi), int(lo)) for hi, lo in np.load(subset).tolist()}
    sink, read, kept = None, 0, 0
    for sample in wds.WebDataset([str(p) for p in sorted(Path(tars).glob("*.tar"))], shardshuffle=False):
        read += 1
        uid = json.loads(sample["json"])["uid"]
        if (int(uid[:16], 16), int(uid[16:], 16)) in wanted:
            if kept % 10_000 == 0:
                if sink is not None:
                    sink.close()
                sink = wds.TarWriter(f"{out}/{kept // 10_000:08d}.tar", encoder=False)
            sink.write({"__key__": uid + "-0", **{name: sample[name] for name in ("jpg", "json", "txt")}})
            kept += 1
    if sink is not None:
        sink.close()
    return {"rows": read, "kept": kept}


def tar_contents(folder: str) -> dict[str, Any]:
    """Samples of the tars of a folder, and a digest of their members that does not depend on how they are cut into tars."""
    import hashlib
    import tarfile

    members = []
    for path in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(path) as tar:
            for item in tar:
                data = tar.extractfile(item)
                assert data is not None
                members.append(f"{item.name} {hashlib.sha256(data.read()).hexdigest()}")
    kept = sum(1 for member in members if ".jpg " in member)
    return {"kept": kept, "sum": hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()[:32]}


def summed(words: np.ndarray[Any, Any]) -> str:
    total = np.ascontiguousarray(words).view("<u8").reshape(-1, 2).sum(axis=0, dtype=np.uint64)
    return f"{total[0]:016x}{total[1]:016x}"


def answer(uids: Any, npy: str | None, *, check: bool) -> dict[str, Any]:
    if npy is not None:
        records = np.load(npy, mmap_mode="r")
        return {"kept": len(records)} | ({"sum": summed(np.asarray(records))} if check else {})
    if not check:
        return {"kept": len(uids)}
    texts = uids.to_pylist() if hasattr(uids, "to_pylist") else uids.to_list()
    words = np.frombuffer(bytes.fromhex("".join(texts)), ">u8").astype("<u8")
    return {"kept": len(texts), "sum": summed(words)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--npy")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    who, words = options.who, options.words
    engines = {"polars": polars_, "duckdb": duckdb_, "pandas": pandas_}
    if who in engines:
        line = answer(engines[who](*words, options.npy), options.npy, check=options.check)
    elif who == "language":
        line = answer(language(words[0], words[1], int(words[2])), None, check=options.check)
    elif who == "convert":
        line = convert(words[0], int(words[1]), words[2])
    elif who == "reshard":
        line = reshard(*words)
    elif who == "tars":
        line = tar_contents(words[0])
    elif who == "checksum":
        line = answer(None, words[0], check=True)
    else:
        parser.error(f"no peer {who!r}")
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
