"""Folders and files of known data sets that hold no camera pictures, told by names alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePath

from . import mask_names as names

# Label files that lie beside images: *_gtFine_labelIds.png, *_gtCoarse_color.png, *_gt_invIds.png
_LABEL_STEM = re.compile(r"_gt(Fine|Coarse)?_[A-Za-z0-9]+$|_label(Train)?Ids$")
_LIGHT_FOG = re.compile(r"_foggy_beta_0\.(005|01)$")
_ONLY = ("leftImg8bit", "leftImg8bit_foggy", "rgb_anon")  # labels and disparity lie beside
_LABELS_BESIDE = {"images": "labels", "Images": "Labels"}


def without_layouts(files: Sequence[PurePath]) -> tuple[list[PurePath], Counter[str]]:
    """The files that are not called label maps, nor lie in a folder beside one of pictures.

    Left out are what lies beside a ``leftImg8bit``, ``leftImg8bit_foggy`` or ``rgb_anon`` folder
    (Cityscapes, Foggy Cityscapes, ACDC) or beside ``RGB`` and ``GT`` (SYNTHIA), folders named for
    label maps beside one named for pictures (``labels`` and ``images``), and ``*_gtFine_*``,
    ``*_gt_*``, ``*_labelIds`` and ``*_labelTrainIds`` files.

    Args:
        files: picture files relative to the folder that is read.

    Returns:
        The rest, and the number of files left out by folder or ending.
    """
    children: dict[PurePath, set[str]] = defaultdict(set)
    for folder in {file.parent for file in files}:
        for inner in (folder, *folder.parents):
            if inner.name:
                children[inner.parent].add(inner.name)
    bars: dict[PurePath, PurePath | None] = {PurePath(): None}

    def bar(folder: PurePath) -> PurePath | None:
        """The highest folder at or above this one that holds no camera pictures."""
        if folder not in bars:
            here = _holds_maps(folder.name, children[folder.parent])
            bars[folder] = bar(folder.parent) or (folder if here else None)
        return bars[folder]

    rest = []
    left_out: Counter[str] = Counter()
    for file in files:
        if barred := bar(file.parent):
            left_out[f"{barred}/"] += 1
        elif ending := _LABEL_STEM.search(file.stem):
            left_out[f"*{ending[0]}{file.suffix}"] += 1
        else:
            rest.append(file)
    return rest, left_out


def without_references(files: list[PurePath]) -> list[PurePath]:
    """All but ACDC's references and Foggy Cityscapes' lighter fogs, unless nothing is left.

    The fogs of beta 0.005 and 0.01; papers use 0.02.
    """
    chosen = [
        file
        for file in files
        if not (file.stem.endswith("_rgb_ref_anon") or _LIGHT_FOG.search(file.stem))
    ]
    return chosen or files


def _holds_maps(name: str, siblings: set[str]) -> bool:
    """True of a folder whose name and siblings say that its pictures are no camera's."""
    for only in _ONLY:
        if only in siblings:
            return name != only
    if {"RGB", "GT"} <= siblings:
        return name != "RGB"
    if any(name == _LABELS_BESIDE[sibling] for sibling in siblings & _LABELS_BESIDE.keys()):
        return True
    return names.name_says_only_maps(names.words(name)) and any(
        names.name_says_picture(names.words(sibling)) for sibling in siblings
    )
