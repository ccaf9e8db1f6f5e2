"""run_step: when it works, when it does not, what it refuses, what it records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import pytest

from headwater import steps
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.manifest import Counts, InputRef, identity_id
from headwater.steps import Plan, RunOptions, Work, describe_plan, read_record, record_path, run_step

POOL = InputRef(role="pool", id="1" * 64)


def plan_for(
    output: Path,
    *,
    kind: Literal["file", "folder"] = "file",
    config: dict[str, Any] | None = None,
    inputs: list[InputRef] | None = None,
    resumable: bool = False,
    seed: int | None = None,
) -> Plan:
    return Plan(
        step="test",
        version=1,
        config=config or {"a": 1},
        inputs=inputs or [POOL],
        output=output,
        kind=kind,
        seed=seed,
        resumable=resumable,
    )


class Job:
    """A work function that counts its calls."""

    def __init__(self, data: bytes = b"data", counts: Counts | None = None) -> None:
        self.calls = 0
        self.data = data
        self.counts = counts or Counts(read=3, kept=2, dropped={"short": 1})

    def __call__(self, work: Work) -> Counts:
        self.calls += 1
        if work.stage.is_dir():
            (work.stage / "deep").mkdir()
            (work.stage / "deep" / "file").write_bytes(self.data)
        else:
            work.stage.write_bytes(self.data)
        work.details["note"] = "kept"
        return self.counts


def test_a_file_gets_its_record_beside_it_and_nothing_else(tmp_path: Path) -> None:
    outcome = run_step(plan_for(tmp_path / "out"), Job(), RunOptions())
    assert outcome is not None and not outcome.cached
    assert {p.name for p in tmp_path.iterdir()} == {"out", "out.step.json"}
    record = read_record(tmp_path / "out")
    assert record == outcome.step
    assert record is not None
    assert record.id == identity_id(record.identity)
    assert [entry.path for entry in record.identity.outputs] == ["out"]
    assert record.details == {"note": "kept"}
    assert record_path(tmp_path / "out").read_bytes().endswith(b"}\n")


def test_a_folder_gets_its_record_inside(tmp_path: Path) -> None:
    run_step(plan_for(tmp_path / "out", kind="folder"), Job(), RunOptions())
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"deep", "step.json"}
    record = read_record(tmp_path / "out")
    assert record is not None
    assert [entry.path for entry in record.identity.outputs] == ["deep/file"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_same_plan_is_not_worked_twice(kind: Any, tmp_path: Path) -> None:
    job = Job()
    plan = plan_for(tmp_path / "out", kind=kind)
    first = run_step(plan, job, RunOptions())
    second = run_step(plan, job, RunOptions())
    assert job.calls == 1
    assert first is not None and second is not None
    assert second.cached and second.step == first.step


def test_force_works_again_and_gives_the_same_id(tmp_path: Path) -> None:
    job = Job()
    plan = plan_for(tmp_path / "out")
    first = run_step(plan, job, RunOptions())
    second = run_step(plan, job, RunOptions(force=True))
    assert job.calls == 2
    assert first is not None and second is not None
    assert first.step.id == second.step.id and not second.cached


@pytest.mark.parametrize(
    "change",
    [{"config": {"a": 2}}, {"inputs": [InputRef(role="pool", id="2" * 64)]}, {"seed": 7}],
    ids=["config", "input", "seed"],
)
def test_an_output_of_another_plan_is_stale_and_says_so(change: dict[str, Any], tmp_path: Path) -> None:
    run_step(plan_for(tmp_path / "out"), Job(), RunOptions())
    job = Job(b"new")
    with pytest.raises(UsageError, match="from other inputs or options") as told:
        run_step(plan_for(tmp_path / "out", **change), job, RunOptions())
    assert told.value.hint is not None and "--force" in told.value.hint
    assert job.calls == 0 and (tmp_path / "out").read_bytes() == b"data"
    run_step(plan_for(tmp_path / "out", **change), job, RunOptions(force=True))
    assert (tmp_path / "out").read_bytes() == b"new"


def test_something_that_has_no_record_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"precious")
    with pytest.raises(UsageError, match="no record"):
        run_step(plan_for(tmp_path / "out"), Job(), RunOptions())
    assert (tmp_path / "out").read_bytes() == b"precious"


def test_bytes_that_changed_since_are_an_integrity_failure(tmp_path: Path) -> None:
    plan = plan_for(tmp_path / "out")
    run_step(plan, Job(), RunOptions())
    (tmp_path / "out").write_bytes(b"dat4")
    with pytest.raises(IntegrityError, match="not those its record names"):
        run_step(plan, Job(), RunOptions())


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    plan = plan_for(tmp_path / "out")
    run_step(plan, Job(), RunOptions())
    record_path(tmp_path / "out").write_text("{}")
    with pytest.raises(IntegrityError, match=r"out\.step\.json: not a step/1 record"):
        run_step(plan, Job(), RunOptions())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_dry_run_writes_nothing(kind: Any, tmp_path: Path) -> None:
    job = Job()
    plan = plan_for(tmp_path / "out", kind=kind)
    assert run_step(plan, job, RunOptions(dry_run=True)) is None
    assert job.calls == 0 and list(tmp_path.iterdir()) == []
    assert describe_plan(plan)["up_to_date"] is False
    run_step(plan, job, RunOptions())
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert run_step(plan, job, RunOptions(dry_run=True)) is None
    assert describe_plan(plan)["up_to_date"] is True
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_a_dry_run_tells_a_stale_output(tmp_path: Path) -> None:
    run_step(plan_for(tmp_path / "out"), Job(), RunOptions())
    with pytest.raises(UsageError):
        run_step(plan_for(tmp_path / "out", seed=1), Job(), RunOptions(dry_run=True))


def test_counts_that_do_not_close_fail_the_step(tmp_path: Path) -> None:
    job = Job(counts=Counts(read=10, kept=3, dropped={"short": 2}, invalid={"no uid": 4}))
    with pytest.raises(HeadwaterError, match="10 rows read, but 9 accounted for"):
        run_step(plan_for(tmp_path / "out"), job, RunOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_work_function_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def work(job: Work) -> Counts:
        job.stage.write_bytes(b"half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_step(plan_for(tmp_path / "out"), work, RunOptions())
    assert list(tmp_path.iterdir()) == []


def test_finished_parts_are_found_by_the_same_plan_and_dropped_by_another(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def work(job: Work) -> Counts:
        seen.append(sorted(path.name for path in job.parts.iterdir()))
        (job.parts / "one").write_bytes(b"1")
        (job.parts / "two.tmp-1").write_bytes(b"half")
        if len(seen) < 3:
            raise ValueError("stopped")
        job.stage.write_bytes(b"x")
        return Counts(read=0, kept=0)

    for config in ({"a": 1}, {"a": 1}, {"a": 2}):
        plan = plan_for(tmp_path / "out", config=config, resumable=True)
        try:
            run_step(plan, work, RunOptions())
        except ValueError:
            continue
    assert seen == [[], ["one"], []]
    assert {p.name for p in tmp_path.iterdir()} == {"out", "out.step.json"}


def test_a_symbolic_link_in_the_output_is_refused(tmp_path: Path) -> None:
    def work(job: Work) -> Counts:
        os.symlink("/etc/hostname", job.stage / "link")
        return Counts(read=0, kept=0)

    with pytest.raises(HeadwaterError):
        run_step(plan_for(tmp_path / "out", kind="folder"), work, RunOptions())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_never_replaced_by_a_file(force: bool, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_bytes(b"1")
    with pytest.raises(UsageError, match="is a folder"):
        run_step(plan_for(tmp_path / "out"), Job(), RunOptions(force=force))
    assert (tmp_path / "out" / "precious").read_bytes() == b"1"


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run_step(plan_for(tmp_path / "out", kind="folder"), Job(), RunOptions()) is not None


def test_places_that_cannot_hold_an_output(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such folder") as told:
        run_step(plan_for(tmp_path / "no" / "out"), Job(), RunOptions())
    assert told.value.hint == f"mkdir -p {tmp_path / 'no'}"
    with pytest.raises(UsageError):
        run_step(plan_for(Path(".")), Job(), RunOptions())


def test_identity_does_not_depend_on_what_happened_to_be_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_step(
        plan_for(tmp_path / "out", inputs=[POOL, InputRef(role="rule", id="3" * 64)]), Job(), RunOptions()
    )
    monkeypatch.setattr(steps.platform, "node", lambda: "another-host")
    monkeypatch.setattr(steps, "package_versions", lambda: {"duckdb": "9"})
    (tmp_path / "other").mkdir()
    plan = plan_for(tmp_path / "other" / "out", inputs=[InputRef(role="rule", id="3" * 64), POOL])
    second = run_step(plan, Job(), RunOptions(command=("else",), observation={"engine": "serial"}))
    assert first is not None and second is not None
    assert first.step.id == second.step.id and first.step.key == second.step.key
    assert first.step.observation != second.step.observation


def test_identity_depends_on_everything_that_decides_the_result(tmp_path: Path) -> None:
    ids = set()
    for number, (data, counts) in enumerate(
        [
            (b"a", Counts(read=1, kept=1)),
            (b"b", Counts(read=1, kept=1)),
            (b"a", Counts(read=2, kept=1, dropped={"x": 1})),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        outcome = run_step(plan_for(tmp_path / str(number) / "out"), Job(data, counts), RunOptions())
        assert outcome is not None
        ids.add(outcome.step.id)
    assert len(ids) == 3


def test_another_version_makes_another_key(tmp_path: Path) -> None:
    one = plan_for(tmp_path / "out")
    two = Plan(step=one.step, version=2, config=one.config, inputs=one.inputs, output=one.output)
    assert one.key != two.key
