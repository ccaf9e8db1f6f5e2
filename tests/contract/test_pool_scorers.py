"""What every scorer of a whole pool must do, whichever file it is in; and what those of pictures must declare."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import curate.scores
from curate.pool import Pool
from curate.pooldata import bind
from curate.scoring import settings_of
from curate.sidecars import ScorerRef
from headwater.errors import HeadwaterError, MissingExtra, MissingInput, UsageError
from headwater.manifest import identity_id
from tests.curate.feature_kit import feature_pool, scored, scored_with_facts, uid_of
from tests.faults.kit import run

FOLDER = Path(curate.scores.__file__).parent
MODULES = {
    path.stem: importlib.import_module(f"curate.scores.{path.stem}")
    for path in sorted(FOLDER.glob("*.py"))
    if not path.stem.startswith("_")
}
WHOLE = [name for name, module in MODULES.items() if getattr(module, "SCOPE", "rows") == "pool"]
PICTURES = [name for name, module in MODULES.items() if getattr(module, "SCOPE", "rows") == "pictures"]
HEAVY = ("torch", "faiss", "onnxruntime", "PIL", "open_clip", "duckdb", "rapidocr", "timm", "cv2")
KINDS = ("int", "float", "str", "bool", "Path | None")
ROWS = 36

# what each setting is here, where its default does not suit a pool of a few rows or a file is needed
SETTINGS: dict[str, Any] = {"k": 4, "clusters": 4, "levels": "6,2", "iterations": 3, "steps": 3, "batch": 8}
FEATURES = {"dedup": "l14_img"}  # arrays that the pool does not have
VOTES = """\
format: votes/1
voters:
  - {name: a, sql: clip_l14_similarity_score >= 0.5}
  - {name: b, sql: clip_b32_similarity_score >= 0.4}
  - {name: c, sql: original_width > 600}
  - {name: d, sql: original_height > 500}
"""


@pytest.fixture(params=WHOLE)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def columns_of(rows: int) -> dict[str, Any]:
    n = np.arange(rows)
    rng = np.random.default_rng(8)
    return {
        "url": pa.array([f"https://images.example/{i % 30}.jpg" for i in n], pa.string()),
        "text": pa.array(
            [f"a red dog number {i % 11} in the snow of {'xyz'[i % 3]}" for i in n], pa.string()
        ),
        "sha256": pa.array([f"{i % 31:064x}" for i in n], pa.string()),
        "original_width": pa.array(200 + 37 * n % 900, pa.int64()),
        "original_height": pa.array(200 + 53 * n % 700, pa.int64()),
        "clip_b32_similarity_score": pa.array(rng.random(rows).astype(np.float32)),
        "clip_l14_similarity_score": pa.array(rng.random(rows).astype(np.float32)),
    }


def arrays_of(rows: int, *, spoiled: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """Crowds of rows, some of them equal; with `spoiled` a zero row and rows of NaN and infinities."""
    rng = np.random.default_rng(9)
    made = {}
    for array, width in (("l14_img", 12), ("l14_txt", 12), ("b32_img", 6), ("b32_txt", 6)):
        middle = rng.normal(size=(4, width))
        values = middle[np.arange(rows) % 4] + 0.4 * rng.normal(size=(rows, width))
        values /= np.linalg.norm(values, axis=1, keepdims=True) if rows else 1
        if rows > 9:
            values[9] = values[5]
        made[array] = values.astype(np.float16)
        if spoiled:
            made[array][3] = 0
            made[array][7, 2] = np.nan
            made[array][8, 1] = np.inf
    return made


def pool_of(folder: Path, rows: int, *, shards: Any = 2, spoiled: bool = False, **more: Any) -> Path:
    arrays = arrays_of(ROWS, spoiled=spoiled)
    arrays = {key: values[:rows] for key, values in arrays.items()}
    columns = {key: value.slice(0, rows) for key, value in columns_of(ROWS).items()}
    uids = [uid_of(i) for i in range(rows)]
    return feature_pool(folder, arrays, columns=columns, uids=uids, shards=shards, **more)


def config_of(name: str, files: Path) -> dict[str, Any]:
    """Settings under which the scorer can run on the pools of this file; skips where it cannot, with what it says."""
    module = MODULES[name]
    if needs_pictures(name):
        pytest.skip(f"{name} reads pictures, and has tests of its own")
    files.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(10)
    target = arrays_of(ROWS)["l14_img"][:5].astype(np.float32) + 0.01 * rng.normal(size=(5, 12)).astype(
        np.float32
    )
    np.save(files / "target.npy", target)
    (files / "entries.txt").write_text("red dog\nsnow\nnumber 3\nsnow of x\n")
    (files / "votes.yaml").write_text(VOTES)
    given: dict[str, Any] = {"target": "target.npy", "entries": "entries.txt", "votes": "votes.yaml"}
    config: dict[str, Any] = {}
    for field in dataclasses.fields(module.Config):
        # a default of 0 lets the scorer choose
        if field.name in SETTINGS and str(field.type) in ("int", "str") and field.default:
            config[field.name] = SETTINGS[field.name]
        if field.name in given:
            config[field.name] = files / given[field.name]
        if field.name == "features":
            config["features"] = FEATURES.get(str(field.default), field.default)
    config.update(getattr(module, "EXAMPLE_CONFIG", {}))
    try:
        module.Scorer(module.Config(**settings_of(name, config)))
    except (UsageError, MissingInput, MissingExtra) as error:
        pytest.skip(f"{name}: {error}; {error.hint}")
    return config


def outputs(name: str, config: dict[str, Any]) -> dict[str, str]:
    return ScorerRef(name, tuple(sorted(settings_of(name, config).items()))).outputs


def needs_pictures(name: str) -> bool:
    return any(field.name == "shards" for field in dataclasses.fields(MODULES[name].Config))


@pytest.mark.parametrize("name", [name for name in WHOLE + PICTURES if needs_pictures(name)])
def test_without_shards_of_pictures_it_says_so(name: str, tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", ROWS)
    with pytest.raises((UsageError, MissingExtra)) as caught:
        scored(pool, name)
    assert caught.value.hint or "shards" in str(caught.value)


@pytest.mark.parametrize("name", WHOLE + PICTURES)
def test_declarations(name: str) -> None:
    module = MODULES[name]
    assert isinstance(module.VERSION, int) and module.VERSION >= 1
    assert module.COST in ("cheap", "costly")
    first_line = (module.__doc__ or "").splitlines()[0]
    assert 20 <= len(first_line) <= 140 and first_line[-1] in ".:;", first_line
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    assert module.Config() == module.Config(), "every field has a default"
    made = module.OUTPUT(module.Config()) if callable(module.OUTPUT) else module.OUTPUT
    assert made
    for kind in made.values():
        pa.type_for_alias(kind)
    assert callable(module.COLUMNS) or isinstance(module.COLUMNS, tuple)
    method = "score_pool" if name in WHOLE else "score_pictures"
    assert callable(getattr(module.Scorer, method))


@pytest.mark.parametrize("name", WHOLE + PICTURES)
def test_each_setting_is_an_option(name: str) -> None:
    for field in dataclasses.fields(MODULES[name].Config):
        where = f"{name}.{field.name}"
        assert str(field.type) in KINDS, where
        told = field.metadata.get("help")
        assert isinstance(told, str) and 3 <= len(told) <= 160, where
        choices = field.metadata.get("choices")
        if choices is not None:
            assert field.default in choices, where
    done = run("score", name, "--help")
    assert done.code == 0
    for field in dataclasses.fields(MODULES[name].Config):
        if field.name != "seed":
            assert f"--{field.name.replace('_', '-')}" in done.out, field.name


def test_no_import_is_heavy(tmp_path: Path) -> None:
    """Every filter run imports the modules to learn their columns."""
    names = ", ".join(f"curate.scores.{stem}" for stem in WHOLE + PICTURES)
    code = f"import sys\nimport {names}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_layout_and_order_change_nothing(name: str, tmp_path: Path) -> None:
    config = config_of(name, tmp_path / "files")
    wanted, facts = scored_with_facts(pool_of(tmp_path / "a", ROWS), name, **config)
    assert wanted.num_rows == ROWS and wanted.column_names == ["uid", *outputs(name, config)]
    assert facts["counts"]["kept"] == ROWS - wanted.column(1).null_count
    order = np.random.default_rng(11).permutation(ROWS)
    names = ["ff", "0a", "7 odd name", "00"]
    again = scored(
        pool_of(tmp_path / "b", ROWS, shards=[5, 0, 20, 11], order=order, names=names), name, **config
    )
    assert again.schema.equals(wanted.schema)
    for column in wanted.column_names:
        assert again[column].to_pylist() == wanted[column].to_pylist(), column


def test_it_answers_the_same_twice_and_within_little_memory(name: str, tmp_path: Path) -> None:
    config = config_of(name, tmp_path / "files")
    pool = pool_of(tmp_path / "pool", ROWS)
    first = scored(pool, name, **config)
    again, facts = scored_with_facts(pool, name, **config)
    assert facts["rows_scored"] == 0 and again.equals(first)
    assert scored(pool, name, force=True, memory_bytes=1 << 20, **config).equals(first)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_pool_of_hardly_any_rows(name: str, tmp_path: Path, rows: int) -> None:
    config = config_of(name, tmp_path / "files")
    for shards in (1, 2):
        made, facts = scored_with_facts(pool_of(tmp_path / f"{shards}", rows, shards=shards), name, **config)
        counts = facts["counts"]
        assert made.num_rows == counts["read"] == rows
        assert counts["kept"] + sum(counts["invalid"].values()) == rows


def test_a_pool_without_shards(name: str, tmp_path: Path) -> None:
    config = config_of(name, tmp_path / "files")
    (tmp_path / "pool").mkdir()
    try:
        made = scored(tmp_path / "pool", name, **config)
    except HeadwaterError:
        return  # such as a column that no shard has
    assert made.num_rows == 0


def test_rows_without_features_are_counted_and_change_no_other(name: str, tmp_path: Path) -> None:
    config = config_of(name, tmp_path / "files")
    made, facts = scored_with_facts(pool_of(tmp_path / "pool", ROWS, spoiled=True), name, **config)
    nulls = [i for i, value in enumerate(made.column(1).to_pylist()) if value is None]
    assert sum(facts["counts"]["invalid"].values()) == len(nulls)
    reads_features = "features" in {field.name for field in dataclasses.fields(MODULES[name].Config)}
    if reads_features:
        assert {3, 7, 8} <= set(nulls)
        assert all(isinstance(reason, str) and reason for reason in facts["counts"]["invalid"])
    for column in made.column_names[1:]:
        if pa.types.is_floating(made.schema.field(column).type):
            assert not np.isnan(made[column].drop_null().to_numpy()).any(), column


def test_other_features_are_another_identity(name: str, tmp_path: Path) -> None:
    config = config_of(name, tmp_path / "files")
    if "features" not in config:
        pytest.skip(f"{name} reads no features")
    ids = []
    for number, spoiled in enumerate((False, False, True)):
        pool = Pool.open(pool_of(tmp_path / f"{number}", ROWS, spoiled=spoiled))
        ref = bind(ScorerRef(name, tuple(sorted(settings_of(name, config).items()))), pool)
        ids.append(identity_id(ref.identity))
    assert ids[0] == ids[1] != ids[2]


def test_where_files_lie_is_no_part_of_the_identity(name: str, tmp_path: Path) -> None:
    ids = []
    for place in ("a", "b"):
        config = config_of(name, tmp_path / place)
        ids.append(identity_id(ScorerRef(name, tuple(sorted(settings_of(name, config).items()))).identity))
    assert ids[0] == ids[1]


def test_an_absent_array_is_named(name: str, tmp_path: Path) -> None:
    config = config_of(name, tmp_path / "files")
    if "features" not in config:
        pytest.skip(f"{name} reads no features")
    pool = pool_of(tmp_path / "pool", ROWS)
    with pytest.raises(MissingInput, match="no features 'l14_imgs'"):
        scored(pool, name, **{**config, "features": "l14_imgs"})
