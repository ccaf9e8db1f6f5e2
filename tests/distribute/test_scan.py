"""The walk before publishing: what is listed, refused, blocked and warned of, and what the message says."""

from __future__ import annotations

import os
import random
import shutil
import string
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute import names
from distribute.scan import Scan, scan_tree
from headwater import console
from headwater.errors import HeadwaterError, MissingInput, UsageError

RNG = random.Random(11)
TOKEN = "gh" + "p_" + "".join(RNG.choice(string.ascii_letters + string.digits) for _ in range(36))


def plant(folder: Path, files: dict[str, str | bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def problems(scan: Scan) -> list[tuple[str, str, str]]:
    return [(problem.kind, problem.path, problem.detail) for problem in scan.problems]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_files_in_order_with_what_a_cache_needs(tmp_path: Path) -> None:
    plant(tmp_path, {"b": "22", "a/z": "1", "a.txt": "", "é": "x", "B": "y"})
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    scan = scan_tree(tmp_path, portable="off")
    assert [file.path for file in scan.files] == ["B", "a.txt", "a/z", "b", "é"]
    assert scan.empty_folders == ["empty/deeper"]
    assert scan.problems == [] and scan.warnings == [] and scan.size_bytes == 5
    for file in scan.files:
        status = file.absolute.stat()
        assert file.absolute == tmp_path / file.path
        assert (file.size_bytes, file.mtime_ns, file.inode) == (
            status.st_size,
            status.st_mtime_ns,
            status.st_ino,
        )
    scan.raise_for_problems()


def test_our_own_folder_is_no_part_at_the_top_only(tmp_path: Path) -> None:
    plant(tmp_path, {"a": "1", ".headwater/digests.sqlite": "x", "sub/.headwater/x": "y"})
    scan = scan_tree(tmp_path)
    assert [file.path for file in scan.files] == ["a", "sub/.headwater/x"]
    assert problems(scan) == [("hidden", "sub/.headwater", "hidden")]


def test_a_link_in_the_place_of_our_own_folder_is_refused(tmp_path: Path) -> None:
    plant(tmp_path / "tree", {"a": "1"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tree" / ".headwater").symlink_to(tmp_path / "elsewhere")
    assert ("link", ".headwater", "symbolic link") in problems(scan_tree(tmp_path / "tree"))


def test_the_folder_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    plant(tmp_path / "tree", {"a": "1"})
    (tmp_path / "link").symlink_to("tree")
    assert [file.path for file in scan_tree(tmp_path / "link").files] == ["a"]


def test_nothing_to_publish(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="gone"):
        scan_tree(tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not a folder"):
        scan_tree(tmp_path / "file")
    (tmp_path / "tree" / "only" / "folders").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds no files"):
        scan_tree(tmp_path / "tree")
    plant(tmp_path / "tree", {".headwater/x": "1"})
    with pytest.raises(UsageError, match="holds no files"):
        scan_tree(tmp_path / "tree")


def test_links_and_special_files(tmp_path: Path) -> None:
    plant(tmp_path, {"a": "1"})
    (tmp_path / "in").symlink_to("a")
    (tmp_path / "out").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    os.link(tmp_path / "a", tmp_path / "hard")  # two names of one file are two files
    scan = scan_tree(tmp_path)
    assert problems(scan) == [
        ("link", "dangling", "symbolic link"),
        ("special", "fifo", "FIFO"),
        ("link", "in", "symbolic link"),
        ("link", "loop", "symbolic link"),
        ("link", "out", "symbolic link"),
    ]
    assert [file.path for file in scan.files] == ["a", "hard"]
    with pytest.raises(UsageError) as caught:
        scan.raise_for_problems()
    assert "5 things" in caught.value.message and "out: symbolic link" in caught.value.message
    assert caught.value.exit_code == 2 and "--allow" not in (caught.value.hint or "")


def test_nothing_refused_can_be_allowed(tmp_path: Path) -> None:
    plant(tmp_path, {"a": "1"})
    (tmp_path / "out").symlink_to("/etc/passwd")
    scan = scan_tree(tmp_path, allow={"out"})
    assert problems(scan) == [("link", "out", "symbolic link")]
    assert [(w.kind, w.path) for w in scan.warnings] == [("allow", "out")]


def test_unreadable_files_and_folders(open_folder: Path) -> None:
    plant(open_folder, {"a": "1", "closed": "2", "folder/b": "3"})
    (open_folder / "closed").chmod(0)
    (open_folder / "folder").chmod(0)
    try:
        with as_nobody():
            scan = scan_tree(open_folder)
            with pytest.raises(HeadwaterError) as caught:
                scan.raise_for_problems()
    finally:
        (open_folder / "folder").chmod(0o755)
    assert [(problem.kind, problem.path) for problem in scan.problems] == [
        ("unreadable", "closed"),
        ("unreadable", "folder"),
    ]
    assert type(caught.value) is HeadwaterError and caught.value.exit_code == 1
    assert [file.path for file in scan.files] == ["a"]


def test_an_unreadable_top_is_an_error(open_folder: Path) -> None:
    plant(open_folder / "tree", {"a": "1"}).chmod(0)
    with as_nobody(), pytest.raises(HeadwaterError, match="cannot be read"):
        scan_tree(open_folder / "tree")


BAD_NAMES = [b"two\nlines", b"latin-\xe9", b"back\\slash", b"\x1b[31mred", b"nel\xc2\x85"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
@pytest.mark.parametrize("folder", [False, True])
def test_names_that_are_refused(tmp_path: Path, name: bytes, folder: bool) -> None:
    plant(tmp_path, {"a": "1"})
    path = os.path.join(os.fsencode(tmp_path), name)
    if folder:
        os.mkdir(path)
        open(os.path.join(path, b"inside"), "w").close()
    else:
        open(path, "w").close()
    scan = scan_tree(tmp_path)
    assert [problem.kind for problem in scan.problems] == ["name"]
    with pytest.raises(UsageError) as caught:
        scan.raise_for_problems()
    caught.value.message.encode()
    assert len(caught.value.message.splitlines()) == 2 and "\x1b" not in caught.value.message
    assert [file.path for file in scan.files] == ["a"]


def test_paths_that_are_too_long(tmp_path: Path) -> None:
    plant(tmp_path, {"a": "1"})
    here = os.open(tmp_path, os.O_RDONLY)
    try:  # below the limit of a path, one folder at a time
        for _ in range(20):
            os.mkdir("x" * 250, dir_fd=here)
            inner = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
    finally:
        os.close(here)
    try:
        scan = scan_tree(tmp_path, portable="off")
        assert [problem.kind for problem in scan.problems] == ["name"]
        assert "longer than 4,096 bytes" in scan.problems[0].detail and len(scan.problems[0].path) < 300
    finally:
        shutil.rmtree(tmp_path / ("x" * 250))


def test_a_tree_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 249)
    deep.mkdir(parents=True)
    (deep / "f").write_text("1")
    assert scan_tree(tmp_path, portable="off").problems == []
    (deep / "d" / "d").mkdir(parents=True)
    (deep / "d" / "f").write_text("1")
    scan = scan_tree(tmp_path, portable="off")
    assert [problem.detail for problem in scan.problems] == ["more than 250 folders deep"] * 2
    assert len(scan.files) == 1


# hidden things and secrets


SECRETS: dict[str, str | bytes] = {
    "a.txt": "fine",
    ".git/config": "[core]",
    ".env": "X=1",
    ".hidden": "1",
    "keys/id_rsa": "x",
    "keys/id_rsa.pub": "ssh-rsa AAAA",
    "server.pem": "-----BEGIN " + "RSA PRIVATE KEY-----\n",
    "ca.pem": "-----BEGIN CERTIFICATE-----\n",
    "deploy.key": "-----BEGIN " + "PRIVATE KEY-----\n",
    ".netrc": "machine x",
    "run.ipynb": f'{{"cells": [\n{{"source": ["t = \\"{TOKEN}\\"\\n"]}}]}}',
    "config.yaml": f"a: 1\nurl: https://bob:{TOKEN[:12]}@example.org/\n",
    "image.jpg": b"\xff\xd8" + TOKEN.encode(),
}


def test_the_whole_list_of_what_is_blocked(tmp_path: Path) -> None:
    scan = scan_tree(plant(tmp_path, SECRETS))
    assert problems(scan) == [
        ("secret", ".env", "environment with secrets"),
        ("secret", ".git", "git repository"),
        ("hidden", ".hidden", "hidden"),
        ("secret", ".netrc", "passwords of hosts (netrc)"),
        ("secret", "config.yaml", "password in a URL in line 2"),
        ("secret", "deploy.key", "private key in line 1"),
        ("secret", "keys/id_rsa", "SSH private key"),
        ("secret", "run.ipynb", "GitHub token in line 2"),
        ("secret", "server.pem", "private key in line 1"),
    ]
    with pytest.raises(UsageError) as caught:
        scan.raise_for_problems()
    assert "9 things" in caught.value.message and "--allow PATH" in (caught.value.hint or "")
    for said in (caught.value.message, repr(scan), caught.value.hint or ""):
        assert TOKEN not in said and TOKEN[:12] not in said


def test_exact_paths_are_let_through_and_nothing_else(tmp_path: Path) -> None:
    plant(tmp_path, SECRETS)
    blocked = {problem.path for problem in scan_tree(tmp_path).problems}
    for path in sorted(blocked):
        left = {problem.path for problem in scan_tree(tmp_path, allow={path}).problems}
        assert left == blocked - {path}
    scan = scan_tree(tmp_path, allow=blocked)
    assert scan.problems == [] and scan.warnings == []
    assert {file.path for file in scan.files} == set(SECRETS)


def test_an_allowed_folder_says_nothing_of_what_is_in_it(tmp_path: Path) -> None:
    plant(tmp_path, {".ci/run.sh": "echo", ".ci/.secret": "x", ".ci/token.txt": f"{TOKEN}\n", "a": "1"})
    scan = scan_tree(tmp_path, allow={".ci/"})
    assert [problem.path for problem in scan.problems] == [".ci/.secret", ".ci/token.txt"]


def test_an_allowed_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    scan = scan_tree(plant(tmp_path, {"a": "1", ".b": "2"}), allow={".b", "a", "typo"})
    assert scan.problems == []
    assert [(warning.kind, warning.path) for warning in scan.warnings] == [("allow", "a"), ("allow", "typo")]


def test_secrets_off_still_blocks_what_is_hidden(tmp_path: Path) -> None:
    scan = scan_tree(plant(tmp_path, SECRETS), secrets=False)
    assert {problem.path for problem in scan.problems} == {".env", ".git", ".hidden", ".netrc"}


def test_a_notebook_that_is_too_large_to_look_through_is_told(tmp_path: Path) -> None:
    plant(tmp_path, {"a": "1", "big.ipynb": ""})
    os.truncate(tmp_path / "big.ipynb", (32 << 20) + 1)
    scan = scan_tree(tmp_path)
    assert scan.problems == []
    assert [(warning.kind, warning.path) for warning in scan.warnings] == [("secret", "big.ipynb")]


def test_at_most_fifty_lines_and_the_count(tmp_path: Path) -> None:
    scan = scan_tree(plant(tmp_path, {f".h{n:03d}": "x" for n in range(120)}))
    with pytest.raises(UsageError) as caught:
        scan.raise_for_problems()
    lines = caught.value.message.splitlines()
    assert len(lines) == 52 and "120 things" in lines[0] and lines[-1] == "  … and 70 more"


# names on other systems


PORTABLE = {
    "Dog.jpg": "1",
    "dog.jpg": "2",
    unicodedata.normalize("NFC", "café"): "3",
    unicodedata.normalize("NFD", "café"): "4",
    "Folder/x": "5",
    "folder/x": "6",
    "CON": "7",
    "aux.txt": "8",
    "end.": "9",
    "end ": "10",
    "what?": "11",
    "sub/a:b/c": "12",
}


def test_names_are_warned_of(tmp_path: Path) -> None:
    scan = scan_tree(plant(tmp_path, PORTABLE))
    assert scan.problems == [] and len(scan.files) == 12
    told = {warning.path: warning.detail for warning in scan.warnings}
    assert told == {
        "dog.jpg": "differs only by case from Dog.jpg",
        unicodedata.normalize("NFC", "café"): "differs only by Unicode normal form from "
        + unicodedata.normalize("NFD", "café"),
        "folder": "differs only by case from Folder",
        "CON": "a device's name on Windows",
        "aux.txt": "a device's name on Windows",
        "end.": "Windows drops the dot at the end",
        "end ": "Windows drops the blank at the end",
        "what?": "Windows has no ? in names",
        "sub/a:b": "Windows has no : in names",
    }


def test_names_are_refused_or_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, PORTABLE)
    refused = scan_tree(tmp_path, portable="refuse")
    assert len(refused.problems) == 9 and refused.warnings == []
    with pytest.raises(UsageError, match="9 things") as caught:
        refused.raise_for_problems()
    assert "--portable warn" in (caught.value.hint or "")
    off = scan_tree(tmp_path, portable="off")
    assert off.problems == [] and off.warnings == [] and len(off.files) == 12


class Heard:
    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []

    def message(self, level: str, text: str, fields: dict[str, object]) -> None:
        self.messages.append((level, text))

    def progress(self, task: console.Track) -> None:
        pass


def test_warnings_are_said(tmp_path: Path) -> None:
    scan = scan_tree(plant(tmp_path, {f"q{n}?": "x" for n in range(60)}))
    heard = Heard()
    token = console._sink.set(heard)
    try:
        scan.say_warnings()
    finally:
        console._sink.reset(token)
    assert len(heard.messages) == 51 and heard.messages[-1][1].startswith("… and 10 more")
    assert {level for level, _ in heard.messages} == {"warning"}


ODD = st.text("aAéE\u0301.:* \\\n~CON", min_size=1, max_size=5).filter(lambda name: name not in (".", ".."))


@given(st.sets(ODD, max_size=6))
def test_every_name_is_published_or_named(found: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in found:
            Path(folder, name).write_text("x")
        Path(folder, "always").write_text("x")
        scan = scan_tree(Path(folder), portable="refuse")
    told = {problem.path for problem in scan.problems}
    listed = {file.path for file in scan.files}
    for name in found | {"always"}:
        assert name in listed or names.shown(name) in told
        if names.unsafe(name):
            assert name not in listed
        if names.unportable(name) or name.startswith("."):
            assert names.shown(name) in told
    folded = {names.folded(file.path) for file in scan.files if file.path not in told}
    assert len(folded) == len([file for file in scan.files if file.path not in told])
