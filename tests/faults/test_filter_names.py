"""Names that look like patterns, options or code (row 33 of the catalogue)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import kit

# row 33

NAMES = [
    "a*b'[0]",
    "two\nlines",
    "'; drop table pool; --",
    "%s {0} $HOME",
    'quo"te',
    "-o",
    "~",
    "日本",
    "a.parquet",
    "..pool",
    "x" * 200,
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_row_33_names_of_pools_outputs_and_rules_are_names(name: str, tmp_path: Path) -> None:
    decoy = kit.write_pool(tmp_path / "aXb'0", [kit.rows(range(500, 700))])  # what a pattern would match
    pool = kit.three_shards(tmp_path / name)
    assert decoy.is_dir()
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / f"{name}.npy"
    rule = kit.rule_file(tmp_path / "out", name=f"{name}.yaml")
    done = kit.run(
        "filter-pool", pool, "-o", output, "--rule", rule, "--reasons", tmp_path / "out" / f"{name}.why"
    )
    assert done.code == 0, done
    step = kit.closes(output)
    assert step.identity.counts.read == 90
    assert pq.read_metadata(tmp_path / "out" / f"{name}.why").num_rows == 90
    assert kit.run("pool", "index", pool).code == 0
    done = kit.run("filter-pool", pool, "-o", output, "--rule", rule, "--force")
    assert done.code == 0 and kit.record(output).identity == step.identity
    told = kit.run("explain", output, kit.words(output)[0])
    assert told.code == 0 and " kept" in told.out, told
    both = kit.run("subset", "union", output, output, "-o", tmp_path / "out" / f"{name}.union")
    assert both.code == 0, both
    assert kit.names(tmp_path / "out") == {
        f"{name}{end}" for end in (".npy", ".npy.step.json", ".yaml", ".why", ".union", ".union.step.json")
    }


def test_row_33_names_of_shards_are_names(tmp_path: Path) -> None:
    tables = {
        name: kit.rows(range(30 * n, 30 * n + 30))
        for n, name in enumerate(("a*b'[0]", "two\nlines", "-x", "%d"))
    }
    odd, even = (
        kit.write_pool(tmp_path / "odd", tables),
        kit.write_pool(tmp_path / "even", list(tables.values())),
    )
    rule = kit.rule_file(tmp_path)
    for pool in (odd, even):
        assert kit.run("filter-pool", pool, "-o", tmp_path / f"{pool.name}.npy", "--rule", rule).code == 0
    assert (tmp_path / "odd.npy").read_bytes() == (tmp_path / "even.npy").read_bytes()
    assert kit.run("pool", "index", odd).code == 0
    done = kit.run("filter-pool", odd, "-o", tmp_path / "odd.npy", "--rule", rule, "--force")
    assert done.code == 0
    assert (tmp_path / "odd.npy").read_bytes() == (tmp_path / "even.npy").read_bytes()
    scored = kit.run("score", "caption", odd)
    assert scored.code == 0 and "120 of 120" in scored.out


COLUMNS = [
    "'; drop table pool; --",
    'two"quotes',
    "new\nline",
    "a.b",
    "select",
    "%s",
    "*",
    "k0",
    "uid_hi",
    "row",
    "shard",
    "é",
    " ",
]


@pytest.mark.parametrize("name", COLUMNS, ids=range(len(COLUMNS)))
def test_row_33_names_of_columns_are_names(name: str, tmp_path: Path) -> None:
    plain = kit.write_pool(tmp_path / "plain", [kit.rows(range(30), score=pa.array(np.arange(30) % 7))])
    table = kit.rows(range(30), **{name: pa.array(np.arange(30) % 7)})
    odd = kit.write_pool(tmp_path / "odd", [table])

    def clauses(column: str) -> tuple[str, ...]:
        quoted = '"' + column.replace('"', '""') + '"'
        in_yaml = '"' + column.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        sql = '"' + f"{quoted} >= 2".replace('"', '\\"').replace("\n", "\\n") + '"'
        return (
            f"{{id: cut, sql: {sql}}}", f"{{id: some, in: {{column: {in_yaml}, values: [2, 3, 4, 6]}}}}",
            f"{{id: best, top: {{column: {in_yaml}, fraction: 0.9}}}}",
            f"{{id: once, dedup: {{by: [{in_yaml}], at_most: 2, order: {{{in_yaml}: desc}}}}}}",
            f"{{id: k, exact_k: {{column: {in_yaml}, k: 5}}}}",
        )  # fmt: skip

    for pool, column in ((plain, "score"), (odd, name)):
        rule = kit.rule_file(tmp_path, *clauses(column), name=f"{pool.name}.yaml")
        done = kit.run("filter-pool", pool, "-o", tmp_path / f"{pool.name}.npy", "--rule", rule)
        assert done.code == 0, done
    assert (tmp_path / "odd.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()
    assert len(kit.words(tmp_path / "plain.npy")) == 5
    a, b = (kit.record(tmp_path / f"{p}.npy").identity.counts for p in ("odd", "plain"))
    assert a == b
