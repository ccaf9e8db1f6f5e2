"""Tiny ONNX models, written byte by byte: no package that writes ONNX is needed, and any byte can be made wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

FLOAT, INT64 = 1, 7
Shape = Sequence[int | str]


def varint(value: int) -> bytes:
    """A number; negative ones are of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, body: bytes | str) -> bytes:
    body = body.encode() if isinstance(body, str) else body
    return varint(field << 3 | 2) + varint(len(body)) + body


def tensor(name: str, values: npt.NDArray[np.generic], *, extra: bytes = b"") -> bytes:
    """TensorProto of float32 or int64 values."""
    kind = FLOAT if values.dtype.kind == "f" else INT64
    little = values.astype("<f4" if kind == FLOAT else "<i8")
    dims = b"".join(number(1, size) for size in values.shape)
    return dims + number(2, kind) + block(8, name) + block(9, little.tobytes()) + extra


def outside(name: str, location: str) -> bytes:
    """TensorProto whose data lie in another file."""
    entry = block(1, "location") + block(2, location)
    return number(1, 4) + number(2, FLOAT) + block(8, name) + block(13, entry) + number(14, 1)


def value(name: str, shape: Shape | None, kind: int = FLOAT) -> bytes:
    """ValueInfoProto; a text in the shape is a dimension that is not fixed."""
    body = number(1, kind)
    if shape is not None:
        dims = [number(1, s) if isinstance(s, int) else block(2, s) for s in shape]
        body += block(2, b"".join(block(1, dim) for dim in dims))
    return block(1, name) + block(2, block(1, body))


def ints(name: str, values: Iterable[int]) -> bytes:
    """AttributeProto of whole numbers."""
    return block(1, name) + b"".join(number(8, v) for v in values) + number(20, 7)


def integer(name: str, given: int) -> bytes:
    return block(1, name) + number(3, given) + number(20, 2)


def real(name: str, given: float) -> bytes:
    return block(1, name) + varint(2 << 3 | 5) + struct.pack("<f", given) + number(20, 1)


def constant(name: str, body: bytes) -> bytes:
    """AttributeProto of a tensor."""
    return block(1, name) + block(5, body) + number(20, 4)


def graph_attribute(name: str, body: bytes) -> bytes:
    return block(1, name) + block(6, body) + number(20, 5)


def node(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Sequence[bytes] = (),
    domain: str = "",
) -> bytes:
    """NodeProto."""
    parts = [block(1, name) for name in inputs] + [block(2, name) for name in outputs]
    parts += [block(4, operator)] + [block(5, body) for body in attributes]
    return b"".join(parts) + (block(7, domain) if domain else b"")


def graph(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    constants: Sequence[bytes] = (),
) -> bytes:
    """GraphProto."""
    parts = [block(1, body) for body in nodes] + [block(2, "g")] + [block(5, body) for body in constants]
    return b"".join(parts + [block(11, body) for body in inputs] + [block(12, body) for body in outputs])


def model(graph_body: bytes, *, opsets: Sequence[tuple[str, int]] = (("", 17),), extra: bytes = b"") -> bytes:
    """ModelProto."""
    imports = b"".join(block(8, (block(1, d) if d else b"") + number(2, v)) for d, v in opsets)
    return number(1, 8) + block(2, "kit") + block(7, graph_body) + imports + extra


def classifier(
    weights: npt.NDArray[np.float32] | None = None,
    *,
    layout: str = "nchw",
    size: int | str = 16,
    activation: str = "",
    classes: int = 2,
    nodes: Sequence[bytes] = (),
    constants: Sequence[bytes] = (),
    opsets: Sequence[tuple[str, int]] = (("", 17),),
    extra: bytes = b"",
) -> bytes:
    """Means of the three channels times weights (3, classes), then Softmax or Sigmoid: (1, classes)."""
    if weights is None:
        weights = np.random.default_rng(7).normal(size=(3, classes)).astype(np.float32)
    shape: list[int | str] = [1, 3, size, size] if layout == "nchw" else [1, size, size, 3]
    axes = (2, 3) if layout == "nchw" else (1, 2)
    body = [
        node("ReduceMean", ["x"], ["means"], [ints("axes", axes), integer("keepdims", 0)]),
        node("MatMul", ["means", "w"], ["y" if not activation else "z"]),
    ]
    if activation:
        body.append(node(activation, ["z"], ["y"]))
    whole = graph(
        [*body, *nodes],
        [value("x", shape)],
        [value("y", [1, weights.shape[1]])],
        [tensor("w", weights), *constants],
    )
    return model(whole, opsets=opsets, extra=extra)


def write(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    return path
