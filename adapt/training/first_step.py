"""Choices that are made on a run's first batch, before its first step: precision, micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..data.dataset import Batch
from ..run.precision import Precision, PrecisionName
from ..run.work import Work
from .forward_backward import Passes
from .memory_fit import fitting_micro_batch, largest_micro_batch, room_for_a_step
from .precision_benchmark import find_precision
from .time_allocation import PRECISIONS


def choose_precision(
    passes: Passes,
    batch: Batch,
    micro_batch: int,
    candidates: Sequence[PrecisionName],
    budget: int | None,
    work: Work,
    due: Callable[[], bool],
) -> tuple[PrecisionName, Mapping[str, Mapping[str, float | None]] | None]:
    """Float32, or what pays here; on the micro-batch that float32 has room for.

    Args:
        batch: the first one, on the run's device.
        budget: of memory, bytes, if there is one.
        due: whether trying is to end.

    Returns:
        The precision, and what was measured of each; None where there was no time for that.
    """
    device = batch.augmented.device
    with work.deadline.part(PRECISIONS), work.phase("measuring precisions"):
        if budget is not None:
            room = room_for_a_step(passes, budget)
            fp32 = Precision("fp32", device)
            micro_batch, _ = largest_micro_batch(passes, batch, micro_batch, fp32, room)
        part = batch.part(0, micro_batch)
        return find_precision(passes, part, candidates, device, work.events.note, due=due)


def fit_memory(
    passes: Passes,
    batch: Batch,
    micro_batch: int,
    precision: PrecisionName,
    budget: int,
    work: Work,
) -> int:
    """The largest micro-batch whose step stays below the memory budget, found by trying.

    Args:
        batch: the first one, on the run's device.
        micro_batch: at most so many frames.
        budget: of memory, bytes.

    Raises:
        TrainingError: not even one frame fits.
    """
    tried = Precision(precision, batch.augmented.device)
    with work.phase("fitting the micro-batch to the memory"):
        return fitting_micro_batch(passes, batch, micro_batch, tried, budget, work.events.note)
