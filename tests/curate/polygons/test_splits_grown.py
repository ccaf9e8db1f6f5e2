"""Membership that stays when a dataset grows: properties over images, rules and the order of everything."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.polygons.splits import Assignment, SplitFile, assign
from curate.polygons.store import Annotations
from headwater.config import validate
from tests.curate.polygons.split_kit import dataset

HEAD = {"format": "split/1", "name": "t", "splits": ["train", "vali", "test"]}


def file(*rules: Any, **more: Any) -> SplitFile:
    return validate(SplitFile, {**HEAD, "rules": list(rules), **more}, "t.yaml")


GROUPS = st.sampled_from([None, "a", "b", "c", 4])
IMAGES = st.fixed_dictionaries(
    {
        "datetime": st.dates(date(2019, 12, 25), date(2020, 1, 9)).map(str) | st.none(),
        "cohort": GROUPS,
        "video": GROUPS,
        "who": st.sampled_from([None, "ann", "bob"]),
    }
)
RULES = st.lists(
    st.sampled_from(
        [
            {"to": "vali", "when": {"ordinal_day": {"divisor": 3}}},
            {"to": "vali", "when": {"time": {"years": [2020]}}},
            {"to": "test", "when": {"in": {"column": "who", "values": ["ann"]}}},
            {"to": "test", "when": {"group": {"values": ["b"]}}},
            {"leave_out": "bob", "when": {"in": {"column": "who", "values": ["bob"]}}},
            {"share": {"of": {"train": 0.3, "vali": 0.3}}},
            {"to": "train", "when": {"not": {"time": {"before": "2020-01-03"}}}},
        ]
    ),
    max_size=4,
)
KEYS = ["cohort", "video", "who", "datetime"]


def grown_by(
    old: list[dict[str, Any]], new: list[dict[str, Any]], order: st.DataObject
) -> tuple[Annotations, Annotations, Any]:
    """(before, after, row after of each row before): new images among the old ones, in any order."""
    old = [{**image, "file_name": f"old {row}"} for row, image in enumerate(old)]
    new = [{**image, "file_name": f"new {row}"} for row, image in enumerate(new)]
    both = order.draw(st.permutations(old + new))
    place = {image["file_name"]: row for row, image in enumerate(both)}
    return dataset(old), dataset(both), [place[image["file_name"]] for image in old]


LISTS = (st.lists(IMAGES, max_size=8), st.lists(IMAGES, max_size=6), RULES, st.sampled_from([None, "train"]))


def check_closed(found: Assignment, images: int) -> None:
    counts = found.counts()
    assert counts.read == images == counts.kept + sum(counts.dropped.values()) + sum(counts.invalid.values())
    rows = np.concatenate([*found.rows.values(), *found.left_out.values()])
    assert sorted(rows.tolist()) == list(range(images))


@settings(deadline=None)
@given(*LISTS, st.data())
def test_without_groups_no_image_ever_moves(
    old: list[Any], new: list[Any], rules: list[Any], rest: str | None, order: st.DataObject
) -> None:
    before, after, rows = grown_by(old, new, order)
    split_file = file(*rules, rest=rest, optional=KEYS)
    was, now = assign(before, split_file), assign(after, split_file)
    assert was.split.tolist() == now.split[rows].tolist()
    assert was.reasons == [now.reasons[row] for row in rows]
    check_closed(now, len(after.images))


@settings(deadline=None)
@given(*LISTS, st.data())
def test_a_group_by_its_name_never_moves(
    old: list[Any], new: list[Any], rules: list[Any], rest: str | None, order: st.DataObject
) -> None:
    before, after, rows = grown_by(old, new, order)
    plain = [rule for rule in rules if "share" in rule or "group" in rule["when"]]
    split_file = file(*plain, rest=rest, optional=KEYS, groups_by=["cohort"])
    was, now = assign(before, split_file), assign(after, split_file)
    assert was.split.tolist() == now.split[rows].tolist()
    check_together(now, after, ["cohort"])


@settings(deadline=None)
@given(*LISTS, st.data())
def test_a_group_that_grows_later_does_not_move(
    old: list[Any], new: list[Any], rules: list[Any], rest: str | None, order: st.DataObject
) -> None:
    old = [{**image, "datetime": image["datetime"] or "2019-12-25"} for image in old]
    known = {image["cohort"] for image in old}
    new = [
        {**image, "datetime": "2020-02-01" if image["cohort"] in known - {None} else image["datetime"]}
        for image in new
    ]
    before, after, rows = grown_by(old, new, order)
    split_file = file(*rules, rest=rest, optional=KEYS, groups_by=["cohort"])
    was, now = assign(before, split_file), assign(after, split_file)
    assert was.split.tolist() == now.split[rows].tolist()
    check_together(now, after, ["cohort"])


@settings(deadline=None)
@given(*LISTS, st.lists(st.sampled_from(KEYS), max_size=3, unique=True), st.data())
def test_with_the_earlier_membership_no_image_ever_moves(
    old: list[Any], new: list[Any], rules: list[Any], rest: str | None, keys: list[str], order: st.DataObject
) -> None:
    before, after, rows = grown_by(old, new, order)
    split_file = file(*rules, rest=rest, optional=KEYS, groups_by=keys)
    was = assign(before, split_file)
    now = assign(after, split_file, was.table())
    for row, place in zip(rows, was.split.tolist(), strict=True):
        assert place in (-1, now.split[row])  # one that was left out may come in
    check_closed(now, len(after.images))
    again = assign(after, split_file, now.table())
    assert again.split.tolist() == now.split.tolist()
    # what came in lies with its group
    fresh = sorted(set(range(len(after.images))) - set(rows))
    for row in fresh:
        if now.split[row] >= 0:
            mates = [
                n for n in range(len(after.images)) if now.groups[n] == now.groups[row] and now.groups[n]
            ]
            assert {int(now.split[n]) for n in mates} <= {int(now.split[row]), -1}


def check_together(found: Assignment, made: Annotations, keys: list[str]) -> None:
    for key in keys:
        seen: dict[str, int] = {}
        for row, extra in enumerate(made.images["extra"].to_pylist()):
            value = json.loads(extra).get(key) if extra else None
            if value is not None:
                assert seen.setdefault(str(value), int(found.split[row])) == found.split[row]
