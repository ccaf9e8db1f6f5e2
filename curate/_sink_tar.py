"""The tar sink: a webdataset shard, with headers that say nothing but name and size, as in curate._tarwrite."""

from __future__ import annotations

from typing import IO, Any

from curate._coco_file import dump
from curate.sinks import BlockWriter
from headwater.errors import HeadwaterError
from headwater.files import atomic_file

_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2
_BEFORE_SUM = b"0" * 11 + b"\0"
_AFTER_SUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_FIXED_SUM = sum(_BEFORE_SIZE) + sum(_BEFORE_SUM) + 8 * 32 + sum(_AFTER_SUM)
_LIMIT_BYTES = 8**11
_ZEROS = bytes(512)


def header(name: str, size: int) -> bytes:
    """512 bytes of a ustar header: mode 0644, mtime, uid and gid 0, no owner names. Raises HeadwaterError above ustar's limits."""
    raw = name.encode()
    if len(raw) > 100 or not 0 <= size < _LIMIT_BYTES:
        raise HeadwaterError(f"{name}: a tar member of {size:,} bytes under this name has no plain header")
    digits = b"%011o\0" % size
    total = _FIXED_SUM + sum(raw) + sum(digits)
    return b"".join(
        (raw.ljust(100, b"\0"), _BEFORE_SIZE, digits, _BEFORE_SUM, b"%06o\0 " % total, _AFTER_SUM)
    )


class TarWriter(BlockWriter):
    """Writes NAME.tar."""

    _file: IO[bytes]
    _written: int

    def _open(self) -> None:
        self._file = self._stack.enter_context(atomic_file(self.folder / f"{self.name}.tar"))
        self._written = 0

    def _add(
        self,
        key: str,
        label: int,
        category: int,
        instance: int,
        png: bytes,
        mask: bytes,
        things: list[dict[str, Any]],
        path: str | None,
    ) -> None:
        self._member(f"{key}.png", png)
        self._member(f"{key}.cls", b"%d" % label)
        if self.layout.annotated:
            self._member(f"{key}.mask.png", mask)
            self._member(f"{key}.json", dump(things))

    def _member(self, name: str, content: bytes) -> None:
        padding = -len(content) % 512
        self._file.write(b"".join((header(name, len(content)), content, _ZEROS[:padding])))
        self._written += 512 + len(content) + padding

    def _finish(self) -> tuple[list[str], int]:
        self._file.write(_ZEROS + _ZEROS)
        return [f"{self.name}.tar"], self._written + 1024
