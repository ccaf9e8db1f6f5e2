"""Writes one output shard of a reshard from byte ranges of its input tars.

Headers are ustar with mtime 0, uid and gid 0, mode 0644 and no owner names; a name above 100 bytes or a size from 8 GiB on
gets a pax record before it. Padding is zero. So the bytes follow from the contents alone. Members whose headers sit between
them as in the input are read in one piece, and the new headers are laid over the old ones.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curate._jsonuid import I64, U8, pairs_to_hex
from curate._selection import Part, read_part
from curate._tarheads import byte_sums
from curate.shards import expand
from headwater.errors import HeadwaterError, IntegrityError

CHUNK_BYTES = 4 << 20
PLAIN_SIZE_LIMIT = 8**11
END_OF_ARCHIVE = bytes(1024)
MAX_PIECES = 256  # of one read; the kernel takes 1,024 and each may come with a gap

_TEMPLATE = np.zeros(512, np.uint8)
_TEMPLATE[100:108] = np.frombuffer(b"0000644\0", np.uint8)
_TEMPLATE[108:124] = np.frombuffer(b"0000000\0" * 2, np.uint8)
_TEMPLATE[136:148] = np.frombuffer(b"0" * 11 + b"\0", np.uint8)
_TEMPLATE[148:156] = 0x20
_TEMPLATE[156] = 0x30
_TEMPLATE[257:265] = np.frombuffer(b"ustar\x0000", np.uint8)
_SHIFTS = np.arange(30, -1, -3, dtype=np.int64)
_SUM_SHIFTS = np.arange(15, -1, -3, dtype=np.int64)
_COLUMN = np.arange(512)
_BIN = memoryview(bytearray(4096))


@dataclass(frozen=True)
class Segment:
    """Copies start:stop of a part, counted in order with each sample repeated as often as it is wanted."""

    part: Path
    tar: Path
    tar_name: str
    size_bytes: int
    mtime_ns: int
    start: int
    stop: int


@dataclass(frozen=True)
class ShardTask:
    """One output shard. `key` identifies its content; the record beside the plan lets a later run skip it."""

    folder: Path
    name: str
    stats_name: str
    record: Path
    key: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class OutputShard:
    """A written shard: `samples` counts copies."""

    name: str
    samples: int
    size_bytes: int


def write_shard(task: ShardTask) -> OutputShard:
    """Write (or recognise as already written) one shard and its statistics file."""
    samples = sum(segment.stop - segment.start for segment in task.segments)
    path = task.folder / task.name
    done = _finished(task, path, samples)
    if done is not None:
        return done
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb", buffering=0) as out:
            size = sum(_copy_segment(segment, out.fileno()) for segment in task.segments)
            _write_all(out.fileno(), memoryview(END_OF_ARCHIVE))
            size += len(END_OF_ARCHIVE)
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except IntegrityError:
        temporary.unlink(missing_ok=True)
        raise
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HeadwaterError(
            f"shard {task.name} could not be written to {task.folder}: {error.strerror}",
            hint="make room or choose another folder, then run the same command: finished shards are kept",
        ) from error
    write_file(task.folder / task.stats_name, json.dumps({"successes": samples}).encode())
    sync_folder(task.folder)
    stamp = path.stat()
    record = {"key": task.key, "size_bytes": size, "mtime_ns": stamp.st_mtime_ns}
    write_file(task.record, json.dumps(record, sort_keys=True).encode())
    return OutputShard(task.name, samples, size)


def _finished(task: ShardTask, path: Path, samples: int) -> OutputShard | None:
    try:
        record = json.loads(task.record.read_bytes())
        stats = json.loads((task.folder / task.stats_name).read_bytes())
        stamp = path.stat()
    except (OSError, ValueError):
        return None
    same = record == {"key": task.key, "size_bytes": stamp.st_size, "mtime_ns": stamp.st_mtime_ns}
    if same and stats == {"successes": samples}:
        return OutputShard(task.name, samples, stamp.st_size)
    return None


@dataclass
class _Copies:
    """Output members of a segment, one row each."""

    source: I64
    size: I64
    names: U8  # (rows, 100), zero padded
    special: dict[int, bytes] = field(default_factory=dict)  # row -> its headers, where ustar is not enough


def _copy_segment(segment: Segment, out: int) -> int:
    part = read_part(segment.part)
    try:
        source = os.open(segment.tar, os.O_RDONLY)
    except OSError as error:
        raise IntegrityError(f"{segment.tar_name} cannot be opened any more: {error.strerror}") from error
    try:
        found = os.fstat(source)
        if (found.st_size, found.st_mtime_ns) != (segment.size_bytes, segment.mtime_ns):
            raise IntegrityError(
                f"{segment.tar_name} changed while it was being resharded", hint="run the same command again"
            )
        written = 0
        # copies in slices, so that names and headers of a whole shard are never held at once
        for start in range(segment.start, segment.stop, 8192):
            copies = _plan_copies(part, start, min(segment.stop, start + 8192))
            written += _copy_members(copies, source, out, segment)
        return written
    finally:
        os.close(source)


def _plan_copies(part: Part, start: int, stop: int) -> _Copies:
    ends = np.cumsum(part.copies)
    low, high = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
    chosen = np.arange(low, high + 1)
    repeats = part.copies[low : high + 1].copy()
    number = np.zeros(len(chosen), np.int64)  # the first copy of each sample in this slice
    number[0] = start - (int(ends[low]) - int(part.copies[low]))
    repeats[0] -= number[0]
    repeats[-1] -= int(ends[high]) - stop
    copy_no = expand(number, repeats)
    sample = np.repeat(chosen, repeats)
    counts = part.first[sample + 1] - part.first[sample]
    rows = expand(part.first[sample], counts)
    names, long = _names(part, sample, copy_no, counts, part.code[rows])
    copies = _Copies(part.data[rows], part.size[rows], names)
    for row in np.flatnonzero(copies.size >= PLAIN_SIZE_LIMIT).tolist():
        long.setdefault(row, names[row].tobytes().rstrip(b"\0").decode())
    for row, name in long.items():
        copies.special[row] = _special_header(name, int(copies.size[row]))
    return copies


def _names(part: Part, sample: I64, copy_no: I64, counts: I64, code: I64) -> tuple[U8, dict[int, str]]:
    """UID-k.ext for each member; those above 100 bytes come back by row as well."""
    extensions: list[str] = part.head["extensions"]
    low = int(sample[0])
    digits = pairs_to_hex(part.hi[low : int(sample[-1]) + 1], part.lo[low : int(sample[-1]) + 1])
    for row, text in part.head["spelled"].items():
        if low <= int(row) < low + len(digits):
            digits[int(row) - low] = np.frombuffer(text.encode(), np.uint8)
    per_member = np.repeat(copy_no, counts) * len(extensions) + code
    kinds, which = np.unique(per_member, return_inverse=True)
    tails = [
        f"-{kind // len(extensions)}.{extensions[kind % len(extensions)]}".encode() for kind in kinds.tolist()
    ]
    width = max(len(tail) for tail in tails)
    table = np.frombuffer(b"".join(tail.ljust(width, b"\0") for tail in tails), np.uint8).reshape(-1, width)
    wide = np.zeros((len(code), max(100, 32 + width)), np.uint8)
    owner = np.repeat(sample - low, counts)
    wide[:, :32] = digits[owner]
    wide[:, 32 : 32 + width] = table[which]
    long: dict[int, str] = {}
    if 32 + width > 100:
        for row in np.flatnonzero(wide[:, 100:].any(axis=1)).tolist():
            long[row] = wide[row].tobytes().rstrip(b"\0").decode()
    return wide[:, :100], long


def _special_header(name: str, size: int) -> bytes:
    import tarfile

    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def headers(names: U8, size: I64) -> U8:
    """(n, 512) ustar headers."""
    out = np.empty((len(size), 512), np.uint8)
    out[:] = _TEMPLATE
    out[:, :100] = names
    out[:, 124:135] = ((size[:, None] >> _SHIFTS) & 7) + 48
    total = byte_sums(out)
    out[:, 148:154] = ((total[:, None] >> _SUM_SHIFTS) & 7) + 48
    out[:, 154] = 0
    return out


def _copy_members(copies: _Copies, source: int, out: int, segment: Segment) -> int:
    head = np.full(len(copies.size), 512, np.int64)
    for row, raw in copies.special.items():
        head[row] = len(raw)
    ends = np.cumsum(head + -(-copies.size // 512) * 512)
    largest = int(np.diff(ends, prepend=0).max())
    buffer = np.empty(CHUNK_BYTES if largest <= CHUNK_BYTES else min(largest, 4 * CHUNK_BYTES), np.uint8)
    start = 0
    while start < len(ends):
        base = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, base + len(buffer), side="right"))
        if stop == start:
            _stream_one(copies, start, source, out, segment)
            start += 1
            continue
        rows = slice(start, stop)
        data = ends[rows] - -(-copies.size[rows] // 512) * 512 - base
        filled = int(ends[stop - 1]) - base
        _fill(buffer, data, copies.source[rows], copies.size[rows], source, segment)
        blocks = buffer.reshape(-1, 512)
        _zero_padding(blocks, data, copies.size[rows])
        blocks[data // 512 - 1] = headers(copies.names[rows], copies.size[rows])
        for row in [row for row in copies.special if start <= row < stop]:
            raw = copies.special[row]
            end = int(data[row - start])
            buffer[end - len(raw) : end] = np.frombuffer(raw, np.uint8)
        _write_all(out, memoryview(buffer)[:filled])
        start = stop
    return int(ends[-1])


def _fill(buffer: U8, data: I64, source_at: I64, size: I64, source: int, segment: Segment) -> None:
    # neighbours as far apart in the input as in the output are one piece, old headers and all
    apart = np.flatnonzero(np.diff(source_at - data)) + 1
    begins = np.concatenate([[0], apart]).astype(np.int64)
    lasts = np.concatenate([apart, [len(data)]]).astype(np.int64) - 1
    to, at = data[begins], source_at[begins]
    length = data[lasts] + size[lasts] - to
    # pieces close together in the input are one system call, what lies between goes to the bin
    order = np.argsort(at, kind="stable")
    to, at, length = to[order], at[order], length[order]
    gap = np.empty(len(at), np.int64)
    gap[0], gap[1:] = -1, at[1:] - at[:-1] - length[:-1]
    gap[::MAX_PIECES] = -1
    gap[gap > len(_BIN)] = -1
    view = memoryview(buffer)
    pieces: list[memoryview] = []
    start = total = 0
    for here, offset, count, between in zip(
        to.tolist(), at.tolist(), length.tolist(), gap.tolist(), strict=True
    ):
        if between < 0:
            _read_into(source, pieces, total, start, segment)
            pieces, start, total = [], offset, 0
        elif between:
            pieces.append(_BIN[:between])
            total += between
        pieces.append(view[here : here + count])
        total += count
    _read_into(source, pieces, total, start, segment)


def _read_into(source: int, pieces: list[memoryview], total: int, at: int, segment: Segment) -> None:
    """Fill `pieces`, `total` bytes in all, with what begins at `at`."""
    while total:
        try:
            got = os.preadv(source, pieces, at)
        except OSError as error:
            raise IntegrityError(
                f"{segment.tar_name} cannot be read at byte {at:,}: {error.strerror}"
            ) from error
        if got == total:
            return
        if not got:
            raise IntegrityError(f"{segment.tar_name} ended at byte {at:,} while it was being resharded")
        at, total = at + got, total - got
        while got >= len(pieces[0]):
            got -= len(pieces[0])
            pieces = pieces[1:]
        pieces = [pieces[0][got:], *pieces[1:]]


def _zero_padding(blocks: U8, data: I64, size: I64) -> None:
    rest = size % 512
    cut = np.flatnonzero(rest)
    last = (data[cut] + size[cut]) // 512
    blocks[last] = np.where(_COLUMN < rest[cut, None], blocks[last], 0)


def _stream_one(copies: _Copies, row: int, source: int, out: int, segment: Segment) -> None:
    size, at = int(copies.size[row]), int(copies.source[row])
    raw = copies.special.get(row)
    _write_all(
        out, memoryview(raw or headers(copies.names[row : row + 1], copies.size[row : row + 1]).tobytes())
    )
    buffer = memoryview(bytearray(CHUNK_BYTES))
    for done in range(0, size, CHUNK_BYTES):
        piece = buffer[: min(CHUNK_BYTES, size - done)]
        _read_into(source, [piece], len(piece), at + done, segment)
        _write_all(out, piece)
    _write_all(out, memoryview(bytes(-size % 512)))


def _write_all(fd: int, view: memoryview) -> None:
    while len(view):
        view = view[os.write(fd, view) :]


def write_file(path: Path, content: bytes) -> None:
    """Write a small file: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
