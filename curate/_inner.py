"""Fast approximate inner products with a bound on their error: what curate.products decides from.

An `Engine` holds one side of a product, `others`. For a block of rows it gives a matrix S and, a row, a half-width h with

    | x · (c_j - m)  -  unit · S_j |  <=  unit · h          for every j

where m is a fixed vector (the mean of `others`, or 0: what a row gives for it is the same for all j, so no comparison along a row is
changed, and shorter vectors have smaller errors) and unit > 0 belongs to the row. Operands are split as x = x' + dx, c = c' + dc
with x', c' in the arithmetic of the pass; then |x·c - x'·c'| <= |dx||c'| + |x||dc| by Cauchy and Schwarz, to which comes the error
of accumulation, (d + 2) 2^-24 |x'||c'| for float32 in any order of summation, nothing for integers, and what a bfloat16 result
is rounded by.

    f32     BLAS of NumPy, float32
    bf16    torch, bfloat16 operands and results, float32 accumulation
    int8    torch, 8-bit integers with one scale a row and one for all of `others`; accumulation is exact
    f64     BLAS of NumPy, float64: for magnitudes that float32 does not hold
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Numbers = npt.NDArray[Any]
Pass = Literal["f32", "bf16", "int8", "f64"]

MATRIX = 1 << 20  # numbers of S at a time: they stay in the cache
MAX_COLUMNS = 2048
MIN_ROWS, MAX_ROWS = 256, 2048
AT_A_TIME = 256  # rows that are packed while they are in the cache
WORTH_TORCH = 1e11  # multiply-adds from which loading torch pays
WORTH_PACKING = 2e9  # and from which, torch being there, packing pays
LARGE, SMALL = 1e30, 1e-20  # products of lengths outside go to float64
BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16")  # as /proc/cpuinfo names them
MOST_INTEGERS = 1 << 17
TINY = 2.0**-126  # operands and results below may be flushed to zero
LEAST_LENGTH = 3e-17  # what squares of float32 below 1e-38 can hide


def slack(width: int) -> float:
    """A factor that covers the rounding of lengths and of bounds themselves: float32 sums of `width` squares."""
    return 1.0001 + width * 2.0**-24


def has_units(*flags: str) -> bool:
    """Whether the CPU names one of these flags."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False
    line = next((part for part in text.splitlines() if part.startswith(("flags", "Features"))), "")
    return bool(set(flags) & set(line.partition(":")[2].split()))


@functools.cache
def _agrees(kind: Pass) -> bool:
    """Whether torch's product of this kind is here and keeps its bound on numbers of very different size."""
    try:
        generator = np.random.Generator(np.random.Philox(key=5))
        rows = generator.normal(size=(40, 96)).astype(np.float32) * np.float32(2) ** generator.integers(
            -6, 6, (40, 96)
        )
        engine = Engine(rows[:24], kind)
        block = engine.block(rows[24:])
        exact = rows[24:].astype(np.float64) @ (rows[:24].astype(np.float64) - engine.mean).T
        error = np.abs(exact - block.matrix(0, 24) * block.unit[:, None])
        return bool((error <= block.half[:, None] * block.unit[:, None]).all())
    except Exception:  # whatever a build of torch lacks, NumPy answers
        return False


def choose(precision: str, multiply_adds: float) -> Pass:
    """The pass for `precision` ("auto" too) and a job of this size; what the machine lacks falls back to f32."""
    if precision not in ("auto", "f32", "bf16", "int8"):
        raise ValueError(f"precision {precision!r} is none of auto, f32, bf16, int8")
    least = WORTH_PACKING if "torch" in sys.modules else WORTH_TORCH
    if precision == "f32" or (precision == "auto" and multiply_adds < least):
        return "f32"
    # the emulation of CPUs without the units is slower than float32
    integers = precision == "auto" and has_units("avx512_vnni", "avx_vnni", "i8mm")
    if (precision == "int8" or integers) and _agrees("int8"):
        return "int8"
    if (precision == "bf16" or has_units(*BF16_UNITS)) and _agrees("bf16"):
        return "bf16"
    return "f32"


def finer(kind: Pass) -> Pass:
    """The next pass when too many candidates remain after one of `kind`."""
    return choose("bf16", 0) if kind == "int8" and has_units(*BF16_UNITS) else "f32"


class Engine:
    """`others` (m, d) float32, made ready for one kind of pass. Its buffers are for one thread at a time."""

    def __init__(self, others: Floats, kind: Pass, bias: Doubles | None = None) -> None:
        self.others = np.ascontiguousarray(others, np.float32)
        self.bias = bias  # as it was given
        number = np.float64 if kind == "f64" else np.float32
        self._bias = None if bias is None else (bias - bias.mean()).astype(number)
        self.width = others.shape[1]
        # int32 holds the sum of 127 · 127 so often
        self.kind: Pass = "f32" if kind == "int8" and self.width > MOST_INTEGERS else kind
        # float32's own error is so small that a shift would not pay
        self.mean = np.zeros(self.width) if self.kind == "f32" else _mean(self.others)
        self.longest = self.spread = 0.0  # largest |c'| and |dc|
        self._out: Any = None
        self.scale = 1.0
        self._ready: Any = None
        self._prepare()
        limit = MAX_COLUMNS if self.count > MAX_COLUMNS else max(self.count, 1)
        self.columns = limit
        self.rows = int(np.clip(MATRIX // limit, MIN_ROWS, MAX_ROWS))

    @property
    def count(self) -> int:
        return len(self.others)

    @functools.cached_property
    def lengths(self) -> Doubles:
        """Upper bounds of the lengths of the others."""
        return lengths(self.others)

    def _prepare(self) -> None:
        """Operands c' of the pass, and the bounds |c'| and |dc| over all others."""
        if self.kind == "f64":
            self._ready = self.others.astype(np.float64) - self.mean
            self.longest = float(_length64(self._ready).max(initial=0))
            return
        if self.kind == "f32":
            self._ready = self.others
            self.longest = float(self.lengths.max(initial=0))
            return
        import torch

        ready = np.empty(self.others.shape, np.int8 if self.kind == "int8" else np.float32)
        if self.kind == "int8":
            top = max((float(np.abs(c).max(initial=0)) for _, c in self._centred()), default=0.0)
            self.scale = top / 127 or 1.0
        for first, exact in self._centred():
            part = slice(first, first + len(exact))
            if self.kind == "int8":
                ready[part] = np.rint(exact / self.scale)
                used = ready[part] * self.scale
            else:
                used = ready[part] = torch.from_numpy(exact.astype(np.float32)).bfloat16().float().numpy()
            self.longest = max(self.longest, float(_length64(used).max(initial=0)))
            self.spread = max(self.spread, float(_length64(exact - used).max(initial=0)))
        whole = torch.from_numpy(ready)
        self._ready = whole.bfloat16() if self.kind == "bf16" else whole

    def _centred(self) -> Iterator[tuple[int, Doubles]]:
        for first in range(0, self.count, 4096):
            yield first, self.others[first : first + 4096].astype(np.float64) - self.mean

    def block(self, rows: Floats, length: Doubles | None = None) -> Block:
        """A block of rows made ready; `length` is `lengths(rows)` where that is known."""
        return Block(self, rows, lengths(rows) if length is None else length)

    def takes(self, length: Doubles) -> bool:
        """Whether float32 holds the products with rows of these lengths: they neither overflow nor vanish."""
        short, long = float(length.max(initial=0)), float(self.lengths.max(initial=0))
        return min(short, long) > 10 * LEAST_LENGTH and SMALL < short * long < LARGE

    def multiply(self, ready: Any, unit: Doubles, first: int, last: int) -> Numbers:
        """S for others first … last - 1, overwritten by the next call."""
        others, shape = self._ready[first:last], (len(ready), last - first)
        size = shape[0] * shape[1]
        if self.kind in ("f32", "f64"):
            if self._out is None or len(self._out) < size:
                self._out = np.empty(size, others.dtype)
            s = np.matmul(ready, others.T, out=self._out[:size].reshape(shape))
            if self._bias is not None:
                s += self._bias[first:last]
            return np.asarray(s)
        import torch

        integers = self.kind == "int8"
        if self._out is None or len(self._out) < size:
            self._out = torch.empty(size, dtype=torch.int32 if integers else torch.bfloat16)
            self._wide = torch.empty(0 if integers and self._bias is None else size)
        target = self._out[:size].view(shape)
        if integers:
            torch._int_mm(ready, others.T, out=target)
            if self._bias is None:
                return np.asarray(target.numpy())
        else:
            torch.mm(ready, others.T, out=target)
        wide = self._wide[:size].view(shape).copy_(target)
        if self._bias is not None:
            wide.mul_(torch.from_numpy(unit.astype(np.float32))[:, None])
            wide.add_(torch.from_numpy(self._bias[first:last]))
        return np.asarray(wide.numpy())


class Block:
    """Rows of one product: `matrix(first, last)` against others, with `half` and `unit` as in the module's first words."""

    def __init__(self, engine: Engine, rows: Floats, length: Doubles) -> None:
        self.engine = engine
        self.length = length
        self.values = rows
        e, width = engine, engine.width
        self.unit: Doubles = np.ones(len(rows))
        if e.kind == "f64":
            self._ready: Any = rows.astype(np.float64)
            exact = _length64(self._ready)
            self.half: Doubles = (
                (width + 4) * 2.0**-53 * exact * (e.longest + float(_length64(e.mean[None])[0]))
            )
            self.half += 1e-300
            if e.bias is not None:
                self.half += 2.0**-50 * (self.half + exact * e.longest + float(np.abs(e.bias).max(initial=0)))
            self._unit = self.unit
            return
        rounding = 0.0
        if e.kind == "f32":
            self._ready, error = rows, np.zeros(len(rows))
        else:
            self._ready, error, self.unit = _packed(rows, e.kind, e.scale)
            rounding = 2.0**-8 if e.kind == "bf16" else 0.0
        self._unit = self.unit
        reach = length * e.longest
        half = slack(width) * (error * e.longest + length * e.spread) + 1e-9 * reach
        if e.kind != "int8":
            half += single_error(width, length, e.longest)
        # a bfloat16 result is at most |x'||c'| and the error so far
        half += rounding * slack(width) * (reach + half)
        if e.bias is not None:
            # the sum is formed in float32, in the unit 1
            half += 2.0**-22 * (reach + float(np.abs(e.bias - e.bias.mean()).max(initial=0)) + half)
            self.unit = np.ones(len(rows))
        self.half = half / self.unit

    def matrix(self, first: int, last: int) -> Numbers:
        """S for others first … last - 1; the next call overwrites it."""
        return self.engine.multiply(self._ready, self._unit, first, last)

    def offset(self) -> Doubles:
        """x · m of each row, float64."""
        return np.asarray(self.values.astype(np.float64) @ self.engine.mean)


def finite(rows: Floats, length: Doubles) -> None:
    """Raises ValueError for rows with NaN or infinite numbers; `length` is `lengths(rows)`."""
    if not np.isfinite(length).all() and not np.isfinite(rows).all():
        raise ValueError("rows with NaN or infinite numbers have no products")


def single_error(width: int, rows: Doubles, others: float) -> Doubles:
    """How far a float32 sum of products, in any order, may be from the exact one, for these lengths."""
    rounding = (width + 2) * 2.0**-24 * slack(width) * rows * others
    return np.asarray(rounding + TINY * (width + width**0.5 * (rows + others)))


def lengths(rows: Floats) -> Doubles:
    """Upper bounds of the rows' lengths, tight to 1e-4."""
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.einsum("ij,ij->i", rows, rows)
    return np.asarray(np.sqrt(square.astype(np.float64)) * slack(rows.shape[1]) + LEAST_LENGTH)


def _length64(rows: Doubles) -> Doubles:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)) * (1 + 1e-9))


def _mean(others: Floats) -> Doubles:
    if not len(others):
        return np.zeros(others.shape[1])
    return np.asarray(others.mean(axis=0, dtype=np.float64))


def _packed(rows: Floats, kind: Pass, scale: float) -> tuple[Any, Doubles, Doubles]:
    """Rows in bfloat16 or int8, an upper bound of |dx| and the unit of S, each a row."""
    import torch

    whole = torch.from_numpy(rows if rows.flags.writeable else rows.copy())
    packed = torch.empty(whole.shape, dtype=torch.int8 if kind == "int8" else torch.bfloat16)
    error, step = torch.empty(len(rows)), torch.ones(len(rows))
    for first in range(0, len(rows), AT_A_TIME):
        x, part = whole[first : first + AT_A_TIME], slice(first, first + AT_A_TIME)
        if kind == "bf16":
            packed[part] = x
            difference = x - packed[part]  # exact
        else:
            top = x.abs().amax(1, keepdim=True).div_(127)
            top[top < 1e-30] = 1
            whole_steps = (x / top).round_()
            packed[part] = whole_steps
            difference = whole_steps.mul_(top).sub_(x)
            step[part] = top[:, 0]
        error[part] = torch.linalg.vector_norm(difference, dim=1)
    bound = error.numpy().astype(np.float64) * slack(rows.shape[1]) + LEAST_LENGTH
    steps = step.numpy().astype(np.float64)
    if kind == "int8":
        # each of the d differences carries the rounding of one float32 product of at most 127 steps
        bound += 127 * 2.0**-23 * rows.shape[1] ** 0.5 * steps
        steps *= scale
    return packed, bound, steps


@dataclass
class Candidates:
    """Pairs that may win, sorted by row and then by other: `row` counts within the block; `value` in the unit of the row."""

    row: npt.NDArray[np.int64]
    other: npt.NDArray[np.int64]
    value: Doubles

    def keep(self, mask: npt.NDArray[Any]) -> Candidates:
        return Candidates(self.row[mask], self.other[mask], self.value[mask])
