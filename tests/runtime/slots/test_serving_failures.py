"""Serving from slots when something goes wrong: hangs, surprises, full disks, several runs."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleets import Fleet
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.bundle.latency_bound import with_latency_bound
from roadshift.runtime.engines import Engine, open_engine
from roadshift.runtime.errors import EngineError, OutputError, SlotError
from roadshift.runtime.signing import generate_key, load_private_key, sign_bundle, update_trust
from roadshift.runtime.signing.trust_updates import Changes, changed, countersign, propose
from roadshift.runtime.slots import SlotStore, commit, install, roll_back, start_of_run, try_model
from roadshift.runtime.slots.health import Trials
from roadshift.runtime.slots.serving import SlotEngine
from serving_cases import serve_until, served_by
from signed_bundles import small_bundle

BATCH = (np.arange(16 * 32 * 3) % 251).astype(np.uint8).reshape(1, 16, 32, 3)
until = partial(serve_until, BATCH)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


class Wrapped(Engine):
    """An engine that does something of its own before it answers."""

    def __init__(self, inner: Engine, before: Callable[[], object]) -> None:
        self.__dict__.update(inner.__dict__)
        self._inner, self._before = inner, before
        self.closed = self.interrupted = False

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        self._before()
        return self._inner.infer(batch)

    def interrupt(self) -> bool:
        self.interrupted = True
        return True

    def close(self) -> None:
        self.closed = True
        self._inner.close()


def opening(model: Bundle, before: Callable[[], object], after: int = 2) -> Any:
    """Opens this model's engines wrapped: ``before`` is called from the third frame on."""

    def open_with(bundle: Bundle) -> Engine:
        left = [after]  # of warming up

        def counted() -> None:
            left[0] -= 1
            if left[0] < 0:
                before()

        inner = open_engine(bundle)
        return Wrapped(inner, counted) if bundle.hash == model.hash else inner

    return open_with


def fail() -> None:
    raise EngineError("the accelerator is gone")


def serving(fleet: Fleet, **how: Any) -> SlotEngine:
    return SlotEngine(fleet.store, fleet.trust, frames=5, share=0.9, **how)


def test_a_trial_that_hangs_is_rolled_back_and_the_run_ends(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadshift.runtime.slots.trial.LEAVE_AFTER_S", 0.2)
    first, model = fleet.running(1), fleet.installed(2)
    try_model(fleet.store, fleet.trust)
    free = threading.Event()
    with serving(fleet, open_with=opening(model, free.wait), stuck_s=0.3) as engine:
        until(lambda: fleet.store.state().trial is None, engine)
        assert "gives no labels for a frame within 0.3 s" in fleet.store.state().slots["b"].reason
        assert served_by(engine) == first.hash
        roll = fleet.installed(3, weights_of=1)  # the watching goes on
        try_model(fleet.store, fleet.trust)
        until(lambda: served_by(engine) == roll.hash, engine)
    free.set()


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
def test_a_surprise_in_a_trial_is_no_silent_end(fleet: Fleet, error: type[Exception]) -> None:
    first, model = fleet.running(1), fleet.installed(2)
    try_model(fleet.store, fleet.trust)

    def surprise() -> None:
        raise error("odd")

    with serving(fleet, open_with=opening(model, surprise)) as engine:
        until(lambda: fleet.store.state().trial is None, engine)
        assert served_by(engine) == first.hash
    assert error.__name__ in fleet.store.state().slots["b"].reason


def test_a_surprise_in_the_watching_thread_is_told_once_and_survived(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.running(1)
    notes = list[str]()
    with serving(fleet, note=notes.append) as engine:
        with monkeypatch.context() as broken:
            broken.setattr(SlotStore, "state", lambda _: 1 / 0)
            time.sleep(0.7)  # three looks at the slots
        assert [note for note in notes if "unexpected ZeroDivisionError" in note] == notes
        assert len(notes) == 1
        model = fleet.installed(2, weights_of=1)
        try_model(fleet.store, fleet.trust)
        until(lambda: served_by(engine) == model.hash, engine)


def test_a_failure_beside_a_trial_is_not_blamed_on_the_trial(fleet: Fleet) -> None:
    first = fleet.running(1)
    second = fleet.installed(2, weights_of=1)
    try_model(fleet.store, fleet.trust)
    with serving(fleet, open_with=opening(first, fail)) as engine:
        engine.infer(BATCH)
        assert served_by(engine) == second.hash, "better than none"
        assert fleet.store.state().slots["b"].condition == "installed"
        until(lambda: fleet.store.state().active == "b", engine)
    failed = [one for one in fleet.store.audit() if one.event == "failed"]
    assert [one.details["hash"] for one in failed] == [first.hash]
    assert "the accelerator is gone" in failed[0].details["reason"]


def test_who_stops_a_run_rolls_no_model_back(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.running(2)
    stop = threading.Event()

    def hang() -> None:
        stop.wait()
        raise EngineError("interrupted")

    engine = serving(fleet, open_with=opening(second, hang))

    def interrupt() -> None:
        engine.interrupt()
        stop.set()

    threading.Timer(0.1, interrupt).start()
    with engine, pytest.raises(EngineError, match="interrupted"):
        engine.infer(BATCH)
    assert fleet.store.state().active == "b"
    assert fleet.store.state().slots["b"].condition == "good"


def test_a_model_that_became_active_and_does_not_open_is_rolled_back(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.installed(2)

    def open_with(bundle: Bundle) -> Engine:
        if bundle.hash == second.hash:
            raise EngineError("no room on the accelerator")
        return open_engine(bundle)

    with serving(fleet, open_with=open_with) as engine:
        with fleet.store.changing() as state:  # another program tried and committed it
            slots = {
                **state.slots,
                "b": state.slots["b"].model_copy(update={"condition": "good"}),
            }
            fleet.store.change(state, "committed", {}, active="b", slots=slots)
        until(lambda: fleet.store.state().active == "a", engine)
        assert served_by(engine) == first.hash
    assert "no room on the accelerator" in fleet.store.state().slots["b"].reason


def test_a_run_that_ends_while_a_model_opens_leaves_nothing_open(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadshift.runtime.slots.serving.LEAVE_AFTER_S", 0.1)
    fleet.running(1)
    opens, go, opened = threading.Event(), threading.Event(), list[Wrapped]()

    def slow(bundle: Bundle) -> Engine:
        engine = Wrapped(open_engine(bundle), lambda: None)
        if bundle.hash == model.hash:
            opened.append(engine)
            opens.set()
            go.wait()
        return engine

    model = fleet.model(2)
    engine = serving(fleet, open_with=slow)
    install(fleet.store, model.path, fleet.trust)
    try_model(fleet.store, fleet.trust)
    assert opens.wait(20)
    engine.close()
    go.set()
    engine._watcher.join()
    assert [one.closed for one in opened] == [True]
    assert engine._trial is None
    assert fleet.store.state().trial is not None, "it is no fault of the model"


def test_the_health_of_one_model_commits_no_other(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.installed(2)
    try_model(fleet.store, fleet.trust)
    health = Trials(("a",), None, second.hash)
    labels = np.zeros((4, 4), np.uint8)
    health.add(labels, labels, 1.0)
    roll_back(fleet.store, "by hand")
    third = fleet.installed(3)
    try_model(fleet.store, fleet.trust)
    with pytest.raises(SlotError, match=f"{second.hash[:12]} is no longer being tried"):
        commit(fleet.store, health.health())
    with pytest.raises(SlotError, match="neither tried nor runs"):
        roll_back(fleet.store, "its engine failed", model=second.hash)
    assert fleet.store.state().trial is not None
    roll_back(fleet.store, "its engine failed", model=third.hash)
    assert fleet.store.state().trial is None


def test_a_trial_of_the_model_before_ends_with_the_return_to_it(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.running(2)
    try_model(fleet.store, fleet.trust)  # the first one once more
    with pytest.raises(SlotError, match="no good model before"):
        roll_back(fleet.store, "its engine failed", model=second.hash)
    assert roll_back(fleet.store, "by hand").active == "b"


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_on_a_full_disk_the_model_before_serves_all_the_same(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fleet.running(1), fleet.running(2)
    fleet.store.audit()
    notes = list[str]()
    with serving(fleet, open_with=opening(second, fail), note=notes.append) as engine:
        with monkeypatch.context() as no_room:
            no_room.setattr("os.fsync", full)
            engine.infer(BATCH)
            assert served_by(engine) == first.hash
            assert any("the disk is full" in note for note in notes)
            assert fleet.store.state().active == "b"
        until(lambda: fleet.store.state().active == "a", engine)  # once there is room
    assert "the accelerator is gone" in fleet.store.state().slots["b"].reason


@pytest.mark.parametrize("harm", ["full", "audit", "lock"])
def test_slots_that_cannot_be_changed_still_run_their_model(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    first = fleet.running(1)
    fleet.installed(2)
    try_model(fleet.store, fleet.trust)
    if harm == "full":
        monkeypatch.setattr("os.fsync", full)
    elif harm == "audit":
        (fleet.store.path / "audit.jsonl").unlink()
    else:
        (fleet.store.path / "lock").unlink()
        (fleet.store.path / "lock").mkdir()
    notes = list[str]()
    start = start_of_run(fleet.store, fleet.trust, note=notes.append)
    assert start.active is not None
    assert (start.active.hash, start.trial) == (first.hash, None)
    assert notes
    assert notes[0].endswith("The model that runs goes on; nothing is tried.")


def test_a_damaged_model_makes_room_on_a_full_disk(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fleet.running(1), fleet.running(2)
    (fleet.store.folder(second.hash) / "model.onnx").write_bytes(b"")
    monkeypatch.setattr("os.fsync", full)
    start = start_of_run(fleet.store, fleet.trust)
    assert start.active is not None
    assert start.active.hash == first.hash


def test_two_damaged_models_are_told_and_nothing_is_recorded_as_failed(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.running(2)
    for model in (first, second):
        (fleet.store.folder(model.hash) / "model.onnx").write_bytes(b"")
    with pytest.raises(Exception, match=second.hash):
        start_of_run(fleet.store, fleet.trust)
    assert fleet.store.state().active == "b"


def test_a_second_run_costs_a_trial_none_of_its_starts(fleet: Fleet) -> None:
    fleet.running(1)
    with serving(fleet) as engine:
        model = fleet.installed(2, weights_of=1)
        for _ in range(5):
            with serving(fleet) as other:
                other.infer(BATCH)
        with serving(fleet) as follower:
            try_model(fleet.store, fleet.trust)
            until(lambda: served_by(engine) == model.hash, engine)
            until(lambda: served_by(follower) == model.hash, follower)
    assert fleet.events().count("started") == 1
    assert fleet.events().count("committed") == 2


def test_a_run_that_is_left_takes_a_trial_over(fleet: Fleet) -> None:
    fleet.running(1)
    first = serving(fleet)
    with serving(fleet) as second:
        model = fleet.installed(2, weights_of=1)
        first.close()
        try_model(fleet.store, fleet.trust)
        until(lambda: served_by(second) == model.hash, second)


def test_a_first_model_is_tried_by_one_run(fleet: Fleet) -> None:
    fleet.installed(1)
    try_model(fleet.store, fleet.trust)
    with serving(fleet), pytest.raises(SlotError, match="another run is trying the first model"):
        serving(fleet)


def test_keys_that_were_rotated_are_known_to_a_run_that_goes_on(fleet: Fleet) -> None:
    fleet.running(1)
    with serving(fleet) as engine:
        generate_key(fleet.folder / "new.key")
        new = load_private_key(fleet.folder / "new.key")
        what = Changes(add={"maker": {"new": new.public}})
        update = countersign(propose(changed(fleet.trust, what), [fleet.key]), new)
        trust = update_trust(fleet.trust.path, update)
        bundle = small_bundle(fleet.folder / "v2", 1, self_test=True, mark=2)
        sign_bundle(bundle, new, version=2)
        install(fleet.store, bundle.path, trust)
        try_model(fleet.store, trust)
        until(lambda: served_by(engine) == bundle.hash, engine)


@pytest.mark.parametrize("slots_ms", [None, 1e6])
def test_a_model_is_held_to_the_bound_that_its_maker_recorded(
    fleet: Fleet, slots_ms: float | None
) -> None:
    fleet.running(1)
    with fleet.store.changing() as state:
        fleet.store.change(state, "bounded", {}, p99_ms=slots_ms)
    bundle = with_latency_bound(
        small_bundle(fleet.folder / "v2", 1, self_test=True, mark=2), p99_ms=1e-6
    )
    sign_bundle(bundle, fleet.key, version=2)
    install(fleet.store, bundle.path, fleet.trust)
    try_model(fleet.store, fleet.trust)
    with serving(fleet) as engine:
        until(lambda: fleet.store.state().slots["b"].condition == "failed", engine)
    assert "at most 1e-06 are allowed" in fleet.store.state().slots["b"].reason


def test_a_model_that_failed_in_a_run_is_tried_anew_by_it(fleet: Fleet) -> None:
    fleet.running(1)
    bundle = fleet.installed(2, weights_of=1)
    failing = [True]

    def fragile(found: Bundle) -> Engine:
        if found.hash == bundle.hash and failing:
            raise EngineError("no such luck.")
        return open_engine(found)

    with SlotEngine(fleet.store, fleet.trust, frames=5, share=0.9, open_with=fragile) as engine:
        try_model(fleet.store, fleet.trust)
        until(lambda: fleet.store.state().slots["b"].condition == "failed", engine)
        failing.clear()
        install(fleet.store, bundle.path, fleet.trust)
        try_model(fleet.store, fleet.trust)
        until(lambda: served_by(engine) == bundle.hash, engine)
    assert fleet.store.state().active == "b"


def test_a_first_model_on_a_full_disk_says_so(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.installed(1)
    try_model(fleet.store, fleet.trust)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        start_of_run(fleet.store, fleet.trust)
