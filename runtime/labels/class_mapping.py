"""Correspondence of class names: which class of one label space each class of another one is.

A network is measured on labels with fewer, coarser classes by taking each of its classes for one of
theirs; here, by their names alone, which are given, read from a file or built in. A class without a
counterpart is *unmapped*: predicting it is a wrong answer wherever there are labels, never an
ignored one and never class 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import LabelSpaceError, arg
from .label_space_checks import read_document
from .tables import (
    BACKGROUND,
    CAMVID,
    CAMVID_OF_CITYSCAPES,
    CITYSCAPES,
    IDD,
    IDD_OF_CITYSCAPES,
    NOT_IN_13,
    NOT_IN_SYNTHIA,
)

ClassNames = Mapping[str, str | None] | Iterable[tuple[str, str | None]]
Classes = tuple[str, ...]


class NamedClasses(Protocol):
    """A label space, as far as names are concerned; classes are in index order."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> Classes: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def never_labelled(self) -> Classes: ...


class ClassMapping(NamedTuple):
    """Class index in a target, or None, of each class of a source, under a name for reports."""

    name: str
    indices: tuple[int | None, ...]
    built_in: bool


def class_mapping(
    source: NamedClasses, target: NamedClasses, given: ClassNames | str | Path | None
) -> ClassMapping:
    """The given names as indices; unless there are any, the identity or a built-in correspondence.

    Raises:
        LabelSpaceError: a name is unknown or given twice, a file is malformed, or nothing was given
            and nothing is built in.
    """
    if given is None:
        return _identity(source, target) or _built_in(source, target)
    if isinstance(given, str | Path):
        return _of_names(str(given), source, target, _read_names(given))
    return _of_names("given", source, target, given)


def _identity(source: NamedClasses, target: NamedClasses) -> ClassMapping | None:
    if source.classes != target.classes:
        return None
    never = target.never_labelled
    indices = (None if name in never else i for i, name in enumerate(source.classes))
    return ClassMapping("identity", tuple(indices), built_in=True)


def _built_in(source: NamedClasses, target: NamedClasses) -> ClassMapping:
    names = _built_in_names(source.classes, target.classes)
    if names is None:
        raise LabelSpaceError(
            f"the labels are in {target.name} ({target.num_classes} classes) and the model in "
            f"{source.name} ({source.num_classes} classes), and no built-in label map leads there: "
            "write one, a JSON file of {class of the model: class of the labels or null}, and give "
            f"it with {arg('label_map')}, or measure with labels of its own classes, in the "
            "same order."
        )
    found = _of_names(f"{source.name}-to-{target.name}", source, target, names)
    return found._replace(built_in=True)


_NAMES: Classes = tuple(row[0] for row in CITYSCAPES)
_SOURCES = {_NAMES, (*_NAMES, BACKGROUND[0])}
_COARSER = {
    tuple(row[0] for row in CAMVID): CAMVID_OF_CITYSCAPES,
    tuple(row[0] for row in IDD): IDD_OF_CITYSCAPES,
}
_SMALLER = _SOURCES | {
    tuple(name for name in _NAMES if name not in absent) for absent in (NOT_IN_SYNTHIA, NOT_IN_13)
}


def _built_in_names(source: Classes, target: Classes) -> dict[str, str | None] | None:
    """From all of Cityscapes' classes to coarser ones, or to those of the same names."""
    if source not in _SOURCES:
        return None
    if target in _COARSER:
        return {part: whole for whole, parts in _COARSER[target].items() for part in parts}
    if target in _SMALLER:
        return {name: name for name in target if name in source and name != BACKGROUND[0]}
    return None


def _read_names(path: str | Path) -> dict[str, str | None]:
    """A file's object of class names; LabelSpaceError if it holds anything else."""
    names = read_document(path, "label map", unique_keys=True)
    if not isinstance(names, dict):
        raise LabelSpaceError(
            f"{path}: a label map is one JSON object of class names, such as "
            '{"sidewalk": "pavement", "train": null}.'
        )
    return names


def _of_names(
    name: str, source: NamedClasses, target: NamedClasses, names: ClassNames
) -> ClassMapping:
    """The correspondence of these names; a class of the source that they lack is unmapped."""
    where = f"label map {name}"
    found: dict[str, int | None] = {}
    for ours, theirs in names.items() if isinstance(names, Mapping) else names:
        if ours not in source.classes:
            raise LabelSpaceError(
                f"{where}: maps {ours!r}, which is no class of the model's label space "
                f"{source.name}; it has {listed(source.classes)}."
            )
        if theirs is not None and theirs not in target.classes:
            raise LabelSpaceError(
                f"{where}: maps {ours!r} to {theirs!r}, which is no class of the labels' space "
                f"{target.name}; it has {listed(target.classes)}, or null for none of them."
            )
        if ours in found:
            raise LabelSpaceError(f"{where}: maps {ours!r} twice; give each class once.")
        measured = theirs is not None and theirs not in target.never_labelled
        found[ours] = target.classes.index(theirs) if measured else None
    return ClassMapping(name, tuple(found.get(ours) for ours in source.classes), False)


def listed(names: Sequence[str]) -> str:
    """Names in quotes, for a sentence."""
    return ", ".join(map(repr, names))
