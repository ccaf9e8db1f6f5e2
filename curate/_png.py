"""PNG files whose bytes are a function of the pixels alone: the same on every machine, with every version of every library.

So two people who make the same pictures have the same files, tars, content ids and torrents. The pictures here are thin lines on an
even ground: PNG's filters make them larger, and what repeats in them repeats one pixel to the left or about one row above. So there
is no search for repeats, only a look at eight fixed distances. The rules of `headwater-png/1`:

1. One IHDR (8 bit, grey or RGB, no interlace), one IDAT, one IEND; filter 0 in every row; zlib header 78 01.
2. The filtered bytes are cut into stripes of 32,768. In a stripe, from left to right: where three bytes or more equal those one of
   the distances back, stands the longest such match (of equally long ones the first in the list), else a literal. No match reaches
   the first byte of a later stripe. A match is written in pieces of 258; a rest of 259 or 260 is cut so that 3 remain.
3. Distances, R being the bytes of a row with its filter byte, those above 32,768 or below 1 left out:
   grey 1, R, R-1, R+1, R-2, R+2, R-3, R+3; RGB 3, R, R-3, R+3, R-6, R+6, 1, R+9.
4. Stripes join a deflate block until it has 8,192 tokens or more; every block has its own Huffman codes, none longer than 12 bits, made
   as `curate._png_kernel.code_lengths` says. A block with fewer than two distance codes gives one to distances 1 and 2 as well.
5. When that is longer than stored blocks of 65,535 bytes, those are written.
"""

from __future__ import annotations

import struct
import sys
import zlib

import numpy as np
import numpy.typing as npt

from headwater.errors import HeadwaterError

ENCODER = "headwater-png/1"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_STORED = 65535  # bytes of the largest stored block
_FIRST = 43  # where the deflate stream begins: signature 8, IHDR 25, length and name of IDAT 8, zlib header 2
_LARGEST = 1 << 30  # bytes of a picture: IDAT's length has 31 bits


class Encoder:
    """Encodes (height, width) grey or (height, width, 3) RGB pictures. Owns its buffers: one a thread.

    Raises MissingExtra where numba is not installed, ValueError for a picture without pixels or above 1 GiB.
    """

    def __init__(self, height: int, width: int, channels: int = 1) -> None:
        from curate.generators._extra import need_numba

        if min(height, width) < 1 or channels not in (1, 3) or height * (width * channels + 1) > _LARGEST:
            raise ValueError(f"no PNG of {height} x {width} pixels of {channels} channels is made here")
        need_numba()
        if sys.byteorder != "little":
            raise HeadwaterError("the PNG encoder works on little-endian machines only")
        from curate import _png_kernel, _png_parse

        self._tokenise, self._deflate = _png_parse.tokenise, _png_kernel.deflate
        self.shape = (height, width) if channels == 1 else (height, width, channels)
        self._row = width * channels + 1
        self._size = height * self._row
        self._far, self._masks = distances(self._row, channels)
        self._stored = self._size + 5 * -(-self._size // _STORED)
        self._data = np.zeros(self._size + _png_parse.PAD, np.uint8)
        self._codes = np.zeros(self._size + _png_parse.PAD, np.uint8)
        stripes = -(-self._size // _png_parse.STRIPE)
        self._tokens = np.zeros(2 * _png_parse.ROOM * stripes, np.uint8)
        self._found = np.zeros(stripes, np.int64)
        self._file = np.zeros(_FIRST + self._stored + 512, np.uint8)
        self._view = memoryview(self._file)
        self._out = self._file[_FIRST:]
        colour = 0 if channels == 1 else 2
        head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
        begin = _SIGNATURE + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
        self._view[:_FIRST] = begin + b"\0\0\0\0IDAT\x78\x01"

    def encode(self, pixels: npt.NDArray[np.uint8]) -> bytes:
        """The whole PNG file of `pixels`, uint8 of the encoder's shape. Raises ValueError for another shape or type."""
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"{pixels.dtype} pixels of shape {pixels.shape}, uint8 of {self.shape} are wanted"
            )
        rows = np.ascontiguousarray(pixels).reshape(self.shape[0], self._row - 1)
        adler = self._tokenise(
            rows, self._data, self._codes, self._far, self._masks, self._tokens, self._found
        )
        size = self._deflate(self._tokens, self._found, self._far, self._out, self._stored)
        if size < 0:
            size = self._store()
        view, end = self._view, _FIRST + size + 4
        struct.pack_into(">I", view, end - 4, adler)
        struct.pack_into(">I", view, 33, size + 6)
        struct.pack_into(">I", view, end, zlib.crc32(view[37:end]))
        view[end + 4 : end + 16] = _END
        return view[: end + 16].tobytes()

    def _store(self) -> int:
        to = _FIRST
        for first in range(0, self._size, _STORED):
            count = min(_STORED, self._size - first)
            struct.pack_into("<BHH", self._view, to, first + count == self._size, count, count ^ 0xFFFF)
            self._file[to + 5 : to + 5 + count] = self._data[first : first + count]
            to += 5 + count
        return self._stored


def distances(row: int, channels: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """The eight distances for rows of `row` bytes, and their bits; bit 0 for one that is out of range or there already."""
    if channels == 1:
        wanted = [1, row, row - 1, row + 1, row - 2, row + 2, row - 3, row + 3]
    else:
        wanted = [3, row, row - 3, row + 3, row - 6, row + 6, 1, row + 9]
    far, masks = np.ones(8, np.int64), np.zeros(8, np.uint8)
    for k, distance in enumerate(wanted):
        if 1 <= distance <= 32768 and distance not in wanted[:k]:
            far[k], masks[k] = distance, 1 << k
    return far, masks
