"""Small grey pictures with a class each: MNIST and Fashion-MNIST in idx files, scikit-learn's digits in a CSV."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Sequence

import numpy as np
from clipart import BuildError
from numpy.typing import NDArray
from PIL import Image
from wds import Sample, order

BYTES_MAX = 64_000_000

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_TEMPLATES = (
    'a photo of the number: "{c}".',  # as in the list of clip-benchmark, which DataComp's MNIST uses
    "{c}",
    "the number {c}",
    "the digit {c}",
    "a handwritten digit {c}",
)
CLOTHES = (
    "a T-shirt",
    "trousers",
    "a pullover",
    "a dress",
    "a coat",
    "a sandal",
    "a shirt",
    "a sneaker",
    "a bag",
    "an ankle boot",
)
CLOTHES_TEMPLATES = ("{c}", "a picture of {c}", "a grey picture of {c}", "a photo of {c}", "an icon of {c}")

Pictures = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # N x height x width, N labels


def unzipped(data: bytes) -> bytes:
    """A gzip file of at most BYTES_MAX bytes when unpacked."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as f:
            out = f.read(BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BuildError("a gzip file of the package cannot be read") from error
    if len(out) > BYTES_MAX:
        raise BuildError("a gzip file of the package is over the size limit")
    return out


def idx(data: bytes) -> NDArray[np.uint8]:
    """The array of bytes in an idx file: 0 0 8 n, n sizes of 32 bits, then the bytes."""
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise BuildError("not an idx file of bytes")
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if int(np.prod(shape, dtype=np.int64)) != len(body):
        raise BuildError("an idx file is shorter or longer than it says")
    return body.reshape(shape)


def scikit_digits(data: bytes) -> Pictures:
    """digits.csv.gz: 64 grey values of 0 to 16 and a label a line."""
    lines = list(csv.reader(unzipped(data).decode("ascii").splitlines()))
    array = np.array([[float(cell) for cell in line] for line in lines])
    if array.shape[1] != 65 or array.min() < 0 or array[:, :64].max() > 16 or array[:, 64].max() > 9:
        raise BuildError("digits.csv.gz does not hold 64 values of 0 to 16 and a label a line")
    grey = np.round(array[:, :64] * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    return grey, array[:, 64].astype(np.uint8)


def drawn(pictures: Pictures, name: str, limit: int | None) -> list[Sample]:
    """At most `limit` pictures, each class with the same share, as PNG; `name` goes into the source."""
    grey, labels = pictures
    if len(grey) != len(labels):
        raise BuildError(f"{name}: {len(grey)} pictures but {len(labels)} labels")
    ranked = sorted(range(len(grey)), key=lambda i: order(name, str(i)))
    classes = sorted(set(labels.tolist()))
    share = len(grey) if limit is None else max(1, limit // len(classes))
    taken = dict.fromkeys(classes, 0)
    chosen: list[Sample] = []
    for i in ranked:
        label = int(labels[i])
        if taken[label] < share:
            taken[label] += 1
            told = {"source": f"{name}/{i}", "sha256": hashlib.sha256(grey[i].tobytes()).hexdigest()}
            chosen.append(Sample(png(grey[i]), "png", told, label=label))
    return chosen


def png(grey: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(grey).save(out, format="PNG", optimize=True)
    return out.getvalue()


def halves(pictures: Pictures, name: str, test: int) -> tuple[Pictures, Pictures]:
    """A set without a split, cut into (test, train) by a draw."""
    grey, labels = pictures
    ranked = sorted(range(len(grey)), key=lambda i: order("halves", name, str(i)))
    cut: Sequence[int] = ranked[:test]
    rest: Sequence[int] = ranked[test:]
    return (grey[cut], labels[cut]), (grey[rest], labels[rest])
