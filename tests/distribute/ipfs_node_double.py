"""A double of an IPFS node's RPC on loopback, by hand from the Kubo RPC reference; some forms are as js-ipfs 0.18 gives them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from distribute.car import car_header, car_section, read_car
from distribute.cid import DAG_PB, Cid
from distribute.dagpb import decode_unixfs
from distribute.unixfs import PROFILES, file_bytes, tree
from tests.distribute.ipfs_kit import Double, Reply, Section, dfs


class NodeDouble(Double):
    """The RPC of a node that has some blocks. `replies` replaces the answer to a command."""

    def __init__(self, blocks: Mapping[bytes, Section] = {}) -> None:
        self.blocks = dict(blocks)
        self.pins: dict[bytes, tuple[Cid, str]] = {}
        self.names: dict[str, str] = {}
        self.keys = {"self": "k51self"}
        self.heard: list[tuple[str, dict[str, str], dict[str, str]]] = []  # command, options, headers
        self.replies: dict[str, Callable[[dict[str, str]], Reply]] = {}
        super().__init__()

    def answer(self, request: BaseHTTPRequestHandler) -> Reply:
        parts = urlsplit(request.path)
        options = {name: values[0] for name, values in parse_qs(parts.query).items()}
        command = parts.path.removeprefix("/api/v0/")
        body = _body(request)
        self.heard.append((command, options, {k.lower(): v for k, v in request.headers.items()}))
        if request.command != "POST":
            return self.error("Method Not Allowed", 405)
        if command in self.replies:
            return self.replies[command](options)
        handler = getattr(self, "do_" + command.replace("/", "_"), None)
        if handler is None:
            return Reply([b"404 page not found"], 404, "text/plain")
        answered: Reply = handler(options, body, request)
        return answered

    @staticmethod
    def error(message: str, status: int = 500) -> Reply:
        line = json.dumps({"Message": message, "Code": 0, "Type": "error"})
        return Reply([line.encode()], status, "application/json")

    @staticmethod
    def lines(*values: object) -> Reply:
        return Reply([json.dumps(value).encode() + b"\n" for value in values], kind="application/json")

    def has(self, options: dict[str, str]) -> Cid | None:
        cid = Cid.parse(options["arg"].removeprefix("/ipfs/"))
        return cid if cid.digest in self.blocks else None

    def do_version(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        return self.lines({"Version": "0.43.1", "Commit": "", "Repo": "18", "System": "amd64/linux"})

    def do_id(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        return self.lines({"ID": "12D3KooW", "Addresses": [], "AgentVersion": "kubo/0.43.1/"})

    def do_block_get(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        if cid := self.has(options):
            return Reply([self.blocks[cid.digest][1]], kind="text/plain")
        return self.error(f"block was not found locally (offline): ipld: could not find {options['arg']}")

    def do_block_stat(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        if cid := self.has(options):
            return self.lines({"Key": options["arg"], "Size": len(self.blocks[cid.digest][1])})
        return self.error(f"ipld: could not find {options['arg']}")

    def do_dag_export(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        if (cid := self.has(options)) is None:
            return self.error("block was not found locally (offline)")
        sections = [car_section(name, block) for name, block in dict.fromkeys(dfs(self.blocks, cid))]
        return Reply([car_header([cid]), *sections], kind="application/vnd.ipld.car")

    def do_dag_import(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        ((_, car),) = _parts(request, body)
        reader = read_car(io.BytesIO(car))
        found = list(reader)
        self.blocks |= {cid.digest: (cid, block) for cid, block in found}
        answer: list[object] = []
        for root in reader.roots if options.get("pin-roots") == "true" else ():
            missing = self.missing(root)
            if missing is None:
                self.pins[root.digest] = (root, "")
            why = f"ipld: could not find {missing.text}" if missing else ""
            answer.append({"Root": {"Cid": {"/": root.text}, "PinErrorMsg": why}})
        size = sum(len(block) for _, block in found)
        return self.lines(*answer, {"Stats": {"BlockCount": len(found), "BlockBytesCount": size}})

    def missing(self, root: Cid) -> Cid | None:
        """A block of a DAG that is not here."""
        waiting = [root]
        while waiting:
            cid = waiting.pop()
            if cid.digest not in self.blocks:
                return cid
            if cid.codec == DAG_PB:
                waiting += [link.cid for link in decode_unixfs(cid, self.blocks[cid.digest][1])[1]]
        return None

    def do_add(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        size = int(options["chunker"].removeprefix("size-"))
        profile = next(p for p in PROFILES.values() if (p.chunk_bytes, p.raw_leaves) == (size, True))
        files = {path: file_bytes(profile, data) for path, data in _parts(request, body)}
        lines = [{"Name": path, "Hash": built.cid.text, "Size": "0"} for path, built in files.items()]
        if options["wrap-with-directory"] == "true":
            lines.append({"Name": "", "Hash": tree(profile, files).cid.text, "Size": "0"})
        return self.lines(*lines)

    def do_pin_add(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        cid = Cid.parse(options["arg"])
        if missing := self.missing(cid):
            return self.lines(
                {"Progress": 1}, {"Message": f"could not find {missing.text}", "Code": 0, "Type": "error"}
            )
        self.pins[cid.digest] = (cid, options.get("name", ""))
        return self.lines({"Progress": 3}, {"Pins": [cid.text]})

    def do_pin_ls(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        found = self.pins
        if "arg" in options:
            cid = Cid.parse(options["arg"])
            if cid.digest not in found:
                return self.error(f"path '{cid.text}' is not pinned")
            found = {cid.digest: found[cid.digest]}
        keys = {cid.text: {"Type": "recursive", "Name": name} for cid, name in found.values()}
        return self.lines({"Keys": keys})

    def do_pin_rm(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        if self.pins.pop(Cid.parse(options["arg"]).digest, None) is None:
            return self.error("not pinned or pinned indirectly")
        return self.lines({"Pins": [options["arg"]]})

    def do_key_list(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        return self.lines({"Keys": [{"Name": name, "Id": text} for name, text in self.keys.items()]})

    def do_key_gen(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        self.keys[options["arg"]] = f"k51{options['arg']}"
        return self.lines({"Name": options["arg"], "Id": self.keys[options["arg"]]})

    def do_name_publish(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        if options["key"] not in self.keys:
            return self.error("no key by the given name was found")
        name = self.keys[options["key"]]
        self.names[name] = options["arg"]
        return self.lines({"Name": name, "Value": options["arg"]})

    def do_name_resolve(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        name = options["arg"].removeprefix("/ipns/")
        if name not in self.names:
            return self.error("could not resolve name")
        return self.lines({"Path": self.names[name]})

    def do_swarm_connect(self, options: dict[str, str], body: bytes, request: Any) -> Reply:
        return self.lines({"Strings": [f"connect {options['arg']} success"]})


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    parts = []
    while size := int(request.rfile.readline(), 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(parts)


def _parts(request: BaseHTTPRequestHandler, body: bytes) -> list[tuple[str, bytes]]:
    """(path, bytes) of a multipart body, by the parser of the standard library's mail package."""
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    found = []
    for part in BytesParser().parsebytes(head + body).get_payload():
        data = part.get_payload(decode=True)  # type: ignore[union-attr]
        found.append((unquote(part.get_filename()), data))  # type: ignore[union-attr]
    return found
