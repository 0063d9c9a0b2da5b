"""Label spaces: the classes a network tells apart, their colours, and how label files encode them.

Four encodings are in use on disk, told apart by the file (`file_ids.label_ids`) or by the caller:

- *plain*: a pixel holds the class index of the label space;
- *raw*: the Cityscapes ids 0 to 33, mapped through ``raw_ids``;
- *train*: the 19 Cityscapes train ids, mapped through ``train_ids`` where the label space has fewer
  classes than those 19;
- *synthia*: SYNTHIA's ids, mapped through ``synthia_ids``.

A raw or SYNTHIA id that its map lacks is not labelled; it never becomes class 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LabelError, LabelSpaceError
from ..words import shortened
from .class_mapping import Classes, ClassNames, class_mapping, listed
from .file_ids import RAW_ENDING
from .label_space_checks import a_list, is_id, read_document, require

UNMAPPED = 255  # what `LabelMap.apply` writes; no class, since a label space has 255 at most
_ID_MAPS = ("raw_ids", "train_ids", "synthia_ids")
_LONGEST_ID = 20  # digits


@dataclass(frozen=True)
class LabelSpace:
    """Classes in index order, with their colours and the ids of the files that label them.

    Attributes:
        name: of the label space.
        classes: K class names, unique; class ``i`` is index ``i`` of a label map.
        colours: K RGB triples, 0 to 255.
        ignore_index: the index, outside [0, K), of a pixel that is not labelled.
        void_ids: further ids of plain label maps that mean "not labelled" (CamVid's 11).
        raw_ids: id of a ``*_labelIds.png`` file -> class index or ``ignore_index``.
        train_ids: id of a ``*_labelTrainIds.png`` file -> the same; ``None``: already indices.
        synthia_ids: id of a SYNTHIA file -> the same.
        never_labelled: classes that a network gives and no ground truth holds, such as the
            "background" of `cityscapes20`: predicting one is wrong wherever there are labels, and
            none of them counts as a class in mIoU.

    Raises:
        LabelSpaceError: a field contradicts another one or is of the wrong type.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    ignore_index: int = 255
    void_ids: tuple[int, ...] = ()
    raw_ids: Mapping[int, int] | None = field(default=None, hash=False)
    train_ids: Mapping[int, int] | None = field(default=None, hash=False)
    synthia_ids: Mapping[int, int] | None = field(default=None, hash=False)
    never_labelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"label space {self.name!r}"
        k = len(self.classes)
        require(isinstance(self.name, str) and self.name != "", "a label space needs a name")
        require(
            k != 1,
            f"{where}: of one class every pixel is that class; give it a second one for all the "
            "rest, e.g. 'background', and let the network have an output for each",
        )
        require(2 <= k <= 255, f"{where}: needs 2 to 255 classes, has {k}")
        require(all(isinstance(c, str) and c for c in self.classes), f"{where}: empty class name")
        require(len(set(self.classes)) == k, f"{where}: two classes have the same name")
        require(len(self.colours) == k, f"{where}: {len(self.colours)} colours for {k} classes")
        for colour in self.colours:
            ok = len(colour) == 3 and all(is_id(c) and c <= 255 for c in colour)
            require(ok, f"{where}: a colour is three integers 0 to 255, not {colour!r}")
        ok = is_id(self.ignore_index) and k <= self.ignore_index <= 255
        require(ok, f"{where}: ignore_index must be in [{k}, 255], is {self.ignore_index!r}")
        for void in self.void_ids:
            ok = is_id(void) and void >= k
            require(ok, f"{where}: void id {void!r} must be an integer outside the {k} classes")
        for key in _ID_MAPS:
            for raw, index in (getattr(self, key) or {}).items():
                ok = is_id(raw) and is_id(index) and (index < k or index == self.ignore_index)
                require(ok, f"{where}: {key} maps {raw!r} to {index!r}, which is no class index")
        for name in self.never_labelled:
            ok = isinstance(name, str) and name in self.classes
            require(ok, f"{where}: never_labelled names {name!r}, which is no class of it")
        ok = not self.never_labelled or len(set(self.never_labelled)) < k
        require(ok, f"{where}: never_labelled names all classes, so nothing could be measured")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """The label space as JSON values; ``from_dict`` gives an equal one back."""
        data: dict[str, Any] = {
            "name": self.name,
            "classes": list(self.classes),
            "colours": [list(colour) for colour in self.colours],
            "ignore_index": self.ignore_index,
            "void_ids": list(self.void_ids),
        }
        for key in _ID_MAPS:
            ids: Mapping[int, int] | None = getattr(self, key)
            if ids is not None:
                data[key] = {str(raw): index for raw, index in ids.items()}
        if self.never_labelled:
            data["never_labelled"] = list(self.never_labelled)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSpace:
        """A label space from JSON values, checked.

        Raises:
            LabelSpaceError: a key is missing or unknown, or a value is malformed.
        """
        known = {f.name for f in fields(cls)}
        require(isinstance(data, Mapping), "a label space is a JSON object with name and classes")
        unknown = sorted(set(data) - known)
        require(not unknown, f"label space: unknown keys {unknown}; known are {sorted(known)}")
        missing = sorted({"name", "classes", "colours"} - set(data))
        require(not missing, f"label space: missing keys {missing}")
        values = dict(data)
        try:
            values["classes"] = tuple(a_list(data["classes"]))
            values["colours"] = tuple(tuple(a_list(c)) for c in a_list(data["colours"]))
            values["void_ids"] = tuple(a_list(data.get("void_ids", [])))
            values["never_labelled"] = tuple(a_list(data.get("never_labelled", [])))
            for key in _ID_MAPS:
                if data.get(key) is not None:
                    values[key] = {_id(raw): index for raw, index in dict(data[key]).items()}
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise LabelSpaceError(f"label space {data['name']!r}: malformed ({error}).") from error

    @classmethod
    def from_json(cls, path: str | Path) -> LabelSpace:
        """A label space from a JSON file with the keys of ``to_dict``; LabelSpaceError if bad."""
        data = read_document(path, "label space")
        try:
            return cls.from_dict(data)
        except LabelSpaceError as error:
            raise LabelSpaceError(f"{path}: {error}") from error

    def encode(self, label_map: NDArray[Any], *, raw: bool, where: str) -> NDArray[np.uint8]:
        """Class indices of a label map as its file holds it.

        Args:
            label_map: ids, (H, W), any integer dtype.
            raw: the ids are raw ids: those that ``raw_ids`` lacks become ``ignore_index``.
                Otherwise they are class indices, ``ignore_index`` or void ids.
            where: the file, for messages.

        Returns:
            Class indices or ``ignore_index``, (H, W), uint8.

        Raises:
            LabelError: a plain map holds an id that the label space lacks.
            LabelSpaceError: ``raw`` without ``raw_ids``.
        """
        if not raw:
            plain = {i: i for i in range(self.num_classes)}
            plain |= dict.fromkeys((*self.void_ids, self.ignore_index), self.ignore_index)
            return self.look_up(label_map, plain, where)
        if self.raw_ids is None:
            raise LabelSpaceError(
                f"{where}: holds raw ids, and label space {self.name!r} has no raw_ids; "
                "add them to its JSON file or use label maps of class indices."
            )
        return self.look_up(label_map, self.raw_ids, where, unknown_is_ignored=True)

    def map_to(
        self, other: LabelSpace, map: ClassNames | str | Path | LabelMap | None = None
    ) -> LabelMap:
        """The map that a network with these classes is measured through on labels in ``other``.

        Args:
            other: the labels' space.
            map: name of a class here -> name of a class of ``other``, or None, as a mapping or as
                pairs; a JSON file of such; or a map that was made before. Unless given, each class
                stays itself where both spaces have the same classes in the same order, and a
                built-in map is found where there is one.

        Raises:
            LabelSpaceError: the map is malformed or of other classes, or none was given and there
                is no built-in one.
        """
        if isinstance(map, LabelMap):
            return map.between(self, other)
        found = class_mapping(self, other, map)
        return LabelMap(found.name, self, other, found.indices, found.built_in)

    def colourise(self, label_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB picture, (H, W, 3) uint8, of class indices, (H, W) uint8; all else is black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colours
        picture: NDArray[np.uint8] = np.take(palette, label_map, axis=0)
        return picture

    def look_up(
        self,
        label_map: NDArray[Any],
        ids: Mapping[int, int],
        where: str,
        *,
        unknown_is_ignored: bool = False,
    ) -> NDArray[np.uint8]:
        """Class indices, (H, W) uint8, of ids by a table; see `encode`."""
        if label_map.ndim != 2 or label_map.dtype.kind not in "ui":
            raise LabelError(
                f"{where}: a label map is (H, W) of integers, "
                f"not {label_map.shape} of {label_map.dtype}."
            )
        outside = 1 << 16  # no file holds it: stands for ids that no table has room for
        table = np.full(outside + 1, self.ignore_index if unknown_is_ignored else -1, np.int16)
        for label_id, index in ids.items():
            if label_id < outside:
                table[label_id] = index
        slots = label_map
        if label_map.dtype not in (np.uint8, np.uint16):
            slots = np.where((label_map < 0) | (label_map >= outside), outside, label_map)
        indices: NDArray[np.int16] = table[slots]
        unknown = indices < 0
        if unknown.any():
            raise self._unknown_ids(label_map[unknown], where)
        return indices.astype(np.uint8)

    def _unknown_ids(self, ids: NDArray[Any], where: str) -> LabelError:
        found = np.unique(ids).tolist()
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        hint = ""
        if found == [self.num_classes]:
            hint = (
                "; if 0 means unlabelled in it and classes count from 1, take 1 from each id and "
                f"write {self.ignore_index} for 0"
            )
        return LabelError(
            f"{where}: holds ids {shown}, and label space {self.name!r} has classes 0 to "
            f"{self.num_classes - 1} and {self.ignore_index} for unlabelled pixels; choose the "
            f"matching label space, or name files of Cityscapes ids *{RAW_ENDING}{hint}."
        )


def _id(text: str | int) -> int:
    """The id that the key of a JSON object spells."""
    if isinstance(text, str) and len(text) > _LONGEST_ID:  # Python refuses more than 4,300 digits
        raise ValueError(f"{shortened(text, _LONGEST_ID)} is no id of label files")
    return int(text)


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
                f"{listed(self.source.classes)} to one of {listed(self.target.classes)}."
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

    def between(self, source: LabelSpace, target: LabelSpace) -> LabelMap:
        """This map, between two spaces of the same classes.

        Raises:
            LabelSpaceError: their classes are others.
        """
        if self.source.classes != source.classes or self.target.classes != target.classes:
            raise LabelSpaceError(
                f"label map {self.name}: is from {self.source.name} to {self.target.name}, and "
                f"the model is in {source.name} and the labels in {target.name}; give one between "
                "these two."
            )
        return replace(self, source=source, target=target)

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
                f"Predicting {listed(self.unmapped)}, which the label map {self.name} maps to no "
                f"class of {target}, is a wrong answer wherever there are labels."
            )
        if self.unreached:
            said.append(
                f"No class of {source} is mapped to {listed(self.unreached)} of {target}: IoU is "
                "0 there wherever labels hold it."
            )
        return said
