"""Round steps between the ticks of a chart's axis."""

import math


def round_step(least: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is at least ``least``, which is above 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
