"""The second compiled half of the PNG encoder: tokens become deflate blocks, each with Huffman codes of its own (RFC 1951)."""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import uint64

from curate._jit import kernel, njit
from curate._png_parse import INNER, ROOM
from curate._png_words import store

LIMIT = np.int64(12)  # bits of the longest code; typed, or numba compiles once more for every number
SMALL_LIMIT = np.int64(7)  # of a code length's code
BLOCK_TOKENS = 8192  # a block ends with the stripe that brings it to so many
TOKENS = 256 + 8 * 259

U = np.uint64
THREE, SEVEN, EIGHT = U(3), U(7), U(8)


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each match length: its symbol, extra bits and their value (RFC 1951, 3.2.5)."""
    symbol, extra, value = (np.zeros(259, np.int64) for _ in range(3))
    first = 3
    for code in range(28):
        bits = max(0, code // 4 - 1)
        for length in range(first, min(258, first + (1 << bits))):
            symbol[length], extra[length], value[length] = 257 + code, bits, length - first
        first += 1 << bits
    symbol[258] = 285
    return symbol, extra, value


SYMBOL, EXTRA, VALUE = _tables()
SMALL_EXTRA = np.array([0] * 16 + [2, 3, 7], np.int64)
ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int64)


@njit(**INNER)
def code_lengths(counts, limit, out):
    """Huffman code lengths of `counts` into `out`, none above `limit`; 0 where the count is 0. At least two symbols must occur.

    Leaves are ordered by (count, symbol); of equal weights a leaf is taken before an inner node. Lengths above the limit are cut to
    it; while the code is then over-full, the longest length below the limit gives way to two of one more, one of them for a leaf at
    the limit. The longest lengths go to the first leaves of the order.
    """
    symbols = len(counts)
    keys = np.empty(symbols, np.int64)
    used = np.int64(0)
    for symbol in range(symbols):
        out[symbol] = 0
        if counts[symbol] > 0:
            keys[used] = (counts[symbol] << 9) | symbol
            used += 1
    keys = _sorted(keys, used)
    weight = np.empty(used, np.int64)  # of inner nodes
    parent = np.empty(2 * used, np.int64)  # of leaves, then of inner nodes
    leaf, inner = 0, 0
    for node in range(used - 1):
        total = 0
        for _ in range(2):
            if leaf < used and (inner >= node or keys[leaf] >> 9 <= weight[inner]):
                total += keys[leaf] >> 9
                parent[leaf] = node
                leaf += 1
            else:
                total += weight[inner]
                parent[used + inner] = node
                inner += 1
        weight[node] = total
    depth = weight  # from the root down; a node's weight is not needed any more
    depth[used - 2] = 0
    for node in range(used - 3, -1, -1):
        depth[node] = depth[parent[used + node]] + 1
    having = np.zeros(limit + 1, np.int64)
    for k in range(used):
        having[min(limit, depth[parent[k]] + 1)] += 1
    full = 0
    for length in range(1, limit + 1):
        full += having[length] << (limit - length)
    while full > 1 << limit:
        length = limit - 1
        while having[length] == 0:
            length -= 1
        having[limit] -= 1
        having[length] -= 1
        having[length + 1] += 2
        full -= 1
    k = 0
    for length in range(limit, 0, -1):
        for _ in range(having[length]):
            out[keys[k] & 511] = length
            k += 1


@njit(**INNER)
def _sorted(keys, used):
    """By count; symbols are in order already and stay so among equals (counts are below 65,536)."""
    other = np.empty_like(keys)
    for shift in (9, 17):
        places = np.zeros(257, np.int64)
        for k in range(used):
            places[((keys[k] >> shift) & 255) + 1] += 1
        for byte in range(256):
            places[byte + 1] += places[byte]
        for k in range(used):
            byte = (keys[k] >> shift) & 255
            other[places[byte]] = keys[k]
            places[byte] += 1
        keys, other = other, keys
    return keys


@njit(**INNER)
def code_words(lengths, symbols, out):
    """Canonical code words of the lengths (RFC 1951, 3.2.2), the first bit lowest, as they are written."""
    having = np.zeros(17, np.int64)
    for symbol in range(symbols):
        having[lengths[symbol]] += 1
    following = np.zeros(17, np.int64)
    word = 0
    having[0] = 0
    for length in range(1, 16):
        word = (word + having[length - 1]) << 1
        following[length] = word
    for symbol in range(symbols):
        length = lengths[symbol]
        if length:
            word = following[length]
            following[length] += 1
            word = ((word & 0x5555) << 1) | ((word >> 1) & 0x5555)
            word = ((word & 0x3333) << 2) | ((word >> 2) & 0x3333)
            word = ((word & 0x0F0F) << 4) | ((word >> 4) & 0x0F0F)
            word = ((word & 0x00FF) << 8) | (word >> 8)
            out[symbol] = word >> (16 - length)


@njit(**INNER)
def shorten(lengths, total, items):
    """Code lengths as RFC 1951, 3.2.7 writes them: items symbol | extra << 8; returns their number."""
    count, k = 0, 0
    while k < total:
        length = lengths[k]
        run = 1
        while k + run < total and lengths[k + run] == length:
            run += 1
        k += run
        if length == 0:
            while run >= 11:
                piece = min(run, 138)
                items[count] = 18 | (piece - 11) << 8
                count += 1
                run -= piece
            if run >= 3:
                items[count] = 17 | (run - 3) << 8
                count += 1
                run = 0
        else:
            items[count] = length
            count += 1
            run -= 1
            while run >= 3:
                piece = min(run, 6)
                items[count] = 16 | (piece - 3) << 8
                count += 1
                run -= piece
        for _ in range(run):
            items[count] = length
            count += 1
    return count


@njit(**INNER)
def _put(out, at, bits, held, value, width):
    bits |= uint64(value) << uint64(held)
    held += width
    store(out, uint64(at), bits)
    whole = held >> 3
    return at + whole, bits >> uint64(whole << 3), held & 7


@njit(**INNER)
def emit(tokens16, start, count, table, out, at, bits, held):
    """Write the tokens; `table` has word << 8 | width of each."""
    to, n = U(at), U(held)
    for k in range(start, start + count, 2):
        first, second = table[tokens16[k]], table[tokens16[k + 1]]
        width = first & U(255)
        both = width + (second & U(255))
        if both <= U(56):
            bits |= ((first >> EIGHT) | ((second >> EIGHT) << width)) << n
            n += both
        else:
            bits |= (first >> EIGHT) << n
            n += width
            store(out, to, bits)
            to += n >> THREE
            bits >>= n & U(56)
            n = (n & SEVEN) + (second & U(255))
            bits |= (second >> EIGHT) << (n - (second & U(255)))
        store(out, to, bits)
        to += n >> THREE
        bits >>= n & U(56)
        n &= SEVEN
    return np.int64(to), bits, np.int64(n)


@njit(**INNER)
def far_code(distance):
    """Symbol, number of extra bits and their value of a distance (RFC 1951, 3.2.5)."""
    rest = distance - 1
    if rest < 4:
        return rest, 0, 0
    extra = 1
    while rest >> extra > 3:
        extra += 1
    return 2 * extra + (rest >> extra), extra, rest & ((1 << extra) - 1)


@kernel
def deflate(tokens, found, far, out, most):
    """The deflate stream of the tokens into `out`; returns its bytes, or -1 as soon as it would be longer than `most`.

    `tokens`, `found` and the distances `far` as in curate._png_parse; `out` has 512 bytes more than `most`.
    """
    stripes = len(found)
    tokens16 = tokens.view(np.uint16)
    far_symbol, far_extra, far_value = np.zeros(8, np.int64), np.zeros(8, np.int64), np.zeros(8, np.int64)
    for k in range(8):
        far_symbol[k], far_extra[k], far_value[k] = far_code(far[k])
    lengths = np.empty(286 + 30, np.int64)
    words, far_words = np.zeros(286, np.int64), np.zeros(30, np.int64)
    small_lengths, small_words = np.empty(19, np.int64), np.zeros(19, np.int64)
    items, lengths_here = np.empty(286 + 30, np.int64), np.empty(256, np.int64)
    table = np.zeros(TOKENS + 1, np.uint64)
    begin, at, held, bits = 0, np.int64(0), np.int64(0), U(0)
    while begin < stripes:
        often = np.zeros(TOKENS + 1, np.int64)
        end, held_tokens = begin, 0
        while end < stripes and held_tokens < BLOCK_TOKENS:
            for k in range(end * ROOM, end * ROOM + found[end]):
                often[tokens16[k]] += 1
            held_tokens += found[end]
            end += 1
        counts, far_counts = np.zeros(286, np.int64), np.zeros(30, np.int64)
        counts[:256] = often[:256]
        counts[256] = 1
        total, some = 0, 0  # bits; match lengths there are
        by_far = np.zeros(8, np.int64)
        for length in range(3, 259):
            first, here = 256 + 8 * length, 0
            for k in range(8):
                here += often[first + k]
            if here:
                lengths_here[some] = length
                some += 1
                for k in range(8):
                    by_far[k] += often[first + k]
                counts[SYMBOL[length]] += here
                total += EXTRA[length] * here
        for k in range(8):
            far_counts[far_symbol[k]] += by_far[k]
            total += far_extra[k] * by_far[k]
        used = 0
        for symbol in range(30):
            used += far_counts[symbol] > 0
        for symbol in range(2):  # readers differ on a code of one word: there are always two
            if used < 2 and far_counts[symbol] == 0:
                far_counts[symbol] = 1
                used += 1
        code_lengths(counts, LIMIT, lengths)
        hlit = 286
        while lengths[hlit - 1] == 0:
            hlit -= 1
        far_lengths = lengths[hlit : hlit + 30]
        code_lengths(far_counts, LIMIT, far_lengths)
        hdist = 30
        while far_lengths[hdist - 1] == 0:
            hdist -= 1
        item_count = shorten(lengths, hlit + hdist, items)
        small_counts = np.zeros(19, np.int64)
        for k in range(item_count):
            small_counts[items[k] & 255] += 1
        code_lengths(small_counts, SMALL_LIMIT, small_lengths)
        hclen = 19
        while hclen > 4 and small_lengths[ORDER[hclen - 1]] == 0:
            hclen -= 1
        for symbol in range(hlit):
            total += counts[symbol] * lengths[symbol]
        for k in range(8):
            total += by_far[k] * far_lengths[far_symbol[k]]
        total += 17 + 3 * hclen
        for k in range(19):
            total += small_counts[k] * (small_lengths[k] + SMALL_EXTRA[k])
        if at + ((held + total + 7) >> 3) > most:
            return -1
        at, bits, held = _put(out, at, bits, held, (1 if end == stripes else 0) | 4, 3)
        at, bits, held = _put(out, at, bits, held, (hlit - 257) | (hdist - 1) << 5 | (hclen - 4) << 10, 14)
        for k in range(hclen):
            at, bits, held = _put(out, at, bits, held, small_lengths[ORDER[k]], 3)
        code_words(small_lengths, np.int64(19), small_words)
        for k in range(item_count):
            symbol = items[k] & 255
            at, bits, held = _put(out, at, bits, held, small_words[symbol], small_lengths[symbol])
            if symbol > 15:
                at, bits, held = _put(out, at, bits, held, items[k] >> 8, SMALL_EXTRA[symbol])
        code_words(lengths, hlit, words)
        code_words(far_lengths, hdist, far_words)
        for symbol in range(256):
            table[symbol] = uint64(words[symbol] << 8 | lengths[symbol])
        for length in lengths_here[:some]:
            symbol = SYMBOL[length]
            width = lengths[symbol]
            word = words[symbol] | VALUE[length] << width
            width += EXTRA[length]
            for k in range(8):
                both = width + far_lengths[far_symbol[k]]
                both_word = word | far_words[far_symbol[k]] << width | far_value[k] << both
                table[256 + 8 * length + k] = uint64(both_word << 8 | (both + far_extra[k]))
        for stripe in range(begin, end):
            start = stripe * ROOM
            tokens16[start + found[stripe]] = TOKENS  # of no bits
            at, bits, held = emit(tokens16, start, found[stripe], table, out, at, bits, held)
        at, bits, held = _put(out, at, bits, held, words[256], lengths[256])
        begin = end
    return at + (1 if held else 0)
