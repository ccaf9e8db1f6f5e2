"""DataComp's 38 tasks as data: numbers, groups and names as its evaluation has them, and options that the families take."""

from __future__ import annotations

import pytest

from train._evalcheck import check_options
from train._groupfields import group_fields
from train.aggregate import datacomp_lists, datacomp_random_scores
from train.evals import family_of
from train.suite import load_suite

SUITE = load_suite("datacomp38")
BY_KEY = {task.key: task for task in SUITE.tasks}


def test_forty_entries_of_which_38_have_a_main_metric():
    assert len(SUITE.tasks) == 40
    assert {t.key for t in SUITE.tasks if t.main_metric is None} == {"fairness/fairface", "fairness/utkface"}
    assert sum(task.size for task in SUITE.tasks) == 732_026  # 732 k pictures, as its paper says


def test_main_metrics_are_those_of_the_task_list():
    metrics = [task.main_metric for task in SUITE.tasks]
    assert {name: metrics.count(name) for name in set(metrics)} == {
        None: 2,
        "acc1": 27,
        "mean_per_class_recall": 4,
        "mean_recall@1": 2,
        "jaccard_score_10-12": 1,
        "F1-macro_all": 1,
        "acc_worst_region": 1,
        "acc_top5_wg": 1,
        "acc_wg": 1,
    }
    recall = {t.name for t in SUITE.tasks if t.main_metric == "mean_per_class_recall"}
    assert recall == {"Caltech-101", "FGVC Aircraft", "Oxford Flowers-102", "Oxford-IIIT Pet"}


def test_groups_are_those_of_the_score_tool():
    """Display names as in aggregate_scores.py of DataComp."""
    groups = {name: {BY_KEY[key].name for key in keys} for name, keys in SUITE.groups().items()}
    assert groups["imagenet"] == {"ImageNet 1k"}
    assert groups["shifts"] == {
        "ImageNet Sketch", "ImageNet v2", "ImageNet-A", "ImageNet-O", "ImageNet-R", "ObjectNet",
    }  # fmt: skip
    assert groups["vtab"] == {
        "Caltech-101", "CIFAR-100", "CLEVR Counts", "CLEVR Distance", "Describable Textures", "EuroSAT",
        "KITTI Vehicle Distance", "Oxford Flowers-102", "Oxford-IIIT Pet", "PatchCamelyon", "RESISC45", "SVHN", "SUN397",
    }  # fmt: skip
    assert groups["retrieval"] == {"Flickr", "MSCOCO", "WinoGAViL"}
    assert len(groups["average"]) == 38
    assert set(groups) == set(datacomp_lists()) == {"imagenet", "shifts", "vtab", "retrieval", "average"}


def test_keys_and_folders_are_as_downloaded():
    for key, folder in {
        "imagenet1k": "wds_imagenet1k_test",
        "vtab/caltech101": "wds_vtab-caltech101_test",
        "wilds/camelyon17": "wds_wilds-camelyon17_test",
        "fairness/dollar_street": "wds_dollar_street_test",
        "retrieval/flickr_1k_test_image_text_retrieval": "wds_flickr_1k_test_image_text_retrieval_test",
        "misc/winogavil": "wds_winogavil_test",
    }.items():
        assert BY_KEY[key].folder == folder
    assert len({task.folder for task in SUITE.tasks}) == 40


@pytest.mark.parametrize("key", sorted(BY_KEY))
def test_every_task_has_a_family_that_takes_its_options_and_metric(key):
    task = BY_KEY[key]
    module = __import__(f"train.evals.{task.family}", fromlist=["FAMILY"])
    assert family_of(task.family).name == task.family == module.FAMILY
    if task.family == "groups":
        fields = group_fields(task)
        check_options(task, module.OPTIONS, module._metric_names(task))
        assert fields.k == (5 if task.main_metric == "acc_top5_wg" else 1)
    elif task.family == "winogavil":
        check_options(task, ("candidates",), (module._name(module._sizes(task)),))
    else:
        check_options(task, (), module.METRICS)


def test_random_scores_name_tasks_and_their_metric():
    scores = datacomp_random_scores()
    assert {key for key, task in BY_KEY.items() if task.main_metric} - scores.keys() == {
        "retrieval/flickr_1k_test_image_text_retrieval",
        "retrieval/mscoco_2014_5k_test_image_text_retrieval",
        "fairness/dollar_street",
        "fairness/geode",
    }  # the task list states none for these
    for key, (metric, score) in scores.items():
        assert BY_KEY[key].main_metric == metric
        assert 0 < score <= 0.5 + 1e-5
