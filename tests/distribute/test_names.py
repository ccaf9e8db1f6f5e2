"""Names: what is refused always, what other systems cannot hold, and which two names are one elsewhere."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute import names
from headwater.errors import IntegrityError
from headwater.manifest import safe_relative

UNSAFE = [
    ("two\nlines", "U+000A"),
    ("tab\there", "U+0009"),
    ("nul\0byte", "U+0000"),
    ("del\x7f", "U+007F"),
    ("next\x85line", "U+0085"),
    ("line\u2028separator", "U+2028"),
    ("back\\slash", "backslash"),
    (os.fsdecode(b"latin-\xe9"), "not UTF-8"),
    ("lone\ud800surrogate", "U+D800"),
    ("non\uffffcharacter", "U+FFFF"),
    ("x" * 256, "255 bytes"),
    ("é" * 128, "255 bytes"),
    ("", "not a name"),
    ("..", "not a name"),
]


@pytest.mark.parametrize(("name", "why"), UNSAFE, ids=range(len(UNSAFE)))
def test_unsafe_names(name: str, why: str) -> None:
    assert why in (names.unsafe(name) or "")


SAFE = [
    "a",
    "x" * 255,
    "é" * 127,
    "日本",
    "a b",
    "-rf",
    "'; drop table",
    "%s",
    "...",
    "\u202ereversed",
    "a:b",
    "~",
]


@pytest.mark.parametrize("name", SAFE)
def test_safe_names(name: str) -> None:
    assert names.unsafe(name) is None


@given(st.text(min_size=1, max_size=40).filter(lambda text: "/" not in text))
def test_what_is_not_unsafe_is_a_path_of_a_manifest_and_one_line(name: str) -> None:
    if names.unsafe(name) is None:
        assert safe_relative(name) == name
        assert name.splitlines() == [name]
        name.encode()
    else:
        shown = names.shown(name)
        assert len(shown.splitlines()) <= 1
        shown.encode()


@given(st.binary(min_size=1, max_size=30))
def test_any_bytes_can_be_shown_on_one_line(raw: bytes) -> None:
    shown = names.shown(os.fsdecode(raw))
    shown.encode()
    assert "\n" not in shown and "\r" not in shown and "\x1b" not in shown


def test_shown_spells_bytes_and_directions() -> None:
    assert names.shown(os.fsdecode(b"a\xff\nb")) == "a\\xff\\x0ab"
    assert names.shown("a\u202eb") == "a\\u202eb"
    assert names.shown("日本 é") == "日本 é"


UNPORTABLE = [
    *[(f"a{char}b", char) for char in '<>:"|?*'],
    ("dot.", "dot at the end"),
    ("blank ", "blank at the end"),
    ("CON", "device"),
    ("con", "device"),
    ("Nul.txt", "device"),
    ("aux.tar.gz", "device"),
    ("COM1", "device"),
    ("lpt9.log", "device"),
    ("COM¹", "device"),
    ("CONIN$", "device"),
    ("nul .txt", "device"),
    ("photo\u202egpj.exe", "U+202E"),
]


@pytest.mark.parametrize(("name", "why"), UNPORTABLE)
def test_unportable_names(name: str, why: str) -> None:
    assert why in (names.unportable(name) or "")


@pytest.mark.parametrize(
    "name", ["console", "CON1", "com", "com10", "null", "a.con", "auxiliary.txt", ".hidden", "a b"]
)
def test_names_that_only_look_reserved(name: str) -> None:
    assert names.unportable(name) is None


def test_collisions() -> None:
    nfc, nfd = "caf\u00e9.txt", "cafe\u0301.txt"
    found = names.collisions(["Dog.jpg", "dog.JPG", "cat.jpg", nfc, nfd, "STRASSE", "straße", "a"])
    assert found == [["Dog.jpg", "dog.JPG"], ["STRASSE", "straße"], sorted([nfc, nfd])]
    assert names.why_same(nfc, nfd) == "differs only by Unicode normal form"
    assert names.why_same("Dog.jpg", "dog.JPG") == "differs only by case"


@given(st.text(max_size=20))
def test_folding_forgets_case_and_normal_form_and_nothing_twice(name: str) -> None:
    once = names.folded(name)
    assert names.folded(once) == once
    for form in ("NFC", "NFD"):
        assert names.folded(unicodedata.normalize(form, name)) == once  # type: ignore[arg-type]


@given(st.text("aAbBéÉ", max_size=8))
def test_folding_forgets_upper_case(name: str) -> None:
    assert names.folded(name.upper()) == names.folded(name)


def test_long_paths() -> None:
    assert names.long_path("a" * 259) is None
    assert names.long_path("a" * 260)
    assert names.long_path("\U0001f600" * 130)  # two units each


def test_names_unsafe_in_a_manifest_are_unsafe_here() -> None:
    for path in ("a\\b", "..", "nul\0"):
        assert names.unsafe(path)
        with pytest.raises(IntegrityError):
            safe_relative(path)
