"""CVAT: "CVAT for images 1.1", masks as run lengths."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from ...runtime.labels import LabelSpace
from .archive import Archive, PreLabelled, bounding_box, class_masks, hexadecimal
from .run_lengths import run_lengths


class CvatArchive(Archive):
    """``images/``; ``annotations.xml`` for a task of them; ``labels.json`` for its labels.

    A mask's runs go row by row through its box and begin with what does not belong to it. Source:
    docs.cvat.ai, XML annotation format, version 1.1.
    """

    def __init__(self, folder: Path, space: LabelSpace) -> None:
        super().__init__(folder, space)
        self._images: list[ElementTree.Element] = []

    def add(self, frame: PreLabelled) -> None:
        """See `Archive.add`."""
        path = self._write_image(frame)
        height, width = frame.labels.shape
        image = ElementTree.Element(
            "image",
            id=str(len(self._images)),
            name=Path(path).name,
            width=str(width),
            height=str(height),
        )
        for _, name, mask in class_masks(frame.labels, self.space):
            left, top, w, h = bounding_box(mask)
            runs = run_lengths(mask[top : top + h, left : left + w].ravel())
            ElementTree.SubElement(
                image,
                "mask",
                label=name,
                source="auto",
                occluded="0",
                rle=", ".join(map(str, runs)),
                left=str(left),
                top=str(top),
                width=str(w),
                height=str(h),
                z_order="0",
            )
        self._images.append(image)

    def finish(self) -> None:
        """Write the annotations and the labels."""
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
        ElementTree.SubElement(task, "name").text = "roadshift select"
        ElementTree.SubElement(task, "size").text = str(len(self._images))
        ElementTree.SubElement(task, "mode").text = "annotation"
        labels = ElementTree.SubElement(task, "labels")
        for name, colour in zip(self.space.classes, self.space.colours, strict=True):
            label = ElementTree.SubElement(labels, "label")
            ElementTree.SubElement(label, "name").text = name
            ElementTree.SubElement(label, "color").text = hexadecimal(colour)
            ElementTree.SubElement(label, "type").text = "any"
            ElementTree.SubElement(label, "attributes")
        root.extend(self._images)
        ElementTree.indent(root)
        data = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
        (self.folder / "annotations.xml").write_bytes(data + b"\n")
        raw = [
            {"name": name, "color": hexadecimal(colour), "type": "any", "attributes": []}
            for name, colour in zip(self.space.classes, self.space.colours, strict=True)
        ]
        (self.folder / "labels.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
