"""What this machine and installation can do. Every check answers for itself and none ends the command."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from headwater import __version__
from headwater.errors import HeadwaterError

OURS = ("headwater", "curate", "distribute", "train")
ROOT = Path(__file__).resolve().parent.parent
PROBE_BYTES = 64 << 20
RAPL = Path("/sys/class/powercap")


def examine(folder: Path, *, measure_speed: bool) -> dict[str, Any]:
    """All facts. `folder` is where speed and free space are measured and shadowing is looked for."""
    return {
        "headwater": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": _memory_bytes(),
        "packages": _packages(),
        "extras": _extras(),
        "energy": _energy(),
        "gpus": _gpus(),
        "assets": _assets(),
        "folder": str(folder),
        "free_bytes": _free_bytes(folder),
        "write_mb_per_second": _write_speed(folder) if measure_speed else None,
        "shadowed": shadowed(folder),
    }


def as_text(facts: dict[str, Any]) -> str:
    """The facts as lines for people; anything that needs a hand ends with the command to type."""
    memory, free, speed = facts["memory_bytes"], facts["free_bytes"], facts["write_mb_per_second"]
    lines = [
        f"headwater {facts['headwater']}, Python {facts['python']}, {facts['platform']}",
        f"{facts['cores']} cores, {_gigabytes(memory)} of memory",
        "",
        "packages: " + ", ".join(f"{name} {version}" for name, version in facts["packages"].items()),
        "",
    ]
    for name, extra in facts["extras"].items():
        state = (
            "installed"
            if not extra["missing"]
            else f"missing {', '.join(extra['missing'])}: {extra['command']}"
        )
        lines.append(f"extra {name}: {state}")
    lines.append("")
    lines += [f"energy {name}: {state}" for name, state in facts["energy"].items()]
    lines += [f"gpu: {name}" for name in facts["gpus"]] or ["gpu: none"]
    lines.append("")
    for name, asset in facts["assets"].items():
        lines.append(f"asset {name}: {asset['path'] or asset['problem'] + ': ' + asset['command']}")
    lines.append("")
    lines.append(f"{facts['folder']}: {_gigabytes(free)} free, " + _speed_text(speed))
    lines += [f"warning: {text}" for text in facts["shadowed"]] or ["no name of ours is shadowed here"]
    return "\n".join(lines)


def fetch_asset(name: str, *, dry_run: bool) -> dict[str, Any]:
    """Bring one asset to the cache folder."""
    assets = _assets_module()
    if dry_run:
        into = assets.cache_folder() / name
        return {"asset": name, "into": str(into), "text": f"{name} would go to {into}"}
    path = assets.fetch(name)
    return {"asset": name, "path": str(path), "text": f"{name}: {path}"}


def shadowed(folder: Path) -> list[str]:
    """Files or folders in `folder` that `python -m` and notebooks started there would import in place of ours."""
    found = []
    for name in OURS:
        for path in (folder / f"{name}.py", folder / name):
            ours = path.resolve() == (ROOT / name).resolve()
            if path.exists() and not ours and (path.is_file() or any(path.glob("*.py"))):
                found.append(
                    f"{path} hides our package {name!r} from `python -m` and notebooks started here "
                    "(the headwater command is not affected): rename it, or use python -P"
                )
    return found


def _packages() -> dict[str, str]:
    found = {}
    for requirement in _requirements():
        name = _requirement_name(requirement)
        if "extra ==" not in requirement:
            found[name] = _version(name) or "missing"
    return found


def _extras() -> dict[str, dict[str, Any]]:
    extras: dict[str, dict[str, Any]] = {}
    for requirement in _requirements():
        match = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        name = _requirement_name(requirement)
        if match is None or name == "headwater":
            continue
        extra = extras.setdefault(
            match.group(1), {"missing": [], "command": f"pip install 'headwater[{match.group(1)}]'"}
        )
        if _version(name) is None:
            extra["missing"].append(name)
    return extras


def _energy() -> dict[str, str]:
    version = _version("codecarbon")
    counters = sorted(RAPL.glob("*rapl*/energy_uj")) if RAPL.is_dir() else []
    readable = [path for path in counters if os.access(path, os.R_OK)]
    if readable:
        rapl = f"{len(readable)} counters readable"
    elif counters:
        rapl = f"{len(counters)} counters, none readable by this user"
    else:
        rapl = "no counters on this machine"
    return {
        "codecarbon": version or "missing: pip install 'headwater[energy]'",
        "rapl": rapl,
        "nvml": _nvml(),
        "HEADWATER_METER": os.environ.get("HEADWATER_METER", "auto"),
    }


def _nvml() -> str:
    if not os.path.exists("/dev/nvidiactl"):
        return "no NVIDIA driver"
    if _version("nvidia-ml-py") is None:
        return "missing: pip install 'headwater[energy]'"
    return f"{len(_gpus())} devices"


def _gpus() -> list[str]:
    if not os.path.exists("/dev/nvidiactl"):
        return []
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except Exception as error:  # a driver that answers badly is a finding, not a failure
        return [f"present, but not readable ({type(error).__name__})"]


def _assets() -> dict[str, dict[str, str | None]]:
    assets = _assets_module()
    found: dict[str, dict[str, str | None]] = {}
    for name in sorted(assets.ASSETS):
        command = assets.ASSETS[name].commands[0]
        try:
            found[name] = {"path": str(assets.locate(name)), "problem": None, "command": command}
        except HeadwaterError as error:
            found[name] = {"path": None, "problem": error.message, "command": command}
    return found


def _assets_module() -> Any:
    # by name: the spine imports nothing of the other folders
    return importlib.import_module("curate.assets")


def _write_speed(folder: Path) -> float | None:
    """MB per second of one sequential write with fsync; None where the folder cannot be written."""
    path = folder / f".headwater-doctor.tmp-{os.getpid()}"
    block = os.urandom(1 << 20)  # some file systems store blocks of zeros for nothing
    try:
        started = time.monotonic()
        with open(path, "wb", buffering=0) as handle:
            for _ in range(PROBE_BYTES // len(block)):
                handle.write(block)
            os.fsync(handle.fileno())
        return round(PROBE_BYTES / 1e6 / max(time.monotonic() - started, 1e-9), 1)
    except OSError:
        return None
    finally:
        path.unlink(missing_ok=True)


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("headwater") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirement_name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match.group() if match else requirement


def _gigabytes(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 1e9:,.1f} GB"


def _speed_text(speed: float | None) -> str:
    return "write speed not known" if speed is None else f"writes {speed:,.0f} MB/s with fsync"
