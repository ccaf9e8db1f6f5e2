"""Trees that must not be published as they are (rows 85, 86 and 87 of the catalogue)."""

from __future__ import annotations

import os
import random
import socket
import string
import tempfile
import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from distribute import digests
from headwater.release import open_release
from tests.conftest import Cli
from tests.faults import kit
from tests.faults.trees import as_nobody, refused, tree

RNG = random.Random(87)


def chars(count: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(RNG.choice(letters) for _ in range(count - 2)) + "Z7"


# put together here, so that this file holds no token
TOKENS = {
    "huggingface": "h" + "f_" + chars(34),
    "github": "gh" + "p_" + chars(36),
    "wandb": chars(40, "0123456789abcdef").replace("Z", "a"),
}


# row 85


LINKS = {
    "loop": ".",
    "in": "a.txt",
    "out": "/etc/passwd",
    "folder out": "/etc",
    "dangling": "nowhere",
    "self": "self",
}


@pytest.mark.parametrize(("name", "target"), LINKS.items())
def test_row_85_links(tmp_path: Path, name: str, target: str) -> None:
    folder = tree(tmp_path / "tree")
    (folder / "sub" / name).symlink_to(target)
    refused(folder, 2, f"sub/{name}: symbolic link", "put the file itself in the place")


def test_row_85_special_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tree(tmp_path / "tree")
    os.mkfifo(folder / "fifo.json")  # a reader would wait for ever
    monkeypatch.chdir(folder)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        refused(folder, 2, "fifo.json: FIFO", "socket: socket", "2 things")


def test_row_85_devices(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree")
    try:
        os.mknod(folder / "null", 0o020666, os.makedev(1, 3))
    except PermissionError as error:
        pytest.skip(f"no devices here: {error}")
    refused(folder, 2, "null: device")


def test_row_85_unreadable() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        folder = tree(Path(name) / "tree")
        (folder / "a.txt").chmod(0)
        (folder / "sub").chmod(0)
        try:
            with as_nobody():
                refused(folder, 1, "a.txt: the file cannot be read", "sub: the folder cannot be read")
        finally:
            (folder / "sub").chmod(0o755)


CHANGES = {
    "longer": lambda path: path.write_bytes(b"longer than before"),
    "shorter": lambda path: path.write_bytes(b"x"),
    "other bytes of the same length": lambda path: path.write_bytes(b"ZZZ"),
    "replaced": lambda path: (path.unlink(), path.write_bytes(b"two")),
    "gone": lambda path: path.unlink(),
    "a link": lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_row_85_a_file_that_changes_after_the_look(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path / "tree")
    real = digests.digest_tree

    def meddled(*arguments: Any, **options: Any) -> Any:
        CHANGES[change](folder / "sub" / "b.bin")
        return real(*arguments, **options)

    monkeypatch.setattr(digests, "digest_tree", meddled)
    done = kit.run("publish", folder, "-o", tmp_path / "release")
    assert done.code in ((13, 10) if change == "gone" else (13,)), done
    assert "b.bin" in done.said
    assert not (tmp_path / "release").exists() and kit.temporaries(tmp_path) == []


@pytest.mark.slow
def test_row_85_a_file_that_grows_all_the_time(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree", {"a.txt": b"one", "growing.log": b"x" * (1 << 20)})
    stop = threading.Event()

    def grow() -> None:
        with open(folder / "growing.log", "ab", buffering=0) as handle:
            while not stop.wait(0.001):
                handle.write(b"x" * 4096)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        done = kit.run("publish", folder, "-o", tmp_path / "release")
    finally:
        stop.set()
        writer.join()
    assert done.code == 13 and "growing.log" in done.said, done
    assert not (tmp_path / "release").exists()
    assert kit.run("publish", folder, "-o", tmp_path / "release").code == 0


# row 86


CASES = {
    "case": (["Dog.jpg", "dog.jpg"], "differs only by case"),
    "folders by case": (["A/x", "a/x"], "differs only by case"),
    "normal form": ([unicodedata.normalize(form, "café") for form in ("NFC", "NFD")], "Unicode normal form"),
    "dot": (["end."], "drops the dot"),
    "blank": (["end "], "drops the blank"),
    "reserved": (["aux.txt"], "device's name on Windows"),
    "reserved folder": (["con/x"], "device's name on Windows"),
    "colon": (["12:30.jpg"], "Windows has no :"),
    "question": (["what?.jpg"], "Windows has no ?"),
    "turned": (["\u202egpj.exe"], "turns the direction"),
    "long": (["/".join(["folder" * 10] * 5)], "longer than the 259"),
}


@pytest.mark.parametrize("case", CASES)
def test_row_86_names_that_other_systems_cannot_hold(tmp_path: Path, case: str) -> None:
    paths, why = CASES[case]
    folder = tree(tmp_path / "tree", dict.fromkeys(paths, b"x"))
    refused(folder, 2, why, options=("--portable", "refuse"))
    done = kit.run("publish", folder, "-o", tmp_path / "release")
    assert done.code == 0 and why in done.err, done
    assert [entry.path for entry in open_release(tmp_path / "release").manifest.entries] == sorted(
        paths, key=str.encode
    )
    done = kit.run("publish", folder, "-o", tmp_path / "quiet", "--portable", "off")
    assert done.code == 0 and why not in done.err, done
    ids = [open_release(tmp_path / name).release.manifest_id for name in ("release", "quiet")]
    assert ids[0] == ids[1]


NEVER = {
    b"two\nlines": "two\\x0alines: control character U+000A",
    b"latin-\xe9.jpg": "latin-\\xe9.jpg: the name is not UTF-8",
    b"back\\slash": "a backslash in the name",
    b"\x1b[31mred": "\\x1b[31mred: control character",
    "line\u2028sep".encode(): "control character U+2028",
}


@pytest.mark.parametrize("name", NEVER, ids=range(len(NEVER)))
@pytest.mark.parametrize("portable", ["off", "warn", "refuse"])
def test_row_86_names_that_are_refused_always(tmp_path: Path, name: bytes, portable: str) -> None:
    folder = tree(tmp_path / "tree")
    with open(os.path.join(os.fsencode(folder), name), "wb") as handle:
        handle.write(b"x")
    done = refused(folder, 2, NEVER[name], options=("--portable", portable))
    assert "\x1b[31m" not in done.said and "\u2028" not in done.said


BLNS = [
    "-rf",
    "--help",
    "~",
    "$HOME",
    "`id`",
    "%s%n",
    "{0}",
    "'; drop table x",
    "<script>",
    "日本",
    "👨‍👩‍👧",
    "a b",
    "ﷺ" * 20,
    "#",
    "&amp;",
    "%2e%2e",
]


def test_row_86_odd_names_are_names(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree", {name: name.encode() for name in BLNS})
    done = kit.run("publish", folder, "-o", tmp_path / "release")
    assert done.code == 0, done
    release = open_release(tmp_path / "release")
    assert [entry.path for entry in release.manifest.entries] == sorted(BLNS, key=str.encode)
    for name in BLNS:
        assert (release.data / name).read_bytes() == name.encode()


# row 87


SECRETS: dict[str, tuple[bytes, str]] = {
    ".git/config": (b"[core]\n", ".git: git repository"),
    ".env": (b"A=1\n", ".env: environment with secrets"),
    "keys/id_rsa": (b"x", "keys/id_rsa: SSH private key"),
    "tls.pem": (b"-----BEGIN " + b"RSA PRIVATE KEY-----\n", "tls.pem: private key in line 1"),
    ".netrc": (b"machine api.wandb.ai\n", ".netrc: passwords of hosts"),
    "wandb.sh": (
        b"export WANDB_API_KEY=" + TOKENS["wandb"].encode(),
        "wandb.sh: Weights & Biases key in line 1",
    ),
    "run.ipynb": (
        b'{"cells": [\n{"source": ["login(\\"' + TOKENS["huggingface"].encode() + b'\\")"]}]}',
        "run.ipynb: Hugging Face token in line 2",
    ),
    "notes.md": (b"# x\n\npush with " + TOKENS["github"].encode(), "notes.md: GitHub token in line 3"),
    "sub/.hidden": (b"", "sub/.hidden: hidden"),
}


def test_row_87_everything_is_listed_at_once_and_no_secret_is_said(tmp_path: Path, cli: Cli) -> None:
    folder = tree(tmp_path / "tree", {"a.txt": b"fine"} | {path: data for path, (data, _) in SECRETS.items()})
    said = refused(folder, 2, *(line for _, line in SECRETS.values()), "9 things", "--allow PATH").said
    said += refused(folder, 2, options=("--json",)).said
    said += refused(folder, 2, options=("--dry-run",)).said
    traced = cli("publish", folder, "-o", tmp_path / "release", "--verbose")
    assert traced.returncode == 2 and "Traceback" in traced.stderr
    said += traced.stdout + traced.stderr
    for token in TOKENS.values():
        assert token not in said and token[6:] not in said


@pytest.mark.parametrize("path", SECRETS)
def test_row_87_one_exact_path_is_let_through(tmp_path: Path, path: str) -> None:
    data, line = SECRETS[path]
    folder = tree(tmp_path / "tree", {"a.txt": b"fine", path: data})
    blocked = line.split(": ")[0]
    refused(folder, 2, line)
    refused(folder, 2, line, options=("--allow", f"./{blocked}", "--allow", "*", "--allow", f"{blocked}x"))
    done = kit.run("publish", folder, "-o", tmp_path / "release", "--allow", blocked)
    assert done.code == 0, done
    assert (tmp_path / "release" / "tree" / path).read_bytes() == data


def test_row_87_two_hundred_hidden_files_are_counted(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree", {f".h{n}": b"x" for n in range(200)})
    done = refused(folder, 2, "200 things", "and 150 more")
    assert len(done.err.splitlines()) < 60
