"""Label files in colour and with odd ids: read where they are exact, refused or told otherwise."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from roadshift.runtime.errors import LabelError
from roadshift.runtime.labels import LABEL_SPACES, LabelSpace, label_space, read_labels
from roadshift.runtime.labels.label_id_checks import check_label_maps, label_notes

CITYSCAPES = label_space("cityscapes19")
TWINS = LabelSpace(name="twins", classes=("a", "b"), colours=((9, 9, 8), (9, 9, 8)))


def write(path: Path, rgb: np.ndarray) -> Path:
    """A PNG of (H, W), (H, W, 3) or (H, W, 4) in RGB order."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    pixels = rgb if rgb.ndim == 2 else cv2.cvtColor(rgb, order[rgb.shape[2]])
    assert cv2.imwrite(str(path), pixels)
    return path


ids_of_cityscapes = arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([*range(19), 255]))


@given(ids=ids_of_cityscapes, alpha=st.booleans(), deep=st.booleans())
def test_grey_saved_as_colour_is_grey(
    tmp_path_factory: pytest.TempPathFactory, ids: np.ndarray, alpha: bool, deep: bool
) -> None:
    grey = ids.astype(np.uint16 if deep else np.uint8)
    layers = [grey] * 3 + [np.full_like(grey, np.iinfo(grey.dtype).max)] * alpha
    path = write(tmp_path_factory.getbasetemp() / "grey.png", np.stack(layers, axis=-1))
    if deep and not ids.any():  # SYNTHIA's files have 16 bits in colour, and 0 for void
        assert (read_labels(path, CITYSCAPES) == 255).all()
    else:
        np.testing.assert_array_equal(read_labels(path, CITYSCAPES), ids)


def test_raw_ids_saved_as_colour_are_raw_ids(tmp_path: Path) -> None:
    raw = np.array([[7, 26, 0]], np.uint8)
    path = write(tmp_path / "a_labelIds.png", np.stack([raw] * 3, axis=-1))
    assert read_labels(path, CITYSCAPES).tolist() == [[0, 13, 255]]


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_colours_of_the_label_space_are_its_classes(tmp_path: Path, name: str) -> None:
    space = label_space(name)
    indices = np.random.default_rng(0).integers(0, space.num_classes, (6, 7)).astype(np.uint8)
    picture = space.colourise(indices)
    picture[0, 0] = (0, 0, 0)
    indices[0, 0] = space.ignore_index
    np.testing.assert_array_equal(read_labels(write(tmp_path / "a.png", picture), space), indices)


def test_colours_of_cityscapes_that_are_no_class_are_not_labelled(tmp_path: Path) -> None:
    same_colour = {"polegroup": "pole", "license plate": "car"}
    path = write(tmp_path / "a.png", np.array([[t.color for t in cityscapes_labels]], np.uint8))
    for name in ("cityscapes19", "synthia13"):
        space = label_space(name)
        read = read_labels(path, space)[0]
        for label, index in zip(cityscapes_labels, read, strict=True):
            class_name = same_colour.get(label.name, label.name)
            known = class_name in space.classes
            assert index == (space.classes.index(class_name) if known else 255), label.name


def test_one_grey_class_is_told_by_its_colour(tmp_path: Path) -> None:
    building = np.array([[[70, 70, 70], [0, 0, 0]]], np.uint8)
    assert read_labels(write(tmp_path / "a.png", building), CITYSCAPES).tolist() == [[2, 255]]


@pytest.mark.parametrize("stray", [(1, 2, 3), (128, 64, 129), (255, 255, 255)])
def test_any_other_colour_is_refused_and_named(tmp_path: Path, stray: tuple[int, int, int]) -> None:
    picture = CITYSCAPES.colourise(np.arange(19, dtype=np.uint8)[None])
    picture[0, 4] = stray
    path = write(tmp_path / "a.png", picture)
    with pytest.raises(LabelError) as caught:
        read_labels(path, CITYSCAPES)
    assert (
        f"a.png: is a colour picture with colours that no class of the label space has, {stray}"
        in (str(caught.value))
    )


def test_colours_that_tell_no_class_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.array([[[9, 9, 8], [9, 9, 8]]], np.uint8))
    with pytest.raises(
        LabelError, match=r"a\.png: .*two classes of the label space have one colour"
    ):
        read_labels(path, TWINS)


def test_transparent_label_maps_are_refused(tmp_path: Path) -> None:
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[0, 0, 3] = 255
    with pytest.raises(LabelError, match=r"a\.png: has transparent pixels"):
        read_labels(write(tmp_path / "a.png", picture), CITYSCAPES)


# ---- ids that are not what they seem ----------------------------------------------------------


def test_ids_that_count_from_one_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.array([[0, 1, 19]], np.uint8))
    with pytest.raises(LabelError, match=r"holds ids 19, .*classes count from 1, take 1 from each"):
        read_labels(path, CITYSCAPES)


def test_a_model_that_sees_the_class_before_is_said(tmp_path: Path) -> None:
    del tmp_path
    seen = np.eye(19, k=-1, dtype=np.int64) * 100
    (sentence,) = label_notes([], CITYSCAPES, 0.0, seen)
    assert "0 where nothing is labelled" in sentence
    assert label_notes([], CITYSCAPES, 0.0, np.eye(19, dtype=np.int64)) == []
    assert label_notes([], CITYSCAPES, 0.0, np.ones((19, 19), np.int64)) == []


def test_train_ids_named_as_raw_ids_are_said(tmp_path: Path) -> None:
    train = np.random.default_rng(0).choice([0, 1, 2, 10, 255], (9, 9)).astype(np.uint8)
    paths = [write(tmp_path / f"{i}_gtFine_labelIds.png", train) for i in range(3)]
    said: list[str] = []
    check_label_maps(paths, CITYSCAPES, said.append)
    (sentence,) = said
    assert "100 % of the pixels of 3 label maps are not labelled" in sentence
    assert "name them *_labelTrainIds.png" in sentence


def test_raw_ids_with_much_void_are_said_without_that_guess(tmp_path: Path) -> None:
    raw = np.array([[1, 2, 3, 26]], np.uint8)
    said: list[str] = []
    check_label_maps([write(tmp_path / "a_labelIds.png", raw)], CITYSCAPES, said.append)
    assert said == [
        "75 % of the pixels of 1 label maps are not labelled in label space cityscapes19."
    ]


def test_good_label_maps_pass_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a_labelIds.png", np.array([[7, 26, 1]], np.uint8))
    with caplog.at_level(logging.DEBUG):
        check_label_maps([path], CITYSCAPES, pytest.fail)
    assert caplog.text == ""


def test_labels_that_fit_once_classes_are_renamed_are_said() -> None:
    """CamVid's ids, read as Cityscapes': every one is a class there, and mIoU is near 0."""
    seen = np.zeros((19, 19), np.int64)
    for theirs, ours in ((0, 10), (1, 2), (3, 0), (4, 1), (5, 8), (8, 13)):
        seen[theirs, ours] = 100
    seen[2, 2] = 20
    (sentence,) = label_notes([], CITYSCAPES, 0.0, seen)
    assert "agrees with 3 % of the labelled pixels, and with 97 % if classes" in sentence
    assert "another label space than cityscapes19" in sentence
    assert "label_space" in sentence


@pytest.mark.parametrize("right", [0.35, 0.5, 0.9])
def test_a_model_that_confuses_classes_is_no_sign_of_other_labels(right: float) -> None:
    seen = (np.eye(19) * 1000 * right).astype(np.int64)
    seen[:, 0] += int(1000 * (1 - right))  # all that is wrong is road
    assert label_notes([], CITYSCAPES, 0.0, seen) == []


@pytest.mark.parametrize("answered", [0, 1])
@pytest.mark.parametrize("true_share", [0.05, 0.2, 0.5, 0.8])
def test_a_model_that_answers_one_class_everywhere_is_said_and_no_label_map_suspected(
    answered: int, true_share: float
) -> None:
    space = LabelSpace("drivable", ("other", "drivable"), ((0, 0, 0), (0, 255, 0)))
    seen = np.zeros((2, 2), np.int64)
    seen[answered, answered] = round(10_000 * true_share)
    seen[1 - answered, answered] = 9950 - seen[answered, answered]
    seen[1 - answered, 1 - answered] = 50
    (sentence,) = label_notes([], space, 0.0, seen)
    assert sentence.startswith(
        f"The model takes 100 % of the labelled pixels for {space.classes[answered]}, and "
        f"{100 * true_share:.0f} % of them are: it tells nothing apart."
    )
    assert "label maps" not in sentence
    assert not any("apart" in one for one in label_notes([], space, 0.0, seen, 1000))
    seen[0] = seen[1] = 0
    seen[:, answered] = 600, 400
    seen[answered, answered] = 9000  # nearly all is that class
    assert label_notes([], space, 0.0, seen) == []


def test_of_nineteen_classes_too(tmp_path: Path) -> None:
    del tmp_path
    poor = np.zeros((19, 19), np.int64)
    poor[:, 2] = 1000
    (sentence,) = label_notes([], CITYSCAPES, 0.0, poor)
    assert "for building, and 5 % of them are" in sentence
