"""`headwater train`: everything that cannot go well is told before any time is spent, with the code that says whose turn it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from headwater.files import locked
from tests.conftest import clean_environment
from tests.faults.kit import Done, run, temporaries
from tests.train.kit import add, picture, write_recipe, write_shards


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("command")
    write_shards(here / "shards")
    write_recipe(here / "tiny.yaml")
    return here


@pytest.fixture
def here(shared: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with the shared shards and recipe."""
    (tmp_path / "shards").symlink_to(shared / "shards")
    (tmp_path / "tiny.yaml").symlink_to(shared / "tiny.yaml")
    return tmp_path


def train(here: Path, *more: object, recipe: object = None, data: object = None) -> Done:
    """In this process; what fails here fails before the training process starts."""
    paths = ["--recipe", recipe or here / "tiny.yaml", "--data", data or here / "shards", "-o", here / "run"]
    done = run("train", *paths, "--device", "cpu", *more)
    assert not (here / "run").exists() and temporaries(here) == []
    return done


USAGE: list[tuple[list[object], str]] = [
    (["--seed", -1], "--seed -1: must be from 0 to 2,147,483,647"),
    (["--seed", 2**31], "must be from 0 to"),
    (["--seed", "one"], "--seed"),
    (["--workers", 0], "--workers"),
    (["--threads", 0], "--threads 0: must be 1 or more"),
    (["--processes", 0], "--processes 0: must be 1 or more"),
    (["--processes", 3], "a global batch of 16 cannot be divided over 3 processes x 1 accumulation steps"),
    (["--accumulation", -2], "--accumulation -2: must be 1 or more"),
    (
        ["--micro-batch", 5],
        "micro batch 5 x 1 processes x 1 accumulation steps = 5, and the recipe's global batch is 16",
    ),
    (
        ["--micro-batch", 8, "--processes", 2, "--accumulation", 2],
        "= 32, and the recipe's global batch is 16",
    ),
    (["--override", "numerics.precision=amp"], "precision amp is float16 with loss scaling, for GPUs"),
    (["--override", "optim.speed=3"], "the recipe has no field 'optim.speed'"),
    (["--override", "optim.lr=fast"], "optim.lr"),
    (["--override", "budget.samples_seen=100"], "100 samples are not 3 parts of whole batches"),
    (["--device", "tpu"], "--device tpu: auto, cpu or cuda"),
]


@pytest.mark.parametrize(("options", "words"), USAGE, ids=lambda value: str(value)[:40])
def test_what_cannot_be_asked_for(options: list[object], words: str, here: Path) -> None:
    done = train(here, *options)
    assert done.code == 2 and words in done.err, done


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU")
def test_a_gpu_that_is_not_there(here: Path) -> None:
    done = train(here, "--device", "cuda")
    assert done.code == 2 and "no NVIDIA driver" in done.err


@pytest.mark.parametrize("what", ["recipe", "data", "folder"])
def test_what_is_not_there(what: str, here: Path) -> None:
    if what == "folder":
        done = run(
            "train", "--recipe", here / "tiny.yaml", "--data", here / "shards", "-o", here / "no" / "run"
        )
    else:
        done = train(here, **{what: here / "nothing.yaml"})  # type: ignore[arg-type]
    assert done.code == 10 and ("nothing.yaml" in done.err or "no such folder" in done.err), done


def test_a_recipe_of_no_such_name_names_the_nearest(here: Path) -> None:
    done = train(here, recipe="clip-smal")
    assert done.code == 2 and "clip-small" in done.err


def bombs() -> dict[str, str]:
    """Recipes by people who mean no good."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]" for n in range(12)]
    return {
        "code": "!!python/object/apply:os.mkdir [made]",
        "code in a field": "format: recipe/1\nname: !!python/name:os.system ''",
        "aliases": "\n".join(lines),
        "depth": "[" * 20_000,
        "list": "- 1\n- 2",
        "empty": "",
        "no YAML": "a: b: c: {",
        "NUL": "format: \0",
        "other format": "format: rule/1\nname: x\nkeep: []",
        "twice": "format: recipe/1\nformat: recipe/1",
    }


@pytest.mark.parametrize("name", bombs())
def test_hostile_recipes_are_refused(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    (here / "bad.yaml").write_text(bombs()[name])
    done = train(here, recipe=here / "bad.yaml")
    assert done.code == 2 and "bad.yaml" in done.err, done
    assert not (here / "made").exists() and len(done.err) < 2_000


HOSTILE: list[dict[str, Any]] = [
    {"budget.samples_seen": 10**30},
    {"budget.global_batch": 0},
    {"budget.checkpoints": 10**6},
    {"optim.lr": float("nan")},
    {"optim.lr": -1.0},
    {"optim.lr": True},
    {"preprocess.size": 64},
    {"preprocess.crop_scale": [0.9, 0.1]},
    {"sampling.streams": 0},
    {"name": "../../x"},
    {"surprise": 1},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_recipes_that_cannot_be_are_refused(changes: dict[str, Any], here: Path) -> None:
    write_recipe(here / "bad.yaml", **changes)
    done = train(here, recipe=here / "bad.yaml")
    assert done.code == 2 and next(iter(changes)).split(".")[0] in done.err, done


# the shards


def test_fewer_shards_than_the_recipe_wants(here: Path) -> None:
    write_recipe(here / "more.yaml", **{"data_contract.min_shards": 3})
    done = train(here, recipe=here / "more.yaml")
    assert done.code != 0 and "2" in done.err and "3" in done.err and "shards" in done.err, done


def test_fewer_shards_than_streams_when_every_shard_is_drawn_once(here: Path) -> None:
    write_recipe(here / "once.yaml", **{"sampling.mode": "shuffled", "sampling.streams": 4})
    done = train(here, recipe=here / "once.yaml")
    assert done.code != 0 and "2 shards" in done.err, done


def tar(folder: Path, members: list[tuple[str, bytes]]) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            add(archive, name, data)
    return folder


def test_a_tar_whose_samples_are_torn_apart(here: Path) -> None:
    numbers = range(40)
    pictures = [(f"{n:03d}.png", picture(n)[0]) for n in numbers]
    captions = [(f"{n:03d}.txt", picture(n)[1].encode()) for n in numbers]
    done = train(here, data=tar(here / "torn", pictures + captions))
    assert done.code == 13 and "a.tar" in done.err, done
    again = train(here, "--allow-invalid", data=here / "torn")
    assert again.code != 0, "nothing is left to train on"


def test_samples_without_captions(here: Path) -> None:
    members = []
    for n in range(40):
        members.append((f"{n:03d}.png", picture(n)[0]))
        if n % 10:
            members.append((f"{n:03d}.txt", picture(n)[1].encode()))
    done = train(here, data=tar(here / "bare", members))
    assert done.code == 3 and "4 samples without a caption" in done.err and "--allow-invalid" in done.err, (
        done
    )
    allowed = train(here, "--allow-invalid", "--dry-run", "--json", data=here / "bare")
    assert allowed.code == 0 and json.loads(allowed.out)["usable_samples"] == 36, allowed


def test_pictures_that_cannot_be_decoded(here: Path) -> None:
    members = []
    for n in range(40):
        data = picture(n)[0]
        members += [(f"{n:03d}.png", data[:90] if n == 7 else data), (f"{n:03d}.txt", picture(n)[1].encode())]
    done = train(here, data=tar(here / "cut", members))
    assert done.code == 3 and "a.tar: 007" in done.err, done


def test_a_folder_without_tars(here: Path) -> None:
    (here / "empty").mkdir()
    done = train(here, data=here / "empty")
    assert done.code in (2, 10) and "empty" in done.err, done


# the output


def test_a_folder_that_is_not_ours_is_left_alone(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run" / "thesis.txt").write_text("precious")
    for more in ([], ["--force"]):
        done = run(
            "train",
            "--recipe",
            here / "tiny.yaml",
            "--data",
            here / "shards",
            "-o",
            here / "run",
            "--device",
            "cpu",
            *more,
        )
        assert done.code == 2 and "exists and has no record of how it was made" in done.err
    assert (here / "run" / "thesis.txt").read_text() == "precious"


def test_two_commands_at_once(here: Path) -> None:
    with locked(here / ".run.headwater", here / "run"):
        done = run(
            "train",
            "--recipe",
            here / "tiny.yaml",
            "--data",
            here / "shards",
            "-o",
            here / "run",
            "--device",
            "cpu",
        )
    assert done.code == 11 and "another process is writing it" in done.err


# the plan


def test_a_dry_run_tells_what_would_be_done(here: Path) -> None:
    done = train(here, "--dry-run", "--json")
    facts = json.loads(done.out)
    assert done.code == 0
    assert (facts["shards"], facts["usable_samples"], facts["steps"], facts["samples_seen"]) == (
        2,
        64,
        12,
        192,
    )
    assert facts["conforming"] is True and facts["repeats_per_sample"] == 3.0
    changed = json.loads(train(here, "--dry-run", "--json", "--override", "optim.lr=0.002").out)
    assert changed["conforming"] is False and changed["recipe_id"] == facts["recipe_id"]
    assert changed["key"] != facts["key"]
    allowed = train(here, "--dry-run", "--json", "--override", "numerics.grad_checkpointing=true")
    assert json.loads(allowed.out)["conforming"] is True


def test_what_decides_the_bytes_is_in_the_key_and_nothing_else(here: Path) -> None:
    def key(*more: object) -> str:
        return str(json.loads(train(here, "--dry-run", "--json", "--threads", 1, *more).out)["key"])

    base = key()
    assert base == key("--workers", 2) == key("--seed", 0)
    others = [key("--seed", 1), key("--threads", 2), key("--accumulation", 2), key("--processes", 2)]
    assert len({base, *others}) == 5


def test_a_dry_run_loads_no_torch(here: Path) -> None:
    """It should answer in a moment, also where torch is not installed."""
    words = [
        "train",
        "--recipe",
        here / "tiny.yaml",
        "--data",
        here / "shards",
        "-o",
        here / "run",
        "--dry-run",
    ]
    script = (
        "import sys; from headwater.cli import cli; from headwater.options import run_command; "
        f"code = run_command(cli, {[str(word) for word in words]!r}); "
        "sys.exit(code or 10 * bool({'torch', 'open_clip'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(
        command, env=clean_environment(here), cwd=here, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done
    assert "would train tiny" in done.stdout


def test_without_the_extra_it_says_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    done = train(here)
    assert done.code == 4 and "pip install 'headwater[train]'" in done.err
