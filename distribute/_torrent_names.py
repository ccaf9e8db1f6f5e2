"""Names in a torrent, three ways.

strict  refuses what any system could take for another file, or for a device
safe    refuses only what is harmful everywhere: for releases of our own, whose manifest is known
clean   makes such names harmless and numbers doubles, as most clients do
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from distribute import names as naming
from headwater.errors import IntegrityError

Names = Literal["strict", "safe", "clean"]


def file_paths(
    name: bytes, files: Sequence[tuple[bytes, ...]], *, single: bool, how: Names, depth: int
) -> tuple[str, list[str]]:
    """(name of the torrent, paths of `files` below it, or the name itself where it is a `single` file).

    Raises IntegrityError for names that are refused, paths of more than `depth` parts, and in all but "clean" for two
    files with one path.
    """
    one = _cleaned if how == "clean" else (lambda raw: _judged(raw, strict=how == "strict"))
    folder = one(name)
    parts = [[*map(one, file)] for file in files]
    paths = (
        [folder] if single else (_numbered(parts) if how == "clean" else ["/".join(part) for part in parts])
    )
    for path in paths:
        if path.count("/") >= depth:
            raise IntegrityError(f"folders more than {depth} deep")
        if len(path) * 4 > naming.PATH_BYTES and len(path.encode()) > naming.PATH_BYTES:
            raise IntegrityError(f"a path of more than {naming.PATH_BYTES:,} bytes")
    if how != "clean":
        _check_apart(paths, strict=how == "strict")
    return folder, paths


def _judged(raw: bytes, *, strict: bool) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise IntegrityError(f"the name {raw[:200]!r} is not UTF-8") from None
    why = "a separator in the name" if "/" in text else naming.unsafe(text)
    if not why and strict:
        why = naming.unportable(text)
    if why:
        raise IntegrityError(f"the name {text[:200]!r}: {why}")
    return text


def _check_apart(paths: Sequence[str], *, strict: bool) -> None:
    nodes: dict[
        tuple[int, str], tuple[int, str, bool]
    ] = {}  # (folder, name as a system may see it): number, name, file
    for path in paths:
        at, known = 0, len(nodes)
        for part in path.split("/"):
            key = (at, naming.folded(part) if strict else part)
            number, first, file = nodes.setdefault(key, (len(nodes) + 1, part, False))
            if first != part:
                raise IntegrityError(f"{path[:400]!r}: {first!r} and {part!r} are one name on some systems")
            if file:
                raise IntegrityError(f"{path[:400]!r} occurs twice, or is below a file")
            at = number
        if at <= known:  # the last part was there before
            raise IntegrityError(f"{path[:400]!r} is a file and a folder")
        nodes[key] = (at, part, True)


def _cleaned(raw: bytes) -> str:
    """A harmless name in the place of any bytes, fit for every system."""
    text = "".join(
        "_" if char == "/" or naming.unsafe(char + "x") or naming.unportable(char + "x") else char
        for char in raw.decode("utf-8", "replace")[:1000]
    )
    if text[-1:] in ("", ".", " "):
        text = text.rstrip(". ") + "_"
    if naming.unportable(text):
        text = "_" + text
    return _fitting(text, "") if len(text.encode()) > naming.NAME_BYTES else text


def _fitting(name: str, mark: str) -> str:
    """`name` with `mark` before its ending, shortened to what a file system holds."""
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending.encode()) > 20:
        stem, dot, ending = name, "", ""
    room = naming.NAME_BYTES - len((mark + dot + ending).encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + mark + dot + ending


def _numbered(files: Sequence[Sequence[str]]) -> list[str]:
    """Paths as text; a name that is taken, also by a folder or by another spelling, gets a number."""
    folders: dict[tuple[int, str], int] = {}
    places = []  # number of each file's folder
    for *parents, _ in files:
        at = 0
        for part in parents:
            at = folders.setdefault((at, naming.folded(part)), len(folders) + 1)
        places.append(at)
    taken = set(folders)
    numbers: dict[
        tuple[int, str], int
    ] = {}  # the last one given, so that a thousand doubles are not a million trials
    out = []
    for (*parents, last), place in zip(files, places, strict=True):
        first = key = (place, naming.folded(last))
        name = last
        while key in taken:
            numbers[first] = numbers.get(first, 0) + 1
            name = _fitting(last, f".{numbers[first]}")
            key = (place, naming.folded(name))
        taken.add(key)
        out.append("/".join([*parents, name]))
    return out
