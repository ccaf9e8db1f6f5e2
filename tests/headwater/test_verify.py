"""`headwater verify`: what is as recorded passes, everything else is named (fault 93)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from headwater.errors import IntegrityError, MissingInput
from headwater.manifest import Counts, Manifest, Step, describe_folder, identity_id
from headwater.steps import Plan, RunOptions, Work, run_step
from headwater.verify import verify_path


def make(output: Path, kind: Literal["file", "folder"] = "file") -> Step:
    def work(job: Work) -> Counts:
        if kind == "folder":
            (job.stage / "sub").mkdir()
            (job.stage / "a").write_bytes(b"aaaa")
            (job.stage / "sub" / "b").write_bytes(b"bbbb")
        else:
            job.stage.write_bytes(b"data")
        return Counts(read=2, kept=1, dropped={"why": 1})

    outcome = run_step(
        Plan(step="t", version=1, config={}, inputs=[], output=output, kind=kind), work, RunOptions()
    )
    assert outcome is not None
    return outcome.step


def manifest(folder: Path) -> Path:
    folder.mkdir()
    (folder / "sub").mkdir()
    (folder / "a").write_bytes(b"aaaa")
    (folder / "sub" / "b").write_bytes(b"bbbb")
    (folder / "manifest.json").write_text(Manifest(entries=describe_folder(folder)).model_dump_json())
    return folder


def problems(path: Path) -> str:
    with pytest.raises(IntegrityError) as told:
        verify_path(path).as_result()
    assert told.value.exit_code == 13
    return told.value.message


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_output_is_as_recorded(kind: Any, tmp_path: Path) -> None:
    step = make(tmp_path / "out", kind)
    result = verify_path(tmp_path / "out").as_result()
    assert result["ok"] and result["records"][0]["id"] == step.id
    assert result["files"] == len(step.identity.outputs)
    assert verify_path(tmp_path).as_result()["ok"]  # found below a folder that has no record itself


def test_a_manifest_is_as_recorded(tmp_path: Path) -> None:
    result = verify_path(manifest(tmp_path / "m")).as_result()
    assert result["files"] == 2 and result["size_bytes"] == 8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: (f / "a").write_bytes(b"aaab"), "a: sha256"),
        (lambda f: (f / "a").write_bytes(b"aaaaa"), "a: 5 bytes, recorded are 4"),
        (lambda f: (f / "sub" / "b").unlink(), "b: missing"),
        (lambda f: (f / "extra").write_bytes(b""), "extra: not named"),
        (lambda f: (f / "sub" / "link").symlink_to("/etc"), "link: not named"),
        (
            lambda f: ((f / "sub").rename(f.parent / "moved"), (f / "sub").symlink_to(f.parent / "moved")),
            "b: missing",
        ),
        (
            lambda f: (
                (f / "a").rename(f / "t"),
                (f / "sub/b").rename(f / "a"),
                (f / "t").rename(f / "sub/b"),
            ),
            "a: sha256",
        ),
    ],
    ids=["bit", "size", "missing", "extra", "link", "folder became a link", "swapped"],
)
@pytest.mark.parametrize("how", ["step", "manifest"])
def test_each_difference_is_named(
    how: str, change: Callable[[Path], Any], named: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    if how == "step":
        make(folder, "folder")
    else:
        manifest(folder)
    change(folder)
    assert named in problems(folder)


def test_all_differences_are_named_at_once(tmp_path: Path) -> None:
    folder = manifest(tmp_path / "m")
    (folder / "a").write_bytes(b"aaab")
    (folder / "sub" / "b").write_bytes(b"bbbc")
    message = problems(folder)
    assert message.startswith("4 problems:") and "a: sha256" in message and "b: blake3" in message


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d["identity"].update(seed=5), "its id is not that of its identity"),
        (lambda d: d["identity"]["config"].update(x=1), "its key is not that of its identity"),
        (lambda d: d.update(id="0" * 64), "its id is not"),
        (lambda d: d["identity"]["counts"].update(kept=5), "do not close"),
        (lambda d: d["identity"]["outputs"][0].update(sha256="0" * 64), "sha256 is"),
        (lambda d: d["identity"]["outputs"][0].update(path="../out"), "unsafe path"),
        (lambda d: d["identity"]["outputs"][0].update(path="other"), "does not name the file"),
        (lambda d: d.update(surprise=1), "not a step/1 record"),
        (lambda d: d.update(format="step/2"), "not a step/1 record"),
    ],
)
def test_a_record_that_was_edited_is_told(
    change: Callable[[dict[str, Any]], None], named: str, tmp_path: Path
) -> None:
    make(tmp_path / "out")
    edit(tmp_path / "out.step.json", change)
    assert named in problems(tmp_path / "out")


def test_what_is_outside_the_identity_may_differ(tmp_path: Path) -> None:
    step = make(tmp_path / "out")
    edit(tmp_path / "out.step.json", lambda d: d["observation"].update(host="elsewhere"))
    assert (
        verify_path(tmp_path / "out").as_result()["records"][0]["id"] == step.id == identity_id(step.identity)
    )


def test_a_manifest_that_names_another_step(tmp_path: Path) -> None:
    make(tmp_path / "out", "folder")
    entries = describe_folder(tmp_path / "out", skip=frozenset({"step.json"}))
    document = Manifest(entries=entries, step_id="0" * 64).model_dump_json()
    (tmp_path / "out" / "manifest.json").write_text(document)
    assert "names step 000000000000" in problems(tmp_path / "out")


@pytest.mark.parametrize("order", ["reversed", "twice"])
def test_entries_out_of_order_are_told(order: str, tmp_path: Path) -> None:
    folder = manifest(tmp_path / "m")

    def change(document: dict[str, Any]) -> None:
        entries = document["entries"]
        document["entries"] = entries[::-1] if order == "reversed" else [*entries, entries[-1]]

    edit(folder / "manifest.json", change)
    assert "not sorted by path, or one occurs twice" in problems(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b"null"])
def test_a_record_that_is_no_record(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    (tmp_path / "out.step.json").write_bytes(content)
    assert "not a step/1 record" in problems(tmp_path / "out")


def test_nothing_that_describes_it(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    for path in (tmp_path / "out", tmp_path):
        with pytest.raises(MissingInput, match="no step record"):
            verify_path(path)
    with pytest.raises(MissingInput, match="no such file"):
        verify_path(tmp_path / "none")


def test_the_command(tmp_path: Path, cli: Any) -> None:
    make(tmp_path / "out", "folder")
    done = cli("verify", tmp_path / "out", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["ok"] is True
    os.truncate(tmp_path / "out" / "a", 1)
    done = cli("verify", tmp_path / "out")
    assert done.returncode == 13 and "a: 1 bytes, recorded are 4" in done.stderr and done.stdout == ""
