"""A training from its command to its run folder: the same bytes for the same inputs and seed, and a true account."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.hashing import digest_file
from tests.faults import kit
from tests.faults.train_kit import NOT_DESCRIBED, content, line, prepare, record, seen, train
from tests.train.kit import write_recipe

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip_train")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def run(here: Path) -> Path:
    """The training that others are compared with."""
    done = train(here, "run")
    assert done.code == 0, done
    return here / "run"


def facts(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def in_process(here: Path, name: str, *more: object) -> kit.Done:
    return kit.run(*line(here, name, *more))


@pytest.mark.timeout(240)
def test_a_run_is_what_its_record_says(here: Path, run: Path) -> None:
    step, told = record(run), facts(run)
    described = {entry.path: entry for entry in step.identity.outputs}
    present = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert present - described.keys() == NOT_DESCRIBED
    assert described.keys() == {
        "run.json",
        "recipe.yaml",
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "seen.parquet",
        "curve.parquet",
        *(f"checkpoints/part_{n}.safetensors" for n in (1, 2, 3)),
    }
    assert all(digest_file(run / path).sha256 == entry.sha256 for path, entry in described.items())
    assert (told["samples_seen"], told["samples_asked"], told["steps"]) == (192, 192, 12)
    assert told["recipe_id"] == told["resolved_id"] and told["conforming"] is True
    assert told["first_loss"] == pytest.approx(np.log(16), abs=0.6) and told["last_loss"] < told["first_loss"]
    assert kit.temporaries(here) == []


@pytest.mark.timeout(240)
def test_the_ledger_closes(run: Path) -> None:
    import pyarrow.parquet as pq

    told, rows = facts(run), seen(run)
    assert sum(row[3] for row in rows) == told["samples_seen"] == 192
    assert len(rows) == 64 == told["usable_samples"]
    assert sum(row[3] > 0 for row in rows) == told["unique_samples"]
    assert sum(told["repeats"].values()) == 64
    assert [(row[0], row[1], row[2]) for row in rows] == [
        (f"{n // 32:08d}.tar", n % 32, f"{n:08d}") for n in range(64)
    ]
    curve = pq.read_table(run / "curve.parquet").to_pydict()
    assert curve["step"] == list(range(1, 13)) and curve["samples"] == [16 * n for n in range(1, 13)]
    assert curve["loss"][0] == pytest.approx(told["first_loss"], rel=1e-5)
    assert record(run).identity.counts.model_dump()["extra"]["steps"] == 12


@pytest.mark.timeout(240)
def test_the_last_checkpoint_is_the_model(run: Path) -> None:
    last = (run / "checkpoints" / "part_3.safetensors").read_bytes()
    assert (run / "open_clip_model.safetensors").read_bytes() == last
    assert (run / "checkpoints" / "part_2.safetensors").read_bytes() != last


@pytest.mark.timeout(240)
def test_nothing_of_this_machine_is_in_the_described_files(here: Path, run: Path) -> None:
    for path in run.rglob("*"):
        if path.is_file() and path.name not in NOT_DESCRIBED:
            data = path.read_bytes()
            assert str(here).encode() not in data, path
            assert re.search(rb"20\d\d-\d\d-\d\dT\d\d:", data) is None, path
    identity = record(run).identity.model_dump_json()
    assert str(here) not in identity and "samples_per_second" not in identity


@pytest.mark.timeout(240)
def test_what_is_there_is_not_trained_again(here: Path, run: Path) -> None:
    before = content(run)
    done = in_process(here, "run")
    assert done.code == 0 and "up to date" in done.err and "(already there)" in done.out
    for more in (["--seed", 1], ["--override", "optim.lr=0.002"], ["--accumulation", 2]):
        other = in_process(here, "run", *more)
        assert other.code == 2 and "made by another run" in other.err, other
    assert content(run) == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_another_place_and_more_loaders_give_the_same_bytes(here: Path, run: Path) -> None:
    """open_clip chooses defaults by words such as vit and coca in names, and Python imports from where it is started."""
    trap = here / "siglip-vit-coca"
    trap.mkdir()
    for name in ("train", "open_clip", "open_clip_train", "torch", "json", "headwater"):
        (trap / f"{name}.py").write_text("raise SystemExit('imported from the working folder')")
    shutil.copytree(here / "shards", trap / "vit-shards")
    shutil.copy(here / "tiny.yaml", trap / "coca.yaml")
    words = ["--recipe", "coca.yaml", "-o", "RN50-vit", "--workers", 2]
    env = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "WORLD_SIZE": "8", "RANK": "5"}
    done = train(here, "unused", *words, data=Path("vit-shards"), cwd=trap, env=env)
    assert done.code == 0, done
    assert content(trap / "RN50-vit") == content(run)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_another_seed_gives_another_model(here: Path, run: Path) -> None:
    assert train(here, "seed", "--seed", 1).code == 0
    mine, other = content(run), content(here / "seed")
    for name in ("open_clip_model.safetensors", "seen.parquet", "curve.parquet", "run.json", "step"):
        assert mine[name] != other[name]
    assert mine["recipe.yaml"] == other["recipe.yaml"]
    assert facts(run)["data_id"] == facts(here / "seed")["data_id"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_accumulation_sees_the_same_samples_and_nearly_the_same_loss(here: Path) -> None:
    """With one stream also each step has the same samples, so only the order of sums differs."""
    from headwater.weights import read_weights

    write_recipe(here / "stream.yaml", **{"sampling.streams": 1})
    options = ["--recipe", here / "stream.yaml"]
    assert train(here, "whole", *options).code == 0
    assert train(here, "halves", *options, "--accumulation", 2).code == 0
    whole, halves = here / "whole", here / "halves"
    assert content(whole)["seen.parquet"] == content(halves)["seen.parquet"]
    first, second = (read_weights(folder / "open_clip_model.safetensors") for folder in (whole, halves))
    assert all(torch.allclose(first[name], second[name], atol=5e-3) for name in first)
    assert facts(whole)["first_loss"] == pytest.approx(facts(halves)["first_loss"], rel=1e-4)
    assert facts(whole)["last_loss"] == pytest.approx(facts(halves)["last_loss"], rel=1e-2)
    assert content(whole)["step"] != content(halves)["step"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bfloat16_with_gradient_checkpoints(here: Path, run: Path) -> None:
    words = ["--override", "numerics.precision=amp_bf16", "--override", "numerics.grad_checkpointing=true"]
    done = train(here, "bf16", *words)
    assert done.code == 0 and "NOT conforming: numerics" in done.out and "precision=amp_bf16" in done.out, (
        done
    )
    told = facts(here / "bf16")
    assert told["overrides"] == {"numerics.precision": "amp_bf16", "numerics.grad_checkpointing": True}
    assert told["conforming"] is False and told["recipe_id"] != told["resolved_id"]
    assert content(here / "bf16")["seen.parquet"] == content(run)["seen.parquet"]
    assert told["first_loss"] == pytest.approx(facts(run)["first_loss"], abs=0.05)
    assert told["first_loss"] != facts(run)["first_loss"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_share_the_batch(here: Path, run: Path) -> None:
    assert train(here, "two", "--processes", 2).code == 0
    told = facts(here / "two")
    assert (told["samples_seen"], told["steps"]) == (192, 12)
    assert (told["placement"]["processes"], told["placement"]["micro_batch"]) == (2, 8)
    assert sum(row[3] for row in seen(here / "two")) == 192
    assert told["first_loss"] == pytest.approx(np.log(16), abs=0.6), "of all 16 pairs, not of a rank's 8"
    assert told["last_loss"] < told["first_loss"]
    # rank 0 draws what the one process drew, half as much of it; rank 1 draws by itself
    assert content(here / "two")["seen.parquet"] != content(run)["seen.parquet"]
    assert train(here, "again", "--processes", 2, "--workers", 2).code == 0
    assert content(here / "again") == content(here / "two")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_set_is_learned_by_heart(here: Path) -> None:
    """64 pairs with 24 captions: pairs of one caption cannot be told apart, so the loss ends above 0, and far below chance."""
    write_recipe(
        here / "heart.yaml",
        **{
            "budget.samples_seen": 16 * 500,
            "budget.checkpoints": 1,
            "keep_checkpoints": False,
            "optim.lr": 2e-3,
        },
    )
    done = train(here, "heart", "--recipe", here / "heart.yaml")
    assert done.code == 0 and "learning" in done.out, done
    told = facts(here / "heart")
    assert told["chance_loss"] == pytest.approx(np.log(16))
    assert told["last_loss"] < 1.2
    assert told["unique_samples"] == 64
    assert not (here / "heart" / "checkpoints").exists()
