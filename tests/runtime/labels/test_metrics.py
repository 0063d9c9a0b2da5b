"""Confusion matrix, IoU and interval: against the Cityscapes script, loops, and refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from roadshift.runtime.errors import LabelError, LabelSpaceError, ShapeError
from roadshift.runtime.labels import label_space, read_labels
from roadshift.runtime.labels.metrics import ConfusionMatrix, evaluation_record, label_agreement

CITYSCAPES = label_space("cityscapes19")
RAW_ID = np.array(list(CITYSCAPES.raw_ids or {}), np.uint8)


def noisy_frame(seed: int, absent: set[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Prediction (indices) and truth (raw ids, unlabelled ones too), without the absent classes."""
    rng = np.random.default_rng(seed)
    present = [i for i in range(19) if i not in absent]
    height, width = rng.integers(5, 60, 2)
    truth = rng.choice(present, (height, width))
    wrong = rng.random((height, width)) < 0.4
    prediction = np.where(wrong, rng.choice(present, (height, width)), truth).astype(np.uint8)
    raw = RAW_ID[truth]
    unlabelled = rng.random((height, width)) < 0.3
    raw[unlabelled] = rng.choice([0, 1, 3, 4, 5, 6, 9, 14, 18, 29, 30], unlabelled.sum())
    return prediction, raw


@pytest.mark.parametrize(
    "absent", [set(), {0, 5, 16}, set(range(2, 19))], ids=["all", "three absent", "two present"]
)
def test_iou_is_that_of_the_cityscapes_script_on_the_same_files(
    tmp_path: Path, absent: set[int]
) -> None:
    confusion = ConfusionMatrix(19)
    predictions, truths = [], []
    for seed in range(4):
        prediction, raw = noisy_frame(seed, absent)
        truths.append(str(tmp_path / f"f{seed}_gtFine_labelIds.png"))
        predictions.append(str(tmp_path / f"f{seed}_pred.png"))
        cv2.imwrite(truths[-1], raw)
        cv2.imwrite(predictions[-1], RAW_ID[prediction])
        confusion.update(prediction, read_labels(truths[-1], CITYSCAPES))

    args = copy.copy(evalPixelLevelSemanticLabeling.args)
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    official = evalPixelLevelSemanticLabeling.evaluateImgLists(predictions, truths, args)

    expected = [100 * official["classScores"][name] for name in CITYSCAPES.classes]
    np.testing.assert_allclose(confusion.iou(), expected, rtol=1e-12)
    assert np.isnan(confusion.iou()).sum() == len(absent)
    assert confusion.miou() == pytest.approx(100 * official["averageScoreClasses"], rel=1e-12)
    script_matrix = np.array(official["confMatrix"])[np.ix_(RAW_ID, RAW_ID)]
    np.testing.assert_array_equal(confusion.matrix, script_matrix)


def test_a_class_only_predicted_has_iou_0_and_one_never_seen_has_none() -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([[0, 1]], np.uint8), np.array([[0, 0]], np.uint8))
    assert confusion.iou()[:2].tolist() == [50.0, 0.0]
    assert np.isnan(confusion.iou()[2])
    assert confusion.miou() == 25.0


def test_a_prediction_on_an_ignored_pixel_counts_nowhere() -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([[0, 1, 200]], np.uint8), np.array([[0, 255, 255]], np.uint8))
    assert confusion.matrix.tolist() == [[1, 0], [0, 0]]
    assert confusion.pixel_accuracy() == 100.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 19, 150]))
def test_matrix_and_accuracy_equal_a_loop_over_pixels(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, k, (7, 9)).astype(np.uint8)
    labels = np.where(rng.random((7, 9)) < 0.3, 255, rng.integers(0, k, (7, 9))).astype(np.uint8)
    labels[0, 0] = 0
    expected = np.zeros((k, k), np.int64)
    for truth, guess in zip(labels.flat, prediction.flat, strict=True):
        if truth != 255:
            expected[truth, guess] += 1
    confusion = ConfusionMatrix(k)
    confusion.update(prediction, labels)
    np.testing.assert_array_equal(confusion.matrix, expected)
    hits = sum(t == p for t, p in zip(labels.flat, prediction.flat, strict=True))
    assert confusion.pixel_accuracy() == pytest.approx(100 * hits / (labels != 255).sum())


def drive(frames: int, seed: int = 0) -> tuple[ConfusionMatrix, list[ConfusionMatrix]]:
    """Frames of unequal quality, together and one by one; the last class is rare."""
    rng = np.random.default_rng(seed)
    together, single = ConfusionMatrix(4), []
    for index in range(frames):
        labels = rng.integers(0, 4 if index % 7 == 0 else 3, (16, 16)).astype(np.uint8)
        wrong = rng.random((16, 16)) < rng.uniform(0.1, 0.6)
        prediction = np.where(wrong, rng.integers(0, 4, (16, 16)), labels).astype(np.uint8)
        one = ConfusionMatrix(4)
        one.update(prediction, labels)
        together.update(prediction, labels)
        single.append(one)
    return together, single


def test_interval_equals_a_bootstrap_that_sums_matrices_frame_by_frame() -> None:
    together, single = drive(frames=12)
    draws = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), size=50)
    mious = []
    for draw in draws:
        matrix = sum(times * one.matrix for times, one in zip(draw, single, strict=True))
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        mious.append(100 * np.mean((matrix.diagonal() / np.maximum(union, 1))[union > 0]))
    expected = np.percentile(mious, [2.5, 97.5])
    np.testing.assert_allclose(together.confidence_interval(resamples=50, seed=5), expected)


def test_interval_holds_the_miou_and_narrows_with_more_frames() -> None:
    few, many = drive(frames=15)[0], drive(frames=240)[0]
    for confusion in (few, many):
        low, high = confusion.confidence_interval()
        assert low < confusion.miou() < high
    width = [high - low for low, high in (few.confidence_interval(), many.confidence_interval())]
    assert width[1] < width[0] / 2


def test_interval_of_one_frame_is_its_miou() -> None:
    confusion, _ = drive(frames=1)
    assert confusion.confidence_interval() == pytest.approx((confusion.miou(), confusion.miou()))


def test_interval_survives_resamples_without_any_label() -> None:
    confusion = ConfusionMatrix(2)
    zeros = np.zeros((4, 4), np.uint8)
    confusion.update(zeros, zeros)
    confusion.update(zeros, np.full_like(zeros, 255))
    assert confusion.confidence_interval() == (100.0, 100.0)


@pytest.mark.parametrize("figure", ["iou", "miou", "pixel_accuracy", "confidence_interval"])
def test_nothing_labelled_is_an_error_not_a_number(figure: str) -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    with pytest.raises(LabelError, match="no pixel of the 1 frame is labelled"):
        getattr(confusion, figure)()


def test_bad_maps_are_refused_and_change_nothing() -> None:
    confusion = ConfusionMatrix(11)
    good = np.zeros((2, 3), np.uint8)
    with pytest.raises(LabelError, match=r"class indices \[11\]"):
        confusion.update(good, good + np.uint8(11))
    with pytest.raises(LabelSpaceError, match=r"prediction holds class indices \[18\]"):
        confusion.update(good + np.uint8(18), good)
    with pytest.raises(ShapeError, match=r"prediction is \(3, 2\) and the labels are \(2, 3\)"):
        confusion.update(good.T, good)
    with pytest.raises(
        ShapeError, match=r"labels must be \(H, W\) of uint8, got \(2, 3\) of int64"
    ):
        confusion.update(good, good.astype(np.int64))
    with pytest.raises(ShapeError, match="once for each"):
        confusion.update(good[None], good[None])
    assert confusion.frames == 0
    assert not confusion.matrix.any()


def test_label_agreement_is_the_share_of_equal_pixels() -> None:
    a = np.zeros((10, 10), np.uint8)
    b = a.copy()
    b[0, :3] = 7
    assert label_agreement(a, a) == 100.0
    assert label_agreement(a, b) == 97.0
    with pytest.raises(ShapeError, match=r"\(10, 10\), \(9, 10\)"):
        label_agreement(a, b[:9])


def test_evaluation_record_is_the_documented_json() -> None:
    space = label_space("camvid11")
    labels = np.array([[0, 1, 1, 255]], np.uint8)
    confusion = ConfusionMatrix(11)
    confusion.update(np.array([[0, 1, 0, 3]], np.uint8), labels)
    record = json.loads(json.dumps(evaluation_record(confusion, space, "onnxruntime cpu")))
    assert record == {
        "miou": 50.0,
        "iou": {name: 50.0 if name in ("sky", "building") else None for name in space.classes},
        "pixel_accuracy": pytest.approx(200 / 3),
        "frames": 1,
        "ci95": [50.0, 50.0],
        "engine": "onnxruntime cpu",
    }


def test_evaluation_record_refuses_another_label_space() -> None:
    with pytest.raises(
        LabelSpaceError, match="'camvid11' has 11 classes and the confusion matrix 19"
    ):
        evaluation_record(ConfusionMatrix(19), label_space("camvid11"), "torch")
