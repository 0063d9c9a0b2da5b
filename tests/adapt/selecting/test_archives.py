"""Archives of pre-labels, read back by the rules of each tool's documentation, and by datumaro."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.adapt.selecting.archive import PreLabelled
from roadshift.adapt.selecting.formats import FORMATS
from roadshift.adapt.selecting.run_lengths import brush_bytes, run_lengths
from roadshift.runtime.errors import LabelSpaceError
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.frames.images import read_image
from roadshift.runtime.labels import LabelSpace, label_space, read_labels
from spaces import FOUR

ODD = LabelSpace(
    name="odd",
    classes=('a "b" <c> & d', "straße", "two words"),
    colours=((1, 2, 3), (255, 0, 255), (9, 9, 9)),
)
Read = Callable[[Path, LabelSpace], dict[str, np.ndarray]]


def frames(space: LabelSpace) -> list[PreLabelled]:
    """Maps of blobs and single pixels, one of a class alone, one that says nothing."""
    rng = np.random.default_rng(0)
    maps = [
        rng.integers(0, space.num_classes, (30, 41)),
        rng.integers(0, space.num_classes, (6, 8)).repeat(5, 0).repeat(7, 1),
        np.full((17, 23), space.num_classes - 1),
        np.full((9, 12), space.ignore_index),
    ]
    maps[0][3:9, 4:30] = space.ignore_index
    labels = [one.astype(np.uint8) for one in maps]
    return [
        PreLabelled(f"frame_{i}.é", rng.integers(0, 256, (*one.shape, 3), np.uint8), one)
        for i, one in enumerate(labels)
    ]


def painted(shape: tuple[int, int], space: LabelSpace, masks: dict[str, np.ndarray]) -> np.ndarray:
    labels = np.full(shape, space.ignore_index, np.uint8)
    for name, mask in masks.items():
        labels[mask] = space.classes.index(name)
    return labels


def from_runs(runs: list[int], length: int) -> np.ndarray:
    """A flat mask of runs, pixel by pixel."""
    flat: list[bool] = []
    for number, run in enumerate(runs):
        flat += [number % 2 == 1] * run
    assert len(flat) == length
    return np.array(flat)


def from_brush(data: list[int]) -> np.ndarray:
    """Values of a rle-pack stream, bit by bit as its decoder reads it."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    assert len(values) == number
    return np.array(values, np.uint8)


def read_cvat(folder: Path, space: LabelSpace) -> dict[str, np.ndarray]:
    found = {}
    for image in ElementTree.parse(folder / "annotations.xml").iter("image"):
        shape = int(image.attrib["height"]), int(image.attrib["width"])
        masks = {}
        for element in image.iter("mask"):
            left, top, w, h = (int(element.attrib[k]) for k in ("left", "top", "width", "height"))
            runs = [int(run) for run in element.attrib["rle"].split(",")]
            mask = np.zeros(shape, bool)
            mask[top : top + h, left : left + w] = from_runs(runs, w * h).reshape(h, w)
            masks[element.attrib["label"]] = mask
        assert (folder / "images" / image.attrib["name"]).is_file()
        found[Path(image.attrib["name"]).stem] = painted(shape, space, masks)
    names = [label["name"] for label in json.loads((folder / "labels.json").read_text())]
    assert names == list(space.classes)
    return found


def read_coco(folder: Path, space: LabelSpace) -> dict[str, np.ndarray]:
    document = json.loads((folder / "annotations" / "instances_default.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    found = {}
    for image in document["images"]:
        shape = image["height"], image["width"]
        masks = {}
        for one in document["annotations"]:
            if one["image_id"] == image["id"]:
                runs = one["segmentation"]
                assert runs["size"] == list(shape)
                flat = from_runs(runs["counts"], shape[0] * shape[1])
                mask = flat.reshape(shape[1], shape[0]).T
                assert one["area"] == mask.sum()
                masks[names[one["category_id"]]] = mask
        found[Path(image["file_name"]).stem] = painted(shape, space, masks)
    return found


def read_label_studio(folder: Path, space: LabelSpace) -> dict[str, np.ndarray]:
    view = ElementTree.parse(folder / "labels.xml").getroot()
    assert [one.attrib["value"] for one in view.iter("Label")] == list(space.classes)
    found = {}
    for task in json.loads((folder / "tasks.json").read_text()):
        path = folder / task["data"]["image"].removeprefix("/data/local-files/?d=")
        shape = read_image(path).shape[:2]
        masks = {}
        for result in task["predictions"][0]["result"]:
            assert (result["original_height"], result["original_width"]) == shape
            pixels = from_brush(result["value"]["rle"]).reshape(*shape, 4)
            masks[result["value"]["brushlabels"][0]] = pixels[..., 3] > 0
        found[path.stem] = painted(shape, space, masks)
    return found


def read_labelme(folder: Path, space: LabelSpace) -> dict[str, np.ndarray]:
    found = {}
    for file in folder.glob("*.json"):
        document = json.loads(file.read_text())
        shape = document["imageHeight"], document["imageWidth"]
        assert read_image(folder / document["imagePath"]).shape[:2] == shape
        masks = {}
        for one in document["shapes"]:
            (x1, y1), (x2, y2) = one["points"]
            data = np.frombuffer(base64.b64decode(one["mask"]), np.uint8)
            part = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) > 0
            masks[one["label"]] = np.zeros(shape, bool)
            masks[one["label"]][y1 : y2 + 1, x1 : x2 + 1] = part
        found[file.stem] = painted(shape, space, masks)
    return found


def read_cityscapes(folder: Path, space: LabelSpace) -> dict[str, np.ndarray]:
    pairs = labelled_pairs(folder / "leftImg8bit", folder / "gtFine")
    return {
        image.stem.removesuffix("_leftImg8bit"): read_labels(labels, space)
        for image, labels in pairs
    }


READERS: dict[str, Read] = {
    "cvat": read_cvat,
    "coco": read_coco,
    "label-studio": read_label_studio,
    "labelme": read_labelme,
    "cityscapes": read_cityscapes,
}
CITYSCAPES = label_space("cityscapes19")


def test_every_format_is_read_back_here() -> None:
    assert set(READERS) == set(FORMATS)


@pytest.mark.parametrize("space", [FOUR, ODD, CITYSCAPES], ids=lambda space: space.name)
@pytest.mark.parametrize("tool", FORMATS)
def test_what_is_written_is_read_back(tmp_path: Path, tool: str, space: LabelSpace) -> None:
    written = write(tmp_path, tool, space)
    found = READERS[tool](tmp_path, space)
    assert found.keys() == {frame.name for frame in written}
    for frame in written:
        np.testing.assert_array_equal(found[frame.name], frame.labels)


def write(folder: Path, tool: str, space: LabelSpace) -> list[PreLabelled]:
    archive = FORMATS[tool](folder, space)
    written = frames(space)
    for frame in written:
        archive.add(frame)
    archive.finish()
    return written


def test_cityscapes_ids_are_its_own(tmp_path: Path) -> None:
    write(tmp_path, "cityscapes", CITYSCAPES)
    maps = [cv2.imread(str(p), -1) for p in tmp_path.rglob("*_gtFine_labelIds.png")]
    assert len(maps) == 4
    assert {7, 8, 33} <= set(np.unique(np.concatenate([one.ravel() for one in maps])))


def test_a_space_that_has_no_ids_of_cityscapes_for_a_class_is_refused(tmp_path: Path) -> None:
    space = LabelSpace(
        name="part", classes=("road", "moon"), colours=((1, 1, 1), (2, 2, 2)), train_ids={0: 0}
    )
    with pytest.raises(LabelSpaceError, match="without Cityscapes ids"):
        FORMATS["cityscapes"](tmp_path, space)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_run_lengths_and_brushes_are_the_mask(h: int, w: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < share
    assert from_runs(run_lengths(mask.ravel()), h * w).tolist() == mask.ravel().tolist()
    pixels = from_brush(brush_bytes(mask)).reshape(h, w, 4)
    np.testing.assert_array_equal(pixels, np.repeat(mask[..., None] * 255, 4, axis=2))


def test_a_long_run_of_a_brush_is_split() -> None:
    mask = np.zeros((300, 200), bool)
    mask[10:] = True
    np.testing.assert_array_equal(from_brush(brush_bytes(mask))[3::4] > 0, mask.ravel())


@pytest.mark.skipif(
    importlib.util.find_spec("datumaro") is None,
    reason="datumaro is not installed; beside another OpenCV than its 4: "
    "pip install --no-deps -r .ci/datumaro.txt",
)
@pytest.mark.parametrize("tool", ["cvat", "coco", "cityscapes"])
def test_datumaro_reads_the_same(tmp_path: Path, tool: str) -> None:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    written = {frame.name: frame.labels for frame in write(tmp_path, tool, CITYSCAPES)}
    dataset = Dataset.import_from(str(tmp_path), tool)
    names = [label.name for label in dataset.categories()[AnnotationType.label]]
    ours = {name.replace(" ", ""): i for i, name in enumerate(CITYSCAPES.classes)}
    seen = 0
    for item in dataset:
        labels = written[Path(item.id).name]
        found = np.full(labels.shape, CITYSCAPES.ignore_index, np.uint8)
        for one in item.annotations:
            name = names[one.label].replace(" ", "")  # which datumaro does
            if one.type == AnnotationType.mask and name in ours:
                found[one.image.astype(bool)] = ours[name]
        np.testing.assert_array_equal(found, labels)
        seen += 1
    assert seen == len(written)
