"""The reservoir's nearest neighbours against all distances, after any additions and removals."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime.collecting.appearance import LENGTH
from roadshift.runtime.collecting.reservoir import FAR_S, OF_TIME, Reservoir


def brute_force(kept: dict[str, tuple[np.ndarray, float, float]]) -> dict[str, float]:
    """Value of each frame: weight times the distance from the nearest other one."""
    values = {}
    for name, (vector, time_s, weight) in kept.items():
        distances = [
            np.hypot(np.linalg.norm(vector - v), OF_TIME * min(1, abs(t - time_s) / FAR_S))
            for other, (v, t, _) in kept.items()
            if other != name
        ]
        values[name] = weight * min(distances, default=np.inf)
    return values


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=60), st.integers(0, 2**31))
def test_the_frame_worth_least_is_the_one_that_all_distances_say(
    steps: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    reservoir, kept = Reservoir(), {}
    for number, step in enumerate(steps):
        if kept and step % 3 == 0:
            slot, value = reservoir.worth_least()
            expected = brute_force(kept)
            assert np.isclose(value, min(expected.values()), atol=1e-3)
            assert np.isclose(expected[reservoir.names[slot]], value, atol=1e-3)
            del kept[reservoir.names[slot]]
            reservoir.remove(slot)
        elif kept and step % 3 == 1:
            slot = step % len(reservoir)
            del kept[reservoir.names[slot]]
            reservoir.remove(slot)
        else:
            vector = rng.normal(0, 1, LENGTH).astype(np.float32)
            time_s, weight = float(rng.uniform(0, 1000)), float(rng.uniform(1, 2))
            differences = reservoir.differences(vector)
            distances = reservoir.distances(differences, time_s)
            found = reservoir.nearest(vector, time_s)
            least = differences.min(initial=np.inf), distances.min(initial=np.inf)
            np.testing.assert_allclose(found, least, atol=1e-3)
            reservoir.add(str(number), step, vector, time_s, weight, distances)
            kept[str(number)] = vector, time_s, weight
        assert sorted(reservoir.names) == sorted(kept)
        assert reservoir.total == sum(reservoir.sizes)
        assert len(reservoir) == len(kept)


def test_of_two_alike_the_lighter_one_goes_and_what_is_seen_most_does_not_stay() -> None:
    rng = np.random.default_rng(0)
    reservoir = Reservoir()
    places = rng.normal(0, 1, (4, LENGTH)).astype(np.float32)
    for number in range(40):
        place = places[0] if number < 36 else places[number - 36]
        vector = place + rng.normal(0, 0.01, LENGTH).astype(np.float32)
        distances = reservoir.distances(reservoir.differences(vector), 0.0)
        reservoir.add(f"{number} {0 if number < 36 else number - 36}", 1, vector, 0.0, 1, distances)
    while len(reservoir) > 4:
        reservoir.remove(reservoir.worth_least()[0])
    assert {name.split()[1] for name in reservoir.names} == {"0", "1", "2", "3"}


def test_it_grows_with_what_it_keeps() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 1, (300, LENGTH)).astype(np.float32)
    reservoir = Reservoir()
    for number, vector in enumerate(vectors):
        distances = reservoir.distances(reservoir.differences(vector), 0.0)
        reservoir.add(str(number), 1, vector, 0.0, 1.0, distances)
    kept = {str(number): (vector, 0.0, 1.0) for number, vector in enumerate(vectors)}
    expected = brute_force(kept)
    slot, value = reservoir.worth_least()
    assert np.isclose(value, min(expected.values()), atol=1e-3)
    assert np.isclose(expected[reservoir.names[slot]], value, atol=1e-3)
    far = np.linalg.norm(vectors - vectors[7] - 0.01, axis=1)
    np.testing.assert_allclose(reservoir.differences(vectors[7] + 0.01), far, atol=1e-3)
