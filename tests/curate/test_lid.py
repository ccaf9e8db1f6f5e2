"""The block evaluator against the library, on small models with random contents."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest

from curate._lid import LabelModel, Unsupported

WORDS = ["</s>", "dog", "hund", "собака", "犬", "the", "<", "a"]
DIM, BUCKET = 8, 500


def model_file(
    path: Path, *, seed: int, n_labels: int = 9, loss: int = 1, most: int = 4, kept: int = -1
) -> Path:
    """A dense model (kept < 0) or one whose matrix is quantised and of whose buckets only `kept` are left."""
    rng = np.random.default_rng(seed)
    parts = [struct.pack("<ii", 793712314, 12)]
    parts.append(struct.pack("<12id", DIM, 5, 1, 1, 5, 1, loss, 3, BUCKET, 2, most, 100, 1e-4))
    parts.append(struct.pack("<3i2q", len(WORDS) + n_labels, len(WORDS), n_labels, 1000, kept))
    parts += [word.encode() + struct.pack("<xqb", 50 - i, 0) for i, word in enumerate(WORDS)]
    counts = sorted(rng.integers(1, 10_000, n_labels).tolist(), reverse=True)
    parts += [f"__label__l{i}".encode() + struct.pack("<xqb", count, 1) for i, count in enumerate(counts)]
    n_rows = len(WORDS) + (BUCKET if kept < 0 else kept)
    if kept < 0:
        dense = rng.normal(size=(n_rows, DIM)).astype("<f4")
        parts += [b"\0", struct.pack("<2q", n_rows, DIM), dense.tobytes()]
    else:
        buckets = rng.permutation(BUCKET)[:kept]
        parts.append(np.stack([buckets, np.arange(kept)], 1).astype("<i4").tobytes())
        codes = rng.integers(0, 256, n_rows * DIM // 2, dtype=np.uint8)
        parts += [b"\1\1", struct.pack("<2qi", n_rows, DIM, len(codes)), codes.tobytes()]
        parts += [struct.pack("<4i", DIM, DIM // 2, 2, 2), rng.normal(size=DIM * 256).astype("<f4").tobytes()]
        parts.append(rng.integers(0, 256, n_rows, dtype=np.uint8).tobytes())
        parts += [struct.pack("<4i", 1, 1, 1, 1), rng.uniform(0.5, 2, 256).astype("<f4").tobytes()]
    output = (3 * rng.normal(size=(n_labels, DIM))).astype("<f4")
    parts += [b"\0", struct.pack("<2q", n_labels, DIM), output.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def captions(seed: int, n: int = 300) -> list[str]:
    pick = random.Random(seed)
    pieces = [
        *WORDS[1:],
        "dogs",
        "cat",
        "é",
        "ñandú",
        "👍",
        "\t",
        "\0",
        "\x0b",
        " ",
        "  ",
        ">",
        "日本",
        "x\u0301",
        "q" * 30,
    ]
    texts = [" ".join(pick.choices(pieces, k=pick.randint(0, 12))) for _ in range(n)]
    return [*texts, "", " ", "dog " * 200, "dog " * 64, "ab " * 65]


@pytest.mark.parametrize("kept", [-1, 0, 1, 120])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_labels_and_probabilities_are_the_library_s(tmp_path: Path, seed: int, kept: int) -> None:
    path = model_file(tmp_path / "model.bin", seed=seed, kept=kept)
    texts = captions(seed)
    model = LabelModel(path)
    label, probability, close = model.best(pa.array(texts))
    library = fasttext.load_model(str(path))
    assert close.mean() < 0.2
    for i, text in enumerate(texts):
        (name,), (expected,) = library.predict(text)
        assert close[i] or model.labels[label[i]] == name
        assert probability[i] == pytest.approx(expected, rel=1e-4)


def test_two_labels_that_are_close_are_left_open(tmp_path: Path) -> None:
    path = model_file(tmp_path / "model.bin", seed=1, n_labels=2)
    content = path.read_bytes()
    path.write_bytes(content[: -2 * DIM * 4] + bytes(2 * DIM * 4))  # nothing decides between the two
    _, probability, close = LabelModel(path).best(pa.array(["dog", "cat"]))
    assert close.all()
    assert probability == pytest.approx([0.5, 0.5], rel=1e-3)


def test_no_texts(tmp_path: Path) -> None:
    model = LabelModel(model_file(tmp_path / "model.bin", seed=1))
    assert [len(part) for part in model.best(pa.array([], pa.string()))] == [0, 0, 0]


@pytest.mark.parametrize("change", ["loss", "cut", "magic"])
def test_other_files_are_refused(tmp_path: Path, change: str) -> None:
    path = model_file(tmp_path / "model.bin", seed=1, loss=3 if change == "loss" else 1)
    content = path.read_bytes()
    if change == "magic":
        path.write_bytes(b"\0" + content[1:])
    for size_bytes in range(0, len(content), 97) if change == "cut" else ():
        path.write_bytes(content[:size_bytes])
        with pytest.raises(Unsupported):
            LabelModel(path)
    if change != "cut":
        with pytest.raises(Unsupported):
            LabelModel(path)
