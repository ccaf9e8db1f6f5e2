"""Finds the uid in the json member of many samples at once.

One rule: the value of the top-level key "uid", 32 hex digits. `locate` answers the plain case for a whole batch without
building objects: the text starts with '{', ends with '}', holds the token "uid" exactly once, at depth one, followed by
32 hex digits. Everything else goes through a strict parser (`parse`), so the fast answer is never a guess. What the fast
answer does not do is check the rest of a json that has such a uid: those bytes are passed on unread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

OK, NO_JSON, BAD_JSON, NO_UID, BAD_UID, BAD_NAME, TRUNCATED = range(7)
REASONS = {
    NO_JSON: "no_json",
    BAD_JSON: "bad_json",
    NO_UID: "no_uid",
    BAD_UID: "bad_uid",
    BAD_NAME: "bad_name",
    TRUNCATED: "truncated",
}
MAX_JSON_BYTES = 64 << 20

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)
_NIBBLE[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16, dtype=np.uint8)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class Uids:
    """One entry per json. `spelled` keeps the text of a uid that is not in lower case."""

    hi: U64
    lo: U64
    state: U8
    spelled: dict[int, str]


def hex_to_pairs(digits: U8) -> tuple[U64, U64, npt.NDArray[np.bool_]]:
    """(n, 32) ASCII digits to high words, low words and whether all 32 are hex digits."""
    nibbles = _NIBBLE[digits]
    good: npt.NDArray[np.bool_] = np.all(nibbles < 16, axis=1)
    pairs = ((nibbles[:, 0::2] << 4) | (nibbles[:, 1::2] & 15)).view(">u8").astype(np.uint64)
    return pairs[:, 0], pairs[:, 1], good


def pairs_to_hex(hi: U64, lo: U64) -> U8:
    """(n, 32) lower-case ASCII digits."""
    raw = np.stack([hi, lo], axis=1).astype(">u8").view(np.uint8)
    out = np.empty((len(hi), 32), np.uint8)
    out[:, 0::2] = _HEX[raw >> 4]
    out[:, 1::2] = _HEX[raw & 15]
    return out


def locate(texts: Sequence[bytes | memoryview]) -> Uids:
    """The uid of each json text."""
    count = len(texts)
    hi, lo = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    state = np.full(count, 255, np.uint8)
    spelled: dict[int, str] = {}
    blob = np.frombuffer(b"".join(texts) + bytes(48), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, count))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    total = int(ends[-1]) if count else 0
    body = blob[:total]
    if total > 8:
        quote = np.flatnonzero((body[2:-2] == 0x69) & (body[3:-1] == 0x64))  # the 'id' of "uid"
        near = (body[quote] == 0x22) & (body[quote + 1] == 0x75) & (body[quote + 4] == 0x22)
        at = quote[near]
        owner = np.searchsorted(ends, at, side="right")
        once = np.bincount(owner, minlength=count)[owner] == 1
        at, owner = at[once], owner[once]
        begin, last = starts[owner], ends[owner]
        braces = np.flatnonzero(body == 0x7B)
        depth = np.searchsorted(braces, at) - np.searchsorted(braces, begin)
        plain = (body[begin] == 0x7B) & (body[last - 1] == 0x7D) & (depth == 1) & (body[at - 1] != 0x5C)
        plain &= (at > begin) & (blob[at + 5] == 0x3A)
        value = at + 6 + (blob[at + 6] == 0x20)
        plain &= (blob[value] == 0x22) & (blob[value + 33] == 0x22) & (value + 34 < last)
        value, owner = value[plain], owner[plain]
        digits = blob[value[:, None] + np.arange(1, 33)]
        found_hi, found_lo, good = hex_to_pairs(digits)
        hi[owner], lo[owner] = found_hi, found_lo
        state[owner[good]] = OK
        upper = good & ((digits >= 0x41) & (digits <= 0x46)).any(axis=1)
        for row in np.flatnonzero(upper).tolist():
            spelled[int(owner[row])] = digits[row].tobytes().decode()
    for row in np.flatnonzero(state == 255).tolist():
        answer = parse(bytes(texts[row]))
        if isinstance(answer, str):
            state[row] = OK
            number = int(answer, 16)
            hi[row], lo[row] = number >> 64, number & 0xFFFFFFFFFFFFFFFF
            if answer != answer.lower():
                spelled[row] = answer
        else:
            state[row], hi[row], lo[row] = answer, 0, 0
    return Uids(hi, lo, state, spelled)


class _TwoUids(ValueError):
    pass


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs) and sum(key == "uid" for key, _ in pairs) > 1:
        raise _TwoUids
    return found


def _constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def parse(text: bytes) -> str | int:
    """The uid as spelt in `text`, or the state that says why there is none."""
    if len(text) > MAX_JSON_BYTES:
        return BAD_JSON
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except _TwoUids:
        return BAD_UID
    except (ValueError, RecursionError):
        return BAD_JSON
    if not isinstance(document, dict):
        return NO_UID
    if "uid" not in document:
        return NO_UID
    uid = document["uid"]
    if not isinstance(uid, str) or len(uid) != 32 or not all(c in "0123456789abcdefABCDEF" for c in uid):
        return BAD_UID
    return uid
