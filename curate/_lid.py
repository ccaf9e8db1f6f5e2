"""fastText's supervised models with a label tree, evaluated for many texts at once.

The library looks up three character n-grams for each letter of each text, which is where its time goes. Here
each distinct word of a block is looked up once, a text is the sum of its words, and the label tree is walked
for all texts of a block together. Answers are those of the library: where the two best labels are closer than
CLOSE the caller asks the library, which adds in single precision and in another order. Probabilities differ
from the library's by less than 1e-5 of their value; they are computed in double precision, so that in single
precision they do not depend on how rows are batched.

Source of the format and the arithmetic: fastText 0.9.2 (MIT), model files of version 12, read-only here.
File: magic, version, 12 int32 and a double of arguments; dictionary (counts, words and labels with their
counts, kept n-gram buckets); input matrix (dense, or product-quantised with quantised norms); output matrix,
one row per inner node.
Units: a "row" of the input matrix belongs to a known word or to a hashed n-gram of "<word>", 2-4 characters
long.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray[Any, np.dtype[Any]]

MAGIC, VERSION = 793712314, 12
TREE_LOSS, SUPERVISED = 1, 3
CENTROIDS = 256  # per sub-quantiser
LIBRARY_EPSILON = 1e-5  # the library adds it to each probability on the way to a label

CLOSE = 1e-3  # relative distance of the two best labels below which the library decides
TREE_BLOCK_TEXTS = 1024
LONGEST_FAST_SUM_WORDS = 64

_BLANKS = "[\n\r\t\v\f\\x00]"  # with the space: what the library separates words at
_NO_PARENT_COUNT = 10**15
_FNV_START, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)


class Unsupported(Exception):
    """Not a model of the kind that is evaluated here; the library may still read it."""


class LabelModel:
    """The parts of a model file that decide a label."""

    def __init__(self, path: Path) -> None:
        read = _Reader(path.read_bytes())
        if read.values("2i") != (MAGIC, VERSION):
            raise Unsupported("another file version")
        (self.dim, _, _, _, _, ngrams, loss, kind, self.bucket, self.least, self.most, _) = read.values("12i")
        read.values("d")
        if (loss, kind, ngrams) != (TREE_LOSS, SUPERVISED, 1) or self.least < 2:
            raise Unsupported("another kind of model")
        size, self.n_words, n_labels = read.values("3i")
        _, n_kept = read.values("2q")
        words: list[str] = []
        counts: list[int] = []
        self.labels: list[str] = []
        for _ in range(size):
            name = read.name()
            count, is_label = read.values("qb")
            (self.labels if is_label else words).append(name)
            if is_label:
                counts.append(count)
        self._kept = self._kept_buckets(read, n_kept)
        self._words = pa.array(words, pa.large_string())
        if len(words) != self.n_words or len(self.labels) != n_labels or "</s>" not in words:
            raise Unsupported("the dictionary is not in order")
        self._rows = read.matrix() if not read.values("?")[0] else read.quantised()
        if read.values("?")[0]:
            raise Unsupported("a quantised output matrix")
        self._nodes = read.matrix().astype(np.float64)[: n_labels - 1]
        self._end_of_text = self._rows[words.index("</s>")].astype(np.float64)
        self._children = _tree(counts)
        if self._rows.shape[1] != self.dim or self._nodes.shape != (n_labels - 1, self.dim):
            raise Unsupported("matrices of another width")

    def best(self, texts: pa.Array) -> tuple[Array, Array, Array]:
        """Number and probability of the best label of each text, and whether it is too close to tell."""
        hidden = self._hidden(texts)
        label = np.empty(len(hidden), np.int32)
        probability = np.empty(len(hidden))
        close = np.zeros(len(hidden), bool)
        block = min(TREE_BLOCK_TEXTS, max(len(hidden), 1))
        right, left = (np.empty((len(self._nodes), block)) for _ in range(2))
        reach = np.empty((2 * len(self.labels) - 1, block))
        for start in range(0, len(hidden), block):
            part = slice(start, min(start + block, len(hidden)))
            n = part.stop - start
            r, ahead = right[:, :n], reach[:, :n]
            self._go_right(hidden[part].T.copy(), r)
            np.subtract(1 + LIBRARY_EPSILON, r, out=left[:, :n])
            np.add(r, LIBRARY_EPSILON, out=r)
            ahead[-1] = 1
            for node, one, other in self._children:  # from the root down
                inner = node - len(self.labels)
                np.multiply(ahead[node], left[inner, :n], out=ahead[one])
                np.multiply(ahead[node], right[inner, :n], out=ahead[other])
            leaves = ahead[: len(self.labels)]
            top = leaves.max(axis=0)
            which, text = np.nonzero(leaves >= top * (1 - CLOSE))
            label[start + text] = which
            probability[part] = top
            if len(text) > n:
                close[part] = np.bincount(text, minlength=n) > 1
        return label, probability, close

    def _go_right(self, hidden: Array, out: Array) -> None:
        """Probability of the right branch at each inner node."""
        np.einsum(
            "ij,jk->ik", self._nodes, hidden, out=out
        )  # not BLAS, whose threads cost more than they save
        np.negative(out, out=out)
        np.exp(out, out=out)
        np.add(out, 1, out=out)
        np.reciprocal(out, out=out)

    def _hidden(self, texts: pa.Array) -> Array:
        """Mean of the rows of each text's words and of the end of text."""
        words = pc.split_pattern(pc.replace_substring_regex(texts, _BLANKS, " "), " ")
        bounds = words.offsets.to_numpy()
        encoded = words.flatten().dictionary_encode()
        sums, counts = self._word_sums(encoded.dictionary.cast(pa.large_string()))
        index = encoded.indices.to_numpy()
        first, n_words = bounds[:-1] - bounds[0], np.diff(bounds)
        total = np.zeros((len(texts), self.dim))
        n_rows = np.ones(len(texts), np.int64)
        if len(texts):
            n_rows += np.add.reduceat(counts[index], first)  # every text has a word, if an empty one
        order = np.argsort(-n_words, kind="stable")
        short = order[np.searchsorted(-n_words[order], -LONGEST_FAST_SUM_WORDS) :]
        for text in order[: len(order) - len(short)]:
            total[text] = sums[index[first[text] : first[text] + n_words[text]]].sum(axis=0)
        short_sum, place, left = np.zeros((len(short), self.dim)), first[short], n_words[short]
        for j in range(int(left[0]) if len(left) else 0):
            n = int(np.searchsorted(-left, -j))  # texts with more than j words come first
            short_sum[:n] += sums[index[place[:n] + j]]
        total[short] = short_sum
        total += self._end_of_text
        total /= n_rows[:, None]
        return total

    def _word_sums(self, words: pa.Array) -> tuple[Array, Array]:
        """Sum and number of the input rows of each word: its own, if it is known, and those of its n-grams."""
        known = pc.index_in(words, value_set=self._words).fill_null(-1).to_numpy(zero_copy_only=False)
        listed = np.flatnonzero(known >= 0)
        owners, rows = [listed], [known[listed].astype(np.int64)]
        for owner, bucket in self._ngrams(words):
            row = bucket.astype(np.int64) if self._kept is None else self._kept[bucket].astype(np.int64)
            kept = row >= 0
            owners.append(owner[kept])
            rows.append(row[kept] + self.n_words)
        owner, row = np.concatenate(owners), np.concatenate(rows)
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=len(words))
        sums = np.zeros((len(words), self.dim))
        some = np.flatnonzero(counts)
        if len(some):
            starts = (np.cumsum(counts) - counts)[some]
            sums[some] = np.add.reduceat(self._rows[row[order]].astype(np.float64), starts, axis=0)
        return sums, counts

    def _ngrams(self, words: pa.Array) -> list[tuple[Array, Array]]:
        """(word, bucket) of the n-grams of "<word>", one pair of arrays for each length in characters."""
        if self._kept is not None and not len(self._kept):
            return []
        ends = [pa.scalar(mark, pa.large_string()) for mark in ("<", ">", "")]
        marked = pc.binary_join_element_wise(ends[0], words, ends[1], ends[2])
        marked = pc.if_else(pc.equal(words, ""), "", marked)  # between two blanks: no word
        offsets = np.frombuffer(marked.buffers()[1], np.int64, len(marked) + 1, marked.offset * 8)
        octets = np.frombuffer(marked.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
        at = np.flatnonzero((octets & 0xC0) != 0x80)  # first byte of each character
        owner = np.repeat(np.arange(len(words)), np.diff(offsets))[at]
        width = np.diff(np.append(at, len(octets)))
        signed = octets.view(np.int8).astype(np.int32).view(np.uint32)  # the hash takes bytes as signed
        hashed = np.full(len(at), _FNV_START)
        found = []
        for length in range(1, min(self.most, len(at)) + 1):
            last = at[length - 1 :]
            hashed = (hashed[: len(last)] ^ signed[last]) * _FNV_PRIME
            for j in range(1, int(width.max())):
                wide = np.flatnonzero(width[length - 1 :] > j)
                hashed[wide] = (hashed[wide] ^ signed[last[wide] + j]) * _FNV_PRIME
            if length >= self.least:
                inside = owner[: len(last)] == owner[length - 1 :]
                found.append((owner[: len(last)][inside], hashed[inside] % np.uint32(self.bucket)))
        return found

    def _kept_buckets(self, read: _Reader, n_kept: int) -> Array | None:
        """bucket -> row of the n-gram part, -1 where it was pruned; None where all are kept."""
        if n_kept < 0:
            return None
        if n_kept == 0:
            return np.empty(0, np.int32)
        pairs = read.array("<i4", 2 * n_kept).reshape(-1, 2)
        kept = np.full(self.bucket, -1, np.int32)
        kept[pairs[:, 0]] = pairs[:, 1]
        return kept


class _Reader:
    """Little-endian values one after another."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def values(self, layout: str) -> tuple[Any, ...]:
        try:
            found = struct.unpack_from("<" + layout, self._content, self._at)
        except struct.error:
            raise Unsupported("the file ends early") from None
        self._at += struct.calcsize("<" + layout)
        return found

    def name(self) -> str:
        end = self._content.find(b"\0", self._at)
        if end < 0:
            raise Unsupported("the file ends early")
        name = self._content[self._at : end]
        self._at = end + 1
        return name.decode("utf-8", "replace")

    def array(self, kind: str, count: int) -> Array:
        size_bytes = np.dtype(kind).itemsize * count
        if count < 0 or self._at + size_bytes > len(self._content):
            raise Unsupported("the file ends early")
        found = np.frombuffer(self._content, kind, count, self._at)
        self._at += size_bytes
        return found

    def matrix(self) -> Array:
        n_rows, n_columns = self.values("2q")
        return self.array("<f4", n_rows * n_columns).reshape(n_rows, n_columns)

    def quantised(self) -> Array:
        """The rows that the codes stand for, multiplied in single precision as the library does."""
        has_norms, n_rows, _, n_codes = self.values("?2qi")
        codes = self.array("u1", n_codes)
        centroids = self._centroids()
        rows = np.concatenate(
            [part[code] for part, code in zip(centroids, codes.reshape(n_rows, -1).T, strict=True)], 1
        )
        if has_norms:
            norms = self.array("u1", n_rows)
            rows = rows * self._centroids()[0][norms]
        found: Array = rows
        return found

    def _centroids(self) -> Array:
        dim, n_parts, width, last_width = self.values("4i")
        if width != last_width:
            raise Unsupported("sub-quantisers of several widths")
        return self.array("<f4", dim * CENTROIDS).reshape(n_parts, CENTROIDS, width)


def _tree(counts: list[int]) -> list[tuple[int, int, int]]:
    """(inner node, left, right) from the root down; labels are 0 … n-1, in falling order of their counts."""
    n = len(counts)
    weight = counts + [_NO_PARENT_COUNT] * (n - 1)
    leaf, inner = n - 1, n
    nodes = []
    for node in range(n, 2 * n - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weight[leaf] < weight[inner]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(inner)
                inner += 1
        weight[node] = weight[pair[0]] + weight[pair[1]]
        nodes.append((node, pair[0], pair[1]))
    return nodes[::-1]
