"""From camera pixels to network input; the exporter puts the same module into the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...runtime.bundle import InputSpec


class Normalise(nn.Module):
    """uint8 RGB (B, H, W, 3) to float (B, 3, H, W):  ``(255 (x / 255)^gamma - mean) / std``.

    Channels are reversed first where the network was trained on BGR images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.bgr = spec.colour == "bgr"
        self.gamma = spec.gamma
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            planes = torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, planes, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # A uint8 transpose is what TensorRT refuses, so the cast comes first; arithmetic on planes
        # is many times faster in ONNX Runtime than on pixels of three values.
        x = images.to(self.mean.dtype).permute(0, 3, 1, 2)
        if self.gamma != 1:
            x = 255 * (x / 255).pow(self.gamma)
        if self.bgr:
            x = x.flip(1)
        return (x - self.mean) / self.std
