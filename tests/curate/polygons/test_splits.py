"""Splits: every kind of rule, what is refused, counts that close, and membership that stays when a dataset grows."""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curate.polygons import splits
from curate.polygons._split_facts import parse_time
from curate.polygons.splits import TORN, Assignment, SplitFile, assign, load_split, named
from curate.polygons.store import Annotations, concat, digest, pixel_digest
from headwater.config import validate
from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.curate.polygons.split_kit import dataset

HEAD = {"format": "split/1", "name": "t", "splits": ["train", "vali", "test"]}


def file(*rules: Any, **more: Any) -> SplitFile:
    return validate(SplitFile, {**HEAD, "rules": list(rules), **more}, "t.yaml")


def where(found: Assignment) -> list[str | None]:
    """The split of each image."""
    return found.table()["split"].to_pylist()  # type: ignore[no-any-return]


def photos(*days: str, **columns: list[Any]) -> Annotations:
    rows = [{"file_name": f"{row}.jpg", "datetime": day or None} for row, day in enumerate(days)]
    for key, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[key] = value
    return dataset(rows)


SCATSPOTTER = """
format: split/1
name: scatspotter
source: arXiv 2412.16473
splits: [train, vali, test]
groups_by: [cohort]
optional: [contributor]
rules:
  - {id: contributors, to: test, when: {all: [{has: contributor}, {annotated: true}]}}
  - {leave_out: contributor without annotations, when: {has: contributor}}
  - {leave_out: in no group, when: {not: {group: {}}}}
  - {leave_out: group that does not begin with an annotated image, when: {annotated: false}}
  - {id: "2020", to: vali, when: {time: {years: [2020]}}}
  - {id: every third day, to: vali, when: {all: [{time: {years: [2024]}}, {ordinal_day: {divisor: 3}}]}}
  - {id: the rest, to: train, when: {time: {from: 2021-01-01}}}
"""


def test_the_rule_of_scatspotter(tmp_path: Path) -> None:
    path = tmp_path / "split.yaml"
    path.write_text(SCATSPOTTER)
    days = ["2020-12-31", "2021-01-01", *(f"2024-05-0{n}" for n in range(1, 8)), "2025-03-01"]
    rows = []
    for number, day in enumerate(days):
        for moment in ("10:00:00", "10:00:30"):
            rows.append(
                {"file_name": f"{number}{moment}", "datetime": f"{day}T{moment}-05:00", "cohort": number}
            )
    rows.append({"file_name": "lone", "datetime": "2021-02-03T00:00:00"})
    rows.append({"file_name": "theirs", "contributor": "somebody"})
    rows.append({"file_name": "old", "cohort": "z", "datetime": "2019-01-01"})
    rows.append({"file_name": "no dung", "cohort": "y", "datetime": "2022-01-01"})
    firsts = [(2 * number + 1, 4.0) for number in range(len(days))]
    made = dataset(rows, [*firsts, (22, 3.0), (23, 3.0)])
    found = assign(made, load_split(path))
    for number, day in enumerate(days):
        when = date.fromisoformat(day)
        vali = when.year == 2020 or (when.year == 2024 and when.toordinal() % 3 == 0)
        assert where(found)[2 * number : 2 * number + 2] == ["vali" if vali else "train"] * 2, day
    assert where(found)[20:] == [None, "test", None, None]
    assert found.counts().model_dump()["dropped"] == {
        "group that does not begin with an annotated image": 1,
        "in no group": 1,
        "no rule takes it": 1,
    }
    assert found.groups[0] == "cohort=0"
    assert {name: len(part.images) for name, part in found.take(made).items()} == {
        name: len(rows) for name, rows in found.rows.items()
    }


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"time": {"from": "2021-01-01"}}, [1, 2]),
        ({"time": {"before": "2021-01-01T00:00:01"}}, [0, 1]),
        ({"time": {"from": "2020-06-01", "before": "2021-01-02"}}, [0, 1]),
        ({"ordinal_day": {"divisor": 2, "remainders": [1]}}, [1]),
        ({"in": {"column": "who", "values": ["ann", 5]}}, [0, 2]),
        ({"in": {"column": "at.place", "values": ["5"]}}, []),
        ({"in": {"column": "at.place", "values": [5]}}, [1]),
        ({"in": {"column": "folder", "values": ["a/b"]}}, [3]),
        ({"has": "who"}, [0, 2, 3]),
        ({"not": {"has": "who"}}, [1]),
        ({"ids": {"ids": [4], "file_names": ["y"]}}, [1, 3]),
        ({"annotated": True}, [2]),
        ({"any": [{"annotated": True}, {"ids": {"ids": [1]}}]}, [0, 2]),
        ({"all": [{"has": "who"}, {"not": {"annotated": True}}]}, [0, 3]),
        ({"any": [{"time": {"years": [1999]}}, {"has": "who"}]}, [0, 2, 3]),
        ({"all": [{"time": {"years": [2022]}}, {"has": "at"}]}, []),
    ],
)
def test_conditions(condition: dict[str, Any], expected: list[int]) -> None:
    rows: list[dict[str, Any]] = [
        {"file_name": "x", "datetime": "2020:12:31 23:59:59", "who": "ann"},
        {"file_name": "y", "datetime": "2021-01-01T00:00:00.5+14:00", "at": {"place": 5}},
        {"file_name": "z", "datetime": "2022-01-01", "who": 5.0},
        {"file_name": "a/b/c", "datetime": "yesterday", "who": "5"},
    ]
    found = assign(dataset(rows, [(3, 1.0)]), file({"to": "test", "when": condition}))
    assert found.rows["test"].tolist() == expected
    assert found.counts().read == 4


def test_a_time_that_is_not_known_is_no_answer() -> None:
    made = photos("2020-01-01", "", "2021-01-01")
    found = assign(made, file({"id": "old", "to": "vali", "when": {"time": {"years": [2020]}}}, rest="train"))
    assert where(found) == ["vali", None, "train"]
    assert found.counts().model_dump()["invalid"] == {"old: no datetime": 1}
    found = assign(
        made,
        file(
            {"to": "train", "when": {"not": {"has": "datetime"}}},
            {"to": "vali", "when": {"not": {"time": {"years": [2020]}}}},
        ),
    )
    assert where(found) == [None, "train", "vali"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2024-02-29", ("2024-02-29", 0, None)),
        ("2024:02:29 01:02:03", ("2024-02-29", 3_723_000_000, None)),
        ("2024-02-29T01:02:03.25Z", ("2024-02-29", 3_723_250_000, 0)),
        ("2024-02-29T01:02:03,25-0530", ("2024-02-29", 3_723_250_000, -330)),
        ("0001-01-01 00:00", ("0001-01-01", 0, None)),
        ("2023-02-29", None),
        ("2024-02:29", None),
        ("0000:00:00 00:00:00", None),
        ("2024-02-29T24:00", None),
        ("", None),
        (5, None),
        ("2024-02-29 and more", None),
    ],
)
def test_times(text: Any, found: tuple[str, int, int | None] | None) -> None:
    if found is None:
        assert parse_time(text) is None
        return
    day, rest, minutes = found
    local = (date.fromisoformat(day).toordinal() - 1) * 86_400_000_000 + rest
    assert parse_time(text) == (local, None if minutes is None else minutes * 60_000_000)


def test_groups_go_together_over_several_keys() -> None:
    made = photos(
        *("2021-01-01" for _ in range(6)),
        cohort=["a", "a", "b", None, None, "c"],
        video=[None, 1, 1, None, None, "1"],
    )
    found = assign(made, file({"share": {"of": {"train": 0.5, "vali": 0.5}}}, groups_by=["cohort", "video"]))
    assert found.groups == ['cohort="a"'] * 3 + [None, None, 'cohort="c"']
    assert len(set(where(found)[:3])) == 1
    alone = assign(
        made, file({"to": "test", "when": {"group": {"least_images": 3}}}, groups_by=["cohort", "video"])
    )
    assert alone.rows["test"].tolist() == [0, 1, 2]
    valued = assign(
        made, file({"to": "test", "when": {"group": {"values": ["1"]}}}, groups_by=["cohort", "video"])
    )
    assert valued.rows["test"].tolist() == [5]


def test_shares_are_about_right_and_exact_in_their_decimals() -> None:
    made = dataset([{"file_name": f"{n}.jpg"} for n in range(4000)])
    shares = {"train": 0.7, "vali": 0.2, "test": 0.1}
    found = assign(made, file({"share": {"of": shares, "salt": "s"}}))
    assert (found.split >= 0).all()
    for name, share in shares.items():
        assert abs(len(found.rows[name]) / 4000 - share) < 0.03
    other = assign(made, file({"share": {"of": shares, "salt": "t"}}))
    assert (other.split != found.split).mean() > 0.3
    part = assign(made, file({"share": {"of": {"test": 0.1}}}, rest="train"))
    assert 300 < len(part.rows["test"]) < 500
    with pytest.raises(UsageError, match="more than 1"):
        file({"share": {"of": {"train": 0.7, "vali": 0.2, "test": 0.1000001}}})
    keyed = assign(photos("", "", "", who=["a", "a", None]), file({"share": {"of": shares, "key": "who"}}))
    assert where(keyed)[0] == where(keyed)[1] is not None
    assert keyed.counts().invalid == {"rule 1: no who": 1}


def test_the_draw_is_fixed_for_good() -> None:
    """A changed draw would move the images of every dataset that was ever split."""
    made = photos("", "", "", "", "", "", cohort=["a", None, None, "b", None, 7])
    shares = {"share": {"of": {"train": 0.34, "vali": 0.33, "test": 0.33}, "salt": "one"}}
    found = where(assign(made, file(shares, groups_by=["cohort"])))
    keys = ['cohort="a"', '"1.jpg"', '"2.jpg"', 'cohort="b"', '"4.jpg"', "cohort=7"]
    for key, split in zip(keys, found, strict=True):
        part = int(hashlib.sha256(b"one\0" + key.encode()).hexdigest()[:16], 16) / 2**64
        assert split == ("train" if part < 0.34 else "vali" if part < 0.67 else "test")
    assert found == ["test", "vali", "train", "test", "train", "vali"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": [{"to": "trian"}]}, "did you mean 'train'"),
        ({"rest": "valid"}, "did you mean 'vali'"),
        ({"splits": ["train", "train"]}, "named twice"),
        ({"splits": []}, "at least 1"),
        ({"splits": ["a/b"]}, "pattern"),
        ({"splits": ["a_imgs3"]}, "pattern"),
        ({"groups_by": ["a", "a"]}, "twice"),
        ({"rules": [{"to": "train", "leave_out": "x"}]}, "exactly one of to"),
        ({"rules": [{}]}, "exactly one of to"),
        ({"rules": [{"to": "train", "wehn": {}}]}, "did you mean 'when'"),
        ({"rules": [{"to": "train", "when": {}}]}, "this has 0"),
        ({"rules": [{"to": "train", "when": {"has": "a", "annotated": True}}]}, "this has 2"),
        ({"rules": [{"to": "train", "when": {"tiem": {}}}]}, "did you mean 'time'"),
        ({"rules": [{"to": "train", "when": {"time": {}}}]}, "from, before or years"),
        ({"rules": [{"to": "train", "when": {"time": {"from": "2021-01-01Z"}}}]}, "ISO 8601"),
        (
            {"rules": [{"to": "train", "when": {"time": {"from": "2021-01-01T00:00:00Z"}}}]},
            "without an offset",
        ),
        (
            {"rules": [{"to": "train", "when": {"time": {"from": "2021-01-01", "before": "2021-01-01"}}}]},
            "no time",
        ),
        ({"rules": [{"to": "train", "when": {"ordinal_day": {"divisor": 3, "remainders": [3]}}}]}, "below"),
        ({"rules": [{"to": "train", "when": {"ordinal_day": {"divisor": 0}}}]}, "greater"),
        ({"rules": [{"to": "train", "when": {"ids": {}}}]}, "ids or file_names"),
        ({"rules": [{"share": {"of": {"train": 0}}}]}, "greater than 0"),
        ({"format": "split/2"}, "split/1"),
    ],
)
def test_what_a_file_may_not_say(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(SplitFile, {**HEAD, "rules": [], **change}, "t.yaml")


def test_hostile_files(tmp_path: Path) -> None:
    path = tmp_path / "split.yaml"
    with pytest.raises(MissingInput):
        load_split(path)
    head = "format: split/1\nname: t\nsplits: [a]\n"
    deep = "{not: " * 3000 + "{has: x}" + "}" * 3000
    for text, message in (
        (f"{head}rules: [{{to: a, when: {deep}}}]", "recursion"),
        (f"{head}rules: !!python/object/apply:os.system [ls]", "YAML"),
        (f"{head}rules: &a [*a]", "alias"),
        (f"{head}rules: []\nrules: []", "twice"),
        ("x" * (5 << 20), "larger than"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            load_split(path)


def test_keys_that_no_image_has() -> None:
    made = photos("2021-01-01", who=["ann"], at=[{"place": 1}])
    for more, near in (
        ({"groups_by": ["whom"]}, "who"),
        ({"rules": [{"to": "train", "when": {"has": "at.plase"}}]}, "at.place"),
        ({"rules": [{"share": {"of": {"train": 1}, "key": "sha"}}]}, "no image has 'sha'"),
        (
            {"time_key": "datetme", "rules": [{"to": "train", "when": {"not": {"time": {"years": [1]}}}}]},
            "datetime",
        ),
    ):
        split_file = validate(SplitFile, {**HEAD, "rules": [], **more}, "t")
        with pytest.raises(UsageError, match=near):
            assign(made, split_file)
        keys = {"optional": ["whom", "at.plase", "sha", "datetme"]}
        assign(made, validate(SplitFile, {**HEAD, "rules": [], **more, **keys}, "t"))
        assign(photos(), split_file)


def test_listed_images_and_their_groups() -> None:
    made = photos("", "", "", cohort=["a", "a", None])
    listed = [
        {"to": "test", "when": {"ids": {"ids": [1]}}},
        {"to": "vali", "when": {"ids": {"file_names": ["2.jpg"]}}},
    ]
    found = assign(made, file(*listed, groups_by=["cohort"]))
    assert where(found) == ["test", "test", "vali"]
    listed[1]["when"] = {"ids": {"ids": [2]}}
    with pytest.raises(UsageError, match="lists 1.jpg for vali, and it went to test"):
        assign(made, file(*listed, groups_by=["cohort"]))


def test_earlier_membership(tmp_path: Path) -> None:
    by_year = file(
        {"to": "vali", "when": {"time": {"years": [2020]}}}, groups_by=["cohort", "video"], rest="train"
    )
    made = photos("2021-05-01", "2020-05-01", "2021-06-01", cohort=["a", "b", None], video=[None, None, 3])
    first = assign(made, by_year)
    assert where(first) == ["train", "vali", "train"]
    path = tmp_path / "membership.parquet"
    pq.write_table(first.table(), path)
    previous = splits.membership_of(path)
    # an earlier image of a, one that ties b to video 3, one that follows, and renamed and renumbered old ones
    grown = photos(
        *("2020-01-01", "2021-05-01", "2020-05-01", "2021-06-01", "2020-07-01", "2020-07-01"),
        cohort=["a", "a", "b", None, "b", None],
        video=[None, None, None, 3, 3, None],
        file_name=["new", "0.jpg", "1.jpg", "2.jpg", "tie", "fresh"],
    )
    assert where(assign(grown, by_year))[:4] == [
        "vali",
        "vali",
        "vali",
        "vali",
    ]  # without memory the rules flip
    found = assign(grown, by_year, previous)
    assert where(found) == ["train", "train", "vali", "train", None, "vali"]
    assert found.reasons[:2] == ["stays with its group", "stays"]
    assert found.reasons[4] == TORN
    assert len(found.notes) == 2
    with pytest.raises(UsageError, match="'vali', which split t has not"):
        assign(made, file(rest="train", splits=["train"]), previous)
    with pytest.raises(IntegrityError, match="lacks columns"):
        assign(made, by_year, previous.drop_columns(["sha256"]))
    with pytest.raises(MissingInput):
        splits.membership_of(tmp_path / "none")
    path.write_bytes(b"PAR1")
    with pytest.raises(IntegrityError):
        splits.membership_of(path)


def test_a_renamed_image_stays_by_its_content() -> None:
    by_name = file({"to": "vali", "when": {"ids": {"file_names": ["0.jpg"]}}}, rest="train")
    first = assign(photos("", "", sha256=["0" * 64, "1" * 64]), by_name)
    grown = photos("", "", "", sha256=["2" * 64, "1" * 64, "0" * 64], file_name=["x", "1.jpg", "moved"])
    assert where(assign(grown, by_name, first.table())) == ["train", "train", "vali"]


def test_names_and_digests(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.jpg"} for n in range(3)]
    for row in rows:
        (tmp_path / row["file_name"]).write_bytes(row["file_name"].encode())
    made = dataset(rows, [(1, 2.0), (3, 2.0)])
    first = named("vali", made.take([0, 2]), tmp_path)
    assert (
        first.name == f"vali_imgs2_{digest(made.take([2, 0]))[:8]}" == splits.name("vali", made.take([0, 2]))
    )
    assert first.pixel_digest == pixel_digest(tmp_path, made.take([0, 2]))
    assert (first.images, first.annotations) == (2, 2)
    assert named("vali", made).pixel_digest is None
    # the column of digests gives the same, and other pixels give another digest under the same name
    told = dataset([{**row, "sha256": hashlib.sha256(row["file_name"].encode()).hexdigest()} for row in rows])
    assert named("a", told).pixel_digest == named("a", told, tmp_path).pixel_digest
    (tmp_path / "0.jpg").write_bytes(b"other")
    assert named("a", told, tmp_path).pixel_digest != named("a", told).pixel_digest
    assert named("vali", made.take([0, 2]), tmp_path).name == first.name
    grown = concat([made, dataset([{"file_name": "9.jpg"}])])
    assert named("vali", grown).name != named("vali", made).name
