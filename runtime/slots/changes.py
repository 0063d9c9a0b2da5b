"""Trying, committing and rolling back: what runs, and what a start of a run does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ..bundle import Bundle
from ..errors import (
    BundleError,
    OutputError,
    RoadshiftError,
    SignatureError,
    SlotError,
    UnhealthyError,
    arg,
)
from ..gentle import in_a_gap
from ..signing import Trust, Verified, verify_bundle
from ..signing.statement import text_of
from ..words import counted
from .health import Health
from .plans import with_built_plan
from .state import Installed, OnTrial, Slot, SlotState
from .store import SlotStore
from .whole import whole_model


@dataclass(frozen=True)
class Start:
    """The models of a run: the one that runs, and the one that is tried beside it.

    Where no model was ever committed, or the committed one is damaged, ``active`` is None and
    ``trial`` runs by itself.
    """

    state: SlotState
    active: Bundle | None
    trial: Bundle | None


def try_model(
    store: SlotStore, trust: Trust, *, accept_ask: bool = False, model: str | None = None
) -> SlotState:
    """Let the installed model be tried: the next run lets it see frames beside the one that runs.

    Args:
        accept_ask: a person decided for a model of which the gate could not tell.
        model: hash of the one that is meant; where it runs or is tried already, nothing is changed.

    Raises:
        SlotError: nothing is installed, or another than ``model``; it failed before, or the gate
            could not tell.
        SignatureError, BundleError: the model is no longer trusted, or damaged.
    """
    with store.changing() as state:
        if model is not None and _runs_or_is_tried(state, model):
            return state
        if state.trial is not None:
            raise SlotError(f"{store.path}: slot {state.trial.slot} is being tried already.")
        slot = state.idle
        there = state.model(slot)
        if there is None or model not in (None, there.hash):
            raise SlotError(
                f"{store.path}: slot {slot} "
                f"{'is empty' if there is None else 'holds another model meanwhile'}; install a "
                "model first."
            )
        if there.condition == "failed":
            raise SlotError(
                f"{store.path}: the model in slot {slot} failed before ({there.reason}); install "
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
        return store.change(state, "tried", {"slot": slot, "hash": there.hash}, trial=trial)


def _runs_or_is_tried(state: SlotState, hash: str) -> bool:
    on_trial = state.trial.slot if state.trial is not None else None
    return any((one := state.model(slot)) and one.hash == hash for slot in (state.active, on_trial))


def trusted_model(
    store: SlotStore, state: SlotState, slot: Slot, trust: Trust, *, with_plan: bool = True
) -> Bundle:
    """The bundle in a slot, whole and trusted today.

    Where its signatures are renewed meanwhile, it is the one with the newer ones.

    Args:
        with_plan: let its engine find the TensorRT plan that was built here, see `plans`.

    Raises:
        SignatureError, BundleError: it is not.
    """
    model = state.model(slot)
    if model is None:
        raise SlotError(f"{store.path}: slot {slot} is empty.")
    try:
        bundle = _trusted_as_it_lies(store, state, model, trust)
    except (SignatureError, BundleError):
        now = store.state()
        there = now.model(slot)
        if there is None or there.hash != model.hash or there.folder == model.folder:
            raise
        return trusted_model(store, now, slot, trust, with_plan=with_plan)
    return with_built_plan(store, bundle, model) if with_plan else bundle


def _trusted_as_it_lies(
    store: SlotStore, state: SlotState, model: Installed, trust: Trust
) -> Bundle:
    in_a_gap()
    bundle = whole_model(store, model)
    in_a_gap()
    verified_now(store, state, bundle, trust)
    return bundle


def verified_now(store: SlotStore, state: SlotState, bundle: Bundle, trust: Trust) -> Verified:
    """The bundle, trusted at the latest time that the slots have seen.

    Raises:
        SignatureError: it is not; where the clock has been ahead, the sentence says so.
    """
    now = store.now(state)
    try:
        return verify_bundle(bundle, trust, now=now)
    except SignatureError as error:
        ahead = now - datetime.now(timezone.utc)
        if ahead < timedelta(days=1):
            raise
        raise SignatureError(
            f"{error.marked.rstrip('.')}; the slots have seen {state.latest}, {ahead.days} days "
            "from now, and where that clock was wrong, say roadshift slot clock."
        ) from error


def set_clock(store: SlotStore, reason: str) -> SlotState:
    """Believe the machine's clock again, after one that was ahead was seen.

    Raises:
        OutputError: the slots cannot be written.
    """
    with store.changing() as state:
        now = text_of(datetime.now(timezone.utc))
        details = {"from": state.latest, "to": now, "reason": reason}
        return store.change(state, "clock set", details, latest=now)


def start_of_run(
    store: SlotStore,
    trust: Trust,
    *,
    trying: bool = True,
    note: Callable[[str], None] = lambda _: None,
) -> Start:
    """The models to open for a run; a trial loses one of its starts, before anything is loaded.

    A model on trial that has no start left never became healthy, and is rolled back. So is one that
    is damaged or no longer trusted. An active model that is damaged or no longer trusted makes room
    for the one before it. Where the slots cannot be changed (a full disk, a folder of another user,
    a damaged audit file), nothing is tried, and the model that runs still does.

    Args:
        trying: whether this run lets a model on trial see frames; False where another one does.
        note: called with a sentence where the slots cannot be changed, a trial ends, or the model
            before runs.

    Raises:
        SlotError: there is nothing to run.
        OutputError: the one model there is is on trial, and the slots cannot be written.
        SignatureError, BundleError: the active model cannot run, and there is none before it.
    """
    state, trial = store.state(), None
    try:
        with store.changing() as state:
            if trying:
                state, trial = _start_trial(store, state, trust, note)
    except (OutputError, SlotError) as error:
        if state.active is None:
            raise
        note(f"{error} The model that runs goes on; nothing is tried.")
    if state.active is None and trial is None:
        if state.trial is not None:
            raise SlotError(
                f"{store.path}: another run is trying the first model; wait until it is committed."
            )
        raise SlotError(
            f"{store.path}: no model was committed and none is tried; install one and say "
            "roadshift slot try."
        )
    return _start_active(store, state, trust, trial, note)


def _start_trial(
    store: SlotStore, state: SlotState, trust: Trust, note: Callable[[str], None]
) -> tuple[SlotState, Bundle | None]:
    if state.trial is None:
        return state, None
    slot = state.trial.slot
    if not state.trial.starts_left:
        reason = f"it never became healthy in {counted(state.starts, 'start')}"
        return _ended_at_start(store, state, slot, reason, note), None
    left = OnTrial(slot=slot, starts_left=state.trial.starts_left - 1)
    state = store.change(state, "started", {"slot": slot, "left": left.starts_left}, trial=left)
    try:
        return state, trusted_model(store, state, slot, trust)
    except (SignatureError, BundleError) as error:
        return _ended_at_start(store, state, slot, str(error), note), None


def _ended_at_start(
    store: SlotStore, state: SlotState, slot: Slot, reason: str, note: Callable[[str], None]
) -> SlotState:
    """The state after a trial that a start of a run ended, and said so."""
    state = _failed(store, state, slot, reason)
    note(f"{store.path}: slot {slot} was rolled back: {reason.rstrip('.')}.")
    return state


def _start_active(
    store: SlotStore,
    state: SlotState,
    trust: Trust,
    trial: Bundle | None,
    note: Callable[[str], None],
) -> Start:
    if state.active is None:
        return Start(state, None, trial)
    try:
        return Start(state, trusted_model(store, state, state.active, trust), trial)
    except (SignatureError, BundleError) as error:
        before = _model_before(store, state, trust)
        if before is None:
            if trial is None:
                raise
            return Start(state, None, trial)  # the model on trial is better than none
        try:
            state = roll_back(store, str(error), model=state.slots[state.active].hash, checked=True)
            note(f"{error.marked} The model before runs, in slot {state.active}.")
        except (OutputError, SlotError) as second:
            note(f"{second} The model before runs all the same.")
        return Start(state, before, trial)


def _model_before(store: SlotStore, state: SlotState, trust: Trust) -> Bundle | None:
    """The model to go back to, if there is one and it may still run."""
    if not can_go_back(state):
        return None
    try:
        return trusted_model(store, state, state.idle, trust)
    except (SignatureError, BundleError):
        return None


def commit(store: SlotStore, health: Health) -> SlotState:
    """Let the model on trial take over, if it is healthy; otherwise it is rolled back.

    Raises:
        SlotError: no model is on trial, or another than the one whose health it is.
        UnhealthyError: it is not healthy; the model before runs on.
    """
    with store.changing() as state:
        if state.trial is None:
            raise SlotError(f"{store.path}: no model is being tried.")
        slot = state.trial.slot
        model = state.slots[slot]
        if health.model not in (None, model.hash):
            raise SlotError(
                f"{store.path}: model {health.model[:12]} is no longer being tried, and "
                f"{model.hash[:12]} is; nothing was changed."
            )
        if not health.passed:
            reason = "; ".join(health.sentences)
            _failed(store, state, slot, reason)
            raise UnhealthyError(f"{store.path}: slot {slot} was rolled back: {reason}.")
        details = {
            "slot": slot,
            "hash": model.hash,
            "version": model.version,
            "frames": health.frames,
            "p99_ms": health.p99_ms,
        }
        return store.change(state, "committed", details, **state.committed(slot))


def roll_back(
    store: SlotStore,
    reason: str,
    *,
    model: str | None = None,
    checked: bool = False,
    patience_s: float | None = None,
) -> SlotState:
    """End a trial; or, without one, return to the model before the one that runs.

    Args:
        model: hash of the one to roll back, whichever of both it is; without, a trial ends first.
        checked: whether the model before is known to be whole, such as where it is open.
        patience_s: as in `SlotStore.changing`.

    Raises:
        SlotError: there is nothing to go back to, or ``model`` is neither tried nor runs.
        BundleError, SignatureError: the model before is damaged, and would not start.
    """
    with store.changing(patience_s) as state:
        tried = state.model(state.trial.slot) if state.trial is not None else None
        if state.trial is not None and tried is not None and model in (None, tried.hash):
            return _failed(store, state, state.trial.slot, reason)
        active = state.model(state.active)
        if model is not None and (active is None or active.hash != model):
            raise SlotError(
                f"{store.path}: model {model[:12]} is neither tried nor runs; nothing was changed."
            )
        if not can_go_back(state):
            raise SlotError(f"{store.path}: there is no good model before the one that runs.")
        if not checked:
            whole_model(store, state.slots[state.idle])
        return _went_back(store, state, reason)


def end_trial(store: SlotStore, reason: str, *, model: str | None = None) -> SlotState:
    """End a trial, and change nothing where there is none, such as one that was just committed.

    Args:
        model: hash of the one that is meant; the trial of another goes on.
    """
    with store.changing() as state:
        if state.trial is None or model not in (None, state.slots[state.trial.slot].hash):
            return state
        return _failed(store, state, state.trial.slot, reason)


def _failed(store: SlotStore, state: SlotState, slot: Slot, reason: str) -> SlotState:
    """The state after a trial that ended badly."""
    bad = state.slots[slot].model_copy(update={"condition": "failed", "reason": reason})
    details = {"slot": slot, "hash": bad.hash, "reason": reason}
    return store.change(state, "rolled back", details, trial=None, slots={**state.slots, slot: bad})


def can_go_back(state: SlotState) -> bool:
    """Tell whether the slot that does not run holds a good model that is not on trial."""
    other = state.model(state.idle)
    on_trial = state.trial is not None and state.trial.slot == state.idle
    return (
        state.active is not None
        and other is not None
        and other.condition == "good"
        and not on_trial
    )


def can_roll_back(state: SlotState, hash: str) -> bool:
    """Tell whether a model is tried, or runs while there is a good one before it."""
    tried = state.model(state.trial.slot) if state.trial is not None else None
    active = state.model(state.active)
    return hash == (tried and tried.hash) or (
        hash == (active and active.hash) and can_go_back(state)
    )


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
