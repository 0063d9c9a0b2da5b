"""Every target of a bundle: opened, checked, and timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..engines import Engine, open_engine
from ..errors import EngineError, MissingDependencyError, NetworkError, Sentence, marked
from ..folders.label_pairs import labelled_pairs
from ..frames import open_frames
from ..labels.metrics import mapped_through
from ..labels.spaces import LabelMap
from ..probes.base import Probe
from ..probes.machine_state import open_probe
from ..probes.memory import resident_memory_mib
from ..video.damage_watch import DamageWatch
from .engine_measurement import EngineMeasurement
from .evaluation import evaluate
from .frames import BenchFrames, random_frames, read_frames
from .loop import SystemClock
from .settings import BenchSettings
from .targets import BenchTarget, bench_targets

REWARM = 2  # queries at the start of a round that are not counted: the caches were another row's
# Of one engine; torch's are RuntimeErrors.
_FAILURES = (EngineError, NetworkError, MissingDependencyError, RuntimeError, MemoryError)
_NOT_HERE = (NetworkError, MissingDependencyError)  # what a user did not allow, or install
Note = Callable[[str], None]
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TimedRow:
    """A row, and the milliseconds of each of its queries; none if it did not run.

    ``failed``: its engine was there and failed.
    """

    row: dict[str, Any]
    latencies_ms: NDArray[np.float64]
    failed: bool = False


class BundleRun:
    """The frames, the reference labels and the measurements of one bundle; see `bench_bundle`."""

    def __init__(self, bundle: Bundle, settings: BenchSettings, note: Note, report: Report) -> None:
        self._bundle, self._settings, self._note, self._report = bundle, settings, note, report
        self._pairs = (
            labelled_pairs(str(settings.frames), settings.labels, note=lambda _: None)
            if settings.labels is not None
            else None
        )
        self._label_map = label_map_of(bundle, settings)
        for sentence in self._label_map.notes() if self._label_map else ():
            note(sentence)
        self._probes: dict[str, Probe] = {}
        self._measurements: dict[BenchTarget, EngineMeasurement] = {}
        self._rows: dict[BenchTarget, TimedRow] = {}

    def measure(self, found: Sequence[BenchTarget]) -> list[TimedRow]:
        """A row for every target, in their order; one that fails has its reason in it."""
        frames = self._frames()
        base = resident_memory_mib()
        reference = self._reference(found, frames)
        self._probes = {
            device: open_probe(device) for device in dict.fromkeys(c.device for c in found)
        }
        for done, target in enumerate(found):
            self._report(done, len(found), f"preparing {target.title}")
            probe = self._probes[target.device]
            self._measurements[target] = EngineMeasurement(
                frames, SystemClock(), probe, self._settings.camera_fps, base
            )
            with self._failing(target):
                self._prepare(self._measurements[target], target, reference)
                if self._settings.rounds == 1:
                    self._measurements[target].run(self._settings.limit)
                    self._finish(target)
        if self._settings.rounds > 1:
            self._take_turns()
            for target in list(self._measurements):
                self._finish(target)
        return [self._rows[target] for target in found]

    @contextmanager
    def _failing(self, target: BenchTarget) -> Iterator[None]:
        """An engine that fails, GPU memory full for one, leaves its reason as its row."""
        try:
            yield
        except _FAILURES as error:
            self._measurements.pop(target).close()
            reason = _first_line(error)
            row = target.left_out(reason)
            failed = not isinstance(error, _NOT_HERE)
            self._rows[target] = TimedRow(row, np.empty(0), failed)

    def close(self) -> None:
        """Close the engines that are still open, and the probes."""
        for measurement in self._measurements.values():
            measurement.close()
        for probe in self._probes.values():
            probe.close()

    def _frames(self) -> BenchFrames:
        if self._settings.frames is None:
            spec = self._bundle.manifest.input
            return random_frames(spec.width, spec.height)
        source = open_frames(self._settings.frames, on_skip=self._note)
        # Not beside the reading, whose time is measured as well.
        with DamageWatch(self._note, at_once=False) as watch:
            source.watch = watch
            frames = read_frames(source)
            watch.finish()
        return frames

    def _reference(
        self, found: Sequence[BenchTarget], frames: BenchFrames
    ) -> list[NDArray[np.uint8]] | None:
        """Labels of the torch model, else of the first fp32 artefact that opens; None if none."""
        torch_model = bench_targets(self._bundle, ("torch",), self._settings.device)[0]
        fp32 = [c for c in found if c.artefact.precision == "fp32"]
        for target in (*torch_model[::-1], *fp32):  # on a GPU where there is one
            with suppress(*_FAILURES), self._open(target) as engine:  # its own row says why
                return [engine.segment(frame) for frame in frames.frames]
        return None

    def _prepare(
        self,
        measurement: EngineMeasurement,
        target: BenchTarget,
        reference: list[NDArray[np.uint8]] | None,
    ) -> None:
        measurement.open(lambda: self._open(target), self._settings.warmup, None, reference)
        self._note(measurement.engine.reason)
        if self._pairs is not None:
            matrix = evaluate(measurement.engine, self._pairs, self._label_map)
            measurement.quality["miou"] = matrix.miou()

    def _take_turns(self) -> None:
        """Rounds A B C, B C A, ...: nobody is always first, nor always after the same one."""
        shares = self._settings.limit.shares(self._settings.rounds)
        for index, share in enumerate(shares):
            left = list(self._measurements.items())  # without those that failed in an earlier round
            turn = index % max(1, len(left))
            for place, (target, measurement) in enumerate((*left[turn:], *left[:turn])):
                self._report(index * len(left) + place, len(shares) * len(left), target.title)
                with self._failing(target):
                    measurement.rewarm(REWARM)
                    measurement.run(share)

    def _open(self, target: BenchTarget) -> Engine:
        return open_engine(
            self._bundle,
            backend=target.backend,
            device=target.device,
            artefact=target.artefact.path,
            threads=self._settings.threads,
        )

    def _finish(self, target: BenchTarget) -> None:
        measurement = self._measurements.pop(target)
        size_mib = target.artefact.bytes / 2**20
        row = measurement.row(size_mib=size_mib, **mapped_through(self._label_map))
        measurement.close()
        self._rows[target] = TimedRow(row, 1e3 * np.array(measurement.series.latencies))


def label_map_of(bundle: Bundle, settings: BenchSettings) -> LabelMap | None:
    """From the bundle's classes to those of the labels; None: labels are in its own.

    Raises:
        LabelSpaceError: no label map leads there.
    """
    if settings.label_space is None:
        return None
    return bundle.label_space.map_to(settings.label_space, settings.label_map)


def _first_line(error: BaseException) -> str:
    lines = marked(error).strip().splitlines()
    return Sentence(lines[0]) if lines else type(error).__name__
