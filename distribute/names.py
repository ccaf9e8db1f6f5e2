"""Names that every system can hold: what is refused always, and what some systems cannot store.

A name is one part of a path. `unsafe` is about our own documents and about harm: such a name is never published.
`unportable` and `collisions` are about other people's disks: Windows (Microsoft, "Naming Files, Paths, and Namespaces"),
file systems that ignore case (APFS, NTFS, ext4 with casefold), and those that normalise Unicode (HFS+, APFS).
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

NAME_BYTES = 255  # of one part, in UTF-8: ext4, xfs, btrfs
PATH_BYTES = 4096  # of a whole path on Linux
FOLDERS = 250  # in each other; readers stop at 256, and file tools that call themselves near 1,000
WINDOWS_PATH = 259  # UTF-16 units that programs without long-path support can open

# C0, DEL, C1, line and paragraph separators: they break lists of one path a line; a backslash is a separator elsewhere;
# lone surrogates are bytes that were no UTF-8; non-characters cannot stand in XML (Metalink)
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\\\\\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_WINDOWS = re.compile(r'[<>:"|?*]')
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")  # they make `gpj.exe` look like `exe.jpg`
_RESERVED = re.compile(r"(?i)(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³]) *(?:\.|$)")
_ESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def unsafe(name: str) -> str | None:
    """Why `name` can never be published, or None. `name` is as os.scandir gives it (surrogates for bytes that are no UTF-8)."""
    if found := _UNSAFE.search(name):
        char = found.group()
        if "\udc80" <= char <= "\udcff":
            return "the name is not UTF-8"
        if char == "\\":
            return "a backslash in the name is a separator on other systems"
        return f"control character U+{ord(char):04X} in the name"
    if len(name) * 4 > NAME_BYTES and len(name.encode()) > NAME_BYTES:
        return f"the name is longer than {NAME_BYTES} bytes"
    if name in ("", ".", ".."):
        return "not a name"
    return None


def unportable(name: str) -> str | None:
    """Why some systems cannot store `name`, or None."""
    if found := _WINDOWS.search(name):
        return f"Windows has no {found.group()} in names"
    if name[-1:] in (".", " "):
        return f"Windows drops the {'dot' if name[-1] == '.' else 'blank'} at the end"
    if _RESERVED.match(name):
        return "a device's name on Windows"
    if found := _BIDI.search(name):
        return f"U+{ord(found.group()):04X} turns the direction of the text round, so the name looks like another"
    return None


def folded(name: str) -> str:
    """What a system that ignores case and normal form compares (Unicode 3.13, canonical caseless matching)."""
    if name.isascii():
        return name.lower()
    fold = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    return unicodedata.normalize("NFD", fold)


def collisions(names: Iterable[str]) -> list[list[str]]:
    """Groups of names of one folder that are one name where case or normal form does not count; each sorted."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[folded(name)].append(name)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def why_same(a: str, b: str) -> str:
    """What alone tells two colliding names apart: case, or Unicode normal form."""
    if unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b):
        return "differs only by Unicode normal form"
    return "differs only by case"


def long_path(path: str) -> str | None:
    """Why a relative path is too long for Windows even at the root of a disk, or None."""
    if len(path) * 2 > WINDOWS_PATH and len(path.encode("utf-16-le")) // 2 > WINDOWS_PATH:
        return f"longer than the {WINDOWS_PATH} characters that many Windows programs open"
    return None


def shown(path: str) -> str:
    """`path` fit for one line of a message: control characters and bytes that are no UTF-8 as escapes."""
    return _ESCAPED.sub(_escape, path)


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # the byte that os.fsdecode could not read
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
