"""Arguments of the Python functions, checked before anything is done: an error names the one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ConfigError, LabelSpaceError, arg, naming
from .given import path_of
from .labels import LabelSpace, label_space
from .labels.spaces import LabelMap
from .words import shortened

Source = str | Path
Sources = Source | Sequence[Source]
LabelMapSource = LabelMap | Mapping[str, str | None] | Source | None
LEAST_SIDE = 32  # pixels of a model's input


@dataclass(frozen=True)
class ProgressUpdate:
    """The state of a long task, as a caller's ``on_progress`` is given it.

    Attributes:
        task: for people, "decoding" or the name of a method's stage.
        unit: of ``done`` and ``total``, "steps" or "frames".
        total: None where it is not known.
        per_s: units a second; 0 before anything is timed.
        left_s: seconds to the task's end; None where that is not known.
        losses: terms of the step's loss, by name; empty but for steps.
    """

    task: str
    unit: str
    done: int
    total: int | None
    per_s: float = 0.0
    left_s: float | None = None
    losses: dict[str, float] = field(default_factory=dict)


@naming(label_space=LabelSpaceError)
def space_of(value: LabelSpace | Source) -> LabelSpace:
    """The label space itself, a built-in one by name, or one of a JSON file.

    Raises:
        LabelSpaceError: it is none of these.
    """
    if isinstance(value, LabelSpace):
        return value
    path_of("label_space", value)
    return label_space(value)  # as it is written: a name may be none that a path keeps


def sources(name: str, value: Sources, *, least: int = 1) -> list[str]:
    """One source or several, as texts.

    Raises:
        ConfigError: it is no path and no sequence of them, or there are fewer than ``least``.
    """
    single = isinstance(value, (str, Path))
    several = [value] if single else list(value) if isinstance(value, Iterable) else [None]
    if not all(isinstance(one, (str, Path)) for one in several):
        raise ConfigError(f"{arg(name)}: give a path or a list of paths, not {value!r}.")
    if len(several) < least:
        raise ConfigError(f"{arg(name)}: is empty; give at least {least}.")
    return [str(one) for one in several]


def names_of(name: str, value: Sequence[str], known: Sequence[str], does: str) -> list[str]:
    """Names of ``known``, each once, in their order.

    Args:
        does: begins what is said of the known ones, "this version exports to".

    Raises:
        ConfigError: it is no sequence of texts, is empty, or one is not known.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str)
    if not (several and all(isinstance(one, str) for one in value)):
        raise ConfigError(f"{arg(name)}: {value!r} is no list of names, such as {known[:1]!r}.")
    if not value or not set(value) <= set(known):
        given = shortened(",".join(value))
        raise ConfigError(f"{arg(name)} {given!r}: {does} {', '.join(known)}.")
    return list(dict.fromkeys(value))


def size_of(name: str, value: tuple[int, int]) -> tuple[int, int]:
    """(width, height) in pixels.

    Raises:
        ConfigError: it is no pair of integers, or a side is below `LEAST_SIDE`.
    """
    sides = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(sides) != 2 or not all(type(side) is int and side >= LEAST_SIDE for side in sides):
        raise ConfigError(
            f"{arg(name)}: {value!r} is no (width, height) of at least {LEAST_SIDE} pixels each."
        )
    return sides[0], sides[1]


def triple_of(
    name: str, value: Sequence[float], *, positive: bool = False
) -> tuple[float, float, float]:
    """Three finite numbers in 0-255 units, in the order of the colours.

    Raises:
        ConfigError: they are not, or are not above 0 where they are to be ``positive``.
    """
    try:
        a, b, c = (float(number) for number in value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{arg(name)}: {value!r} is not three numbers.") from error
    if not all(map(math.isfinite, (a, b, c))) or (positive and min(a, b, c) <= 0):
        kind = "positive" if positive else "finite"
        raise ConfigError(f"{arg(name)}: {value!r} is not three {kind} numbers.")
    return a, b, c
