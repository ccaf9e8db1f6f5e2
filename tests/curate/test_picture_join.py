"""The join of samples to rows, against a dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _picture_join
from curate._picture_tars import Samples
from curate.pool import Pool
from curate.pooldata import PoolData
from headwater.executor import Executor
from tests.curate.picture_kit import uid_of, write_pool

uids = st.integers(0, 12)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(uids, max_size=8), min_size=1, max_size=4),
    st.lists(uids, max_size=14),
    st.integers(1, 5),
)
def test_the_join_is_that_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, tars: list[list[int]], rows: list[int], parts: int
) -> None:
    folder = tmp_path_factory.mktemp("join")
    pool = Pool.open(write_pool(folder / "pool", [uid_of(n) for n in rows], shards=2))
    data = PoolData(pool, None, Executor("serial"), folder)  # type: ignore[arg-type]
    total = sum(map(len, tars)) + len(rows)
    if total:
        # so small a budget that the uids are split into about so many parts
        data.memory_bytes = 1 << 20
        per = (1 << 20) * parts // total + 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_picture_join, "PART_BYTES_A_UID", per)
            joined = _picture_join.join(data, (samples_at(n) for n in tars), sum(map(len, tars)))
    else:
        joined = _picture_join.join(data, (samples_at(n) for n in tars), 0)
    first: dict[int, int] = {}
    repeated = 0
    for place, number in enumerate(n for tar in tars for n in tar):
        repeated += number in first
        first.setdefault(number, place)
    assert joined.sample.tolist() == [first.get(n, -1) for n in rows]
    assert joined.repeated == repeated and joined.unknown == len(set(first) - set(rows))


def samples_at(numbers: list[int]) -> Samples:
    words = np.array([divmod(int(uid_of(n), 16), 1 << 64) for n in numbers], np.uint64).reshape(-1, 2)
    nothing: npt.NDArray[np.int64] = np.zeros(len(numbers), np.int64)
    some: Any = None
    return Samples(some, words[:, 0], words[:, 1], nothing, nothing, nothing, nothing, nothing, [], {})
