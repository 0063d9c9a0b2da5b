"""Measuring through a label map: whole counts, pixel by pixel, and what they make of IoU."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_engines import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime.bench import bench_engine
from roadshift.runtime.bench.evaluation import evaluate, labels_through, measure
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.errors import ConfigError, LabelError, LabelSpaceError
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.frames import Frame
from roadshift.runtime.frames.images import write_image
from roadshift.runtime.labels import LabelSpace, label_space
from roadshift.runtime.labels.metrics import ConfusionMatrix, evaluation_record
from roadshift.runtime.labels.spaces import UNMAPPED

TWENTY, CAMVID = label_space("cityscapes20"), label_space("camvid11")
SPEC = InputSpec(width=16, height=12, mean=(0, 0, 0), std=(1, 1, 1))


class Red(FakeEngine):
    """The class that red says."""

    def __init__(self, space: LabelSpace = TWENTY) -> None:
        super().__init__(space, 16, 12)

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        return batch[..., 0].copy()


def picture_of(predicted: np.ndarray) -> np.ndarray:
    """A noisy picture, as a camera's are, whose red is ``predicted``."""
    picture = np.random.default_rng(0).integers(0, 256, (*predicted.shape, 3), dtype=np.uint8)
    picture[..., 0] = predicted
    return picture


def write_pairs(folder: Path, predicted: np.ndarray, labels: np.ndarray) -> list[tuple[Path, Path]]:
    """One frame whose red is ``predicted``, (12, 16), and its label map."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    write_image(folder / "images/0.png", picture_of(predicted))
    assert cv2.imwrite(str(folder / "labels/0.png"), labels.astype(np.uint8))
    return labelled_pairs(folder / "images", folder / "labels")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 12), wrong=st.sampled_from([0.0, 0.3, 1.0]))
def test_iou_is_the_fraction_of_whole_counts(seed: int, k: int, wrong: float) -> None:
    """A prediction of no class misses the true one, and is a false alarm of none."""
    rng = np.random.default_rng(seed)
    confusion = ConfusionMatrix(k, unmapped_index=UNMAPPED)
    hits, misses, alarms = [0] * k, [0] * k, [0] * k
    for _ in range(2):
        labels = rng.choice([*range(k), 255], (6, 8)).astype(np.uint8)
        prediction = rng.integers(0, k, (6, 8)).astype(np.uint8)
        prediction[rng.random((6, 8)) < wrong] = UNMAPPED
        labels[0, 0] = 0
        confusion.update(prediction, labels)
        for truth, found in zip(labels.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if truth == 255:
                continue
            if truth == found:
                hits[truth] += 1
                continue
            misses[truth] += 1
            if found != UNMAPPED:
                alarms[found] += 1
    unions = [h + m + a for h, m, a in zip(hits, misses, alarms, strict=True)]
    expected = [Fraction(100 * h, u) for h, u in zip(hits, unions, strict=True) if u]
    assert [v for v in confusion.iou() if v == v] == [pytest.approx(float(e)) for e in expected]
    assert confusion.miou() == pytest.approx(float(sum(expected) / len(expected)))
    total = sum(hits) + sum(misses)
    assert confusion.labelled == total
    assert confusion.pixel_accuracy() == pytest.approx(float(Fraction(100 * sum(hits), total)))
    low, high = confusion.confidence_interval(resamples=20)
    assert 0 <= low <= high <= 100


def test_all_predictions_of_no_class_are_all_wrong() -> None:
    confusion = ConfusionMatrix(2, unmapped_index=UNMAPPED)
    confusion.update(np.full((2, 2), UNMAPPED, np.uint8), np.array([[0, 0], [255, 255]], np.uint8))
    assert confusion.iou()[0] == 0
    assert np.isnan(confusion.iou()[1])
    assert (confusion.miou(), confusion.pixel_accuracy()) == (0, 0)
    assert confusion.confidence_interval() == (0, 0)


def test_without_an_index_for_it_a_prediction_of_no_class_is_refused() -> None:
    with pytest.raises(LabelSpaceError, match=r"prediction holds class indices \[255\]"):
        ConfusionMatrix(2).update(np.full((1, 1), 255, np.uint8), np.zeros((1, 1), np.uint8))


def test_the_built_in_map_is_found_said_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 20, (12, 16))
    labels = rng.choice([*range(12), 255], (12, 16))  # 11 is void, as 255 is
    pairs = write_pairs(tmp_path, predicted, labels)
    said: list[str] = []
    confusion = evaluate(Red(), pairs, CAMVID, note=said.append)
    names = TWENTY.map_to(CAMVID).to_dict()
    expected, unmapped = np.zeros((11, 11), int), np.zeros(11, int)
    for truth, found in zip(labels.flat, predicted.flat, strict=True):
        name = names[TWENTY.classes[found]]
        if truth < 11 and name is None:
            unmapped[truth] += 1
        elif truth < 11 and name is not None:
            expected[truth, CAMVID.classes.index(name)] += 1
    np.testing.assert_array_equal(confusion.matrix, expected)
    np.testing.assert_array_equal(confusion.unmapped, unmapped)
    assert unmapped.sum() > 0
    assert "built-in label map cityscapes20-to-camvid11" in said[0]
    assert "'background'" in said[1]
    told: list[str] = []
    mapping = labels_through(TWENTY, "camvid11", None, note=told.append)
    assert mapping is not None
    assert told
    assert told == said[: len(told)]
    record = measure(Red(), pairs, mapping)
    assert record == evaluation_record(confusion, CAMVID, "test", mapping)


def test_a_label_map_needs_the_label_space_that_it_leads_to() -> None:
    assert labels_through(TWENTY, None, None) is None
    with pytest.raises(ConfigError, match=r"^label_map x\.json: .* with label_space\.$"):
        labels_through(TWENTY, None, Path("x.json"))


def test_background_is_wrong_and_no_class_of_miou(tmp_path: Path) -> None:
    """In its own label space: half road, half background where all is road."""
    predicted = np.zeros((12, 16))
    predicted[:, 8:] = 19
    pairs = write_pairs(tmp_path, predicted, np.zeros((12, 16)))
    said: list[str] = []
    confusion = evaluate(Red(), pairs, note=said.append)
    record = evaluation_record(confusion, TWENTY, "test", TWENTY.map_to(TWENTY))
    assert record["miou"] == record["iou"]["road"] == record["pixel_accuracy"] == 50.0
    assert record["iou"]["background"] is None
    assert "label_map" not in record
    assert said == []
    row = bench_engine(
        Red(), [Frame(picture_of(predicted), "0", 0)], 0, 1, labels=[np.zeros((12, 16), np.uint8)]
    )
    assert row["miou"] == 50.0


def test_labels_that_hold_background_are_refused(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, np.zeros((12, 16)), np.full((12, 16), 19))
    with pytest.raises(LabelError, match="label maps hold background, which label space cityscap"):
        evaluate(Red(), pairs)


def test_a_map_is_taken_in_place_of_a_space_and_only_for_the_engines_classes(
    tmp_path: Path,
) -> None:
    few = LabelSpace("few", ("ground", "thing"), ((1, 1, 1), (2, 2, 2)))
    pairs = write_pairs(tmp_path, np.zeros((12, 16)), np.zeros((12, 16)))
    said: list[str] = []
    through = TWENTY.map_to(few, {"road": "ground", "car": "thing"})
    assert evaluate(Red(), pairs, through, note=said.append).miou() == 100.0
    assert said == []
    with pytest.raises(LabelSpaceError, match="is from cityscapes20 to few"):
        evaluate(Red(CAMVID), pairs, through)
    with pytest.raises(LabelSpaceError, match=r"few \(2 classes\) .* cityscapes20 \(20 classes\)"):
        evaluate(Red(), pairs, few)
