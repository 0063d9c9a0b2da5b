"""Frames through an engine with decoding, inference and postprocessing at the same time.

    decode, fit ──> infer ──> restore, sink ──> caller

Each arrow is a queue and each part but the caller a thread; NumPy, OpenCV and the engines release
the interpreter while they work. Frames stay in order, and a fixed number of them is in memory. With
``newest`` the first arrow holds one frame, and a newer one takes its place: what a camera needs.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..closing import Closing
from ..engines import Engine
from ..errors import EngineError
from ..frames import Frame
from ..frames.preprocess import fit_frame, restore_labels
from ..given import no_path, whole_of
from ..words import counted
from .handoff import Handoff
from .latency import Latencies

POLL_S = 0.1  # how often a caller that waits asks whether to stop
LEAVE_AFTER_S = 1.0  # a source that is stuck in a read is left behind
STUCK_AFTER_S = 8.0  # so long after a stop without a result, an engine at work is interrupted
STUCK_FRAMES = 5  # or for so many of its slowest frames, where that is longer
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
        latency_ms: from having the frame in memory, which for a camera is when it came, until the
            labels are ready.
    """

    frame: Frame
    labels: NDArray[np.uint8]
    stages_ms: dict[str, float]
    latency_ms: float


@dataclass(slots=True)
class _FrameJob:
    """A frame on its way; ``pixels`` are (1, h, w, 3) before inference, (h, w) labels after."""

    frame: Frame
    pixels: NDArray[np.uint8]
    started: float
    read: float
    stages_ms: dict[str, float]


_T = TypeVar("_T")
_Queue = queue.SimpleQueue[_T | BaseException | None]  # None or an exception comes last


class Pipeline(Closing):
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
        newest: read on while the engine is busy, and give it the newest frame when it is not;
            those in between are dropped and counted. For frames that come in time. One frame more
            is in memory then.
        sink: called with each result in the postprocessing thread, in order, before the caller
            gets it; what writes results goes here, so that it overlaps with inference.
        stop_when: asked by the iteration, also while it waits; once true, `stop` is called. An
            engine that then gives nothing for a long time is interrupted, which is an EngineError.
        patience_s: how long that is at least.

    Attributes:
        frames: results given out so far.
        seconds: from the start of the iteration until the last of them.
        cut_short: whether ``stop_when`` stopped it before all frames were read.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        engine: Engine,
        depth: int = 2,
        *,
        newest: bool = False,
        sink: Callable[[Result], object] | None = None,
        stop_when: Callable[[], bool] | None = None,
        patience_s: float = STUCK_AFTER_S,
    ) -> None:
        no_path("frames", frames, "open_frames")
        no_path("engine", engine, "open_engine")
        whole_of("depth", depth, least=0)
        self._source = frames
        self._engine = engine
        self._newest = newest
        self._sink = sink
        self._stop_when = stop_when
        self._patience_s = patience_s
        self._waiting_since: float | None = None  # for a result, once `stop_when` was true
        self._at_work: _FrameJob | None = None  # what the engine has in its hands
        self._slowest_s = 0.0
        self._interrupted = False
        # A slot is taken before decoding (with ``newest`` before inference) and given back when
        # the caller asks for the next result, while it still holds the last one.
        self._slots = threading.Semaphore(depth + 3)
        self._decoded: Handoff[_FrameJob] = Handoff(newest=newest)
        self._inferred: _Queue[_FrameJob] = queue.SimpleQueue()
        self._finished: _Queue[Result] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._totals = dict.fromkeys(STAGES, 0.0)
        self._latencies = Latencies()
        work: list[Callable[[], None]] = [
            self._decode,
            lambda: self._stage(self._next_decoded, self._infer, self._inferred),
            lambda: self._stage(self._inferred.get, self._postprocess, self._finished),
        ]
        self._threads = [threading.Thread(target=target, daemon=True) for target in work]
        self.frames = 0
        self.seconds = 0.0
        self.cut_short = False

    def __iter__(self) -> Iterator[Result]:
        if self._threads[0].ident is not None:
            raise RuntimeError("a Pipeline runs once; make another one for another pass")
        started = perf_counter()
        for thread in self._threads:
            thread.start()
        try:
            while (item := self._next_finished()) is not None and not self._stopped.is_set():
                if isinstance(item, BaseException):
                    raise item
                self.frames += 1
                self.seconds = perf_counter() - started
                self._latencies.add(item.latency_ms)
                for stage in STAGES:
                    self._totals[stage] += item.stages_ms[stage]
                yield item
                del item  # or it would stay in memory beside the next one
                self._slots.release()
        except KeyboardInterrupt:  # at once, whatever the engine is at
            self._stopped.set()
            self._engine.interrupt()
            raise
        finally:
            self.close()

    @property
    def frames_read(self) -> int:
        """Frames that came from the source."""
        return self._decoded.given

    @property
    def dropped(self) -> int:
        """Frames that a newer one replaced before the engine was free."""
        return self._decoded.dropped

    @property
    def in_flight(self) -> int:
        """Frames that were read and are neither given out nor dropped: 0 once all came through."""
        return self.frames_read - self.dropped - self.frames

    def summary(self) -> dict[str, object]:
        """Frames in and out, rate, latency and the mean of each stage so far, as JSON values.

        ``frames_read == frames + dropped + in_flight``.
        """
        return {
            "frames": self.frames,
            "frames_read": self.frames_read,
            "dropped": self.dropped,
            "in_flight": self.in_flight,
            "seconds": self.seconds,
            "fps": self.frames / self.seconds if self.seconds else 0.0,
            "latency_ms": self._latencies.summary(),
            "stages_ms": {
                stage: total / max(self.frames, 1) for stage, total in self._totals.items()
            },
        }

    def stop(self) -> None:
        """Read nothing more; what was read still comes out of the iteration, which then ends.

        A source that is stuck in a read is left behind; the frame that it may still give counts
        as not read.
        """
        self._decoded.end()

    def close(self) -> None:
        """Stop the threads and wait for them; what they were working on is abandoned.

        A source that is stuck in a read is left behind after a second; it ends with its read. An
        engine that is at work for longer than that is interrupted, where it can be.
        """
        patience = 0.0 if self._stopped.is_set() else LEAVE_AFTER_S
        self._stopped.set()
        self._decoded.end(discard=True)
        self._slots.release()
        for waiting in (self._inferred, self._finished):
            waiting.put(None)
        for thread, wait_s in zip(self._threads, (patience, LEAVE_AFTER_S, None), strict=True):
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(wait_s)
        if self._threads[1].is_alive() and self._threads[1] is not threading.current_thread():
            self._engine.interrupt()
            self._threads[1].join()

    def _next_finished(self) -> Result | BaseException | None:
        if self._stop_when is None:
            return self._finished.get()
        self._waiting_since = None if self._waiting_since is None else perf_counter()
        while True:
            if self._waiting_since is None and self._stop_when():
                self._waiting_since = perf_counter()
                self.cut_short = not self._decoded.ended
                self.stop()
            with suppress(queue.Empty):
                return self._finished.get(timeout=POLL_S)
            self._interrupt_if_stuck()

    def _interrupt_if_stuck(self) -> None:
        """End what the engine is at where, after a stop, nothing has come for too long."""
        if self._waiting_since is None or self._at_work is None or self._interrupted:
            return
        waited = perf_counter() - self._waiting_since
        if waited > max(self._patience_s, STUCK_FRAMES * self._slowest_s):
            self._interrupted = self._engine.interrupt()

    # ---- what the threads do ----

    def _decode(self) -> None:
        try:
            source = iter(self._source)
            while self._decode_one(source):
                pass
        except BaseException as error:  # raised again in the caller's thread
            self._decoded.end(error)

    def _decode_one(self, source: Iterator[Frame]) -> bool:
        if not self._newest:
            self._slots.acquire()
        started = perf_counter()
        frame = None if self._decoded.ended else next(source, None)
        if frame is None:
            self._decoded.end()
            return False
        read = perf_counter()
        fitted = fit_frame(frame.image, self._engine.input.width, self._engine.input.height)
        stages = {
            "decode_ms": 1e3 * (read - started),
            "preprocess_ms": 1e3 * (perf_counter() - read),
        }
        return self._decoded.put(_FrameJob(frame, fitted[None], started, read, stages))

    def _next_decoded(self) -> _FrameJob | BaseException | None:
        if self._newest:
            self._slots.acquire()
        return self._decoded.get()

    def _stage(
        self,
        take: Callable[[], _FrameJob | BaseException | None],
        work: Callable[[_FrameJob], _T],
        target: _Queue[_T],
    ) -> None:
        """Do ``work`` on every job, up to what comes last, which is passed on."""
        try:
            while not self._stopped.is_set() and self._step(take, work, target):
                pass
        except BaseException as error:  # raised again in the caller's thread
            self._decoded.end(discard=True)
            target.put(error)

    @staticmethod
    def _step(
        take: Callable[[], _FrameJob | BaseException | None],
        work: Callable[[_FrameJob], _T],
        target: _Queue[_T],
    ) -> bool:
        job = take()  # held by this call only, not while the next one waits
        if not isinstance(job, _FrameJob):
            target.put(job)
            return False
        target.put(work(job))
        return True

    def _infer(self, job: _FrameJob) -> _FrameJob:
        started = perf_counter()
        self._at_work = job
        try:
            labels = self._engine.infer(job.pixels, [job.frame.name])[0]
        except EngineError as error:
            if not self._interrupted:
                raise
            raise EngineError(
                f"{self._engine.artefact or self._engine.backend} was still at frame "
                f"{job.frame.name} after {perf_counter() - started:.0f} s when a stop was asked "
                f"for, and was interrupted; finished before it: {counted(self.frames, 'frame')}."
            ) from error
        self._at_work = None
        seconds = perf_counter() - started
        self._slowest_s = max(self._slowest_s, seconds)
        job.stages_ms["infer_ms"] = 1e3 * seconds
        job.pixels = labels
        return job

    def _postprocess(self, job: _FrameJob) -> Result:
        started = perf_counter()
        height, width = job.frame.image.shape[:2]
        labels = restore_labels(job.pixels, width, height)
        ready = perf_counter()
        job.stages_ms["postprocess_ms"] = 1e3 * (ready - started)
        job.stages_ms["end_to_end_ms"] = 1e3 * (ready - job.started)
        job.stages_ms["sink_ms"] = 0.0
        result = Result(job.frame, labels, job.stages_ms, 1e3 * (ready - job.read))
        if self._sink is not None:
            self._sink(result)
            job.stages_ms["sink_ms"] = 1e3 * (perf_counter() - ready)
        return result
