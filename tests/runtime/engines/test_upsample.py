"""upsample_argmax: the definition in float64, torch, ties, values that are not finite, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime.engines.upsample import upsample_argmax
from roadshift.runtime.errors import ShapeError


def interpolated(logits: np.ndarray, width: int, height: int, align_corners: bool) -> np.ndarray:
    """(K, height, width) in float64, by the definition."""

    def taps(n: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixel = np.arange(size, dtype=np.float64)
        if align_corners:
            at = pixel * (n - 1) / max(size - 1, 1)
        else:
            at = ((pixel + 0.5) * n / size - 0.5).clip(0)
        low = np.floor(at).astype(int).clip(max=n - 1)
        return low, (low + 1).clip(max=n - 1), at - low

    y0, y1, fy = taps(logits.shape[1], height)
    x0, x1, fx = taps(logits.shape[2], width)
    z = logits.astype(np.float64)
    rows = z[:, y0] * (1 - fy)[:, None] + z[:, y1] * fy[:, None]
    return np.asarray(rows[:, :, x0] * (1 - fx) + rows[:, :, x1] * fx)


def assert_argmax(logits: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> None:
    """Each label has the highest score, but for what float32 rounds off."""
    assert (labels.dtype, labels.shape) == (np.uint8, scores.shape[1:])
    taken = np.take_along_axis(scores, labels[None].astype(int), axis=0)[0]
    rounding = 1e-6 * np.abs(logits).max()
    assert (scores.max(axis=0) - taken).max() <= rounding


SHAPES = st.tuples(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(
    shape=SHAPES,
    classes=st.sampled_from([1, 2, 3, 19, 256]),
    smooth=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pixel_has_the_highest_interpolated_logit(
    shape: tuple[int, int, int, int, bool], classes: int, smooth: bool, seed: int
) -> None:
    """Noise, in which every cell is mixed, and large areas of one class, in which few are."""
    h, w, height, width, align = shape
    random = np.random.default_rng(seed)
    logits = random.normal(size=(classes, h, w)).astype(np.float32)
    if smooth:
        logits += 5 * random.normal(size=(classes, 1, 1)).astype(np.float32)
    labels = upsample_argmax(logits, width, height, align)
    assert_argmax(logits, labels, interpolated(logits, width, height, align))


@settings(max_examples=150, deadline=None)
@given(shape=SHAPES, classes=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_of_equal_classes_the_first_wins(
    shape: tuple[int, int, int, int, bool], classes: int, seed: int
) -> None:
    """Few small integers tie often; sizes are such that every weight is exact in float32."""
    h, w, y, x, align = shape
    height = (h - 1) * 2 ** (y % 4) + 1 if align else h * 2 ** (y % 4)
    width = (w - 1) * 2 ** (x % 4) + 1 if align else w * 2 ** (x % 4)
    logits = np.random.default_rng(seed).integers(0, 3, (classes, h, w)).astype(np.float32)
    expected = interpolated(logits, width, height, align).argmax(axis=0)
    np.testing.assert_array_equal(upsample_argmax(logits, width, height, align), expected)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    ("low", "size"),
    [((13, 26), (104, 208)), ((13, 26), (100, 211)), ((31, 17), (9, 11)), ((1, 12), (64, 5))],
)
def test_it_is_torchs_interpolate_and_argmax(
    low: tuple[int, int], size: tuple[int, int], align: bool
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 19, *low)
    upsampled = torch.nn.functional.interpolate(
        logits.double(), size=size, mode="bilinear", align_corners=align
    )[0]
    labels = upsample_argmax(logits[0].numpy(), size[1], size[0], align)
    assert_argmax(logits[0].numpy(), labels, upsampled.numpy())
    assert (labels != upsampled.argmax(dim=0).numpy()).mean() < 1e-3


def test_a_class_that_wins_at_no_corner_may_win_between_them() -> None:
    """0 and 1 win at the corners and fall quickly; 2 is second at all of them."""
    logits = np.zeros((3, 2, 2), np.float32)
    logits[0] = [[10, 10], [-10, -10]]
    logits[1] = [[-10, -10], [10, 10]]
    logits[2] = 5
    labels = upsample_argmax(logits, 9, 9, True)
    assert labels[:, 0].tolist() == [0, 0, 0, 2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("align", [False, True])
def test_nan_is_the_lowest_logit_and_infinities_have_an_order(align: bool) -> None:
    logits = np.zeros((3, 4, 4), np.float32)
    logits[0] = np.nan
    logits[1, :, 2:] = -np.inf
    assert set(np.unique(upsample_argmax(logits, 16, 16, align)[:, :4])) == {1}
    assert set(np.unique(upsample_argmax(logits, 16, 16, align)[:, 12:])) == {2}
    logits[2] = np.inf
    assert (upsample_argmax(logits, 16, 16, align) == 2).all()
    logits[:] = np.nan
    assert (upsample_argmax(logits, 16, 16, align) == 0).all()


def test_logits_keep_their_values_and_may_be_a_view() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 7, 6)).astype(np.float32)
    view = logits.transpose(0, 2, 1)[:, ::-1]
    before = logits.copy()
    labels = upsample_argmax(view, 48, 50, False)
    np.testing.assert_array_equal(labels, upsample_argmax(view.copy(), 48, 50, False))
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    ("logits", "size"),
    [
        (np.zeros((3, 4, 4)), (8, 8)),
        (np.zeros((1, 3, 4, 4), np.float32), (8, 8)),
        (np.zeros((0, 4, 4), np.float32), (8, 8)),
        (np.zeros((257, 4, 4), np.float32), (8, 8)),
        (np.zeros((3, 4, 4), np.float32), (8, 0)),
    ],
)
def test_what_does_not_fit_is_refused(logits: np.ndarray, size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="upsample_argmax"):
        upsample_argmax(logits, *size, False)
