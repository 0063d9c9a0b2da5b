"""Waiting for the decision about one model, or about whichever is on trial."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleets import HEALTHY, Fleet
from roadshift.runtime.errors import SlotError, UnhealthyError
from roadshift.runtime.slots import commit, try_model
from roadshift.runtime.slots.changes import end_trial
from roadshift.runtime.slots.waiting import wait_for_decision


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_what_became_of_a_model_is_told_of_that_model(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.installed(2)

    def waited(hash: str | None) -> str | None:
        return wait_for_decision(fleet.store, 0, model=hash).active

    with pytest.raises(SlotError, match="is not being tried; say roadshift slot try"):
        waited(second.hash)
    try_model(fleet.store, fleet.trust)
    for meant in (None, second.hash):
        with pytest.raises(SlotError, match="slot b is still on trial"):
            waited(meant)
    assert waited(first.hash) == "a", "whatever else is on trial"
    end_trial(fleet.store, "it was slow")
    for meant in (None, second.hash):
        with pytest.raises(UnhealthyError, match="slot b was rolled back: it was slow"):
            waited(meant)
    assert waited(first.hash) == "a"
    third = fleet.installed(3)
    with pytest.raises(SlotError, match=f"model {second.hash[:12]} is in no slot"):
        waited(second.hash)
    try_model(fleet.store, fleet.trust)
    commit(fleet.store, HEALTHY)
    assert waited(third.hash) == "b"
    assert waited(first.hash) == "b", "it was committed, and made room since"
