"""An S3 bucket, or another object store that fsspec knows, that holds a release folder below a prefix.

    s3://bucket/prefix/manifest.json, release.json … and s3://bucket/prefix/NAME/<path>

Keys come from where the store's own tools take them (environment, `~/.aws`), the address of another endpoint from
AWS_ENDPOINT_URL: never from a location. Without keys it is asked as anybody. An ETag is no digest and is not used as one.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from distribute.transports._base import (
    Context,
    Limits,
    NotThere,
    Published,
    Refused,
    Source,
    SourceError,
    Stalled,
    Unreachable,
    Wanted,
    WrongBytes,
)
from distribute.transports._redact import redact
from headwater.console import track
from headwater.errors import HeadwaterError, IntegrityError, MissingExtra, UsageError
from headwater.manifest import FileEntry, safe_relative
from headwater.release import (
    MANIFEST_NAME,
    RELEASE_NAME,
    Location,
    OpenRelease,
    Release,
    parse_document,
    public_documents,
)

SCHEMES = ("s3",)
PART_BYTES = 8 << 20  # of one request
SENDERS = 8  # objects that are sent at the same time


def _filesystem(scheme: str, limits: Limits) -> Any:
    """fsspec's file system for `scheme`. Raises MissingExtra when its package is not installed."""
    try:
        import fsspec  # type: ignore[import-untyped]

        if scheme != "s3":
            return fsspec.filesystem(scheme)
        import botocore.session  # type: ignore[import-untyped]
        import s3fs  # type: ignore[import-untyped]  # noqa: F401 - asked for here, so that the message is ours
    except ImportError as error:
        raise MissingExtra(
            f"{scheme}:// needs a package that is not installed ({error.name})",
            hint="pip install 'headwater[s3]'",
        ) from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    keys = botocore.session.Session().get_credentials()
    return fsspec.filesystem(
        "s3",
        anon=keys is None,
        endpoint_url=endpoint,
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": limits.connect_seconds,
            "read_timeout": limits.stall_seconds,
            "retries": {"max_attempts": 1},
        },
    )


@contextmanager
def _wrapped(label: str) -> Iterator[None]:
    """What the store's libraries raise comes out as a SourceError without secrets and without their long texts."""
    try:
        yield
    except HeadwaterError:
        raise
    except FileNotFoundError as error:
        raise NotThere(f"{label}: not there") from error
    except PermissionError as error:
        raise Refused(
            f"{label}: no access", hint="check the keys that your S3 tools use, or ask for access"
        ) from error
    except TimeoutError as error:
        raise Stalled(f"{label}: stalled") from error
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        kind = SourceError if error.errno in (errno.EINVAL, errno.EIO) else Unreachable
        raise kind(f"{label}: {why} ({redact(str(error))[:200]})") from error
    except Exception as error:  # botocore has errors of its own for a connection that fails
        name = type(error).__name__
        kind = (
            Stalled
            if "Timeout" in name
            else Unreachable
            if "Connect" in name or "Endpoint" in name
            else SourceError
        )
        raise kind(f"{label}: {name} ({redact(str(error))[:200]})") from None


class S3Source(Source):
    """A bucket and a prefix."""

    kind = "s3"

    def __init__(self, location: str, context: Context) -> None:
        self._scheme, self._base = _split(location)
        self.label = f"{self._scheme}://{self._base}"
        self._limits = context.limits
        self._lock = threading.Lock()
        self._made: Any = None
        self._folder: str | None = None

    def _fs(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _filesystem(self._scheme, self._limits)
            return self._made

    def release_file(self, name: str) -> bytes | None:
        """A document of the release, or None."""
        path = f"{self._base}/{safe_relative(name)}"
        limit = self._limits.document_bytes
        try:
            with _wrapped(f"{self.label}/{name}"):
                size = int(self._fs().info(path)["size"])
                if size > limit:
                    raise WrongBytes(f"{self.label}/{name}: has {size:,} bytes, no document of ours does")
                return bytes(self._fs().cat_file(path))
        except NotThere:
            return None

    def _data(self) -> str:
        if self._folder is None:
            raw = self.release_file(RELEASE_NAME)
            try:
                name = safe_relative(parse_document(raw, Release, self.label).name) + "/" if raw else ""
            except IntegrityError as error:
                raise WrongBytes(f"{self.label}: {error.message}") from error
            self._folder = name
        return self._folder

    def read(self, wanted: Wanted, offset: int, length: int) -> Iterator[bytes]:
        """Bytes of a file, a few MiB a request."""
        path = f"{self._base}/{self._data()}{safe_relative(wanted.path)}"
        name = f"{self.label}/{wanted.path}"
        end = offset + length
        while offset < end:
            upto = min(end, offset + PART_BYTES)
            with _wrapped(name):
                block = self._fs().cat_file(path, start=offset, end=upto)
            if len(block) != upto - offset:
                raise WrongBytes(f"{name}: sent {len(block):,} bytes where {upto - offset:,} are due")
            offset = upto
            yield block


def _split(location: str) -> tuple[str, str]:
    """(scheme, bucket/prefix). Raises UsageError for one with a key inside or without a bucket."""
    parts = urlsplit(location)
    if "@" in parts.netloc or parts.query:
        raise UsageError(
            f"{redact(location)!r}: keys are not part of a location",
            hint="set AWS_ACCESS_KEY_ID and the like",
        )
    if not parts.netloc:
        raise UsageError(f"{location!r} names no bucket", hint="s3://bucket/prefix")
    base = f"{parts.netloc}{parts.path}".rstrip("/").removesuffix("/" + MANIFEST_NAME)
    return parts.scheme.lower(), base


def open_source(location: str, context: Context) -> S3Source:
    """The release below `location`."""
    return S3Source(location, context)


def publish(release: OpenRelease, target: str, context: Context, *, dry_run: bool) -> Published:
    """Upload RELEASE below `target`; objects of the right size that carry our sha256 are not sent again. The manifest goes last.

    Objects carry `sha256` as metadata, so that another run knows what is there without reading it. One listing tells what may be
    there; SENDERS objects go at the same time. Raises SourceError.
    """
    scheme, base = _split(target)
    label = f"{scheme}://{base}"
    fs: Any = _filesystem(scheme, context.limits)
    top = f"{base}/{release.release.name}"
    sizes = _sizes(fs, top, label)

    def put(entry: FileEntry) -> int:
        """Bytes sent, or that would be; -1 for an object that is there."""
        key = f"{top}/{entry.path}"
        with _wrapped(f"{label}/{entry.path}"):
            if sizes.get(key) == entry.size_bytes and _marked(fs, key, entry.sha256):
                return -1
            if not dry_run:
                more = {"Metadata": {"sha256": entry.sha256}} if scheme == "s3" else {}
                fs.put_file(str(release.data / entry.path), key, **more)
        return entry.size_bytes

    entries = release.manifest.entries
    with track("send", total=len(entries), unit="files") as bar, ThreadPoolExecutor(SENDERS) as pool:
        counts = []
        try:
            for count in pool.map(put, entries):
                counts.append(count)
                bar.add()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    new = [count for count in counts if count >= 0]
    sent = sum(new)
    names = public_documents(release)
    for name in names:
        sent += release.file(name).stat().st_size
        if not dry_run:
            with _wrapped(f"{label}/{name}"):
                fs.pipe_file(f"{base}/{name}", release.file(name).read_bytes())
    actions = [f"put {len(new):,} objects and {len(names)} documents, {sent:,} bytes, to {label}"]
    return Published(Location(kind="s3", url=f"{label}/"), sent, len(new), actions, actions[0])


def _sizes(fs: Any, top: str, label: str) -> dict[str, int]:
    """Size of every object below `top`."""
    try:
        with _wrapped(label):
            return {key: int(info["size"]) for key, info in fs.find(top, detail=True).items()}
    except NotThere:
        return {}


def _marked(fs: Any, key: str, sha256: str) -> bool:
    """Whether the object carries the digest as metadata; other stores than S3 have none, so it is sent again."""
    return bool(fs.metadata(key).get("sha256") == sha256) if hasattr(fs, "metadata") else False
