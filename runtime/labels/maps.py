"""Label maps between label spaces: many classes of a network to the few that label files hold.

A network is measured on labels with fewer, coarser classes by taking each of its classes for one of
theirs. A class without a counterpart is *unmapped*: predicting it is a wrong answer wherever there
are labels, never an ignored one and never class 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LabelSpaceError, arg
from ..strict_json import JsonError, read_json
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

if TYPE_CHECKING:
    from .spaces import LabelSpace

UNMAPPED = 255  # what `LabelMap.apply` writes; no class, since a label space has 255 at most
ClassNames = Mapping[str, str | None] | Iterable[tuple[str, str | None]]
Classes = tuple[str, ...]


@dataclass(frozen=True)
class LabelMap:
    """Each class of a network's label space as a class of the labels' space, or as none.

    Attributes:
        name: of the map, for reports.
        source: the network's label space, of K classes.
        target: the labels' space, and how label files encode it.
        indices: of each class of ``source``, K: its class index in ``target``, or None.
        built_in: the map was found, not given.

    Raises:
        LabelSpaceError: ``indices`` do not fit the two spaces, or every one is None.
    """

    name: str
    source: LabelSpace
    target: LabelSpace
    indices: tuple[int | None, ...]
    built_in: bool = False

    def __post_init__(self) -> None:
        k, known = self.source.num_classes, range(self.target.num_classes)
        fits = len(self.indices) == k and all(i is None or i in known for i in self.indices)
        if not fits:
            raise LabelSpaceError(
                f"label map {self.name}: needs a class index below {len(known)}, or None, for each "
                f"of the {k} classes of {self.source.name}, not {self.indices!r}."
            )
        if set(self.indices) == {None}:
            raise LabelSpaceError(
                f"label map {self.name}: maps no class of {self.source.name} to a class of "
                f"{self.target.name}, so nothing could be measured; map at least one of "
                f"{_listed(self.source.classes)} to one of {_listed(self.target.classes)}."
            )

    @property
    def unmapped(self) -> Classes:
        """Classes of the source that no class of the target stands for."""
        named = zip(self.source.classes, self.indices, strict=True)
        return tuple(name for name, index in named if index is None)

    @property
    def unreached(self) -> Classes:
        """Classes that labels may hold and that no class of the source is mapped to."""
        return tuple(
            name
            for index, name in enumerate(self.target.classes)
            if index not in self.indices and name not in self.target.never_labelled
        )

    @property
    def is_identity(self) -> bool:
        """Tell whether each class stays itself, but for those that no labels hold."""
        return self.source.classes == self.target.classes and all(
            found == (None if name in self.target.never_labelled else index)
            for index, (name, found) in enumerate(
                zip(self.source.classes, self.indices, strict=True)
            )
        )

    def apply(self, prediction: NDArray[Any]) -> NDArray[np.uint8]:
        """Class indices of the target, or `UNMAPPED`, of a map of the source's; uint8, any shape.

        Raises:
            LabelSpaceError: ``prediction`` holds an index that is no class of the source.
        """
        k = self.source.num_classes
        if prediction.dtype.kind not in "ui" or (
            prediction.size and not 0 <= int(prediction.min()) <= int(prediction.max()) < k
        ):
            raise LabelSpaceError(
                f"label map {self.name}: a prediction holds class indices 0 to {k - 1} of "
                f"{self.source.name}, and this one holds others; export the model again with its "
                "own label space."
            )
        table = np.array([UNMAPPED if i is None else i for i in self.indices], np.uint8)
        mapped: NDArray[np.uint8] = table[prediction]
        return mapped

    def to_dict(self) -> dict[str, str | None]:
        """Class names as JSON values: what a label map's file holds."""
        classes = self.target.classes
        named = zip(self.source.classes, self.indices, strict=True)
        return {name: None if index is None else classes[index] for name, index in named}

    def record(self) -> dict[str, Any]:
        """The map as reports name it, as JSON values."""
        return {
            "name": self.name,
            "from": self.source.name,
            "to": self.target.name,
            "unmapped": list(self.unmapped),
            "unreached": list(self.unreached),
        }

    def notes(self) -> list[str]:
        """Sentences on a map in use: which one, and what has no counterpart; none of an identity.

        A class that no labels hold is none that the map lacks.
        """
        if self.is_identity:
            return []
        source, target = self.source.name, self.target.name
        said = [
            f"The model's classes are those of {source} and the labels' those of {target}: "
            f"measuring through the {'built-in ' * self.built_in}label map {self.name}."
        ]
        if self.unmapped:
            said.append(
                f"Predicting {_listed(self.unmapped)}, which the label map {self.name} maps to no "
                f"class of {target}, is a wrong answer wherever there are labels."
            )
        if self.unreached:
            said.append(
                f"No class of {source} is mapped to {_listed(self.unreached)} of {target}: IoU is "
                "0 there wherever labels hold it."
            )
        return said


def map_between(
    source: LabelSpace, target: LabelSpace, given: ClassNames | str | Path | LabelMap | None
) -> LabelMap:
    """See `LabelSpace.map_to`."""
    if given is None:
        return _identity(source, target) or _built_in(source, target)
    if isinstance(given, LabelMap):
        if given.source.classes != source.classes or given.target.classes != target.classes:
            raise LabelSpaceError(
                f"label map {given.name}: is from {given.source.name} to {given.target.name}, and "
                f"the model is in {source.name} and the labels in {target.name}; give one between "
                "these two."
            )
        return replace(given, source=source, target=target)
    if isinstance(given, str | Path):
        return _of_names(str(given), source, target, _read_names(given))
    return _of_names("given", source, target, given)


def _identity(source: LabelSpace, target: LabelSpace) -> LabelMap | None:
    if source.classes != target.classes:
        return None
    never = target.never_labelled
    indices = (None if name in never else i for i, name in enumerate(source.classes))
    return LabelMap("identity", source, target, tuple(indices), built_in=True)


def _built_in(source: LabelSpace, target: LabelSpace) -> LabelMap:
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
    return replace(found, built_in=True)


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
    try:
        names = read_json(path, unique_keys=True)
    except OSError as error:
        raise LabelSpaceError(
            f"{path}: cannot read this label map ({error.strerror or error})."
        ) from error
    except JsonError as error:
        raise LabelSpaceError(f"{path}: not a JSON label map ({error}).") from error
    if not isinstance(names, dict):
        raise LabelSpaceError(
            f"{path}: a label map is one JSON object of class names, such as "
            '{"sidewalk": "pavement", "train": null}.'
        )
    return names


def _of_names(name: str, source: LabelSpace, target: LabelSpace, names: ClassNames) -> LabelMap:
    """The map of these class names; a class of the source that they lack is unmapped."""
    where = f"label map {name}"
    found: dict[str, int | None] = {}
    for ours, theirs in names.items() if isinstance(names, Mapping) else names:
        if ours not in source.classes:
            raise LabelSpaceError(
                f"{where}: maps {ours!r}, which is no class of the model's label space "
                f"{source.name}; it has {_listed(source.classes)}."
            )
        if theirs is not None and theirs not in target.classes:
            raise LabelSpaceError(
                f"{where}: maps {ours!r} to {theirs!r}, which is no class of the labels' space "
                f"{target.name}; it has {_listed(target.classes)}, or null for none of them."
            )
        if ours in found:
            raise LabelSpaceError(f"{where}: maps {ours!r} twice; give each class once.")
        measured = theirs is not None and theirs not in target.never_labelled
        found[ours] = target.classes.index(theirs) if measured else None
    return LabelMap(name, source, target, tuple(found.get(ours) for ours in source.classes))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
