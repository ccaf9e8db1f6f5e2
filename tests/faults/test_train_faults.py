"""Trainings that cannot go well: states that lie, ranks that die, losses that run away, disks that are full."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.faults.train_kit import (
    Payload,
    attempts,
    content,
    job,
    left,
    nobody_left,
    prepare,
    record,
    seen,
    train,
)
from tests.train.kit import add, picture, write_recipe
from train._checkpoint import LATEST, finished_parts

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip_train")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def whole(here: Path) -> dict[str, str]:
    done = train(here, "whole")
    assert done.code == 0, done
    return content(here / "whole")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_damaged_state_costs_one_part_of_a_training(here: Path, whole: dict[str, str]) -> None:
    assert train(here, "damaged", fault="engine step - 10 parent:KILL self:KILL").code != 0
    nobody_left(here)
    folder = job(here, "damaged") / "logs" / "run" / "checkpoints"
    assert finished_parts(folder / LATEST) == 2
    hostile = {"epoch": 2, "state_dict": {}, "optimizer": Payload(folder / "ran")}
    torch.save(hostile, folder / LATEST)
    done = train(here, "damaged")
    assert done.code == 0, done
    assert (
        "cannot be used (epoch_latest.pt: is no plain weights: unpickling it would call posix.mkdir"
        in done.err
    )
    assert "going on after part 1" in done.err and not (folder / "ran").exists()
    assert content(here / "damaged") == whole


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_training_that_diverges_names_its_step(here: Path) -> None:
    words = [
        "--override",
        "optim.lr=10.0",
        "--override",
        "optim.weight_decay=10.0",
        "--override",
        "schedule.warmup_steps=0",
    ]
    words += ["--override", "budget.samples_seen=1920"]
    done = train(here, "diverged", *words)
    assert done.code == 1 and not (here / "diverged").exists(), done
    assert "the loss is nan at step" in done.err and "learning rate" in done.err
    assert "a lower optim.lr" in done.err and "Caught" not in done.err
    assert left(here) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_that_dies_ends_the_others_and_the_same_line_goes_on(here: Path) -> None:
    assert train(here, "ranks", "--processes", 2).code == 0
    done = train(here, "dies", "--processes", 2, fault="engine1 step - 6 self:KILL")
    assert done.code == 1 and "SIGKILL" in done.err and not (here / "dies").exists(), done
    nobody_left(here)  # the loaders of the killed rank take some seconds to notice
    assert (job(here, "dies") / "logs/run/checkpoints" / LATEST).exists()
    again = train(here, "dies", "--processes", 2)
    assert again.code == 0 and "going on after part 1" in again.err, again
    assert content(here / "dies") == content(here / "ranks")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ranks_end_with_a_command_that_is_killed(here: Path) -> None:
    """torchrun puts each rank into a session of its own: no signal to a group reaches them."""
    killed = train(here, "lost", "--processes", 2, fault="command open events.jsonl 1 self:KILL")
    assert killed.code != 0
    nobody_left(here)
    stopped = train(here, "stopped", "--processes", 2, fault="command open events.jsonl 1 self:TERM")
    assert stopped.code == 130
    assert left(here) == []


def shards_with_damage(folder: Path) -> Path:
    """Pictures whose damage only a full look shows: the file ends well, and its middle is not a picture."""
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(64):
            data, caption = picture(number)
            if number in (5, 40):
                at = data.index(b"IDAT") + 12
                data = data[:at] + bytes(20) + data[at + 20 :]
            add(archive, f"{number:08d}.png", data)
            add(archive, f"{number:08d}.txt", b"\xff\xfe" if number == 9 else caption.encode())
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pictures_that_fail_are_left_out_counted_and_named(here: Path) -> None:
    data = shards_with_damage(here / "damaged-shards")
    refused = train(here, "bad", data=data)
    assert refused.code == 3 and "nothing was started" in refused.err
    recipe = write_recipe(here / "all.yaml", **{"sampling.mode": "shuffled", "sampling.streams": 1})
    done = train(here, "bad", "--recipe", recipe, "--allow-invalid", data=data)
    assert done.code == 0, done
    told = json.loads((here / "bad" / "run.json").read_text())
    assert told["samples_seen"] == 192 and told["skipped"].keys() <= {"undecodable", "other"}
    assert told["skipped"]["undecodable"] > 0
    examples = {
        (one["shard"], one["key"], one["reason"]) for one in record(here / "bad").details["skipped_examples"]
    }
    assert examples <= {
        ("a.tar", "00000005", "undecodable"),
        ("a.tar", "00000040", "undecodable"),
        ("a.tar", "00000009", "other"),
    }
    assert examples and "skipped while training:" in done.out
    times = {(row[0], row[2]): row[3] for row in seen(here / "bad")}
    assert sum(times.values()) == 192
    assert all((shard, key) not in times or times[shard, key] == 0 for shard, key, _ in examples)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_disk_that_is_full(here: Path, small_disk: Path) -> None:
    done = train(here, "unused", "-o", small_disk / "run")
    assert done.code == 1 and "no space left on the device" in done.err.lower(), done
    assert not (small_disk / "run").exists() and left(here) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_loader_that_dies_ends_the_training_with_a_word(here: Path, whole: dict[str, str]) -> None:
    done = train(here, "loader", fault="engine open 00000001.tar 1 self:KILL")
    assert done.code == 1 and "DataLoader worker" in done.err, done
    nobody_left(here)
    assert not (here / "loader").exists()
    again = train(here, "loader")
    assert again.code == 0 and content(here / "loader") == whole
    assert len(attempts(here / "loader")) == 2


def test_the_damage_of_the_tests_is_one() -> None:
    """What the tests above call damage is found by Pillow only when it decodes."""
    from PIL import Image

    data = picture(5)[0]
    at = data.index(b"IDAT") + 12
    image = Image.open(io.BytesIO(data[:at] + bytes(20) + data[at + 20 :]))
    with pytest.raises(Exception, match=r"."):
        image.load()
