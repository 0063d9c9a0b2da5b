"""Cityscapes' layout: pictures and label maps in two trees; `roadshift train` reads it, too."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ...runtime.atomic import write_whole
from ...runtime.errors import LabelSpaceError
from ...runtime.frames.images import write_image
from ...runtime.labels import LabelSpace
from .archive import Archive, PreLabelled

_SPLIT, _CITY = "train", "selected"


class CityscapesArchive(Archive):
    """``leftImg8bit/train/selected/NAME_leftImg8bit.png`` and their maps below ``gtFine``.

    Where the label space knows Cityscapes' ids of all its classes, ``NAME_gtFine_labelIds.png``
    and ``NAME_gtFine_instanceIds.png`` with the same ids (nothing is told apart within a class),
    which other programs read; else ``NAME_gtFine_labelTrainIds.png``, class indices. And
    ``NAME_gtFine_color.png`` to look at.

    Raises:
        LabelSpaceError: the label space has other train ids, and lacks raw ids of some classes.
    """

    def __init__(self, folder: Path, space: LabelSpace) -> None:
        super().__init__(folder, space)
        self._ending, ids = _encoding(space)
        self._table = np.zeros(256, np.uint8)
        self._table[space.ignore_index] = 0 if self._ending == "labelIds" else space.ignore_index
        for index, label_id in ids.items():
            self._table[index] = label_id

    def add(self, frame: PreLabelled) -> None:
        """See `Archive.add`."""
        for tree in ("leftImg8bit", "gtFine"):
            (self.folder / tree / _SPLIT / _CITY).mkdir(parents=True, exist_ok=True)
        images, maps = (self.folder / t / _SPLIT / _CITY for t in ("leftImg8bit", "gtFine"))
        write_image(images / f"{frame.name}_leftImg8bit.png", frame.image)
        encoded = self._table[frame.labels]
        write_image(maps / f"{frame.name}_gtFine_{self._ending}.png", encoded)
        if self._ending == "labelIds":
            _, data = cv2.imencode(".png", encoded.astype(np.uint16))
            write_whole(maps / f"{frame.name}_gtFine_instanceIds.png", data.tobytes())
        coloured = self.space.colourise(frame.labels)
        write_image(maps / f"{frame.name}_gtFine_color.png", coloured)


def _encoding(space: LabelSpace) -> tuple[str, dict[int, int]]:
    """The ending of the label maps' names, and the id in them of each class index."""
    classes = range(space.num_classes)
    wanted = [i for i in classes if space.classes[i] not in space.never_labelled]
    for ending, ids in (("labelIds", space.raw_ids), ("labelTrainIds", space.train_ids)):
        pairs = sorted((ids or {}).items(), reverse=True)  # so that the lowest id stays
        of_class = {index: label_id for label_id, index in pairs}
        if all(index in of_class for index in wanted):
            return ending, {index: of_class[index] for index in wanted}
    if space.train_ids is None:
        return "labelTrainIds", {index: index for index in wanted}
    raise LabelSpaceError(
        f"label space {space.name!r} has classes without Cityscapes ids, so its label maps cannot "
        "be written in that layout; choose another one."
    )
