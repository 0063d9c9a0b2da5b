"""Overlays, strips and figures: where the colours go, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from roadshift.runtime.errors import ShapeError
from roadshift.runtime.labels import label_space
from roadshift.runtime.pipeline.overlay import overlay, qualitative, strip

SPACE = label_space("camvid11")
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
LABELS = (np.arange(48).reshape(6, 8) % 13).astype(np.uint8)
IS_CLASS = LABELS < 11


def test_full_opacity_shows_the_colours_and_none_shows_the_frame() -> None:
    full = overlay(IMAGE, LABELS, SPACE, opacity=1.0)
    np.testing.assert_array_equal(full[IS_CLASS], SPACE.colourise(LABELS)[IS_CLASS])
    np.testing.assert_array_equal(overlay(IMAGE, LABELS, SPACE, opacity=0.0), IMAGE)


def test_half_opacity_is_the_mean_and_unlabelled_pixels_keep_the_frame() -> None:
    before = IMAGE.copy()
    picture = overlay(IMAGE, LABELS, SPACE)
    mean = (IMAGE.astype(float) + SPACE.colourise(LABELS)) / 2
    assert np.abs(picture - mean)[IS_CLASS].max() <= 0.5
    np.testing.assert_array_equal(picture[~IS_CLASS], IMAGE[~IS_CLASS])
    np.testing.assert_array_equal(IMAGE, before)
    assert picture.dtype == np.uint8


def test_overlay_refuses_labels_of_another_size_and_odd_opacity() -> None:
    with pytest.raises(ShapeError, match=r"labels \(5, 8\) for a frame \(6, 8\)"):
        overlay(IMAGE, LABELS[:5], SPACE)
    with pytest.raises(ShapeError, match="opacity"):
        overlay(IMAGE, LABELS, SPACE, opacity=1.5)
    with pytest.raises(ShapeError, match="RGB"):
        overlay(IMAGE[..., 0], LABELS, SPACE)


def test_strip_sets_panels_side_by_side_under_their_captions() -> None:
    red = np.zeros((50, 100, 3), np.uint8)
    red[..., 0] = 255
    blue = np.zeros((400, 200, 3), np.uint8)
    blue[..., 2] = 255
    picture = strip([("before", red), ("after", blue)], height=200)
    caption = picture.shape[0] - 200
    assert caption > 0
    assert (picture[caption:, :400] == (255, 0, 0)).all()
    assert (picture[caption:, -100:] == (0, 0, 255)).all()
    assert picture.shape[1] == pytest.approx(500, abs=10)


def test_strip_draws_each_caption_inside_its_own_panel() -> None:
    panel = np.zeros((100, 100, 3), np.uint8)
    plain = strip([("", panel), ("", panel)], height=100)
    long = strip([("a caption far longer than its panel is wide", panel), ("", panel)], height=100)
    changed = np.argwhere((plain != long).any(axis=-1))
    assert len(changed) > 20
    assert changed[:, 1].max() < 100
    assert changed[:, 0].max() < plain.shape[0] - 100


def test_strip_refuses_no_panels_and_label_maps() -> None:
    with pytest.raises(ShapeError, match="at least one panel"):
        strip([])
    with pytest.raises(ShapeError, match="RGB"):
        strip([("labels", LABELS)])


def panels_of(
    picture: np.ndarray, top: int, count: int, width: int, height: int
) -> list[np.ndarray]:
    """The pictures of one row of a figure whose captions end at ``top``."""
    return [picture[top : top + height, i * (width + 4) :][:, :width] for i in range(count)]


def test_a_figure_has_a_row_a_frame_with_its_label_maps_beside_it() -> None:
    maps = [np.full((6, 8), index, np.uint8) for index in range(4)]
    frames = [
        (IMAGE, {"truth": maps[0], "ours": maps[1]}),
        (255 - IMAGE, {"a": maps[2], "b": maps[3]}),
    ]
    picture = qualitative(frames, SPACE, height=60)
    caption = 16
    assert picture.shape == (2 * (60 + caption) + 4, 3 * 80 + 2 * 4, 3)
    for row, (image, label_maps) in enumerate(frames):
        shown = panels_of(picture, row * (60 + caption + 4) + caption, 3, 80, 60)
        expected = strip([("", image)], height=60)[caption:]
        np.testing.assert_array_equal(shown[0], expected)
        for panel, labels in zip(shown[1:], label_maps.values(), strict=True):
            tinted = strip([("", overlay(image, labels, SPACE, 0.75))], height=60)[caption:]
            np.testing.assert_array_equal(panel, tinted)


def test_a_frame_with_many_label_maps_takes_several_rows_padded_with_white() -> None:
    maps = {str(index): np.full((6, 8), index, np.uint8) for index in range(6)}
    wide = np.repeat(IMAGE, 3, axis=1)
    frames = [(IMAGE, maps), (wide, {"only": np.zeros((6, 24), np.uint8)})]
    picture = qualitative(frames, SPACE, height=60, columns=3)
    assert picture.shape == (4 * 76 + 3 * 4, 2 * 240 + 4, 3)  # rows of 3, 3, 1 and 2 panels
    third = panels_of(picture, 2 * 80 + 16, 1, 80, 60)[0]
    tinted = strip([("", overlay(IMAGE, maps["5"], SPACE, 0.75))], height=60)[16:]
    np.testing.assert_array_equal(third, tinted)
    assert (picture[2 * 80 : 2 * 80 + 76, 80:] == 255).all()


def test_a_figure_of_no_frames_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least one frame"):
        qualitative([], SPACE)
