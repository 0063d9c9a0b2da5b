"""Trying, committing and rolling back: what runs, and what a start of a run does."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..bundle import Bundle, open_bundle
from ..errors import BundleError, RoadshiftError, SignatureError, SlotError, UnhealthyError, arg
from ..signing import Trust, verify_bundle
from .health import Health
from .state import OnTrial, Slot, SlotState
from .store import SlotStore


@dataclass(frozen=True)
class Start:
    """The models of a run: the one that runs, and the one that is tried beside it.

    Where no model was ever committed, or the committed one is damaged, ``active`` is None and
    ``trial`` runs by itself.
    """

    state: SlotState
    active: Bundle | None
    trial: Bundle | None


def try_model(store: SlotStore, trust: Trust, *, accept_ask: bool = False) -> SlotState:
    """Let the installed model be tried: the next run lets it see frames beside the one that runs.

    Args:
        accept_ask: a person decided for a model of which the gate could not tell.

    Raises:
        SlotError: nothing is installed, it failed before, or the gate could not tell.
        SignatureError, BundleError: the model is no longer trusted, or damaged.
    """
    with store.changing() as state:
        if state.trial is not None:
            raise SlotError(f"{store.path}: slot {state.trial.slot} is being tried already.")
        slot = state.idle
        model = state.model(slot)
        if model is None:
            raise SlotError(f"{store.path}: slot {slot} is empty; install a model first.")
        if model.condition == "failed":
            raise SlotError(
                f"{store.path}: the model in slot {slot} failed before ({model.reason}); install "
                "another, or this one again."
            )
        bundle = trusted_model(store, state, slot, trust)
        verdict = bundle.manifest.verdict
        if verdict is not None and verdict.decision == "ask" and not accept_ask:
            raise SlotError(
                f"{store.path}: the gate could not tell whether the model in slot {slot} is better "
                f"({verdict.sentence}); look at it, and decide with {arg('accept_ask', True)}."
            )
        trial = OnTrial(slot=slot, starts_left=state.starts)
        return store.change(state, "tried", {"slot": slot, "hash": model.hash}, trial=trial)


def trusted_model(store: SlotStore, state: SlotState, slot: Slot, trust: Trust) -> Bundle:
    """The bundle in a slot, whole and trusted today.

    Raises:
        SignatureError, BundleError: it is not.
    """
    model = state.model(slot)
    if model is None:
        raise SlotError(f"{store.path}: slot {slot} is empty.")
    bundle = open_bundle(store.folder(model.hash))
    if bundle.hash != model.hash:
        raise BundleError(f"{bundle.path}: is not the model that was installed; install it again.")
    verify_bundle(bundle, trust, now=store.now(state))
    return bundle


def start_of_run(store: SlotStore, trust: Trust) -> Start:
    """The models to open for a run; a trial loses one of its starts, before anything is loaded.

    A model on trial that has no start left never became healthy, and is rolled back. So is one that
    is damaged or no longer trusted. An active model that is damaged or no longer trusted makes room
    for the one before it.

    Raises:
        SlotError: there is nothing to run.
        SignatureError, BundleError: the active model cannot run, and there is none before it.
    """
    with store.changing() as state:
        state, trial = _start_trial(store, state, trust)
        if state.active is None and trial is None:
            raise SlotError(
                f"{store.path}: no model was committed and none is tried; install one and say "
                "roadshift slot try."
            )
        state, active = _start_active(store, state, trust, trial)
        return Start(state, active, trial)


def _start_trial(
    store: SlotStore, state: SlotState, trust: Trust
) -> tuple[SlotState, Bundle | None]:
    if state.trial is None:
        return state, None
    slot = state.trial.slot
    if not state.trial.starts_left:
        reason = f"it never became healthy in {state.starts} starts"
        return _failed(store, state, slot, reason), None
    left = OnTrial(slot=slot, starts_left=state.trial.starts_left - 1)
    state = store.change(state, "started", {"slot": slot, "left": left.starts_left}, trial=left)
    try:
        return state, trusted_model(store, state, slot, trust)
    except (SignatureError, BundleError) as error:
        return _failed(store, state, slot, str(error)), None


def _start_active(
    store: SlotStore, state: SlotState, trust: Trust, trial: Bundle | None
) -> tuple[SlotState, Bundle | None]:
    if state.active is None:
        return state, None
    try:
        return state, trusted_model(store, state, state.active, trust)
    except (SignatureError, BundleError) as error:
        if not _can_go_back(state):
            if trial is None:
                raise
            return state, None  # the model on trial is better than none
        state = _went_back(store, state, str(error))
        assert state.active is not None
        return state, trusted_model(store, state, state.active, trust)


def commit(store: SlotStore, health: Health) -> SlotState:
    """Let the model on trial take over, if it is healthy; otherwise it is rolled back.

    Raises:
        SlotError: no model is on trial.
        UnhealthyError: it is not healthy; the model before runs on.
    """
    with store.changing() as state:
        if state.trial is None:
            raise SlotError(f"{store.path}: no model is being tried.")
        slot = state.trial.slot
        model = state.slots[slot]
        if not health.passed:
            reason = "; ".join(health.sentences)
            _failed(store, state, slot, reason)
            raise UnhealthyError(f"{store.path}: slot {slot} was rolled back: {reason}.")
        good = model.model_copy(update={"condition": "good", "reason": ""})
        details = {
            "slot": slot,
            "hash": model.hash,
            "version": model.version,
            "frames": health.frames,
            "p99_ms": health.p99_ms,
        }
        return store.change(
            state,
            "committed",
            details,
            active=slot,
            trial=None,
            slots={**state.slots, slot: good},
            floor=max(state.floor, model.version),
        )


def roll_back(store: SlotStore, reason: str) -> SlotState:
    """End a trial; or, without one, return to the model before the one that runs.

    Raises:
        SlotError: there is nothing to go back to.
    """
    with store.changing() as state:
        if state.trial is not None:
            return _failed(store, state, state.trial.slot, reason)
        if not _can_go_back(state):
            raise SlotError(f"{store.path}: there is no good model before the one that runs.")
        return _went_back(store, state, reason)


def wait_for_decision(store: SlotStore, timeout_s: float, *, poll_s: float = 0.2) -> SlotState:
    """Wait until the model on trial was committed.

    Raises:
        SlotError: no model is on trial and the last one was not committed, or time is up.
        UnhealthyError: it was rolled back.
    """
    until = time.monotonic() + timeout_s
    while (state := store.state()).trial is not None:
        if time.monotonic() >= until:
            raise SlotError(
                f"{store.path}: slot {state.trial.slot} is still on trial; it takes frames that a "
                "run serves, or roadshift slot commit with some."
            )
        time.sleep(poll_s)
    other = state.model(state.idle)
    if other is not None and other.condition == "failed":
        raise UnhealthyError(f"{store.path}: slot {state.idle} was rolled back: {other.reason}.")
    if state.active is None:
        raise SlotError(f"{store.path}: no model was ever tried.")
    return state


def _failed(store: SlotStore, state: SlotState, slot: Slot, reason: str) -> SlotState:
    """The state after a trial that ended badly."""
    bad = state.slots[slot].model_copy(update={"condition": "failed", "reason": reason})
    details = {"slot": slot, "hash": bad.hash, "reason": reason}
    return store.change(state, "rolled back", details, trial=None, slots={**state.slots, slot: bad})


def _can_go_back(state: SlotState) -> bool:
    other = state.model(state.idle)
    return state.active is not None and other is not None and other.condition == "good"


def _went_back(store: SlotStore, state: SlotState, reason: str) -> SlotState:
    """The state with the good model of the other slot in charge."""
    assert state.active is not None
    bad = state.slots[state.active].model_copy(update={"condition": "failed", "reason": reason})
    details = {"slot": state.active, "hash": bad.hash, "reason": reason, "to": state.idle}
    return store.change(
        state,
        "rolled back",
        details,
        active=state.idle,
        slots={**state.slots, state.active: bad},
    )


def record(store: SlotStore, event: str, details: dict[str, object]) -> None:
    """Write an audit record of something that changes no slot; a busy store is left alone."""
    try:
        with store.changing() as state:
            store.change(state, event, dict(details))
    except RoadshiftError:
        return
