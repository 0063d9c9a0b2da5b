"""One step of IAPC as its authors' code takes it, in plain PyTorch: what ours is timed against.

Everything in float32 and at the frame's size; argsort for the two best classes; a loop over images
and classes for prototypes, and over parameters for the moving average.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from roadshift.adapt.networks import SegmentationNetwork
from torch import Tensor


class PublishedIapc:
    """Student, source teacher and memory model, with Nesterov SGD."""

    def __init__(self, model: SegmentationNetwork, lr: float) -> None:
        self.student = model.train()
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.memory = copy.deepcopy(model).train().requires_grad_(False)
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=False
        )

    def step(self, clean: Tensor, noisy: Tensor) -> float:
        """Images are normalised, (B, 3, H, W)."""
        size = clean.shape[2:]
        output = self.student(noisy)
        logits = self._full(output.logits, size)
        with torch.no_grad():
            teacher = self._full(self.teacher(clean).logits, size).softmax(dim=1)
            ranked = teacher.gather(1, teacher.argsort(dim=1, descending=True))
            importance = 1 - ranked[:, 1] / ranked[:, 0]
            pseudo_label = teacher.argmax(dim=1)
            remembered = self.memory(clean)
            label = self._full(remembered.logits, size).argmax(dim=1)
            prototypes = self._prototypes(remembered.features, label)
        feature = F.normalize(output.features, dim=1)
        similarity = torch.einsum("bkd,bdhw->bkhw", F.normalize(prototypes, dim=2), feature)
        similarity = self._full(similarity, size)
        nearest, own = similarity.argmax(dim=1), logits.argmax(dim=1)
        probability = logits.softmax(dim=1)
        ce = F.cross_entropy(logits, pseudo_label, reduction="none")
        to_prototype = F.cross_entropy(logits, nearest, reduction="none")
        from_prototype = F.cross_entropy(similarity, own, reduction="none")
        entropy = -(probability * torch.log(probability + 1e-5)).sum(dim=1)
        loss = (
            0.2 * (importance * ce).mean()
            + 0.5 * ((nearest == own) * to_prototype).mean()
            + 0.1 * (to_prototype + from_prototype).mean()
            + 0.02 * entropy.mean()
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for ours, new in zip(self.memory.parameters(), self.student.parameters(), strict=True):
                ours.copy_(0.9999 * ours + 0.0001 * new)
            for held, now in zip(self.memory.buffers(), self.student.buffers(), strict=True):
                held.copy_(now)
        return float(loss.detach())

    def _full(self, values: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(
            values, size=size, mode="bilinear", align_corners=self.student.align_corners
        )

    def _prototypes(self, features: Tensor, label: Tensor) -> Tensor:
        """(B, K, D), zeros where a class is absent."""
        grid = F.interpolate(label[:, None].float(), features.shape[2:], mode="nearest")[:, 0]
        found = features.new_zeros(len(features), self.student.num_classes, features.shape[1])
        for image in range(len(features)):
            for k in range(self.student.num_classes):
                mask = grid[image] == k
                if mask.any():
                    found[image, k] = (features[image] * mask).sum(dim=(1, 2)) / mask.sum()
        return found
