"""Frames through an engine with decoding, inference and postprocessing at the same time.

    decode, fit ──> infer ──> restore, sink ──> caller

Each arrow is a queue and each part but the caller a thread; NumPy, OpenCV and the engines release
the interpreter while they work. Frames stay in order, and a fixed number of them is in memory.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .engine import Engine
from .frames import Frame
from .preprocess import fit_frame, restore_labels

STAGES = ("decode_ms", "preprocess_ms", "infer_ms", "postprocess_ms", "sink_ms", "end_to_end_ms")


@dataclass(frozen=True, slots=True)
class Result:
    """One frame that went through.

    Attributes:
        frame: as it was read.
        labels: class indices, (H, W) uint8, at the frame's own size.
        stages_ms: of this frame, in milliseconds: decode_ms (reading it from its source),
            preprocess_ms (fitting it to the engine's input), infer_ms (the engine, with the copies
            to and from its device), postprocess_ms (labels back to the frame's size), sink_ms
            (writing, 0 without a sink), and end_to_end_ms from the start of decoding until the
            labels are ready, waiting in queues included and the sink not.
    """

    frame: Frame
    labels: NDArray[np.uint8]
    stages_ms: dict[str, float]


@dataclass(slots=True)
class _Job:
    """A frame on its way; ``pixels`` are (1, h, w, 3) before inference, (h, w) labels after."""

    frame: Frame
    pixels: NDArray[np.uint8]
    started: float
    stages_ms: dict[str, float]


_T = TypeVar("_T")
_Queue = queue.SimpleQueue[_T | BaseException | None]  # None or an exception comes last


class Pipeline:
    """Results of frames, in order; iterate over it once, from one thread.

        with Pipeline(open_frames("drive.mp4"), engine) as pipeline:
            for result in pipeline:
                ...

    An exception of the source, the engine or the sink is raised from the iteration, after the
    results of the frames before it.

    Args:
        frames: read in a thread of its own, lazily.
        engine: stays open.
        depth: frames that may wait between stages; at most ``depth + 4`` are in memory at once,
            with the one in each stage and the one that the caller holds.
        sink: called with each result in the postprocessing thread, in order, before the caller
            gets it; what writes results goes here, so that it overlaps with inference.

    Attributes:
        frames: results given out so far.
        seconds: from the start of the iteration until the last of them.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        engine: Engine,
        depth: int = 2,
        *,
        sink: Callable[[Result], object] | None = None,
    ) -> None:
        self._source = frames
        self._engine = engine
        self._sink = sink
        # A slot is taken before decoding and given back when the caller asks for the next result,
        # while it still holds the last one.
        self._slots = threading.Semaphore(depth + 3)
        self._decoded: _Queue[_Job] = queue.SimpleQueue()
        self._inferred: _Queue[_Job] = queue.SimpleQueue()
        self._finished: _Queue[Result] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._totals = dict.fromkeys(STAGES, 0.0)
        work: list[Callable[[], None]] = [
            self._decode,
            lambda: self._stage(self._decoded, self._infer, self._inferred),
            lambda: self._stage(self._inferred, self._postprocess, self._finished),
        ]
        self._threads = [threading.Thread(target=target, daemon=True) for target in work]
        self.frames = 0
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Result]:
        if self._threads[0].ident is not None:
            raise RuntimeError("a Pipeline runs once; make another one for another pass")
        started = perf_counter()
        for thread in self._threads:
            thread.start()
        try:
            while (item := self._finished.get()) is not None and not self._stopped.is_set():
                if isinstance(item, BaseException):
                    raise item
                self.frames += 1
                self.seconds = perf_counter() - started
                for stage in STAGES:
                    self._totals[stage] += item.stages_ms[stage]
                yield item
                del item  # or it would stay in memory beside the next one
                self._slots.release()
        finally:
            self.close()

    def summary(self) -> dict[str, object]:
        """Frames, seconds, fps and the mean of each stage so far, as JSON values."""
        return {
            "frames": self.frames,
            "seconds": self.seconds,
            "fps": self.frames / self.seconds if self.seconds else 0.0,
            "stages_ms": {
                stage: total / max(self.frames, 1) for stage, total in self._totals.items()
            },
        }

    def close(self) -> None:
        """Stop the threads and wait for them; what they were working on is dropped.

        A source that is stuck in a read is left behind after five seconds; it ends with its read.
        """
        self._stopped.set()
        self._slots.release()
        for waiting in (self._decoded, self._inferred, self._finished):
            waiting.put(None)
        for thread, patience in zip(self._threads, (5.0, None, None), strict=True):
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(patience)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- what the threads do ----

    def _decode(self) -> None:
        try:
            source = iter(self._source)
            while self._decode_one(source):
                pass
        except BaseException as error:  # raised again in the caller's thread
            self._decoded.put(error)

    def _decode_one(self, source: Iterator[Frame]) -> bool:
        self._slots.acquire()
        started = perf_counter()
        frame = None if self._stopped.is_set() else next(source, None)
        if frame is None:
            self._decoded.put(None)
            return False
        read = perf_counter()
        fitted = fit_frame(frame.image, self._engine.input.width, self._engine.input.height)
        stages = {
            "decode_ms": 1e3 * (read - started),
            "preprocess_ms": 1e3 * (perf_counter() - read),
        }
        self._decoded.put(_Job(frame, fitted[None], started, stages))
        return True

    def _stage(self, source: _Queue[_Job], work: Callable[[_Job], _T], target: _Queue[_T]) -> None:
        """Do ``work`` on every job of ``source``, up to what comes last, which is passed on."""
        try:
            while not self._stopped.is_set() and self._step(source, work, target):
                pass
        except BaseException as error:  # raised again in the caller's thread
            target.put(error)

    @staticmethod
    def _step(source: _Queue[_Job], work: Callable[[_Job], _T], target: _Queue[_T]) -> bool:
        job = source.get()  # held by this call only, not while the next one waits
        if not isinstance(job, _Job):
            target.put(job)
            return False
        target.put(work(job))
        return True

    def _infer(self, job: _Job) -> _Job:
        started = perf_counter()
        labels = self._engine.infer(job.pixels)[0]
        job.stages_ms["infer_ms"] = 1e3 * (perf_counter() - started)
        job.pixels = labels
        return job

    def _postprocess(self, job: _Job) -> Result:
        started = perf_counter()
        height, width = job.frame.image.shape[:2]
        labels = restore_labels(job.pixels, width, height)
        ready = perf_counter()
        job.stages_ms["postprocess_ms"] = 1e3 * (ready - started)
        job.stages_ms["end_to_end_ms"] = 1e3 * (ready - job.started)
        job.stages_ms["sink_ms"] = 0.0
        result = Result(job.frame, labels, job.stages_ms)
        if self._sink is not None:
            self._sink(result)
            job.stages_ms["sink_ms"] = 1e3 * (perf_counter() - ready)
        return result
