"""COCO: instances with masks as uncompressed run lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...runtime.labels import LabelSpace
from .archive import Archive, PreLabelled, bounding_box, class_masks
from .run_lengths import run_lengths


class CocoArchive(Archive):
    """``images/`` and ``annotations/instances_default.json``, a mask for each class of a frame.

    Categories count from 1 in the order of the label space. A mask's runs go column by column
    through the whole picture. Source: cocodataset.org, data format.
    """

    def __init__(self, folder: Path, space: LabelSpace) -> None:
        super().__init__(folder, space)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, frame: PreLabelled) -> None:
        """See `Archive.add`."""
        height, width = frame.labels.shape
        number = len(self._images) + 1
        file_name = Path(self._write_image(frame)).name
        self._images.append(
            {"id": number, "file_name": file_name, "width": width, "height": height}
        )
        for index, _, mask in class_masks(frame.labels, self.space):
            runs = {"size": [height, width], "counts": run_lengths(mask.T.ravel())}
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "segmentation": runs,
                    "area": int(mask.sum()),
                    "bbox": list(bounding_box(mask)),
                    "iscrowd": 1,  # what has run lengths and not polygons
                }
            )

    def finish(self) -> None:
        """Write the annotations."""
        document = {
            "info": {"description": "roadshift select"},
            "licenses": [],
            "images": self._images,
            "categories": [
                {"id": index + 1, "name": name, "supercategory": ""}
                for index, name in enumerate(self.space.classes)
            ],
            "annotations": self._annotations,
        }
        (self.folder / "annotations").mkdir()
        file = self.folder / "annotations" / "instances_default.json"
        file.write_text(json.dumps(document) + "\n", encoding="utf-8")
