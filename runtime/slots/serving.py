"""Serving from slots: the engine of a run that swaps models between two frames.

A thread of its own watches the slots. It opens a model that is tried, which sees frames beside the
one that runs (see `trial`), and commits it or rolls it back; and it opens what became active. The
thread that serves frames only ever exchanges one engine for another that is open and warm.

Of several runs on the same slots one conducts a trial; the others serve, and follow what it does.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..engines import Engine, open_engine
from ..errors import BundleError, EngineError, RoadshiftError, UnhealthyError
from ..gentle import FrameGaps, gently
from ..signing import Trust
from .changes import Start, can_roll_back, commit, record, roll_back, start_of_run, trusted_model
from .health import FRAMES, longest_ms
from .plans import OpenEngine
from .state import SLOTS, Slot, SlotState
from .store import SlotStore
from .trial import LEAVE_AFTER_S, RunningTrial, fitted
from .trust_watch import TrustWatch
from .warm import open_warm

POLL_S = 0.2  # how often the slots are looked at
SHARE = 0.1  # of the time that a model on trial may be at work beside the one that runs
STUCK_S = 30.0  # a model on trial that is at one frame for so long hangs
BUSY_S = 0.25  # longest wait of a frame for the record of a failure; it is written later, then


@dataclass(frozen=True)
class _Serving:
    """A model that serves, open."""

    hash: str
    engine: Engine


class SlotEngine(Engine):
    """The engine of a vehicle's slots.

    Everything that it says of itself, such as its input size, is of the model that runs now.

    Args:
        store, trust: the slots, and whom to trust, read again whenever it or the slots change; the
            model before takes over where the one that serves was revoked or has expired.
        open_with: opens the engine of a bundle.
        note: called with a sentence at every swap, commit and rollback, from any thread.
        frames: that a model on trial has to see.
        share: of the time that it may be at work beside the one that runs.
        stuck_s: a model on trial that is at one frame for so long is rolled back.

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
        stuck_s: float = STUCK_S,
    ) -> None:
        self._store, self._open = store, open_with
        self._frames, self._share, self._stuck_s = frames, share, stuck_s
        self._note, self._said = note, ""
        self._stopped = threading.Event()
        self._gaps = FrameGaps()
        self._watched = TrustWatch(store, trust, self._say, self._gaps)
        self._interrupted = False
        self._trial: RunningTrial | None = None
        self._next: _Serving | None = None  # open and warm; the next frame exchanges it
        self._retired = deque[Engine]()  # for the watching thread to close
        self._given_up = dict[str, str]()  # hashes of models that failed in this run, and why
        self._unrecorded = deque[str]()  # those of them whose rollback is not recorded yet
        self._distrusted: RoadshiftError | None = None  # the last reason that was acted on
        self._lock = store.conducting()
        try:
            start = start_of_run(store, trust, trying=self._lock is not None, note=note)
            self._generation = start.state.generation
            self._serving = self._first(start)
        except BaseException:
            self._stop_conducting()
            raise
        self._describe_as(self._serving.engine)
        if start.trial is not None and start.trial.hash not in self._given_up:
            self._begin_trial(start.trial)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def infer(self, batch: NDArray[np.uint8], names: Sequence[str] = ()) -> NDArray[np.uint8]:
        if self._next is not None:
            self._exchange(self._next)
            self._next = None
        engine = self._serving.engine
        try:
            labels = engine.infer(fitted(batch, engine), names)
        except EngineError as error:
            if self._interrupted:
                raise  # by who stopped the run; no fault of the model
            engine = self._after_failure(error)
            labels = engine.infer(fitted(batch, engine), names)
        self.stage_ms = engine.stage_ms
        trial = self._trial
        if trial is not None:
            trial.offer(batch, labels)
        self._gaps.open()
        return labels

    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self._serving.engine.infer(batch)

    def interrupt(self) -> bool:
        self._interrupted = True
        return self._serving.engine.interrupt()

    def close(self) -> None:
        self._stopped.set()
        self._watcher.join(LEAVE_AFTER_S)  # it may be opening an engine, which nothing interrupts
        self._end_trial()
        self._record_failures()
        if self._next is not None:
            self._next.engine.close()
        self._close_retired()
        self._serving.engine.close()
        self._stop_conducting()

    # --- the thread that serves ---

    def _exchange(self, new: _Serving) -> None:
        """Let an open engine serve from this frame on."""
        self._retired.append(self._serving.engine)
        self._serving = new
        self._describe_as(new.engine)

    def _after_failure(self, error: EngineError) -> Engine:
        """The engine of another model, where the one that runs fails.

        It serves first and is recorded then: neither a busy store nor a full disk costs frames.

        Raises:
            EngineError: there is none.
        """
        failed = self._serving.hash
        other = self._another(failed)
        if other is None:
            raise error
        self._exchange(other)
        self._give_up(failed, f"its engine failed: {error}")
        return other.engine

    def _another(self, failed: str) -> _Serving | None:
        """The good model of the other slot, or else the one on trial, open."""
        try:
            state = self._store.state()
            for slot in SLOTS:
                model = state.model(slot)
                if model is None or model.hash in (failed, *self._given_up):
                    continue
                tried = state.trial is not None and state.trial.slot == slot
                if model.condition == "good" or tried:
                    return self._open_slot(state, slot)
        except RoadshiftError as error:
            self._say(f"{self._store.path}: there is no other model to serve: {error}")
        return None

    def _give_up(self, failed: str, reason: str) -> None:
        """Roll a model back, at once where the slots are free; else the watching thread does."""
        self._given_up[failed] = reason
        self._unrecorded.append(failed)
        self._record_failures()

    def _record_failures(self) -> None:
        while self._unrecorded:
            failed = self._unrecorded[0]
            reason = self._given_up[failed]
            try:
                roll_back(self._store, reason, model=failed, checked=True, patience_s=BUSY_S)
            except RoadshiftError as error:
                if self._is_due(failed):
                    self._say(f"{error} Meanwhile another model serves, since {reason}")
                    return  # later
                record(self._store, "failed", {"hash": failed, "reason": reason})
            self._unrecorded.popleft()
            self._say(f"{self._store.path}: model {failed[:12]} was given up: {reason}")

    def _is_due(self, failed: str) -> bool:
        try:
            return can_roll_back(self._store.state(), failed)
        except RoadshiftError:
            return True

    # --- the thread that watches ---

    def _watch(self) -> None:
        served = self._serving
        while not self._stopped.is_set():
            try:
                self._record_failures()
                self._look()
                self._follow_trust()
                self._close_retired()
                if served is not self._serving:
                    served = self._serving
                    self._tell_of(served)
                self._judge()
            except RoadshiftError as error:
                self._say(f"{self._store.path}: {error}")
            except Exception as error:  # the end of a thread, which must not be a silent one
                self._after_surprise(error)
            self._stopped.wait(POLL_S)

    def _tell_of(self, served: _Serving) -> None:
        """Record that another model serves."""
        self._say(
            f"{self._store.path}: model {served.hash[:12]} serves from here on. "
            f"{served.engine.reason}"
        )
        record(self._store, "swapped", {"hash": served.hash})

    def _look(self) -> None:
        """Follow what was changed, by this program or another."""
        state = self._store.state()
        tried = state.model(state.trial.slot) if state.trial is not None else None
        if tried is not None and self._lock is None:
            self._lock = self._store.conducting()  # whoever conducted is gone
            if self._lock is not None:
                self._generation = -1
        if state.generation == self._generation or self._next is not None:
            return
        self._generation = state.generation
        self._watched.read()
        if self._trial is not None and (tried is None or tried.hash != self._trial.hash):
            self._end_trial()
        active = state.active
        if active and state.slots[active].hash not in (self._serving.hash, *self._given_up):
            self._open_active(state, active)
        if tried is not None and self._trial is None and self._lock is not None:
            self._start_trial(tried.hash)

    def _follow_trust(self) -> None:
        """Let another model serve where the one that does was revoked or has expired.

        Where there is none, it serves on: a car that drives keeps its labels until the next start.
        """
        hash = self._serving.hash
        error = self._watched.problem(self._store.state(), hash)
        if error in (None, self._distrusted) or self._next is not None:
            return
        self._distrusted = error
        if isinstance(error, BundleError):
            raise error  # what is open serves on, and the next start finds it damaged
        with gently(self._gaps):
            other = self._another(hash)
        if other is None:
            self._say(f"{error.marked} There is no other model; it serves on until the next start.")
            record(self._store, "no longer trusted", {"hash": hash, "reason": str(error)})
            return
        self._take_over(other)
        said = "The model before serves."
        try:
            roll_back(self._store, str(error), model=hash, checked=True)
        except RoadshiftError as second:
            said = f"{second.marked} Another model serves all the same."
        self._say(f"{error.marked} {said}")

    def _take_over(self, new: _Serving) -> None:
        if self._stopped.is_set():  # the run did not wait for it
            new.engine.close()
        else:
            self._next = new

    def _open_active(self, state: SlotState, slot: Slot) -> None:
        try:
            with gently(self._gaps):
                new = self._open_slot(state, slot)
        except RoadshiftError as error:
            self._give_up(state.slots[slot].hash, f"it cannot serve: {error}")
            return
        self._take_over(new)

    def _start_trial(self, hash: str) -> None:
        if hash in self._unrecorded or hash == self._serving.hash:
            return
        self._given_up.pop(hash, None)  # somebody lets it be tried once more
        self._watched.forget(hash)
        with gently(self._gaps):
            start = start_of_run(self._store, self._watched.trust, note=self._say)
            self._generation = start.state.generation
            if start.trial is not None:
                self._begin_trial(start.trial)

    def _judge(self) -> None:
        """Commit the model on trial and let it serve, or roll it back; or wait on."""
        trial = self._trial
        if trial is None or self._next is not None:
            return
        distrust = self._watched.problem(self._store.state(), trial.hash)
        if failure := trial.failed(self._stuck_s) or distrust:
            self._end_trial()
            self._give_up(trial.hash, str(failure))
        elif trial.outcome is not None:
            try:
                self._generation = commit(self._store, trial.outcome).generation
            except UnhealthyError as error:
                self._end_trial()
                self._say(str(error))
                return  # others, such as a full disk: once more, later
            self._trial = None
            self._next = _Serving(trial.hash, trial.release())

    def _after_surprise(self, error: Exception) -> None:
        """Go on with what serves, after an exception that nobody expected; a trial ends badly."""
        what = f"unexpected {type(error).__name__}: {error}"
        self._say(f"{self._store.path}: {what}; the model that runs goes on. Please report this.")
        trial = self._trial
        if trial is not None:
            self._end_trial()
            self._give_up(trial.hash, what)

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.popleft().close()

    def _say(self, sentence: str) -> None:
        """Note a sentence, unless it was the last one."""
        if sentence != self._said:
            self._said = sentence
            self._note(sentence)

    # --- opening ---

    def _first(self, start: Start) -> _Serving:
        """The model that serves from the start, open."""
        bundle = start.active or start.trial
        assert bundle is not None
        try:
            return self._opened(bundle)
        except RoadshiftError as error:
            other = self._another(bundle.hash)
            if other is None:
                raise
            self._give_up(bundle.hash, f"its engine does not open: {error}")
            return other

    def _open_slot(self, state: SlotState, slot: Slot) -> _Serving:
        return self._opened(trusted_model(self._store, state, slot, self._watched.trust))

    def _opened(self, bundle: Bundle) -> _Serving:
        return _Serving(bundle.hash, open_warm(self._open, bundle, self._watched.renewed))

    def _begin_trial(self, bundle: Bundle) -> None:
        """Open the model on trial; a second time where it serves, too: that is not measured."""
        try:
            engine = self._opened(bundle).engine
        except Exception as error:  # whatever it is, the model that runs serves on
            self._give_up(bundle.hash, f"its engine does not open: {error}")
            return
        if self._stopped.is_set():  # the run did not wait for it
            engine.close()
            return
        self._trial = RunningTrial(
            bundle.hash,
            engine,
            p99_ms=longest_ms(self._store.state().p99_ms, bundle),
            frames=self._frames,
            share=self._share,
        )
        self._say(f"{self._store.path}: model {bundle.hash[:12]} is being tried.")

    def _end_trial(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.close()

    def _stop_conducting(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _describe_as(self, engine: Engine) -> None:
        """Take over what the engine says of itself."""
        said = "label_space input label_size backend precision device artefact reason"
        for name in said.split():
            setattr(self, name, getattr(engine, name))
