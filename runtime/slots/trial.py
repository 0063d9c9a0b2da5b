"""A model on trial in a run: an engine of its own, which sees frames in a thread of its own.

Whatever the engine does, a failure, a hang or an exception that nobody expected, the threads that
serve and that watch go on; they look at `RunningTrial.outcome`, `failure` and `busy_s`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engines import Engine
from ..errors import RoadshiftError
from ..frames.preprocess import fit_frame
from .health import Health, Trials

LEAVE_AFTER_S = 5.0  # an engine that neither answers nor can be interrupted is left behind


@dataclass(frozen=True)
class _Sample:
    """A frame that was served, and the labels that it got."""

    batch: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class RunningTrial:
    """A model on trial, open.

    Args:
        hash: of its bundle.
        engine: open and warm; closed by `close`, unless it was taken over by `release`.
        p99_ms: longest time of a frame; None for no bound.
        frames: that it has to see, or more in doubt, see `Trials.is_decided`.
        share: of the time that it may be at work.

    Attributes:
        outcome: once it has seen enough.
        failure: the reason why it saw no more, once there is one.
    """

    def __init__(
        self, hash: str, engine: Engine, *, p99_ms: float | None, frames: int, share: float
    ) -> None:
        self.hash, self.engine = hash, engine
        self.outcome: Health | None = None
        self.failure: str | None = None
        self._trials = Trials(engine.label_space.classes, p99_ms, hash)
        self._frames, self._share = frames, share
        self._sample: _Sample | None = None
        self._since: float | None = None
        self._fresh, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._see, daemon=True)
        self._thread.start()

    def failed(self, stuck_s: float) -> str | None:
        """The reason why it will not be decided: a failure, or ``stuck_s`` at one frame."""
        if self.failure is None and self.busy_s > stuck_s:
            return f"its engine gives no labels for a frame within {stuck_s:g} s"
        return self.failure

    @property
    def busy_s(self) -> float:
        """Seconds since its engine got the frame that it is at; 0 where it waits for one."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def offer(self, batch: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Show it a frame that was served; it takes one when it has none."""
        if self._sample is None:
            self._sample = _Sample(batch, labels)
            self._fresh.set()

    def release(self) -> Engine:
        """The engine, for its new owner; nothing is shown to it any more."""
        self._stopped.set()
        self._thread.join()
        return self.engine

    def close(self) -> None:
        """Close the engine; one that hangs is interrupted, or else left behind."""
        self._stopped.set()
        self._fresh.set()
        if self.busy_s:
            self._thread.join(LEAVE_AFTER_S / 2)
            if self._thread.is_alive():
                self.engine.interrupt()
        self._thread.join(LEAVE_AFTER_S / 2)
        if not self._thread.is_alive():
            self.engine.close()

    def _see(self) -> None:
        """See frames until enough were seen, one failed, or nobody wants to know any more."""
        while self.outcome is None and self.failure is None:
            self._fresh.wait()
            if self._stopped.is_set():
                return
            self._fresh.clear()
            try:
                took = self._see_one()
            except RoadshiftError as error:
                self.failure = f"its engine failed: {error}"
                return
            except Exception as error:  # the end of a thread, which must not be a silent one
                self.failure = f"its engine failed unexpectedly ({type(error).__name__}: {error})"
                return
            finally:
                self._since = None
            self._sample = None
            if self._trials.is_decided(self._frames):
                self.outcome = self._trials.health()
                return
            self._stopped.wait(took * (1 / self._share - 1))

    def _see_one(self) -> float:
        """Seconds that the engine took for the frame that it was shown."""
        sample = self._sample
        assert sample is not None
        batch = fitted(sample.batch, self.engine)
        self._since = started = time.monotonic()
        labels = self.engine.infer(batch)
        took = time.monotonic() - started
        self._trials.add(sample.labels, labels, 1000 * took)
        return took


def fitted(batch: NDArray[np.uint8], engine: Engine) -> NDArray[np.uint8]:
    """Frames that were fitted to another model's input, fitted to this one's."""
    if batch.shape[1:3] == (engine.input.height, engine.input.width):
        return batch
    return np.stack([fit_frame(one, engine.input.width, engine.input.height) for one in batch])
