"""Girder 5: a release as a folder of items with digests in their metadata; and that folder as a source.

    publish:  plan (what is there?) ──> folders ──> files, several at once ──> documents, manifest.json last
    source:   one listing a folder, then item/ID/download with Range

Girder keeps no digest that a client could ask for, gives a part without ETag, and serves a byte that rotted on its disk without
a word: everything that is read is the fetch engine's to check.
"""

from __future__ import annotations

import contextvars
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from urllib.parse import urlsplit

from distribute.transports._base import Context, NotThere, Published, Source, Wanted, WrongBytes
from distribute.transports._girder_api import URL_VARIABLE, Credentials, Girder
from distribute.transports._girder_plan import (
    Outgoing,
    Place,
    Plan,
    Task,
    find_root,
    make_plan,
    make_root,
    parse_place,
)
from distribute.transports._girder_records import Folder, Item
from distribute.transports._girder_upload import PATIENCE, Job, Journal, Uploader
from headwater.console import Track, say, track
from headwater.errors import HeadwaterError
from headwater.files import named_io
from headwater.hashing import digest_file
from headwater.manifest import canonical, safe_relative
from headwater.release import (
    LOCATIONS_NAME,
    MANIFEST_NAME,
    RELEASE_NAME,
    Location,
    Locations,
    OpenRelease,
    Release,
    parse_document,
    public_documents,
    read_document,
    write_canonical,
)

SCHEMES = ("girder+http", "girder+https")
WORKERS = 4  # files at once; more gave nothing (one Girder process, two cores)


class GirderSource(Source):
    """A folder of a Girder. Listings are asked for when a folder is needed first, and kept."""

    kind = "girder"

    def __init__(self, location: str, context: Context) -> None:
        self._place = parse_place(location)
        self.label = self._place.text
        self._limits = context.limits
        self._girder = Girder(self._place.base, context, _credentials_to_read(self._place.base))
        self._lock = threading.RLock()
        self._root: Folder | None = None
        self._name: str | None = None  # of the folder of the files, "" when they are at the top
        self._items: dict[str, dict[str, Item]] = {}
        self._folders: dict[str, dict[str, Folder]] = {}

    def release_file(self, name: str) -> bytes | None:
        """A document of the release."""
        item = self._items_in("").get(safe_relative(name))
        if item is None:
            return None
        if item.size_bytes > self._limits.document_bytes:
            raise WrongBytes(f"{self.label}: {name} has {item.size_bytes:,} bytes: too large")
        return b"".join(self._girder.download(item.id, 0, item.size_bytes, item.size_bytes))

    def read(self, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        """Bytes of a file. Raises NotThere when the item is missing or its metadata says that it is another version."""
        item = self.item(wanted)
        if length:
            yield from self._girder.download(item.id, offset, length, wanted.size_bytes)

    def item(self, wanted: Wanted) -> Item:
        """The item of a file, judged by its size and what its metadata claims."""
        folder, _, name = safe_relative(wanted.path).rpartition("/")
        top = self._data_folder()
        item = self._items_in(f"{top}/{folder}".strip("/")).get(name)
        if item is None:
            raise NotThere(f"{self.label}: no {wanted.path}")
        claimed = item.digests.get("sha256")
        if wanted.sha256 is not None and claimed is not None and claimed != wanted.sha256:
            raise NotThere(f"{self.label}: holds another version of {wanted.path}")
        if item.size_bytes != wanted.size_bytes:
            raise WrongBytes(
                f"{self.label}: {wanted.path} has {item.size_bytes:,} bytes there, {wanted.size_bytes:,} are right"
            )
        return item

    def close(self) -> None:
        """Give back connections."""
        self._girder.close()

    def _data_folder(self) -> str:
        with self._lock:
            if self._name is None:
                raw = self.release_file(RELEASE_NAME)
                self._name = ""
                if raw is not None:
                    try:
                        name = safe_relative(parse_document(raw, Release, self.label).name)
                    except HeadwaterError as error:
                        raise WrongBytes(f"{self.label}: {error.message}") from error
                    self._name = name if name in self._folders_in("") else ""
            return self._name

    def _folder(self, path: str) -> Folder | None:
        if not path:
            return self._top()
        parent, _, name = path.rpartition("/")
        return self._folders_in(parent).get(name)

    def _top(self) -> Folder:
        if self._root is None:
            found, missing = find_root(self._girder, self._place)
            if found is None or missing:
                raise NotThere(f"{self.label}: no {missing[0]!r} there, or it may not be seen")
            if found.kind != "folder":
                names = ", ".join(folder.name for folder in self._girder.folders(found)[:8]) or "none"
                raise NotThere(f"{self.label}: not a folder", hint=f"folders in it: {names}")
            self._root = found
        return self._root

    def _items_in(self, path: str) -> dict[str, Item]:
        with self._lock:
            if path not in self._items:
                folder = self._folder(path)
                self._items[path] = {i.name: i for i in self._girder.items(folder)} if folder else {}
            return self._items[path]

    def _folders_in(self, path: str) -> dict[str, Folder]:
        with self._lock:
            if path not in self._folders:
                folder = self._folder(path)
                self._folders[path] = {f.name: f for f in self._girder.folders(folder)} if folder else {}
            return self._folders[path]


def open_source(location: str, context: Context) -> GirderSource:
    """A folder as a source; asks nothing yet. Raises UsageError for a location that is none."""
    return GirderSource(location, context)


def alive(location: str, release: OpenRelease, context: Context) -> str:
    """One line about a copy that has the manifest, and every file in its size. Reads no file.

    Raises NotThere with the number of missing files and the first of them, WrongBytes for another manifest or another size.
    """
    source = open_source(location, context)
    try:
        raw = source.release_file(MANIFEST_NAME)
        if raw is None:
            raise NotThere(f"{source.label}: no {MANIFEST_NAME} there")
        if (found := hashlib.sha256(raw).hexdigest()) != release.release.manifest_id:
            raise WrongBytes(f"{source.label}: holds the manifest {found[:12]}…, another version")
        bad = []
        for entry in release.manifest.entries:
            try:
                source.item(Wanted.of(entry))
            except (NotThere, WrongBytes) as error:
                bad.append(error)
        if bad:
            text = f"{len(bad):,} of {len(release.manifest.entries):,} files are missing or wrong; {bad[0].message}"
            raise type(bad[0])(text, hint="publish it there again: only what is missing is sent")
        return f"{len(release.manifest.entries):,} files, {release.release.size_bytes:,} bytes by its listing"
    finally:
        source.close()


def publish(release: OpenRelease, target: str, context: Context, *, dry_run: bool) -> Published:
    """Bring a release into a folder of a Girder; what is there already by size and SHA-256 is not sent again.

    `sent_bytes` and `files` are what was sent, or with dry_run would be. A target that names only a collection or a user gets
    a folder with the release's name. Raises UsageError, IntegrityError (a local file changed), SourceErrors; what has arrived
    stays, and the same call goes on.
    """
    place = parse_place(target)
    if place.kind != "folder" and not place.folders:
        place = Place(place.base, place.kind, place.top, (release.release.name,))
    if place.base.startswith("http://") and not _own_machine(place.base):
        say("warning", f"{place.base}: the key goes over http, where others on the way can read it")
    girder = Girder(
        place.base, context, Credentials.from_environment(), connections=WORKERS + 1, patience=PATIENCE
    )
    try:
        girder.version()
        there, missing = find_root(girder, place)
        if dry_run:
            return _would(girder, place, None if missing else there, missing, release)
        root = make_root(girder, place, there, missing)
        return _publish(girder, root, release, context)
    finally:
        girder.close()


def _would(
    girder: Girder, place: Place, root: Folder | None, missing: tuple[str, ...], release: OpenRelease
) -> Published:
    location = None if root is None else _location(place.base, root)
    plan = make_plan(girder, root, [*_data(release), *_documents(release, location)])
    made = [f"create {'/'.join((place.kind, *missing))}"] if missing else []
    text = (
        f"would send {len(plan.sends):,} files, {plan.bytes_to_send:,} bytes"
        if plan.sends
        else "nothing to send"
    )
    return Published(location, plan.bytes_to_send, len(plan.sends), made + plan.lines(), text)


def _publish(girder: Girder, root: Folder, release: OpenRelease, context: Context) -> Published:
    with named_io(context.work):
        context.work.mkdir(parents=True, exist_ok=True)
    location = _location(girder.base, root)
    documents = _documents(release, location, context.work)
    plan = make_plan(girder, root, [*_data(release), *documents])
    for path in plan.make:
        parent, _, name = path.rpartition("/")
        plan.folders[path] = girder.make_folder(plan.folders[parent], name)
    halt = threading.Event()
    journal = Journal(context.work / "girder-uploads.json")
    uploader = Uploader(girder, journal, context.limits, halt=halt)
    last = {document.path for document in documents}
    with track("sending to Girder", plan.bytes_to_send, "bytes") as bar:
        sending = _Sending(uploader, plan, bar, context.stop)
        sending.several([task for task in plan.sends if task.file.path not in last])
        for task in plan.sends:  # documents only now: a release that shows a manifest is whole
            if task.file.path in last:
                sending.one(task)
    facts = {"manifest_id": release.release.manifest_id, "name": release.release.name}
    girder.set_folder_facts(
        root, {**facts, "files": release.release.files, "size_bytes": release.release.size_bytes}
    )
    text = f"{len(plan.sends):,} files, {uploader.sent_bytes:,} bytes sent"
    return Published(location, uploader.sent_bytes, len(plan.sends), plan.lines(), f"{text}, {location.url}")


class _Sending:
    """Does the tasks of a plan."""

    def __init__(self, uploader: Uploader, plan: Plan, bar: Track, stop: threading.Event) -> None:
        self._uploader, self._plan, self._bar, self._stop = uploader, plan, bar, stop
        self._lock = threading.Lock()

    def several(self, tasks: list[Task]) -> None:
        """Do tasks in WORKERS threads, large files first; the first error ends all."""
        order = sorted(tasks, key=lambda task: -task.file.size_bytes)
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="girder") as pool:
            futures: list[Future[None]] = []
            try:
                for task in order:  # each with the context of this thread, for the bar
                    futures.append(pool.submit(contextvars.copy_context().run, self.one, task))
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._uploader.halt.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def one(self, task: Task) -> None:
        """Send one file, then say in its metadata what it is."""
        file, girder = task.file, self._uploader.girder
        if self._stop.is_set():
            self._uploader.halt.set()
        if task.item is not None and task.item.digests:
            girder.set_item_digests(task.item.id, None)  # no longer true from here on
        job = Job(
            label=file.path,
            source=file.source,
            size_bytes=file.size_bytes,
            sha256=file.digests["sha256"],
            folder=self._plan.folders[file.parent],
            name=file.name,
            item=task.item,
        )
        kept = self._uploader.send(job, self._count)
        item = girder.set_item_digests(kept.item_id, file.digests)
        if item.name != file.name:
            raise HeadwaterError(
                f"{girder.base}: somebody else put {file.path!r} there at the same moment; ours is {item.name!r}",
                hint="publish once more when the other is done",
            )

    def _count(self, amount: int) -> None:
        with self._lock:
            self._bar.add(amount)


def _data(release: OpenRelease) -> list[Outgoing]:
    """The files of the dataset, below its name."""
    name = safe_relative(release.release.name)
    found = []
    for entry in release.manifest.entries:
        more = {"blake3": entry.blake3, "cid": entry.cid, "bt_v2_root": entry.bt_v2_root}
        digests = {"sha256": entry.sha256, "manifest_id": release.release.manifest_id}
        digests |= {kind: value for kind, value in more.items() if value is not None}
        source = release.data / safe_relative(entry.path)
        found.append(Outgoing(f"{name}/{entry.path}", source, entry.size_bytes, digests))
    return found


def _documents(release: OpenRelease, location: Location | None, work: Path | None = None) -> list[Outgoing]:
    """The documents beside the manifest, which comes last.

    locations.json goes as it will be when `location` is noted in it, so that the copy there names itself too; it is written
    into `work` (None: nothing is sent, only compared).
    """
    found = []
    for path in map(release.file, public_documents(release)):
        digests = {"manifest_id": release.release.manifest_id}
        if path.name == LOCATIONS_NAME and location is not None:
            known = read_document(path, Locations)
            more = [] if location in known.locations else [location]
            document = known.model_copy(update={"locations": [*known.locations, *more]})
            if work is not None:
                path = work / f"girder-{LOCATIONS_NAME}"
                write_canonical(path, document)
            raw = canonical(document)
            digests["sha256"] = hashlib.sha256(raw).hexdigest()
            found.append(Outgoing(LOCATIONS_NAME, path, len(raw), digests))
            continue
        file = digest_file(path, ("sha256",))
        found.append(Outgoing(path.name, path, file.size_bytes, digests | {"sha256": file.sha256}))
    return found


def _location(base: str, root: Folder) -> Location:
    return Location(kind="girder", url=f"girder+{base}#folder/{root.id}")


def _own_machine(base: str) -> bool:
    host = urlsplit(base).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _credentials_to_read(base: str) -> Credentials | None:
    """The user's key only for the Girder that GIRDER_API_URL names: a location may come from a document of a stranger."""
    named = os.environ.get(URL_VARIABLE, "").rstrip("/")
    return Credentials.from_environment() if named and named.lower() == base.lower() else None
