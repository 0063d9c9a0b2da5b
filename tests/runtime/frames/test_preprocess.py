"""fit_frame and restore_labels: sizes, identity, interpolation, errors."""

import numpy as np
import pytest
from roadshift.runtime.errors import ShapeError
from roadshift.runtime.frames.preprocess import fit_frame, restore_labels


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_of_the_input_size_is_returned_itself() -> None:
    image = random_image(8, 16)
    assert fit_frame(image, 16, 8) is image


def test_halving_averages_blocks_of_four_pixels() -> None:
    image = random_image(8, 12)
    blocks = image.reshape(4, 2, 6, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(fit_frame(image, 6, 4) - blocks).max() <= 0.5


@pytest.mark.parametrize("size", [(32, 16), (16, 32), (5, 7), (64, 3)])
def test_any_size_gives_the_asked_width_and_height(size: tuple[int, int]) -> None:
    fitted = fit_frame(random_image(12, 20), *size)
    assert fitted.shape == (size[1], size[0], 3)
    assert fitted.dtype == np.uint8


def test_enlarging_interpolates_between_neighbours() -> None:
    image = np.zeros((1, 2, 3), np.uint8)
    image[:, 1] = 100
    row = fit_frame(image, 4, 1)[0, :, 0]
    np.testing.assert_array_equal(row, [0, 25, 75, 100])


def test_a_frame_that_grows_on_one_side_is_interpolated_not_repeated() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 1] = 100
    assert set(np.unique(fit_frame(image, 4, 1))) > {0, 100}


def test_labels_of_the_frame_size_are_returned_themselves() -> None:
    labels = np.zeros((4, 6), np.uint8)
    assert restore_labels(labels, 6, 4) is labels


def test_enlarged_labels_repeat_each_pixel() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(
        restore_labels(labels, 12, 9), np.kron(labels, np.ones((3, 3), np.uint8))
    )


@pytest.mark.parametrize(("width", "height"), [(16, 12), (8, 6), (4, 2)])
def test_restored_labels_take_the_pixel_whose_area_holds_their_centre(
    width: int, height: int
) -> None:
    """From odd to even sizes, where no centre falls on the border of two pixels."""
    labels = np.random.default_rng(1).integers(0, 19, (5, 7), dtype=np.uint8)
    rows = [int((y + 0.5) * 5 / height) for y in range(height)]
    columns = [int((x + 0.5) * 7 / width) for x in range(width)]
    np.testing.assert_array_equal(
        restore_labels(labels, width, height), labels[np.ix_(rows, columns)]
    )


def test_an_image_of_the_wrong_kind_is_refused_with_its_shape() -> None:
    with pytest.raises(ShapeError, match=r"float64 \(4, 4, 3\)"):
        fit_frame(np.zeros((4, 4, 3)), 2, 2)
    with pytest.raises(ShapeError, match=r"uint8 \(4, 4\)"):
        fit_frame(np.zeros((4, 4), np.uint8), 2, 2)
    with pytest.raises(ShapeError, match=r"int64 \(4, 4\)"):
        restore_labels(np.zeros((4, 4), np.int64), 2, 2)
