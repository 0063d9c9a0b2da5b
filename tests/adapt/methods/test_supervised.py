"""The supervised stage: eq. 1 with and without class weights, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, Crop
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.losses.backends.spec import Kernel
from roadshift.adapt.methods.supervised import (
    SupervisedConfig,
    SupervisedStage,
    class_counts,
    class_weights,
)
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.run.checksums import write_json_with_checksum
from roadshift.adapt.run.config import RunConfig
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.errors import LabelError

WIDTH, HEIGHT, K = 48, 32, 4


def label_maps() -> list[np.ndarray]:
    """Class 0 in most pixels, 1 in some, 2 in few, 3 in none, and a border that is not labelled."""
    rng = np.random.default_rng(0)
    maps = []
    for _ in range(3):
        labels = rng.choice([0, 1, 2], p=[0.9, 0.099, 0.001], size=(HEIGHT, WIDTH))
        labels[0] = 255
        maps.append(labels.astype(np.uint8))
    return maps


def frame_set() -> FrameSet:
    maps = label_maps()
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return FrameSet("abc", WIDTH, HEIGHT, lambda i: images[i], lambda i: maps[i])


def context_of(frames: FrameSet, folder: Path, kernel: Kernel = "reference") -> Context:
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=(110, 115, 120), std=(60, 58, 57))
    return Context(
        frames,
        Normalise(spec),
        torch.device("cpu"),
        folder,
        RunConfig(method="supervised"),
        (HEIGHT, WIDTH),
        losses=kernel,
    )


def test_class_weights_by_the_formula(tmp_path: Path) -> None:
    pixels = np.concatenate([labels.ravel() for labels in label_maps()])
    counts = [int((pixels == c).sum()) for c in range(K)]
    median = sorted(counts[:3])[1]  # of the classes that occur
    expected = [min(3.0, max(0.5, math.sqrt(median / max(n, 1)))) for n in counts]
    assert class_weights(
        class_counts(context_of(frame_set(), tmp_path), K)
    ).tolist() == pytest.approx(expected)
    assert expected[0] == 0.5
    assert expected[3] == 3.0


def test_labels_of_no_class_at_all_are_refused(tmp_path: Path) -> None:
    void = np.full((HEIGHT, WIDTH), 255, np.uint8)
    frames = FrameSet("ab", WIDTH, HEIGHT, lambda _: np.zeros_like(void), lambda _: void)
    with pytest.raises(LabelError, match=r"No pixel.*label_space"):
        class_weights(class_counts(context_of(frames, tmp_path), K))


def test_a_resumed_run_has_the_counts_of_its_beginning_unless_they_are_damaged(
    tmp_path: Path,
) -> None:
    context = context_of(frame_set(), tmp_path)
    counts = class_counts(context, K)
    write_json_with_checksum(tmp_path / "class_counts.json", {"counts": [1, 2, 3, 4]})
    assert class_counts(context, K).tolist() == [1, 2, 3, 4]
    for damage in ("[1, 2]", "[", '{"a": 1}', "[1, 2, 3, null]"):
        (tmp_path / "class_counts.json").write_text(damage)
        assert class_counts(context, K).tolist() == counts.tolist()


@pytest.mark.parametrize("kernel", ["reference", "tiled"])
@pytest.mark.parametrize("balance", ["none", "sqrt_inverse"])
def test_loss_is_the_weighted_mean_over_labelled_pixels(
    network: Callable[..., SegmentationNetwork], tmp_path: Path, balance: str, kernel: Kernel
) -> None:
    frames = frame_set()
    context = context_of(frames, tmp_path, kernel)
    stage = SupervisedStage(SupervisedConfig(class_balance=balance))  # type: ignore[arg-type]
    model = network(0, dropout=0.0)
    stage.begin(model, context)
    images = torch.from_numpy(np.stack([frames.image(i) for i in range(3)]))
    labels = torch.from_numpy(np.stack(label_maps())).long()
    crop = Crop(0, 0, WIDTH, HEIGHT, False)
    loss = stage.losses(Batch(images, images, labels, (0, 1, 2), (crop,) * 3))["cross_entropy"]

    model.train()
    logits = torch.nn.functional.interpolate(
        model(context.normalise(images)).logits, (HEIGHT, WIDTH), mode="bilinear"
    )
    p = logits.double().softmax(dim=1).detach().numpy()
    weights = [1.0] * K
    if balance != "none":
        weights = class_weights(class_counts(context, K)).tolist()
    total = share = 0.0
    for b, y, x in np.argwhere(labels.numpy() != 255):
        c = int(labels[b, y, x])
        total -= weights[c] * math.log(p[b, c, y, x])
        share += weights[c]
    assert loss.item() == pytest.approx(total / share, rel=1e-5)


@pytest.mark.parametrize("kernel", ["reference", "tiled"])
def test_a_batch_without_labelled_pixels_has_no_loss_and_no_gradient(
    network: Callable[..., SegmentationNetwork], tmp_path: Path, kernel: Kernel
) -> None:
    context = context_of(frame_set(), tmp_path, kernel)
    stage = SupervisedStage(SupervisedConfig(class_balance="sqrt_inverse"))
    model = network(0)
    stage.begin(model, context)
    images = torch.zeros((2, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    labels = torch.full((2, HEIGHT, WIDTH), 255)
    crop = Crop(0, 0, WIDTH, HEIGHT, False)
    loss = stage.losses(Batch(images, images, labels, (0, 1), (crop, crop)))["cross_entropy"]
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)
