"""What a study ran on, and with which settings: read from the system, so that another study can be compared with it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from headwater import __version__

PACKAGES = ("libtorrent", "aiohttp", "httpx2", "stamina", "blake3", "cryptography", "pyarrow", "numpy")
KERNEL = (
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/core/rmem_max",
    "net/core/default_qdisc",
)
# what our programs do in a trial; each line can be checked in the code that is named
SETTINGS = {
    "client": "headwater fetch in a new process and a fresh folder; --manifest is a file; 4 to 16 connections to each source",
    "http": "HTTP/1.1 mirror of headwater seed; all seeders are named as locations",
    "bittorrent": "libtorrent, TCP only (uTP off), no DHT, no local discovery, no tracker; a magnet link, with the link's ports as peers; peer exchange is on, and can tell no other addresses",
    "ipfs": "trustless gateway of headwater seed (blocks and CAR over HTTP); no bitswap; a client asks gateways in the order named",
    "girder": "a Girder server of the user's, through the REST API",
    "seeders": "headwater seed, one process each, all from the same files; started once per block and payload",
}


def environment() -> dict[str, Any]:
    """Versions, kernel, processor and settings."""
    return {
        "headwater": __version__,
        "python": platform.python_version(),
        "kernel": " ".join(os.uname()[part] for part in (0, 2, 3, 4)),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "kernel_settings": {name: text for name in KERNEL if (text := _sysctl(name))},
        "settings": SETTINGS,
    }


def netem_problem() -> str:
    """Why the kernel's own link emulation cannot be used here; empty when nothing speaks against it."""
    import shutil

    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"the program {missing[0]} is not installed (Debian: iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    release = os.uname().release
    modules = Path(f"/lib/modules/{release}")
    builtin = modules / "modules.builtin"
    loaded = "sch_netem" in _text(Path("/proc/modules"))
    known = "sch_netem" in _text(builtin) or any(modules.glob("kernel/net/sched/sch_netem*"))
    return "" if loaded or known else f"the kernel {release} has no netem"


def _processor() -> str:
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _sysctl(name: str) -> str:
    return " ".join(_text(Path("/proc/sys") / name).split())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
