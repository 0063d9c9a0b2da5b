"""The health of a model on trial: when it is decided, and how."""

import numpy as np
from roadshift.runtime.slots.health import Trials


def test_a_trial_that_can_only_be_too_slow_ends_early() -> None:
    trials = Trials(("road",), p99_ms=10)
    labels = np.zeros((4, 4), np.uint8)
    trials.add(labels, labels, 50.0)
    assert not trials.too_slow(100)
    trials.add(labels, labels, 50.0)
    assert trials.too_slow(100)
    for _ in range(98):
        trials.add(labels, labels, 1.0)
    assert not trials.health().passed, "as it was foretold"


def test_a_trial_in_doubt_of_its_speed_sees_more_frames() -> None:
    labels = np.zeros((4, 4), np.uint8)

    def seen(slow: int, fast: int, after: np.ndarray = labels) -> Trials:
        trials = Trials(("road",), p99_ms=10)
        for took in [50.0] * slow + [1.0] * fast:
            trials.add(labels, after, took)
        return trials

    assert not seen(2, 97).is_decided(100)
    assert seen(0, 100).is_decided(100)
    assert not seen(2, 98).health().passed, "by the bound alone, a busy moment fails it"
    assert not seen(2, 98).is_decided(100)
    assert seen(2, 200).is_decided(100)
    assert seen(2, 200).health().passed
    assert seen(7, 0).is_decided(100), "that no frame to come can mend"
    assert not seen(7, 493).health().passed
    assert seen(2, 98, np.ones_like(labels)).is_decided(100), "a lost class is no matter of speed"
    assert seen(6, 494).is_decided(100)
