"""Cost of collecting to an engine beside it: latency of its frames, and those that it loses.

    python benchmarks/collecting_beside.py --bundle DIR [--seconds 120] [--fps 30] [--threads 1]

A synthetic camera gives frames of 1280x720 in time, and an engine labels them as `run` has it do:
the newest frame, and what comes meanwhile is dropped. For two seconds each, by turns, it is alone;
gives its frames to a collector in the same process (`collect camera:0 --bundle B`); or runs beside
another process that collects from a camera of its own (`collect camera:0`, beside `run`), which is
stopped (SIGSTOP) at other times. So whatever else the machine does disturbs all three alike.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from machine_line import machine_line
from numpy.typing import NDArray
from roadshift.runtime import open_engine
from roadshift.runtime.collecting.collect import collect_frames
from roadshift.runtime.collecting.collector import Collector
from roadshift.runtime.collecting.store import FrameStore
from roadshift.runtime.frames.live import LiveSource
from roadshift.runtime.pipeline.runner import Pipeline, Result

ALONE, INSIDE, BESIDE = "alone", "a collector in its process", "a collector in another process"
TURN_S, SETTLE_S = 2.0, 0.3  # of a turn; at its begin, which does not count
BUDGET = 20_000_000  # bytes: full soon, so that frames are written and taken out all the time
LIMIT_S = 3600.0


class PacedPictures:
    """Pictures in time, each a new one; what is late is not made up for."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        rng = np.random.default_rng(7)
        detail = rng.integers(0, 40, (720, 1280, 1), np.uint8)
        coarse = rng.integers(0, 216, (20, 6, 10, 3), np.uint8)
        self._pictures = [cv2.resize(one, (1280, 720)) + detail for one in coarse]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        due, number = time.monotonic(), 0
        while True:
            due = max(due + 1 / self.fps, time.monotonic() - 1 / self.fps)
            time.sleep(max(0.0, due - time.monotonic()))
            picture = self._pictures[number // 4 % len(self._pictures)]
            yield np.roll(picture, number, axis=0)
            number += 1


@dataclass
class Turns:
    """Frames of all turns of one kind."""

    latencies_ms: list[float] = field(default_factory=list)
    read: int = 0
    dropped: int = 0

    def row(self, name: str) -> str:
        """A row of the table."""
        p50, p99 = np.percentile(self.latencies_ms, [50, 99])
        return f"| {name} | {p50:.1f} | {p99:.1f} | {self.dropped} | {self.read} |"


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--threads", type=int, help="of the engine")
    parser.add_argument("--collect", type=Path, help="be the other process, and collect there")
    given = parser.parse_args()
    source = LiveSource("camera", lambda: PacedPictures(given.fps))
    if given.collect is not None:
        collect_frames(source, given.collect, BUDGET, keep_free=0.0, duration_s=LIMIT_S)
        return
    if given.bundle is None:
        parser.error("--bundle is needed")
    with (
        TemporaryDirectory() as scratch,
        open_engine(given.bundle, threads=given.threads) as engine,
        Collector(FrameStore(Path(scratch) / "inside", BUDGET)) as collector,
        other_process(Path(scratch) / "beside", given.fps) as other,
        Pipeline(source, engine, depth=0, newest=True) as pipeline,
    ):
        turns = measure(pipeline, collector, other, given.seconds)
        source.stop()
    print(f"{machine_line()}; {given.fps:g} frames a second.\n")
    print("| | latency p50, ms | p99, ms | dropped by the engine | of |")
    print("|---|---:|---:|---:|---:|")
    print("\n".join(one.row(name) for name, one in turns.items()))
    counts = ", ".join(f"{key} {collector.counts[key]}" for key in ("frames", "kept", "no_time"))
    print(f"\nThe collector in the process: {counts}.")


@contextmanager
def other_process(out: Path, fps: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process that collects, stopped as soon as it has kept something."""
    words = [sys.executable, __file__, "--collect", str(out), "--fps", str(fps)]
    with subprocess.Popen(words) as process:
        try:
            while not (out.is_dir() and any(out.glob("*.jpg"))):
                time.sleep(0.1)
            process.send_signal(signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def measure(
    pipeline: Pipeline, collector: Collector, other: subprocess.Popen[bytes], seconds: float
) -> dict[str, Turns]:
    """Frames by kind of turn; each kind comes first as often as last."""
    turns = {name: Turns() for name in (ALONE, INSIDE, BESIDE)}
    order = [*turns, *reversed(turns)]
    results = iter(pipeline)
    next(results)
    ends = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends:
        name = order[number % len(order)]
        other.send_signal(signal.SIGCONT if name == BESIDE else signal.SIGSTOP)
        one_turn(pipeline, results, turns[name], collector if name == INSIDE else None)
        number += 1
    return turns


def one_turn(
    pipeline: Pipeline, results: Iterator[Result], turn: Turns, collector: Collector | None
) -> None:
    """Take results for as long as a turn lasts."""
    began, before = time.monotonic(), None
    for result in results:
        if collector is not None:
            collector.offer(result.frame, result.labels)
        passed = time.monotonic() - began
        if passed > SETTLE_S:
            before = before or (pipeline.frames_read, pipeline.dropped)
            turn.latencies_ms.append(result.latency_ms)
        if passed > TURN_S and before is not None:
            turn.read += pipeline.frames_read - before[0]
            turn.dropped += pipeline.dropped - before[1]
            return


if __name__ == "__main__":
    main()
