"""One file into Girder: in one request, or in chunks that go on at the offset the server names.

    begin ──> chunk ──> chunk ──> … ──> file document        failed? ask file/offset, go on from there
      └ upload id into the journal, so that a killed publish goes on too

Girder 5 loses its running SHA-512 when it is killed inside a chunk: it then keeps the file under a wrong hash, and gives out
another file's bytes when that hash is taken. After a resumed upload the bytes are therefore read back, unless the hash fits.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distribute.transports._base import (
    Limits,
    NotThere,
    Refused,
    SourceError,
    Stalled,
    Unreachable,
    WrongBytes,
)
from distribute.transports._girder_api import Full, Girder, GirderError
from distribute.transports._girder_records import File, Folder, Item, checked_id, parse_file
from distribute.transports._web import Busy
from headwater.errors import HeadwaterError, IntegrityError
from headwater.files import named_io, write_json

CHUNK_BYTES = 64 << 20  # Girder takes none below 5 MiB but the last
BLOCK_BYTES = 1 << 20
FIRST_WAIT_SECONDS = 0.5
PATIENCE = 2  # attempts beyond Limits.attempts, without progress: a server needs some 10 s to come back

_PASSING = (Unreachable, Stalled, Busy)
Place = tuple[Literal["folder", "item", "file"], str]  # where the bytes go: a new item, into one, over a file


@dataclass(frozen=True)
class Job:
    """One file to send. `item` is what has its name there already, and gets these bytes."""

    label: str
    source: Path
    size_bytes: int
    sha256: str
    folder: Folder
    name: str
    item: Item | None = None


class Journal:
    """Uploads that have begun, kept in one file; a journal that cannot be read costs time, never correctness."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            loaded = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            loaded = {}
        self._entries: dict[str, Any] = loaded if isinstance(loaded, dict) else {}

    def get(self, key: str, job: Job) -> str | None:
        """The upload of exactly these bytes, if one has begun."""
        entry = self._entries.get(key)
        if isinstance(entry, dict) and entry.get("sha256") == job.sha256:
            with suppress(WrongBytes):
                return checked_id(entry.get("upload"))
        return None

    def put(self, key: str, upload: str | None, job: Job) -> None:
        """Keep an upload's id, or with None forget it."""
        with self._lock:
            if upload is None:
                if self._entries.pop(key, None) is None:
                    return
            else:
                self._entries[key] = {
                    "upload": upload,
                    "sha256": job.sha256,
                    "size_bytes": job.size_bytes,
                }
            with named_io(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._path, self._entries, durable=False)


class Uploader:
    """Sends files of one release; used by several threads."""

    def __init__(
        self,
        girder: Girder,
        journal: Journal,
        limits: Limits,
        *,
        halt: threading.Event,
        chunk_bytes: int | None = None,
    ) -> None:
        self.girder, self.journal, self.limits, self.halt = girder, journal, limits, halt
        self.chunk_bytes = CHUNK_BYTES if chunk_bytes is None else chunk_bytes
        self.sent_bytes = 0  # also those that were sent in vain
        self._lock = threading.Lock()
        self._knows_sha512: bool | None = None

    def send(self, job: Job, progress: Callable[[int], None]) -> File:
        """Send `job`; returns when Girder has exactly its bytes. `progress` gets bytes as they arrive.

        Raises IntegrityError when the local file is not what the manifest says, WrongBytes when Girder keeps other bytes,
        SourceErrors. What has arrived stays, and the next call for the same bytes goes on from it.
        """
        return _Sending(self, job, progress).run()

    def knows_sha512(self) -> bool:
        """Whether files of this Girder show their SHA-512; asked once."""
        if self._knows_sha512 is None:
            self._knows_sha512 = self.girder.has_digests()
        return self._knows_sha512

    def count(self, sent: int) -> None:
        """Add to `sent_bytes`."""
        with self._lock:
            self.sent_bytes += sent

    def wait(self, failures: int) -> None:
        """Wait before the next attempt; raises when the work is to end."""
        if self.halt.wait(min(FIRST_WAIT_SECONDS * 2**failures, self.limits.backoff_limit_seconds)):
            raise SourceError(f"{self.girder.base}: stopped")


class _Sending:
    """The state of one file on its way."""

    def __init__(self, uploader: Uploader, job: Job, progress: Callable[[int], None]) -> None:
        self._up, self._job, self._progress = uploader, job, progress
        self._girder = uploader.girder
        self._key = f"{self._girder.base} {job.folder.id} {job.name}"
        self._small = job.size_bytes <= uploader.chunk_bytes
        self._place: Place = ("folder", job.folder.id)
        self._upload: str | None = None
        self._offset = 0
        self._told = 0
        self._resumed = False  # an upload of an earlier run
        self._doubtful = False  # bytes arrived that no answer has confirmed
        self._hashed = 0
        self._sha256, self._sha512 = hashlib.sha256(), hashlib.sha512()
        self._with_sha512 = self._small or uploader.knows_sha512()

    def run(self) -> File:
        job = self._job
        if job.item is not None and (found := self._look(job.item)) is not None:
            return found
        if not self._small and (upload := self._up.journal.get(self._key, job)) is not None:
            self._upload, self._resumed = upload, True
        sent = self._send(ask=self._resumed)
        if self._kept(sent):
            return sent
        # once more over the same file, from its beginning
        self._place, self._upload, self._offset, self._doubtful = ("file", sent.id), None, 0, False
        sent = self._send(ask=False)
        if self._kept(sent):
            return sent
        raise WrongBytes(
            f"{self._girder.base}: keeps other bytes of {job.label} than were sent",
            hint="its administrator should look at the disk of its store",
        )

    def _send(self, *, ask: bool) -> File:
        """Begin, or go on, until the server says that it has a file; `ask` first how far it is."""
        failures, furthest = 0, self._offset
        while True:
            try:
                if ask and (found := self._ask()) is not None:
                    return found
                ask = False
                answer = self._begin() if self._upload is None else self._chunk()
                if isinstance(answer, dict) and "itemId" in answer:
                    self._up.journal.put(self._key, None, self._job)
                    self._tell(self._job.size_bytes)
                    return parse_file(answer)
                self._note(answer)
            except IntegrityError:
                self._give_up()
                raise
            except SourceError as error:
                if self._up.halt.is_set() or not self._passes(error):
                    raise
                failures = 1 if self._offset > furthest else failures + 1
                furthest = max(furthest, self._offset)
                if failures >= self._up.limits.attempts + PATIENCE:
                    raise
                self._up.wait(failures - 1)
                ask = True

    def _passes(self, error: SourceError) -> bool:
        """Whether asking the server how far it came may help."""
        if isinstance(error, Full):
            return False
        if isinstance(error, Refused):  # once: the upload may be one that another user began
            resumed, self._resumed = self._resumed, False
            if resumed:
                self._forget()
            return resumed
        if isinstance(error, NotThere):  # the upload, when the folder was reached before
            return self._upload is not None
        return isinstance(error, _PASSING) or (isinstance(error, GirderError) and self._stale(error))

    def _stale(self, error: GirderError) -> bool:
        return error.status == 409 or (error.status == 400 and self._upload is not None)

    def _forget(self) -> None:
        self._upload, self._offset = None, 0
        self._up.journal.put(self._key, None, self._job)

    def _begin(self) -> Any:
        kind, where = self._place
        job = self._job
        if kind == "file":
            return self._girder.call(
                "PUT", f"file/{where}/contents", params={"size": job.size_bytes}, attempts=1
            )
        params = {"parentType": kind, "parentId": where, "name": job.name, "size": job.size_bytes}
        if not self._small or not job.size_bytes:
            if not job.size_bytes:
                self._check_source()
            return self._girder.call("POST", "file", params=params, attempts=1)
        with named_io(job.source), open(job.source, "rb") as handle:
            data = handle.read(job.size_bytes + 1)
        self._sha256, self._sha512 = hashlib.sha256(data), hashlib.sha512(data)
        self._hashed = len(data)
        self._check_source()
        self._up.count(len(data))
        return self._girder.call(
            "POST", "file", params=params, content=data, size_bytes=len(data), attempts=1
        )

    def _chunk(self) -> Any:
        begin, end = self._offset, min(self._offset + self._up.chunk_bytes, self._job.size_bytes)
        params = {"uploadId": self._upload}
        if begin == end:  # all there, but it was stopped before it made the file
            return self._girder.call("POST", "file/completion", params=params)
        self._hash_to(begin)
        return self._girder.call(
            "POST",
            "file/chunk",
            params=params | {"offset": begin},
            content=lambda: self._blocks(begin, end),
            size_bytes=end - begin,
            attempts=1,
        )

    def _blocks(self, begin: int, end: int) -> Iterator[bytes]:
        """The bytes of a chunk, hashed on their way; the last one of the file goes only when all are those of the manifest."""
        with named_io(self._job.source), open(self._job.source, "rb") as handle:
            handle.seek(begin)
            while begin < end and (block := handle.read(min(BLOCK_BYTES, end - begin))):
                self._hash(begin, block)
                begin += len(block)
                if begin >= self._job.size_bytes:
                    self._check_source()
                if self._up.halt.is_set():
                    raise SourceError(f"{self._girder.base}: stopped")
                self._up.count(len(block))
                yield block
        if begin < end:
            self._check_source()  # it became shorter

    def _note(self, answer: Any) -> None:
        """Take in an upload document: what the server has received."""
        if not isinstance(answer, dict):
            raise WrongBytes(f"{self._girder.base}: no upload document")
        self._set_offset(answer.get("received"))
        if self._upload is None:
            self._upload = checked_id(answer.get("_id"))
            if not self._small:
                self._up.journal.put(self._key, self._upload, self._job)

    def _set_offset(self, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= self._job.size_bytes:
            raise WrongBytes(f"{self._girder.base}: received {str(value)[:20]} bytes of {self._job.label}?")
        self._offset = value
        self._tell(value)

    def _tell(self, offset: int) -> None:
        if offset > self._told:
            self._progress(offset - self._told)
            self._told = offset

    def _ask(self) -> File | None:
        """How far the upload came. The file when it is all there, else None with the next place and offset set."""
        self._doubtful = True
        if self._upload is not None:
            try:
                answer = self._girder.call("GET", "file/offset", params={"uploadId": self._upload})
                self._set_offset(answer.get("offset") if isinstance(answer, dict) else None)
                return None
            except NotThere:  # finished, or given up by the server
                self._forget()
        for item in self._girder.items(self._job.folder, self._job.name)[:1]:
            return self._look(item)
        self._place = ("folder", self._job.folder.id)
        return None

    def _look(self, item: Item) -> File | None:
        """The file in `item` when it is ours already; else None, and the next bytes go there."""
        files = self._girder.files(item.id)
        if len(files) > 1:
            raise HeadwaterError(
                f"{self._girder.base}: the item {item.name!r} holds {len(files)} files, not one",
                hint="take the others out of it, or publish into another folder",
            )
        self._place = ("file", files[0].id) if files else ("item", item.id)
        if files and files[0].size_bytes == self._job.size_bytes:
            self._with_sha512 = self._with_sha512 or (files[0].sha512 is not None and not self._hashed)
            if (files[0].sha512 is not None or self._doubtful) and self._kept(files[0]):
                self._tell(self._job.size_bytes)
                return files[0]
        return None

    def _kept(self, file: File) -> bool:
        """Whether Girder has exactly our bytes, as far as can be told without reading all of them back."""
        job = self._job
        if file.size_bytes != job.size_bytes:
            return False
        if file.sha512 is not None and self._with_sha512:
            self._hash_to(job.size_bytes)
            self._check_source()
            if file.sha512 == self._sha512.hexdigest():
                return True
            if not self._doubtful:
                return False
        elif not self._doubtful:
            return True
        read = hashlib.sha256()
        try:
            for block in self._girder.download(file.item_id, 0, job.size_bytes, job.size_bytes):
                read.update(block)
        except (WrongBytes, Unreachable, Stalled):
            return False  # it keeps less than it says; or is away, which sending again will tell
        return read.hexdigest() == job.sha256

    def _hash(self, begin: int, block: bytes) -> None:
        """Take in a block that begins at `begin`, as far as it is new."""
        new = memoryview(block)[self._hashed - begin :] if begin < self._hashed else memoryview(block)
        self._sha256.update(new)
        if self._with_sha512:
            self._sha512.update(new)
        self._hashed += len(new)

    def _hash_to(self, end: int) -> None:
        """Hash the local file up to `end`: what an earlier run has sent."""
        if self._hashed >= end:
            return
        with named_io(self._job.source), open(self._job.source, "rb") as handle:
            handle.seek(self._hashed)
            while self._hashed < end and (block := handle.read(min(BLOCK_BYTES, end - self._hashed))):
                if self._up.halt.is_set():
                    raise SourceError(f"{self._girder.base}: stopped")
                self._hash(self._hashed, block)
        if self._hashed < end:
            self._check_source()

    def _check_source(self) -> None:
        """That the local file is what the manifest says, when all of it is hashed."""
        if self._hashed != self._job.size_bytes or self._sha256.hexdigest() != self._job.sha256:
            raise IntegrityError(
                f"{self._job.source}: its bytes are not those of the manifest",
                hint="it changed since the release was made: publish it again",
            )

    def _give_up(self) -> None:
        """Tell the server to throw away what it has of an upload that will never be right."""
        if self._upload is not None:
            with suppress(SourceError):
                self._girder.call("DELETE", f"file/upload/{self._upload}")
            self._forget()
