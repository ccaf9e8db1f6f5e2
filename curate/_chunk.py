"""The pages of one Parquet column chunk, read and decompressed by us: several times fewer CPU seconds than Arrow.

Sources: the Parquet format (page headers are Thrift compact structs; levels and dictionary indices are a
hybrid of runs and bit-packed groups). Only flat columns without nulls come through; all else raises
Unusual, and the caller lets Arrow read the column. Bytes that cannot be right raise Damaged. Nothing is
believed: a size is compared with the bytes there are and with the footer before memory is taken. Sizes in bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate._thrift import Malformed, struct, varint
from headwater.errors import IntegrityError

try:
    import cramjam
except ImportError:  # the codec inside Arrow is slower, and always there
    cramjam = None  # type: ignore[assignment]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8
MAX_ROWS = 1 << 26  # of one row group
MAX_HEADER_BYTES = 1 << 16
MAX_EXPANSION = 1100  # deflate reaches 1032; more is for Arrow to judge
WINDOW_BYTES = 1 << 20
KEEP_BYTES = 8 << 20  # scratch above this goes back after use

_CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "ZSTD": "zstd", "BROTLI": "brotli", "LZ4": "lz4_raw"}
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3


class Unusual(Exception):
    """Well formed as far as we can tell, but nothing that this reader knows."""


class Damaged(Exception):
    """These bytes are not a column chunk. The text says what is wrong with them."""


@dataclass(frozen=True)
class Chunk:
    """What the footer claims about one column chunk."""

    codec: str
    start: int
    size_bytes: int
    plain_bytes: int
    rows: int
    nullable: bool


@dataclass(frozen=True)
class Page:
    """One decompressed page: `body` holds `values` values, after the levels, valid until the next page."""

    is_dictionary: bool
    values: int
    encoding: int
    body: Bytes


def integrity_error(shard: str, column: str, row_group: int, what: str) -> IntegrityError:
    """The error for a column that cannot be used; `what` completes "row group 0: ..."."""
    return IntegrityError(
        f"shard {shard}: column {column!r}, row group {row_group}: {what}",
        hint="Fetch the shard again, or check the pool with `headwater pool validate`.",
    )


def chunk_of(metadata: pq.FileMetaData, row_group: int, column: int) -> Chunk:
    """The footer's claims about a flat byte-array column, checked against each other."""
    schema = metadata.schema.column(column)
    if schema.physical_type != "BYTE_ARRAY" or schema.max_repetition_level or schema.max_definition_level > 1:
        raise Unusual("not a flat byte array")
    group = metadata.row_group(row_group)
    facts = group.column(column)
    if facts.compression != "UNCOMPRESSED" and facts.compression not in _CODECS:
        raise Unusual(facts.compression)
    start, first = facts.data_page_offset, facts.dictionary_page_offset
    if first is not None and 0 < first < start:
        start = first
    chunk = Chunk(
        codec=facts.compression,
        start=start,
        size_bytes=facts.total_compressed_size,
        plain_bytes=facts.total_uncompressed_size,
        rows=group.num_rows,
        nullable=schema.max_definition_level == 1,
    )
    if chunk.rows and chunk.start < 4 or chunk.size_bytes < 0 or chunk.plain_bytes < 0:
        raise Damaged("the footer gives a negative place or size")
    if not 0 <= chunk.rows <= MAX_ROWS or facts.num_values != chunk.rows:
        raise Damaged(f"the footer claims {facts.num_values:,} values for {chunk.rows:,} rows")
    return chunk


def pages(file: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """Every page of the chunk until all its rows are there. Each one overwrites the bytes of the one before."""
    scratch = _SCRATCH
    window = _Window(file, chunk, scratch)
    plain_left = chunk.plain_bytes
    seen = 0
    while seen < chunk.rows:
        header = window.header()
        size, plain_size = _int(header, 3), _int(header, 2)
        plain_left -= plain_size
        if not 0 <= size <= window.left or plain_size < 0 or plain_left < 0:
            raise Damaged(
                f"a page claims {size:,} bytes, {plain_size:,} decompressed: more than its column has"
            )
        if plain_size > MAX_EXPANSION * (size + 64):
            raise Unusual("expands more than deflate can")
        kind = _int(header, 1)
        if kind not in (_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2):
            window.take(size)
            continue
        page = _page(kind, header, window.take(size), plain_size, chunk, scratch)
        if not page.is_dictionary:
            seen += page.values
            if seen > chunk.rows:
                raise Damaged(f"the pages hold more than the {chunk.rows:,} rows of the footer")
        yield page
    scratch.shrink()


def hybrid(data: Bytes, width: int, n: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """`n` unsigned numbers of `width` bits from runs and bit-packed groups of eight."""
    if not 0 <= width <= 32:
        raise Damaged(f"numbers of {width} bits")
    head = memoryview(data)
    step = (width + 7) // 8
    packed: list[Bytes] = []  # all bit-packed runs together: unpacking costs by the call
    repeated: list[tuple[int, int, int]] = []  # first, last, value
    spans: list[tuple[int, int]] = []
    at = got = 0
    try:
        while got < n:
            run, at = varint(head, at)
            if run < 2:
                raise Unusual("a run of nothing")  # a page full of them would take minutes
            count = min((run >> 1) * 8 if run & 1 else run >> 1, n - got)
            size = (run >> 1) * width if run & 1 else step
            if at + size > len(data):
                raise Unusual("a run that is cut short")
            if run & 1:
                packed.append(data[at : at + size])
                spans.append((got, got + count))
            else:
                repeated.append((got, got + count, int.from_bytes(head[at : at + step], "little")))
            got += count
            at += size
    except (IndexError, Malformed):
        raise Damaged("the encoded numbers end early") from None
    if not repeated and packed:
        return _unpack(np.concatenate(packed), width, n)
    out = np.empty(n, np.uint32)
    if packed:
        values = _unpack(np.concatenate(packed), width, n)
        used = 0
        for first, last in spans:  # only the last run can be shorter than its groups
            out[first:last] = values[used : used + last - first]
            used += last - first
    for first, last, value in repeated:
        out[first:last] = value
    return out


class _Scratch(threading.local):
    """Buffers of this thread, used again by every page."""

    window: Bytes
    plain: Bytes

    def __init__(self) -> None:
        self.window = self.plain = np.empty(0, np.uint8)

    def shrink(self) -> None:
        if len(self.window) > KEEP_BYTES or len(self.plain) > KEEP_BYTES:
            self.window = self.plain = np.empty(0, np.uint8)


_SCRATCH = _Scratch()


class _Window:
    """The bytes of a chunk in file order, through a buffer that holds about one page."""

    def __init__(self, file: BinaryIO, chunk: Chunk, scratch: _Scratch) -> None:
        self._file, self._scratch = file, scratch
        self._unread = chunk.size_bytes
        self._at = self._end = 0
        file.seek(chunk.start)

    @property
    def left(self) -> int:
        return self._end - self._at + self._unread

    def header(self) -> dict[int, Any]:
        """The Thrift struct that comes next."""
        for limit in (512, MAX_HEADER_BYTES):
            size = min(limit, self.left)
            self._fill(size)
            head = self._scratch.window[self._at : self._at + size].tobytes()
            try:
                fields, used = struct(head)
            except IndexError:
                continue
            except Malformed as error:
                raise Damaged(f"a page header is {error}") from None
            self._at += used
            return fields
        if size < MAX_HEADER_BYTES:
            raise Damaged("a page header ends early")
        raise Unusual("a page header above 64 KiB")

    def take(self, size: int) -> Bytes:
        self._fill(size)
        self._at += size
        return self._scratch.window[self._at - size : self._at]

    def _fill(self, size: int) -> None:
        have = self._end - self._at
        if have >= size:
            return
        window = self._scratch.window
        if len(window) < size:
            window = np.empty(max(size + 1024, WINDOW_BYTES), np.uint8)
        window[:have] = self._scratch.window[self._at : self._end]
        self._scratch.window = window
        self._at, self._end = 0, have
        room = memoryview(window)
        while self._end < size:
            want = min(len(window) - self._end, self._unread)
            got = self._file.readinto(room[self._end : self._end + want])  # type: ignore[attr-defined]
            if not got:
                raise Damaged("the file ends inside the column")
            self._end += got
            self._unread -= got


def _page(
    kind: int, header: dict[int, Any], raw: Bytes, plain_size: int, chunk: Chunk, scratch: _Scratch
) -> Page:
    details = header.get({_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_V2: 8}[kind])
    if not isinstance(details, dict):
        raise Damaged("a page header without its details")
    values = _int(details, 1)
    if values < 0 or (kind != _DICTIONARY_PAGE and values > chunk.rows):
        raise Damaged(f"a page claims {values:,} values of {chunk.rows:,}")
    if kind == _DICTIONARY_PAGE:
        return Page(True, values, _int(details, 2), _plain(raw, plain_size, chunk.codec, scratch, 0))
    if kind == _DATA_PAGE_V2:
        if _int(details, 2):
            raise Unusual("null values")
        levels = _int(details, 5)
        if _int(details, 6) or not 0 <= levels <= min(len(raw), plain_size):
            raise Damaged("a page with impossible levels")
        codec = chunk.codec if details.get(7, True) else "UNCOMPRESSED"
        body = _plain(raw[levels:], plain_size - levels, codec, scratch, 0)
        return Page(False, values, _int(details, 4), body)
    if not chunk.nullable:
        return Page(False, values, _int(details, 2), _plain(raw, plain_size, chunk.codec, scratch, 0))
    if _int(details, 3) != RLE:
        raise Unusual("old style levels")
    # levels of a column without nulls are one run: put what follows them on a multiple of 4
    expected = 5 + max(1, -(-(values << 1).bit_length() // 7))
    body = _plain(raw, plain_size, chunk.codec, scratch, -expected % 4)
    if len(body) < 4:
        raise Damaged("a page without its levels")
    levels = 4 + int.from_bytes(body[:4].tobytes(), "little")
    if levels > len(body):
        raise Damaged("a page with impossible levels")
    if not hybrid(body[4:levels], 1, values).all():
        raise Unusual("null values")
    return Page(False, values, _int(details, 2), body[levels:])


def _plain(raw: Bytes, size: int, codec: str, scratch: _Scratch, shift: int) -> Bytes:
    """`raw` decompressed to exactly `size` bytes, `shift` bytes into the scratch."""
    if codec == "UNCOMPRESSED":
        if len(raw) != size:
            raise Damaged("an uncompressed page with two sizes")
        return raw
    if size == 0:
        return raw[:0]
    try:
        if codec == "SNAPPY" and cramjam is not None:  # its zstd gains nothing over Arrow's
            if len(scratch.plain) < size + shift:
                scratch.plain = np.empty(max(size + shift, WINDOW_BYTES), np.uint8)
            out = scratch.plain[shift : shift + size]
            if cramjam.snappy.decompress_raw_into(raw, out) != size:
                raise Damaged("a page of another size than its header says")
            return out
        return np.frombuffer(pa.Codec(_CODECS[codec]).decompress(raw, size), np.uint8)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if codec == "LZ4":  # two formats share the name
            raise Unusual("LZ4") from error
        raise Damaged(f"a page does not decompress: {error}") from None
    except Exception as error:
        if cramjam is None or not isinstance(error, cramjam.DecompressionError):
            raise
        raise Damaged(f"a page does not decompress: {error}") from None


def _unpack(packed: Bytes, width: int, n: int) -> np.ndarray[Any, Any]:
    """`n` numbers of `width` bits, low bits first."""
    if width == 0:
        return np.zeros(n, np.uint32)
    if width in (8, 16, 32):
        return packed.view(f"<u{width // 8}")[:n]
    groups = len(packed) // width
    padded = np.zeros(len(packed) + 8, np.uint8)
    padded[: len(packed)] = packed
    out = np.empty((groups, 8), np.uint32)
    mask = np.uint64((1 << width) - 1)
    for lane in range(8):  # eight numbers take `width` bytes, so each lane is a strided read
        first, shift = divmod(lane * width, 8)
        words = np.ndarray((groups,), "<u8", padded, first, (width,))
        out[:, lane] = (words >> np.uint64(shift)) & mask
    return out.reshape(-1)[:n]


def _int(fields: dict[int, Any], number: int) -> int:
    value = fields.get(number)
    if type(value) is not int:
        raise Damaged(f"a page header without field {number}")
    return value
