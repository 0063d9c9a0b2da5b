"""Tone alignment: its two scores against their formulas, and when a gamma is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import Output, SegmentationNetwork
from roadshift.adapt.networks.batch_norm import batch_norm_layers
from roadshift.adapt.networks.mixed_statistics import reestimate_batch_norm
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.work import Work
from roadshift.adapt.training import tone_alignment
from roadshift.adapt.training.tone_alignment import (
    GAMMAS,
    ToneScore,
    align_tone,
    tone_score,
)
from roadshift.runtime.bundle import InputSpec
from roadshift.scenes import render_scene
from torch import Tensor, nn

WIDTH, HEIGHT, K = 96, 48, 5
SPEC = InputSpec(width=WIDTH, height=HEIGHT, mean=(110, 115, 120), std=(55, 60, 65))
CPU = torch.device("cpu")


class Tiny(SegmentationNetwork):
    """A stem, batch norm or none, and a classifier."""

    num_classes, align_corners = K, False

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.head = nn.Conv2d(8, K, 1)

    def forward(self, images: Tensor) -> Output:
        features = self.norm(self.stem(images)).relu()
        return Output(self.head(features), features)


def scenes(gamma: float = 1.0, count: int = 4) -> FrameSet:
    """Daylight scenes under an exponent: above 1 they are dark."""
    images = [render_scene(seed, "daylight", WIDTH, HEIGHT).image for seed in range(count)]
    dark = [(255 * (image / 255.0) ** gamma).round().astype(np.uint8) for image in images]
    return FrameSet([str(i) for i in range(count)], WIDTH, HEIGHT, lambda i: dark[i])


def trained_on(frames: FrameSet, seed: int = 0) -> Tiny:
    """A network whose statistics are those of the frames, and that is surest about them."""
    torch.manual_seed(seed)
    network = Tiny().eval()
    normalise = Normalise(SPEC)
    batch = torch.from_numpy(np.stack([frames.image(i) for i in range(len(frames))]))
    reestimate_batch_norm(network, [normalise(batch)], 1.0)
    optimizer = torch.optim.Adam(network.head.parameters(), lr=0.05)
    target = batch.float().mean(dim=3)[:, ::2, ::2].div(52).long().clamp(max=K - 1)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(normalise(batch)).logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def test_divergence_is_the_mean_kl_of_gaussians_over_channels() -> None:
    network = trained_on(scenes())
    layer = batch_norm_layers(network)[0]
    images = list(torch.randn(3, 1, 3, HEIGHT, WIDTH, dtype=torch.float32))
    inputs = np.concatenate([network.stem(x).detach().double().numpy() for x in images])
    m, v = inputs.mean(axis=(0, 2, 3)), inputs.var(axis=(0, 2, 3)) + layer.eps
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mu = layer.running_mean.double().numpy()
    sigma2 = layer.running_var.double().numpy() + layer.eps
    expected = np.log(np.sqrt(sigma2 / v)) + (v + (m - mu) ** 2) / (2 * sigma2) - 0.5
    assert tone_score(network, images, 1.0).divergence == pytest.approx(expected.mean(), rel=1e-6)


def test_information_is_the_entropy_of_the_mean_minus_the_mean_entropy() -> None:
    network = trained_on(scenes())
    images = list(torch.randn(3, 1, 3, HEIGHT, WIDTH))
    with torch.no_grad():
        p = torch.cat([network(x).logits.double().softmax(dim=1) for x in images]).numpy()
    pixels = np.moveaxis(p, 1, -1).reshape(-1, K)
    mean = pixels.mean(axis=0)
    expected = -(mean * np.log(mean)).sum() + (pixels * np.log(pixels)).sum(axis=1).mean()
    assert tone_score(network, images, 1.0).information == pytest.approx(expected, abs=1e-5)


def test_dark_frames_get_the_gamma_that_undoes_their_own() -> None:
    network = trained_on(scenes())
    aligned = align_tone(network, scenes(gamma=2.0), SPEC, CPU)
    assert aligned.gamma in (0.42, 0.5, 0.6)
    assert aligned.model_copy(update={"gamma": 1.0}) == SPEC


def test_frames_like_the_training_images_stay_as_they_are() -> None:
    notes: list[str] = []
    network = trained_on(scenes())
    assert align_tone(network, scenes(), SPEC, CPU, Work(events=Events(notes.append))) == SPEC
    assert "stay as they are" in notes[0]


# Divergence and information of GAMMAS, as measured: a fast_scnn trained on CamVid's day.
DUSK_DIVERGENCE = (0.664, 0.517, 0.388, 0.263, 0.180, 0.165, 0.187, 0.233, 0.278)
DUSK_INFORMATION = (0.61, 0.75, 0.91, 1.07, 1.11, 0.93, 0.65, 0.51, 0.47)
DAY_DIVERGENCE = (0.529, 0.381, 0.260, 0.155, 0.083, 0.047, 0.030, 0.027, 0.038)
DAY_INFORMATION = (0.71, 0.93, 1.18, 1.35, 1.47, 1.53, 1.56, 1.56, 1.51)


@pytest.mark.parametrize(
    ("divergence", "information", "gamma"),
    [
        (DUSK_DIVERGENCE, DUSK_INFORMATION, 0.72),
        (DAY_DIVERGENCE, DAY_INFORMATION, 1.0),
        (DUSK_DIVERGENCE, DAY_INFORMATION, 1.0),  # nearer, and no surer
        (DAY_DIVERGENCE, DUSK_INFORMATION, 1.0),  # surer, and further away
        ((0.354,) * 9, (0.9,) * 6 + (0.8,) + (0.9,) * 2, 1.0),  # no nearer
        ((0.1,) * 6 + (0.2,) + (0.1,) * 2, (0.87,) * 6 + (0.8,) + (0.87,) * 2, 1.0),  # too little
    ],
)
def test_a_gamma_is_kept_only_where_both_scores_agree(
    divergence: tuple[float, ...],
    information: tuple[float, ...],
    gamma: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = {g: (d, i) for g, d, i in zip(GAMMAS, divergence, information, strict=True)}
    monkeypatch.setattr(tone_alignment, "tone_score", lambda _, __, g: ToneScore(g, *measured[g]))
    assert align_tone(Tiny(), scenes(), SPEC, CPU).gamma == gamma


def test_a_gamma_that_is_there_is_multiplied() -> None:
    network = trained_on(scenes())
    spec = SPEC.model_copy(update={"gamma": 0.5})
    aligned = align_tone(network, scenes(gamma=4.0), spec, CPU)
    assert aligned.gamma in [pytest.approx(0.5 * gamma) for gamma in GAMMAS if gamma < 1]


def test_a_network_without_batch_norm_is_left_alone_with_a_sentence() -> None:
    notes: list[str] = []
    assert (
        align_tone(
            Tiny(norm=False), scenes(gamma=2.0), SPEC, CPU, Work(events=Events(notes.append))
        )
        == SPEC
    )
    assert "no batch-norm statistics" in notes[0]


def test_scoring_changes_nothing_in_the_network() -> None:
    network = trained_on(scenes()).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    align_tone(network, scenes(gamma=2.0), SPEC, CPU)
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("gamma", [0.35, 0.72, 1.0, 1.45])
def test_normalise_applies_gamma_before_mean_and_std(gamma: float) -> None:
    spec = SPEC.model_copy(update={"gamma": gamma, "colour": "bgr"})
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), dtype=np.uint8)
    toned = 255 * (image[..., ::-1] / 255.0) ** gamma
    expected = ((toned - np.array(SPEC.mean)) / np.array(SPEC.std)).transpose(0, 3, 1, 2)
    actual = Normalise(spec)(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(actual, expected, atol=2e-5)
