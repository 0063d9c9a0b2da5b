"""Images and the label maps that belong to them, found by folder and name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import FrameError, LabelError
from ..notes import log_note
from .bag_folders import is_bag, split_topic
from .folder_contents import folder_contents

_CITYSCAPES_STEM = re.compile(r"(.+)_leftImg8bit(_foggy_beta_[\d.]+)?")
_LABEL_FOLDER_OF = {
    "leftImg8bit": "gtFine",  # Cityscapes
    "leftImg8bit_foggy": "gtFine",  # Foggy Cityscapes
    "rgb_anon": "gt",  # ACDC
    "RGB": "GT/LABELS",  # SYNTHIA
    "Images": "Labels",  # Cross-City
    "images/10k": "labels/sem_seg/masks",  # BDD100K
    "images": "labels",  # GTA5, plain
}
_IMAGE_FOLDER = re.compile(rf"(?<![^/])({'|'.join(_LABEL_FOLDER_OF)})(?![^/])")


def find_labels(
    image_path: str | Path, images_root: str | Path, labels_root: str | Path
) -> Path | None:
    """The label map that belongs to an image, or None.

    Its name, train ids before raw ids: ``X_leftImg8bit``, with or without a fog's ending, ->
    ``X_gtFine_labelTrainIds.png`` or ``X_gtFine_labelIds.png``, then the same of gtCoarse;
    ``X_rgb_anon`` -> ``X_gt_labelTrainIds.png`` or ``X_gt_labelIds.png``; where a data set's own is
    not there, the image's name and ``.png``; any other ``X`` -> ``X.png``, ``X_eval.png``,
    ``X_labelTrainIds.png`` or ``X_labelIds.png``. ``.PNG`` will do.

    Its folder under ``labels_root``: the image's own relative to ``images_root``, then ever shorter
    ends of the image's path; each also with the data set's folder of images read as its folder of
    labels.

    Raises:
        LabelError: the folder holds two label maps of the image, and no data set says which counts.
    """
    image, labels = Path(image_path), Path(labels_root)
    relative = image.relative_to(images_root).parent
    parents = image.parent.parts[1 if image.is_absolute() else 0 :]
    for own in (relative, *(Path(*parents[-n:]) for n in (4, 3, 2, 1)), Path()):
        for folder in dict.fromkeys((own, _label_folder(own))):
            if found := _label_map(image, labels / folder):
                return found
    return None


def _label_map(image: Path, folder: Path) -> Path | None:
    """The label map of an image in one folder."""
    found: list[Path] = []
    for names in _label_names(image.stem):
        both = ((folder / n, (folder / n).with_suffix(".PNG")) for n in names)
        there = ([p for p in cases if p != image and p.is_file()] for cases in both)
        found += next(filter(None, there), [])
    if len(found) == 2 and found[0].samefile(found[1]):  # where capitals do not count
        found.pop()
    if len(found) > 1:
        raise LabelError(
            f"{image} has two label maps, {found[0]} and {found[1]}; keep the one that is meant in "
            "a folder of its own."
        )
    return found[0] if found else None


def _label_folder(images: Path) -> Path:
    """The folder of labels that belongs to a folder of images of a known data set, or itself."""
    return Path(_IMAGE_FOLDER.sub(lambda found: _LABEL_FOLDER_OF[found[1]], images.as_posix()))


def _label_names(stem: str) -> list[list[str]]:
    """Names that a label map may have; in each list the first that exists counts."""
    kinds = ("labelTrainIds", "labelIds")
    if match := _CITYSCAPES_STEM.fullmatch(stem):
        names = [f"{match[1]}_{gt}_{kind}.png" for gt in ("gtFine", "gtCoarse") for kind in kinds]
        return [[*names, f"{stem}.png"]]
    if stem.endswith("_rgb_anon"):
        base = stem.removesuffix("_rgb_anon")
        return [[*(f"{base}_gt_{kind}.png" for kind in kinds), f"{stem}.png"]]
    return [[f"{stem}.png"], [f"{stem}_eval.png"], [f"{stem}_{kind}.png" for kind in kinds]]


def labelled_pairs(
    images_root: str | Path, labels_root: str | Path, *, note: Callable[[str], None] = log_note
) -> list[tuple[Path, Path]]:
    """Every image under ``images_root`` with its label map, in time order.

    Args:
        note: called with a sentence on files that are no images, if there are any.

    Raises:
        FrameError: ``images_root`` is not a folder, is a bag, or holds no image.
        LabelError: ``labels_root`` is not a folder, images lack labels (the first are named), or
            two images have one label map, or one image two.
    """
    _check_no_bag(images_root)
    contents = folder_contents(images_root, videos=False)
    images = contents.files
    if not images:
        raise FrameError(f"{images_root} holds no images.")
    if not Path(labels_root).is_dir():
        raise LabelError(f"{labels_root} is not a folder; give the folder of label maps.")
    pairs = [(image, find_labels(image, images_root, labels_root)) for image in images]
    missing = [image.name for image, labels in pairs if labels is None]
    if missing:
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise LabelError(
            f"{len(missing)} of {len(images)} images of {images_root} have no label map in "
            f"{labels_root}: {first}; a label map has its image's name and .png, or the "
            "name that its data set gives it."
        )
    found = [(image, labels) for image, labels in pairs if labels is not None]
    _check_one_image_each(found)
    if contents.sentence:
        note(contents.sentence)
    return found


def _check_no_bag(images_root: str | Path) -> None:
    path = Path(split_topic(images_root)[0])
    try:
        found = path.exists() and is_bag(path)
    except OSError:
        return  # it is reported where it is opened
    if found:
        raise FrameError(
            f"{path} is a bag, and label maps belong to image files: write frames of it as a "
            "folder of images first, as roadshift select and roadshift collect do, and give that; "
            "run and bench take the bag itself."
        )


def _check_one_image_each(pairs: list[tuple[Path, Path]]) -> None:
    image_of: dict[Path, Path] = {}
    for image, labels in pairs:
        first = image_of.setdefault(labels.resolve(), image)
        if first != image and not _are_one_scene(first, image):
            raise LabelError(
                f"{labels} is the label map of two images, {first} and {image}; keep label maps in "
                "the folders that their images have, or measure on one of these folders."
            )


def _are_one_scene(image: Path, other: Path) -> bool:
    """True of one image of Cityscapes under several fogs, which keep its label map."""
    scenes = [_CITYSCAPES_STEM.fullmatch(path.stem) for path in (image, other)]
    return all(scenes) and len({scene[1] for scene in scenes if scene}) == 1
