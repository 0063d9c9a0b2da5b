"""A run that goes on while the model that serves is revoked, or expires."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fleets import Fleet
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import BundleError, SignatureError, UnhealthyError
from roadshift.runtime.frames import Frame
from roadshift.runtime.gentle import FrameGaps
from roadshift.runtime.signing import Trust, open_trust, sign_bundle, update_trust
from roadshift.runtime.signing.trust_updates import Changes, changed, propose
from roadshift.runtime.slots import commit, install, start_of_run, try_model
from roadshift.runtime.slots.examination import examine
from roadshift.runtime.slots.serving import SlotEngine
from roadshift.runtime.slots.trust_watch import TrustWatch
from serving_cases import serve_until, served_by

BATCH = np.zeros((1, 16, 32, 3), np.uint8)
until = partial(serve_until, BATCH)
YEAR = timedelta(days=365)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def revoke(fleet: Fleet, *models: Bundle) -> Trust:
    """Bring the vehicle an update that revokes models."""
    what = Changes(revoke_models={model.hash: "recall" for model in models})
    now = open_trust(fleet.trust.path)
    return update_trust(fleet.trust.path, propose(changed(now, what), [fleet.key]))


def test_a_model_revoked_while_it_serves_makes_room_for_the_model_before(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.running(2)
    notes = list[str]()
    with SlotEngine(fleet.store, fleet.trust, note=notes.append) as engine:
        assert served_by(engine) == second.hash
        revoke(fleet, second)
        until(lambda: served_by(engine) == first.hash, engine)
        until(lambda: "swapped" in fleet.events(), engine)
    state = fleet.store.state()
    assert (state.active, state.slots["b"].condition) == ("a", "failed")
    assert "was revoked (recall)" in state.slots["b"].reason
    assert any(
        n.endswith("revoked (recall); install another. The model before serves.") for n in notes
    )


def test_without_another_model_a_revoked_one_serves_until_the_next_start(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.running(2)
    notes = list[str]()
    with SlotEngine(fleet.store, fleet.trust, note=notes.append) as engine:
        trust = revoke(fleet, first, second)
        until(lambda: "no longer trusted" in fleet.events(), engine)
        time.sleep(0.7)  # three looks at the slots
        engine.infer(BATCH)
        assert served_by(engine) == second.hash
    assert fleet.events().count("no longer trusted") == 1
    said = "There is no other model; it serves on until the next start."
    assert len([note for note in notes if note.endswith(said)]) == 1
    assert fleet.store.state().active == "b"
    with pytest.raises(SignatureError, match="was revoked"):
        start_of_run(fleet.store, trust)


@pytest.mark.parametrize("disk", ["fine", "full"])
def test_a_model_that_expires_while_it_serves_makes_room(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    first, second = fleet.running(1), fleet.running(2)
    sign_bundle(second, fleet.key, version=3, expires=datetime.now(timezone.utc) + YEAR)
    install(fleet.store, second.path, fleet.trust)
    clock = type(fleet.store).now

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with SlotEngine(fleet.store, fleet.trust) as engine:
        time.sleep(0.5)
        engine.infer(BATCH)
        assert served_by(engine) == second.hash
        if disk == "full":
            monkeypatch.setattr("os.fsync", full)
        monkeypatch.setattr(type(fleet.store), "now", lambda *args: clock(*args) + 2 * YEAR)
        until(lambda: served_by(engine) == first.hash, engine)
        until(lambda: disk == "full" or fleet.store.state().active == "a", engine)
    if disk == "fine":
        assert "expired on" in fleet.store.state().slots["b"].reason


def test_signatures_that_are_exchanged_meanwhile_are_no_loss_of_trust(fleet: Fleet) -> None:
    model = fleet.running(1)
    before = fleet.store.state()
    watch = TrustWatch(fleet.store, fleet.trust, pytest.fail, FrameGaps())
    fleet.signed_again(1, 2)
    install(fleet.store, model.path, fleet.trust)
    assert watch.problem(before, model.hash) is None  # whose folder is gone
    assert watch.problem(fleet.store.state(), model.hash) is None
    manifest = fleet.store.folder(fleet.store.state().slots["a"].folder) / "manifest.json"
    content = manifest.read_bytes()
    manifest.unlink()
    assert watch.problem(fleet.store.state(), model.hash) is None, "verified already"
    revoke(fleet, fleet.model(2))
    damage = watch.problem(fleet.store.state(), model.hash)
    assert isinstance(damage, BundleError)
    manifest.write_bytes(content)
    assert watch.problem(fleet.store.state(), model.hash) is damage, "the same until a change"
    watch.forget(model.hash)
    assert watch.problem(fleet.store.state(), model.hash) is None


def test_a_model_revoked_during_its_trial_is_never_committed(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.installed(2)
    with SlotEngine(fleet.store, fleet.trust, frames=10**6) as engine:
        try_model(fleet.store, fleet.trust)
        until(lambda: "started" in fleet.events(), engine)
        revoke(fleet, second)
        until(lambda: fleet.store.state().trial is None, engine)
        assert served_by(engine) == first.hash
    state = fleet.store.state()
    assert (state.active, state.slots["b"].condition) == ("a", "failed")
    assert "was revoked (recall)" in state.slots["b"].reason
    assert "committed" not in fleet.events()[fleet.events().index("tried", 3) :]


def test_a_model_that_expired_in_its_trial_is_tried_anew_with_newer_signatures(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.running(1)
    second = fleet.model(2, weights_of=1)
    now = datetime.now(timezone.utc)
    sign_bundle(second, fleet.key, version=3, expires=now + YEAR)
    install(fleet.store, second.path, fleet.trust)
    clock, later = type(fleet.store).now, [timedelta()]
    monkeypatch.setattr(type(fleet.store), "now", lambda *args: clock(*args) + later[0])
    with SlotEngine(fleet.store, fleet.trust, frames=50, share=0.9) as engine:
        engine._frames = 10**6
        try_model(fleet.store, fleet.trust)
        until(lambda: "started" in fleet.events(), engine)
        later[0] = 2 * YEAR
        until(lambda: fleet.store.state().trial is None, engine)
        assert "expired on" in fleet.store.state().slots["b"].reason
        engine._frames = 5
        sign_bundle(second, fleet.key, version=4, expires=now + 30 * YEAR)
        install(fleet.store, second.path, fleet.trust)
        try_model(fleet.store, fleet.trust)
        until(lambda: served_by(engine) == second.hash, engine)
    assert fleet.store.state().active == "b"


def test_a_model_revoked_while_it_is_examined_is_rolled_back(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.installed(2, weights_of=1)
    try_model(fleet.store, fleet.trust)

    def frames() -> Iterator[Frame]:
        yield Frame(BATCH[0], "0", None)
        revoke(fleet, second)

    health = examine(fleet.store, fleet.trust, frames())
    assert not health.passed
    assert "was revoked (recall)" in health.sentences[0]
    with pytest.raises(UnhealthyError):
        commit(fleet.store, health)


def test_the_first_model_revoked_in_its_trial_serves_on_uncommitted(fleet: Fleet) -> None:
    model = fleet.installed(1)
    try_model(fleet.store, fleet.trust)
    with SlotEngine(fleet.store, fleet.trust, frames=10**6) as engine:
        revoke(fleet, model)
        until(lambda: fleet.store.state().trial is None, engine)
        assert served_by(engine) == model.hash
        until(lambda: "no longer trusted" in fleet.events(), engine)
    assert fleet.store.state().slots["a"].condition == "failed"
    assert fleet.events().count("no longer trusted") == 1
