"""The micro-batch, frames that go through the network at a time, within a memory budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...runtime.errors import TrainingError, arg
from ...runtime.probes.memory import give_back_unused
from ..data.dataset import Batch
from ..methods.base import Stage
from ..run.budget import PeakMemory, peak_memory
from ..run.checkpoint import optimizer_bytes
from ..run.precision import Precision
from .forward_backward import Passes

SPARE = 0.02  # of a budget: later steps peak a little higher than the one that is tried


def candidates(micro_batch: int) -> list[int]:
    """``micro_batch``, its half, that half's half and so on, rounded up, the least first."""
    sizes = [micro_batch]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes[::-1]


def largest_micro_batch(
    passes: Passes,
    batch: Batch,
    micro_batch: int,
    precision: Precision,
    room: int,
) -> tuple[int, PeakMemory]:
    """The largest of ``micro_batch`` and its halves whose step peaks below ``room`` bytes.

    They are tried from 1 on, and one is tried only where the growth so far leaves it room: so the
    budget holds while it is found out, too.

    Args:
        batch: a whole batch, on the run's device.
        precision: not the run's own, see `Passes.dry_run`.

    Returns:
        Frames, 0 where not even one fits, and the peak of the last that fits, or else of one.
    """
    with peak_memory(batch.augmented.device) as idle:
        give_back_unused()
    gradient = sum(p.numel() * p.element_size() for p in passes.parameters)
    best, peaks = (0, PeakMemory()), [(0, idle.bytes + gradient)]
    for size in candidates(micro_batch):
        if len(peaks) > 1 and _expected(peaks, size) > room:
            break
        peak = _peak_of(passes, batch, size, precision)
        fits = not peak.exceeded and peak.bytes <= room
        if not fits:
            return best if best[0] else (0, peak)
        best = size, peak
        peaks.append((size, peak.bytes))
    return best


def _expected(peaks: Sequence[tuple[int, int]], size: int) -> float:
    """The peak of ``size`` frames on the line through the last two."""
    (one, low), (other, high) = peaks[-2:]
    return high + (high - low) / (other - one) * (size - other)


def _peak_of(passes: Passes, batch: Batch, size: int, precision: Precision) -> PeakMemory:
    """Memory of a step in micro-batches of ``size``, the first one's gradient included."""
    part = batch.part(0, min(2 * size, len(batch.frames)))
    give_back_unused()  # what the last try freed is no part of this one's
    with peak_memory(batch.augmented.device) as peak:
        try:
            with passes.dry_run(part, size, precision):
                pass
        except torch.OutOfMemoryError:
            peak.exceeded = True
    return peak


def changes_by_micro_batch(
    stages: Sequence[Stage],
    model: nn.Module,
    micro_batch: int,
    batch_size: int,
    *,
    frozen: bool = False,
) -> list[str]:
    """Changes to the method by a micro-batch smaller than the batch, a sentence each.

    Losses are means over pixels, whose gradient adds up over micro-batches; what frames do
    together does not.

    Args:
        frozen: batch norm's statistics stand still.
    """
    if micro_batch >= batch_size:
        return []
    frames = "one frame" if micro_batch == 1 else f"{micro_batch} frames"
    changes = []
    if not frozen and any(isinstance(layer, _BatchNorm) for layer in model.modules()):
        changes.append(
            f"batch norm takes its statistics from {frames} at a time, not from the {batch_size} "
            "of a batch"
        )
    mixing = [stage.name for stage in stages if stage.mixes]
    least = batch_size // math.ceil(batch_size / micro_batch)
    if mixing and micro_batch == 1:
        changes.append(f"{', '.join(mixing)}: frames are not mixed, each passes alone")
    elif mixing and least == 1:
        changes.append(
            f"{', '.join(mixing)}: one frame of each batch passes alone and is not mixed"
        )
    return changes


def room_for_a_step(passes: Passes, budget: int) -> int:
    """Bytes of ``budget`` that the optimiser's moments and `SPARE` leave."""
    return int(budget * (1 - SPARE)) - optimizer_bytes(passes.optimizer)


def fitting_micro_batch(
    passes: Passes,
    batch: Batch,
    micro_batch: int,
    precision: Precision,
    budget: int,
    note: Callable[[str], None],
) -> int:
    """`largest_micro_batch` within ``budget`` bytes, with a note of what it takes.

    Raises:
        TrainingError: not even one frame fits.
    """
    room = room_for_a_step(passes, budget)
    found, peak = largest_micro_batch(passes, batch, micro_batch, precision, room)
    if not found:
        raise TrainingError(
            f"one frame at a time needs {peak.mib:.0f} MiB, and {arg('memory_budget_mib')} leaves "
            f"{room / 2**20:.0f} MiB for it; lower training.crop_size or use a smaller network."
        )
    note(f"micro-batch {found}: a step peaks at {peak.mib:.0f} MiB")
    return found
