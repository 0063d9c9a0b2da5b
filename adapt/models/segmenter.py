"""A network with its pixels on both sides: uint8 frames in, uint8 label map out.

The torch engine runs this module and the exporter writes it as a graph, so both do the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...runtime.bundle import InputSpec
from ..losses.common import upsample
from ..networks import SegmentationNetwork
from .inputs import Normalise


class Segmenter(nn.Module):
    """uint8 RGB (B, H, W, 3) at the input size to class indices, uint8 (B, H, W).

        labels = argmax_c upsample(f((x - mean) / std))_c

    ``scores`` gives what the argmax is taken of, and the network's own logits.
    """

    def __init__(self, network: SegmentationNetwork, spec: InputSpec) -> None:
        super().__init__()
        self.network, self.normalise = network, Normalise(spec)
        self.size = (spec.height, spec.width)

    def scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at the input size, float32 (B, K, H, W), and at the network's stride."""
        logits = self.network(self.normalise(images)).logits
        return upsample(logits, self.size, self.network.align_corners), logits

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(images)[0].argmax(dim=1).to(torch.uint8)


class SegmenterWithLogits(nn.Module):
    """As `Segmenter`, and the network's logits, float32 (B, K, h, w), as a second output."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, logits = self.segmenter.scores(images)
        return scores.argmax(dim=1).to(torch.uint8), logits
