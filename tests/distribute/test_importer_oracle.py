"""Our CIDs are those of an independent implementation: ipfs-unixfs-importer 17, run by node.

HEADWATER_IMPORTER names a folder with its node_modules (`npm i --ignore-scripts ipfs-unixfs-importer@17`).
Two things the partner does in its own way, and Kubo does not, stay out of the trees: it cuts paths at `^` and trims them, and
it counts sub-folders as nothing when it decides whether a folder is sharded.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distribute.unixfs import PROFILES, Built, Profile, file_bytes, tree
from tests.distribute.partners import need_folder, need_program

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "importer" / "import.mjs"
V1, V0 = PROFILES["unixfs-v1-2025"], PROFILES["unixfs-v0-2015"]
Case = dict[str, Any]


def content(size: int, seed: int) -> bytes:
    """Bytes that differ in every chunk; the script makes the same."""
    return b"".join(((at + seed) & 0xFFFFFFFF).to_bytes(8, "little") for at in range(0, size, 8))[:size]


def case(profile: Profile, files: list[tuple[str, int, int]], folders: list[str] | None = None) -> Case:
    return {
        "profile": profile,
        "files": files,
        "folders": folders or [],
        "chunk": profile.chunk_bytes,
        "width": profile.width,
        "raw": profile.raw_leaves,
        "version": profile.cid_version,
        "strategy": f"{profile.hamt_by}-bytes",
        "threshold": profile.hamt_above_bytes,
    }


def ours(item: Case) -> dict[str, tuple[str, int]]:
    """CID and DAG size of every file and of the root, by path."""
    files: dict[str, Built] = {
        path: file_bytes(item["profile"], content(size, seed)) for path, size, seed in item["files"]
    }
    built = {**files, "": tree(item["profile"], files, item["folders"])}
    return {path: (one.cid.text, one.dag_bytes) for path, one in built.items()}


@pytest.fixture(scope="module")
def importer() -> list[str]:
    node = need_program("node")
    return [node, str(SCRIPT), str(need_folder("HEADWATER_IMPORTER", "node_modules/ipfs-unixfs-importer"))]


def compare(importer: list[str], cases: list[Case]) -> None:
    asked = [{key: value for key, value in item.items() if key != "profile"} for item in cases]
    done = subprocess.run(importer, input=json.dumps(asked).encode(), capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for item, answer in zip(cases, json.loads(done.stdout), strict=True):
        theirs = {path: (cid, size) for path, cid, size in answer}
        for path, mine in ours(item).items():
            assert theirs[path] == mine, (path, item["profile"])


def small(profile: Profile, chunk: int, width: int, threshold: int = 262_144) -> Profile:
    return replace(profile, chunk_bytes=chunk, width=width, hamt_above_bytes=threshold)


def near(chunk: int, width: int) -> list[int]:
    """Sizes where the number of chunks, nodes or levels changes."""
    edges = [0, chunk, 2 * chunk, width * chunk, 2 * width * chunk, width**2 * chunk, width**3 * chunk]
    return sorted({max(0, edge + step) for edge in edges for step in (-1, 0, 1)})


@pytest.mark.parametrize("name", PROFILES)
def test_sizes_around_the_limits_of_small_profiles(importer: list[str], name: str) -> None:
    cases = []
    for chunk, width in ((8, 2), (16, 3), (32, 4), (128, 5), (1000, 7)):
        profile = small(PROFILES[name], chunk, width)
        cases.append(case(profile, [(f"f{size}", size, 1) for size in near(chunk, width)]))
    compare(importer, cases)


@pytest.mark.parametrize("name", PROFILES)
def test_sizes_around_the_limits_of_the_real_profiles(importer: list[str], name: str) -> None:
    profile = PROFILES[name]
    chunk = profile.chunk_bytes
    sizes = [0, 1, 127, 128, 16383, 16384, chunk - 1, chunk, chunk + 1, 3 * chunk, 7 * chunk + 5]
    compare(importer, [case(profile, [(f"a/f{size}", size, 2) for size in sizes])])


@pytest.mark.parametrize("name", ["kubo-v1-raw", "unixfs-v0-2015"])
def test_a_file_above_174_leaves(importer: list[str], name: str) -> None:
    profile = replace(PROFILES[name], chunk_bytes=4096)
    compare(importer, [case(profile, [(f"f{n}", n, 3) for n in (174 * 4096, 174 * 4096 + 1, 400 * 4096)])])


NAMES = st.text(
    st.characters(exclude_characters="/\\^\0", exclude_categories=("Cs", "Z", "C")), min_size=1, max_size=24
).filter(lambda name: name not in (".", "..") and name.strip() == name)
ODD = st.sampled_from(
    [
        "a b",
        "'q'",
        '"q"',
        "é",
        "e\u0301",
        "日本",
        "😀",
        "%2F",
        "#?&",
        "-",
        "~",
        "COM1",
        "a.",
        "A",
        "0" * 200,
        "\u202e",
    ]
)
PATHS = st.lists(NAMES | ODD, min_size=1, max_size=4).map("/".join)


@st.composite
def cases_of_trees(draw: st.DrawFn) -> Case:
    chunk = draw(st.sampled_from([1, 8, 13, 64]))
    width = draw(st.integers(2, 6))
    profile = small(draw(st.sampled_from(list(PROFILES.values()))), chunk, width)
    sizes = st.sampled_from([n for n in near(chunk, width) if n < 3000]) | st.integers(0, 500)
    files: dict[str, tuple[int, int]] = {}
    taken: set[str] = set()
    for path in draw(st.lists(PATHS, max_size=12)):
        above = {path[: at + 1].rstrip("/") for at, letter in enumerate(path) if letter == "/"}
        if path not in taken and not above & files.keys():
            files[path] = (draw(sizes), draw(st.integers(0, 3)))
            taken |= above | {path}
    folders = [f"empty-{n}/{n}" for n in range(draw(st.integers(0, 2)))]
    return case(profile, [(path, *rest) for path, rest in files.items()], folders)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(cases_of_trees(), min_size=15, max_size=15))
def test_trees(importer: list[str], cases: list[Case]) -> None:
    compare(importer, cases)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(PROFILES.values())),
            st.lists(NAMES | ODD, min_size=1, max_size=400, unique=True),
            st.integers(200, 6000),
        ),
        min_size=8,
        max_size=8,
    )
)
def test_sharded_folders_at_a_small_threshold(
    importer: list[str], items: list[tuple[Profile, list[str], int]]
) -> None:
    cases = []
    for profile, names, threshold in items:
        profile = small(profile, 16, 3, threshold)
        cases.append(case(profile, [(f"d/{name}", len(name), 0) for name in names]))
    compare(importer, cases)


@pytest.mark.parametrize("name", PROFILES)
def test_one_byte_around_the_real_threshold(importer: list[str], name: str) -> None:
    """Strictly above 262,144: folders just below, at and above it, and one of 6,000 entries."""
    profile = PROFILES[name]
    cid = 34 if profile.cid_version == 0 else 36
    a_link = cid + (2 + 2 + 2 + 2 if profile.hamt_by == "block" else 0)
    entries = (262_144 - 4) // (a_link + 15)
    cases = []
    for wanted in (262_143, 262_144, 262_145):
        used = 4 if profile.hamt_by == "block" else 0
        files = []
        for number in range(entries - 4):
            files.append((f"d/{number:011d}", 1, 0))
            used += a_link + 11
        while wanted - used > a_link + 120:
            files.append((f"d/{len(files):060d}", 1, 0))
            used += a_link + 60
        files.append(("d/" + "z" * (wanted - used - a_link), 1, 0))
        cases.append(case(profile, files))
    cases.append(case(profile, [(f"d/image {n}.jpg", 3, n % 5) for n in range(6000)]))
    compare(importer, cases)
    nodes = [
        len(tree(profile, {p: file_bytes(profile, b"x") for p, _, _ in c["files"]}).nodes) for c in cases
    ]
    assert nodes[0] == nodes[1] == 2 and nodes[2] > 200 and nodes[3] > 200
