"""The scorer picture_groups: pairs of near hashes and groups of pictures, each against a statement that compares everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from curate._picture_groups import candidate_pairs
from curate._picture_near import MAX_DISTANCE, near_pairs
from curate._picture_thumbs import correlation
from curate.pictures import Picture
from curate.scores import phash
from headwater.errors import UsageError
from tests.curate.feature_kit import scored, scored_with_facts
from tests.curate.picture_kit import Sample, drawing, encoded, make, plain, samples, uid_of

FULL = (1 << 64) - 1
hash_ = st.integers(0, FULL)


def near_to(numbers: list[int], flips: list[list[int]]) -> list[int]:
    """The numbers, and each of them with some bits turned."""
    turned = [n ^ sum(1 << bit for bit in set(bits)) for n, bits in zip(numbers, flips, strict=False)]
    return numbers + turned


some_hashes = st.builds(
    near_to,
    st.lists(hash_, max_size=12),
    st.lists(st.lists(st.integers(0, 63), max_size=13), max_size=12),
)


@settings(deadline=None, max_examples=60)
@given(some_hashes, st.integers(0, MAX_DISTANCE), st.integers(1, 9))
def test_near_pairs_are_all_of_them_once(numbers: list[int], most: int, at_once: int) -> None:
    hashes = np.array(numbers, np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate._picture_near.PAIRS_AT_ONCE", at_once)
        found = [
            p for i, j in near_pairs(hashes, None, most) for p in zip(i.tolist(), j.tolist(), strict=True)
        ]
    count = len(numbers)
    expected = [
        (i, j)
        for i in range(count)
        for j in range(i + 1, count)
        if (numbers[i] ^ numbers[j]).bit_count() <= most
    ]
    assert sorted(found) == expected


@settings(deadline=None, max_examples=40)
@given(some_hashes, st.lists(hash_, max_size=6), st.integers(0, MAX_DISTANCE))
def test_near_pairs_of_two_lists(numbers: list[int], others: list[int], most: int) -> None:
    others = others + numbers[::2]
    left, right = np.array(numbers, np.uint64), np.array(others, np.uint64)
    found = [p for i, j in near_pairs(left, right, most) for p in zip(i.tolist(), j.tolist(), strict=True)]
    expected = [
        (i, j) for i, a in enumerate(numbers) for j, b in enumerate(others) if (a ^ b).bit_count() <= most
    ]
    assert sorted(found) == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=24), st.integers(1, 4), st.integers(0, 2))
def test_candidates_are_all_pairs_within_the_cap(numbers: list[int], cap: int, most: int) -> None:
    """Numbers 0 to 5 are hashes at distances 0 to 2: many nodes of one hash."""
    pairs = [
        p
        for first, second in candidate_pairs(np.array(numbers, np.uint64), cap, most)
        for p in zip(first.tolist(), second.tolist(), strict=True)
    ]
    place = [numbers[:i].count(number) for i, number in enumerate(numbers)]  # in the line of its hash
    expected = []
    for j in range(len(numbers)):
        for i in range(j):
            if (numbers[i] ^ numbers[j]).bit_count() > most:
                continue
            if min(place[i], place[j]) < cap:
                expected.append((i, j))
    assert sorted(pairs) == sorted(expected)


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 256, (5, 3072), dtype=np.uint8)
    second = rng.integers(0, 256, (5, 3072), dtype=np.uint8)
    second[1], second[2], first[3] = first[1], 255 - first[2], 7
    expected = [
        0.0 if a.std() == 0 else float(np.corrcoef(a.astype(float), b.astype(float))[0, 1])
        for a, b in zip(first, second, strict=True)
    ]
    assert correlation(first, second) == pytest.approx(expected, abs=1e-12)
    assert correlation(first, second)[1] == pytest.approx(1, abs=1e-15)


# whole pools


def variants(number: int) -> list[bytes]:
    """A drawing, packed again, smaller, and darker."""
    image = drawing(number, (96, 64))
    return [
        encoded(image),
        encoded(image, "JPEG", quality=60),
        encoded(image.resize((72, 48))),
        encoded(image.point(lambda v: v * 3 // 4)),
    ]


def slow_groups(pictures: dict[str, bytes], config: dict[str, Any]) -> dict[str, str]:
    """uid -> smallest uid of its group: every pair compared, joined until nothing changes."""
    scorer = phash.Scorer(phash.Config())
    facts = {}
    for uid, data in pictures.items():
        picture = Picture(uid=uid, key="", data=data)
        answers = {k: v[0].as_py() for k, v in scorer.score_pictures([picture]).items()}
        small = np.asarray(picture.open().resize((32, 32), Image.Resampling.BOX), float).reshape(-1)
        facts[uid] = (answers, small)
    group = {uid: uid for uid in pictures}
    changed = True
    while changed:
        changed = False
        for a in pictures:
            for b in pictures:
                (one, left), (two, right) = facts[a], facts[b]
                near = (one["phash"] ^ two["phash"]) & FULL
                alike = (
                    near.bit_count() <= config["distance"]
                    and min(one["phash_contrast"], two["phash_contrast"]) >= config["contrast"]
                    and np.corrcoef(left, right)[0, 1] >= config["correlation"]
                )
                if one["phash_pixels"] == two["phash_pixels"] or alike:
                    smallest = min(group[a], group[b])
                    changed |= group[a] != smallest or group[b] != smallest
                    group[a] = group[b] = smallest
    return group


def found_groups(pool: Path, tars: Path, **config: Any) -> dict[str, str]:
    table = scored(pool, "picture_groups", shards=tars, **config)
    return dict(zip(table["uid"].to_pylist(), table["picture_group"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    "config",
    [{}, {"distance": 0}, {"distance": 11, "correlation": 0.6}, {"correlation": -1.0, "contrast": 60.0}],
)
def test_groups_are_those_of_the_slow_statement(tmp_path: Path, config: dict[str, Any]) -> None:
    pictures = [data for number in range(5) for data in variants(number)]
    pictures += [plain(10), plain(10), plain(11), plain(10, (32, 31)), encoded(drawing(0, (96, 64)), "BMP")]
    order = np.random.default_rng(3).permutation(len(pictures))
    rows = {uid_of(int(n) + 1): pictures[at] for at, n in enumerate(order)}
    tar = [Sample(uid, data) for uid, data in rows.items()]
    pool, tars = make(tmp_path, {"a.tar": tar[:11], "b.tar": tar[11:]})
    defaults = {"distance": 6, "correlation": 0.98, "contrast": 4.0}
    found = found_groups(pool, tars, **config)
    assert found == slow_groups(rows, defaults | config)
    if not config:
        assert len(set(found.values())) < 15  # near duplicates were found at all


def test_groups_do_not_depend_on_order_or_layout(tmp_path: Path) -> None:
    rows = [Sample(uid_of(n + 1), data) for n, data in enumerate([d for k in range(4) for d in variants(k)])]
    one, tars = make(tmp_path / "1", {"a.tar": rows})
    shuffled = [rows[i] for i in np.random.default_rng(5).permutation(len(rows))]
    split = {"z.tar": shuffled[:3], "m.tar": shuffled[3:9], "b.tar": shuffled[9:]}
    two, others = make(tmp_path / "2", split, [row.uid for row in reversed(rows)], shards=3)
    for config in ({}, {"cap": 1, "distance": 8, "correlation": 0.9}):
        assert found_groups(one, tars, **config) == found_groups(two, others, **config)


def circles(count: int) -> list[bytes]:
    """Pictures of different pixels and nearly one hash."""
    out = []
    for n in range(count):
        image = Image.new("RGB", (64, 64), (255, 255, 255))
        ImageDraw.Draw(image).ellipse((8, 8, 56, 56), fill=(n, 30, 40))
        out.append(encoded(image))
    return out


def test_many_pictures_of_one_hash_stay_bounded_and_in_one_group(tmp_path: Path) -> None:
    rows = [Sample(uid_of(n + 1), data) for n, data in enumerate(circles(40))]
    pool, tars = make(tmp_path, {"a.tar": rows})
    table, facts = scored_with_facts(pool, "picture_groups", shards=tars, cap=3)
    assert facts["notes"]["pairs by hash"] <= 3 * 40 and facts["notes"]["capped hashes"] == 1
    assert set(table["picture_group"].to_pylist()) == {min(uid_of(n + 1) for n in range(40))}


def test_plain_pictures_are_joined_by_their_pixels_only(tmp_path: Path) -> None:
    rows = [Sample(uid_of(n + 1), plain(level)) for n, level in enumerate((5, 6, 5, 250))]
    pool, tars = make(tmp_path, {"a.tar": rows})
    found = found_groups(pool, tars, correlation=-1.0)
    first, second, third, fourth = (found[uid_of(n + 1)] for n in range(4))
    assert first == third == min(uid_of(1), uid_of(3)) and second == uid_of(2) and fourth == uid_of(4)


def test_rows_without_a_hash_are_null_and_counted(tmp_path: Path) -> None:
    rows = [*samples([1]), Sample(uid_of(2), b"junk")]
    pool, tars = make(tmp_path, {"a.tar": rows}, [uid_of(n) for n in (1, 2, 3)])
    table, facts = scored_with_facts(pool, "picture_groups", shards=tars)
    assert table["picture_group"].to_pylist().count(None) == 2
    assert facts["counts"]["invalid"] == {"no perceptual hash": 2}


@pytest.mark.parametrize("uids", [[], [uid_of(1)], [uid_of(9)], [uid_of(1), uid_of(1)]])
def test_small_pools(tmp_path: Path, uids: list[str | None]) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1])}, uids, shards=1)
    table = scored(pool, "picture_groups", shards=tars)
    assert table["picture_group"].to_pylist() == [u if u == uid_of(1) else None for u in uids]


@pytest.mark.parametrize("wrong", [{"distance": -1}, {"distance": 12}, {"correlation": 1.5}, {"cap": 0}])
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    pool, tars = make(tmp_path, {"a.tar": samples([1])})
    with pytest.raises(UsageError, match=next(iter(wrong))):
        scored(pool, "picture_groups", shards=tars, **wrong)


def test_the_named_filter_keeps_one_of_each(tmp_path: Path) -> None:
    from tests.faults import kit

    rows = [Sample(uid_of(n + 1), data) for n, data in enumerate([d for k in range(3) for d in variants(k)])]
    pool, tars = make(tmp_path, {"a.tar": rows})
    out = tmp_path / "out.npy"
    name = "near_duplicate_pictures"
    done = kit.run("filter-pool", pool, "-o", out, "--name", name, "--param", f"shards={tars}")
    assert done.code == 0, done.err
    assert kit.words(out) == sorted(set(found_groups(pool, tars).values()))
