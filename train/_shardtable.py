"""The samples of one tar: which members belong together, and where the picture and the caption of each lie.

Members become samples by the rule that open_clip 3.3 trains by (`open_clip_train.data.group_by_keys_nothrow`): a sample ends where
the key changes or an extension comes again, extensions in lower case. Of several pictures the first of jpg, png, jpeg, webp is
taken; samples without picture or caption are no rows of the table, and are counted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headwater.errors import MissingInput
from train._shardscan import CAPTION, I64, IMAGES, SHARED, Bool, Findings, Listing


@dataclass(frozen=True)
class ShardTable:
    """The samples of one tar that have a picture and a caption, in tar order: row i is the sample with ordinal i.

    Offsets and sizes are int64 (n), bytes from the start of the file.
    """

    path: Path
    image_offset: I64
    image_size: I64
    text_offset: I64
    text_size: I64
    keys: list[bytes]

    def __len__(self) -> int:
        return len(self.keys)


def read_table(path: Path) -> tuple[ShardTable, Findings]:
    """The samples of the tar at `path`, and what is wrong with its structure. Contents of members are not looked at.

    A tar that is damaged, compressed or lies about itself gives the samples before that place and a problem of that name;
    only a file that cannot be opened raises MissingInput.
    """
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise MissingInput(f"shard {path} cannot be read: {error.strerror}") from error
    try:
        listing = Listing(fd, path.name)
        listing.walk()
    finally:
        os.close(fd)
    return _samples(path, listing)


def _samples(path: Path, listing: Listing) -> tuple[ShardTable, Findings]:
    """Group members into samples and pick picture and caption of each."""
    found = listing.found
    code, data, size = listing.columns()
    keys = listing.keys
    new = np.fromiter((a != b for a, b in zip(keys[1:], keys, strict=False)), np.bool_, max(len(keys) - 1, 0))
    new = np.concatenate([np.ones(min(len(keys), 1), np.bool_), new])
    bits = np.left_shift(1, code)
    _split_repeats(new, code, bits)
    first = np.flatnonzero(new)
    mask = np.bitwise_or.reduceat(bits, first) if len(first) else bits
    group = np.cumsum(new) - 1
    image = np.full(len(first), -1)
    for number in range(len(IMAGES) - 1, -1, -1):
        rows = np.flatnonzero(code == number)
        image[group[rows]] = rows
    text = np.full(len(first), -1)
    rows = np.flatnonzero(code == CAPTION)
    text[group[rows]] = rows
    names = [keys[row] for row in first.tolist()]
    found.samples = len(names)
    _tell_samples(listing, names, mask)
    _tell_order(found, names, mask)
    _tell_end(listing, first, len(keys))
    both = np.flatnonzero((image >= 0) & (text >= 0))
    image, text = image[both], text[both]
    table = ShardTable(
        path, data[image], size[image], data[text], size[text], [names[n] for n in both.tolist()]
    )
    return table, found


def _split_repeats(new: Bool, code: I64, bits: I64) -> None:
    """An extension that is already in its sample begins a new one: sets `new` there."""
    first = np.flatnonzero(new)
    if not len(first):
        return
    counts = np.diff(np.append(first, len(new)))
    kinds = np.bitwise_count(np.bitwise_or.reduceat(bits, first))
    for run in np.flatnonzero(kinds < counts).tolist():
        seen = 0
        for row in range(int(first[run]), int(first[run] + counts[run])):
            bit = int(bits[row])
            if seen & bit and int(code[row]) != SHARED:
                new[row], seen = True, 0
            seen |= bit


def _tell_samples(listing: Listing, names: list[bytes], mask: I64) -> None:
    found = listing.found
    links = set(listing.links)
    images = mask & ((1 << CAPTION) - 1)
    captions = mask & (1 << CAPTION)
    for row in np.flatnonzero(images == 0).tolist():
        other = (
            "neither picture nor caption" if not captions[row] else "a caption, but no jpg, png, jpeg or webp"
        )
        found.add(
            "no_image", names[row], other + (" (a link is there in its place)" if names[row] in links else "")
        )
    for row in np.flatnonzero((images != 0) & (captions == 0)).tolist():
        found.add("no_caption", names[row], "a picture, but no txt")
    for row in np.flatnonzero(np.bitwise_count(images) > 1).tolist():
        held = [IMAGES[n].decode() for n in range(CAPTION) if int(images[row]) >> n & 1]
        found.add("two_images", names[row], f"{' and '.join(held)}: open_clip takes the {held[0]}")


def _tell_order(found: Findings, names: list[bytes], mask: I64) -> None:
    """A key that comes again: halves of one sample (wrong order), or whole samples of one name (duplicates)."""
    if len(set(names)) == len(names):
        return
    earlier: dict[bytes, list[int]] = {}
    for row, key in enumerate(names):
        if key in earlier:
            halves = [n for n in earlier[key] if not int(mask[n]) & int(mask[row])]
            if halves:
                detail = f"its members are not side by side: parts as sample {halves[0] + 1:,} and as {row + 1:,} of the tar"
                found.add("wrong_order", key, detail)
            else:
                found.add("duplicate_key", key, f"samples {earlier[key][0] + 1:,} and {row + 1:,} of the tar")
            if len(earlier[key]) < 8:
                earlier[key].append(row)
        else:
            earlier[key] = [row]


def _tell_end(listing: Listing, first: I64, members: int) -> None:
    """A file cut between two members has a clean end, and only its last sample can show it."""
    if not listing.unmarked:
        return
    counts = np.diff(np.append(first, members))
    key = listing.keys[-1] if listing.keys else b""
    if len(counts) > 1 and counts[-1] < counts[-2]:
        detail = "no end-of-archive mark, and the last sample has fewer members than the one before"
        listing.found.add("damaged_tar", key, detail)
    else:
        listing.found.add(
            "no_end_mark", key, "no end-of-archive mark: the last sample may be the last that arrived"
        )
