"""Stored pseudo-labels: files, crops, multi-scale averaging, resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.config import RunConfig
from roadshift.adapt.context import Context
from roadshift.adapt.dataset import Batch, Crop, FrameSet, resize_window
from roadshift.adapt.inputs import Normalise
from roadshift.adapt.networks import Output, SegmentationNetwork
from roadshift.adapt.pseudo_labels import (
    PseudoLabels,
    multi_scale_labels,
    multi_scale_probabilities,
)
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.errors import OutputError
from torch import Tensor, nn

WIDTH, HEIGHT, K = 24, 16, 4


class Net(SegmentationNetwork):
    """A strided convolution that is not symmetric, with dropout that only training sees."""

    num_classes = K

    def __init__(self, seed: int = 0, align_corners: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.align_corners = align_corners
        self.convolution = nn.Conv2d(3, K, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.calls = 0

    def forward(self, images: Tensor) -> Output:
        self.calls += 1
        return Output(self.dropout(self.convolution(images)), None)


def frames(count: int = 3, width: int = WIDTH) -> FrameSet:
    pixels = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, width, 3), dtype=np.uint8)
    pixels.setflags(write=False)  # as the frame cache gives them
    return FrameSet([f"f{i}" for i in range(count)], width, HEIGHT, lambda i: pixels[i])


def context(folder: Path, frame_set: FrameSet | None = None) -> Context:
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=(120, 110, 100), std=(60, 60, 60))
    return Context(
        frames=frame_set or frames(),
        normalise=Normalise(spec),
        device=torch.device("cpu"),
        workdir=folder,
        config=RunConfig(method="iapc"),
        crop_size=(HEIGHT, WIDTH),
    )


def random_labels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, K, (HEIGHT, WIDTH), dtype=np.uint8)


# --- files --------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_and_nothing_else_lies_there(tmp_path: Path) -> None:
    stored = PseudoLabels(tmp_path / "labels")
    labels = random_labels()
    labels[0, 0] = 255
    stored.write(7, labels)
    read = stored.read(7)
    assert read is not None
    assert read.dtype == np.uint8
    assert np.array_equal(read, labels)
    assert list((tmp_path / "labels").iterdir()) == [stored.path(7)]


def test_missing_and_damaged_maps_read_as_none(tmp_path: Path) -> None:
    stored = PseudoLabels(tmp_path)
    assert stored.read(0) is None
    stored.write(0, random_labels())
    whole = stored.path(0).read_bytes()
    for damaged in (b"", whole[:30], whole[: len(whole) // 2], b"not a picture"):
        stored.path(0).write_bytes(damaged)
        assert stored.read(0) is None


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a file stands here")
    with pytest.raises(OutputError, match="cannot store pseudo-labels"):
        PseudoLabels(tmp_path / "labels").write(0, random_labels())


# --- crops --------------------------------------------------------------------------------------


def batch_of(crops: tuple[Crop, ...], which: tuple[int, ...]) -> Batch:
    images = torch.zeros(len(crops), HEIGHT, WIDTH, 3, dtype=torch.uint8)
    return Batch(images, images, None, which, crops)


def test_crops_pick_the_pixels_of_the_images_crops(tmp_path: Path) -> None:
    stored = PseudoLabels(tmp_path)
    for i in range(2):
        stored.write(i, random_labels(i))
    crops = (
        Crop(0, 0, WIDTH, HEIGHT, flip=False),
        Crop(0, 0, WIDTH, HEIGHT, flip=True),
        Crop(4, 2, 12, 8, flip=True),
    )
    labels = stored.crops(batch_of(crops, (1, 1, 0)), context(tmp_path))
    assert labels.dtype == torch.int64
    assert labels.shape == (3, HEIGHT, WIDTH)
    assert np.array_equal(labels[0], random_labels(1))
    assert np.array_equal(labels[1], random_labels(1)[:, ::-1])
    # A window enlarged twice: every label stands in a square of 2 x 2, mirrored.
    window = random_labels(0)[2:10, 4:16]
    assert np.array_equal(labels[2], window.repeat(2, axis=0).repeat(2, axis=1)[:, ::-1])
    assert np.array_equal(labels[2], resize_window(random_labels(0), crops[2], WIDTH, HEIGHT, True))


def test_a_map_that_vanished_is_an_output_error_that_names_it(tmp_path: Path) -> None:
    crop = Crop(0, 0, WIDTH, HEIGHT, flip=False)
    with pytest.raises(OutputError, match=r"000005\.png.*--resume"):
        PseudoLabels(tmp_path).crops(batch_of((crop,), (5,)), context(tmp_path))


# --- averaging ----------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [True, False])
def test_probabilities_are_the_mean_over_three_scales_and_their_mirror_images(
    align_corners: bool,
) -> None:
    net = Net(align_corners=align_corners).double().eval()
    images = torch.randn(2, 3, HEIGHT, WIDTH, dtype=torch.float64)
    total = torch.zeros(2, K, HEIGHT, WIDTH, dtype=torch.float64)
    for height, width in ((16, 24), (20, 30), (12, 18)):
        scaled = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        for axes in ((), (3,)):
            logits = F.interpolate(
                net(scaled.flip(axes)).logits,
                (HEIGHT, WIDTH),
                mode="bilinear",
                align_corners=align_corners,
            )
            total += logits.flip(axes).softmax(dim=1)
    ours = multi_scale_probabilities(net, images)
    torch.testing.assert_close(ours, total / 6, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.sum(dim=1), torch.ones_like(ours[:, 0]))


def test_a_mirrored_image_gets_the_mirrored_probabilities() -> None:
    net = Net().eval()
    images = torch.randn(1, 3, HEIGHT, WIDTH)
    mirrored = multi_scale_probabilities(net, images.flip(3)).flip(3)
    torch.testing.assert_close(mirrored, multi_scale_probabilities(net, images))


# --- the whole set ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_every_frame_gets_the_argmax_of_the_averaged_probabilities(tmp_path: Path) -> None:
    net, surroundings = Net().train(), context(tmp_path)
    stored = multi_scale_labels(net, surroundings)
    assert not net.training  # evaluation mode: dropout would scramble the labels
    for i in range(3):
        pixels = torch.from_numpy(surroundings.frames.image(i).copy())[None]
        expected = multi_scale_probabilities(net, surroundings.normalise(pixels)).argmax(dim=1)[0]
        read = stored.read(i)
        assert read is not None
        assert np.array_equal(read, expected)
        assert len(np.unique(read)) > 1


def test_a_resumed_run_makes_only_what_is_missing_or_damaged(tmp_path: Path) -> None:
    first, second, third = Net(), Net(), Net()
    stored = multi_scale_labels(first, context(tmp_path))
    everything = [stored.path(i).read_bytes() for i in range(3)]
    stored.path(0).unlink()
    stored.path(2).write_bytes(everything[2][:40])
    again = multi_scale_labels(second, context(tmp_path))
    assert [again.path(i).read_bytes() for i in range(3)] == everything
    multi_scale_labels(third, context(tmp_path))
    views = 6  # of a frame: three scales, each also mirrored
    assert (first.calls, second.calls, third.calls) == (3 * views, 2 * views, 0)


def test_labels_of_another_model_or_other_frames_are_not_taken_up(tmp_path: Path) -> None:
    ours = multi_scale_labels(Net(seed=0), context(tmp_path))
    for net, frame_set in ((Net(seed=1), frames()), (Net(seed=0), frames(width=48))):
        other = multi_scale_labels(net, context(tmp_path, frame_set))
        assert other.path(0) != ours.path(0)
        read = other.read(0)
        assert read is not None
        assert read.shape == (HEIGHT, frame_set.width)
