"""Label spaces: the classes a network tells apart, their colours, and how label files encode them.

Four encodings are in use on disk, told apart by the file (`layouts.label_ids`) or by the caller:

- *plain*: a pixel holds the class index of the label space;
- *raw*: the Cityscapes ids 0 to 33, mapped through ``raw_ids``;
- *train*: the 19 Cityscapes train ids, mapped through ``train_ids`` where the label space has fewer
  classes than those 19;
- *synthia*: SYNTHIA's ids, mapped through ``synthia_ids``.

A raw or SYNTHIA id that its map lacks is not labelled; it never becomes class 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LabelError, LabelSpaceError
from ..pictures.png import decode_colour_png, decode_label_png, read_png
from ..strict_json import JsonError, read_json
from ..words import shortened
from .colours import has_colours_of, indices_of_colours, is_grey_picture
from .layouts import RAW_ENDING, LabelIds, label_ids
from .maps import ClassNames, LabelMap, map_between
from .tables import BACKGROUND, CAMVID, CITYSCAPES, IDD, NOT_IN_13, NOT_IN_SYNTHIA, Rgb

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
        _require(isinstance(self.name, str) and self.name != "", "a label space needs a name")
        _require(
            k != 1,
            f"{where}: of one class every pixel is that class; give it a second one for all the "
            "rest, e.g. 'background', and let the network have an output for each",
        )
        _require(2 <= k <= 255, f"{where}: needs 2 to 255 classes, has {k}")
        _require(all(isinstance(c, str) and c for c in self.classes), f"{where}: empty class name")
        _require(len(set(self.classes)) == k, f"{where}: two classes have the same name")
        _require(len(self.colours) == k, f"{where}: {len(self.colours)} colours for {k} classes")
        for colour in self.colours:
            ok = len(colour) == 3 and all(_is_id(c) and c <= 255 for c in colour)
            _require(ok, f"{where}: a colour is three integers 0 to 255, not {colour!r}")
        ok = _is_id(self.ignore_index) and k <= self.ignore_index <= 255
        _require(ok, f"{where}: ignore_index must be in [{k}, 255], is {self.ignore_index!r}")
        for void in self.void_ids:
            ok = _is_id(void) and void >= k
            _require(ok, f"{where}: void id {void!r} must be an integer outside the {k} classes")
        for key in _ID_MAPS:
            for raw, index in (getattr(self, key) or {}).items():
                ok = _is_id(raw) and _is_id(index) and (index < k or index == self.ignore_index)
                _require(ok, f"{where}: {key} maps {raw!r} to {index!r}, which is no class index")
        for name in self.never_labelled:
            ok = isinstance(name, str) and name in self.classes
            _require(ok, f"{where}: never_labelled names {name!r}, which is no class of it")
        ok = not self.never_labelled or len(set(self.never_labelled)) < k
        _require(ok, f"{where}: never_labelled names all classes, so nothing could be measured")

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
        _require(isinstance(data, Mapping), "a label space is a JSON object with name and classes")
        unknown = sorted(set(data) - known)
        _require(not unknown, f"label space: unknown keys {unknown}; known are {sorted(known)}")
        missing = sorted({"name", "classes", "colours"} - set(data))
        _require(not missing, f"label space: missing keys {missing}")
        values = dict(data)
        try:
            values["classes"] = tuple(_a_list(data["classes"]))
            values["colours"] = tuple(tuple(_a_list(c)) for c in _a_list(data["colours"]))
            values["void_ids"] = tuple(_a_list(data.get("void_ids", [])))
            values["never_labelled"] = tuple(_a_list(data.get("never_labelled", [])))
            for key in _ID_MAPS:
                if data.get(key) is not None:
                    values[key] = {_id(raw): index for raw, index in dict(data[key]).items()}
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise LabelSpaceError(f"label space {data['name']!r}: malformed ({error}).") from error

    @classmethod
    def from_json(cls, path: str | Path) -> LabelSpace:
        """A label space from a JSON file with the keys of ``to_dict``; LabelSpaceError if bad."""
        try:
            data = read_json(path)
        except OSError as error:
            raise LabelSpaceError(
                f"{path}: cannot read this label space ({error.strerror})."
            ) from error
        except JsonError as error:
            raise LabelSpaceError(f"{path}: not a JSON label space ({error}).") from error
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
            return self._look_up(label_map, plain, where)
        if self.raw_ids is None:
            raise LabelSpaceError(
                f"{where}: holds raw ids, and label space {self.name!r} has no raw_ids; "
                "add them to its JSON file or use label maps of class indices."
            )
        return self._look_up(label_map, self.raw_ids, where, unknown_is_ignored=True)

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
        return map_between(self, other, map)

    def colourise(self, label_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB picture, (H, W, 3) uint8, of class indices, (H, W) uint8; all else is black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colours
        picture: NDArray[np.uint8] = np.take(palette, label_map, axis=0)
        return picture

    def _look_up(
        self,
        label_map: NDArray[Any],
        ids: Mapping[int, int],
        where: str,
        *,
        unknown_is_ignored: bool = False,
    ) -> NDArray[np.uint8]:
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


def read_labels(
    path: str | Path,
    space: LabelSpace,
    size: tuple[int, int] | None = None,
    ids: LabelIds | None = None,
) -> NDArray[np.uint8]:
    """Class indices of one label file.

    Args:
        path: a PNG of one 8- or 16-bit channel or of palette indices. One in colour may have three
            equal channels, or exactly the colours of the label space's classes with black where
            nothing is labelled; SYNTHIA's has the ids in the red channel.
        space: what to map the ids to.
        size: (width, height) that the labels must have.
        ids: what the file holds; None: as `layouts.label_ids` finds.

    Returns:
        Class indices or ``space.ignore_index``, (H, W), uint8.

    Raises:
        LabelError: unreadable, damaged, another size, or ids or colours of another space.
        LabelSpaceError: raw or SYNTHIA ids, and the label space does not say what they mean.
    """
    path = Path(path)
    png = read_png(path)
    if size is not None and (png.width, png.height) != size:
        raise LabelError(
            f"{path}: labels are {png.width}x{png.height} and their frame is "
            f"{size[0]}x{size[1]}; labels must have the size of the frame."
        )
    told, ids = ids, ids or label_ids(path, png)
    if png.is_colour:
        picture = decode_colour_png(png, path)
        is_grey = is_grey_picture(picture)
        if _is_coloured(picture, is_grey, ids, space):
            return indices_of_colours(
                picture, space.classes, space.colours, space.ignore_index, str(path)
            )
        if is_grey and told is None and ids == "synthia" and picture.any():
            ids = "plain"  # SYNTHIA's red and green, class and object, are never equal throughout
        label_map = picture[..., 0]
    else:
        label_map = decode_label_png(png, path)
    if ids == "synthia":
        if space.synthia_ids is None:
            raise LabelSpaceError(
                f"{path}: holds SYNTHIA's ids, and label space {space.name!r} has no synthia_ids; "
                "add them to its JSON file or use label maps of class indices."
            )
        return space._look_up(label_map, space.synthia_ids, str(path), unknown_is_ignored=True)
    if ids == "train" and space.train_ids is not None:
        return space._look_up(label_map, space.train_ids, str(path))
    return space.encode(label_map, raw=ids == "raw", where=str(path))


def _is_coloured(picture: NDArray[Any], is_grey: bool, ids: LabelIds, space: LabelSpace) -> bool:
    """True of a picture whose colours, not the values of one channel, are the classes."""
    if ids == "synthia":
        return False
    if not is_grey:
        return True
    plain = {*range(space.num_classes), *space.void_ids, space.ignore_index}
    return (
        ids == "plain"
        and not set(np.unique(picture).tolist()) <= plain
        and has_colours_of(picture, space.classes, space.colours)
    )


def label_space(name_or_path: str | Path) -> LabelSpace:
    """A built-in label space by name, or one from a JSON file.

    Raises:
        LabelSpaceError: neither a built-in name nor a readable label space file.
    """
    built_in = _BUILT_IN.get(str(name_or_path))
    if built_in is not None:
        return built_in
    path = Path(name_or_path)
    if path.suffix == ".json" or path.is_file():
        return LabelSpace.from_json(path)
    raise LabelSpaceError(
        f"{shortened(str(name_or_path))!r}: no such label space; choose one of "
        f"{', '.join(LABEL_SPACES)}, or give a JSON file."
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise LabelSpaceError(message + ".")


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _id(text: str | int) -> int:
    """The id that the key of a JSON object spells."""
    if isinstance(text, str) and len(text) > _LONGEST_ID:  # Python refuses more than 4,300 digits
        raise ValueError(f"{shortened(text, _LONGEST_ID)} is no id of label files")
    return int(text)


def _a_list(value: object) -> Iterable[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list, got {value!r}")
    return value


def _cityscapes_without(name: str, *absent: str) -> LabelSpace:
    """The Cityscapes classes but for the absent ones, whose pixels count as not labelled."""
    kept = [row for row in CITYSCAPES if row[0] not in absent]
    index = {row[0]: i for i, row in enumerate(kept)}
    train_ids = {i: index.get(row[0], 255) for i, row in enumerate(CITYSCAPES)} | {255: 255}
    return LabelSpace(
        name=name,
        classes=tuple(row[0] for row in kept),
        colours=tuple(row[1] for row in kept),
        raw_ids={row[2]: index[row[0]] for row in kept},
        train_ids=train_ids if absent else None,
        synthia_ids={row[3]: index[row[0]] for row in kept},
    )


def _with_background(name: str, space: LabelSpace) -> LabelSpace:
    """The classes of ``space`` and, last, one that networks give and no label map holds."""
    return replace(
        space,
        name=name,
        classes=(*space.classes, BACKGROUND[0]),
        colours=(*space.colours, BACKGROUND[1]),
        never_labelled=(BACKGROUND[0],),
    )


def _plain(name: str, table: Sequence[tuple[str, Rgb]], *void_ids: int) -> LabelSpace:
    """The classes of a table, whose label maps hold their indices."""
    classes, colours = tuple(row[0] for row in table), tuple(row[1] for row in table)
    return LabelSpace(name=name, classes=classes, colours=colours, void_ids=void_ids)


_CITYSCAPES19 = _cityscapes_without("cityscapes19")
_BUILT_IN = {
    space.name: space
    for space in (
        _CITYSCAPES19,
        _with_background("cityscapes20", _CITYSCAPES19),
        _cityscapes_without("synthia16", *NOT_IN_SYNTHIA),
        _cityscapes_without("synthia13", *NOT_IN_13),
        _cityscapes_without("crosscity13", *NOT_IN_13),
        _plain("camvid11", CAMVID, 11),
        _plain("idd7", IDD),
    )
}
LABEL_SPACES: tuple[str, ...] = tuple(_BUILT_IN)
