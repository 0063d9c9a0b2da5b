"""Benchmarks of engines: speed, stage by stage, and whether the labels are still right.

Frames are decoded before, so a query is a frame in memory -> its labels. The rows of a bundle are
timed in rounds, A B C, B C A, ..., so that what the machine does meanwhile falls on all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle, open_bundle
from ..engines import Engine, open_engine
from ..errors import EngineError, marked
from ..frames import Frame
from ..probes.base import Probe
from ..probes.machine_state import open_probe
from .engine_measurement import EngineMeasurement
from .frames import random_frames, read_frames
from .loop import Clock, Limit, SystemClock
from .run import BundleRun, Note, Report, TimedRow, label_map_of
from .settings import BenchSettings, check_limits
from .targets import BenchTarget, bench_targets, choose_backends, is_default, not_by_default

__all__ = [
    "BenchSettings",
    "TimedRow",
    "bench_bundle",
    "bench_engine",
    "check_bundle",
    "check_none_failed",
    "measure_bundle",
    "random_frames",
]


def bench_engine(
    engine: Engine,
    frames: Iterable[Frame] | None = None,
    warmup: int | None = None,
    queries: int | None = 100,
    labels: Sequence[NDArray[np.uint8]] | None = None,
    reference: Engine | Sequence[NDArray[np.uint8]] | None = None,
    *,
    duration_s: float | None = None,
    camera_fps: float | None = None,
    clock: Clock | None = None,
    probe: Probe | None = None,
) -> dict[str, Any]:
    """One row of the table that compares artefacts.

    Args:
        engine: what is measured; it stays open.
        frames: cycled through. All frames of a list; of a source the first 64, whose reading is
            the stage "decode". None takes random textures of the engine's input size.
        warmup: queries that are not counted; None: until ten are no longer over 2 % faster than
            the ten before, for five seconds at most.
        queries: queries that are, at least; 1,024 or more for a figure that is published.
        labels: class indices of the frames, (H, W) uint8 each, in their order, for "miou".
        reference: whose labels "label_agreement" is with, such as the fp32 engine; or those
            labels, one map a frame, so that no second engine counts for "peak_mib".
        duration_s: seconds to go on for, at least.
        camera_fps: frames arrive at this rate whether or not the engine is ready, the newest is
            taken and the others are dropped; None is a closed loop, one frame after the other.
        clock: what time is taken from; the machine's own unless given.
        probe: what the state of the machine is read from; found out unless given.

    Returns:
        JSON values; what is unknown is None.

        - "artefact", "backend", "precision", "device", "threads", "scenario".
        - Milliseconds from a frame in memory, or its arrival at the camera, to its labels:
          "p50_ms", "p90_ms", "p99_ms", "max_ms", "mean_ms".
        - "stages_ms", means that add up to the work on a query: "preprocess" (to the input size),
          "infer" (the engine) or, where the engine measures them, "h2d", "gpu", "d2h" and "host"
          (the rest of its call), "postprocess" (back to the frame's size); and, outside of the
          queries, "decode" if ``frames`` were read here from their source.
          "outside_engine_percent": the share of preprocess and postprocess.
        - "fps": queries a second. "cov": standard deviation over mean of the work on a query,
          percent. "queries", "warmup", "frames": what was run.
        - With a camera: "arrived" and "dropped" frames, and "missed_percent" of those that arrived:
          dropped, or without labels one period later.
        - MiB: "peak_mib", the highest resident memory of this process; "added_mib", what of it came
          with the engine's opening and running (running alone here, where it is open before);
          "gpu_mib", the same of this process's memory on the GPU.
        - "energy_mj": millijoules a query, of the GPU (NVML) or the board (Jetson). "machine": see
          `MachineMonitor.summary`.
        - "label_agreement" and "miou": percent over the frames, each once.
        - "warnings": sentences on what makes the figures hard to believe.
        - "size_mib", "error": None here, see `bench_bundle`.
        - "label_map": there if "miou" of a bundle was measured through one.

    Raises:
        ConfigError: ``queries`` is below 1, or another number is out of range.
        FrameError: there are no frames.
        LabelError: there are fewer label maps than frames, or one does not fit its frame.
    """
    check_limits(queries, warmup, duration_s, camera_fps)
    size = engine.input.width, engine.input.height
    chosen = random_frames(*size) if frames is None else read_frames(frames)
    own = probe or open_probe(engine.device)
    try:
        measurement = EngineMeasurement(chosen, clock or SystemClock(), own, camera_fps)
        measurement.open(lambda: engine, warmup, labels, reference)
        measurement.run(Limit(queries, duration_s))
        return measurement.row()
    finally:
        if probe is None:
            own.close()


def bench_bundle(
    bundle: Bundle | str | Path,
    settings: BenchSettings | None = None,
    *,
    note: Note = lambda _: None,
    report: Report = lambda *_: None,
) -> list[dict[str, Any]]:
    """A row of `bench_engine` for each artefact of a bundle on each backend and device.

    What cannot run here has a row too, after the others, with the reason under "error" and no
    figures. Label agreement is with the torch model where torch and the weights are there, and
    otherwise with the first fp32 artefact; that row's own is 100. mIoU is over all labelled frames.
    "size_mib" is the artefact's file. Memory is taken while engines are opened one after the other:
    "peak_mib" is that of the process before any of them, and what this one added.

    Args:
        note: called with a sentence on what runs and why, and for frames that are skipped.
        report: called with steps done, steps in all, and what runs.

    Raises:
        EngineError: the bundle has nothing that can run here as asked.
        BundleError, ConfigError, FrameError, LabelError: something cannot be read or does not fit.
    """
    return [m.row for m in measure_bundle(bundle, settings, note=note, report=report)]


def measure_bundle(
    bundle: Bundle | str | Path,
    settings: BenchSettings | None = None,
    *,
    note: Note = lambda _: None,
    report: Report = lambda *_: None,
) -> list[TimedRow]:
    """As `bench_bundle`, with the time of every query."""
    settings = settings or BenchSettings()
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    found, left_out = _targets(opened, settings)
    run = BundleRun(opened, settings, note, report)
    try:
        measured = run.measure(found)
    finally:
        run.close()
    done = [m for m in measured if m.row["error"] is None]
    if not done:
        raise _all_failed(opened, measured)
    failed = [m for m in measured if m.row["error"] is not None]
    if is_default(settings.backends):
        left_out += not_by_default(opened, settings.device)
    failed += [TimedRow(row, np.empty(0)) for row in left_out]
    return [*done, *failed]


def check_bundle(bundle: Bundle, settings: BenchSettings) -> None:
    """Refuse a bundle that cannot be measured as asked, in less time than it takes to measure it.

    Raises:
        EngineError: the bundle has nothing that can run here as asked.
        LabelSpaceError: no label map leads from its classes to those of the labels.
    """
    label_map_of(bundle, settings)
    _targets(bundle, settings)


def check_none_failed(measured: Sequence[TimedRow]) -> None:
    """Refuse figures that lack an artefact because its engines failed; what runs nowhere here may.

    Raises:
        EngineError: they do.
    """
    done = {_artefact(m.row) for m in measured if m.row["error"] is None}
    for m in measured:
        if m.failed and _artefact(m.row) not in done:
            where = "/".join(filter(None, _artefact(m.row)))
            raise EngineError(f"{where}: could not be measured: {m.row['error']}")


def _artefact(row: dict[str, Any]) -> tuple[str, str]:
    return row.get("bundle", ""), row["artefact"]


def _targets(
    bundle: Bundle, settings: BenchSettings
) -> tuple[list[BenchTarget], list[dict[str, Any]]]:
    """Targets to measure, at least one, and rows for what cannot run here."""
    found, left_out = bench_targets(bundle, choose_backends(settings.backends), settings.device)
    if not found:
        raise _nothing_runs(bundle, settings, left_out)
    return found, left_out


def _all_failed(bundle: Bundle, measured: Sequence[TimedRow]) -> EngineError:
    """The error that no engine could be measured: each reason once, with where it was met."""
    reasons: dict[str, str] = {}
    for row in (m.row for m in measured):
        reasons.setdefault(row["error"], f"{row['artefact']} on {row['backend']}, {row['device']}")
    told = " ".join(f"{where}: {marked(reason)}" for reason, where in reasons.items())
    return EngineError(f"{bundle.path}: nothing of it could be measured: {told}")


def _nothing_runs(
    bundle: Bundle, settings: BenchSettings, rows: Sequence[dict[str, Any]]
) -> EngineError:
    """The error that no engine opens: what `open_engine` says of the request, or all reasons."""
    try:
        open_engine(bundle, device=settings.device, threads=settings.threads).close()
    except EngineError as error:
        return error
    reasons = " ".join(dict.fromkeys(marked(row["error"]) for row in rows))
    return EngineError(f"{bundle.path}: nothing of it runs as asked: {reasons}")
