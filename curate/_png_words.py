"""Eight bytes at any place of an array as one number: what numba's own indexing does one byte at a time.

On little-endian machines, so that the first byte is the lowest: curate._png refuses others.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-untyped-decorators=False, check-untyped-defs=False

from __future__ import annotations

from llvmlite import ir
from numba import types, uint8, uint64
from numba.extending import intrinsic


def _pointer(context, builder, array_type, array, at):
    first = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(first, [at]), ir.IntType(64).as_pointer())


@intrinsic
def load(typing, data, at):
    """Eight bytes from byte `at` of a contiguous uint8 array, the first one lowest."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], *args)
        return builder.load(pointer, align=1)

    return uint64(types.Array(uint8, 1, "C"), uint64), generate


@intrinsic
def store(typing, data, at, word):
    """Write eight bytes from byte `at` on, the lowest one first."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.Array(uint8, 1, "C"), uint64, uint64), generate
