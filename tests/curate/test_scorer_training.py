"""Training a two-tower scorer: metrics against loops, no leak from what is held out, equal bytes whatever the layout."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _tower_metrics as metrics
from curate._pairs import Pairs, difference_hash, plain_caption
from curate._tower_split import NEAR, folds, split
from curate.pool import Pool
from curate.subset import to_hex
from headwater.errors import BadInputs
from headwater.steps import RunOptions
from tests.curate import tower_kit as kit
from tests.curate.feature_kit import uid_of

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from curate import _pairs  # noqa: E402
from curate import scorer_training as training  # noqa: E402
from curate._tower_fit import WIDTH, Projections, _loss, fit  # noqa: E402

MATRICES = st.integers(2, 9).flatmap(
    lambda n: st.lists(st.integers(-3, 3), min_size=n * n, max_size=n * n).map(
        lambda values: np.array(values, np.float64).reshape(n, n)
    )
)


@given(MATRICES, st.data())
def test_ranks_and_area_are_what_loops_count(matrix: Any, data: Any) -> None:
    n = len(matrix)
    places = [1 + sum(matrix[i, j] >= matrix[i, i] for j in range(n) if j != i) for i in range(n)]
    assert metrics.ranks(matrix).tolist() == places
    drawn = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=2 * n))
    for rows in (list(range(n)), drawn):
        wrong = [matrix[i, j] for i in rows for j in rows if i != j]
        wins = [(matrix[a, a] > w) + (matrix[a, a] == w) / 2 for a in rows for w in wrong]
        found = metrics.area(matrix, np.bincount(rows, minlength=n).astype(np.float64))
        assert math.isnan(found) if not wins else found == pytest.approx(sum(wins) / len(wins))


def test_estimates_of_a_perfect_and_a_blind_scorer() -> None:
    perfect = metrics.measure(np.eye(40), seed=1, resamples=200)
    assert {f["value"] for f in perfect.values()} == {1.0} == {f["low"] for f in perfect.values()}
    blind = metrics.measure(np.random.default_rng(0).random((400, 400)), seed=1, resamples=200)
    for name, facts in blind.items():
        assert facts["low"] <= facts["value"] <= facts["high"] < facts["chance"] + 0.1
        assert facts["low"] <= facts["chance"] <= facts["high"] or name.endswith("r1")  # one hit is expected
    assert blind == metrics.measure(np.random.default_rng(0).random((400, 400)), seed=1, resamples=200)
    # all alike is not a win
    assert metrics.measure(np.zeros((9, 9)), seed=0, resamples=9)["image_to_text_r5"]["value"] == 0
    assert metrics.measure(np.zeros((9, 9)), seed=0, resamples=9)["auc"]["value"] == 0.5


def pairs_of(rows: list[tuple[int, int, int]]) -> Pairs:
    """(caption, file, hash) numbers as pairs; file 0 is unknown."""
    n = len(rows)
    return Pairs(
        uids=np.arange(2 * n, dtype=np.uint64).reshape(-1, 2),
        captions=[
            f"{'ABC'[c % 3].lower()}  {c}" if i % 2 else f"{'ABC'[c % 3]} {c}"
            for i, (c, _, _) in enumerate(rows)
        ],
        sha256=["" if f == 0 else str(f) for _, f, _ in rows],
        image=np.zeros((n, 2), np.float16),
        hashes=np.array([h for *_, h in rows], np.uint64),
    )


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from([0, 1, 31, 2**40, 2**63 + 1])),
        max_size=25,
    ),
    st.integers(2, 8),
    st.integers(0, 3),
)
def test_nothing_like_a_held_out_pair_is_trained_on(
    rows: list[tuple[int, int, int]], count: int, seed: int
) -> None:
    pairs = pairs_of(rows)
    parts = split(pairs, count, seed)

    def like(a: int, b: int) -> bool:
        same_file = rows[a][1] == rows[b][1] != 0
        return rows[a][0] == rows[b][0] or same_file or (rows[a][2] ^ rows[b][2]).bit_count() <= NEAR

    held, rest = parts.held_out.tolist(), parts.training.tolist()
    assert not any(like(a, b) for a in held for b in held if a != b)
    assert not any(like(a, b) for a in held for b in rest)
    others = set(range(len(rows))) - set(held) - set(rest)
    assert all(any(like(a, b) for b in held) for a in others)  # and nothing else is left out
    assert len(others) == sum(parts.left_out.values())
    assert len(held) <= count and (len(held) == count or not rest)
    assert parts.held_out.tolist() == split(pairs, count, seed).held_out.tolist()


def test_a_random_share_of_the_pool_is_not_the_held_out_pairs_first() -> None:
    from curate.clauses import mix

    pairs = pairs_of([(n, 0, n * 0x1234567891ABCDEF % 2**64) for n in range(2000)])
    held = split(pairs, 200, 7).held_out
    words, key = pairs.uids, mix(np.array([7], np.uint64))  # as the clause `sample` orders rows
    share = np.argsort(mix(words[:, 0] ^ mix(words[:, 1] ^ key)))[:600]
    assert np.isin(held, share).mean() == pytest.approx(0.3, abs=0.12)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 20), st.integers(0, 20), st.sampled_from([0, 1, 31, 2**40, 2**50 - 1, 2**63 + 1])
        ),
        max_size=25,
    ),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_no_two_folds_have_pairs_that_are_like_each_other(
    rows: list[tuple[int, int, int]], count: int, seed: int
) -> None:
    pairs = pairs_of(rows)
    parts = split(pairs, 2, seed)
    fold = folds(pairs, parts, count, seed)
    chosen = [rows[row] for row in parts.training.tolist()]

    def like(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
        return a[0] == b[0] or a[1] == b[1] != 0 or (a[2] ^ b[2]).bit_count() <= NEAR

    groups: list[list[int]] = []  # joined one row at a time
    for number, row in enumerate(chosen):
        joined = [group for group in groups if any(like(row, chosen[other]) for other in group)]
        groups = [group for group in groups if group not in joined] + [[number, *sum(joined, [])]]
    assert len(fold) == len(chosen) and set(fold.tolist()) <= set(range(count))
    for group in groups:
        assert len({int(fold[number]) for number in group}) == 1
    sizes = np.bincount(fold, minlength=count)
    assert sizes.max() - sizes.min() <= max((len(group) for group in groups), default=0)
    assert (sizes > 0).sum() == min(count, len(groups))
    assert fold.tolist() == folds(pairs, parts, count, seed).tolist()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=9),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))),
)
def test_uids_are_found_by_both_halves(keys: list[tuple[int, int]], wanted: set[tuple[int, int]]) -> None:
    words = [np.array(part, np.uint64).reshape(-1, 2) for part in (keys, sorted(wanted))]
    assert _pairs.rows_among(*words).tolist() == [row for row, key in enumerate(keys) if key in wanted]


def test_captions_are_alike_without_case_forms_and_blanks() -> None:
    assert plain_caption(" Ａ  Dog\n") == "a dog" == plain_caption("a dog")
    assert plain_caption("a dog") != plain_caption("a dot")


def test_the_difference_hash_by_its_bits() -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (8, 9), np.uint8)
    bits = "".join(str(int(grey[r, c + 1] > grey[r, c])) for r in range(8) for c in range(8))
    assert difference_hash(Image.fromarray(grey)) == int(bits, 2)
    larger = Image.fromarray(grey.repeat(5, 0).repeat(5, 1)).convert("RGB")
    assert difference_hash(larger) == int(bits, 2)


def latent(rows: int, seed: int = 0) -> tuple[Any, Any]:
    """Features of pairs that share a hidden vector, each through a map of its own."""
    rng = np.random.default_rng(seed)
    maps = np.random.default_rng(99)
    hidden = rng.normal(size=(rows, 12))
    image = np.tanh(hidden @ maps.normal(size=(12, 40))) + 0.05 * rng.normal(size=(rows, 40))
    return image.astype(np.float16), (hidden @ maps.normal(size=(12, 30))).astype(np.float16)


def test_projections_learn_what_pairs_share_and_the_same_from_the_same() -> None:
    image, text = latent(400)
    trained, loss = fit(image[:300], text[:300], np.arange(300), epochs=12, seed=5)
    again, _ = fit(image[:300], text[:300], np.arange(300), epochs=12, seed=5)
    other, _ = fit(image[:300], text[:300], np.arange(300), epochs=12, seed=6)
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in trained.tensors.items())
    assert not torch.equal(trained.tensors["text.weight"], other.tensors["text.weight"])
    similarity = trained.pictures(image[300:]) @ trained.texts(text[300:]).T
    assert (metrics.ranks(similarity.astype(np.float64)) <= 5).mean() > 0.5  # chance 0.05
    assert 0 < loss < math.log(300)
    assert trained.pictures(image[:0]).shape == (0, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(trained.texts(text), axis=1), 1, atol=1e-5)


def test_the_loss_is_the_symmetric_one_without_equal_captions() -> None:
    image, text = latent(5)
    trained, _ = fit(image, text, np.arange(5), epochs=1, seed=0)
    captions = [0, 1, 0, 2, 3]
    u, v = trained.pictures(image).astype(np.float64), trained.texts(text).astype(np.float64)
    scale = math.exp(float(trained.tensors["scale"]))
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if j == i or captions[j] != captions[i]]
        own = scale * u[i] @ v[i]
        total += math.log(sum(math.exp(scale * u[i] @ v[j]) for j in others)) - own
        total += math.log(sum(math.exp(scale * u[j] @ v[i]) for j in others)) - own
    tensors = [torch.from_numpy(a.astype(np.float32)) for a in (image, text)]
    assert float(_loss(trained.tensors, *tensors, torch.tensor(captions))) == pytest.approx(
        total / 10, rel=1e-4
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.clip_folder(tmp_path_factory.mktemp("clip") / "model")


def run(pool: Path, job: training.Job, **options: Any) -> Any:
    opened = Pool.open(pool)
    plan, facts = training.plan_training(opened, job)
    return training.train_scorer(opened, job, plan, facts, options=RunOptions(**options))


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "step.json"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def job_of(folder: Path, tars: Path, trusted: Path, clip: Path, name: str = "scorer") -> training.Job:
    return training.Job(tars, trusted, folder / name, f"local-dir:{clip}", held_out=12, epochs=3)


def test_a_scorer_is_written_whole_and_reads_back(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, tars, trusted = kit.small_world(tmp_path)
    job = job_of(tmp_path, tars, trusted, clip)
    outcome = run(pool, job)
    counts = outcome.step.identity.counts
    assert counts.read == 48 and counts.dropped["held out"] == 12 and not counts.invalid
    assert counts.kept + sum(counts.dropped.values()) == 48
    assert {
        "README.md",
        "clip",
        "held_out.parquet",
        "projections.safetensors",
        "scorer.json",
        "step.json",
        "trained.parquet",
    } == {path.name for path in job.output.iterdir()}
    loaded = training.load_scorer(job.output)
    assert loaded.card.training.pairs == counts.kept and loaded.card.held_out.pairs == 12
    held = pq.read_table(job.output / "held_out.parquet")
    ranks = np.array(held["image_to_text_rank"])
    assert loaded.card.held_out.image_to_text_r5.value == pytest.approx((ranks <= 5).mean(), abs=1e-6)
    mean = np.array(held["similarity"]).mean()
    assert loaded.card.scores.mean_score_held_out == pytest.approx(mean, abs=1e-5)
    assert held.num_rows == 12 and held["uid"].to_pylist() == sorted(held["uid"].to_pylist())
    assert len(loaded.projections.models) == 5 and len(loaded.trained.uids) == counts.kept
    assert not set(held["uid"].to_pylist()) & set(to_hex(loaded.trained.uids))
    page = (job.output / "README.md").read_text()
    assert f"{counts.kept:,} pairs" in page and loaded.card.pool_id in page
    # again: equal bytes, and no picture is read twice
    monkeypatch.setattr(_pairs, "_open", lambda *a: pytest.fail("a picture was opened again"))
    before = digests(job.output)
    run(pool, job, force=True)
    assert digests(job.output) == before
    assert run(pool, job).cached


def test_layout_of_pool_and_tars_decides_nothing(tmp_path: Path, clip: Path) -> None:
    pool, tars, trusted = kit.small_world(tmp_path)
    one = run(pool, job_of(tmp_path, tars, trusted, clip, "one"))
    order = np.random.default_rng(2).permutation(48).tolist()
    uids, captions = [uid_of(n) for n in order], [kit.caption(n) for n in order]
    mixed = kit.write_pool(tmp_path / "mixed", uids, captions, shards=3)
    others = kit.write_tars(tmp_path / "others", [(uid_of(n), kit.picture(n)) for n in order[::-1]], tars=5)
    two = run(mixed, job_of(tmp_path, others, trusted, clip, "two"))
    first, second = digests(one.path), digests(two.path)
    for name in ("projections.safetensors", "held_out.parquet", "trained.parquet"):
        assert first[name] == second[name]


def test_captions_of_held_out_pairs_are_left_out_and_counted(tmp_path: Path, clip: Path) -> None:
    uids = [uid_of(n) for n in range(48)]
    captions = [kit.caption(n % 30).upper() if n >= 30 else kit.caption(n) for n in range(48)]
    pool = kit.write_pool(tmp_path / "pool", uids, captions)
    tars = kit.write_tars(tmp_path / "tars", [(uid, kit.picture(n)) for n, uid in enumerate(uids)])
    job = replace(job_of(tmp_path, tars, kit.subset(tmp_path / "t.npy", uids), clip), held_out=10)
    dropped = run(pool, job).step.identity.counts.dropped
    held = set(pq.read_table(job.output / "held_out.parquet")["uid"].to_pylist())
    asked = {captions[n].lower() for n, uid in enumerate(uids) if uid in held}
    again = [n for n, uid in enumerate(uids) if uid not in held and captions[n].lower() in asked]
    assert again and dropped["caption of a held-out pair"] == len(again)


def test_the_command_tells_figures_and_bad_uids(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from curate.commands_score_train import train

    pool, tars, _ = kit.small_world(tmp_path, pairs=47)
    trusted = kit.subset(tmp_path / "more.npy", [uid_of(n) for n in range(50)])
    arguments = [str(pool), "--shards", str(tars), "--trusted", str(trusted), "-o", str(tmp_path / "s")]
    arguments += ["--held-out", "12", "--epochs", "2", "--towers", f"local-dir:{clip}"]
    with pytest.raises(BadInputs, match="3 not in the pool"):
        train.main(arguments, standalone_mode=False)
    told = capsys.readouterr().out
    assert "trained on" in told and "3 not in the pool" in told and "AUC" in told
    train.main([*arguments, "--allow-invalid", "--json"], standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    assert document["cached"] and document["counts"]["invalid"] == {"not in the pool": 3}
    train.main([*arguments, "--dry-run"], standalone_mode=False)
    assert "up to date" in capsys.readouterr().out


def test_a_scorer_of_other_shapes_is_refused(clip: Path) -> None:
    from curate._tower_fit import check_shapes
    from headwater.errors import IntegrityError

    image, text = latent(20)
    trained, _ = fit(image, text, np.arange(20), epochs=1, seed=0)
    assert isinstance(check_shapes(trained.tensors, 40, 30), Projections)
    with pytest.raises(IntegrityError, match=r"image\.0\.weight is \[512, 40\], and should be \[512, 41\]"):
        check_shapes(trained.tensors, 41, 30)
    with pytest.raises(IntegrityError, match="scale is missing"):
        check_shapes({k: v for k, v in trained.tensors.items() if k != "scale"}, 40, 30)
