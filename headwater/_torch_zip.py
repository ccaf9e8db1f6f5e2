"""The zip archive that torch.save writes: which records it holds, and that they are what they say.

    NAME/data.pkl (the objects), NAME/data/0 … (the storages), NAME/byteorder, NAME/version …: all stored, none compressed

Records that are compressed, that occur twice, or that together claim more bytes than the file has are refused, so no archive
unfolds to more than its own size. Each record that is read is checked against its CRC-32.
"""

from __future__ import annotations

import struct
import zipfile
from io import BufferedIOBase
from typing import IO, NoReturn, cast

from headwater._torch_pickle import NamesCode, Storage, Unreadable, names_of_code, read_pickle
from headwater.errors import IntegrityError

PICKLE_LIMIT_BYTES = 8 << 20  # of instructions; a training checkpoint of 1,000 tensors has 0.6 MB
DIRECTORY_LIMIT_BYTES = 32 << 20  # of the list of records
SAFER = "never load it with pickle or torch.load(weights_only=False); ask its source for safetensors"
AGAIN = "fetch or write the file again: nothing of it was used"
OLD = "load it in an environment that you trust it with, and save its state_dict() as safetensors"


class TorchZip:
    """An open archive. `path` is how messages call it. Raises IntegrityError for anything torch.save would not write."""

    def __init__(self, handle: IO[bytes], path: str, file_bytes: int) -> None:
        self._path = path
        _refuse_others(handle, path)
        try:
            _check_directory(handle, file_bytes)
            self._zip = zipfile.ZipFile(handle)
            self._records = self._index(file_bytes)
        except (zipfile.BadZipFile, struct.error, OSError, ValueError, NotImplementedError) as error:
            self._fail(f"is no whole zip archive ({error})", error)

    def _fail(self, what: str, cause: Exception | None = None) -> NoReturn:
        raise IntegrityError(f"{self._path}: {what}", hint=AGAIN) from cause

    def _index(self, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
        """Records by their name below the archive's own folder."""
        found: dict[str, zipfile.ZipInfo] = {}
        total, roots = 0, set()
        for info in self._zip.infolist():
            root, _, name = info.filename.partition("/")
            roots.add(root)
            if name in found:
                self._fail(f"holds the record {name!r} twice")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                self._fail(f"its record {name!r} is compressed, which torch.save never does")
            if not 0 <= info.header_offset < file_bytes:  # a damaged directory gives negative ones, too
                self._fail(f"its record {name!r} would begin at byte {info.header_offset:,}")
            found[name] = info
            total += info.file_size
        if total > file_bytes:
            self._fail(f"its records claim {total:,} bytes, the whole file has {file_bytes:,}")
        if len(roots) != 1 or "data.pkl" not in found:
            self._fail("is a zip archive, but none that torch.save wrote")
        if "constants.pkl" in found or any(name.startswith("code/") for name in found):
            code = min((name for name in found if name.startswith("code/")), default="constants.pkl")
            raise IntegrityError(
                f"{self._path}: is a TorchScript archive: it holds program code ({code})", hint=OLD
            )
        return found

    def objects(self) -> object:
        """What the archive holds, tensors as `View`. Names the function when the file would call one."""
        if self._records["data.pkl"].file_size > PICKLE_LIMIT_BYTES:
            self._fail(f"its pickle is larger than {PICKLE_LIMIT_BYTES:,} bytes, which weights never need")
        if "byteorder" in self._records and self._read("byteorder", 16) != b"little":
            self._fail("was written by a big-endian machine")
        try:
            return read_pickle(bytes(self._read("data.pkl", PICKLE_LIMIT_BYTES)))
        except NamesCode as found:
            raise code_found(self._path, str(found)) from None
        except Unreadable as error:
            self._fail(str(error), error)

    def storage(self, storage: Storage) -> bytearray:
        """The bytes of one storage."""
        name, size = f"data/{storage.key}", storage.count * storage.element_bytes
        if name not in self._records:
            self._fail(f"the storage {storage.key!r} is missing")
        if self._records[name].file_size != size:
            self._fail(
                f"the storage {storage.key!r} has {self._records[name].file_size:,} bytes, its tensors say {size:,}"
            )
        return self._read(name, size)

    def _read(self, name: str, limit: int) -> bytearray:
        try:
            with self._zip.open(self._records[name]) as record:
                data = bytearray(min(self._records[name].file_size, limit))
                view = memoryview(data)
                done = 0
                while done < len(data) and (count := cast(BufferedIOBase, record).readinto(view[done:])):
                    done += count
                if done < len(data) or record.read(1):
                    self._fail(f"its record {name!r} is cut short")
        except (zipfile.BadZipFile, struct.error, EOFError, ValueError, RuntimeError) as error:
            self._fail(f"its record {name!r} cannot be read ({error})", error)
        return data


def code_found(path: str, name: str) -> IntegrityError:
    """The refusal of a file whose pickle names something to call."""
    return IntegrityError(
        f"{path}: is no plain weights: unpickling it would call {name}; nothing was run", hint=SAFER
    )


def _refuse_others(handle: IO[bytes], path: str) -> None:
    """Files that are no zip archive, by what they are; a bare pickle also by what it would call."""
    head = handle.read(512)
    if head.startswith(b"PK\x03\x04"):
        return
    if head[257:262] == b"ustar":
        raise IntegrityError(f"{path}: is a tar archive (torch before 2017), which is not read", hint=OLD)
    if head[8:9] == b"{" and head[:1] != b"\x80":
        raise IntegrityError(
            f"{path}: looks like safetensors under another name", hint="name it NAME.safetensors"
        )
    name = names_of_code(head + handle.read(PICKLE_LIMIT_BYTES))
    if name is not None:
        raise code_found(path, name)
    if head.startswith(b"\x80"):
        raise IntegrityError(f"{path}: is a bare pickle (torch before 1.6), which is not read", hint=OLD)
    raise IntegrityError(f"{path}: is not a file that torch.save writes", hint=AGAIN)


def _check_directory(handle: IO[bytes], file_bytes: int) -> None:
    """That the list of records is small, before zipfile reads all of it. APPNOTE 6.3.10, sections 4.3.14 to 4.3.16."""
    tail_bytes = min(file_bytes, 22 + 65_535)
    handle.seek(file_bytes - tail_bytes)
    tail = handle.read(tail_bytes)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise zipfile.BadZipFile("its end is missing: truncated?")
    (size,) = struct.unpack_from("<L", tail, at + 12)
    if size == 0xFFFFFFFF:
        (wide,) = struct.unpack_from("<Q", tail, at - 20 + 8)  # the locator lies right before
        handle.seek(min(wide, file_bytes))
        (size,) = struct.unpack_from("<Q", handle.read(56), 40)
    if size > DIRECTORY_LIMIT_BYTES:
        raise zipfile.BadZipFile(f"a list of records of {size:,} bytes")
    handle.seek(0)
