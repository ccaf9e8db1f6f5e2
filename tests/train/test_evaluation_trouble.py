"""An evaluation with trouble: bad pictures, stops, damaged parts, and what else an evaluation must hold up to."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from headwater.errors import BadInputs, HeadwaterError, IntegrityError, MissingInput, UsageError
from headwater.steps import RunOptions
from tests.train import eval_kit as kit
from tests.train.evaluation_kit import TASKS, bytes_of, evaluate, make_root
from train import evaluation
from train._measure import held_out_score, measure
from train.evaldata import FeatureCache, TaskData
from train.evals import family_of, zeroshot
from train.evaluation import check_outcome, examine, plan_eval, run_eval, subject_of
from train.results import read_examples, read_results, summary_lines
from train.suite import Task, load_suite


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "suite")


def test_undecodable_pictures_shrink_n_and_end_with_3(root: Path, tmp_path: Path) -> None:
    samples = kit.colour_samples(30)
    samples[4][1]["png"] = b"rubbish"
    kit.write_set(root / "colours", samples, classnames=tuple(kit.COLOURS), templates=kit.TEMPLATES)
    outcome = evaluate(root, tmp_path / "out", tasks=["colours"])
    line = read_results(outcome.path).line("colours")
    assert line is not None and line.n == 29 and line.invalid == {"picture cannot be decoded": 1}
    counts = outcome.step.identity.counts
    assert (counts.read, counts.kept, counts.invalid) == (30, 29, {"picture cannot be decoded": 1})
    with pytest.raises(BadInputs, match="colours/0-0004"):
        check_outcome(outcome, allow_invalid=False)
    check_outcome(outcome, allow_invalid=True)
    check_outcome(evaluate(root, tmp_path / "good", tasks=["captions"]), allow_invalid=False)


class Stops(kit.ColourModel):
    """Fails when asked for texts of captions: the second task."""

    def encode_texts(self, texts: list[str]) -> Any:
        if "thing 0" in texts[0]:
            raise HeadwaterError("stopped")
        return super().encode_texts(texts)


def test_an_evaluation_that_stopped_goes_on_to_the_same_bytes(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(HeadwaterError, match="stopped"):
        evaluate(root, output, Stops())
    assert not output.exists()
    parts = tmp_path / ".out.headwater/parts"
    assert (parts / "colours.json").is_file() and not (parts / "captions.json").exists()

    class NotAgain(kit.ColourModel):
        def encode_texts(self, texts: list[str]) -> Any:
            assert texts[0] != kit.TEMPLATES[0].replace("{c}", "red") or self.seen_captions
            self.seen_captions |= "thing 0" in texts[0]
            return super().encode_texts(texts)

        seen_captions = False

    resumed = evaluate(root, output, NotAgain())
    clean = evaluate(root, tmp_path / "clean")
    assert bytes_of(output) == bytes_of(clean.path) and resumed.step.id == clean.step.id


@pytest.mark.parametrize("damage", ["examples", "note", "line"])
def test_a_finished_task_that_was_damaged_is_measured_again(root: Path, tmp_path: Path, damage: str) -> None:
    with pytest.raises(HeadwaterError, match="stopped"):
        evaluate(root, tmp_path / "out", Stops())
    parts = tmp_path / ".out.headwater/parts"
    if damage == "examples":
        (parts / "examples/colours.parquet").write_bytes(b"cut")
    elif damage == "note":
        (parts / "colours.json").write_text("{")
    else:
        note = json.loads((parts / "colours.json").read_text())
        note["line"]["task_digest"] = "0" * 64
        (parts / "colours.json").write_text(json.dumps(note))
    evaluate(root, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(evaluate(root, tmp_path / "clean").path)


def test_features_of_a_folder_are_dropped_after_its_last_task(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[str] = []
    monkeypatch.setattr(FeatureCache, "drop", lambda self, folder: dropped.append(folder.name))
    model = kit.ColourModel()
    evaluate(root, tmp_path / "out", model)
    assert dropped == ["captions", "colours"]
    assert model.pictures == 2 * evaluation.BATCH  # one batch a folder, though three tasks


def test_a_checked_set_is_not_looked_at_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(root, tmp_path / "one")

    def never(task: Any, folder: Any) -> None:
        raise AssertionError("looked at again")

    for family in ("zeroshot", "retrieval"):
        object.__setattr__(family_of(family), "check", never)
    try:
        plan_eval(kit.subject(id="d" * 64), load_suite(root), tmp_path / "two")
    finally:
        family_of.cache_clear()


def test_a_family_that_returns_nonsense_is_a_fault_of_ours(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    good = zeroshot.run
    for changes, told in (
        ({"n": 7}, "columns"),
        ({"main_metric": math.nan}, "nan for main_metric"),
        ({"main_metric_name": "other"}, "not 'acc1'"),
    ):
        monkeypatch.setattr(
            zeroshot, "run", lambda *a, c=changes, **k: dataclasses.replace(good(*a, **k), **c)
        )
        family_of.cache_clear()
        with pytest.raises(HeadwaterError, match=told):
            evaluate(root, tmp_path / "out", tasks=["colours"])
        shutil.rmtree(tmp_path / ".out.headwater", ignore_errors=True)
    family_of.cache_clear()


def test_lines_without_a_folder_for_soups(root: Path) -> None:
    suite, digests, _ = examine(load_suite(root), tasks=["colours", "captions"])
    lines = measure(kit.ColourModel(), suite, digests)
    assert [line.key for line in lines] == ["colours", "captions"] and lines[0].main_metric == 1.0
    assert lines[0].examples_sha256 is None
    held_out_score(suite, digests)
    whole, digests, _ = examine(load_suite(root))
    with pytest.raises(UsageError, match="absent gives no figure"):
        held_out_score(whole, digests)


def test_the_table_has_error_n_and_chance_beside_each_figure(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path / "out")
    results = read_results(tmp_path / "out")
    lines = summary_lines(results)
    assert lines[0].split() == ["task", "metric", "value", "±", "error", "n", "chance"]
    assert lines[1].split() == ["Colours", "acc1", "100.00", "%", "0.00", "%", "30", "16.67", "%"]
    assert lines[4].split() == ["Absent", "acc1", "missing", "–", "–"]
    average = next(one for one in results.aggregates if one.of_tasks == 4)
    assert f"list {average.task_list_id[:6]}…; not DataComp's 38" in lines[-1] + lines[-2]


def test_examples_are_plain_columns(root: Path, tmp_path: Path) -> None:
    evaluate(root, tmp_path / "out", tasks=["colours"])
    schema = pq.read_schema(tmp_path / "out/examples/colours.parquet")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types == {
        "index": "int32",
        "key": "string",
        "correct": "bool",
        "label": "int32",
        "predicted": "int32",
        "rank": "int32",
        "score": "float",
    }
    with pytest.raises(MissingInput, match="no such file"):
        read_examples(tmp_path / "out", "captions")
    (tmp_path / "out/examples/colours.parquet").write_bytes(b"cut")
    with pytest.raises(IntegrityError, match="not a Parquet file"):
        read_examples(tmp_path / "out", "colours")


def test_results_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such file"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"format": "result/1"}')
    with pytest.raises(IntegrityError, match="not result/1"):
        read_results(tmp_path)


def test_subjects_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        subject_of(tmp_path / "gone")


@pytest.mark.slow
def test_a_real_model_agrees_with_the_formulas_of_clip_benchmark(tmp_path: Path) -> None:
    """Features, head, top-k and recall as clip-benchmark computes them (torch, its definitions), to four digits."""
    import torch
    import torch.nn.functional as functional

    from tests.train.kit import tiny_run

    tiny_run(tmp_path / "run")
    run = subject_of(tmp_path / "run")
    root = tmp_path / "suite"
    kit.colour_set(root / "colours", n=70)
    kit.caption_set(root / "captions", n=40)
    kit.write_suite(root, [kit.task("colours"), TASKS[1] | {"size": 40}])
    plan = plan_eval(run, load_suite(root), tmp_path / "out")
    assert run_eval(plan, RunOptions(), workers=1) is not None
    results = read_results(tmp_path / "out")

    model: Any = run.load()
    data = TaskData(Task(**kit.task("colours")), root / "colours")
    with torch.inference_mode():
        heads = []
        for name in data.classnames:
            rows = model.model.encode_text(model.tokenizer([t.format(c=name) for t in data.templates]))
            mean = functional.normalize(rows, dim=-1).mean(dim=0)
            heads.append(mean / mean.norm())
        items = [(model.transform(picture), item) for item, picture in data.pictures()]
        features = functional.normalize(
            model.model.encode_image(torch.stack([one for one, _ in items])), dim=-1
        )
        logits = 100.0 * features @ torch.stack(heads, dim=1)
        target = torch.tensor([item.cls for _, item in items])
        hits = logits.topk(5, 1, True, True)[1].eq(target[:, None])
        line = results.line("colours")
        assert line is not None
        assert line.metrics["acc1"] == pytest.approx(hits[:, 0].float().mean().item(), abs=5e-5)
        assert line.metrics["acc5"] == pytest.approx(hits.any(dim=1).float().mean().item(), abs=5e-5)

        data = TaskData(Task(**kit.task("captions")), root / "captions")
        items = [(model.transform(picture), item) for item, picture in data.pictures()]
        images = functional.normalize(
            model.model.encode_image(torch.stack([one for one, _ in items])), dim=-1
        )
        captions = [item.captions[0] for _, item in items if item.captions]
        texts = functional.normalize(model.model.encode_text(model.tokenizer(captions)), dim=-1)
        scores = texts @ images.t()
        line = results.line("captions")
        assert line is not None
        for k in (1, 5, 10):
            for name, table in (("image", scores), ("text", scores.T)):
                recall = (
                    (table.topk(k, dim=1)[1] == torch.arange(40)[:, None]).any(dim=1).float().mean().item()
                )
                assert line.metrics[f"{name}_retrieval_recall@{k}_by_index"] == pytest.approx(
                    recall, abs=5e-5
                )
