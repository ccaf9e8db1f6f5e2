"""ONNX models from strangers: read as bytes, looked at by our own reader, and only then given to onnxruntime.

A model is one file. The reader walks its protobuf (field numbers of onnx.proto) and refuses, by name:

    what is no ONNX model (a pickle, a zip archive as torch.save writes it, a pointer of Git LFS, …), is cut off, or lies about sizes
    tensors whose data lie in another file (`external_data`): it could be any file of this machine
    operators of other domains than ONNX's own and onnxruntime's: they need a library of code, which is never loaded
    operators that loop (Loop, Scan, SequenceMap) or draw random numbers, EPContext, functions of the model's own and training graphs:
    no classifier of pictures needs them, and their work is not bounded by the file, or their answer not decided by it

Sessions run on the CPU, on one thread, in order, with deterministic kernels: an answer does not depend on cores or load. Another kind
of CPU or another onnxruntime may round differently.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.errors import IntegrityError, MissingExtra, MissingInput
from headwater.files import named_io

LIMIT_BYTES = 1 << 30
MAX_FIELDS = 2_000_000  # protobuf fields that are looked at
MAX_NODES = 100_000
MAX_DEPTH = 8  # of graphs within graphs
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
LOOPS = ("Loop", "Scan", "SequenceMap")
RANDOM = (
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"),
)
FLOAT, FLOAT16 = 1, 10  # TensorProto.DataType
ONE_FILE = "save the model as one ONNX file of the standard operators"

Field = tuple[int, int, int | memoryview]  # number, wire type, value


@dataclass(frozen=True)
class Value:
    """An input or output of the graph; a dimension that is not fixed is None, a shape that is not told too."""

    name: str
    type: int
    shape: tuple[int | None, ...] | None


@dataclass
class Model:
    """A file that was looked at. `data` are its bytes, which alone are given to onnxruntime."""

    path: Path
    data: bytes = field(repr=False)
    sha256: str
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    nodes: int = 0


def read_model(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> Model:
    """Read and check a file; nothing is loaded.

    Raises MissingInput, and IntegrityError for what is listed at the top of this module or larger than `limit_bytes`.
    """
    data = _read(path, limit_bytes)
    model = Model(path, data, hashlib.sha256(data).hexdigest())
    _Walk(model).model(memoryview(data))
    return model


def need_onnxruntime(who: str, extra: str) -> None:
    """Raises MissingExtra, with the command that installs it."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtra(
            f"{who} needs onnxruntime, which is not installed", hint=f"pip install 'headwater[{extra}]'"
        )


def open_session(model: Model) -> Any:
    """An onnxruntime.InferenceSession of the bytes that were checked. Raises IntegrityError."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # what it says of this machine is nothing for a user
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # pictures of many sizes would make it grow
    try:
        return onnxruntime.InferenceSession(model.data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise IntegrityError(
            f"{model.path}: onnxruntime cannot build this model: {one_line(error)}", hint=ONE_FILE
        ) from None


def run_session(session: Any, model: Model, output: str, value: Any) -> Any:
    """The output of that name for the one input of the model. Raises IntegrityError when the model fails."""
    try:
        return session.run([output], {model.inputs[0].name: value})[0]
    except Exception as error:
        raise IntegrityError(
            f"{model.path}: the model fails on an input of {tuple(value.shape)}: {one_line(error)}"
        ) from None


def one_line(error: Exception) -> str:
    """The first line of what onnxruntime says, without its codes."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.partition(" : ")[2].partition(" : ")[2][:300] or text[:300]


def _read(path: Path, limit_bytes: int) -> bytes:
    with named_io(path):
        try:
            # a pipe would block the opening, a device the reading
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingInput(f"{path}: no such file", hint="name a file that ends in .onnx") from None
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            os.close(fd)
            raise IntegrityError(f"{path}: is not a regular file")
        with open(fd, "rb") as handle:
            if before.st_size > limit_bytes:
                raise IntegrityError(
                    f"{path}: {before.st_size:,} bytes; more than {limit_bytes:,} are not read as a model"
                )
            data = handle.read(before.st_size + 1)
    if len(data) != before.st_size:
        raise IntegrityError(
            f"{path}: changed while it was read", hint="stop what writes to it and run again"
        )
    _check_start(path, data)
    return data


def _check_start(path: Path, data: bytes) -> None:
    """Name what is often taken for a model."""
    known = [
        (b"PK\x03\x04", "is a zip archive (torch.save writes such, with a pickle in it), not an ONNX model"),
        (b"version https://git-lfs", "is a pointer of Git LFS, not the model"),
        (b"\x89HDF", "is an HDF5 file (Keras), not an ONNX model"),
    ]
    for start, what in known:
        if data.startswith(start):
            raise IntegrityError(f"{path}: {what}", hint="export the model to ONNX")
    if data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        raise IntegrityError(
            f"{path}: is a pickle, which could run code, not an ONNX model; nothing of it was run",
            hint="export the model to ONNX",
        )
    if data[4:8] == b"ORTM":
        raise IntegrityError(f"{path}: is in onnxruntime's own format", hint="give the ONNX model")
    if not data:
        raise IntegrityError(f"{path}: is empty")


class _Walk:
    """One pass over a ModelProto. Every message that may hold a tensor is looked at, wherever it lies."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._fields = 0
        self._graphs = 0

    def _bad(self, what: str, hint: str | None = None) -> IntegrityError:
        return IntegrityError(f"{self._model.path}: {what}", hint=hint)

    def model(self, data: memoryview) -> None:
        for number, kind, value in self._split(data, "the model"):
            if number == 7:
                self._graphs += 1
                self._graph(self._message(kind, value, "graph"), 0)
            elif number == 8:
                self._opset(self._message(kind, value, "opset_import"))
            elif number == 20:
                raise self._bad("holds a training graph", hint="export the model for inference")
            elif number == 25:
                raise self._bad(
                    "holds functions of its own, which are not run", hint="inline them when exporting it"
                )
        if not self._graphs or not self._model.opsets:
            raise self._bad("is not an ONNX model: it has no graph or no opset_import")
        if self._graphs > 1:
            raise self._bad("has more than one graph")

    def _opset(self, data: memoryview) -> None:
        domain, version = "", 0
        for number, kind, value in self._split(data, "opset_import"):
            if number == 1:
                domain = self._text(kind, value)
            elif number == 2 and isinstance(value, int):
                version = value
        # a domain that is named here and used by no node asks for nothing
        self._model.opsets[domain] = version

    def _graph(self, data: memoryview, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._bad(f"has graphs within graphs deeper than {MAX_DEPTH}")
        inputs: list[Value] = []
        outputs: list[Value] = []
        constants = set()
        for number, kind, value in self._split(data, "a graph"):
            if number == 1:
                self._node(self._message(kind, value, "node"), depth)
            elif number == 5:
                constants.add(self._tensor(self._message(kind, value, "initializer")))
            elif number in (11, 12):
                found = self._value(self._message(kind, value, "value"))
                (inputs if number == 11 else outputs).append(found)
            elif number == 15:
                raise self._bad("holds sparse tensors", hint=ONE_FILE)
        if depth == 0:
            # models of IR version 3 list their constants as inputs, too
            self._model.inputs += [found for found in inputs if found.name not in constants]
            self._model.outputs += outputs

    def _node(self, data: memoryview, depth: int) -> None:
        self._model.nodes += 1
        if self._model.nodes > MAX_NODES:
            raise self._bad(f"has more than {MAX_NODES:,} nodes")
        operator = domain = ""
        attributes = []
        for number, kind, value in self._split(data, "a node"):
            if number == 4:
                operator = self._text(kind, value)
            elif number == 7:
                domain = self._text(kind, value)
            elif number == 5:
                attributes.append(self._message(kind, value, "attribute"))
        if domain not in DOMAINS:
            raise self._bad(
                f"uses the operator {operator!r} of domain {domain!r}, which needs a library of code; none is loaded",
                hint=ONE_FILE,
            )
        if operator in LOOPS or operator == "EPContext":
            raise self._bad(f"uses {operator}, which no classifier of pictures needs", hint=ONE_FILE)
        if operator in RANDOM:
            raise self._bad(f"uses {operator}: its answers would differ from run to run", hint=ONE_FILE)
        for attribute in attributes:
            for number, kind, value in self._split(attribute, "an attribute"):
                if number in (5, 10):
                    self._tensor(self._message(kind, value, "tensor"))
                elif number in (6, 11):
                    self._graph(self._message(kind, value, "graph"), depth + 1)
                elif number in (22, 23):
                    raise self._bad("holds sparse tensors", hint=ONE_FILE)

    def _tensor(self, data: memoryview) -> str:
        """Its name. The elements must lie in it: two a byte at most."""
        name, dims = "", []
        for number, kind, value in self._split(data, "a tensor"):
            if number == 1:
                dims += self._numbers(kind, value)
            elif number == 8:
                name = self._text(kind, value)
            elif number == 13 or (number == 14 and value != 0):
                raise self._bad(
                    f"the data of a tensor lie in another file{self._place(number, kind, value)}, which is not read",
                    hint=ONE_FILE,
                )
        if any(size >> 63 for size in dims) or math.prod(dims) > 2 * len(data):
            raise self._bad(
                f"tensor {name[:80]!r} says it is {dims[:8]}, and has {len(data):,} bytes: cut off, or not what it says"
            )
        return name

    def _place(self, number: int, kind: int, value: int | memoryview) -> str:
        if number != 13 or not isinstance(value, memoryview):
            return ""
        entry = {n: self._text(k, v) for n, k, v in self._split(value, "external_data") if n in (1, 2)}
        return f" ({entry.get(2, '')[:120]!r})" if entry.get(1) == "location" else ""

    def _value(self, data: memoryview) -> Value:
        """ValueInfoProto: name and, of a tensor, type and shape."""
        name, kind_of, shape = "", 0, None
        for number, kind, value in self._split(data, "a value"):
            if number == 1:
                name = self._text(kind, value)
            elif number == 2:
                for n, k, tensor in self._split(self._message(kind, value, "type"), "a type"):
                    if n != 1:
                        continue
                    for m, j, part in self._split(self._message(k, tensor, "tensor_type"), "a type"):
                        if m == 1 and isinstance(part, int):
                            kind_of = part
                        elif m == 2:
                            shape = self._shape(self._message(j, part, "shape"))
        return Value(name, kind_of, shape)

    def _shape(self, data: memoryview) -> tuple[int | None, ...]:
        sizes: list[int | None] = []
        for number, kind, value in self._split(data, "a shape"):
            if number == 1:
                size = None
                for n, _, given in self._split(self._message(kind, value, "dim"), "a dimension"):
                    if n == 1 and isinstance(given, int) and 0 < given < 1 << 31:
                        size = given
                sizes.append(size)
        return tuple(sizes)

    def _numbers(self, kind: int, value: int | memoryview) -> list[int]:
        """int64 values: one, or packed."""
        if isinstance(value, int):
            return [value]
        found, at = [], 0
        while at < len(value):
            number, at = self._varint(value, at)
            found.append(number)
            if len(found) > 64:
                raise self._bad("a tensor has more than 64 dimensions")
        return found

    def _message(self, kind: int, value: int | memoryview, what: str) -> memoryview:
        if not isinstance(value, memoryview) or kind != 2:
            raise self._bad(f"is not an ONNX model: {what} is no message")
        return value

    def _text(self, kind: int, value: int | memoryview) -> str:
        if not isinstance(value, memoryview) or kind != 2 or len(value) > 1 << 16:
            raise self._bad("is not an ONNX model: a name is no text")
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise self._bad("is not an ONNX model: a name is no text") from None

    def _varint(self, data: memoryview, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if at >= len(data):
                raise self._bad("is not an ONNX model, or is cut off: a number ends too early")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 63:
                raise self._bad("is not an ONNX model: a number has more than 64 bits")
        if value >> 64:
            raise self._bad("is not an ONNX model: a number has more than 64 bits")
        return value, at

    def _split(self, data: memoryview, what: str) -> Iterator[Field]:
        """The fields of a message; lengths are checked before anything is taken."""
        at = 0
        while at < len(data):
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise self._bad(f"has more than {MAX_FIELDS:,} fields")
            tag, at = self._varint(data, at)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise self._bad(f"is not an ONNX model: {what} has a field {number}")
            if kind == 0:
                value, at = self._varint(data, at)
                yield number, kind, value
                continue
            if kind == 2:
                size, at = self._varint(data, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise self._bad(f"is not an ONNX model: {what} has a field of wire type {kind}")
            if size > len(data) - at:
                raise self._bad(
                    f"is not an ONNX model, or is cut off: a field of {what} wants {size:,} bytes, {len(data) - at:,} are left"
                )
            yield number, kind, data[at : at + size]
            at += size
