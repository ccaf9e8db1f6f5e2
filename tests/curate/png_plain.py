"""The encoder's rules (docstring of curate._png) said again in plain Python: slow, and written without a look at the kernels."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

STRIPE, BLOCK = 32768, 8192
Token = int | tuple[int, int]  # a byte, or (length, distance)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else 3
    data = b"".join(b"\0" + row.tobytes() for row in pixels)
    body = _deflate(data, width * channels + 1, channels)
    head = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    stream = b"\x78\x01" + body + struct.pack(">I", zlib.adler32(data))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", stream) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _deflate(data: bytes, row: int, channels: int) -> bytes:
    wanted = [1, row, row - 1, row + 1, row - 2, row + 2, row - 3, row + 3]
    if channels == 3:
        wanted = [3, row, row - 3, row + 3, row - 6, row + 6, 1, row + 9]
    far = [distance for distance in wanted if 1 <= distance <= 32768]
    blocks: list[list[Token]] = [[]]
    for first in range(0, len(data), STRIPE):
        if len(blocks[-1]) >= BLOCK:
            blocks.append([])
        blocks[-1] += _tokens(data, first, min(len(data), first + STRIPE), far)
    bits = "".join(_block(block, last=block is blocks[-1]) for block in blocks)
    stored = range(0, len(data), 65535)
    if -(-len(bits) // 8) > len(data) + 5 * len(stored):
        pieces = [data[first : first + 65535] for first in stored]
        return b"".join(
            struct.pack("<BHH", k == len(pieces) - 1, len(piece), len(piece) ^ 0xFFFF) + piece
            for k, piece in enumerate(pieces)
        )
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))


def _tokens(data: bytes, first: int, end: int, far: list[int]) -> list[Token]:
    tokens: list[Token] = []
    at = first
    while at < end:
        best, chosen = 0, 0
        for distance in far:
            length = 0
            while (
                distance <= at > first
                and at + length < end
                and data[at + length] == data[at + length - distance]
            ):
                length += 1
            if length > best:
                best, chosen = length, distance
        if best < 3:
            tokens.append(data[at])
            at += 1
            continue
        at += best
        while best:
            piece = best if best <= 258 else 258 if best > 260 else best - 3
            tokens.append((piece, chosen))
            best -= piece
    return tokens


def _length_code(length: int) -> tuple[int, str]:
    """Symbol and extra bits, the first one first, from the table of RFC 1951."""
    if length == 258:
        return 285, ""
    first, symbol = 3, 257
    for extra in [0] * 8 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 4:
        if length < first + (1 << extra):
            return symbol, _bits(length - first, extra)
        first, symbol = first + (1 << extra), symbol + 1
    raise AssertionError


def _far_code(distance: int) -> tuple[int, str]:
    first = 1
    for symbol in range(30):
        extra = max(0, symbol // 2 - 1)
        if distance < first + (1 << extra):
            return symbol, _bits(distance - first, extra)
        first += 1 << extra
    raise AssertionError


def _bits(value: int, width: int) -> str:
    """Lowest bit first."""
    return "".join(str(value >> k & 1) for k in range(width))


def _block(tokens: list[Token], *, last: bool) -> str:
    counts, far_counts = [0] * 286, [0] * 30
    counts[256] = 1
    for token in tokens:
        if isinstance(token, int):
            counts[token] += 1
        else:
            counts[_length_code(token[0])[0]] += 1
            far_counts[_far_code(token[1])[0]] += 1
    for symbol in (0, 1):
        if sum(count > 0 for count in far_counts) < 2:
            far_counts[symbol] = far_counts[symbol] or 1
    lengths, far_lengths = _cut(code_lengths(counts, 12), 257), _cut(code_lengths(far_counts, 12), 1)
    items = _items(lengths + far_lengths)
    small_counts = [0] * 19
    for symbol, _ in items:
        small_counts[symbol] += 1
    small = code_lengths(small_counts, 7)
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    in_order = _cut([small[symbol] for symbol in order], 4)
    out = [_bits(last, 1), _bits(2, 2), _bits(len(lengths) - 257, 5), _bits(len(far_lengths) - 1, 5)]
    out += [_bits(len(in_order) - 4, 4), *(_bits(length, 3) for length in in_order)]
    words = _words(small)
    out += [words[symbol] + extra for symbol, extra in items]
    words, far_words = _words(lengths), _words(far_lengths)
    for token in tokens:
        if isinstance(token, int):
            out.append(words[token])
        else:
            symbol, extra = _length_code(token[0])
            far_symbol, far_extra = _far_code(token[1])
            out.append(words[symbol] + extra + far_words[far_symbol] + far_extra)
    return "".join([*out, words[256]])


def _cut(lengths: list[int], least: int) -> list[int]:
    while len(lengths) > least and not lengths[-1]:
        lengths = lengths[:-1]
    return lengths


def code_lengths(counts: list[int], limit: int) -> list[int]:
    leaves = sorted((count, symbol) for symbol, count in enumerate(counts) if count)
    # nodes carry (weight, 0 for a leaf and 1 for an inner node, when it came) and their symbols with depths
    nodes = [((count, 0, k), [k]) for k, (count, _) in enumerate(leaves)]
    depth = [0] * len(leaves)
    made = 0
    while len(nodes) > 1:
        nodes.sort(key=lambda node: node[0])
        (one, few), (two, more), *nodes = nodes
        for k in few + more:
            depth[k] += 1
        nodes.append(((one[0] + two[0], 1, made), few + more))
        made += 1
    having = [0] * (limit + 1)
    for deep in depth:
        having[min(limit, deep)] += 1
    while sum(number * 2 ** (limit - length) for length, number in enumerate(having) if length) > 2**limit:
        longest = max(length for length in range(1, limit) if having[length])
        having[limit] -= 1
        having[longest] -= 1
        having[longest + 1] += 2
    lengths = [0] * len(counts)
    from_longest = [length for length in range(limit, 0, -1) for _ in range(having[length])]
    for (_, symbol), length in zip(leaves, from_longest, strict=True):
        lengths[symbol] = length
    return lengths


def _words(lengths: list[int]) -> list[str]:
    """Canonical code words as strings, in the order in which their bits are written."""
    words, word = [""] * len(lengths), 0
    for length in range(1, 16):
        for symbol, own in enumerate(lengths):
            if own == length:
                words[symbol] = format(word, f"0{length}b")
                word += 1
        word <<= 1
    return words


def _items(lengths: list[int]) -> list[tuple[int, str]]:
    """Runs of code lengths: as long as they can be, of a rest below 3 (zeros) or 3 repeats each by itself."""
    items: list[tuple[int, str]] = []
    k = 0
    while k < len(lengths):
        run = 1
        while k + run < len(lengths) and lengths[k + run] == lengths[k]:
            run += 1
        k += run
        value = lengths[k - 1]
        if value:
            items.append((value, ""))
            run -= 1
        while run >= 3:
            if value:
                piece = min(run, 6)
                items.append((16, _bits(piece - 3, 2)))
            elif run >= 11:
                piece = min(run, 138)
                items.append((18, _bits(piece - 11, 7)))
            else:
                piece = run
                items.append((17, _bits(piece - 3, 3)))
            run -= piece
        items += [(value, "")] * run
    return items
