"""Examining a model on trial on frames that are at hand, beside the one that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import islice

from ..bundle import Bundle
from ..engines import Engine, open_engine
from ..errors import EngineError, SignatureError, SlotError
from ..frames import Frame
from ..frames.preprocess import fit_frame
from ..signing import Trust, open_trust
from .changes import trusted_model, verified_now
from .health import FRAMES, Health, Trials, longest_ms
from .plans import open_with_plan
from .self_test import check_self_test
from .store import SlotStore


def examine(
    store: SlotStore,
    trust: Trust,
    frames: Iterable[Frame],
    *,
    most: int = FRAMES,
    open_with: Callable[[Bundle], Engine] = open_engine,
) -> Health:
    """The health of the model on trial, on up to ``most`` frames; nothing is changed.

    A model that does not open, fails on a frame, does not give the labels that its export
    recorded, or is no longer trusted at the end, is not healthy.

    Raises:
        SlotError: no model is on trial.
        SignatureError, BundleError: it is no longer trusted, or damaged.
        FrameError: there is no frame.
    """
    state = store.state()
    if state.trial is None:
        raise SlotError(f"{store.path}: no model is being tried.")
    tried = trusted_model(store, state, state.trial.slot, trust)
    bound = longest_ms(state.p99_ms, tried)
    trials = Trials(tried.label_space.classes, bound, tried.hash)
    try:
        with ExitStack() as stack:
            engine = stack.enter_context(open_with_plan(open_with, tried))
            before = None
            if state.active is not None:
                bundle = trusted_model(store, state, state.active, trust)
                before = stack.enter_context(open_with_plan(open_with, bundle))
            check_self_test(tried, engine)
            for frame in islice(frames, most):
                _see(frame, engine, before, trials)
    except EngineError as error:
        return Health(False, (str(error).rstrip("."),), trials.frames, None, tried.hash)
    now = open_trust(trust.path)  # which may have changed since
    try:
        verified_now(store, state, tried, now)
    except SignatureError as error:
        return Health(False, (str(error).rstrip("."),), trials.frames, None, tried.hash)
    return trials.health()


def _see(frame: Frame, engine: Engine, before: Engine | None, trials: Trials) -> None:
    """Let both see one frame, each fitted to its input; what is timed is the engine alone."""
    fitted = fit_frame(frame.image, engine.input.width, engine.input.height)[None]
    started = time.perf_counter()
    after = engine.infer(fitted, [frame.name])
    took_ms = 1000 * (time.perf_counter() - started)
    labels = None
    if before is not None:
        other = fit_frame(frame.image, before.input.width, before.input.height)[None]
        labels = before.infer(other, [frame.name])
    trials.add(labels, after, took_ms)
