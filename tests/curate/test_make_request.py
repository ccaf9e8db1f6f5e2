"""What is asked for: presets, refusals by name, and what a dry run tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import making
from curate.drawing import Drawer
from curate.make_request import MakeRequest, resolve
from headwater.errors import UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.curate.made_kit import SMALL, make, request


def test_new_start_class_new_classes_and_none_twice(tmp_path: Path) -> None:
    first = Drawer(resolve(request(8)))
    later = Drawer(resolve(request(4, start_class=4)))
    assert [later.record(k) for k in range(4)] == [first.record(k + 4) for k in range(4)]
    assert np.array_equal(later.draw(1, 2).picture.pixels.copy(), first.draw(5, 2).picture.pixels)


def test_perturbed_sets_are_near_one_category() -> None:
    drawer = Drawer(resolve(request(6, perturb=0.05, base=2)))
    base = Drawer(resolve(request(6))).record(2)
    records = [drawer.record(row) for row in range(6)]
    assert len({str(record) for record in records}) > 1
    for record in records:
        assert abs(record["vertex_num"] - base["vertex_num"]) <= 0.05 * base["vertex_num"] + 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"classes": 0}, "--classes is 0: must be between 1 and"),
        ({"classes": -3}, "--classes is -3"),
        ({"classes": 10**30}, "--classes is a number of 100 bits"),
        ({"classes": 2.5}, "--classes is 2.5: must be a whole number"),
        ({"classes": float("nan")}, "--classes is nan"),
        ({"classes": True}, "--classes is True"),
        ({"instances": 0}, "--instances is 0"),
        ({"instances": -1}, "--instances is -1"),
        ({"instances": 10**9}, "--instances is 1,000,000,000"),
        ({"classes": 10**6, "instances": 10**6}, "pictures: more than"),
        ({"classes": 10**4, "instances": 1000, "block_size": 10}, "in blocks of 10 are more than 14,000"),
        ({"block_size": 0}, "--block-size is 0"),
        ({"block_size": -5}, "--block-size is -5"),
        ({"block_size": 10**12}, "--block-size is"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": 2**53}, "--seed is"),
        ({"start_class": -1}, "--start-class is -1"),
        ({"start_class": 2**40}, "--start-class is"),
        ({"order": "random"}, "--order random"),
        ({"stream": "scrpt"}, "--stream scrpt"),
        ({"preset": "launcher-2k"}, "--preset launcher-2k"),
        ({"min_lit": 0.0}, "--min-lit is 0.0"),
        ({"min_lit": float("nan")}, "--min-lit is nan"),
        ({"min_lit": 1}, "--min-lit is 1"),
        ({"min_lit": 0.1, "attempts": 1}, "--attempts is 1"),
        ({"perturb": -0.1}, "--perturb is -0.1"),
        ({"perturb": float("nan")}, "--perturb is nan"),
        ({"perturb": float("inf")}, "--perturb is inf"),
        ({"perturb": 0.1, "base": -1}, "--base is -1"),
        ({"base": 1}, "--base names"),
        ({"processes": 2}, "--processes and --index belong to the reference stream"),
        ({"stream": "reference", "processes": 0}, "--processes is 0"),
        ({"stream": "reference", "processes": -1}, "--processes is -1"),
        ({"stream": "reference", "processes": 10**20}, "--processes is"),
        ({"stream": "reference", "processes": 6}, "the script would draw nothing"),
        ({"stream": "reference", "processes": 2, "index": 2}, "--index 2: with --processes 2"),
        ({"stream": "reference", "seed": 1}, "--seed: the reference stream has its own"),
        ({"stream": "reference", "min_lit": 0.1}, "--min-lit: the reference stream"),
        ({"stream": "reference", "perturb": 0.1}, "--perturb: the reference stream"),
        ({"stream": "reference", "order": "instance"}, "--order instance: the reference stream"),
        ({"parameters": {"image_size": -4}}, "--image-size"),
        ({"parameters": {"line_width": float("nan")}}, "--line-width is nan"),
        ({"parameters": {"line_width": float("inf")}}, "--line-width is inf"),
        ({"parameters": {"perlin_min": "x"}}, "--perlin-min is x"),
        ({"parameters": {"vertex_num_min": 10**40}}, "--vertex-num-min is"),
        ({"parameters": {"vertex_number_min": 1}}, "did you mean 'vertex_num_min'"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    whole = {"parameters": {**SMALL, **given.pop("parameters", {})}, "classes": 5, "instances": 7, **given}
    with pytest.raises(UsageError) as caught:
        making.plan_make(MakeRequest("visualatom", **whole), tmp_path / "out", sink="tar")
    assert said in caught.value.message and caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_loose_files_have_a_limit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too many for loose files") as caught:
        making.plan_make(request(1000, 1000), tmp_path / "out")
    assert "--sink tar" in str(caught.value.hint)
    with pytest.raises(UsageError, match="--sink tra"):
        making.plan_make(request(), tmp_path / "out", sink="tra")


def test_presets_give_what_was_not_given() -> None:
    made = resolve(MakeRequest("visualatom"))
    assert (made.classes, made.instances, made.block_size) == (1000, 1000, 10_000)
    made = resolve(MakeRequest("visualatom", preset="script-21k", instances=3, parameters={"perlin_min": 1}))
    assert (made.classes, made.instances) == (21_000, 3)
    assert made.parameters["perlin_min"] == 1.0 and made.parameters["radius_min"] == 0


@pytest.mark.parametrize("stream", ["indexed", "reference"])
def test_a_dry_run_tells_and_writes_nothing(
    tmp_path: Path, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_METER", "none")
    asked = request(200, 1000, stream=stream)
    plan = making.plan_make(asked, tmp_path / "out", sink="tar")
    facts = making.estimate(plan, Executor("pool", 4))
    assert (facts["pictures"], facts["blocks"], facts["categories"]) == (200_000, 20, 200)
    assert facts["cpu_seconds"] > 0 and facts["wall_seconds"] == facts["cpu_seconds"] / 4
    assert facts["bytes"] > 200_000 * 1024 and facts["energy"] is None and facts["method"] == "modelled"
    assert facts["peak_memory_bytes_of_a_worker"] > 0
    assert making.run_make(plan, executor=Executor("serial"), options=RunOptions(dry_run=True)) is None
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_of_bytes_is_near_what_is_written(tmp_path: Path) -> None:
    asked = request(30, 30)
    plan = making.plan_make(asked, tmp_path / "out", sink="tar", sheet=False)
    facts = making.estimate(plan, Executor("serial"))
    make(tmp_path / "out", asked, sink="tar")
    written = (tmp_path / "out/00000000.tar").stat().st_size
    assert 0.8 < facts["bytes"] / written < 1.25
    drawer = Drawer(plan.generation)
    assert facts["cost"] == round(sum(drawer.cost(row) for row in range(30)) * 30)
