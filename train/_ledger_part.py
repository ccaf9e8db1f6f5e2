"""One file of the ledger: what one rank saw, skipped and spent in one part of the budget, written by the training process.

`part_PPP_rank_RRR.npz` (P from 1, R from 0), a zip of stored NPY arrays, no pickles:
    format, run_key               text       "ledger/1"; the key of the run, so that files of another run are told apart
    part, rank, world             int64
    shard, sample                 int32 (N)  one entry per sample that the optimizer saw, in order: shard number in the sorted list
                                             of shard names, and ordinal of the sample in its tar
    step                          int64 (S)  number of optimizer steps done, from 1 over the whole run
    loss, lr, logit_scale         float32 (S) of this rank
    skipped_reason, skipped_count int16, int64 (K)  code of SKIP_REASONS, and how often it happened
    skipped_shard, skipped_sample, skipped_code  int32, int32, int16 (≤ 1,000)  the first skipped samples; sample -1: not known
    samples                       int64      N again
    wait_seconds, part_seconds    float64    time the loop waited for the loader, and time of the part
    worker_cpu_seconds, cpu_seconds  float64 CPU of the loader's workers, and of the process with them
Only numpy is imported here: loader and training loop write these files.
"""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from headwater.files import atomic_file, named_io

FORMAT = "ledger/1"
SKIP_REASONS = (  # the place is the code in the files: add at the end, never reorder
    "no_image",
    "no_caption",
    "empty_caption",
    "undecodable",
    "too_large",
    "damaged_tar",
    "other",
)
MAX_SKIPPED_LISTED = 1_000  # in one file
MAX_PART_BYTES = 4 << 30  # 500 M samples of one rank in one part
MAX_TEXT = 256
NAME = re.compile(r"part_(\d{3,9})_rank_(\d{3,9})\.npz")
AGAIN = "train this part again: remove the file and run the same line"

_VECTORS: dict[str, str] = {
    "shard": "<i4",
    "sample": "<i4",
    "step": "<i8",
    "loss": "<f4",
    "lr": "<f4",
    "logit_scale": "<f4",
    "skipped_reason": "<i2",
    "skipped_count": "<i8",
    "skipped_shard": "<i4",
    "skipped_sample": "<i4",
    "skipped_code": "<i2",
}
_WHOLE = ("part", "rank", "world", "samples")
_REAL = ("wait_seconds", "part_seconds", "worker_cpu_seconds", "cpu_seconds")
_TEXT = ("format", "run_key")
_NAMES = frozenset([*_VECTORS, *_WHOLE, *_REAL, *_TEXT])


def _empty(dtype: str) -> Any:
    return field(default_factory=lambda: np.zeros(0, dtype))


@dataclass(frozen=True)
class PartLedger:
    """One rank's account of one part. Arrays as in the module's table; times in seconds."""

    run_key: str
    part: int
    rank: int
    world: int
    shard: npt.NDArray[np.int32]
    sample: npt.NDArray[np.int32]
    step: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float32]
    lr: npt.NDArray[np.float32]
    logit_scale: npt.NDArray[np.float32]
    skipped_reason: npt.NDArray[np.int16] = _empty("<i2")
    skipped_count: npt.NDArray[np.int64] = _empty("<i8")
    skipped_shard: npt.NDArray[np.int32] = _empty("<i4")
    skipped_sample: npt.NDArray[np.int32] = _empty("<i4")
    skipped_code: npt.NDArray[np.int16] = _empty("<i2")
    wait_seconds: float = 0.0
    part_seconds: float = 0.0
    worker_cpu_seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def samples(self) -> int:
        """Samples that the optimizer saw."""
        return len(self.shard)

    def problem(self) -> str | None:
        """What does not fit together, or None."""
        if self.part < 1 or self.world < 1 or not 0 <= self.rank < self.world:
            return f"part {self.part}, rank {self.rank} of {self.world}"
        if len(self.sample) != self.samples:
            return f"{self.samples:,} shard numbers, but {len(self.sample):,} samples"
        steps = len(self.step)
        if not len(self.loss) == len(self.lr) == len(self.logit_scale) == steps:
            return f"{steps:,} steps, but {len(self.loss):,} losses, {len(self.lr):,} rates, {len(self.logit_scale):,} scales"
        if steps and (self.step[0] < 1 or bool(np.any(np.diff(self.step) <= 0))):
            return "its steps do not rise"
        if len(self.skipped_reason) != len(self.skipped_count) or bool(np.any(self.skipped_count < 0)):
            return "its counts of skipped samples do not fit their reasons"
        listed = len(self.skipped_shard)
        if not len(self.skipped_sample) == len(self.skipped_code) == listed or listed > MAX_SKIPPED_LISTED:
            return f"a list of {listed:,} skipped samples that does not fit (at most {MAX_SKIPPED_LISTED:,})"
        for codes in (self.skipped_reason, self.skipped_code):
            if bool(np.any((codes < 0) | (codes >= len(SKIP_REASONS)))):
                return f"a reason for skipping that is not known (0 to {len(SKIP_REASONS) - 1})"
        spent = (self.wait_seconds, self.part_seconds, self.worker_cpu_seconds, self.cpu_seconds)
        if not all(math.isfinite(value) and value >= 0 for value in spent):
            return "a time that is not a number of seconds"
        return None


def part_name(part: int, rank: int) -> str:
    """Name of the file of `part` (from 1) and `rank` (from 0)."""
    return f"part_{part:03d}_rank_{rank:03d}.npz"


def write_part(folder: Path, ledger: PartLedger) -> Path:
    """Write `ledger` under its name in `folder`, atomically and durably; returns the path.

    Raises HeadwaterError when the account contradicts itself or a value does not fit the type it is stored in.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, dtype in _VECTORS.items():
        given = np.asarray(getattr(ledger, name))
        whole = dtype[1] == "i"
        if given.ndim != 1 or given.dtype.kind not in ("iu" if whole else "iuf"):
            raise HeadwaterError(
                f"ledger: {name} is {given.dtype} of shape {given.shape}, not one row of {dtype[1:]}"
            )
        arrays[name] = given.astype(dtype, copy=False)
        if whole and not np.array_equal(arrays[name], given):
            raise HeadwaterError(f"ledger: {name} holds a number beyond {dtype[1:]}")
    if (problem := ledger.problem()) is not None:
        raise HeadwaterError(f"ledger of part {ledger.part}, rank {ledger.rank}: {problem}")
    if not 0 < len(ledger.run_key) <= MAX_TEXT:
        raise HeadwaterError(f"ledger: a run key of {len(ledger.run_key):,} characters (1 to {MAX_TEXT})")
    for name in _WHOLE:
        arrays[name] = np.array(getattr(ledger, name), "<i8")
    for name in _REAL:
        arrays[name] = np.array(getattr(ledger, name), "<f8")
    arrays["format"], arrays["run_key"] = np.array(FORMAT), np.array(ledger.run_key)
    path = folder / part_name(ledger.part, ledger.rank)
    with atomic_file(path) as handle:
        np.savez(handle, allow_pickle=False, **arrays)
    return path


def read_part(path: Path, *, limit_bytes: int = MAX_PART_BYTES) -> PartLedger:
    """The account in `path`; its arrays may be read-only. Never unpickles, and holds at most the file's size in memory.

    Raises MissingInput when there is none, IntegrityError naming the file when it is truncated, damaged, too large, has other
    arrays than a ledger, contradicts itself, or is another part than its name says.
    """
    with named_io(path):
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise MissingInput(f"{path}: no such file") from error
    if size > limit_bytes:
        raise IntegrityError(
            f"{path.name}: {size:,} bytes, more than the {limit_bytes:,} that are read", hint=AGAIN
        )
    try:
        with zipfile.ZipFile(path) as archive:
            found = _read_arrays(archive, size)
    except (_NotALedger, zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise IntegrityError(f"{path.name}: not a readable part of a ledger: {error}", hint=AGAIN) from error
    except (
        NotImplementedError,
        RuntimeError,
    ) as error:  # packed or encrypted in a way that zipfile does not know
        raise IntegrityError(f"{path.name}: not a readable part of a ledger: {error}", hint=AGAIN) from error
    if found["format"] != FORMAT:
        raise IntegrityError(f"{path.name}: format {str(found['format'])[:40]!r}, not {FORMAT!r}", hint=AGAIN)
    stated = found.pop("samples")
    del found["format"]
    ledger = PartLedger(**found)
    problem = ledger.problem()
    if problem is None and stated != ledger.samples:
        problem = f"{stated:,} samples stated, {ledger.samples:,} listed"
    if problem is None and path.name != part_name(ledger.part, ledger.rank):
        problem = f"part {ledger.part}, rank {ledger.rank} under another name"
    if problem is not None:
        raise IntegrityError(f"{path.name}: {problem}", hint=AGAIN)
    return ledger


# a strict pattern in place of a parser: what else an NPY header may say is never written here
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '(<[a-zA-Z]\d{1,3})', 'fortran_order': False, 'shape': \((\d{1,12},)?\), \} *\n",
    re.DOTALL,
)


class _NotALedger(Exception):
    """What is wrong with a member."""


def _read_arrays(archive: zipfile.ZipFile, size: int) -> dict[str, Any]:
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if entries.keys() != _NAMES or len(archive.infolist()) != len(_NAMES):
        odd = sorted(entries.keys() ^ _NAMES)
        raise _NotALedger(
            f"missing or unknown arrays: {', '.join(odd)[:200]}" if odd else "two arrays have one name"
        )
    # stored members cannot be larger than the file: no zip bomb, and no member that lies inside another
    if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries.values()):
        raise _NotALedger("its arrays are packed or encrypted")
    if sum(e.file_size for e in entries.values()) > size:
        raise _NotALedger("its arrays are larger than the file")
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        array = _array(archive.read(entry), name)
        if name in _VECTORS:
            found[name] = array
        else:
            found[name] = str(array) if name in _TEXT else int(array) if name in _WHOLE else float(array)
    return found


def _array(data: bytes, name: str) -> npt.NDArray[Any]:
    """One NPY member as a view of its bytes. Source: the NPY format, version 1.0, as numpy documents and writes it."""
    start = _HEADER.match(data[:256])
    vector = name in _VECTORS
    wanted = _VECTORS.get(name) or ("<i8" if name in _WHOLE else "<f8")
    if start is None:
        raise _NotALedger(f"array {name} does not begin as we write them")
    length, descr, shape = int.from_bytes(start[1], "little"), start[2].decode(), (start[3] or b"").decode()
    if name in _TEXT and re.fullmatch(r"<U\d{1,3}", descr) and int(descr[2:]) <= MAX_TEXT:
        wanted = descr
    if descr != wanted or bool(shape) != vector:
        raise _NotALedger(f"array {name} is {descr} of shape ({shape}), not {wanted}")
    rows = int(shape.removesuffix(",")) if vector else 1
    dtype = np.dtype(wanted)
    if start.end() != 10 + length or len(data) - start.end() != rows * dtype.itemsize:
        raise _NotALedger(f"array {name} of shape ({shape}) does not fit its {len(data):,} bytes")
    array = np.frombuffer(data, dtype, rows, start.end())
    return array if vector else array.reshape(())
