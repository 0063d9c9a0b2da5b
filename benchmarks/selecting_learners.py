"""Learners for benchmarks/selecting.py: a linear head, which is exact and quick, or the network.

Both begin with the published model and learn from labelled frames in the road's own classes, which
the label map reaches from the model's; both say the mIoU of each drive afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from real_oracle import Pair, fine_tune, fitted, group_matrix, miou, segmenter
from roadshift.adapt.models.segmenter import Segmenter
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.labels.metrics import ConfusionMatrix
from roadshift.runtime.labels.spaces import LabelMap
from torch import Tensor

Pairs = Sequence[Pair]
Held = Mapping[str, Pairs]
STEPS, RATE = 120, 5e-4  # of the network
DECAY, ROUNDS = 1e-2, 30  # of the head: of its change, per weight squared; of L-BFGS
_LEAST = 1e-3  # of a probability, before its logarithm
_ENCODERS = {  # submodules that give maps at strides 2, 4, 8 and, of the first, 16
    "ESPNetv2": ("base_net",),
    "ForeignNetwork": ("encoder.b1", "encoder.b2", "encoder.b3"),  # ESPNet's
}


class Head:
    """A linear head on the frozen network's maps, logistic regression from the model's own answer.

        min over W, b of  mean over v of CE(softmax(W x_v + b), y_v) + DECAY |W - W_0|^2

    x_v are the maps of `_ENCODERS` and the decoder's, standardised, and the logarithms of the
    classes' probabilities, all at stride 8; W_0 takes the last ones as they are. The problem is
    convex, so that two runs differ by the frames alone. mIoU is that of stride 8, too.
    """

    def __init__(
        self, start: Bundle, label_map: LabelMap, pool: Sequence[Pair], held: Held
    ) -> None:
        self.model = segmenter(start)
        self.groups = group_matrix(label_map)
        x, self.y = self._seen(pool)
        classes = len(self.groups)
        self.centre, self.scale = x.mean((0, 1)), x.std((0, 1)).clamp_min(1e-3)
        self.centre[-classes:], self.scale[-classes:] = 0, 1
        self.x = self._standardised(x)
        self.held = {drive: self._seen(pairs) for drive, pairs in held.items()}

    def learnt_from(self, chosen: Sequence[int], seed: int) -> dict[str, float]:
        """mIoU of each drive, in percent, with the labels of these frames of the pool."""
        del seed
        weights = self._learnt(chosen)
        return {drive: self._miou(weights, *seen) for drive, seen in self.held.items()}

    def _learnt(self, chosen: Sequence[int]) -> Tensor:
        """(classes, 1 + features)."""
        classes, features = len(self.groups), self.x.shape[2]
        before = torch.zeros(classes, features)
        before[:, -classes:] = torch.eye(classes)
        weights = before.clone()
        if not chosen:
            return weights
        x, y = self.x[list(chosen)].flatten(0, 1), self.y[list(chosen)].flatten()
        x, y = x[y < classes], y[y < classes]
        weights.requires_grad_(True)
        optimizer = torch.optim.LBFGS([weights], max_iter=ROUNDS, line_search_fn="strong_wolfe")

        def loss() -> float:
            optimizer.zero_grad()
            change = ((weights - before) ** 2).sum()
            value = F.cross_entropy(x @ weights.T, y) + DECAY * change
            value.backward()
            return float(value.detach())

        optimizer.step(loss)
        return weights.detach()

    def _miou(self, weights: Tensor, x: Tensor, y: Tensor) -> float:
        predicted = (self._standardised(x) @ weights.T).argmax(2)
        confusion = ConfusionMatrix(len(self.groups))
        confusion.update(predicted.numpy().astype(np.uint8), y.numpy().astype(np.uint8))
        return round(confusion.miou(), 2)

    def _standardised(self, x: Tensor) -> Tensor:
        x = (x - self.centre) / self.scale
        return torch.cat([torch.ones_like(x[..., :1]), x], dim=2)

    @torch.no_grad()
    def _seen(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Maps (frames, places, features) and labels (frames, places)."""
        maps = [features(self.model, self.groups, image) for image, _ in pairs]
        size = maps[0].shape[:0:-1]
        labels = [cv2.resize(y, size, interpolation=cv2.INTER_NEAREST) for _, y in pairs]
        x = torch.stack(maps).flatten(2).transpose(1, 2)
        return x.contiguous(), torch.from_numpy(np.stack(labels)).long().flatten(1)


def features(model: Segmenter, groups: Tensor, image: NDArray[np.uint8]) -> Tensor:
    """Maps of a frame at stride 8, (features, h, w)."""
    network = model.network
    maps: list[Tensor] = []
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, given: maps.extend([given] if isinstance(given, Tensor) else given)
        )
        for name in _ENCODERS[type(network).__name__]
    ]
    output = network(model.normalise(fitted(model, image)))
    for hook in hooks:
        hook.remove()
    p = (groups @ output.logits.softmax(1).flatten(2)).unflatten(2, output.logits.shape[2:])
    size = maps[2].shape[2:]
    assert output.features is not None
    parts = [F.adaptive_avg_pool2d(one, size) for one in (*maps[:3], output.features)]
    parts += [F.interpolate(one, size, mode="bilinear", align_corners=True) for one in maps[3:]]
    parts.append(F.adaptive_avg_pool2d(p, size).clamp_min(_LEAST).log())
    return torch.cat(parts, dim=1)[0]


class WholeNetwork:
    """The whole network, by Adam, as in real_oracle.py; batch norm stands still."""

    def __init__(
        self, start: Bundle, label_map: LabelMap, pool: Sequence[Pair], held: Held
    ) -> None:
        self.start, self.label_map, self.pool, self.held = start, label_map, pool, held

    def learnt_from(self, chosen: Sequence[int], seed: int) -> dict[str, float]:
        """mIoU of each drive, in percent, with the labels of these frames of the pool."""
        model = segmenter(self.start)
        if chosen:
            pairs = [self.pool[i] for i in chosen]
            how = {"steps": STEPS, "rate": RATE, "seed": seed, "say": lambda _: None}
            fine_tune(model, pairs, self.label_map, **how)
        return {drive: miou(model, list(held), self.label_map) for drive, held in self.held.items()}


LEARNERS = {"head": Head, "network": WholeNetwork}
