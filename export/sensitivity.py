"""Sensitivity of layers to a lower precision, one at a time, and how many of them to spare."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

SWEEP_FRAMES = 4
SWEEP_SECONDS = 600.0
MOST_SPARED = 0.25  # of the layers
SWEEP_SHARE = 0.6  # of the time that a budget leaves to a form; sparing has the rest
STEPS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Sensitivity:
    """Label agreement that is left where one layer alone is quantised.

    Attributes:
        layer: its name.
        label_agreement: percent of pixels.
    """

    layer: str
    label_agreement: float


def sweep_frames(layers: int, seconds_a_frame: float, most_s: float = SWEEP_SECONDS) -> int:
    """Number of frames for a sweep over ``layers``: 4, fewer where that takes over ``most_s``."""
    return max(1, min(SWEEP_FRAMES, int(most_s / max(layers * seconds_a_frame, 1e-9))))


def sweep(
    layers: Sequence[str],
    agreement_of: Callable[[str], float],
    report: Callable[[int, int, str], None] = lambda *_: None,
    fits: Callable[[], bool] = lambda: True,
) -> list[Sensitivity]:
    """Every layer, the most sensitive first; equals in the order given.

    Args:
        layers: in the order in which they are looked at.
        agreement_of: label agreement where only that layer is quantised.
        fits: whether there is time for one more; asked before each.
    """
    rows = []
    for done, layer in enumerate(layers):
        if not fits():
            break
        report(done, len(layers), f"sensitivity of {layer}")
        rows.append(Sensitivity(layer, agreement_of(layer)))
    return sorted(rows, key=lambda row: row.label_agreement)


def spare(
    rows: Sequence[Sensitivity],
    agreement_of: Callable[[Collection[str]], float],
    target: float,
    fits: Callable[[], bool] = lambda: True,
) -> list[str]:
    """The fewest of the most sensitive layers that, left alone, bring agreement to ``target``.

    At most a quarter of the layers; where that is not enough, or there is no time for more, as many
    as do best.

    Args:
        rows: of `sweep`.
        agreement_of: label agreement with these layers left in higher precision.
        target: percent of pixels.
        fits: whether there is time to try so many; asked before each, but for none spared.
    """
    names = [row.layer for row in rows]
    most = int(MOST_SPARED * len(names))
    best: tuple[float, list[str]] = (-1.0, [])
    for count in sorted({min(step, most) for step in STEPS}):
        if count and not fits():
            break
        found = agreement_of(names[:count])
        if found > best[0]:
            best = found, names[:count]
        if found >= target:
            break
    return best[1]
