"""evaluate: the counts of a slow loop over files, and refusals that name them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_engines import FakeEngine
from roadshift.runtime.bench.evaluation import evaluate, measure
from roadshift.runtime.errors import FrameError, LabelError, LabelSpaceError
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.frames.images import read_image, write_image
from roadshift.runtime.labels import LabelSpace
from roadshift.runtime.labels.metrics import evaluation_record

THREE = LabelSpace(
    name="three",
    classes=("dark", "grey", "light"),
    colours=((0, 0, 0), (128, 128, 128), (255, 255, 255)),
    void_ids=(9,),
)
SIZES = [(16, 12), (16, 12), (21, 9), (8, 30)]  # width, height; the engine sees 16x12


class Threshold(FakeEngine):
    """Class 0, 1 or 2 by thirds of red."""

    def __init__(self) -> None:
        super().__init__(THREE, 16, 12)

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        return (batch[..., 0] // 86).astype(np.uint8)


@pytest.fixture
def pairs(tmp_path: Path) -> list[tuple[Path, Path]]:
    """Four random images with random labels, some of them void or not labelled."""
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index, (width, height) in enumerate(SIZES):
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        labels = random.choice(np.uint8([0, 1, 2, 9, 255]), (height, width))
        write_image(tmp_path / f"images/{index}.png", image)
        assert cv2.imwrite(str(tmp_path / f"labels/{index}.png"), labels)
    return labelled_pairs(tmp_path / "images", tmp_path / "labels")


def test_it_counts_every_labelled_pixel_at_the_size_of_the_frame(
    pairs: list[tuple[Path, Path]],
) -> None:
    engine = Threshold()
    expected = np.zeros((3, 3), int)
    for image_path, label_path in pairs:
        predicted = engine.segment(read_image(image_path))
        truth = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        for row, column in np.ndindex(truth.shape):
            if truth[row, column] < 3:
                expected[truth[row, column], predicted[row, column]] += 1
    confusion = evaluate(engine, pairs)
    np.testing.assert_array_equal(confusion.matrix, expected)
    assert confusion.frames == 4
    record = evaluation_record(confusion, THREE, "test")
    assert measure(engine, pairs) == record
    union = expected.sum(0) + expected.sum(1) - expected.diagonal()
    iou = 100 * expected.diagonal() / union
    assert list(record["iou"].values()) == pytest.approx(iou.tolist())
    assert record["miou"] == pytest.approx(iou.mean())


def test_a_dark_image_of_sixteen_bits_is_measured_dark(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i, value in enumerate((60_000, 2470)):
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), np.full((12, 16), value, np.uint16))
        cv2.imwrite(str(tmp_path / f"labels/{i}.png"), np.full((12, 16), 2 - 2 * i, np.uint8))
    pairs = labelled_pairs(tmp_path / "images", tmp_path / "labels")
    dark = evaluate(Threshold(), pairs[1:])
    assert dark.matrix[0].tolist() == [16 * 12, 0, 0]


def test_it_reports_after_every_image(pairs: list[tuple[Path, Path]]) -> None:
    said: list[tuple[int, int]] = []
    evaluate(Threshold(), pairs, report=lambda done, total: said.append((done, total)))
    assert said == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_labels_may_be_encoded_in_a_label_space_of_their_own(
    pairs: list[tuple[Path, Path]],
) -> None:
    """The same classes; here 9 is no void id, then it is and 255 is a void id too."""
    engine = Threshold()
    with pytest.raises(LabelError, match=r"0\.png: holds ids 9, and label space 'own'"):
        evaluate(engine, pairs, replace(THREE, name="own", void_ids=()))
    own = replace(THREE, name="own", ignore_index=200, void_ids=(9, 255))
    np.testing.assert_array_equal(
        evaluate(engine, pairs, own).matrix, evaluate(engine, pairs).matrix
    )


def test_the_caller_may_say_which_ids_the_label_files_hold(
    pairs: list[tuple[Path, Path]],
) -> None:
    """The same files, read as raw ids: 1 is dark, 0 grey, and what the map lacks is ignored."""
    space = replace(THREE, raw_ids={1: 0, 0: 1})
    plain = evaluate(Threshold(), pairs, space).matrix
    raw = evaluate(Threshold(), pairs, space, ids="raw").matrix
    np.testing.assert_array_equal(raw[:2], plain[[1, 0]])
    assert plain[2].any()
    assert not raw[2].any()


@pytest.mark.parametrize(
    "classes", [("dark", "light", "grey"), ("dark", "grey"), ("dark", "grey", "light", "red")]
)
def test_labels_of_other_classes_or_in_another_order_are_refused(
    pairs: list[tuple[Path, Path]], classes: tuple[str, ...]
) -> None:
    colours = ((0, 0, 0),) * len(classes)
    other = LabelSpace(name="other", classes=classes, colours=colours)
    with pytest.raises(LabelSpaceError, match=rf"other \({len(classes)} .* three \(3 classes\)"):
        evaluate(Threshold(), pairs, other)


def test_a_damaged_image_and_labels_that_do_not_fit_are_refused_by_name(
    pairs: list[tuple[Path, Path]],
) -> None:
    (first_image, first_labels), (second_image, second_labels), *_ = pairs
    assert cv2.imwrite(str(first_labels), np.zeros((5, 7), np.uint8))
    with pytest.raises(LabelError, match=r"labels.0\.png: labels are 7x5 and their frame is 16x12"):
        evaluate(Threshold(), pairs)
    first_image.write_bytes(first_image.read_bytes()[:50])
    with pytest.raises(FrameError, match=r"images.0\.png is damaged"):
        evaluate(Threshold(), pairs)
    assert cv2.imwrite(str(second_labels), np.full((12, 16), 3, np.uint8))
    with pytest.raises(LabelError, match=r"labels.1\.png: holds ids 3"):
        evaluate(Threshold(), [(second_image, second_labels)])


def test_frames_without_a_labelled_pixel_give_no_figure(pairs: list[tuple[Path, Path]]) -> None:
    image, labels = pairs[0]
    assert cv2.imwrite(str(labels), np.full((12, 16), 255, np.uint8))
    confusion = evaluate(Threshold(), [(image, labels)])
    with pytest.raises(LabelError, match="no pixel of the 1 frame is labelled"):
        evaluation_record(confusion, THREE, "test")


def test_labels_that_count_from_one_are_said(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    image = np.full((12, 16, 3), 100, np.uint8)  # class 1, and its label map holds 2
    write_image(tmp_path / "images/0.png", image)
    assert cv2.imwrite(str(tmp_path / "labels/0.png"), np.full((12, 16), 2, np.uint8))
    said: list[str] = []
    evaluate(
        Threshold(), labelled_pairs(tmp_path / "images", tmp_path / "labels"), note=said.append
    )
    (sentence,) = said
    assert "count classes from 1" in sentence


def test_mostly_unlabelled_frames_are_said(pairs: list[tuple[Path, Path]]) -> None:
    said: list[str] = []
    evaluate(Threshold(), pairs, note=said.append)
    assert said == []
    for _, path in pairs:
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        labels[labels.shape[0] // 4 :] = 9
        assert cv2.imwrite(str(path), labels)
    evaluate(Threshold(), pairs, note=said.append)
    assert "of the pixels of 4 label maps are not labelled in label space three." in said[0]
