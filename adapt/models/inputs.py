"""From camera pixels to network input; the exporter puts the same module into the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...runtime.bundle import InputSpec
from ...runtime.errors import Sentence, arg


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


def note_of_unit_range(
    mean: Sequence[float] | None, std: Sequence[float] | None, note: Callable[[str], None]
) -> None:
    """Say so where a user's mean and deviation are of pixels from 0 to 1, as model cards give them.

    No camera's pixels from 0 to 255 have deviations below 1; a network that is given them divides
    by next to nothing, and sees noise.
    """
    if std is None or max(std) >= 1 or (mean is not None and max(mean) > 1):
        return
    meant = [",".join(f"{255 * x:.6g}" for x in values) for values in (mean, std) if values]
    note(
        Sentence(
            f"{arg('mean')} and {arg('std')} are in 0-255 units, and these look like those of "
            f"pixels from 0 to 1; for those say 255 times as much, {' and '.join(meant)}"
        )
    )
