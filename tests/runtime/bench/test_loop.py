"""Pacing of frames and their counts, with a clock that only the engine and waiting move."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fake_engines import FakeClock, FakeEngine
from roadshift.runtime.bench.loop import (
    WARMUP_SECONDS,
    Limit,
    QueryTimes,
    SystemClock,
    camera_loop,
    closed_loop,
    warm_up,
)
from roadshift.runtime.bench.row import time_figures
from roadshift.runtime.frames import Frame
from spaces import TWO


class Slow(FakeEngine):
    """The i-th call takes ``seconds(i)``; ``seen`` are the frames by their first pixel."""

    def __init__(self, clock: FakeClock, seconds: Callable[[int], float]) -> None:
        super().__init__(TWO, 4, 2)
        self._clock, self._seconds, self.seen = clock, seconds, list[int]()

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        self._clock.time += self._seconds(len(self.seen))
        self.seen.append(int(batch[0, 0, 0, 0]))
        return np.zeros(batch.shape[:3], np.uint8)


FRAMES = [Frame(np.full((2, 4, 3), index, np.uint8), str(index), 0) for index in range(100)]


def paced(
    seconds: Callable[[int], float], fps: float, limit: Limit
) -> tuple[QueryTimes, list[int]]:
    clock = FakeClock()
    engine = Slow(clock, seconds)
    return camera_loop(engine, FRAMES, fps, limit, clock), engine.seen


def test_a_fast_engine_sees_every_frame_when_it_comes() -> None:
    series, seen = paced(lambda _: 0.02, 10.0, Limit(queries=5))
    assert seen == [0, 1, 2, 3, 4]
    assert series.latencies == pytest.approx([0.02] * 5)
    assert series.seconds == pytest.approx(0.42)  # four periods, and the last query
    assert (series.dropped, series.missed) == (0, 0)


def test_an_engine_that_takes_exactly_a_period_is_in_time() -> None:
    series, seen = paced(lambda _: 0.1, 10.0, Limit(queries=30))
    assert seen == list(range(30))
    assert (series.dropped, series.missed) == (0, 0)


def test_a_late_engine_takes_the_newest_frame_and_time_counts_from_its_arrival() -> None:
    """250 ms a frame at 10 a second, by hand.

    Frame 0 is done at 0.25, when 1 and 2 are there: 2 is taken, 1 is dropped. 2 is done at 0.50,
    frame 5 has just come, 3 and 4 are dropped; it is done at 0.75, 7 is there, 6 is dropped.
    """
    series, seen = paced(lambda _: 0.25, 10.0, Limit(queries=4))
    assert seen == [0, 2, 5, 7]
    assert series.latencies == pytest.approx([0.25, 0.30, 0.25, 0.30])
    assert series.services == pytest.approx([0.25] * 4)
    assert series.dropped == 1 + 2 + 1
    figures = time_figures(series, None)
    assert (figures["arrived"], figures["dropped"]) == (8, 4)
    assert figures["missed_percent"] == pytest.approx(100)
    assert figures["cov"] == pytest.approx(0)  # of the work, not of the waiting


def test_one_slow_frame_costs_itself_and_those_that_came_meanwhile() -> None:
    series, seen = paced(lambda call: 0.35 if call == 2 else 0.05, 10.0, Limit(queries=6))
    assert seen == [0, 1, 2, 5, 6, 7]
    assert series.dropped == 2
    # 2 was late; 5 came at 0.5 and was taken at 0.55, done at 0.60, in time
    assert series.latencies == pytest.approx([0.05, 0.05, 0.35, 0.10, 0.05, 0.05])
    assert series.missed == 3
    assert time_figures(series, None)["missed_percent"] == pytest.approx(100 * 3 / 8)


def test_every_frame_is_delivered_or_dropped() -> None:
    random = np.random.default_rng(0)
    times = random.uniform(0.0, 0.3, 1000)
    series, seen = paced(lambda call: float(times[call]), 10.0, Limit(queries=500))
    arrived = time_figures(series, None)["arrived"]
    assert len(seen) + series.dropped == arrived
    late = sum(latency > 0.1 for latency in series.latencies)
    assert series.missed == late + series.dropped
    assert 0 < late < len(seen)


def test_a_run_ends_after_its_queries_and_its_seconds() -> None:
    def count(limit: Limit) -> int:
        clock = FakeClock()
        return len(closed_loop(Slow(clock, lambda _: 0.25), FRAMES, limit, clock).latencies)

    assert count(Limit(queries=3)) == 3
    assert count(Limit(seconds=1.0)) == 4
    assert count(Limit(queries=3, seconds=2.0)) == 8
    assert count(Limit(queries=9, seconds=2.0)) == 9
    assert count(Limit()) == 1
    rounds = Limit(queries=10, seconds=6.0).shares(4)
    assert [limit.queries for limit in rounds] == [2, 3, 2, 3]
    assert {limit.seconds for limit in rounds} == {1.5}
    assert Limit(queries=3).shares(5) == [Limit(queries=1)] * 3
    assert Limit(seconds=6.0).shares(3) == [Limit(seconds=2.0)] * 3


def test_a_closed_loop_has_no_deadline() -> None:
    clock = FakeClock()
    series = closed_loop(Slow(clock, lambda _: 9.0), FRAMES, Limit(queries=2), clock)
    figures = time_figures(series, 4.5)
    assert (figures["missed_percent"], figures["dropped"], figures["arrived"]) == (None,) * 3
    assert figures["scenario"] == "closed loop"
    assert figures["stages_ms"]["decode"] == 4.5
    assert figures["fps"] == pytest.approx(1 / 9)


@pytest.mark.parametrize("seed", range(5))
def test_statistics_are_numpy_s_on_any_series(seed: int) -> None:
    times = np.random.default_rng(seed).lognormal(-4, 0.5, 777)
    clock = FakeClock()
    engine = Slow(clock, lambda call: float(times[call]))
    figures = time_figures(closed_loop(engine, FRAMES, Limit(queries=777), clock), None)
    wanted = 1e3 * np.percentile(times, [50, 90, 99, 100])
    got = [figures[key] for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
    assert got == pytest.approx(wanted)
    assert figures["cov"] == pytest.approx(100 * times.std() / times.mean())
    assert figures["mean_ms"] == pytest.approx(1e3 * times.mean())


def test_warming_up_goes_on_until_it_gets_no_faster() -> None:
    """Windows of ten of 100, 50, 25, 25 ms: the fourth is not faster than the third."""
    clock = FakeClock()
    engine = Slow(clock, lambda call: (0.1, 0.05, 0.025, 0.025)[call // 10])
    assert warm_up(engine, FRAMES, None, clock) == (40, True)


def test_warming_up_takes_five_seconds_at_most_and_says_that_it_was_not_done() -> None:
    clock = FakeClock()
    engine = Slow(clock, lambda call: 0.2 * 0.99**call)
    queries, settled = warm_up(engine, FRAMES, None, clock)
    assert not settled
    assert clock.time == pytest.approx(WARMUP_SECONDS, abs=0.2)
    assert queries == len(engine.seen)


def test_a_number_of_warm_up_queries_is_kept() -> None:
    clock = FakeClock()
    engine = Slow(clock, lambda _: 1.0)
    assert warm_up(engine, FRAMES, 3, clock) == (3, True)
    assert len(engine.seen) == 3


def test_the_system_clock_waits_and_never_too_short() -> None:
    clock = SystemClock()
    moment = clock.now() + 0.003
    clock.wait_until(moment)
    assert clock.now() >= moment
    before = clock.now()
    clock.wait_until(before - 1)  # has passed: at once
    assert clock.now() >= before
