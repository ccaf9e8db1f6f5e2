"""A server on loopback that answers as Girder 5.0.21 does (compared with a real one), and fails where a test says so.

Kept as in the original: a second item of one name becomes `NAME (1)` without a word, a wrong offset is 400, a wrong API key is 400,
an unknown token means nobody is signed in, a chunk that breaks off counts when it has the smallest size, and a server that is
killed inside a chunk keeps the bytes but loses its running SHA-512.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.distribute.girder_state import Double, Upload


class Refusal(Exception):
    def __init__(self, status: int, message: str, kind: str = "rest") -> None:
        self.status, self.document = status, {"message": message, "type": kind}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # answers are two writes
    double: Double

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        double = self.double
        split = urlsplit(self.path)
        self.route = split.path.removeprefix("/api/v1/")
        self.params = {k: v[0] for k, v in parse_qs(split.query, keep_blank_values=True).items()}
        if time.monotonic() < double.down_until:
            return self._reset()
        double.requests.append(f"{method} {self.route}")
        double.addresses.append(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        early = self.rfile.read(length) if method == "PUT" else b""  # never cut: all of it is small
        fault = double.fault_for(method, self.route, early)
        if fault is not None and fault.status is not None:
            self.rfile.read(length - len(early))
            message = fault.message.replace("{token}", self.headers.get("Girder-Token", ""))
            return self._answer(fault.status, {"message": message, "type": "rest"}, fault.headers)
        part = length if fault is None or fault.cut_after is None else min(fault.cut_after, length)
        body = early or self.rfile.read(part)
        double.received_bytes += len(body)
        try:
            with double.lock:
                if fault is not None and fault.cut_after is not None:
                    self._broken(body, crash=fault.crash)
                    document: Any = None
                else:
                    document = self._do(method, body)
        except Refusal as refusal:
            return self._answer(refusal.status, refusal.document)
        if fault is not None:
            double.down_until = time.monotonic() + fault.down_seconds
            if fault.lose_answer or fault.cut_after is not None:
                return self._reset()
        if isinstance(document, bytes):
            return self._download(document, self.double.docs[self.route.split("/")[1]]["size"])
        return self._answer(200, document)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _answer(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _download(self, data: bytes, size: int) -> None:
        """It believes its record, not its disk: a shorter file breaks off."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = (int(found[1]), int(found[2] or size - 1) + 1) if found else (0, size)
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        self.wfile.write(data[begin:end])
        self.close_connection = len(data) < end

    # what Girder does

    def _signed_in(self, *, write: bool = False) -> None:
        if self.headers.get("Girder-Token") in self.double.tokens:
            return
        if write or not self.double.public:
            raise Refusal(401, "You must be logged in.", "access")

    def _do(self, method: str, body: bytes) -> Any:
        double, parts = self.double, self.route.split("/")
        known = (method, *(p if not re.fullmatch("[0-9a-f]{24}", p) else ":id" for p in parts))
        match known:
            case ("GET", "system", "version"):
                return {"release": "5.0.21"}
            case ("POST", "api_key", "token"):
                given = parse_qs(body.decode()).get("key", [""])[0]
                if given != double.key:
                    raise Refusal(400, "Invalid API key.", "validation")
                return {"authToken": {"token": double.new_token()}, "user": {"_id": double.user["_id"]}}
            case ("GET", "user", "authentication"):
                wanted = base64.b64encode(f"admin:{double.password}".encode()).decode()
                if self.headers.get("Authorization") != f"Basic {wanted}":
                    raise Refusal(401, "Login failed.", "access")
                return {"authToken": {"token": double.new_token()}}
            case ("GET", "file", "hashsum", "sha512", _):
                if not double.plugin:
                    raise Refusal(400, 'No matching route for "GET hashsum"')
                return []
        self._signed_in(write=method != "GET")
        match known:
            case ("GET", "resource", "lookup"):
                _, kind, name = self.params["path"].split("/", 2)
                name = name.replace("\\-", "/").replace("\\\\", "\\")
                found = double.find(kind, **{"login" if kind == "user" else "name": name})
                if not found:
                    raise Refusal(400, f"{kind.title()} not found: {name}", "validation")
                return found[0]
            case ("POST", "collection"):
                if double.find("collection", name=self.params["name"]):
                    raise Refusal(400, "A collection with that name already exists.", "validation")
                return double.add("collection", name=self.params["name"])
            case ("GET", "folder"):
                return self._page("folder", parentId=self.params["parentId"])
            case ("POST", "folder"):
                name, parent = self.params["name"].strip(), self.params["parentId"]
                if found := double.find("folder", name=name, parentId=parent):
                    return found[0]
                if double.find("item", name=name, folderId=parent):
                    raise Refusal(400, "An item with that name already exists here.", "validation")
                return double.add("folder", name=name, parentId=parent)
            case ("GET", "folder", ":id"):
                return self._doc("folder", parts[1])
            case ("PUT", "folder" | "item", ":id", "metadata"):
                document = self._doc(parts[0], parts[1])
                for name, value in json.loads(body).items():
                    document["meta"].pop(name, None)
                    if value is not None:
                        document["meta"][name] = value
                return document
            case ("GET", "item"):
                return self._page("item", folderId=self.params["folderId"])
            case ("GET", "item", ":id", "files"):
                return self._page("file", itemId=parts[1])
            case ("GET", "item", ":id", "download"):
                return double.bytes_of(self._doc("item", parts[1]))
            case ("POST", "file"):
                size = int(self.params["size"])
                parent = (self.params["parentType"], self.params["parentId"])
                self._doc(*parent)
                return self._begin(Upload(self._number(), "admin", self.params["name"], size, parent), body)
            case ("PUT", "file", ":id", "contents"):
                file = self._doc("file", parts[1])
                size = int(self.params["size"])
                return self._begin(
                    Upload(self._number(), "admin", file["name"], size, ("file", file["_id"])), b""
                )
            case ("GET", "file", "offset"):
                upload = self._upload()
                upload.received = len(upload.data)
                return {"offset": upload.received}
            case ("POST", "file", "chunk"):
                upload, offset = self._upload(), int(self.params["offset"])
                if offset != upload.received:
                    raise Refusal(
                        400, f"Server has received {upload.received} bytes, but client sent offset {offset}."
                    )
                return self._take(upload, body)
            case ("POST", "file", "completion"):
                return self._finish(self._upload())
            case ("DELETE", "file", "upload", ":id"):
                double.uploads.pop(parts[2], None)
                return {"message": "Upload canceled."}
        raise Refusal(400, f'No matching route for "{method} {self.route}"')

    def _number(self) -> str:
        return f"f{len(self.double.requests):023x}"

    def _doc(self, kind: str, number: str) -> dict[str, Any]:
        found = self.double.docs.get(number)
        if found is None or found["_modelType"] != kind:
            raise Refusal(400, f"Invalid {kind} id ({number}).")
        return found

    def _page(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        if name := self.params.get("name"):
            fields["name"] = name
        found = self.double.find(kind, **fields)
        begin, count = int(self.params.get("offset", 0)), int(self.params.get("limit", 50))
        return found[begin:] if count == 0 else found[begin : begin + count]

    def _upload(self) -> Upload:
        found = self.double.uploads.get(self.params["uploadId"])
        if found is None:
            raise Refusal(400, f"Invalid upload id ({self.params['uploadId']}).")
        if found.user != "admin":
            raise Refusal(403, "You did not initiate this upload.", "access")
        return found

    def _begin(self, upload: Upload, body: bytes) -> dict[str, Any]:
        self.double.uploads[upload.id] = upload
        return self._finish(upload) if upload.size == 0 else self._take(upload, body)

    def _take(self, upload: Upload, body: bytes) -> dict[str, Any]:
        if upload.received + len(body) > upload.size:
            raise Refusal(400, "Received too many bytes.", "validation")
        if body and upload.received + len(body) < upload.size and len(body) < self.double.min_chunk:
            raise Refusal(400, "Chunk is smaller than the minimum size.", "validation")
        upload.data += body
        upload.hashed.update(body)
        upload.received += len(body)
        if upload.received == upload.size:
            return self._finish(upload)
        return {"_id": upload.id, "received": upload.received, "size": upload.size, "name": upload.name}

    def _broken(self, body: bytes, *, crash: bool) -> None:
        """A chunk of which only a part came."""
        if self.route != "file/chunk":
            return
        upload = self._upload()
        if crash:
            upload.data += body  # neither `received` nor the hash know of it
        elif len(body) >= self.double.min_chunk:
            self._take(upload, body)

    def _finish(self, upload: Upload) -> dict[str, Any]:
        double = self.double
        kind, parent = upload.parent
        if kind == "file":
            file = double.docs[parent]
            file["size"] = upload.size
        else:
            item = double.docs[parent] if kind == "item" else self._new_item(upload.name, parent)
            file = double.add("file", name=upload.name, itemId=item["_id"], size=upload.size)
        digest = upload.hashed.hexdigest()
        double.blobs.setdefault(digest, bytes(upload.data))  # there already: the new bytes are dropped
        double.blob_of[file["_id"]] = digest
        if double.plugin:
            file["sha512"] = digest
        double.docs[file["itemId"]]["size"] = upload.size
        double.uploads.pop(upload.id, None)
        return file

    def _new_item(self, name: str, folder: str) -> dict[str, Any]:
        name = stem = name.strip()
        number = 0
        while self.double.find("item", name=name, folderId=folder) or self.double.find(
            "folder", name=name, parentId=folder
        ):
            number += 1
            name = f"{stem} ({number})"
        return self.double.add("item", name=name, folderId=folder, size=0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        pass  # connections that a test broke


@contextmanager
def girder_double(**options: Any) -> Iterator[Double]:
    """A double that listens on a free port of 127.0.0.1."""
    double = Double(**options)
    handler = type("Handler", (Handler,), {"double": double})
    server = _Server(("127.0.0.1", 0), handler)
    double.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
