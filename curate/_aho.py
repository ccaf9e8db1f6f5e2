"""Which entries of a long list occur in a text, many texts at once: the search of MetaCLIP (arXiv 2309.16671), exactly.

The published search pads text and entry with a blank and looks for " entry " in the spaced text. A hit therefore begins and ends at
blanks, so it is a run of whole words: with both sides cut at every single blank (empty words count, as in "a  b"), an entry occurs
exactly when its words stand one after the other among the text's words. That makes the automaton of Aho and Corasick (1975) one over
words instead of bytes: a trie whose edges are words. All texts of a block walk it together, one array step for each word of the
longest entry; failure links, which save one walker from going back, save nothing where every start is walked at once.

Spacing is part of the cut: `, . ; : ? ! `` ` are words of their own, tab, LF and CR are blanks. Words are compared byte by byte, never
by hash alone. Cost: about the number of words, plus one step for each word that goes on matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

MARKS = b",.;:?!`"
BLANKS = b" \t\n\r"
_BLANK, _MARK = 1, 2
_KIND = np.zeros(256, np.uint8)
_KIND[list(BLANKS)] = _BLANK
_KIND[list(MARKS)] = _MARK
_FIRST_BYTES = np.array([(1 << (8 * k)) - 1 for k in range(8)] + [(1 << 64) - 1], np.uint64)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(29)
_NONE = np.int32(-1)


def can_match(entry: bytes) -> bool:
    """Whether any text can hold the entry: spacing leaves marks alone between blanks, two of them between two marks, and no
    tab, LF or CR.
    """
    words = entry.split(b" ")
    marked = [any(mark in word for mark in MARKS) for word in words]
    alone = all(len(word) == 1 or not has for word, has in zip(words, marked, strict=True))
    apart = not any(one and next_ for one, next_ in zip(marked, marked[1:], strict=False))
    return alone and apart and not any(blank in entry for blank in b"\t\n\r")


class Matcher:
    """Finds entries in texts. `entries` are distinct byte strings; an entry's number is its place in the list."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        numbers: dict[bytes, int] = {}
        edges: dict[tuple[int, int], int] = {}
        ends: list[int] = [-1]  # state -> entry that ends there; state 0 is the start
        for number, entry in enumerate(entries):
            state = 0
            for word in entry.split(b" "):
                edge = (state, numbers.setdefault(word, len(numbers)))
                state = edges.setdefault(edge, len(ends))
                if state == len(ends):
                    ends.append(-1)
            ends[state] = number
        self.size = len(entries)
        self._words = _Words(list(numbers))
        self._entry = np.array(ends, np.int32)
        pairs = np.array(list(edges), np.int64).reshape(-1, 2)
        states = np.fromiter(edges.values(), np.int32, len(edges))
        root = pairs[:, 0] == 0
        self._first = np.full(len(numbers) + 1, _NONE)  # the last one answers for words of no entry
        self._first[pairs[root, 1]] = states[root]
        self._goes_on = np.zeros(len(ends), bool)
        self._goes_on[pairs[~root, 0]] = True
        self._edges = _Table(_edge(pairs[~root, 0], pairs[~root, 1]), states[~root])

    def find(self, data: Bytes, offsets: Ints) -> tuple[Ints, npt.NDArray[np.int32]]:
        """(text, entry) of every entry that occurs in a text, each once, by text, then entry.

        Text i is `data[offsets[i]:offsets[i + 1]]`. About 40 bytes of memory for each byte of text.
        """
        data = data[offsets[0] : offsets[-1]]
        starts, lengths, text = cut(data, offsets - offsets[0])
        word = self._words.numbers(data, starts, lengths)
        state = self._first[word]
        at = np.flatnonzero(state >= 0)
        state = state[at]
        found: list[Keys] = []
        while len(at):
            entry = self._entry[state]
            hit = entry >= 0
            found.append(text[at[hit]].astype(np.uint64) << np.uint64(32) | entry[hit].astype(np.uint64))
            on = self._goes_on[state]
            on[at == len(text) - 1] = False  # the last word of all
            at, state = at[on], state[on]
            same = (text[at] == text[at + 1]) & (word[at + 1] >= 0)
            at, state = at[same] + 1, state[same]
            state = self._edges.find(_edge(state, word[at]))
            at, state = at[state >= 0], state[state >= 0]
        both = np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)
        return (both >> np.uint64(32)).astype(np.int64), (both & np.uint64(0xFFFFFFFF)).astype(np.int32)


def cut(data: Bytes, offsets: Ints) -> tuple[Ints, Ints, npt.NDArray[np.int32]]:
    """Words of the spaced texts: where each starts, its length in bytes, and its text; `offsets` begin at 0."""
    texts = len(offsets) - 1
    byte = np.flatnonzero(_KIND[data] != 0)
    before = np.searchsorted(byte, offsets[1:])  # separators up to the end of each text
    per_text = np.diff(before, prepend=0)
    of_byte = np.repeat(np.arange(texts, dtype=np.int32), per_text)
    # each separator and each end of a text ends a word
    place = np.empty(len(byte) + texts, np.int64)
    kind = np.zeros(len(place), np.uint8)
    mine = np.arange(len(byte)) + of_byte
    place[mine], kind[mine] = byte, _KIND[data[byte]]
    place[before + np.arange(texts)] = offsets[1:]
    starts = np.empty(len(place), np.int64)
    starts[:1] = 0
    np.add(place[:-1], kind[:-1] != 0, out=starts[1:])
    lengths = place - starts
    text = np.repeat(np.arange(texts, dtype=np.int32), per_text + 1)
    mark = kind == _MARK
    if mark.any():  # the mark itself is the word after
        twice = 1 + mark.astype(np.int64)
        own = (np.cumsum(twice) - 1)[mark]
        starts, lengths, text = (np.repeat(v, twice) for v in (starts, lengths, text))
        starts[own], lengths[own] = place[mark], 1
    return starts, lengths, text


def _edge(state: Any, word: Any) -> Keys:
    return np.asarray(state.astype(np.uint64) << np.uint64(32) | word.astype(np.uint64))


class _Table:
    """Distinct keys of 64 bits -> numbers, looked up many at a time."""

    def __init__(self, keys: Keys, values: npt.NDArray[np.int32]) -> None:
        order, self._shift, self._starts = _buckets(keys * _ODD)
        self._keys, self._values = keys[order], values[order]

    def find(self, keys: Keys) -> npt.NDArray[np.int32]:
        """The number of each key, or -1."""
        out = np.full(len(keys), _NONE)
        bucket = (keys * _ODD) >> self._shift
        at, end = self._starts[bucket], self._starts[bucket + np.uint64(1)]
        left = np.flatnonzero(at < end)
        while len(left):
            place = at[left]
            same = self._keys[place] == keys[left]
            out[left[same]] = self._values[place[same]]
            at[left] = place + 1
            left = left[~same & (place + 1 < end[left])]
        return out


class _Words:
    """The distinct words of all entries -> their numbers."""

    def __init__(self, words: list[bytes]) -> None:
        self._longest = max(map(len, words), default=0)
        data = np.frombuffer(b"".join(words), np.uint8)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        starts = np.cumsum(lengths) - lengths
        windows = _windows(data)
        order, self._shift, self._starts = _buckets(_hashes(windows, starts, lengths))
        self._number = order.astype(np.int32)
        self._lengths, self._at = lengths[order], starts[order]
        self._windows = windows
        self._head = windows[self._at] & _FIRST_BYTES[np.minimum(self._lengths, 8)]

    def numbers(self, data: Bytes, starts: Ints, lengths: Ints) -> npt.NDArray[np.int32]:
        """The number of each word of `data`, or -1."""
        out = np.full(len(starts), _NONE)
        windows = _windows(data)
        able = np.flatnonzero(lengths <= self._longest)
        if len(able) < len(starts):
            starts, lengths = starts[able], lengths[able]
        head = windows[starts] & _FIRST_BYTES[np.minimum(lengths, 8)]
        bucket = _hashes(windows, starts, lengths, head) >> self._shift
        at, end = self._starts[bucket], self._starts[bucket + np.uint64(1)]
        left = np.flatnonzero(at < end)
        while len(left):
            place = at[left]
            same = (self._head[place] == head[left]) & (self._lengths[place] == lengths[left])
            long = np.flatnonzero(same & (lengths[left] > 8))
            if len(long):
                some = left[long]
                same[long] = self._tails_equal(windows, starts[some], place[long], lengths[some])
            out[able[left[same]]] = self._number[place[same]]
            at[left] = place + 1
            left = left[~same & (place + 1 < end[left])]
        return out

    def _tails_equal(self, windows: Keys, starts: Ints, place: Any, lengths: Ints) -> npt.NDArray[np.bool_]:
        """Whether words of equal length and equal first 8 bytes are equal."""
        same = np.ones(len(starts), bool)
        left = np.arange(len(starts))
        done = 8
        while len(left):
            mask = _FIRST_BYTES[np.minimum(lengths[left] - done, 8)]
            mine, theirs = windows[starts[left] + done], self._windows[self._at[place[left]] + done]
            same[left] = ((mine ^ theirs) & mask) == 0
            done += 8
            left = left[same[left] & (lengths[left] > done)]
        return same


def _windows(data: Bytes) -> Keys:
    """The 8 bytes from each byte on, as one little-endian number; behind the end come zeros. One more than there are bytes."""
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    return np.ndarray((len(data) + 1,), "<u8", padded.data, strides=(1,))


def _hashes(windows: Keys, starts: Ints, lengths: Ints, head: Keys | None = None) -> Keys:
    """One hash a word, of its bytes and its length."""
    if head is None:
        head = windows[starts] & _FIRST_BYTES[np.minimum(lengths, 8)]
    out = (head ^ lengths.astype(np.uint64)) * _ODD
    done = 8
    left = np.flatnonzero(lengths > done)
    while len(left):
        part = windows[starts[left] + done] & _FIRST_BYTES[np.minimum(lengths[left] - done, 8)]
        out[left] = (out[left] ^ (out[left] >> _FOLD) ^ part) * _ODD
        done += 8
        left = left[lengths[left] > done]
    return np.asarray((out ^ (out >> _FOLD)) * _ODD)


def _buckets(hashes: Keys) -> tuple[Ints, np.uint64, npt.NDArray[np.int32]]:
    """(order by hash, shift, starts): hash h lies in order[starts[h >> shift] : starts[(h >> shift) + 1]]."""
    bits = max(1, int(4 * len(hashes)).bit_length())
    order = np.argsort(hashes, kind="stable")
    counts = np.bincount((hashes >> np.uint64(64 - bits)).astype(np.int64), minlength=1 << bits)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return order, np.uint64(64 - bits), starts
