"""best_matching: as good as the best of all orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from roadshift.runtime.labels.linear_assignment import best_matching


@pytest.mark.parametrize("size", range(7))
def test_a_matching_is_the_best_of_all(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(10):
        value = rng.random((size, size))
        orders = itertools.permutations(range(size))
        best = max(sum(value[i, j] for i, j in enumerate(order)) for order in orders)
        found = best_matching(value)
        assert sorted(found) == list(range(size))
        assert sum(value[i, j] for i, j in enumerate(found)) == pytest.approx(best)
