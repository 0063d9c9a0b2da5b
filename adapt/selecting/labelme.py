"""LabelMe: a JSON file beside each picture, masks as PNG."""

from __future__ import annotations

import base64
import json
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .archive import Archive, PreLabelled, bounding_box, class_masks

_VERSION = "5.5.0"  # from 5.2 on a shape may be a mask


class LabelMeArchive(Archive):
    """``NAME.png`` and ``NAME.json`` of each frame, and ``labels.txt``, the classes.

    A mask is a PNG of its box, whose corners are the shape's two points, the second one within.
    Source: the ``shape_type`` "mask" of github.com/wkentaro/labelme.
    """

    def add(self, frame: PreLabelled) -> None:
        """See `Archive.add`."""
        height, width = frame.labels.shape
        shapes: list[dict[str, Any]] = []
        for _, name, mask in class_masks(frame.labels, self.space):
            left, top, w, h = bounding_box(mask)
            shapes.append(
                {
                    "label": name,
                    "points": [[left, top], [left + w - 1, top + h - 1]],
                    "group_id": None,
                    "description": "",
                    "shape_type": "mask",
                    "flags": {},
                    "mask": _png(mask[top : top + h, left : left + w]),
                }
            )
        document = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": self._write_image(frame, ""),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        file = self.folder / f"{frame.name}.json"
        file.write_text(json.dumps(document) + "\n", encoding="utf-8")

    def finish(self) -> None:
        """Write the classes, for ``labelme --labels``."""
        text = "\n".join(("__ignore__", *self.space.classes)) + "\n"
        (self.folder / "labels.txt").write_text(text, encoding="utf-8")


def _png(mask: NDArray[np.bool_]) -> str:
    _, data = cv2.imencode(".png", mask.astype(np.uint8))
    return base64.b64encode(data.tobytes()).decode()
