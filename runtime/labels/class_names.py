"""Label spaces from the class names that a model carries: a built-in one in any order, or its own.

A model says its classes by name alone (``id2label`` of a hub folder, ``CLASSES`` of an
mmsegmentation checkpoint). Names are compared by their letters and digits, so "Traffic_Light" is
"traffic light".
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import LabelSpaceError, arg
from .built_in import LABEL_SPACES, label_space
from .spaces import LabelSpace
from .tables import Rgb

_GOLDEN = 0.6180339887498949  # of the hue circle: successive colours lie far apart


class NamedSpace(NamedTuple):
    """A label space that class names say, and a clause on how it was found."""

    space: LabelSpace
    told: str


def space_of_names(
    names: Sequence[str], own_name: str, where: str, colours: Sequence[Rgb] = ()
) -> NamedSpace:
    """The label space of a model whose classes are ``names``: a built-in one, or its own.

    Names of a built-in space are that space in any order (`order_of` says which); all others are a
    space of their own, in colours that differ.

    Args:
        names: K of them, in the order of the model's outputs.
        own_name: of a space of its own.
        where: the file, for messages.
        colours: one a class, for a space of its own; empty: they are chosen.

    Raises:
        LabelSpaceError: the names tell no classes apart.
    """
    plain = [_plain(name) for name in names]
    if all(re.fullmatch(r"(label|class)?\d*", name) for name in plain):
        raise LabelSpaceError(
            f"{where}: says no names of its classes{_shown(names)}; give {arg('label_space')}."
        )
    for known in map(label_space, LABEL_SPACES):
        if sorted(plain) == sorted(map(_plain, known.classes)):
            return NamedSpace(known, f"its classes are those of {known.name}")
    return NamedSpace(
        _own(names, own_name, where, colours),
        f"its {len(names)} classes are of no built-in label space and make one of their own, "
        f"{own_name}",
    )


def order_of(space: LabelSpace, names: Sequence[str], where: str) -> tuple[int, ...] | None:
    """The model's output for each class of ``space``, where its names are those in another order.

    Args:
        names: of the model's outputs, in their order.

    Returns:
        K indices; ``None`` where the order is the same, or the names are others.

    Raises:
        LabelSpaceError: there are more or fewer names than classes.
    """
    plain, theirs = [_plain(n) for n in names], [_plain(n) for n in space.classes]
    if len(plain) != len(theirs):
        raise LabelSpaceError(
            f"{where}: has {len(plain)} classes, and label space {space.name} has {len(theirs)}; "
            f"choose the one that it was trained with, or leave {arg('label_space')} out."
        )
    if plain == theirs or sorted(plain) != sorted(theirs):
        return None
    return tuple(plain.index(name) for name in theirs)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _shown(names: Sequence[str]) -> str:
    return f" but {', '.join(names[:3])}, ..." if names else ""


def _own(names: Sequence[str], own_name: str, where: str, colours: Sequence[Rgb]) -> LabelSpace:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabelSpaceError(
            f"{where}: two of its classes are called {twice[0]!r}; give {arg('label_space')} with "
            "a name for each."
        )
    chosen = tuple(colours) if len(colours) == len(names) else _colours(names)
    return LabelSpace(name=own_name, classes=tuple(names), colours=chosen)


def _colours(names: Sequence[str]) -> tuple[Rgb, ...]:
    """A colour each: the one that a built-in space gives a class of that name, or a new one."""
    known: dict[str, Rgb] = {}
    for space in map(label_space, LABEL_SPACES):
        for name, theirs in zip(space.classes, space.colours, strict=True):
            known.setdefault(_plain(name), theirs)
    used: set[Rgb] = {(0, 0, 0)}
    chosen: list[Rgb] = []
    step = 0
    for name in names:
        colour = known.get(_plain(name))
        while colour is None or colour in used:
            hue, ring = (step * _GOLDEN) % 1.0, step % 3
            red, green, blue = colorsys.hsv_to_rgb(hue, 0.9 - 0.25 * ring, 0.6 + 0.18 * ring)
            colour, step = (round(255 * red), round(255 * green), round(255 * blue)), step + 1
        used.add(colour)
        chosen.append(colour)
    return tuple(chosen)
