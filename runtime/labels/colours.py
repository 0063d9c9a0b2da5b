"""Class indices out of label pictures in colour: each colour of the label space is its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LabelError
from .tables import BACKGROUND, CITYSCAPES, CITYSCAPES_VOID_COLOURS, Rgb

_BLACK: Rgb = (0, 0, 0)


def is_grey_picture(picture: NDArray[Any]) -> bool:
    """True of (H, W, 3) with three equal channels."""
    red = picture[..., 0]
    return bool((red == picture[..., 1]).all() and (red == picture[..., 2]).all())


def void_colours(classes: Sequence[str], colours: Sequence[Rgb]) -> tuple[Rgb, ...]:
    """Colours that mean "not labelled": black, and what Cityscapes' pictures hold besides classes.

    The latter where every class has its name and colour of Cityscapes.
    """
    table = {name: colour for name, colour, *_ in CITYSCAPES}
    void = {_BLACK}
    named = set(zip(classes, colours, strict=True))
    if named <= {*table.items(), BACKGROUND}:
        void |= {*CITYSCAPES_VOID_COLOURS, *table.values()}
    return tuple(sorted(void - set(colours)))


def indices_of_colours(
    picture: NDArray[Any],
    classes: Sequence[str],
    colours: Sequence[Rgb],
    ignore_index: int,
    where: str,
) -> NDArray[np.uint8]:
    """Class indices of a label picture in exactly the colours of its classes.

    Args:
        picture: (H, W, 3), RGB.
        classes, colours: of the label space, K each.
        ignore_index: the index of `void_colours`.
        where: the file, for messages.

    Returns:
        Class indices or ``ignore_index``, (H, W), uint8.

    Raises:
        LabelError: two classes have one colour, or the picture holds another colour.
    """
    if len(set(colours)) < len(colours):
        raise LabelError(
            f"{where}: is a colour picture, and two classes of the label space have one colour; "
            "convert the colours to class ids first."
        )
    codes = _codes(picture)
    found, inverse = np.unique(codes, return_inverse=True)
    index_of = dict.fromkeys(map(_code, void_colours(classes, colours)), ignore_index)
    index_of |= {_code(colour): index for index, colour in enumerate(colours)}
    unknown = [int(code) for code in found if int(code) not in index_of]
    if unknown:
        shown = ", ".join(str(_colour(code)) for code in unknown[:4])
        more = ", ..." if len(unknown) > 4 else ""
        raise LabelError(
            f"{where}: is a colour picture with colours that no class of the label space has, "
            f"{shown}{more}; convert the colours to class ids first, or give a label space with "
            "these colours."
        )
    table = np.array([index_of[int(code)] for code in found], np.uint8)
    return table[inverse].reshape(codes.shape)


def has_colours_of(picture: NDArray[Any], classes: Sequence[str], colours: Sequence[Rgb]) -> bool:
    """True if every pixel of (H, W, 3) has the colour of a class or one of `void_colours`."""
    known = {_code(colour) for colour in (*colours, *void_colours(classes, colours))}
    return set(np.unique(_codes(picture)).tolist()) <= known


def _codes(picture: NDArray[Any]) -> NDArray[np.int64]:
    wide = picture.astype(np.int64)
    codes: NDArray[np.int64] = wide[..., 0] << 32 | wide[..., 1] << 16 | wide[..., 2]
    return codes


def _code(colour: Rgb) -> int:
    return colour[0] << 32 | colour[1] << 16 | colour[2]


def _colour(code: int) -> Rgb:
    return code >> 32, code >> 16 & 0xFFFF, code & 0xFFFF
