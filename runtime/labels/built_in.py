"""The label spaces that are built in, and how one is found by name or file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import LabelSpaceError
from ..words import shortened
from .spaces import LabelSpace
from .tables import BACKGROUND, CAMVID, CITYSCAPES, IDD, NOT_IN_13, NOT_IN_SYNTHIA, Rgb


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
