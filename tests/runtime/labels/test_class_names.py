"""Label spaces from class names: built-in ones in any order and spelling, and a model's own."""

from __future__ import annotations

import pytest
from roadshift.runtime.errors import LabelSpaceError
from roadshift.runtime.labels import LABEL_SPACES, label_space
from roadshift.runtime.labels.class_names import order_of, space_of_names

CITY = label_space("cityscapes19")


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_every_built_in_space_is_known_by_its_names(name: str) -> None:
    space = label_space(name)
    found = space_of_names(space.classes, "own", "w").space
    assert found.classes == space.classes  # crosscity13 has the classes of synthia13
    assert order_of(found, space.classes, "w") is None


def test_spelling_and_order_do_not_matter() -> None:
    names = [name.title().replace(" ", "_") for name in reversed(CITY.classes)]
    assert space_of_names(names, "own", "w").space is CITY
    order = order_of(CITY, names, "w")
    assert order == tuple(reversed(range(19)))
    assert order is not None
    assert [names[place].lower().replace("_", " ") for place in order] == list(CITY.classes)


def test_other_classes_are_a_space_of_their_own_in_colours_that_differ() -> None:
    names = ["road", "zebra crossing", *(f"thing {i}x" for i in range(148))]
    found = space_of_names(names, "mine", "w")
    assert (found.space.name, found.space.classes) == ("mine", tuple(names))
    assert len(set(found.space.colours)) == 150
    assert found.space.colours[0] == CITY.colours[0]  # a road looks like one
    assert order_of(found.space, names, "w") is None
    assert "make one of their own, mine" in found.told


def test_colours_that_a_file_says_are_kept() -> None:
    found = space_of_names(["a", "b"], "mine", "w", [(1, 2, 3), (4, 5, 6)])
    assert found.space.colours == ((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize("names", [(), ("LABEL_0", "LABEL_1"), ("0", "1", "2"), ("class 1", "2")])
def test_numbers_are_no_names(names: tuple[str, ...]) -> None:
    with pytest.raises(LabelSpaceError, match=r"^w: says no names of its classes.*label_space"):
        space_of_names(names, "mine", "w")


def test_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(LabelSpaceError, match="two of its classes are called 'a'"):
        space_of_names(["a", "b", "a"], "mine", "w")


def test_another_number_of_classes_is_refused_and_other_names_are_the_users_word() -> None:
    with pytest.raises(LabelSpaceError, match="has 2 classes, and label space cityscapes19 has 19"):
        order_of(CITY, ["a", "b"], "w")
    assert order_of(CITY, [f"c{i}x" for i in range(19)], "w") is None
