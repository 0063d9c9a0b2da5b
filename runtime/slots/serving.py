"""Serving from slots: the engine of a run that swaps models between two frames.

A thread of its own watches the slots. It opens a model that is tried, lets it see frames beside the
one that runs, in its spare time, and commits it or rolls it back; and it opens what became active.
The thread that serves frames only ever exchanges one engine for another that is open and warm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..engines import Engine, open_engine
from ..errors import BundleError, EngineError, RoadshiftError, SignatureError
from ..frames.preprocess import fit_frame
from ..signing import Trust
from .changes import Start, commit, record, roll_back, start_of_run, trusted_model
from .health import FRAMES, Trials
from .self_test import self_test_of
from .state import SlotState
from .store import SlotStore

OpenEngine = Callable[[Bundle], Engine]

POLL_S = 0.2  # how often the slots are looked at
SHARE = 0.1  # of one core's time that a model on trial may take beside the one that runs


@dataclass
class _Sample:
    """The newest frame and its labels, for the model on trial."""

    batch: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class _Serving:
    """A model that serves, open."""

    hash: str
    engine: Engine


@dataclass
class _Trial:
    """A model on trial, open."""

    hash: str
    engine: Engine
    trials: Trials
    fresh: threading.Event = field(default_factory=threading.Event)
    sample: _Sample | None = None


class SlotEngine(Engine):
    """The engine of a vehicle's slots.

    Everything that it says of itself, such as its input size, is of the model that runs now.

    Args:
        store, trust: the slots, and whom to trust.
        open_with: opens the engine of a bundle.
        note: called with a sentence at every swap, commit and rollback, from another thread.
        frames: that a model on trial has to see.
        share: of one core's time that it may take beside the one that runs.

    Raises:
        SlotError: there is nothing to run.
        SignatureError, BundleError, EngineError: what there is cannot run.
    """

    def __init__(
        self,
        store: SlotStore,
        trust: Trust,
        *,
        open_with: OpenEngine = open_engine,
        note: Callable[[str], None] = lambda _: None,
        frames: int = FRAMES,
        share: float = SHARE,
    ) -> None:
        self._store, self._trust, self._open = store, trust, open_with
        self._note, self._frames, self._share = note, frames, share
        self._stopped = threading.Event()
        self._trial: _Trial | None = None
        self._next: _Serving | None = None  # open and warm; the next frame exchanges it
        self._retired: Engine | None = None  # for the watching thread to close
        start = start_of_run(store, trust)
        self._serving = self._first(start)
        self._generation = store.state().generation
        self._describe_as(self._serving.engine)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def infer(self, batch: NDArray[np.uint8], names: Sequence[str] = ()) -> NDArray[np.uint8]:
        if self._next is not None:
            self._exchange(self._next)
            self._next = None
        engine = self._serving.engine
        try:
            labels = engine.infer(_fitted(batch, engine), names)
        except EngineError as error:
            engine = self._after_failure(error)
            labels = engine.infer(_fitted(batch, engine), names)
        self.stage_ms = engine.stage_ms
        trial = self._trial
        if trial is not None and trial.sample is None:
            trial.sample = _Sample(batch, labels)
            trial.fresh.set()
        return labels

    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self._serving.engine.infer(batch)

    def interrupt(self) -> bool:
        return self._serving.engine.interrupt()

    def close(self) -> None:
        self._stopped.set()
        if self._trial is not None:
            self._trial.fresh.set()
        self._watcher.join()
        self._end_trial()
        if self._next is not None:
            self._next.engine.close()
        if self._retired is not None:
            self._retired.close()
        self._serving.engine.close()

    # --- the thread that serves ---

    def _exchange(self, new: _Serving) -> None:
        """Let an open engine serve from this frame on."""
        self._retired, self._serving = self._serving.engine, new
        self._describe_as(new.engine)

    def _after_failure(self, error: EngineError) -> Engine:
        """The engine of the model before, where the one that runs fails.

        Raises:
            EngineError: there is none.
        """
        try:
            state = roll_back(self._store, f"its engine failed: {error}")
            before = self._open_slot(state)
        except RoadshiftError as second:
            raise error from second
        self._exchange(before)
        return before.engine

    # --- the thread that watches ---

    def _watch(self) -> None:
        served = self._serving
        while not self._stopped.is_set():
            try:
                self._look()
                if served is not self._serving:
                    served = self._serving
                    self._tell_of(served)
                trial = self._trial
                if trial is not None:
                    self._let_it_see(trial)
                    continue
            except RoadshiftError as error:
                self._note(f"{self._store.path}: {error}")
            self._stopped.wait(POLL_S)

    def _tell_of(self, served: _Serving) -> None:
        """Close the engine that was exchanged, and record that the other serves."""
        if self._retired is not None:
            self._retired.close()
            self._retired = None
        self._note(
            f"{self._store.path}: model {served.hash[:12]} serves from here on. "
            f"{served.engine.reason}"
        )
        record(self._store, "swapped", {"hash": served.hash})

    def _look(self) -> None:
        """Follow what was changed, by this program or another."""
        state = self._store.state()
        if state.generation == self._generation or self._next is not None:
            return
        self._generation = state.generation
        tried = state.model(state.trial.slot) if state.trial is not None else None
        if self._trial is not None and (tried is None or tried.hash != self._trial.hash):
            self._end_trial()
        active = state.model(state.active)
        if active is not None and active.hash != self._serving.hash:
            self._next = self._open_slot(state)
        if tried is not None and self._trial is None and tried.hash != self._serving.hash:
            start = start_of_run(self._store, self._trust)
            if start.trial is not None:
                self._begin_trial(start.trial)

    def _let_it_see(self, trial: _Trial) -> None:
        """Give the model on trial the newest frame, and decide once it has seen enough."""
        if not trial.fresh.wait(POLL_S) or self._stopped.is_set():
            return
        trial.fresh.clear()
        sample = trial.sample
        if sample is None:
            return
        batch = _fitted(sample.batch, trial.engine)
        started = time.perf_counter()
        try:
            labels = trial.engine.infer(batch)
        except EngineError as error:
            self._end_trial()
            roll_back(self._store, f"its engine failed: {error}")
            self._note(f"{self._store.path}: rolled back: {error}")
            return
        took = time.perf_counter() - started
        trial.trials.add(sample.labels, labels, 1000 * took)
        trial.sample = None
        if trial.trials.frames >= self._frames:
            self._decide(trial)
        else:
            self._stopped.wait(took * (1 / self._share - 1))

    def _decide(self, trial: _Trial) -> None:
        """Commit the model on trial and let it serve, or roll it back."""
        self._trial = None
        try:
            commit(self._store, trial.trials.health())
        except RoadshiftError as error:
            trial.engine.close()
            self._note(str(error))
            return
        self._generation = self._store.state().generation
        self._next = _Serving(trial.hash, trial.engine)

    # --- opening ---

    def _first(self, start: Start) -> _Serving:
        """The model that serves from the start, open."""
        if start.active is None:
            assert start.trial is not None
            serving = _Serving(start.trial.hash, self._opened(start.trial))
            self._begin_trial(start.trial)  # a second time: what serves is not measured
            return serving
        try:
            serving = _Serving(start.active.hash, self._opened(start.active))
        except EngineError as error:
            if start.trial is not None:
                raise
            serving = self._open_slot(roll_back(self._store, f"its engine does not open: {error}"))
        if start.trial is not None:
            self._begin_trial(start.trial)
        return serving

    def _open_slot(self, state: SlotState) -> _Serving:
        """The active model, open."""
        assert state.active is not None
        bundle = trusted_model(self._store, state, state.active, self._trust)
        return _Serving(bundle.hash, self._opened(bundle))

    def _begin_trial(self, bundle: Bundle) -> None:
        try:
            engine = self._opened(bundle)
        except (EngineError, BundleError, SignatureError) as error:
            roll_back(self._store, f"its engine does not open: {error}")
            self._note(f"{self._store.path}: rolled back: {error}")
            return
        bound = self._store.state().p99_ms
        self._trial = _Trial(bundle.hash, engine, Trials(engine.label_space.classes, bound))
        self._note(f"{self._store.path}: model {bundle.hash[:12]} is being tried.")

    def _end_trial(self) -> None:
        if self._trial is not None:
            self._trial.engine.close()
            self._trial = None

    def _opened(self, bundle: Bundle) -> Engine:
        """An engine that is open and warm."""
        engine = self._open(bundle)
        try:
            test = self_test_of(bundle)
            size = (engine.input.height, engine.input.width)
            frame = test.frames[:1] if test is not None else np.zeros((1, *size, 3), np.uint8)
            for _ in range(2):
                engine.infer(frame)
        except BaseException:
            engine.close()
            raise
        return engine

    def _describe_as(self, engine: Engine) -> None:
        """Take over what the engine says of itself."""
        for name in ("label_space", "input", "backend", "precision", "device", "artefact"):
            setattr(self, name, getattr(engine, name))
        self.label_size = engine.label_size
        self.reason = engine.reason


def _fitted(batch: NDArray[np.uint8], engine: Engine) -> NDArray[np.uint8]:
    """Frames that were fitted to another model's input, fitted to this one's."""
    if batch.shape[1:3] == (engine.input.height, engine.input.width):
        return batch
    return np.stack([fit_frame(one, engine.input.width, engine.input.height) for one in batch])
