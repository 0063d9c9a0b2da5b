"""Label Studio: tasks with brushes as predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...runtime.labels import LabelSpace
from .archive import Archive, PreLabelled, class_masks, hexadecimal
from .run_lengths import brush_bytes

_IMAGE, _BRUSH = "image", "classes"  # names in the labelling interface


class LabelStudioArchive(Archive):
    """``images/``, ``tasks.json`` to import and ``labels.xml``, the labelling interface.

    The tasks name their pictures as a local storage serves them whose document root is the folder.
    Source: labelstud.io, "Import pre-annotated data" and "BrushLabels".
    """

    def __init__(self, folder: Path, space: LabelSpace) -> None:
        super().__init__(folder, space)
        self._tasks: list[dict[str, Any]] = []

    def add(self, frame: PreLabelled) -> None:
        """See `Archive.add`."""
        path = self._write_image(frame)
        height, width = frame.labels.shape
        results = [
            {
                "id": f"{frame.name}-{index}",
                "from_name": _BRUSH,
                "to_name": _IMAGE,
                "type": "brushlabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": brush_bytes(mask), "brushlabels": [name]},
            }
            for index, name, mask in class_masks(frame.labels, self.space)
        ]
        self._tasks.append(
            {
                "data": {_IMAGE: f"/data/local-files/?d={path}"},
                "predictions": [{"model_version": "roadshift", "result": results}],
            }
        )

    def finish(self) -> None:
        """Write the tasks and the interface."""
        view = ElementTree.Element("View")
        ElementTree.SubElement(view, "Image", name=_IMAGE, value=f"${_IMAGE}", zoom="true")
        brush = ElementTree.SubElement(view, "BrushLabels", name=_BRUSH, toName=_IMAGE)
        for name, colour in zip(self.space.classes, self.space.colours, strict=True):
            ElementTree.SubElement(brush, "Label", value=name, background=hexadecimal(colour))
        ElementTree.indent(view)
        interface = ElementTree.tostring(view, encoding="unicode") + "\n"
        (self.folder / "labels.xml").write_text(interface, encoding="utf-8")
        tasks = json.dumps(self._tasks, separators=(",", ":")) + "\n"
        (self.folder / "tasks.json").write_text(tasks, encoding="utf-8")
