"""Every contender of a bundle: opened, checked, and timed in turns."""

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
from .backends import Contender, contenders
from .evaluation import evaluate
from .frames import BenchFrames, random_bench_frames, read_frames
from .lane import Lane
from .loop import SystemClock
from .settings import BenchSettings

REWARM = 2  # queries at the start of a round that are not counted: the caches were another row's
# Of one engine; torch's are RuntimeErrors.
_FAILURES = (EngineError, NetworkError, MissingDependencyError, RuntimeError, MemoryError)
_NOT_HERE = (NetworkError, MissingDependencyError)  # what a user did not allow, or install
Note = Callable[[str], None]
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Measured:
    """A row, and the milliseconds of each of its queries; none if it did not run.

    ``failed``: its engine was there and failed.
    """

    row: dict[str, Any]
    latencies_ms: NDArray[np.float64]
    failed: bool = False


class BundleRun:
    """The frames, the reference labels and the lanes of one bundle; see `bench_bundle`."""

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
        self._lanes: dict[Contender, Lane] = {}
        self._rows: dict[Contender, Measured] = {}

    def measure(self, found: Sequence[Contender]) -> list[Measured]:
        """A row for every contender, in their order; one that fails has its reason in it."""
        frames = self._frames()
        base = resident_memory_mib()
        reference = self._reference(found, frames)
        self._probes = {
            device: open_probe(device) for device in dict.fromkeys(c.device for c in found)
        }
        for done, contender in enumerate(found):
            self._report(done, len(found), f"preparing {contender.title}")
            probe = self._probes[contender.device]
            self._lanes[contender] = Lane(
                frames, SystemClock(), probe, self._settings.camera_fps, base
            )
            with self._failing(contender):
                self._prepare(self._lanes[contender], contender, reference)
                if self._settings.rounds == 1:
                    self._lanes[contender].run(self._settings.limit)
                    self._finish(contender)
        if self._settings.rounds > 1:
            self._take_turns()
            for contender in list(self._lanes):
                self._finish(contender)
        return [self._rows[contender] for contender in found]

    @contextmanager
    def _failing(self, contender: Contender) -> Iterator[None]:
        """An engine that fails, GPU memory full for one, leaves its reason as its row."""
        try:
            yield
        except _FAILURES as error:
            self._lanes.pop(contender).close()
            reason = _first_line(error)
            row = contender.left_out(reason)
            failed = not isinstance(error, _NOT_HERE)
            self._rows[contender] = Measured(row, np.empty(0), failed)

    def close(self) -> None:
        """Close the engines that are still open, and the probes."""
        for lane in self._lanes.values():
            lane.close()
        for probe in self._probes.values():
            probe.close()

    def _frames(self) -> BenchFrames:
        if self._settings.frames is None:
            spec = self._bundle.manifest.input
            return random_bench_frames(spec.width, spec.height)
        source = open_frames(self._settings.frames, on_skip=self._note)
        # Not beside the reading, whose time is measured as well.
        with DamageWatch(self._note, at_once=False) as watch:
            source.watch = watch
            frames = read_frames(source)
            watch.finish()
        return frames

    def _reference(
        self, found: Sequence[Contender], frames: BenchFrames
    ) -> list[NDArray[np.uint8]] | None:
        """Labels of the torch model, else of the first fp32 artefact that opens; None if none."""
        torch_model = contenders(self._bundle, ("torch",), self._settings.device)[0]
        fp32 = [c for c in found if c.artefact.precision == "fp32"]
        for contender in (*torch_model[::-1], *fp32):  # on a GPU where there is one
            with suppress(*_FAILURES), self._open(contender) as engine:  # its own row says why
                return [engine.segment(frame) for frame in frames.frames]
        return None

    def _prepare(
        self, lane: Lane, contender: Contender, reference: list[NDArray[np.uint8]] | None
    ) -> None:
        lane.open(lambda: self._open(contender), self._settings.warmup, None, reference)
        self._note(lane.engine.reason)
        if self._pairs is not None:
            lane.quality["miou"] = evaluate(lane.engine, self._pairs, self._label_map).miou()

    def _take_turns(self) -> None:
        """Rounds A B C, B C A, ...: nobody is always first, nor always after the same one."""
        rounds, share = self._settings.rounds, self._settings.limit.share(self._settings.rounds)
        for index in range(rounds):
            lanes = list(self._lanes.items())  # without those that failed in an earlier round
            turn = index % max(1, len(lanes))
            for place, (contender, lane) in enumerate((*lanes[turn:], *lanes[:turn])):
                self._report(index * len(lanes) + place, rounds * len(lanes), contender.title)
                with self._failing(contender):
                    lane.rewarm(REWARM)
                    lane.run(share)

    def _open(self, contender: Contender) -> Engine:
        return open_engine(
            self._bundle,
            backend=contender.backend,
            device=contender.device,
            artefact=contender.artefact.path,
            threads=self._settings.threads,
        )

    def _finish(self, contender: Contender) -> None:
        lane = self._lanes.pop(contender)
        size_mib = contender.artefact.bytes / 2**20
        row = lane.row(size_mib=size_mib, **mapped_through(self._label_map))
        lane.close()
        self._rows[contender] = Measured(row, 1e3 * np.array(lane.series.latencies))


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
