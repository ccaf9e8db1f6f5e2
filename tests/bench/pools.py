"""Pools to measure on: seeded metadata shards in DataComp's layout, and webdataset tars of JPEG-like payloads.

Run: python tests/bench/pools.py metadata FOLDER ROWS... | tars FOLDER SAMPLES... ; one pool per size is left in FOLDER.
Form (DataComp, arXiv 2304.14108, and its dataset cards): nine columns, scores of float16 precision stored as float32, snappy,
about 230 bytes a row. A shard is 250,000 rows in row groups of 131,072; a tar is 10,000 samples of about 12 kB.
A shard is a function of the seed and its number alone, so that a smaller pool is the beginning of a larger one: both are
hard links to the same files. Captions have about 40 characters, 35 % of them in scripts other than Latin; one in forty has an odd
blank; 5 % are repeated. Memory: one shard at a time in each of two processes.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20_240_101
VERSION = 1  # a change of the content makes new folders
SHARD_ROWS = 250_000
ROW_GROUP_ROWS = 131_072
TAR_SAMPLES = 10_000
KEEP = 0.3  # of the samples of a folder of tars

WORDS = """a the of and in with on for from to new black white red blue green old large small vintage modern home house
garden kitchen wall door window table chair lamp photo picture image stock vector illustration design art print canvas poster
frame woman man child girl boy people family friend dog cat horse bird fish bear tree flower rose leaf forest mountain river
lake ocean beach island road street city town bridge church castle tower market shop store school hospital office hotel room
bed mirror clock cup bowl plate knife spoon bottle glass coffee tea bread cake soup salad cheese apple lemon orange berry
phone camera screen keyboard guitar piano drum shirt dress skirt jacket coat hat shoe boot watch ring necklace bag leather
cotton wool silk gold silver wooden metal stone paper summer winter spring autumn morning evening night sun moon star cloud
rain snow wind fire water light shadow color pattern texture background isolated close view top side front free best cheap
sale price size set pack box kit tool car truck bus train boat plane bike wheel engine game toy ball book card map ticket
wedding party birthday holiday travel food recipe health doctor music dance movie sport football player team coach running
standing sitting walking smiling holding looking wearing using how what why when this that your our my is are was be at by"""
ENDINGS = ("s", "er", "ing", "ed", "ly", "y")
LATIN = """das Haus mit Garten Blumen Straße schön große alte Stadt ein Bild von der Küche und nicht für Mädchen
la maison avec le jardin été très belle château fenêtre une photo des enfants à la plage niño mañana casa grande con
perro una ciudad pequeña calle cocina español foto van een huis met tuin mooie grote hond fiets città mare giardino"""
SCRIPTS = (
    "красивый дом на берегу моря фотография собака большая зимний лес город купить новый детский цена размер женщина",
    "όμορφο σπίτι θάλασσα φωτογραφία σκύλος μεγάλο δάσος πόλη παιδί νέο τιμή κήπος με και στο",
    "صورة جميلة بيت كبير على شاطئ البحر كلب حديقة مدينة جديد سعر للبيع طفل امرأة مع",
    "सुंदर घर समुद्र तस्वीर कुत्ता बड़ा जंगल शहर नया बच्चा महिला बगीचा के साथ में",
    "美しい 写真 家 と 庭 犬 の 猫 東京 新品 送料無料 レディース バッグ かわいい 夏 人気 ワンピース",
    "图片 高清 价格 新款 女士 漂亮 房子 花园 海边 城市 儿童 包邮 冬季 手机壳 大图 下载",
    "아름다운 집 사진 바다 개 정원 도시 새로운 가격 아이 여자 겨울 큰 무료 배송",
    "บ้าน สวย ริมทะเล ภาพถ่าย สุนัข สวน เมือง ใหม่ ราคา เด็ก ผู้หญิง ใหญ่",
)
ODD = (
    "\u00a0",
    "\u3000",
    "\t",
    "\n",
    "",
    " ",
    "\u2009",
    "\u200b",
    "\u0085",
    "\x1c",
    "\u2028",
    "é",
    "🙂",
    "&amp;",
)


def pairs(words: list[str]) -> list[str]:
    """Rare words: two that are written as one."""
    return [first + second for first in words for second in words]


def caption_words() -> tuple[Any, list[tuple[int, int]], tuple[int, int]]:
    """All words as one Arrow array, (first, count) per language (English, other Latin, scripts), and of the odd ones."""
    import pyarrow as pa

    words = WORDS.split()
    english = words + [word + ending for ending in ENDINGS for word in words] + pairs(words[20:120])
    scripts = [script.split() for script in SCRIPTS]
    lists = [english, LATIN.split(), *(script + pairs(script) for script in scripts), list(ODD)]
    spans, flat = [], []
    for words in lists:
        spans.append((len(flat), len(words)))
        flat += words
    return pa.array(flat), spans[:-1], spans[-1]


def joined(words: Any, index: Any, counts: Any, separator: str = " ") -> Any:
    """Arrow strings of `counts` words each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), words.take(pa.array(index))), separator)


def hex_column(raw: bytes, width_bytes: int) -> Any:
    """Arrow strings of lower-case hex digits, `width_bytes` of `raw` in each."""
    import pyarrow as pa

    rows = len(raw) // width_bytes
    offsets = np.arange(0, (rows + 1) * width_bytes * 2, width_bytes * 2, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(raw.hex().encode()))


def captions(rng: np.random.Generator, rows: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    words, languages, odd = caption_words()
    kind = rng.random(rows)
    language = np.where(
        kind < 0.35, 2 + (kind * 1e6).astype(np.int64) % len(SCRIPTS), (kind < 0.45).astype(np.int64)
    )
    counts = np.clip(rng.lognormal(1.72, 0.68, rows), 1, 120).astype(np.int32)
    first, size = (np.array([span[i] for span in languages])[language] for i in (0, 1))
    total = int(counts.sum())
    # words as frequent as their place in the list says: 1 / rank, about
    rank = np.power(np.repeat(size, counts).astype(np.float32), rng.random(total, dtype=np.float32)) - 1
    index = np.repeat(first, counts) + rank.astype(np.int64)
    strange = np.flatnonzero(rng.random(total, dtype=np.float32) < 0.004)
    index[strange] = odd[0] + rng.integers(0, odd[1], len(strange))
    text = joined(words, index, counts)
    names = pc.binary_join_element_wise(
        "IMG_", pa.array(rng.integers(0, 99_999, rows).astype(str)), ".jpg", ""
    )
    text = pc.if_else(pa.array((kind > 0.45) & (kind < 0.52)), names, text)
    repeated = text.slice(0, rows // 20).take(pa.array(rng.integers(0, max(rows // 20, 1), rows)))
    return pc.if_else(pa.array(kind > 0.95), repeated, text)


def metadata_table(number: int, rows: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    rng = np.random.default_rng([SEED, VERSION, number])
    words, languages, _ = caption_words()
    text = captions(rng, rows)
    path = joined(words, rng.integers(0, languages[0][1], 4 * rows), np.full(rows, 4, np.int32), "-")
    hosts = [
        f"https://{'www' if i % 3 else 'cdn'}.{w}{i}.example/img"
        for i, w in enumerate(words[:800].to_pylist())
    ]
    host = pa.array(hosts).take(
        pa.array(np.minimum(rng.pareto(0.8, rows) * 30, len(hosts) - 1).astype(np.int64))
    )
    url = pc.binary_join_element_wise(host, path, hex_column(rng.bytes(rows * 8), 8), "/")
    width = np.clip(rng.lognormal(6.3, 0.6, rows), 16, 12_000).astype(np.int64)
    height = np.clip(width * rng.lognormal(-0.1, 0.4, rows), 16, 12_000).astype(np.int64)
    b32 = rng.normal(0.21, 0.055, rows).astype(np.float16)
    l14 = (0.8 * b32.astype(np.float32) + rng.normal(0.03, 0.03, rows).astype(np.float32)).astype(np.float16)
    faces = np.where(rng.random(rows) < 0.3, rng.integers(1, 4, rows), 0)
    ends = np.concatenate([[0], np.cumsum(faces)]).astype(np.int32)
    corners = pa.array(rng.random(int(ends[-1]) * 4))
    boxes = pa.ListArray.from_arrays(pa.array(np.arange(0, len(corners) + 1, 4, dtype=np.int32)), corners)
    digests = hex_column(rng.bytes(rows * 32), 32)
    again = np.where(rng.random(rows) < 0.03, rng.integers(0, rows, rows), np.arange(rows))
    return pa.table(
        {
            "uid": hex_column(rng.bytes(rows * 16), 16),
            "url": pc.binary_join_element_wise(url, ".jpg", ""),
            "text": text,
            "original_width": width,
            "original_height": height,
            "clip_b32_similarity_score": b32.astype(np.float32),
            "clip_l14_similarity_score": l14.astype(np.float32),
            "face_bboxes": pa.ListArray.from_arrays(pa.array(ends), boxes),
            "sha256": digests.take(pa.array(again)),
        }
    )


def write_shard(path: Path, number: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(
        metadata_table(number, SHARD_ROWS), temporary, compression="snappy", row_group_size=ROW_GROUP_ROWS
    )
    temporary.rename(path)


def tar_uids(number: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The uids of one tar as (n, 2) words."""
    return np.random.default_rng([SEED, VERSION, 7, number]).integers(0, 2**64, (TAR_SAMPLES, 2), np.uint64)


def member(name: str, data: bytes) -> bytes:
    """A ustar header, the data and its padding."""
    head = bytearray(512)
    head[0 : len(name)] = name.encode()
    head[100:108], head[108:116], head[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    head[124:136], head[136:148] = f"{len(data):011o}\0".encode(), b"00000000000\0"
    head[148:156], head[156:157], head[257:265] = b" " * 8, b"0", b"ustar\x0000"
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head) + data + b"\0" * (-len(data) % 512)


def write_tar(path: Path, number: int) -> None:
    rng = np.random.default_rng([SEED, VERSION, 8, number])
    noise, sizes = rng.bytes(4 << 20), rng.integers(9_000, 15_000, TAR_SAMPLES)
    starts = rng.integers(0, (4 << 20) - 16_000, TAR_SAMPLES)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as handle:
        for i, (hi, lo) in enumerate(tar_uids(number).tolist()):
            key, uid = f"{number:08d}{i:04d}", f"{hi:016x}{lo:016x}"
            jpeg = b"\xff\xd8\xff\xe0" + uid.encode() + noise[starts[i] : starts[i] + sizes[i]] + b"\xff\xd9"
            text = f"a photo of thing {i} with some more words"
            facts = {
                "uid": uid, "face_bboxes": [], "caption": text, "url": f"https://www.example/{key}.jpg", "key": key,
                "status": "success", "error_message": None, "width": 256, "height": 256, "original_width": 640,
                "original_height": 480, "exif": "{}", "sha256": uid * 2,
            }  # fmt: skip
            handle.write(member(key + ".jpg", jpeg))
            handle.write(member(key + ".json", json.dumps(facts, indent=4).encode()))
            handle.write(member(key + ".txt", text.encode()))
        handle.write(b"\0" * 10_240)
    temporary.rename(path)
    path.with_name(f"{number:08d}_stats.json").write_text(json.dumps({"successes": TAR_SAMPLES}))


def make(kind: str, folder: Path, sizes: list[int]) -> None:
    """Folders `<kind>-<size>` in `folder`; what is there already is kept."""
    per_file, write, ending = (
        (SHARD_ROWS, write_shard, ".parquet") if kind == "metadata" else (TAR_SAMPLES, write_tar, ".tar")
    )
    store = folder / f"{kind}-v{VERSION}"
    store.mkdir(parents=True, exist_ok=True)
    if any(size % per_file or not size for size in sizes):
        raise SystemExit(f"sizes of {kind} are multiples of {per_file}")
    missing = [n for n in range(max(sizes) // per_file) if not (store / f"{n:08d}{ending}").exists()]
    with ProcessPoolExecutor(2) as workers:
        list(workers.map(write, [store / f"{n:08d}{ending}" for n in missing], missing))
    for size in sizes:
        pool = folder / f"{kind}-{size}"
        pool.mkdir(exist_ok=True)
        names = [f"{n:08d}" for n in range(size // per_file)]
        for name in names:
            for file in store.glob(f"{name}[._]*"):
                if not (pool / file.name).exists():
                    os.link(file, pool / file.name)
        if kind == "tars":
            write_subset(folder / f"tars-{size}.npy", len(names))


def write_subset(path: Path, tars: int) -> None:
    """About KEEP of the uids of the first `tars` tars, sorted."""
    words = np.concatenate([tar_uids(n) for n in range(tars)])
    words = words[np.random.default_rng([SEED, 9]).random(len(words)) < KEEP]
    words = np.ascontiguousarray(words[np.lexsort((words[:, 1], words[:, 0]))])
    np.save(path, words.view("u8,u8").reshape(-1))


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]), [int(size) for size in sys.argv[3:]])
