"""Fast approximate inner products with a bound on their error: what curate.products decides from.

An `Engine` holds one side of a product, `others`. For a block of rows it gives a matrix S and, a row, a half-width h with

    | x · (c_j - m)  -  unit · S_j |  <=  unit · h          for every j

where m is a fixed vector (the mean of `others`, or 0: what a row gives for it is the same for all j, so no comparison along a row is
changed, and shorter vectors have smaller errors) and unit > 0 belongs to the row. Operands are split as x = x' + dx, c = c' + dc
with x', c' in the arithmetic of the pass; then |x·c - x'·c'| <= |dx||c'| + |x||dc| by Cauchy and Schwarz, to which comes the error
of accumulation, (d + 2) 2^-24 |x'||c'| for float32 in any order of summation, nothing for integers, and what a bfloat16 result
is rounded by. The passes of torch multiply x - r, r being the mean of the first block of rows, and add r · (c - m) afterwards as
a bias: what all rows have in common costs no precision then. Any r gives a right bound; this one gives a small one.

    f32     BLAS of NumPy, float32
    bf16    torch, bfloat16 operands and results, float32 accumulation
    int8    torch, 8-bit integers with one scale for each row and each of `others`; accumulation is exact
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
AT_A_TIME = 512  # rows that are packed while they are in the cache
WORTH_TORCH = 1e11  # multiply-adds from which loading torch pays
WORTH_PACKING = 2e9  # and from which, torch being there, packing pays
LARGE, SMALL = 1e30, 1e-20  # products of lengths outside go to float64
BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16")  # as /proc/cpuinfo names them
MOST_INTEGERS = 1 << 17
TINY = 2.0**-126  # operands and results below may be flushed to zero
LEAST_STEP = 1e-30  # of 8-bit integers: numbers below count as 0
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
        self.reach = np.zeros(self.count)  # |c'|
        self.spread = np.zeros(self.count)  # |dc|
        self._out: Any = None
        self._ready: Any = None
        self._scale: Any = None
        self._shift: Floats | None = None  # r
        self._prepare()
        self.longest, self.widest = float(self.reach.max(initial=0)), float(self.spread.max(initial=0))
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
        """Operands c' of the pass, and the bounds |c'| and |dc|."""
        if self.kind == "f64":
            self._ready = self.others.astype(np.float64) - self.mean
            self.reach = _length64(self._ready)
            return
        if self.kind == "f32":
            self._ready = self.others
            self.reach = self.lengths
            return
        import torch

        ready = np.empty(self.others.shape, np.int8 if self.kind == "int8" else np.float32)
        scale = np.ones(self.count, np.float32)
        for first, exact in self._centred():
            part = slice(first, first + len(exact))
            if self.kind == "int8":
                scale[part] = np.maximum(np.abs(exact).max(axis=1, initial=0) / 127, LEAST_STEP)
                steps = scale[part, None].astype(np.float64)
                ready[part] = np.rint(exact / steps)
                used = ready[part] * steps
            else:
                used = ready[part] = torch.from_numpy(exact.astype(np.float32)).bfloat16().float().numpy()
            self.reach[part] = _length64(used)
            self.spread[part] = _length64(exact - used)
        whole = torch.from_numpy(ready)
        self._ready = whole.bfloat16() if self.kind == "bf16" else whole
        self._scale = torch.from_numpy(scale)

    def shift(self, rows: Floats) -> Floats:
        """r: at the first call the mean of these rows, which then becomes part of the bias."""
        if self._shift is None:
            self._shift = _mean(rows).astype(np.float32)
            exact = self._shift.astype(np.float64)
            added = np.concatenate([part @ exact for _, part in self._centred()] or [np.zeros(0)])
            if self.bias is not None:
                added += self.bias - self.bias.mean()
            self._bias = added.astype(np.float32)
            self.most_bias = float(np.abs(added).max(initial=0))
        return self._shift

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

        if self._out is None or len(self._out) < size:
            self._out = torch.empty(size, dtype=torch.int32 if self.kind == "int8" else torch.bfloat16)
            self._wide = torch.empty(size)
        product = self._out[:size].view(shape)
        if self.kind == "int8":
            torch._int_mm(ready, others.T, out=product)
            wide = self._wide[:size].view(shape).copy_(product).mul_(self._scale[first:last])
        else:
            torch.mm(ready, others.T, out=product)
            wide = self._wide[:size].view(shape).copy_(product)
        assert self._bias is not None
        wide.addcmul_(_column(1 / unit), torch.from_numpy(self._bias[first:last]))
        return np.asarray(wide.numpy())


class Block:
    """Rows of one product: `matrix(first, last)` against others, with `half` and `unit` as in the module's first words."""

    def __init__(self, engine: Engine, rows: Floats, length: Doubles) -> None:
        self.engine = engine
        self.length = length
        self.values = rows
        e, width = engine, engine.width
        self.unit: Doubles = np.ones(len(rows))
        self._error = self._length = np.zeros(len(rows))
        if e.kind == "f64":
            self._ready: Any = rows.astype(np.float64)
            exact = _length64(self._ready)
            self._rest: Doubles = (
                (width + 4) * 2.0**-53 * exact * (e.longest + float(_length64(e.mean[None])[0]))
            )
            self._rest += 1e-300
            if e.bias is not None:
                self._rest += 2.0**-50 * (
                    self._rest + exact * e.longest + float(np.abs(e.bias).max(initial=0))
                )
        elif e.kind == "f32":
            self._ready = rows
            self._rest = single_error(width, length, e.longest)
            if e._bias is not None:
                self._rest += 2.0**-22 * (length * e.longest + float(np.abs(e._bias).max(initial=0)))
        else:
            least = LEAST_STEP
            shift = e.shift(rows)
            least *= max(1.0, e.most_bias)  # so that bias / step does not overflow
            self._ready, self._error, self._length, self.unit = _packed(rows, shift, e.kind, least)
            reach = self._length * e.longest
            self._rest = 1e-9 * reach
            if e.kind == "bf16":
                self._rest += single_error(width, self._length, e.longest)
            half = self._half(e.longest, e.widest)
            if e.kind == "bf16":  # a bfloat16 result is at most |x'||c'| and the error so far
                self._rest += 2.0**-8 * slack(width) * (reach + half)
            # what follows is formed in float32
            self._rest += 2.0**-21 * (reach + half + e.most_bias) + 8 * TINY * self.unit
        self.half: Doubles = self._half(e.longest, e.widest) / self.unit

    def _half(self, reach: Any, spread: Any) -> Doubles:
        factor = slack(self.engine.width)
        return np.asarray(factor * (self._error * reach + self._length * spread) + self._rest)

    def half_of(self, row: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> Doubles:
        """The half-width of single pairs, where |c| and |dc| of the other count and not the largest of all."""
        e = self.engine
        error = self._error[row] * e.reach[other] + self._length[row] * e.spread[other]
        return np.asarray((slack(e.width) * error + self._rest[row]) / self.unit[row])

    def matrix(self, first: int, last: int) -> Numbers:
        """S for others first … last - 1; the next call overwrites it."""
        return self.engine.multiply(self._ready, self.unit, first, last)

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


def two_largest(s: Numbers, every: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Numbers, Numbers]:
    """A place of the largest of each row, which is -inf in `s` afterwards; it, and the next. Rows are 0 … n - 1 in `every`.

    The bits of positive numbers are in order as integers, which NumPy compares faster.
    """
    bits = s.view(f"i{s.itemsize}")
    place: npt.NDArray[np.int64] = bits.argmax(axis=1)
    most = s[every, place]
    other = np.flatnonzero(~(most > 0))
    if len(other):
        place[other] = s[other].argmax(axis=1)
        most = s[every, place]
    s[every, place] = -np.inf
    second = bits.max(axis=1).view(s.dtype)
    other = np.flatnonzero(~(second > 0))
    if len(other):
        second[other] = s[other].max(axis=1)
    return place, most, second


def lengths(rows: Floats) -> Doubles:
    """Upper bounds of the rows' lengths, tight to 1e-4."""
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.vecdot(rows, rows)
    return np.asarray(np.sqrt(square.astype(np.float64)) * slack(rows.shape[1]) + LEAST_LENGTH)


def _length64(rows: Doubles) -> Doubles:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)) * (1 + 1e-9))


def _mean(others: Floats) -> Doubles:
    if not len(others):
        return np.zeros(others.shape[1])
    return np.asarray(others.mean(axis=0, dtype=np.float64))


def _column(values: Doubles) -> Any:
    import torch

    return torch.from_numpy(values.astype(np.float32))[:, None]


def _packed(rows: Floats, shift: Floats, kind: Pass, least: float) -> tuple[Any, Doubles, Doubles, Doubles]:
    """x' of rows x - r in bfloat16 or int8, and a row: upper bounds of |dx| and |x - r|, and the unit of S, at least `least`."""
    import torch

    whole = torch.from_numpy(rows if rows.flags.writeable else rows.copy())
    packed = torch.empty(whole.shape, dtype=torch.int8 if kind == "int8" else torch.bfloat16)
    error, length, step = (np.ones(len(rows), np.float32) for _ in range(3))
    common = torch.from_numpy(shift)
    buffer = torch.empty((2, min(AT_A_TIME, len(rows)), rows.shape[1]))
    for first in range(0, len(rows), AT_A_TIME):
        part = slice(first, first + AT_A_TIME)
        q = packed[part]
        x, near = buffer[0, : len(q)], buffer[1, : len(q)]
        torch.sub(whole[part], common, out=x)
        flat = x.numpy()
        np.vecdot(flat, flat, out=length[part])
        if kind == "int8":
            top = torch.maximum(x.amax(1), x.amin(1).neg_()).div_(127).clamp_(min=least)
            step[part] = top.numpy()
            x.mul_(top.reciprocal_()[:, None])
            q.copy_(torch.round(x, out=near))
        else:
            near.copy_(q.copy_(x))
        x.sub_(near)  # exact
        np.vecdot(flat, flat, out=error[part])
    factor, steps = slack(rows.shape[1]), step.astype(np.float64)
    bounds = np.sqrt(length.astype(np.float64)) * factor + LEAST_LENGTH
    errors = (np.sqrt(error.astype(np.float64)) * factor + LEAST_LENGTH) * steps
    if kind == "int8":
        # each of the d differences is that of at most 127 steps, divided with two roundings
        errors += 127 * 2.0**-22 * rows.shape[1] ** 0.5 * steps
    errors += 2.0**-23 * bounds  # of x - r
    return packed, errors, bounds * (1 + 2.0**-20), steps


@dataclass
class Candidates:
    """Pairs that may win, sorted by row and then by other: `row` counts within the block; `value` in the unit of the row."""

    row: npt.NDArray[np.int64]
    other: npt.NDArray[np.int64]
    value: Doubles

    def keep(self, mask: npt.NDArray[Any]) -> Candidates:
        return Candidates(self.row[mask], self.other[mask], self.value[mask])
