"""Reshard against what DataComp's resharder wrote for the same tars: every member's name, order, size and content."""

from __future__ import annotations

import csv
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.reshard import ReshardResult, reshard
from curate.shards import list_shards

PATHS = {
    "input_dir",
    "output_dir",
    "subset_file",
    "cwd",
}  # ours are fixed names, the reference's were removed


def run(folder: Path, out: Path, **options: Any) -> ReshardResult:
    limits = {name: options[name] for name in ("first_shard", "num_shards") if name in options}
    shards, notes = list_shards(folder / "input", **limits)
    assert notes == []
    out.mkdir()
    return reshard(shards, np.load(folder / "subset.npy"), out, **options)


def members_of(out: Path) -> list[tuple[str, ...]]:
    rows = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as file:
            for place, info in enumerate(file):
                content = file.extractfile(info)
                assert content is not None
                digest = hashlib.sha256(content.read()).hexdigest()
                rows.append((path.name, str(place), info.name, str(info.size), digest))
                assert (info.mtime, info.mode, info.uid, info.gid, info.uname, info.gname) == (
                    0,
                    0o644,
                    0,
                    0,
                    "",
                    "",
                )
    return rows


def expected_members(run_folder: Path) -> list[tuple[str, ...]]:
    with open(run_folder / "members.csv", newline="") as file:
        return [
            tuple(row[name] for name in ("tar", "position", "name", "size", "sha256"))
            for row in csv.DictReader(file)
        ]


RUNS: list[tuple[str, str, dict[str, Any]]] = [
    ("reshard", "out_j1", {}),
    ("reshard", "out_j1_size100", {"shard_size": 100}),
    ("reshard", "out_j1_first1_n1", {"first_shard": 1, "num_shards": 1}),
    ("reshard_odd", "out_j1", {}),
]


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize(("family", "name", "options"), RUNS)
def test_equal_to_the_reference(
    golden: Path, tmp_path: Path, family: str, name: str, options: dict[str, Any], index: bool
) -> None:
    expected = json.loads((golden / family / name / "result.json").read_text())
    for _ in range(1 + index):  # the second run reads the index instead of the tars
        out = tmp_path / f"out{_}"
        run(golden / family, out, index_dir=tmp_path / "index" if index else None, **options)
        assert members_of(out) == expected_members(golden / family / name)
        meta = json.loads((out / "meta.json").read_text())
        assert list(meta) == expected["meta_key_order"]
        assert {k: v for k, v in meta.items() if k not in PATHS} == {
            k: v for k, v in expected["meta"].items() if k not in PATHS
        }
        stats = {path.name: json.loads(path.read_text()) for path in out.glob("*_stats.json")}
        assert stats == expected["stats"]
        assert (out / "sample_ids.npy").read_bytes() == (golden / family / "subset.npy").read_bytes()
        sizes = json.loads((out / "sizes.json").read_text())
        assert sizes == {k.replace("_stats.json", ".tar"): v["successes"] for k, v in stats.items()}
        assert sorted(path.name for path in out.iterdir()) == sorted([*expected["files"], "sizes.json"])


def test_two_workers_of_the_reference_write_the_same_samples(golden: Path, tmp_path: Path) -> None:
    run(golden / "reshard", tmp_path / "out")
    expected = expected_members(golden / "reshard" / "out_j2")
    # there each worker writes tars of its own; here workers change nothing
    assert sorted(row[2:] for row in members_of(tmp_path / "out")) == sorted(row[2:] for row in expected)
    meta = json.loads((golden / "reshard" / "out_j2" / "result.json").read_text())["meta"]
    mine = json.loads((tmp_path / "out" / "meta.json").read_text())
    differ = {name for name in meta if name not in PATHS and meta[name] != mine[name]}
    assert differ == {"num_workers", "output_shard_count", "worker_success"}


def test_missing_uids_are_a_set_difference(golden: Path, tmp_path: Path) -> None:
    notes = json.loads((golden / "reshard" / "subset_notes.json").read_text())
    result = run(golden / "reshard", tmp_path / "out")
    assert sorted(result.not_found_examples) == sorted(notes["missing_uids"]) and result.not_found == 3
    assert (result.samples_read, result.selected, result.copies) == (900, 270, 278)
    assert result.bad_inputs() is None


def test_what_the_reference_drops_silently_is_listed(golden: Path, tmp_path: Path) -> None:
    # the reference logs these, ends with 0, and says "3 not found" although four uids are missing and one came twice
    result = run(golden / "reshard_odd", tmp_path / "out")
    assert result.invalid == {"bad_json": 1, "no_json": 1, "no_uid": 1}
    assert [(p.key, p.reason) for p in result.problems] == [
        ("000000000002", "no_json"),
        ("000000000008", "bad_json"),
        ("000000000009", "no_uid"),
    ]
    assert (result.samples_read, result.selected, result.not_selected) == (16, 13, 0)
    assert result.not_found == 4 and result.repeated == 1
    assert result.repeated_examples == ("4a37fa2df2d7d40fc7859faeecc3f80c",)
    error = result.bad_inputs()
    assert error is not None and error.exit_code == 3 and "000000000008" in error.message
