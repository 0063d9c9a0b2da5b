"""One stream of frames through an engine, and the time that each took.

Closed loop: the next frame starts when the last one is done (MLPerf Inference, single stream).
Camera: frame ``k`` arrives at ``k / fps`` whether or not the engine is ready; the newest frame that
has arrived is taken, those before it are dropped, and time counts from arrival.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from ..engines import Engine
from ..frames import Frame
from ..frames.preprocess import fit_frame, restore_labels

WARMUP_WINDOW = 10  # queries whose median is compared with that of the ones before
WARMUP_GAIN = 0.02  # a window that is not faster by more ends the warm-up
WARMUP_SECONDS = 5.0
_SPIN_SECONDS = 1e-3  # the end of a wait that is not slept through, since sleep() comes late


class Clock(Protocol):
    """Source of a bench's time."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def wait_until(self, moment: float) -> None:
        """Return at ``moment``, or at once if it has passed."""
        ...


class SystemClock:
    """The machine's own monotonic clock."""

    now = staticmethod(time.perf_counter)

    def wait_until(self, moment: float) -> None:
        left = moment - time.perf_counter()
        if left > _SPIN_SECONDS:
            time.sleep(left - _SPIN_SECONDS)
        while time.perf_counter() < moment:
            pass


@dataclass(frozen=True)
class Limit:
    """End of a run: after so many queries and so many seconds, both; None asks for nothing."""

    queries: int | None = None
    seconds: float | None = None

    def reached(self, queries: int, seconds: float) -> bool:
        """Tell whether both limits are reached; one query is always run."""
        return queries >= max(1, self.queries or 0) and seconds >= (self.seconds or 0.0)

    def shares(self, rounds: int) -> list[Limit]:
        """Limits of so many rounds, whose queries add up; of as many as there are queries."""
        if self.queries is None:
            return [Limit(None, None if self.seconds is None else self.seconds / rounds)] * rounds
        rounds = min(rounds, max(1, self.queries))
        ends = [self.queries * index // rounds for index in range(rounds + 1)]
        seconds = None if self.seconds is None else self.seconds / rounds
        return [Limit(end - begin, seconds) for begin, end in pairwise(ends)]


@dataclass
class QueryTimes:
    """Times of queries, in seconds.

    Attributes:
        latencies: of each query, from a frame in memory, or its arrival, to its labels.
        services: of each query, from the start of the work on it; the latency in a closed loop.
        stages: of each query, adding up to its service.
        seconds: in all, waiting included.
        dropped: frames of the camera that were never looked at.
        period: of the camera; None in a closed loop.
    """

    period: float | None = None
    latencies: list[float] = field(default_factory=list)
    services: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    dropped: int = 0

    @property
    def missed(self) -> int:
        """Frames without labels one period after they arrived: late ones and dropped ones."""
        if self.period is None:
            return 0
        deadline = self.period * (1 + 1e-9)
        return self.dropped + sum(latency > deadline for latency in self.latencies)

    def extend(self, other: QueryTimes) -> None:
        """Append another run under the same conditions."""
        self.latencies += other.latencies
        self.services += other.services
        self.stages += other.stages
        self.seconds += other.seconds
        self.dropped += other.dropped


def closed_loop(engine: Engine, frames: Sequence[Frame], limit: Limit, clock: Clock) -> QueryTimes:
    """Frames in turn, each as soon as the last one is done."""
    series = QueryTimes()
    started = clock.now()
    while not limit.reached(len(series.latencies), clock.now() - started):
        stages = run_query(engine, frames[len(series.latencies) % len(frames)], clock)
        series.stages.append(stages)
        series.latencies.append(sum(stages.values()))
    series.services = list(series.latencies)
    series.seconds = clock.now() - started
    return series


def camera_loop(
    engine: Engine, frames: Sequence[Frame], fps: float, limit: Limit, clock: Clock
) -> QueryTimes:
    """Frames as a camera gives them, the newest one first; see the head of this file."""
    period = 1.0 / fps
    series = QueryTimes(period=period)
    started = clock.now()
    last = -1
    while not limit.reached(len(series.latencies), clock.now() - started):
        clock.wait_until(started + (last + 1) * period)
        newest = max(last + 1, math.floor((clock.now() - started) / period + 1e-9))
        series.dropped += newest - last - 1
        last = newest
        stages = run_query(engine, frames[newest % len(frames)], clock)
        series.latencies.append(clock.now() - (started + newest * period))
        series.services.append(sum(stages.values()))
        series.stages.append(stages)
    series.seconds = clock.now() - started
    return series


def warm_up(
    engine: Engine, frames: Sequence[Frame], queries: int | None, clock: Clock
) -> tuple[int, bool]:
    """Queries that are not counted: so many, or until they get no faster.

    Without a number it stops when the median of ten is not over 2 % below that of the ten before,
    or after five seconds.

    Returns:
        How many were run, and whether they had stopped getting faster (True for a fixed number).
    """
    if queries is not None:
        for index in range(queries):
            run_query(engine, frames[index % len(frames)], clock)
        return queries, True
    times: list[float] = []
    started = clock.now()
    before = math.inf
    while clock.now() - started < WARMUP_SECONDS:
        times.append(sum(run_query(engine, frames[len(times) % len(frames)], clock).values()))
        if len(times) % WARMUP_WINDOW:
            continue
        median = sorted(times[-WARMUP_WINDOW:])[WARMUP_WINDOW // 2]
        if median > before * (1 - WARMUP_GAIN):
            return len(times), True
        before = median
    return len(times), False


def run_query(engine: Engine, frame: Frame, clock: Clock) -> dict[str, float]:
    """Seconds of each stage of one frame.

    "preprocess", then "infer", or what the engine says of itself: "h2d", "gpu", "d2h" and "host",
    the rest of its call; then "postprocess".
    """
    started = clock.now()
    fitted = fit_frame(frame.image, engine.input.width, engine.input.height)
    ready = clock.now()
    labels = engine.infer(fitted[None])
    inferred = clock.now()
    restore_labels(labels[0], frame.image.shape[1], frame.image.shape[0])
    done = clock.now()
    inside = {"infer": inferred - ready}
    if engine.stage_ms is not None:
        inside = {name: milliseconds / 1e3 for name, milliseconds in engine.stage_ms.items()}
        inside["host"] = inferred - ready - sum(inside.values())
    return {"preprocess": ready - started, **inside, "postprocess": done - inferred}
