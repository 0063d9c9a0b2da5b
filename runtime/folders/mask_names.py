"""Names of label maps and of pictures: the words that folders and files of data sets are made of.

The words come from the layouts of ADE20K, A2D2, ApolloScape, ACDC, BDD100K, CamVid, CARLA,
Cityscapes, comma10k, CVAT, GTA5, IDD, KITTI, label-studio, Mapillary Vistas, mmsegmentation, Pascal
VOC, RailSem19, Roboflow, Supervisely, SYNTHIA, VIPER, Virtual KITTI and WildDash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import PurePath
from typing import NamedTuple


def _set_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MASK_WORDS = _set_of(
    "label labels labeled labelled labeling lbl lbls labelid labelids labeltrainid "
    "labeltrainids labelmap labelmaps labelcolor labelcolors mask masks masked maskimg ann anns "
    "anno annos annot annots annotation annotations annotated seg segs segm segms segmap "
    "segmaps segmentation segmentations segmented semseg semsegs semantic semantics sseg gt gts "
    "gtfine gtcoarse gtlabels groundtruth groundtruths truth truths instance instances inst "
    "insts instanceid instanceids trainid trainids classid classids classmap cls panoptic "
    "panoptics pan parsing matte mattes mattes alpha trimap trimaps uint palette palettes "
    "colormap colormaps colourmap colourmaps watershed depth depths depthmap depthmaps "
    "disparity disparities disp disps flow flows opticalflow normals lidar pointcloud edges "
    "boundary boundaries drivable lanemask pred preds prediction predictions predicted "
    "pseudolabel pseudolabels overlay overlays overlaid blend blends blended visualization "
    "visualizations visualisation visualisations invids scribble scribbles map maps basemap "
    "stuffthingmaps uncertainty uncertainties confidence confidences entropy entropies heatmap "
    "heatmaps prob probs probability probabilities softmax logits saliency"
)
# Of these, pictures that a camera did not take although they may look like it.
_DERIVED_WORDS = _set_of(
    "depth depths depthmap depthmaps disparity disparities disp disps flow flows opticalflow "
    "normals lidar edges pred preds prediction predictions predicted overlay overlays overlaid "
    "blend blends blended visualization visualizations visualisation visualisations uncertainty "
    "uncertainties confidence confidences entropy entropies heatmap heatmaps prob probs "
    "probability probabilities softmax logits saliency"
)
# Of these, words that mean other things too: seg_3 may be a segment of a drive, GT86 a car.
_WEAK_WORDS = _set_of(
    "seg segs segm segms gt gts map maps pan cls alpha inst insts instance instances truth truths "
    "parsing boundary boundaries edges drivable normals lidar flow flows"
)
_INFRARED = _set_of("thermal infrared ir nir lwir flir")
_COLOUR = _set_of("color colour colors colours")
# Made from pictures as often as taken by another camera: "vis" is also visible light.
_EITHER_WORDS = _set_of(
    "vis viz visual visuals result results output outputs out processed generated fake "
    "inference inferences inferred colorized colourised colourized"
)
# A labelled image is an image; labelled alone is a label.
_HAS_LABELS = _set_of("labeled labelled annotated segmented unlabeled unlabelled")
_PLACES = _set_of(
    "day night dusk dawn rain rainy fog foggy snow snowy sun sunny clear overcast front rear "
    "back side drive drives route routes clip clips seq sequence sequences scene scenes road "
    "city town highway tunnel dashcam wide narrow tele thermal infrared ir nir lwir flir mono "
    "gray grey rgb left right cam camera cameras"
)
_SPLITS = _set_of("train training val valid validation test testing trainval default")
_PICTURE_WORDS = _set_of(
    "image images img imgs imgsfine jpg jpgs jpeg jpegs jpegimages pic pics picture pictures "
    "photo photos frame frames rgb bgr rgbs cam cams camera cameras leftimg leftimgs rightimg "
    "rightimgs left right raw still stills stillsraw color colour colors colours colorimage "
    "colorimages input inputs original originals orig anon png pngs foggy thermal infrared ir "
    "nir lwir flir mono gray grey video videos"
)
_PICTURE_MARKS = _set_of("image images img imgs rgb camera jpg jpeg png anon photo pic raw")
_MASK_MARKS = _set_of("color colour id ids parts part bin p l m")
_PREVIEW_WORDS = _set_of(
    "thumb thumbs thumbnail thumbnails poster posters cover covers preview previews folder icon "
    "logo screenshot fanart"
)

_IMG_BITS = re.compile(r"(?:left|right)img\d+bit")
_WHOLE = r"(?:left|right)Img\d+bit|gt(?:Fine|Coarse)|labellevel\d*Ids|label(?:Train)?Ids|u?int\d+"
_WORD = re.compile(_WHOLE + r"|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_COMPOUND = re.compile(
    r"\w*annot|\w*(?:labels?|masks?)|labellevel\d*ids|u?int\d+|label(?:train)?ids"
)


class StemKeys(NamedTuple):
    """Names of one frame that a file's name may stand for.

    ``plain`` lacks only the words that say of which kind the file is; ``loose`` are further
    readings, without an object's number or the word at either end.
    """

    plain: tuple[str, ...]
    loose: tuple[tuple[str, ...], ...]


@lru_cache(maxsize=4096)
def words(name: str) -> tuple[str, ...]:
    """The words and numbers of a name in small letters: ``SegmentationClass``, ``masks_human``."""
    return tuple(found.casefold() for found in _WORD.findall(name))


def is_mask_word(word: str) -> bool:
    """True of ``labels`` and ``trainannot``, and of their likes."""
    return word in _MASK_WORDS or (
        len(word) > 4 and word not in _HAS_LABELS and _COMPOUND.fullmatch(word) is not None
    )


def is_picture_word(word: str) -> bool:
    """True of ``images`` and ``rgb``, and of their likes."""
    return word in _PICTURE_WORDS or _IMG_BITS.fullmatch(word) is not None


def name_says_mask(found: Iterable[str]) -> bool:
    """Tell whether some word names label maps, other than as in ``labelled_images``."""
    found = tuple(found)
    pictures = any(is_picture_word(word) for word in found)
    return any(is_mask_word(word) and not (pictures and word in _HAS_LABELS) for word in found)


def name_says_only_maps(found: Iterable[str]) -> bool:
    """Tell whether some word names label maps and nothing else, as `name_says_mask` allows it."""
    found = tuple(found)
    return name_says_mask(found) and any(
        is_mask_word(word) and word not in _WEAK_WORDS for word in found
    )


def name_says_camera(found: Iterable[str]) -> bool:
    """Tell whether words name pictures, a place or a time, beyond that they have colours."""
    found = [word for word in found if word not in _COLOUR]
    return name_says_picture(found) or (name_says_place(found) and not name_says_mask(found))


def _says(wanted: frozenset[str]) -> Callable[[Iterable[str]], bool]:
    return lambda found: not wanted.isdisjoint(found)


name_says_infrared = _says(_INFRARED)  # a camera beside which pictures are visible light
name_says_derived = _says(_DERIVED_WORDS)  # predictions, scores, overlays or depth maps
name_says_either = _says(_EITHER_WORDS)  # results, which may be pictures or made from them
name_says_place = _says(_PLACES)  # where or when pictures were taken, or another camera


def is_split(name: str) -> bool:
    """True of ``train`` and ``val``, which tell nothing about the kind of files."""
    return all(word in _SPLITS or word.isdigit() for word in words(name))


def name_says_picture(found: Iterable[str]) -> bool:
    """Tell whether some word names pictures and none names label maps."""
    found = tuple(found)
    return any(is_picture_word(word) for word in found) and not name_says_mask(found)


def says_preview(stem: str) -> bool:
    """True of ``thumb`` and ``poster``: a picture for looking at a recording."""
    return any(word in _PREVIEW_WORDS for word in words(stem))


@lru_cache(maxsize=1 << 17)
def marks(stem: str) -> tuple[str, ...]:
    """The words of a file's name that say of which kind it is: ``label`` of ``a_label_07``."""
    return tuple(
        word
        for word in words(stem)
        if is_mask_word(word)
        or word in _PICTURE_MARKS
        or word in _MASK_MARKS
        or word in _EITHER_WORDS
        or _IMG_BITS.fullmatch(word)
    )


def name_keys(file: PurePath) -> StemKeys:
    """A file's name without the words of its kind; its folder's where that is nothing."""
    keys = stem_keys(file.stem)
    if keys.plain and all(keys.loose):
        return keys
    folder = ("in", *words(file.parent.name))
    return StemKeys(keys.plain or folder, tuple(key or folder for key in keys.loose))


@lru_cache(maxsize=1 << 17)
def stem_keys(stem: str) -> StemKeys:
    """The rest of a file's name without the words of its kind."""
    found = words(stem)
    kinds = set(marks(stem))
    plain = tuple(word for word in found if word not in kinds)
    without_number = tuple(
        word
        for i, word in enumerate(found)
        if word not in kinds and not (word.isdigit() and i and found[i - 1] in kinds)
    )
    loose = [without_number] if len(without_number) < len(plain) else []
    if plain and not plain[-1].isdigit():
        loose.append(plain[:-1])
    if plain and not plain[0].isdigit():
        loose.append(plain[1:])
    return StemKeys(plain, tuple(loose))
