"""The benchmark of swaps tells why a frame was dropped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from swapping import WorkOnFrame, causes, drops

PERIOD_MS = 33.0


def works(late: dict[int, tuple[float, dict[str, float]]], usual_ms: float) -> list[WorkOnFrame]:
    """Six frames of a thread that does each in the usual time, but for some: when, and on what."""
    found = []
    for frame in range(6):
        after_ms, spent = late.get(frame, (0.0, {}))
        began = (PERIOD_MS * frame + after_ms) / 1000
        times = {"computed_ms": usual_ms, "for_core_ms": 0.0, "waited_ms": 0.0, "ours_ms": 0.0}
        times |= spent
        wall_ms = times["computed_ms"] + times["for_core_ms"] + times["waited_ms"]
        found.append(WorkOnFrame(frame, began, began + wall_ms / 1000, **times))
    return found


@pytest.mark.parametrize(
    ("spent", "cause"),
    [
        ({"computed_ms": 70.0}, "computing"),
        ({"waited_ms": 60.0}, "locks"),
        ({"for_core_ms": 60.0}, "other programs"),
        ({"for_core_ms": 60.0, "ours_ms": 55.0}, "own threads"),
    ],
)
def test_a_late_engine_drops_the_frame_that_came_meanwhile(
    spent: dict[str, float], cause: str
) -> None:
    camera = works({}, usual_ms=0.1)
    engine = [work for work in works({2: (0.2, spent)}, usual_ms=8.0) if work.frame != 3]
    (drop,) = drops(engine, camera)
    assert (drop.frame, drop.late, drop.cause, drop.work.frame) == (3, "engine", cause, 2)


def test_a_late_camera_gives_two_frames_at_once() -> None:
    camera = works({2: (0.0, {"for_core_ms": 33.0})}, usual_ms=0.1)
    engine = [work for work in works({3: (1.0, {})}, usual_ms=8.0) if work.frame != 2]
    (drop,) = drops(engine, camera)
    assert (drop.frame, drop.late, drop.cause) == (2, "camera", "other programs")
    assert causes([{"late": drop.late, "cause": drop.cause}]) == "1 (camera: other programs)"
