"""Images and label maps: one for one, or an error that names the files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from roadshift.runtime.errors import FrameError, LabelError
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.frames.images import write_image

GREEN = np.full((8, 8, 3), (0, 200, 0), np.uint8)
ZEROS = np.zeros((8, 8), np.uint8)


def write(root: Path, images: list[str], labels: list[str]) -> None:
    for name, pixels in [(n, GREEN) for n in images] + [(n, ZEROS) for n in labels]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(cv2.imencode(Path(name).suffix, pixels)[1].tobytes())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("images/day/0.png", "images/night/0.png"),
        ("images/0.jpg", "images/night/0.jpg"),
        ("images/a/b/0.png", "images/a/c/0.png"),
        ("images/0.bmp", "images/0.tif"),
    ],
)
def test_one_label_map_of_two_images_names_both(tmp_path: Path, first: str, second: str) -> None:
    write(tmp_path, [first, second, "images/1.png"], ["labels/0.png", "labels/1.png"])
    with pytest.raises(LabelError) as caught:
        labelled_pairs(tmp_path / "images", tmp_path / "labels")
    for name in (first, second, "labels/0.png"):
        assert str(tmp_path / name) in str(caught.value)
    assert "is the label map of two images" in str(caught.value)


def test_folders_that_mirror_each_other_pair(tmp_path: Path) -> None:
    times = ("day", "night")
    images, labels = ([f"{kind}/{t}/0.png" for t in times] for kind in ("images", "labels"))
    write(tmp_path, images, labels)
    pairs = labelled_pairs(tmp_path / "images", tmp_path / "labels")
    assert [(i.parent.name, m.parent.name) for i, m in pairs] == [(t, t) for t in times]


@pytest.mark.parametrize(
    ("image", "of_the_data_set"),
    [
        ("fog_GP01_frame_000120_rgb_anon", "fog_GP01_frame_000120_gt_labelTrainIds"),
        ("lindau_1_leftImg8bit", "lindau_1_gtFine_labelIds"),
    ],
)
def test_a_data_set_s_images_may_have_label_maps_of_their_own_names(
    tmp_path: Path, image: str, of_the_data_set: str
) -> None:
    write(tmp_path, [f"images/{image}.jpg"], [f"labels/{image}.png"])
    ((_, labels),) = labelled_pairs(tmp_path / "images", tmp_path / "labels")
    assert labels.stem == image
    write(tmp_path, [], [f"labels/{of_the_data_set}.png"])
    ((_, labels),) = labelled_pairs(tmp_path / "images", tmp_path / "labels")
    assert labels.stem == of_the_data_set, "the data set's own name counts first"


def test_one_scene_under_several_fogs_keeps_its_label_map(tmp_path: Path) -> None:
    stem = "leftImg8bit_foggy/val/lindau/lindau_1_leftImg8bit_foggy_beta"
    fogs = [f"{stem}_0.005.png", f"{stem}_0.01.png"]
    write(tmp_path, fogs, ["gtFine/val/lindau/lindau_1_gtFine_labelIds.png"])
    pairs = labelled_pairs(tmp_path / "leftImg8bit_foggy", tmp_path / "gtFine")
    assert len(pairs) == 2
    assert len({labels for _, labels in pairs}) == 1


@pytest.mark.parametrize(
    "labels",
    [
        ["labels/0.png", "labels/0_labelIds.png"],
        ["labels/0_eval.png", "labels/0_labelTrainIds.png"],
        ["labels/0.png", "labels/0.PNG"],
    ],
)
def test_two_label_maps_of_one_image_name_both(tmp_path: Path, labels: list[str]) -> None:
    write(tmp_path, ["images/0.jpg"], labels)
    with pytest.raises(LabelError, match="has two label maps") as caught:
        labelled_pairs(tmp_path / "images", tmp_path / "labels")
    assert all(str(tmp_path / name) in str(caught.value) for name in [*labels, "images/0.jpg"])


def test_train_ids_and_raw_ids_of_one_label_map_are_no_contradiction(tmp_path: Path) -> None:
    write(tmp_path, ["images/0.jpg"], ["labels/0_labelIds.png", "labels/0_labelTrainIds.png"])
    ((_, labels),) = labelled_pairs(tmp_path / "images", tmp_path / "labels")
    assert labels.name == "0_labelTrainIds.png"


@pytest.mark.parametrize("name", ["0.PNG", "0_labelIds.PNG", "0_eval.PNG"])
def test_label_maps_may_end_in_capitals(tmp_path: Path, name: str) -> None:
    write(tmp_path, ["images/0.JPG"], [f"labels/{name}"])
    ((_, labels),) = labelled_pairs(tmp_path / "images", tmp_path / "labels")
    assert labels.name == name


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    write(tmp_path, ["x/images/0.jpg"], ["x/labels/0.png"])
    (tmp_path / "x/notes.txt").write_text("")
    said: list[str] = []
    assert len(labelled_pairs(tmp_path / "x", tmp_path / "x", note=said.append)) == 1
    assert said == [
        f"{tmp_path / 'x'}: taken 1 picture of images/; left out 1 label map and the like "
        "(labels/ 1), 1 other file (.txt 1)."
    ]


def test_label_maps_given_as_images_are_refused(tmp_path: Path) -> None:
    ids = np.kron(np.arange(12).reshape(3, 4), np.ones((8, 8))).astype(np.uint8)
    (tmp_path / "labels").mkdir()
    write_image(tmp_path / "labels/0.png", ids)
    from roadshift.runtime.errors import FrameError

    with pytest.raises(FrameError, match="holds label maps and no pictures"):
        labelled_pairs(tmp_path / "labels", tmp_path / "labels")


def test_a_bag_is_no_folder_of_images_and_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "drive.mcap").write_bytes(b"")
    (tmp_path / "bag").mkdir()
    for name in ("metadata.yaml", "bag_0.db3"):
        (tmp_path / "bag" / name).write_bytes(b"")
    for name, given in (("drive.mcap", "drive.mcap#/front"), ("bag", "bag")):
        with pytest.raises(FrameError) as caught:
            labelled_pairs(tmp_path / given, tmp_path)
        assert str(caught.value).startswith(f"{tmp_path / name} is a bag, and label maps belong")
        for way in ("roadshift select", "run and bench take the bag"):
            assert way in str(caught.value)
    with pytest.raises(FrameError, match="is not a folder"):
        labelled_pairs(tmp_path / "none.mcap", tmp_path)
