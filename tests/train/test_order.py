"""The order of samples: fixed by seed, part and stream; uniform where it should be."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from train.loader import loader_processes
from train.order import Place, derived_seed, samples

PLACES = [Place(0, 50), Place(1, 50), Place(2, 5)]


def draw(count: int, **changes: object) -> list[tuple[int, int]]:
    names = {
        "mode": "resampled",
        "buffer": 40,
        "initial": 10,
        "seed": 1,
        "part": 0,
        "stream": 0,
        "streams": 2,
    }
    return list(islice(samples(PLACES, **{**names, **changes}), count))  # type: ignore[arg-type]


def test_the_same_names_give_the_same_order() -> None:
    assert draw(500) == draw(500)


def test_every_name_changes_the_order() -> None:
    base = draw(200)
    for change in ({"seed": 2}, {"part": 1}, {"stream": 1}, {"buffer": 41}):
        assert draw(200, **change) != base


def test_resampling_draws_shards_and_not_samples_uniformly() -> None:
    """A sample of the shard with 5 samples comes as often as 10 samples of the others: known and told, never hidden."""
    counts = Counter(shard for shard, _ in draw(60_000))
    # each draw of shard 2 gives 5 samples, of the others 50
    assert 0.8 < counts[2] * 10 / counts[0] < 1.25


def test_shuffled_streams_share_the_shards_without_overlap() -> None:
    first = {shard for shard, _ in draw(55, mode="shuffled", stream=0, buffer=1, initial=1)}
    second = {shard for shard, _ in draw(50, mode="shuffled", stream=1, buffer=1, initial=1)}
    assert first.isdisjoint(second) and first | second == {0, 1, 2}


def test_a_pass_without_replacement_sees_each_sample_once() -> None:
    seen = Counter(draw(105, mode="shuffled", stream=0, streams=1, buffer=1, initial=1))
    assert len(seen) == 105 and set(seen.values()) == {1}


@given(
    buffer=st.integers(1, 60),
    initial=st.integers(1, 60),
    count=st.integers(1, 300),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_the_buffer_loses_and_invents_nothing(
    buffer: int, initial: int, count: int, sizes: list[int]
) -> None:
    places = [Place(number, size) for number, size in enumerate(sizes)]
    flow = samples(
        places, mode="shuffled", buffer=buffer, initial=initial, seed=3, part=0, stream=0, streams=1
    )
    seen = Counter(islice(flow, count))
    assert all(0 <= sample < sizes[shard] for shard, sample in seen)
    # of what went in, at most the buffer is still inside: no sample is two passes ahead of another by more than that
    total = sum(sizes)
    passes = -(-(count + buffer) // total)
    assert max(seen.values()) <= passes


def test_seeds_of_different_names_differ() -> None:
    assert derived_seed(1, 23) != derived_seed(12, 3)
    assert 0 <= derived_seed("x") < 2**63


def test_loader_processes_divide_the_streams() -> None:
    assert [loader_processes(wanted, 4) for wanted in (0, 1, 2, 3, 4, 9)] == [1, 1, 2, 2, 4, 4]
    assert loader_processes(5, 3) == 3
