"""Records: canonical form and ids, counts, folders described, compared and verified."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.manifest import (
    Counts,
    FileEntry,
    InputRef,
    Manifest,
    canonical,
    describe_folder,
    diff_entries,
    identity_id,
    safe_relative,
    step_key,
    verify_entries,
)

NAMES = st.text(st.sampled_from("ab c.é-日"), min_size=1, max_size=6).filter(
    lambda s: s.strip(".") and s != ".headwater"
)
TREES = st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=6)


def test_the_canonical_form_of_the_specification() -> None:
    document = json.loads(
        r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
             "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    )
    assert canonical(document).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_keys_are_sorted_by_utf16_units() -> None:
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    found = list(json.loads(canonical(dict.fromkeys(keys, 0))))
    assert found == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (-1.5, "-1.5"),
    ],
)
def test_numbers_as_ecmascript_writes_them(value: float, text: str) -> None:
    assert canonical([value]).decode() == f"[{text}]"


@pytest.mark.parametrize("value", [2**53 + 1, -(2**60), float("nan"), float("inf")])
def test_numbers_that_json_cannot_hold_are_a_usage_error(value: float) -> None:
    with pytest.raises(UsageError, match="cannot be recorded"):
        identity_id({"seed": value})


def test_an_id_is_the_sha256_of_the_canonical_form() -> None:
    assert identity_id({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()


def test_the_key_does_not_depend_on_the_order_of_inputs() -> None:
    one, two = InputRef(role="pool", id="1" * 64), InputRef(role="rule", id="2" * 64)
    first = step_key(step="s", version=1, config={}, inputs=[one, two], seed=None)
    assert first == step_key(step="s", version=1, config={}, inputs=[two, one], seed=None)
    assert first != step_key(step="s", version=1, config={}, inputs=[one], seed=None)


@given(
    kept=st.integers(0, 100),
    dropped=st.dictionaries(st.text(max_size=3), st.integers(0, 100), max_size=3),
    invalid=st.dictionaries(st.text(max_size=3), st.integers(0, 100), max_size=3),
    error=st.integers(-3, 3),
)
def test_counts_close_or_fail(
    kept: int, dropped: dict[str, int], invalid: dict[str, int], error: int
) -> None:
    read = kept + sum(dropped.values()) + sum(invalid.values()) + error
    if read < 0:
        return
    counts = Counts(read=read, kept=kept, dropped=dropped, invalid=invalid, extra={"copies": 7})
    if error:
        with pytest.raises(HeadwaterError, match="do not close"):
            counts.check()
    else:
        counts.check()


@pytest.mark.parametrize("field", [{"read": -1, "kept": 0}, {"read": 0, "kept": 0, "dropped": {"x": -1}}])
def test_negative_counts_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Counts.model_validate(field)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Counts.model_validate({"read": 0, "kept": 0, "lost": 0})


def write_tree(folder: Path, tree: dict[str, bytes]) -> None:
    for number, (name, data) in enumerate(tree.items()):
        path = folder / (f"sub{number % 2}/{name}" if number else name)
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(data)


@settings(max_examples=40, deadline=None)
@given(tree=TREES)
def test_a_folder_verifies_against_its_own_entries(tree: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tree(folder, tree)
        entries = describe_folder(folder)
        assert [e.path for e in entries] == sorted((e.path for e in entries), key=str.encode)
        assert len(entries) == len(tree)
        assert verify_entries(folder, entries).empty
        assert diff_entries(entries, describe_folder(folder)).empty


@settings(max_examples=60, deadline=None)
@given(tree=TREES, data=st.data())
def test_one_change_is_named_and_nothing_else(tree: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tree(folder, tree)
        old = describe_folder(folder)
        victim = data.draw(st.sampled_from(old)).path
        how = data.draw(st.sampled_from(["change", "same size", "remove", "link", "add"]))
        path = folder / victim
        if how == "change" or (how == "same size" and path.stat().st_size == 0):
            path.write_bytes(path.read_bytes() + b"!")
            wanted = ([], [], [victim])
        elif how == "same size":
            path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
            wanted = ([], [], [victim])
        elif how == "remove":
            path.unlink()
            wanted = ([], [victim], [])
        elif how == "link":
            path.rename(folder.parent / f"{folder.name}-moved")
            path.symlink_to(folder.parent / f"{folder.name}-moved")
            wanted = ([], [victim], [])
        else:
            (folder / "added file").write_bytes(b"")
            wanted = (["added file"], [], [])
        found = verify_entries(folder, old)
        if how == "link":
            assert victim in found.removed
            (folder.parent / f"{folder.name}-moved").unlink()
            return
        assert (found.added, found.removed, found.changed) == wanted
        again = diff_entries(old, describe_folder(folder))
        assert (again.added, again.removed, again.changed) == wanted


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../b", "a//b", "./a", "", "a/", "a\\b", "a\0b", ".."])
def test_paths_that_leave_the_folder_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="unsafe path"):
        safe_relative(path)
    entry = FileEntry(path=path, size_bytes=0, sha256="0" * 64)
    with pytest.raises(IntegrityError):
        verify_entries(tmp_path, [entry])


def test_a_link_in_a_folder_is_refused(tmp_path: Path) -> None:
    os.symlink("nowhere", tmp_path / "link")
    with pytest.raises(IntegrityError, match="symbolic links"):
        describe_folder(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        verify_entries(tmp_path / "none", [])


def test_our_own_sidecars_are_not_part_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / ".headwater").mkdir()
    (tmp_path / ".headwater" / "digests.json").write_text("{}")
    (tmp_path / "data").write_bytes(b"1")
    entries = describe_folder(tmp_path)
    assert [entry.path for entry in entries] == ["data"]
    assert verify_entries(tmp_path, entries).empty


def test_the_id_of_a_manifest_is_that_of_its_content() -> None:
    entry = FileEntry(path="a", size_bytes=1, sha256="0" * 64)
    one = Manifest(entries=[entry])
    assert one.id == Manifest.model_validate_json(one.model_dump_json()).id
    assert one.id != Manifest(entries=[entry], parents=["1" * 64]).id
