"""Waiting for what a run decides about the model on trial."""

from __future__ import annotations

import time

from ..errors import SlotError, UnhealthyError
from .state import Installed, Slot, SlotState
from .store import SlotStore


def wait_for_decision(
    store: SlotStore, timeout_s: float, *, model: str | None = None, poll_s: float = 0.2
) -> SlotState:
    """Wait until the model on trial was committed.

    Args:
        model: hash of the one that is meant; without, whichever is on trial, or was the last.

    Raises:
        SlotError: no model is on trial and the last one was not committed, or time is up; or
            ``model`` is in no slot, or was not tried.
        UnhealthyError: it was rolled back.
    """
    until = time.monotonic() + timeout_s
    while (state := store.state()).trial is not None and _is_tried(state, model):
        if time.monotonic() >= until:
            raise SlotError(
                f"{store.path}: slot {state.trial.slot} is still on trial; it takes frames that a "
                "run serves, or roadshift slot commit with some."
            )
        time.sleep(poll_s)
    if model is not None:
        return _decided(store, state, model)
    other = state.model(state.idle)
    if other is not None and other.condition == "failed":
        raise _rolled_back(store, state.idle, other)
    if state.active is None:
        raise SlotError(f"{store.path}: no model was ever tried.")
    return state


def _rolled_back(store: SlotStore, slot: Slot, model: Installed) -> UnhealthyError:
    reason = model.reason.rstrip(".")
    return UnhealthyError(f"{store.path}: slot {slot} was rolled back: {reason}.")


def _is_tried(state: SlotState, hash: str | None) -> bool:
    tried = state.model(state.trial.slot) if state.trial is not None else None
    return tried is not None and hash in (None, tried.hash)


def _decided(store: SlotStore, state: SlotState, hash: str) -> SlotState:
    """The state, where that model was committed; it may have made room for a newer one since."""
    found = next(((slot, one) for slot, one in state.slots.items() if one.hash == hash), None)
    if found is None:
        raise SlotError(
            f"{store.path}: model {hash[:12]} is in no slot; it was never installed, or another "
            "took its place. roadshift slot audit has what became of it."
        )
    slot, model = found
    if model.condition == "failed":
        raise _rolled_back(store, slot, model)
    if model.condition != "good":
        raise SlotError(
            f"{store.path}: model {hash[:12]} in slot {slot} is not being tried; say roadshift "
            "slot try."
        )
    return state
