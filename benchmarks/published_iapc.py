"""One step of IAPC as its authors' code takes it, in plain PyTorch: what ours is timed against.

Everything in float32 and at the frame's size; argsort for the two best classes; a loop over images
and classes for prototypes, over classes for their weights, and over parameters for the moving
average. The labels are the stored ones, and after each step the student sees the clean images once
more, as there, where a loss is logged for it. Each weight is updated once, here and in ours: that
their optimiser lists those of DeepLabV2's residual stages several times is left out of both.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from roadshift.adapt.networks import SegmentationNetwork
from torch import Tensor

RARE, MOST = 64 * 64 / (512 * 256), 7.0  # share of a batch's pixels; weight of a rare class
W_IA, W_PE, W_PS, W_IM = 0.2, 0.5, 0.04, 2.0


class PublishedIapc:
    """Student, source teacher and memory model, with Nesterov SGD."""

    def __init__(self, model: SegmentationNetwork, lr: float) -> None:
        self.student = model.train()
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.memory = copy.deepcopy(model).train().requires_grad_(False)
        self.absence = torch.ones(model.num_classes, device=next(model.parameters()).device)
        head = list(model.classifier_parameters())
        body = [p for p in model.parameters() if not any(p is other for other in head)]
        self.optimizer = torch.optim.SGD(
            [{"params": body}, {"params": head, "lr": 10 * lr}],
            lr=lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            foreach=False,
        )

    def step(self, clean: Tensor, noisy: Tensor, unscaled: Tensor, labels: Tensor) -> float:
        """One step.

        Args:
            clean, noisy: crops, normalised, (B, 3, H, W).
            unscaled: the clean crops without their zoom.
            labels: stored pseudo-labels under the crops, int64 (B, H, W).
        """
        size = clean.shape[2:]
        with torch.no_grad():
            teacher = self._full(self.teacher(clean).logits, size)
            ranked = teacher.gather(1, teacher.argsort(dim=1, descending=True))
            importance = 1 - ranked[:, 1] / ranked[:, 0]
            remembered = self.memory(unscaled)
            label = self._full(remembered.logits, size).argmax(dim=1)
            prototypes = self._prototypes(remembered.features, label)
        output = self.student(noisy)
        logits = self._full(output.logits, size)
        feature = F.normalize(output.features, dim=1)
        similarity = torch.einsum("bkd,bdhw->bkhw", F.normalize(prototypes, dim=2), feature)
        coarse = similarity.argmax(dim=1)[:, None].float()
        nearest = F.interpolate(coarse, size=size, mode="nearest")[:, 0].long()
        own = logits.argmax(dim=1)
        weights = self._class_weights(labels)
        ce = F.cross_entropy(logits, labels, weights, ignore_index=255, reduction="none")
        agreed = nearest.masked_fill(nearest != labels, 255)
        agreement = F.cross_entropy(logits, agreed, weights, ignore_index=255, reduction="none")
        to_prototype = F.cross_entropy(logits, nearest)
        from_prototype = F.cross_entropy(self._full(similarity, size), own)
        probability = logits.softmax(dim=1)
        entropy = -(probability * torch.log(probability + 1e-5)).sum(dim=1)
        loss = (
            W_IA * (importance * ce).mean()
            + W_PE * agreement.mean()
            + W_PS * (to_prototype + from_prototype)
            + W_IM * entropy.mean()
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.student(clean)  # batch norm's running statistics move
            for ours, new in zip(self.memory.parameters(), self.student.parameters(), strict=True):
                ours.copy_(0.9999 * ours + 0.0001 * new)
            for held, now in zip(self.memory.buffers(), self.student.buffers(), strict=True):
                held.copy_(now)
        return float(loss.detach())

    def _full(self, values: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(
            values, size=size, mode="bilinear", align_corners=self.student.align_corners
        )

    def _class_weights(self, labels: Tensor) -> Tensor:
        """(K,): `MOST` for a class of few pixels, times the moving average of its absence."""
        weights, absent = torch.ones_like(self.absence), torch.ones_like(self.absence)
        for k in range(len(weights)):
            count = (labels == k).sum()
            if count < RARE * labels.numel():
                weights[k] = MOST
            if count == 0:
                absent[k] = MOST
        self.absence = 0.9 * self.absence + 0.1 * absent
        return weights * self.absence

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
