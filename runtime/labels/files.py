"""Label files: PNGs of ids, of indices or of colours, read as class indices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LabelError, LabelSpaceError
from ..pictures.png import decode_colour_png, decode_label_png, read_png
from .colours import has_colours_of, indices_of_colours, is_grey_picture
from .file_ids import LabelIds, label_ids
from .spaces import LabelSpace


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
        ids: what the file holds; None: as `file_ids.label_ids` finds.

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
        return space.look_up(label_map, space.synthia_ids, str(path), unknown_is_ignored=True)
    if ids == "train" and space.train_ids is not None:
        return space.look_up(label_map, space.train_ids, str(path))
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
