"""The one-to-one matching of rows with columns that has the largest sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def best_matching(value: Matrix) -> list[int]:
    """The column of each row in the one-to-one matching of largest sum, of an (N, N) matrix.

    The Hungarian method with potentials (Kuhn, 1955; Jonker and Volgenant, 1987): rows are added
    one by one, each along the shortest augmenting path; exact, in time N^3.
    """
    n = len(value)
    cost = np.zeros((n + 1, n + 1))
    cost[1:, 1:] = -value
    u, v = np.zeros(n + 1), np.zeros(n + 1)
    row_of = np.zeros(n + 1, int)  # of each column; 0 is none
    for row in range(1, n + 1):
        row_of[0], column = row, 0
        least, before = np.full(n + 1, np.inf), np.zeros(n + 1, int)
        used = np.zeros(n + 1, bool)
        while row_of[column] or column == 0:
            used[column] = True
            here = row_of[column]
            reduced = cost[here] - u[here] - v
            shorter = ~used & (reduced < least)
            least[shorter], before[shorter] = reduced[shorter], column
            column_next = int(np.where(used, np.inf, least)[1:].argmin()) + 1
            delta = least[column_next]
            u[row_of[used]] += delta
            v[used] -= delta
            least[~used] -= delta
            column = column_next
        while column:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    matching = [0] * n
    for column in range(1, n + 1):
        matching[row_of[column] - 1] = column - 1
    return matching
