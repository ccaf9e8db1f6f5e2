"""What the Girder double knows: documents, uploads, tokens, the bytes in its store, and the faults that a test asks for."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that fit, after `skip` of them."""

    method: str
    path: str  # regular expression for all of the path below /api/v1/
    status: int | None = None  # answer this, do nothing
    message: str = ""  # {token} in it is replaced by the request's own
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # read so many bytes of the body, then reset the connection
    crash: bool = False  # with cut_after: as a kill -9, the record of the upload stays behind
    lose_answer: bool = False  # do it, then reset instead of answering
    down_seconds: float = 0.0  # after it nobody answers for so long
    times: int = 1
    skip: int = 0
    holds: bytes = b""  # with PUT: only a request whose body has this in it


@dataclass
class Upload:
    id: str
    user: str
    name: str
    size: int
    parent: tuple[str, str]
    data: bytearray = field(default_factory=bytearray)
    received: int = 0
    hashed: Any = field(default_factory=hashlib.sha512)


class Double:
    """The state of the server; tests read it and change it."""

    def __init__(
        self, *, key: str = "canary-key-0123456789", min_chunk: int = 8, plugin: bool = True
    ) -> None:
        self.key, self.min_chunk, self.plugin = key, min_chunk, plugin
        self.password = "canary-password-0123456789"
        self.public = False
        self.tokens: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # METHOD path
        self.addresses: list[str] = []  # with the query, as a log would have them
        self.received_bytes = 0
        self.docs: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, Upload] = {}
        self.blobs: dict[str, bytes] = {}  # store: SHA-512 to bytes
        self.blob_of: dict[str, str] = {}  # file id to name in the store
        self.lock = threading.RLock()
        self.down_until = 0.0
        self.port = 0
        self.user = self.add("user", login="admin", name="admin")
        self._numbers = itertools.count(1)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"

    def place(self, rest: str) -> str:
        return f"girder+{self.api}#{rest}"

    def add(self, kind: str, **fields: Any) -> dict[str, Any]:
        with self.lock:
            number = f"{len(self.docs) + 1:024x}"
            self.docs[number] = {"_id": number, "_modelType": kind, "meta": {}, **fields}
            return self.docs[number]

    def find(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        with self.lock:
            docs = [d for d in self.docs.values() if d["_modelType"] == kind]
            return [d for d in docs if all(d.get(k) == v for k, v in fields.items())]

    def expire_tokens(self) -> None:
        self.tokens.clear()

    def new_token(self) -> str:
        token = f"canaryToken{next(self._numbers):04d}{'x' * 40}"
        self.tokens.add(token)
        return token

    def items(self) -> dict[str, dict[str, Any]]:
        """Items by their path below the second folder of the collection, where the tests publish."""
        found = {}
        for item in self.find("item"):
            parts, folder = [item["name"]], self.docs[item["folderId"]]
            while folder["_modelType"] == "folder":
                parts.append(folder["name"])
                folder = self.docs[folder["parentId"]]
            found["/".join(reversed(parts[:-2]))] = item
        return found

    def bytes_of(self, item: dict[str, Any]) -> bytes:
        (file,) = self.find("file", itemId=item["_id"])
        return self.blobs[self.blob_of[file["_id"]]][: file["size"]]

    def flip(self, path: str, at: int) -> None:
        """Let one byte rot in the store."""
        (file,) = self.find("file", itemId=self.items()[path]["_id"])
        blob = bytearray(self.blobs[self.blob_of[file["_id"]]])
        blob[at] ^= 1
        self.blobs[self.blob_of[file["_id"]]] = bytes(blob)

    def fault_for(self, method: str, path: str, body: bytes = b"") -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if not (fault.method == method and re.fullmatch(fault.path, path) and fault.times):
                    continue
                if fault.holds in body:
                    if fault.skip:
                        fault.skip -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None
