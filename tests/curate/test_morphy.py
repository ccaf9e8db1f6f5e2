"""The morphological rules on a small dictionary made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate._morphy import ENDINGS, PARTS, Morphy

LICENCE = "  1 This line is a licence and no lemma n 1 0 1 0 00000099  \n"
INDEX = {
    "noun": "axe n 1 0 1 0 00000005  \naxis n 2 1 @ 2 1 00000001 00000009  \nbox n 1 0 1 0 00000002  \n"
    "church n 1 0 1 0 00000010  \nlady n 1 0 1 0 00000011  \nleaf n 1 0 1 0 00000012  \nlight n 1 0 1 0 00000003  \n"
    "man n 1 0 1 0 00000004  \n",
    "verb": "box v 1 0 1 0 00000021  \nhope v 1 0 1 0 00000022  \nhop v 1 0 1 0 00000023  \nlight v 1 0 1 0 00000024  \n",
    "adj": "light a 1 0 1 0 00000031  \nlarge a 1 0 1 0 00000032  \nfine a 1 0 1 0 00000033  \n",
    "adv": "finely r 1 0 1 0 00000041  \nwell r 1 0 1 0 00000042  \n",
}
EXCEPTIONS = {"noun": "axes ox axis axe\nmice mouse\n", "verb": "", "adj": "", "adv": "best well\n"}


@pytest.fixture(scope="module")
def morphy(tmp_path_factory: pytest.TempPathFactory) -> Morphy:
    return Morphy(write(tmp_path_factory.mktemp("wordnet")))


def write(folder: Path) -> Path:
    for part in PARTS:
        (folder / f"index.{part}").write_text(LICENCE + INDEX[part])
        (folder / f"{part}.exc").write_text(EXCEPTIONS[part])
    return folder


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("axis", (1, "noun")),  # the first of two senses
        ("AXES", (1, "noun")),  # exception: the first base that is known, not the rule's "axe"
        ("boxes", (2, "noun")),
        ("boxed", (21, "verb")),  # no noun form
        ("churches", (10, "noun")),
        ("ladies", (11, "noun")),
        ("leaves", (12, "noun")),
        ("boxmen", None),
        ("lights", (3, "noun")),
        ("lighting", (24, "verb")),
        ("lightest", (31, "adj")),
        ("larger", (32, "adj")),
        ("hoping", (22, "verb")),  # "hope" comes before "hop"
        ("hopings", (22, "verb")),  # endings are changed again
        ("finely", (41, "adv")),
        ("finelys", None),  # adverbs have no endings
        ("best", (42, "adv")),
        ("mice", None),  # an exception whose base is unknown
        ("this", None),
        ("", None),
    ],
)
def test_senses(morphy: Morphy, word: str, expected: tuple[int, str] | None) -> None:
    assert morphy.sense(word) == expected


def plain_offset(word: str, part: str) -> int | None:
    """The rules again, on whole strings and without any short cut."""
    first = {line.split()[0]: int(line.split()[-int(line.split()[2])]) for line in INDEX[part].splitlines()}
    listed = {line.split()[0]: line.split()[1:] for line in EXCEPTIONS[part].splitlines()}
    forms = [word, *listed[word]] if word in listed else [word]
    generations = 0
    while forms:
        for form in forms:
            if form in first:
                return first[form]
        if word in listed:
            return None
        forms = list(
            dict.fromkeys(f[: -len(o)] + n for f in forms for o, n in ENDINGS[part] if f.endswith(o))
        )
        generations += 1
        assert generations < 100
    return None


PIECES = [
    "box",
    "hop",
    "light",
    "man",
    "lad",
    "fine",
    "ax",
    "s",
    "es",
    "ies",
    "ed",
    "ing",
    "er",
    "est",
    "men",
    "ves",
    "ch",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_long_words_follow_the_same_rules(morphy: Morphy, word: str) -> None:
    expected = None
    for part in PARTS:
        offset = plain_offset(word, part)
        if offset is not None:
            expected = (offset, part)
            break
    assert morphy.sense(word) == expected


def test_a_megabyte_of_endings_ends(morphy: Morphy) -> None:
    assert morphy.sense("box" + "es" * 100_000) == (2, "noun")
    assert morphy.sense("es" * 100_000) is None
