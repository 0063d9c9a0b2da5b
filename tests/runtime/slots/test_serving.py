"""Serving from slots: trials beside the model that runs, swaps between frames, failures."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleets import Fleet
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import Engine, open_engine
from roadshift.runtime.errors import EngineError, SlotError
from roadshift.runtime.frames import Frame
from roadshift.runtime.pipeline import Pipeline
from roadshift.runtime.slots import roll_back, try_model
from roadshift.runtime.slots.serving import SlotEngine
from serving_cases import serve_until

RNG = np.random.default_rng(0)
BATCH = RNG.integers(0, 256, (1, 4, 8, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
until = partial(serve_until, BATCH)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def labels_of(bundle: Bundle, batch: np.ndarray = BATCH) -> np.ndarray:
    with open_engine(bundle) as engine:
        return engine.infer(batch)


def serving(fleet: Fleet, **how: Any) -> SlotEngine:
    return SlotEngine(fleet.store, fleet.trust, frames=5, share=0.9, **how)


def test_a_healthy_model_takes_over_between_two_frames(fleet: Fleet) -> None:
    first = fleet.running(1)
    with serving(fleet) as engine:
        np.testing.assert_array_equal(engine.infer(BATCH), labels_of(first))
        alike = fleet.installed(2, weights_of=1)
        try_model(fleet.store, fleet.trust)
        until(lambda: fleet.store.state().active == "b", engine)
        until(lambda: "swapped" in fleet.events(), engine)
        np.testing.assert_array_equal(engine.infer(BATCH), labels_of(alike))
    assert fleet.events()[-4:] == ["tried", "started", "committed", "swapped"]


def test_a_model_that_loses_a_class_never_serves(fleet: Fleet) -> None:
    first = fleet.running(1)
    notes = list[str]()
    with serving(fleet, note=notes.append) as engine:
        fleet.installed(2, blind=True)
        try_model(fleet.store, fleet.trust)
        expected = labels_of(first)

        def rolled_back() -> bool:
            np.testing.assert_array_equal(engine.infer(BATCH), expected)
            return fleet.store.state().slots["b"].condition == "failed"

        until(rolled_back, engine)
    assert "has lost" in fleet.store.state().slots["b"].reason
    assert any("was rolled back" in note for note in notes)


def test_the_first_model_of_a_vehicle_serves_while_it_is_tried(fleet: Fleet) -> None:
    with pytest.raises(SlotError, match="no model was committed"):
        serving(fleet)
    first = fleet.installed(1)
    try_model(fleet.store, fleet.trust)
    with serving(fleet) as engine:
        np.testing.assert_array_equal(engine.infer(BATCH), labels_of(first))
        until(lambda: fleet.store.state().active == "a", engine)


def test_a_rollback_by_another_program_is_followed(fleet: Fleet) -> None:
    first = fleet.running(1)
    second = fleet.running(2)
    with serving(fleet) as engine:
        np.testing.assert_array_equal(engine.infer(BATCH), labels_of(second))
        roll_back(fleet.store, "by hand")
        expected = labels_of(first)
        until(lambda: bool((engine.infer(BATCH) == expected).all()), engine)


class Failing(Engine):
    """An engine that fails from a given frame on."""

    def __init__(self, inner: Engine, after: int) -> None:
        self.__dict__.update(inner.__dict__)
        self._inner, self._left = inner, after

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def infer(self, batch: np.ndarray, names: Any = ()) -> np.ndarray:
        if not self._left:
            raise EngineError("the accelerator is gone")
        self._left -= 1
        return self._inner.infer(batch, names)

    def close(self) -> None:
        self._inner.close()


def test_an_engine_that_fails_makes_room_for_the_model_before(fleet: Fleet) -> None:
    first, second = fleet.running(1), fleet.running(2)

    def fragile(bundle: Bundle) -> Engine:
        inner = open_engine(bundle)
        return Failing(inner, 3) if bundle.hash == second.hash else inner

    with serving(fleet, open_with=fragile) as engine:
        engine.infer(BATCH)
        np.testing.assert_array_equal(engine.infer(BATCH), labels_of(first))
        with pytest.raises(SlotError, match="no good model before"):
            roll_back(fleet.store, "again")
    assert "the accelerator is gone" in fleet.store.state().slots["b"].reason


def test_a_trial_whose_engine_fails_or_does_not_open_is_rolled_back(fleet: Fleet) -> None:
    first = fleet.running(1)
    for version, after in ((2, 3), (3, 0)):
        model = fleet.installed(version)
        try_model(fleet.store, fleet.trust)

        def fragile(bundle: Bundle, model: Bundle = model, after: int = after) -> Engine:
            inner = open_engine(bundle)
            return Failing(inner, after) if bundle.hash == model.hash else inner

        with serving(fleet, open_with=fragile) as engine:
            until(lambda: fleet.store.state().trial is None, engine)
            np.testing.assert_array_equal(engine.infer(BATCH), labels_of(first))
        assert "the accelerator is gone" in fleet.store.state().slots["b"].reason


def test_models_of_other_input_sizes_swap_in_a_running_pipeline(fleet: Fleet) -> None:
    fleet.running(1)
    seen = threading.Event()

    def frames() -> Iterator[Frame]:
        for number in range(100_000):
            yield Frame(BATCH[0], f"f{number}", number)
            if seen.is_set():
                return

    with serving(fleet) as engine, Pipeline(frames(), engine) as pipeline:
        fleet.installed(2, weights_of=1, size=(64, 32))
        try_model(fleet.store, fleet.trust)
        for result in pipeline:
            assert result.labels.shape == (16, 32)
            if engine.input.width == 64:
                seen.set()
    assert seen.is_set()
