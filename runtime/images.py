"""Image files and folders of them: read, write, list in time order, pair with label maps.

Importing this module quiets OpenCV's own messages about damaged files (set ``OPENCV_LOG_LEVEL`` to
bring them back), since every damaged file is reported once, by name and reason, by its reader.
"""

import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .atomic import output_error
from .errors import FrameError, LabelError, OutputError
from .jpeg import JPEG_SIGNATURE, decode_jpeg
from .picture_size import PNG_SIGNATURE, picture_size, pnm_largest, too_large
from .png import whole_png

if "OPENCV_LOG_LEVEL" not in os.environ:
    _set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # 4.x, 5.x
    _set_log_level(0)  # silent

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm"}
)

# Label files that lie beside images: *_gtFine_labelIds.png, *_gtCoarse_color.png, *_gt_invIds.png
_LABEL_STEM = re.compile(r"_gt(Fine|Coarse)?_[A-Za-z]+$|_label(Train)?Ids$")
_CITYSCAPES_STEM = re.compile(r"(.+)_leftImg8bit(_foggy_beta_[\d.]+)?")
_LIGHT_FOG = re.compile(r"_foggy_beta_0\.(005|01)$")
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

TWELVE_BITS = 4095  # the largest value of a twelve-bit camera

_REMARKED: set[Path] = set()  # folders of which an odd file was logged by this process

Image = NDArray[np.uint8]


def log_remark(sentence: str) -> None:
    """Where a remark on a file that was read goes, unless another place is given."""
    logging.getLogger("roadshift").warning("%s", sentence)


def _log_once(folder: Path, sentence: str) -> None:
    if folder not in _REMARKED:
        _REMARKED.add(folder)
        log_remark(sentence)


def read_image(path: str | Path, *, remark: Callable[[str], None] | None = None) -> Image:
    """Read an image file as (H, W, 3) uint8 RGB.

    Grey becomes three equal channels, alpha is dropped, an EXIF orientation is applied. 16-bit
    values v become round(v / 257); those of a file whose values end at 4095, which are the twelve
    bits of a camera, become round(v / 16.06), and a remark says so. PBM to PPM files state their
    own largest value.

    Args:
        remark: called with a sentence on an odd file that is read all the same; unless given, the
            first such sentence on a file of each folder is logged.

    Raises:
        FrameError: the file is missing, unreadable, damaged, cut short (one that lacks only its
            end marker is whole), neither 8 nor 16 bits, or of more pixels than `pixel_limit`.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not data:
        raise FrameError(f"{path} is damaged: it is empty; copy the file again or remove it.")
    size = picture_size(data)
    if size is not None and (refusal := too_large(*size)):
        raise FrameError(f"{path} {refusal}.")
    try:
        if data.startswith(JPEG_SIGNATURE):
            return decode_jpeg(data)
        if data.startswith(PNG_SIGNATURE):
            data = whole_png(data)
    except ValueError as error:
        raise FrameError(
            f"{path} is damaged: {error}; copy the file again or remove it."
        ) from error
    image = None if size is None else _decode(data, path)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise FrameError(
            f"{path} is damaged, or no image of 8 or 16 bits a channel ({len(data)} bytes); "
            "copy it again, convert it or remove it."
        )
    image = _eight_bits(image, data, path, remark or partial(_log_once, path.parent))
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _decode(data: bytes, path: Path) -> NDArray[Any] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise FrameError(f"{path} cannot be decoded: {error.err or error}.") from error


def _eight_bits(
    image: NDArray[Any], data: bytes, path: Path, remark: Callable[[str], None]
) -> NDArray[Any]:
    """The values of a decoded image as 0 to 255, by the largest value that its kind of file has."""
    largest = np.iinfo(image.dtype).max
    stated = pnm_largest(data)
    if stated is not None:
        largest = stated
    elif image.dtype == np.uint16 and 0 < int(image.max()) <= TWELVE_BITS:
        largest = TWELVE_BITS
        remark(
            f"{path} has 16 bits a channel and no value above {image.max()}: its values are taken "
            f"as the twelve bits of a camera, {TWELVE_BITS} is white; if it is meant to be nearly "
            "black, convert it to 8 bits."
        )
    return image if largest == 255 else cv2.convertScaleAbs(image, alpha=255 / largest)


def write_image(path: str | Path, image: Image) -> None:
    """Write (H, W, 3) uint8 RGB or an (H, W) uint8 map; the suffix chooses the format.

    The file is written beside its place and renamed, so that a reader never sees half of it.

    Raises:
        OutputError: the format is unknown, or the disk is full or the folder cannot be written.
    """
    path = Path(path)
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        _, data = cv2.imencode(path.suffix, pixels)
    except cv2.error as error:
        raise OutputError(
            f"{path}: there is no encoder for {path.suffix!r}; use .png or .jpg."
        ) from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data.tobytes())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise output_error(error, path) from error


def natural_key(path: Path) -> tuple[tuple[str | int, ...], ...]:
    """Sorting key by path components in which frame_2 comes before frame_10."""
    return tuple(
        (*(int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", part)), part)
        for part in path.parts
    )


def list_images(folder: str | Path) -> list[Path]:
    """The camera images under a folder, searched recursively, in natural order of their paths.

    Finds the data sets of `layouts` and plain or nested folders. Left out are what lies beside a
    ``leftImg8bit``, ``leftImg8bit_foggy`` or ``rgb_anon`` folder (Cityscapes, Foggy Cityscapes,
    ACDC) or beside ``RGB`` and ``GT`` (SYNTHIA), a ``labels`` folder beside an ``images`` folder
    (with or without capitals), label maps among the images (``*_gtFine_*``, ``*_gt_*``,
    ``*_labelIds``, ``*_labelTrainIds``), hidden files and, unless nothing else is there, ACDC's
    reference images (``*_rgb_ref_anon``) and Foggy Cityscapes' lighter fogs (beta 0.005 and 0.01;
    papers use 0.02).

    Raises:
        FrameError: the folder does not exist.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FrameError(f"{root} is not a folder; give a folder of images.")
    found = [p for p in list_files(root, IMAGE_SUFFIXES) if not _LABEL_STEM.search(p.stem)]
    chosen = [
        path
        for path in found
        if not (path.stem.endswith("_rgb_ref_anon") or _LIGHT_FOG.search(path.stem))
    ]
    return chosen or found


def list_files(root: Path, suffixes: frozenset[str]) -> list[Path]:
    """Visible files with one of the suffixes in the camera folders under ``root``, natural order.

    Links are followed, each folder once.
    """
    found: list[Path] = []
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = _camera_folders(subfolders)
        found += [
            Path(folder, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes
        ]
    return sorted(found, key=lambda path: natural_key(path.relative_to(root)))


def _camera_folders(siblings: list[str]) -> list[str]:
    """Those of the folders beside each other that can hold camera images."""
    for name in ("leftImg8bit", "leftImg8bit_foggy", "rgb_anon"):  # labels and disparity lie beside
        if name in siblings:
            return [name]
    if {"RGB", "GT"} <= set(siblings):
        return ["RGB"]
    without = {_LABEL_FOLDER_OF[name] for name in ("images", "Images") if name in siblings}
    return sorted(name for name in siblings if not name.startswith(".") and name not in without)


def find_labels(
    image_path: str | Path, images_root: str | Path, labels_root: str | Path
) -> Path | None:
    """The label map that belongs to an image, or None.

    Its name, train ids before raw ids: ``X_leftImg8bit``, with or without a fog's ending, ->
    ``X_gtFine_labelTrainIds.png`` or ``X_gtFine_labelIds.png``, then the same of gtCoarse;
    ``X_rgb_anon`` -> ``X_gt_labelTrainIds.png`` or ``X_gt_labelIds.png``; any other ``X`` ->
    ``X.png``, ``X_eval.png``, ``X_labelTrainIds.png`` or ``X_labelIds.png``.

    Its folder under ``labels_root``: the image's own relative to ``images_root``, then ever shorter
    ends of the image's path; each also with the data set's folder of images read as its folder of
    labels.
    """
    image, labels = Path(image_path), Path(labels_root)
    relative = image.relative_to(images_root).parent
    parents = image.parent.parts[1 if image.is_absolute() else 0 :]
    for own in (relative, *(Path(*parents[-n:]) for n in (4, 3, 2, 1)), Path()):
        for folder in dict.fromkeys((own, _label_folder(own))):
            for name in _label_names(image.stem):
                candidate = labels / folder / name
                if candidate != image and candidate.is_file():
                    return candidate
    return None


def _label_folder(images: Path) -> Path:
    """The folder of labels that belongs to a folder of images of a known data set, or itself."""
    return Path(_IMAGE_FOLDER.sub(lambda found: _LABEL_FOLDER_OF[found[1]], images.as_posix()))


def _label_names(stem: str) -> list[str]:
    kinds = ("labelTrainIds", "labelIds")
    if match := _CITYSCAPES_STEM.fullmatch(stem):
        return [f"{match[1]}_{gt}_{kind}.png" for gt in ("gtFine", "gtCoarse") for kind in kinds]
    if stem.endswith("_rgb_anon"):
        base = stem.removesuffix("_rgb_anon")
        return [f"{base}_gt_{kind}.png" for kind in kinds]
    return [f"{stem}.png", *(f"{stem}_{kind}.png" for kind in ("eval", *kinds))]


def labelled_pairs(images_root: str | Path, labels_root: str | Path) -> list[tuple[Path, Path]]:
    """Every image under ``images_root`` with its label map, in time order.

    Raises:
        FrameError: ``images_root`` is not a folder or holds no image.
        LabelError: ``labels_root`` is not a folder, or images lack labels (the first are named).
    """
    images = list_images(images_root)
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
    return [(image, labels) for image, labels in pairs if labels is not None]
