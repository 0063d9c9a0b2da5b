"""Label spaces and label files: the published ids, every encoding on disk, and bad files."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from roadshift.runtime.errors import LabelError, LabelSpaceError
from roadshift.runtime.labels import LABEL_SPACES, LabelSpace, label_space, read_labels

CITYSCAPES = label_space("cityscapes19")
# What AdvEnt, ProDA and DACS use for SYNTHIA-RAND-CITYSCAPES with 16 classes.
SYNTHIA_16 = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 9, 10: 10, 17: 11} | {
    8: 12,
    19: 13,
    12: 14,
    11: 15,
}
TINY = {"name": "tiny", "classes": ["a", "b"], "colours": [[0, 0, 0], [1, 2, 3]]}


def write_png(path: Path, ids: NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), ids)
    return path


def test_cityscapes19_is_the_official_table() -> None:
    official = sorted(
        (t for t in cityscapes_labels if t.trainId in range(19)), key=lambda t: t.trainId
    )
    assert CITYSCAPES.classes == tuple(t.name for t in official)
    assert CITYSCAPES.colours == tuple(t.color for t in official)
    every_id = np.arange(34, dtype=np.uint8)[None]
    encoded = CITYSCAPES.encode(every_id, raw=True, where="ids")
    expected = {t.id: t.trainId for t in cityscapes_labels if t.id >= 0}
    assert encoded[0].tolist() == [expected[i] for i in range(34)]


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("synthia16", {"terrain", "truck", "train"}),
        ("synthia13", {"terrain", "truck", "train", "wall", "fence", "pole"}),
        ("crosscity13", {"terrain", "truck", "train", "wall", "fence", "pole"}),
    ],
)
def test_smaller_spaces_keep_cityscapes_order_and_colours(name: str, absent: set[str]) -> None:
    space = label_space(name)
    kept = [i for i, c in enumerate(CITYSCAPES.classes) if c not in absent]
    assert space.num_classes == int(name[-2:])
    assert space.classes == tuple(CITYSCAPES.classes[i] for i in kept)
    assert space.colours == tuple(CITYSCAPES.colours[i] for i in kept)


def test_synthia16_reads_the_published_synthia_ids() -> None:
    assert label_space("synthia16").synthia_ids == SYNTHIA_16


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_every_built_in_space_survives_json(name: str) -> None:
    space = label_space(name)
    assert LabelSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


@pytest.mark.parametrize("name", ["synthia16", "synthia13", "cityscapes19"])
def test_raw_and_train_id_files_of_one_frame_give_the_same_labels(
    tmp_path: Path, name: str
) -> None:
    space = label_space(name)
    ids = np.random.default_rng(0).integers(0, 34, (20, 30)).astype(np.uint8)
    to_train = np.array([t.trainId for t in cityscapes_labels if t.id >= 0], np.uint8)
    raw = read_labels(write_png(tmp_path / "a_gtFine_labelIds.png", ids), space)
    train = read_labels(write_png(tmp_path / "a_gtFine_labelTrainIds.png", to_train[ids]), space)
    np.testing.assert_array_equal(raw, train)
    for index, class_name in enumerate(space.classes):
        official = next(t.id for t in cityscapes_labels if t.name == class_name)
        np.testing.assert_array_equal(raw == index, ids == official)


def test_raw_ids_that_are_unknown_become_ignored_never_class_0() -> None:
    ids = np.array([[0, 99, 255, 7, 40_000]], np.uint16)
    assert CITYSCAPES.encode(ids, raw=True, where="x").tolist() == [[255, 255, 255, 0, 255]]
    signed = np.array([[-1, 7, 1 << 20]], np.int32)
    assert CITYSCAPES.encode(signed, raw=True, where="x").tolist() == [[255, 0, 255]]


@pytest.mark.parametrize(
    ("dtype", "stray"), [(np.uint8, 19), (np.uint16, 300), (np.int64, -1), (np.int64, 1 << 20)]
)
def test_a_plain_map_with_an_unknown_id_is_refused_by_name(dtype: Any, stray: int) -> None:
    ids = np.array([[0, 18, 255, stray]], dtype)
    with pytest.raises(LabelError, match=rf"frame_7.*ids {stray}, and label space 'cityscapes19'"):
        CITYSCAPES.encode(ids, raw=False, where="frame_7.png")


def test_camvid_void_is_ignored() -> None:
    ids = np.array([[0, 10, 11, 255]], np.uint8)
    encoded = label_space("camvid11").encode(ids, raw=False, where="x")
    assert encoded.tolist() == [[0, 10, 255, 255]]
    assert encoded.dtype == np.uint8


def test_raw_ids_without_a_map_are_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a_labelIds.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(LabelSpaceError, match="camvid11' has no raw_ids"):
        read_labels(path, label_space("camvid11"))


def test_colourise_paints_classes_and_leaves_ignored_black() -> None:
    picture = CITYSCAPES.colourise(np.array([[0, 18, 255, 100]], np.uint8))
    assert picture.tolist() == [[[128, 64, 128], [119, 11, 32], [0, 0, 0], [0, 0, 0]]]
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_png_is_read_as_indices(tmp_path: Path, bits: int) -> None:
    ids = np.random.default_rng(bits).integers(0, min(1 << bits, 11), (9, 13)).astype(np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(
        np.random.default_rng(0).integers(0, 256, 3 << bits).astype(np.uint8).tobytes()
    )
    path = tmp_path / "palette.png"
    image.save(path, bits=bits)
    assert path.read_bytes()[24:26] == bytes([bits, 3])  # the file is what the test says
    np.testing.assert_array_equal(read_labels(path, label_space("camvid11")), ids)


def test_sixteen_bit_png_is_read(tmp_path: Path) -> None:
    ids = np.array([[0, 18], [255, 3]], np.uint16)
    np.testing.assert_array_equal(read_labels(write_png(tmp_path / "a.png", ids), CITYSCAPES), ids)


def test_synthia_file_is_read_from_its_red_channel(tmp_path: Path) -> None:
    red = np.array([[3, 11, 0, 21]], np.uint16)
    instances = np.full_like(red, 7)
    blue_green_red = np.stack([np.zeros_like(red), instances, red], axis=-1)
    path = write_png(tmp_path / "0000000.png", blue_green_red)
    assert read_labels(path, label_space("synthia16")).tolist() == [[0, 15, 255, 3]]


def test_colour_picture_is_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", np.array([[[1, 2, 3], [70, 70, 70]]], np.uint8))
    with pytest.raises(LabelError, match=r"a\.png: is a colour picture.*\(3, 2, 1\); convert"):
        read_labels(path, CITYSCAPES)


def test_another_size_names_both_sizes(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", np.zeros((20, 30), np.uint8))
    assert read_labels(path, CITYSCAPES, size=(30, 20)).shape == (20, 30)
    with pytest.raises(LabelError, match="30x20 and their frame is 60x40"):
        read_labels(path, CITYSCAPES, size=(60, 40))


def test_a_png_cut_anywhere_is_refused(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 19, (64, 64)).astype(np.uint8)
    data = write_png(tmp_path / "whole.png", ids).read_bytes()
    cut = tmp_path / "cut.png"
    for length in [*range(8, 60), *range(60, len(data), 97), len(data) - 1]:
        cut.write_bytes(data[:length])
        with pytest.raises(LabelError, match=r"cut\.png: .*damaged, the PNG data ends early"):
            read_labels(cut, CITYSCAPES)


def test_a_changed_byte_in_a_png_is_refused(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 19, (64, 64)).astype(np.uint8)
    data = bytearray(write_png(tmp_path / "a.png", ids).read_bytes())
    data[len(data) // 2] ^= 0x40
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(LabelError, match="checksum is wrong"):
        read_labels(tmp_path / "a.png", CITYSCAPES)


def test_a_png_whose_samples_do_not_fill_it_is_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    data = path.read_bytes()
    header = struct.pack(">II", 8, 4096) + data[24:29]
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    path.write_bytes(data[:16] + header + crc + data[33:])
    with pytest.raises(LabelError, match="damaged and do not decode"):
        read_labels(path, CITYSCAPES)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"gone\.png: cannot read"):
        read_labels(tmp_path / "gone.png", CITYSCAPES)
    (tmp_path / "a.png").write_bytes(b"\xff\xd8\xff not a PNG")
    with pytest.raises(LabelError, match="is not a PNG"):
        read_labels(tmp_path / "a.png", CITYSCAPES)


def test_a_user_adds_a_label_space_as_json(tmp_path: Path) -> None:
    path = tmp_path / "yard.json"
    path.write_text(json.dumps({**TINY, "raw_ids": {"7": 1}, "void_ids": [2]}))
    space = label_space(path)
    assert space.classes == ("a", "b")
    assert space.encode(np.array([[7, 0]], np.uint8), raw=True, where="x").tolist() == [[1, 255]]


def test_unknown_name_lists_the_built_in_ones() -> None:
    with pytest.raises(LabelSpaceError, match=r"'cityscape'.*cityscapes19.*camvid11"):
        label_space("cityscape")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": []}, "2 to 255 classes"),
        ({"classes": ["a"], "colours": [[1, 2, 3]]}, "of one class every pixel is that class"),
        ({"classes": ["a", "a"]}, "same name"),
        ({"classes": "ab"}, "expected a list"),
        ({"colours": [[0, 0, 0]]}, "1 colours for 2 classes"),
        ({"colours": [[0, 0, 0], [0, 0, 256]]}, "three integers"),
        ({"ignore_index": 1}, "ignore_index must be in"),
        ({"ignore_index": True}, "ignore_index must be in"),
        ({"void_ids": [1]}, "void id 1"),
        ({"raw_ids": {"7": 2}}, "maps 7 to 2"),
        ({"raw_ids": {"seven": 0}}, "malformed"),
        ({"raw_ids": {"7" * 5000: 0}}, r"7{10}\.\.\. of 5,000 characters is no id"),
        ({"raw_ids": [1]}, "malformed"),
        ({"name": ""}, "needs a name"),
        ({"color": []}, r"unknown keys \['color'\]"),
    ],
)
def test_malformed_label_space_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**TINY, **change}))
    with pytest.raises(LabelSpaceError, match=rf"bad\.json: .*{message}"):
        label_space(path)


@pytest.mark.parametrize(("text", "message"), [("{", "not a JSON"), ("[]", "JSON object")])
def test_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(LabelSpaceError, match=message):
        label_space(path)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_plain_encoding_changes_nothing_or_refuses(ids: list[int]) -> None:
    label_map = np.array([ids], np.uint8)
    if all(i < 19 or i == 255 for i in ids):
        np.testing.assert_array_equal(CITYSCAPES.encode(label_map, raw=False, where="x"), label_map)
    else:
        with pytest.raises(LabelError):
            CITYSCAPES.encode(label_map, raw=False, where="x")
