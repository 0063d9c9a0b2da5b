"""Classes told for one another: names of people, confusion, cycles, and displaced labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from roadshift.adapt.judging.class_checks import identity_checks
from roadshift.adapt.judging.evidence import Evidence
from roadshift.adapt.scoring.class_pairs import (
    ClassPairs,
    cycles,
    is_vulnerable,
    pairs_of,
)
from roadshift.adapt.scoring.displacement import Displacement, agreements, moves
from roadshift.adapt.scoring.references import MIXED, OWN
from roadshift.runtime.verdict import Check

NAMES = ["road", "car", "vegetation", "person"]


@pytest.mark.parametrize(
    "name",
    [
        "person",
        "Person",
        "persons",
        "pedestrian",
        "pedestrian-group",
        "rider",
        "Bicyclist",
        "bicycle",
        "motorcycle",
        "motor_cycles",
        "motorcyclist",
    ],
)
def test_people_and_what_they_ride_are_known_by_name(name: str) -> None:
    assert is_vulnerable(name)


@pytest.mark.parametrize("name", ["road", "traffic light", "car", "personal", "bridge", ""])
def test_other_classes_are_not_taken_for_people(name: str) -> None:
    assert not is_vulnerable(name)


def test_cycles_of_a_permutation() -> None:
    assert cycles([0, 1, 2]) == []
    assert cycles([1, 0, 2, 4, 5, 3]) == [[0, 1], [3, 4, 5]]


def test_pixels_are_counted_by_both_labels() -> None:
    opinion = torch.tensor([[[0, 0, 1, 1]]])
    candidate = torch.tensor([[[0, 1, 1, 1]]])
    assert pairs_of(opinion, candidate, 2).tolist() == [[1, 1], [0, 2]]


def checks_of(counts: list[list[float]], displaced: Displacement | None = None) -> dict[str, Check]:
    pairs = ClassPairs(np.array(counts))
    evidence = Evidence(
        16,
        True,
        {},
        {},
        pairs={OWN: pairs, MIXED: pairs},
        displaced={} if displaced is None else {OWN: displaced},
    )
    return {check.name: check for check in identity_checks(evidence, NAMES)}


HONEST = [[700.0, 10, 10, 5], [5, 100, 10, 0], [10, 10, 120, 0], [2, 2, 2, 14]]


def test_an_honest_candidate_passes() -> None:
    assert all(check.passed for check in checks_of(HONEST).values())


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(range(4), 2)))
def test_two_classes_that_change_places_are_named(one: int, other: int) -> None:
    order = list(range(4))
    order[one], order[other] = other, one
    check = checks_of([[row[j] for j in order] for row in HONEST])["exchanged"]
    assert not check.passed
    assert f"{NAMES[other]} what was {NAMES[one]}" in check.sentence
    assert f"{NAMES[one]} what was {NAMES[other]}" in check.sentence


def test_a_permutation_of_three_is_named() -> None:
    check = checks_of([[row[j] for j in (0, 3, 1, 2)] for row in HONEST])["exchanged"]
    assert not check.passed
    assert (
        "car what was vegetation" in check.sentence or "vegetation what was car" in check.sentence
    )


def test_two_tiny_classes_that_fit_as_badly_either_way_refuse_nobody() -> None:
    counts = [[900.0, 0, 0, 0], [0, 10, 11, 0], [0, 11, 10, 0], [0, 0, 0, 0]]
    check = checks_of(counts)["exchanged"]
    assert check.passed
    assert "nearest to it" in check.sentence


def test_a_class_that_took_the_name_of_an_absent_one_is_lost() -> None:
    counts = [[700.0, 0, 0, 0], [0, 100, 0, 0], [0, 100, 5, 0], [0, 0, 0, 0]]
    check = checks_of(counts)["kept"]
    assert not check.passed
    assert "it calls car what was vegetation" in check.sentence


def test_what_people_lose_is_said_once() -> None:
    counts = [[700.0, 0, 0, 0], [0, 100, 0, 0], [0, 0, 100, 0], [40, 0, 0, 0]]
    checks = checks_of(counts)
    assert checks["kept"].passed
    assert "it calls road what was person" in checks["kept_vulnerable"].sentence


def test_people_are_held_to_more_than_others() -> None:
    counts = [[700.0, 0, 0, 0], [0, 100, 0, 0], [75, 0, 25, 0], [16, 0, 0, 4]]
    checks = checks_of(counts)
    assert checks["kept"].passed
    assert not checks["kept_vulnerable"].passed
    assert "it calls road what was person" in checks["kept_vulnerable"].sentence


def test_people_that_are_invented_are_refused() -> None:
    counts = [[700.0, 0, 0, 80], [0, 100, 0, 0], [0, 0, 100, 0], [0, 0, 0, 20]]
    check = checks_of(counts)["grown_vulnerable"]
    assert not check.passed
    assert "5.0 times as much person" in check.sentence


def test_displaced_labels_are_said_with_their_direction() -> None:
    check = checks_of(HONEST, Displacement(8, "low", 0.031, 0.02))["displaced"]
    assert not check.passed
    assert "lie 8 pixels too low" in check.sentence


def test_moves_are_cells_of_the_grid_and_one_at_least() -> None:
    assert {move.cells[0] for move in moves((64, 128), (256, 512)) if move.direction == "low"} == {
        1,
        2,
    }
    first = moves((64, 128), (256, 512))[0]
    assert (first.pixels, first.cells) == (4, (1, 0))
    assert moves((3, 3), (24, 24)) == []


@pytest.mark.parametrize(("down", "right"), [(1, 0), (-2, 0), (0, 2), (0, -1)])
def test_a_move_back_agrees_fully(down: int, right: int) -> None:
    torch.manual_seed(0)
    opinion = torch.randint(0, 5, (2, 24, 24))
    tried = moves((24, 24), (24, 24))
    agreed = agreements(opinion, opinion.roll((down, right), (1, 2)), tried).mean(dim=0)
    best = tried[int(agreed[1:].argmax())]
    assert best.cells == (down, right)
    assert agreed.max() == 1


def test_a_class_that_is_lost_to_many_others_is_not_said_to_be_called_itself() -> None:
    counts = [[700.0, 0, 0, 0], [0, 100, 0, 0], [0, 0, 100, 0], [7, 1, 1, 2]]
    more = [row.copy() for row in counts]
    more[3] = [3, 3, 3, 2]
    for table in (counts, more):
        sentence = checks_of(table)["kept_vulnerable"].sentence
        assert "it calls road what was person" in sentence
