"""The objects of a file that torch.save wrote, read as data by a machine that cannot call anything.

Unpickling runs whatever function a file names. Here `pickletools` lists the instructions, and a stack machine builds dicts,
lists and descriptions of tensors from them; the first name that is not part of plain tensors ends it, and is told.
Nothing is imported or called, so there is nothing to bypass. The instructions are those of PEP 307 and PEP 3154; what torch
makes of them is in torch/_weights_only_unpickler.py, whose list of allowed names is longer than this one.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# the storage classes of torch -> (dtype, bytes an element)
STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}
_TENSOR, _PARAMETER = ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")
_TABLE = ("collections", "OrderedDict")
# what a checkpoint may hold beside its tensors; becomes nothing here
_IGNORED = {
    ("_codecs", "encode"),
    ("builtins", "set"),
    ("__builtin__", "set"),
    ("torch", "Size"),
    ("torch", "device"),
}
_MARK = object()


class Unreadable(Exception):
    """Not a pickle, or one that does not describe what it should; the message says what is wrong."""


class NamesCode(Exception):
    """A pickle that names something to call; the message is `module.name`."""


@dataclass(frozen=True)
class Name:
    """Something a pickle would import."""

    module: str
    name: str


@dataclass(frozen=True)
class Storage:
    """A record of raw elements."""

    key: str
    dtype: str
    element_bytes: int
    count: int


@dataclass(frozen=True)
class View:
    """A tensor: which elements of a storage, in which order."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Table(dict[Any, Any]):
    """An OrderedDict; only such a dict may be given attributes (torch keeps versions of modules there)."""


def read_pickle(data: bytes) -> Any:
    """What one pickle describes. Raises NamesCode, or Unreadable."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
        raise Unreadable(f"its pickle is damaged ({type(error).__name__}: {error})") from error
    return machine.result


def names_of_code(data: bytes) -> str | None:
    """The first thing that the pickles at the start of `data` would import and that is no plain tensor, if any."""
    stream = io.BytesIO(data)
    try:
        while stream.tell() < len(data):
            machine = _Machine(lenient=True)
            for opcode, argument, _ in pickletools.genops(stream):
                machine.step(opcode.name, argument)
    except NamesCode as found:
        return str(found)
    except (Unreadable, ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError):
        pass  # what is behind the pickles, or damage
    return None


class _Machine:
    """The pickle machine without its hands. One method a kind of instruction; unknown ones are refused."""

    def __init__(self, *, lenient: bool = False) -> None:
        self.result: Any = None
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._lenient = lenient  # only looking for names: what storages are does not matter

    def step(self, code: str, argument: Any) -> None:
        """One instruction, as pickletools names it."""
        if code in _CONSTANTS:
            self._stack.append(_CONSTANTS[code]())
        elif code in _LITERALS:
            self._stack.append(argument)
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._top()
        elif code in ("PROTO", "FRAME"):
            pass
        else:
            action = _ACTIONS.get(code)
            if action is None:
                raise Unreadable(f"its pickle uses {code}, which torch.save never writes")
            action(self, argument)

    def _top(self) -> Any:
        return self._stack[-1]

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise Unreadable("its pickle is damaged (a mark where a value belongs)")
        return value

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1  # below the bottom: IndexError, once all was looked at
            if at < 0:
                raise Unreadable("its pickle is damaged (no mark)")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def stop(self, _: Any) -> None:
        self.result = self._pop()

    def mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def pop(self, _: Any) -> None:
        self._stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._since_mark()

    def dup(self, _: Any) -> None:
        self._stack.append(self._top())

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def tuple_(self, _: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def list_(self, _: Any) -> None:
        self._stack.append(self._since_mark())

    def small_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def append(self, _: Any) -> None:
        self._extend([self._pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._top(), list):
            raise Unreadable("its pickle appends to what is no list")
        self._top().extend(items)

    def dict_(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._update(items)

    def set_item(self, _: Any) -> None:
        value = self._pop()
        self._update([self._pop(), value])

    def set_items(self, _: Any) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise Unreadable("its pickle sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # hashing a tuple in a tuple in a … of a million levels would end the process
            if not isinstance(key, str | int | float | None):
                raise Unreadable(f"its pickle has a key of type {type(key).__name__}")
            target[key] = value

    def import_(self, argument: str) -> None:
        self._import(*argument.split(" ", 1))

    def stack_import(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._import(str(module)[:200], str(name)[:200])

    def _import(self, module: str, name: str) -> None:
        key = (module, name)
        known = key in (_TENSOR, _PARAMETER, _TABLE) or key in _IGNORED
        if not known and not (module in ("torch", "torch.cuda") and name in STORAGES):
            raise NamesCode(f"{module}.{name}")
        self._stack.append(Name(module, name))

    def instance(self, argument: str) -> None:
        raise NamesCode(argument.replace(" ", ".", 1))

    def extension(self, argument: int) -> None:
        raise NamesCode(f"copyreg extension {argument}")

    def reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Unreadable("its pickle calls what is no function")
        key = (function.module, function.name)
        if key == _TABLE and arguments == ():
            self._stack.append(_Table())
        elif self._lenient or key in _IGNORED:
            self._stack.append(None)
        elif key == _TENSOR and len(arguments) >= 4:
            self._stack.append(_view(*arguments[:4]))
        elif key == _PARAMETER and arguments and isinstance(arguments[0], View):
            self._stack.append(arguments[0])
        else:
            raise Unreadable(
                f"its pickle calls {function.module}.{function.name} in a way torch.save does not"
            )

    def build(self, _: Any) -> None:
        self._pop()
        if not isinstance(self._top(), _Table):
            raise Unreadable("its pickle gives attributes to what is no OrderedDict")

    def persistent(self, _: Any) -> None:
        saved = self._pop()
        self._stack.append(None if self._lenient else _storage(saved))


def _storage(saved: Any) -> Storage:
    if not isinstance(saved, tuple) or len(saved) != 5 or saved[0] != "storage":
        raise Unreadable("its pickle refers to something other than a storage")
    _, kind, key, _, count = saved
    if not isinstance(kind, Name) or kind.name not in STORAGES or type(count) is not int or count < 0:
        raise Unreadable("its pickle describes a storage wrongly")
    if not isinstance(key, str) or not key.isascii() or not key.isalnum():
        raise Unreadable("its pickle names a storage oddly")
    return Storage(key, *STORAGES[kind.name], count)


def _view(storage: Any, offset: Any, shape: Any, stride: Any) -> View:
    sides = (shape, stride)
    if not isinstance(storage, Storage) or not all(isinstance(side, tuple) for side in sides):
        raise Unreadable("its pickle describes a tensor wrongly")
    if len(shape) != len(stride) or len(shape) > 64:
        raise Unreadable("its pickle describes a tensor of odd rank")
    numbers = (offset, *shape, *stride)
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
        raise Unreadable("its pickle describes a tensor with sizes that are no whole numbers")
    count, last = 1, offset
    for n, step in zip(shape, stride, strict=True):
        count *= n
        last += max(n - 1, 0) * step
    # torch would enlarge the storage, and what is beyond the file would be whatever lies in memory
    if count and (last >= storage.count or count > storage.count):
        raise Unreadable(
            f"a tensor of shape {str(shape):.80} reaches beyond its storage of {storage.count:,} elements"
        )
    return View(storage, offset, shape, stride)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "STOP": _Machine.stop,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    "MEMOIZE": _Machine.memoize,
    "TUPLE": _Machine.tuple_,
    "TUPLE1": lambda machine, _: machine.small_tuple(1),
    "TUPLE2": lambda machine, _: machine.small_tuple(2),
    "TUPLE3": lambda machine, _: machine.small_tuple(3),
    "LIST": _Machine.list_,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "DICT": _Machine.dict_,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.import_,
    "STACK_GLOBAL": _Machine.stack_import,
    "INST": _Machine.instance,
    "EXT1": _Machine.extension,
    "EXT2": _Machine.extension,
    "EXT4": _Machine.extension,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
