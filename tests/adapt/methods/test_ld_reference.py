"""LD's `reference` variant and the authors' boundary stage against a restatement in plain torch.

Ten steps of a network with batch norm through the trainer, and the same ten as the method reads,
written here once more: labels a pixel at a time, a fresh optimiser and schedule every round.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.data.dataset import Batch, CropSampler
from roadshift.adapt.methods.ld import Ld
from roadshift.adapt.methods.ld_config import LdConfig
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.networks.deeplab_v2 import DeepLabV2
from roadshift.adapt.pseudo_labels.thresholds import confidence_bins
from roadshift.adapt.run.config import validate
from roadshift.adapt.training.forward_backward import seed_of
from roadshift.adapt.training.trainer import Trainer
from torch import Tensor

SIZE, CLASSES = (32, 48), 4
LR, HORIZON = 0.02, 9
STAGES = (("ld", 0, 2), ("ld", 1, 2), ("be", 0, 3), ("be", 1, 3))  # kind, round, steps
RUN = (
    "warm_start=source",
    "final_bn=false",
    "weight_interpolation=1.0",
    "training.steps=10",
    f"training.lr={LR}",
    f"training.schedule_steps={HORIZON}",
    "training.schedule_restarts=true",
    "training.classifier_lr_factor=10.0",
    "training.flip=true",
)


def probabilities(model: SegmentationNetwork, images: Tensor) -> Tensor:
    """(B, C, H, W) with the statistics of the batch itself; the model stays as it is."""
    with torch.no_grad():
        logits = copy.deepcopy(model).train()(images).logits
    return F.interpolate(logits, SIZE, mode="bilinear").softmax(dim=1)


def selection(every: list[Tensor], share: float) -> list[Tensor]:
    """Labels of all frames, (H, W), 255 where none: the union of the two rules, pixel by pixel."""

    def top(pool: list[float]) -> int:
        rank = max(1, math.floor(share * len(pool)))
        return int(confidence_bins(torch.tensor(sorted(pool, reverse=True)[rank - 1])))

    of_class: list[list[float]] = [[] for _ in range(CLASSES)]
    for p in every:
        for pixel in p.flatten(1).T.tolist():
            of_class[int(np.argmax(pixel))].append(max(pixel))
    needed = [top(pool) if pool else None for pool in of_class]
    found = []
    for p in every:
        best, bins = p.max(dim=0), confidence_bins(p).permute(1, 2, 0).tolist()
        of_image = top(best.values.flatten().tolist())
        labels = torch.full(SIZE, 255)
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                any_class = any(
                    least is not None and found_bin >= least
                    for found_bin, least in zip(bins[y][x], needed, strict=True)
                )
                if any_class or max(bins[y][x]) >= of_image:
                    labels[y, x] = best.indices[y, x]
        found.append(labels)
    return found


def under(batch: Batch, labels: list[Tensor]) -> Tensor:
    """The labels of whole frames, mirrored where the batch is."""
    rows = zip(batch.frames, batch.crops, strict=True)
    return torch.stack([labels[f].flip(1) if crop.flip else labels[f] for f, crop in rows])


def positive_and_negative(z: Tensor, labels: Tensor) -> Tensor:
    """Eq. 7 with one K for the step."""
    k = CLASSES // 2 + int(torch.randint(-3, 4, ()))
    k = min(max(k, 2), CLASSES)
    p, log_p = z.softmax(dim=1), z.log_softmax(dim=1)
    unlikely = p.sort(dim=1, descending=True).values[:, k - 1]
    return (
        F.cross_entropy(z, labels, ignore_index=255)
        - (p * log_p).sum(dim=1).mean()
        - (1 - unlikely).clamp(min=1e-5).log().mean()
    )


def mixed_targets(
    labels: Tensor, average: SegmentationNetwork, images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (B, H, W) and mixed labels of ClassMix, and the images' shares of sure pixels, (B,)."""
    confidence, predicted = probabilities(average, images).max(dim=1)
    known = labels != 255
    full, sure = labels.where(known, predicted), (confidence >= 0.97) | known
    masks = []
    for image in full:
        present = image.unique()
        masks.append(torch.isin(image, present[torch.randperm(len(present))[: len(present) // 2]]))
    mask = torch.stack(masks)
    sure = torch.where(mask, sure, sure.roll(-1, dims=0))
    return mask, torch.where(mask, full, full.roll(-1, dims=0)), sure.float().mean(dim=(1, 2))


def restated(
    model: SegmentationNetwork,
    images: list[Tensor],
    draw: Callable[[int], Batch],
    normalise: Callable[[Tensor], Tensor],
) -> None:
    """The method on ``model``, in place."""
    step = 0
    for kind, number, steps in STAGES:
        share = 0.2 + 0.05 * number
        every = [probabilities(model, normalise(image[None]))[0] for image in images]
        labels = selection(every, share)
        head = {id(p) for p in model.classifier_parameters()}
        groups = [
            {"params": [p for p in model.parameters() if (id(p) in head) == is_head]}
            for is_head in (False, True)
        ]
        optimizer = torch.optim.SGD(groups, lr=LR, momentum=0.9, weight_decay=5e-4)
        average = copy.deepcopy(model)
        for done in range(steps):
            rate = LR / math.sqrt(2) ** number * (1 - done / HORIZON) ** 0.9
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = rate, 10 * rate
            torch.manual_seed(seed_of(0, step, 0))
            batch = draw(step)
            chosen, view = under(batch, labels), normalise(batch.augmented)
            if kind == "ld":
                z = F.interpolate(model.train()(view).logits, SIZE, mode="bilinear")
                loss = positive_and_negative(z, chosen)
            else:
                mask, target, weight = mixed_targets(chosen, average, view)
                view = torch.where(mask[:, None], view, view.roll(-1, dims=0))
                z = F.interpolate(model.train()(view).logits, SIZE, mode="bilinear")
                each = F.cross_entropy(z, target, reduction="none")
                loss = (weight[:, None, None] * each).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay = min(1 - 1 / (done + 1), 0.99)
            for m, f in zip(average.parameters(), model.parameters(), strict=True):
                m.data = decay * m.data + (1 - decay) * f.data
            step += 1


@pytest.mark.usefixtures("one_thread")
def test_ten_steps_of_the_authors_code_end_with_the_weights_of_its_restatement(
    network: Callable[..., SegmentationNetwork], make_trainer: Callable[..., Trainer]
) -> None:
    own: dict[str, Any] = dict(Ld.presets["reference"]["ld"])
    own |= {"rounds": 2, "boundary_stage": True, "boundary": "authors"}
    stages = Ld.stages(validate(LdConfig, own, "ld"))
    ours, theirs = network(0, dropout=0.0), network(0, dropout=0.0)
    trainer = make_trainer(ours, stages, *RUN)
    context = trainer.context
    sampler = CropSampler(
        context.frames, context.config.training, context.config.augment, context.config.seed
    )
    images = [torch.from_numpy(np.array(context.frames.image(i))) for i in range(6)]
    start = copy.deepcopy(theirs)
    assert trainer.run().steps == 10
    restated(theirs, images, sampler.batch, context.normalise)
    moved = 0.0
    for (name, one), other, before in zip(
        ours.state_dict().items(),
        theirs.state_dict().values(),
        start.state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        moved = max(moved, float((one - before).abs().max()))
    assert moved > 1e-2


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("learn", [True, False])
def test_deeplab_learns_the_norms_of_its_shortcuts_where_the_authors_code_does(
    make_trainer: Callable[..., Trainer], learn: bool
) -> None:
    own = dict(Ld.presets["reference"]["ld"]) | {"rounds": 1, "learn_shortcut_norms": learn}
    model = DeepLabV2(CLASSES, layers=(1, 1, 1, 1))
    before = copy.deepcopy(model.state_dict())
    stages = Ld.stages(validate(LdConfig, own, "ld"))
    make_trainer(model, stages, "warm_start=source", "final_bn=false", "training.steps=1").run()
    norms = {name.rpartition(".")[0] for name in before if name.endswith("running_mean")}
    moved = {
        name
        for name in norms
        for end in ("weight", "bias")
        if not torch.equal(model.state_dict()[f"{name}.{end}"], before[f"{name}.{end}"])
    }
    assert moved == (set(model.norms_of_ld) if learn else set())
    assert len(norms) > len(model.norms_of_ld) == 4
