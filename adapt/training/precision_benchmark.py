"""The precisions that a run tries on its first batch before its first step, and which one pays.

Nothing that is tried leaves a trace in weights, buffers, gradients or random generators.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from ..data.dataset import Batch
from ..run.precision import Precision, PrecisionName
from .forward_backward import Passes

MARGIN = 1.1  # a lower precision has to be so many times as fast: noise should not choose
AGREEMENT = 0.98  # and the cosine of its gradient with float32's so large
# A broken kernel spoils the gradient of one parameter, which the whole hardly shows: where that is
# noise, it is 0; bf16's rounding leaves 0.6 and more of parameters that count in the norm.
PART_AGREEMENT, PART = 0.5, 0.01
MEASURED_FROM = 50  # steps; a shorter run would not earn back what measuring costs
TURNS, FEWEST_TURNS, ENOUGH_S = 5, 3, 2.0  # of timing; no further one after so many seconds
SCALES = 17  # fp16's scale starts at 2^16 and is halved while the gradient overflows


@dataclass(frozen=True)
class PrecisionTrial:
    """One precision, tried on this network."""

    seconds: float | None  # median, forward and backward of a micro-batch; None: no room for it
    gradient_cosine: float | None  # the least, see `_cosine`; None: one was not finite, or zero


NO_ROOM = PrecisionTrial(None, None)


def choose_precision(measured: Mapping[PrecisionName, PrecisionTrial]) -> PrecisionName:
    """The precision to learn in.

    Float32, unless another's gradient agrees with its own and is ``MARGIN`` times as fast to get;
    a third has to be so much faster than the second. Where float32 has no room, the first other.

    Args:
        measured: "fp32" first, then the others, the preferred one before the rest.
    """
    first, *others = measured
    chosen, best = first, measured[first].seconds
    if best is None:
        return others[0]
    for name in others:
        seconds, cosine = measured[name].seconds, measured[name].gradient_cosine
        agrees = cosine is not None and cosine >= AGREEMENT
        if agrees and seconds is not None and seconds * MARGIN <= best:
            chosen, best = name, seconds
    return chosen


def describe_choice(measured: Mapping[PrecisionName, PrecisionTrial], chosen: PrecisionName) -> str:
    """Describe the chosen precision and the reason, for a person."""
    base = measured["fp32"].seconds
    if base is None:
        return f"precision: {chosen}; float32 does not fit in the memory"
    seconds = measured[chosen].seconds
    if chosen != "fp32" and seconds is not None:
        return f"precision: {chosen}, {base / seconds:.2g} times as fast as float32 here"
    reasons = []
    for name, found in measured.items():
        cosine = found.gradient_cosine
        if name == "fp32" or found.seconds is None:
            continue
        if cosine is None:
            reasons.append(f"{name}'s gradient is not finite, or zero")
        elif cosine < AGREEMENT:
            reasons.append(f"{name}'s gradient is another (cosine {cosine:.3f})")
        else:
            reasons.append(f"{name} is {base / found.seconds:.2f} times as fast here")
    return "precision: float32; " + ", ".join(reasons)


def find_precision(
    passes: Passes,
    batch: Batch,
    names: Sequence[PrecisionName],
    device: torch.device,
    note: Callable[[str], None],
    due: Callable[[], bool] = lambda: False,
) -> tuple[PrecisionName, dict[str, dict[str, float | None]] | None]:
    """The precision to learn in, by `measure_precisions`, with a note of why.

    Args:
        batch: a micro-batch for which float32 has room; an empty one if there is none.

    Returns:
        Its name, and what was measured; None where there was no time to measure.
    """
    measured: dict[PrecisionName, PrecisionTrial] | None = dict.fromkeys(("fp32", *names), NO_ROOM)
    if batch.frames:
        measured = measure_precisions(passes, batch, names, device, due)
    if measured is None:
        note("precision: float32; the time budget leaves no time to try others")
        return "fp32", None
    chosen = choose_precision(measured)
    note(describe_choice(measured, chosen))
    return chosen, {name: asdict(found) for name, found in measured.items()}


def measure_precisions(
    passes: Passes,
    batch: Batch,
    names: Sequence[PrecisionName],
    device: torch.device,
    due: Callable[[], bool] = lambda: False,
) -> dict[PrecisionName, PrecisionTrial] | None:
    """Forward and backward of ``batch`` in float32 and each of ``names``, in turns.

    None where the time for it ends before every precision was tried and timed once.

    Every gradient is compared, not the first one alone: a kernel that reads memory which it has
    not written (oneDNN 3.12's of dilated depthwise convolutions in bf16) is right by chance. There
    is no dropout, whose masks may depend on the precision.

    Args:
        batch: a micro-batch of the run, on ``device``.
        names: the preferred one first.
        due: whether that time is over.
    """
    tried = {name: Precision(name, device) for name in ("fp32", *names)}
    seconds: dict[PrecisionName, list[float]] = {name: [] for name in tried}
    cosines: dict[PrecisionName, list[float | None]] = {name: [] for name in tried}
    reference: list[Tensor] = []

    def take(name: PrecisionName) -> bool:
        """Take one pass in the precision ``name``; tell whether there was a gradient to compare."""
        before = _clock(device)
        with passes.dry_run(batch, len(batch.frames), tried[name]) as finite:
            seconds[name].append(_clock(device) - before)
            gradients = [_gradient(parameter) for parameter in passes.parameters]
            if name == "fp32" and finite and not reference:
                reference.extend(gradient.clone() for gradient in gradients)
            cosine = _cosine(reference, gradients) if finite and reference else None
        cosines[name].append(cosine)
        return cosine is not None

    try:
        with _without_dropout(passes.model):
            for name, precision in tried.items():  # warms up, and finds fp16's scale
                if due():
                    return None
                attempts = SCALES if precision.still_searching and reference else 1
                any(take(name) for _ in range(attempts))
                seconds[name].clear()
                del cosines[name][:-1]
            started = _clock(device)
            for turn in range(TURNS):
                for name in list(tried)[:: -1 if turn % 2 else 1]:
                    if due():
                        return _summary(seconds, cosines) if turn else None
                    take(name)
                if turn + 1 >= FEWEST_TURNS and _clock(device) - started >= ENOUGH_S:
                    break
    except torch.OutOfMemoryError:
        return dict.fromkeys(tried, NO_ROOM)
    return _summary(seconds, cosines)


def _summary(
    seconds: Mapping[PrecisionName, Sequence[float]],
    cosines: Mapping[PrecisionName, Sequence[float | None]],
) -> dict[PrecisionName, PrecisionTrial]:
    return {
        name: PrecisionTrial(statistics.median(took), _least(cosines[name]))
        for name, took in seconds.items()
    }


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _cosine(reference: Sequence[Tensor], gradients: Sequence[Tensor]) -> float | None:
    """Cosine between all parameters' gradients as one vector, in float64; None where one is zero.

    Where a parameter with at least `PART` of the reference's norm has a cosine below
    `PART_AGREEMENT`, that one's is given instead.
    """
    rows = []
    for a, b in zip(reference, gradients, strict=True):
        a, b = a.double(), b.double()
        rows.append(torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()]))
    sums = torch.stack(rows)
    product, of_reference, of_gradients = sums.sum(dim=0).tolist()
    if not of_reference * of_gradients:
        return None
    counts = sums[:, 1] >= PART**2 * of_reference
    parts = sums[counts, 0] / (sums[counts, 1] * sums[counts, 2].clamp(min=1e-300)).sqrt()
    least = float(parts.min()) if len(parts) else 1.0
    return (
        least if least < PART_AGREEMENT else float(product / (of_reference * of_gradients) ** 0.5)
    )


def _least(cosines: Sequence[float | None]) -> float | None:
    """The least cosine; None if any is None."""
    known = [cosine for cosine in cosines if cosine is not None]
    return min(known) if len(known) == len(cosines) else None


def _clock(device: torch.device) -> float:
    """Seconds, when all that was started on ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    layers = [module for module in model.modules() if isinstance(module, _DropoutNd)]
    rates = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, rate in zip(layers, rates, strict=True):
            layer.p = rate
