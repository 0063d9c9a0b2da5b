"""Stored pseudo-labels: files, crops, counting, selecting, multi-scale averaging, resumption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, Crop, resize_window
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.losses.common import upsample
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import Output, SegmentationNetwork
from roadshift.adapt.pseudo_labels.hard_labels import (
    PseudoLabels,
    frame_probabilities,
    label_frames,
    multi_scale_probabilities,
    selected,
)
from roadshift.adapt.pseudo_labels.thresholds import BINS, confidence_bins
from roadshift.adapt.run.config import RunConfig
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.errors import OutputError
from run_cases import stage_context
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
    return stage_context(folder, frame_set or frames(), Normalise(spec), RunConfig(method="iapc"))


def random_labels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, K, (HEIGHT, WIDTH), dtype=np.uint8)


def random_bins(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 99).integers(0, BINS, (HEIGHT, WIDTH), dtype=np.uint16)


def write_random(stored: PseudoLabels, frame: int) -> None:
    stored.write(frame, random_labels(frame), random_bins(frame))


# --- files --------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_and_nothing_else_lies_there(tmp_path: Path) -> None:
    stored = PseudoLabels(tmp_path / "labels")
    labels, bins = random_labels(), random_bins()
    labels[0, 0] = 255
    bins[0, :4] = 0, 255, 256, BINS - 1
    stored.write(7, labels, bins)
    read = stored.read(7)
    assert read is not None
    assert (read[0].dtype, read[1].dtype) == (np.uint8, np.uint16)
    assert np.array_equal(read[0], labels)
    assert np.array_equal(read[1], bins)
    assert list((tmp_path / "labels").iterdir()) == [stored.path(7)]


def test_missing_and_damaged_maps_read_as_none(tmp_path: Path) -> None:
    stored = PseudoLabels(tmp_path)
    assert stored.read(0) is None
    write_random(stored, 0)
    whole = stored.path(0).read_bytes()
    grey = cv2.imencode(".png", random_labels())[1].tobytes()  # classes alone, of an older version
    deep = cv2.imencode(".png", np.zeros((HEIGHT, WIDTH, 3), np.uint16))[1].tobytes()
    cut = [whole[: len(whole) * part // 8] for part in range(8)]
    for damaged in (*cut, whole[:-1], b"not a picture", grey, deep):
        stored.path(0).write_bytes(damaged)
        assert stored.read(0) is None


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    stored = PseudoLabels(tmp_path)
    write_random(stored, 0)
    whole = stored.path(0).read_bytes()
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        stored.path(0).write_bytes(bytes(damaged))
        read = stored.read(0)
        found += read is None
        if read is not None:
            assert np.array_equal(read[0], random_labels(0))
            assert np.array_equal(read[1], random_bins(0))
    assert found > 90


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a file stands here")
    with pytest.raises(OutputError, match="cannot store pseudo-labels"):
        write_random(PseudoLabels(tmp_path / "labels"), 0)


def test_removed_labels_are_gone_and_may_be_removed_again(tmp_path: Path) -> None:
    stored = PseudoLabels(tmp_path / "labels")
    write_random(stored, 0)
    stored.remove()
    stored.remove()
    assert list(tmp_path.iterdir()) == []


# --- crops --------------------------------------------------------------------------------------


def batch_of(crops: tuple[Crop, ...], which: tuple[int, ...]) -> Batch:
    images = torch.zeros(len(crops), HEIGHT, WIDTH, 3, dtype=torch.uint8)
    return Batch(images, images, None, which, crops)


def test_crops_pick_the_pixels_of_the_images_crops(tmp_path: Path) -> None:
    stored = PseudoLabels(tmp_path)
    for i in range(2):
        write_random(stored, i)
    crops = (
        Crop(0, 0, WIDTH, HEIGHT, flip=False),
        Crop(0, 0, WIDTH, HEIGHT, flip=True),
        Crop(4, 2, 12, 8, flip=True),
    )
    both = stored.crops(batch_of(crops, (1, 1, 0)), context(tmp_path))
    for found, of_frame in zip(both, (random_labels, random_bins), strict=True):
        assert found.dtype == torch.int64
        assert found.shape == (3, HEIGHT, WIDTH)
        assert np.array_equal(found[0], of_frame(1))
        assert np.array_equal(found[1], of_frame(1)[:, ::-1])
        # A window enlarged twice: every value stands in a square of 2 x 2, mirrored.
        window = of_frame(0)[2:10, 4:16]
        assert np.array_equal(found[2], window.repeat(2, axis=0).repeat(2, axis=1)[:, ::-1])


def test_crops_that_shrink_pick_the_pixels_that_the_frames_own_map_would_give(
    tmp_path: Path,
) -> None:
    stored = PseudoLabels(tmp_path)
    write_random(stored, 0)
    crop = Crop(1, 0, 23, 15, flip=False)
    half = replace(context(tmp_path), crop_size=(HEIGHT // 2, WIDTH // 2))
    labels, bins = stored.crops(batch_of((crop,), (0,)), half)
    alone = resize_window(random_labels(0), crop, WIDTH // 2, HEIGHT // 2, True)
    assert np.array_equal(labels[0], alone)
    pairs = set(
        zip(random_labels(0).ravel().tolist(), random_bins(0).ravel().tolist(), strict=True)
    )
    assert pairs.issuperset(zip(labels.flatten().tolist(), bins.flatten().tolist(), strict=True))


# --- counting and selecting ---------------------------------------------------------------------


def test_histograms_count_every_pixel_of_the_frames_asked_for(tmp_path: Path) -> None:
    stored = PseudoLabels(tmp_path)
    for i in range(3):
        write_random(stored, i)
    counts = torch.zeros(K, BINS, dtype=torch.int64)
    for i in (0, 2):
        for label, b in zip(random_labels(i).flat, random_bins(i).flat, strict=True):
            counts[int(label), int(b)] += 1
    assert torch.equal(stored.histograms(K, [0, 2]).counts, counts)
    stored.path(2).unlink()
    with pytest.raises(OutputError, match=r"000002\.png.*resume=True"):
        stored.histograms(K, [0, 2])


def test_selected_keeps_the_labels_that_reach_their_own_classes_threshold() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 2, 255]]])
    bins = torch.tensor([[[9, 10, 4094, 4095, 4095, 4095]]])
    kept = selected(labels, bins, torch.tensor([10, 4095, BINS]))
    assert kept.tolist() == [[[255, 0, 255, 1, 255, 255]]]


# --- averaging ----------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [True, False])
def test_probabilities_are_the_mean_over_three_scales_and_their_mirror_images(
    align_corners: bool,
) -> None:
    net = Net(align_corners=align_corners).double().eval()
    images = torch.randn(2, 3, HEIGHT, WIDTH, dtype=torch.float64)
    total = torch.zeros(2, K, HEIGHT, WIDTH, dtype=torch.float64)
    for height, width in ((16, 24), (20, 32), (12, 16)):  # multiples of 4 and 8
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


def test_without_mirror_images_and_with_one_scale_it_is_the_plain_softmax() -> None:
    net = Net().double().eval()
    images = torch.randn(2, 3, HEIGHT, WIDTH, dtype=torch.float64)
    p = upsample(net(images).logits, (HEIGHT, WIDTH), True).softmax(dim=1)
    net.calls = 0
    torch.testing.assert_close(multi_scale_probabilities(net, images, (1.0,), mirror=False), p)
    assert net.calls == 1


def test_a_mirrored_image_gets_the_mirrored_probabilities() -> None:
    net = Net().eval()
    images = torch.randn(1, 3, HEIGHT, WIDTH)
    mirrored = multi_scale_probabilities(net, images.flip(3)).flip(3)
    torch.testing.assert_close(mirrored, multi_scale_probabilities(net, images))


# --- the whole set ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_every_frame_gets_argmax_and_maximum_of_the_averaged_probabilities(tmp_path: Path) -> None:
    net, surroundings = Net().train(), context(tmp_path)
    stored = label_frames(net, surroundings)
    assert net.training  # as it was; meanwhile in evaluation mode: dropout would scramble labels
    net.eval()
    for i in range(3):
        pixels = torch.from_numpy(surroundings.frames.image(i).copy())[None]
        p = multi_scale_probabilities(net, surroundings.normalise(pixels))[0]
        read = stored.read(i)
        assert read is not None
        assert np.array_equal(read[0], p.argmax(dim=0))
        assert np.array_equal(read[1], confidence_bins(p.amax(dim=0)))
        assert len(np.unique(read[0])) > 1
        assert len(np.unique(read[1])) > 9


def test_a_resumed_run_makes_only_what_is_missing_or_damaged(tmp_path: Path) -> None:
    first, second, third = Net(), Net(), Net()
    stored = label_frames(first, context(tmp_path))
    everything = [stored.path(i).read_bytes() for i in range(3)]
    stored.path(0).unlink()
    stored.path(2).write_bytes(everything[2][:40])
    again = label_frames(second, context(tmp_path))
    assert [again.path(i).read_bytes() for i in range(3)] == everything
    label_frames(third, context(tmp_path))
    views = 6  # of a frame: three scales, each also mirrored
    tried = 2  # once, the two other scales
    expected = (tried + 3 * views, tried + 2 * views, 0)
    assert (first.calls, second.calls, third.calls) == expected


@pytest.mark.parametrize(
    ("net", "frame_set", "how"),
    [
        (Net(seed=1), frames(), {}),
        (Net(seed=0), frames(width=48), {}),
        (Net(seed=0), frames(), {"scales": (1.0,)}),
        (Net(seed=0), frames(), {"mirror": False}),
        (Net(seed=0), frames(), {"batch_statistics": True}),
    ],
    ids=["model", "frames", "scales", "mirror", "statistics"],
)
def test_labels_made_otherwise_are_not_taken_up(
    net: Net, frame_set: FrameSet, how: dict[str, Any], tmp_path: Path
) -> None:
    ours = label_frames(Net(seed=0), context(tmp_path))
    other = label_frames(net, context(tmp_path, frame_set), **how)
    assert other.path(0) != ours.path(0)
    read = other.read(0)
    assert read is not None
    assert read[0].shape == (HEIGHT, frame_set.width)


class NormNet(Net):
    """With batch norm, whose stored statistics fit no frame."""

    def __init__(self) -> None:
        super().__init__(align_corners=False)
        self.norm = nn.BatchNorm2d(K)
        self.norm.running_mean.fill_(3.0)

    def forward(self, images: Tensor) -> Output:
        return Output(self.norm(super().forward(images).logits), None)


def test_batch_statistics_are_those_of_each_view_and_leave_the_model_alone(tmp_path: Path) -> None:
    net, surroundings = NormNet(), context(tmp_path)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ours = frame_probabilities(net, surroundings, 1, (1.0,), mirror=False, batch_statistics=True)
    after = net.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(module.training for module in net.modules())
    assert net.norm.track_running_stats
    clean = surroundings.normalise(torch.from_numpy(surroundings.frames.image(1).copy())[None])
    with torch.no_grad():
        z = net.convolution(clean)
    z = (z - z.mean(dim=(2, 3), keepdim=True)) / (
        z.var(dim=(2, 3), keepdim=True, correction=0) + net.norm.eps
    ).sqrt()
    expected = upsample(z, (HEIGHT, WIDTH), False).softmax(dim=1)[0]
    torch.testing.assert_close(ours, expected)
    stored = frame_probabilities(net, surroundings, 1, (1.0,), mirror=False)
    assert not torch.allclose(ours, stored, atol=0.1)
