"""The places of a sequence to look at, where all would take too long."""

from __future__ import annotations

import numpy as np


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """At most ``limit`` of the indices below ``count``, evenly spaced and in order."""
    if limit is None or count <= limit:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, limit).round()]
