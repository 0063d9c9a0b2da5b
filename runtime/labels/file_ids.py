"""Ids that label files hold, told by a file's name, folders and format.

Facts from the data sets' own pages and READMEs, see `layouts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..pictures.png import Png
from .tables import CITYSCAPES

LabelIds = Literal["plain", "raw", "train", "synthia"]
"""What a label file holds: class indices, Cityscapes' ids, its 19 train ids, or SYNTHIA's ids."""

RAW_ENDING = "_labelIds.png"
TRAIN_ENDING = "_labelTrainIds.png"
_TELLING = ("road", "building", "car")  # classes whose palette entries tell raw ids from train ids


def label_ids(path: Path, png: Png) -> LabelIds:
    """Kind of ids in a label file, told by its name, its folders and its format.

    - ``*_labelIds.png``: raw; ``*_labelTrainIds.png``: train (Cityscapes, ACDC);
    - ``*_eval.png`` below ``Labels``: raw (Cross-City);
    - below ``sem_seg/masks``: train (BDD100K);
    - 16 bits a channel, in colour: synthia, in the red channel;
    - a palette that has Cityscapes' colours at its raw ids: raw (GTA5);
    - anything else: plain.
    """
    folders = path.absolute().parent.as_posix() + "/"
    if path.name.endswith(RAW_ENDING):
        return "raw"
    if path.name.endswith(TRAIN_ENDING) or "/sem_seg/masks/" in folders:
        return "train"
    if path.name.endswith("_eval.png") and "/Labels/" in folders:
        return "raw"
    if png.is_colour and png.bit_depth == 16:
        return "synthia"
    return "raw" if _has_raw_palette(png) else "plain"


def _has_raw_palette(png: Png) -> bool:
    return all(
        png.palette[3 * raw : 3 * raw + 3] == bytes(colour)
        for name, colour, raw, _ in CITYSCAPES
        if name in _TELLING
    )
