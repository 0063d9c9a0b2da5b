"""The archives by the name that a user gives."""

from __future__ import annotations

from .archive import Archive
from .cityscapes import CityscapesArchive
from .coco import CocoArchive
from .cvat import CvatArchive
from .label_studio import LabelStudioArchive
from .labelme import LabelMeArchive

FORMATS: dict[str, type[Archive]] = {
    "cvat": CvatArchive,
    "cityscapes": CityscapesArchive,
    "coco": CocoArchive,
    "label-studio": LabelStudioArchive,
    "labelme": LabelMeArchive,
}
