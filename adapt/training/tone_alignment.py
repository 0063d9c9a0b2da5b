"""Tone alignment: one gamma for all target frames, found without labels and without a gradient.

Frames darker or brighter than the training images shift what every layer sees. One exponent on the
pixels takes much of that back, if the shift is one of tone at all: so it is searched on a grid,
judged by two scores that need no label, and kept only where both say that it helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...runtime.bundle import InputSpec
from ...runtime.spacing import evenly_spaced
from ..data.frame_set import FrameSet
from ..losses.common import at_least_float32
from ..models.inputs import Normalise
from ..networks import SegmentationNetwork
from ..networks.batch_norm import batch_norm_layers
from ..run.work import Work
from ..scoring.scores import InputMoments, batch_norm_divergence, information_maximisation
from ..scoring.timing import seconds_once_warm

GAMMAS = (0.35, 0.42, 0.5, 0.6, 0.72, 0.85, 1.0, 1.2, 1.45)
LEAST_FRAMES = 4  # fewer say nothing about the others
FRAMES = 16  # of the target set, evenly spaced; the scores are means over many pixels
# How much more information a gamma must bring. On CamVid's dusk, where tone helps, the best brings
# 1.3 to 2 times as much; on daylight, where every method hurts, 1.01 times.
LEAST_GAIN = 1.1


@dataclass(frozen=True)
class ToneScore:
    """Effect of one gamma on the source model's view of the target frames.

    Attributes:
        gamma: exponent on the pixels, below 1 brightens.
        divergence: see `batch_norm_divergence`, nats; lower is better.
        information: see `information_maximisation`, nats; higher is better.
    """

    gamma: float
    divergence: float
    information: float


def align_tone(
    network: SegmentationNetwork,
    frames: FrameSet,
    spec: InputSpec,
    device: torch.device,
    work: Work | None = None,
) -> InputSpec:
    """``spec`` with the gamma that suits the frames, or as it is.

    Of the gammas that lower the divergence, the one with the most information is taken, if that is
    at least `LEAST_GAIN` times that of the frames as they are; else there is none.

    Args:
        network: the source model, with the statistics it was trained with; not changed.
        frames: target frames; at most 16 of them are looked at.
        spec: what the network is fed now; a gamma it has already is multiplied.
        work: the deadline, and where the search is shown; with too little time there is none.

    Raises:
        RunInterrupted: a signal came.
    """
    work = work or Work()
    note = work.events.note
    if not batch_norm_layers(network):
        note("no tone alignment: the network keeps no batch-norm statistics to judge by")
        return spec

    def scored(gamma: float, chosen: Sequence[int]) -> ToneScore:
        candidate = spec.model_copy(update={"gamma": spec.gamma * gamma})
        normalise = Normalise(candidate).to(device)
        return tone_score(
            network,
            [normalise(torch.from_numpy(frames.image(i).copy())[None].to(device)) for i in chosen],
            gamma,
        )

    count = FRAMES
    if work.deadline.bounded:
        work.deadline.forward_s = seconds_once_warm(lambda: scored(1.0, [0]), work.deadline)
        each_s = len(GAMMAS) * work.deadline.forward_s
        count = (
            FRAMES
            if each_s * FRAMES <= work.deadline.left_s
            else int(work.deadline.left_s / each_s)
        )
    if count < min(LEAST_FRAMES, len(frames)):
        note("no tone alignment: the time budget leaves no time for it")
        return spec
    chosen = evenly_spaced(len(frames), count)
    gammas = work.over(GAMMAS, "tone alignment", unit="gammas", in_order=True)
    scores = [scored(gamma, chosen) for gamma in gammas]
    if len(scores) < len(GAMMAS):
        return spec
    before = next(score for score in scores if score.gamma == 1.0)
    nearer = [s for s in scores if s.divergence < before.divergence]
    best = max(nearer, key=lambda score: score.information, default=before)
    if best.information < before.information * LEAST_GAIN:
        note(
            "tone alignment: frames stay as they are (with the best gamma, divergence "
            f"{before.divergence:.3f} -> {best.divergence:.3f}, information "
            f"{before.information:.2f} -> {best.information:.2f})"
        )
        return spec
    drop = f"divergence {before.divergence:.3f} -> {best.divergence:.3f}"
    gain = f"information {before.information:.2f} -> {best.information:.2f}"
    note(f"tone alignment: gamma {best.gamma:g} ({drop}, {gain})")
    return spec.model_copy(update={"gamma": spec.gamma * best.gamma})


@torch.no_grad()
def tone_score(network: SegmentationNetwork, images: list[Tensor], gamma: float) -> ToneScore:
    """Both scores of normalised images, each (1, 3, H, W), with the network in evaluation mode."""
    training = network.training
    layers = batch_norm_layers(network)
    moments = {layer: InputMoments() for layer in layers}
    handles = [layer.register_forward_pre_hook(moments[layer].add) for layer in layers]
    p_sum: Tensor | None = None
    entropy = pixels = 0.0
    try:
        network.eval()
        for image in images:
            logits = at_least_float32(network(image).logits)
            log_p = logits.log_softmax(dim=1)
            p = log_p.exp()
            entropy += float(-(p * log_p).sum())
            pixels += p[:, 0].numel()
            share = p.sum(dim=(0, 2, 3)).double()
            p_sum = share if p_sum is None else p_sum + share
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    assert p_sum is not None  # there is at least one frame
    return ToneScore(
        gamma,
        batch_norm_divergence(moments),
        float(information_maximisation(p_sum / pixels, entropy / pixels)),
    )
