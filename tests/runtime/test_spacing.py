"""The places to look at: none twice, in order, from the first to the last, with like gaps."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime.spacing import evenly_spaced


@settings(max_examples=25, deadline=None, derandomize=True)
@given(count=st.integers(1, 500), limit=st.integers(2, 600))
def test_evenly_spaced_indices_are_distinct_ordered_and_span_all(count: int, limit: int) -> None:
    chosen = evenly_spaced(count, limit)
    assert len(chosen) == min(count, limit)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    gaps = np.diff(chosen)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_no_limit_is_every_index_and_one_is_the_first() -> None:
    assert evenly_spaced(4, None) == [0, 1, 2, 3]
    assert evenly_spaced(4, 1) == [0]
    assert evenly_spaced(0, 3) == evenly_spaced(0, None) == []
