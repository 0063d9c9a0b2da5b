"""ATP's "paper" and "authors" stages against plain restatements: five steps, batch norm, float64.

The restatements share with the package the networks, the drawing of batches and the seeds of random
draws; everything between a batch and the new weights is written out here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.data.dataset import Batch, CropSampler
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.data.streams import Streams
from roadshift.adapt.methods.atp import AUTHORS_CODE, AlignStage, TeachStage
from roadshift.adapt.methods.atp_config import AtpConfig
from roadshift.adapt.methods.base import Stage
from roadshift.adapt.methods.propagate import PropagateStage
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.run.config import AugmentConfig, RunConfig, TrainingConfig
from roadshift.adapt.run.precision import Precision
from roadshift.adapt.training.forward_backward import Passes, seed_of
from roadshift.adapt.training.optimisation import build_optimizer
from roadshift.runtime.bundle import InputSpec
from run_cases import block_frames, stage_context
from torch import Tensor

WIDTH, HEIGHT, FRAMES, K, SEED, STEPS = 24, 16, 6, 4, 3, 5
CONFIDENT = 0.4  # where 0.968 leaves some frame without a pixel
SIZE = (HEIGHT, WIDTH)
NORMALISE = Normalise(InputSpec(width=WIDTH, height=HEIGHT, mean=(120,) * 3, std=(60,) * 3))
PAPER_TRAINING = TrainingConfig(batch_size=3, lr=0.05, classifier_lr_factor=10.0)
AUTHORS_TRAINING = TrainingConfig(batch_size=2, optimizer="adamw", lr=3e-3, weight_decay=0.01)
# Numbers that this network and five steps tell apart.
CAP = 0.7  # of the decay of an average that begins with 1/2, 2/3, 3/4
AUTHORS = AtpConfig(**AUTHORS_CODE, variant="authors", teacher_decay=CAP, confident_above=CONFIDENT)


def normalised(images: Tensor) -> Tensor:
    return NORMALISE(images).double()


def net() -> SegmentationNetwork:
    torch.manual_seed(0)
    model = build_network("tiny_network:build", K, dropout=0.0).double()
    with torch.no_grad():
        model.get_parameter("classifier.weight").mul_(6)
    return model


def frames() -> FrameSet:
    return block_frames(FRAMES, WIDTH, HEIGHT)


def batches(streams: Streams, training: TrainingConfig) -> Callable[[int], Batch]:
    sampler = CropSampler(frames(), training, AugmentConfig(policy="daformer"), SEED)
    sampler.draw_from(streams)
    return sampler.batch


def ours(
    kind: Callable[[AtpConfig], Stage], settings: AtpConfig, training: TrainingConfig, folder: Path
) -> SegmentationNetwork:
    """Five steps of a stage as the trainer takes them, at a constant rate."""
    model, stage = net(), kind(settings)
    config = RunConfig(method="atp", bn_batch_size=4, training=training)
    context = stage_context(folder, frames(), NORMALISE, config)
    stage.begin(model, replace(context, normalise=normalised))  # type: ignore[arg-type]
    optimizer = build_optimizer(stage, model, training)
    stage.prepare()
    draw = batches(stage.streams(range(FRAMES)), training)
    passes = Passes(model, stage, optimizer, SEED)
    precision = Precision("fp32", torch.device("cpu"))
    for step in range(STEPS):
        passes.backward(draw(step), step, training.batch_size, precision)
        optimizer.step()
        stage.after_step()
        passes.zero_gradients()
    return model


def assert_restated(model: SegmentationNetwork, other: SegmentationNetwork) -> None:
    """The same weights and statistics to 1e-6, and others than at the start."""
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=1e-6)
    moved = (model.get_parameter("first.weight") - net().get_parameter("first.weight")).abs().max()
    assert moved > 1e-3


# --- what the restatements are written in -------------------------------------------------------


def full(model: SegmentationNetwork, images: Tensor) -> Tensor:
    """Logits at the pixels, of uint8 images."""
    logits = model(normalised(images)).logits
    return F.interpolate(logits, SIZE, mode="bilinear", align_corners=False)


@torch.no_grad()
def asked(model: SegmentationNetwork, images: Tensor) -> Tensor:
    """Probabilities of a copy of the model in evaluation mode."""
    return full(copy.deepcopy(model).eval(), images).softmax(dim=1)


def whole() -> Tensor:
    return torch.stack([torch.from_numpy(frames().image(i)) for i in range(FRAMES)])


def sgd(model: SegmentationNetwork, *, classifier: bool) -> torch.optim.Optimizer:
    """2.5e-4's and 2.5e-3's ratio, momentum 0.9, weight decay 5e-4."""
    head = [p for n, p in model.named_parameters() if n.startswith("classifier")]
    body = [p for n, p in model.named_parameters() if not n.startswith("classifier")]
    groups: list[dict[str, Any]] = [{"params": body, "lr": 0.05}]
    if classifier:
        groups.append({"params": head, "lr": 0.5})
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=5e-4)


def adamw(model: SegmentationNetwork) -> torch.optim.Optimizer:
    head = [p for n, p in model.named_parameters() if n.startswith("classifier")]
    body = [p for n, p in model.named_parameters() if not n.startswith("classifier")]
    groups = [{"params": body, "lr": 3e-3}, {"params": head, "lr": 3e-2}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=0.01)


def take(optimizer: torch.optim.Optimizer, model: SegmentationNetwork) -> None:
    optimizer.step()
    model.zero_grad(set_to_none=True)


def half_of_the_classes(labels: Tensor) -> Tensor:
    """ClassMix's mask of one image: half of its classes, rounded up."""
    present = torch.unique(labels)
    chosen = present[torch.randperm(len(present))[: math.ceil(len(present) / 2)]]
    return sum((labels == c for c in chosen), torch.zeros_like(labels, dtype=torch.bool))


def average(teacher: SegmentationNetwork, student: SegmentationNetwork, decay: float = 0.9) -> None:
    """An EMA; buffers are copied."""
    with torch.no_grad():
        for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
            mine.copy_(decay * mine + (1 - decay) * theirs)
        for mine, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
            mine.copy_(theirs)


def easy_and_hard(ratio: float) -> tuple[list[int], list[int]]:
    """Eq. 9: the frames by mean entropy."""
    p = asked(net(), whole())
    entropy = -(p * p.log()).sum(dim=1).mean(dim=(1, 2))
    order = entropy.argsort().tolist()
    count = max(1, math.floor(ratio * FRAMES))
    return sorted(order[:count]), sorted(order[count:])


# --- the paper's text ---------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen classifier", "all learn"])
def test_align_of_the_text(frozen: bool, tmp_path: Path) -> None:
    settings = AtpConfig(align_frozen_classifier=frozen)
    model = net().train()
    optimizer, draw = (
        sgd(model, classifier=not frozen),
        batches(Streams((range(FRAMES),)), PAPER_TRAINING),
    )
    for step in range(STEPS):
        p = full(model, draw(step).clean).softmax(dim=1)
        h = -(p * p.log()).sum(dim=1) / math.log(K)
        loss = 0.002 * ((1 - h) ** 3 * h).mean()
        for image, uncertain in zip(p, h, strict=True):  # eq. 3, an image at a time
            w = (-3 * uncertain).exp()
            p_hat = (image * w).sum(dim=(1, 2)) / w.sum()
            loss = loss + (p_hat * p_hat.log()).sum() / len(p)
        loss.backward()
        take(optimizer, model)
    assert_restated(ours(AlignStage, settings, PAPER_TRAINING, tmp_path), model)


def labels_of_the_confident(model: SegmentationNetwork) -> Tensor:
    """Eq. 4 over all frames, (frames, H, W); confidences compared by their bins of log-odds."""
    confidence, labels = asked(model, whole()).max(dim=1)
    bins = ((torch.logit(confidence.float()).clamp(-8, 16) + 8) * 4096 / 24).long().clamp(max=4095)
    for c in labels.unique().tolist():
        inside = labels == c
        ranked = sorted(bins[inside].tolist(), reverse=True)
        needed = ranked[max(1, math.floor(0.65 * len(ranked))) - 1]
        labels[inside & (bins < needed)] = 255
    return labels


def cropped(maps: Tensor, batch: Batch) -> Tensor:
    """Maps of whole frames under a batch's crops, which are whole frames, some mirrored."""
    rows = zip(batch.frames, batch.crops, strict=True)
    return torch.stack([maps[f].flip(1) if crop.flip else maps[f] for f, crop in rows])


def test_teach_of_the_text(tmp_path: Path) -> None:
    model = net().train()
    optimizer, draw = (
        sgd(model, classifier=True),
        batches(Streams((range(FRAMES),)), PAPER_TRAINING),
    )
    for step in range(STEPS):
        if step % 2 == 0:  # two batches of three are an epoch
            stored = labels_of_the_confident(model)
        batch = draw(step)
        z = full(model, batch.clean)
        p = z.softmax(dim=1)
        positive = F.cross_entropy(z, cropped(stored, batch), ignore_index=255)
        unlikely = p.detach() < 0.05
        negative = -(1 - p.where(unlikely, torch.zeros(()).double())).log().sum(dim=1).mean()
        (positive + negative).backward()
        take(optimizer, model)
    assert_restated(ours(TeachStage, AtpConfig(), PAPER_TRAINING, tmp_path), model)


@pytest.mark.parametrize("target", ["frames", "mixed"], ids=["atp", "das3"])
def test_propagate_of_the_text(target: str, tmp_path: Path) -> None:
    settings = AtpConfig(target=target, easy_ratio=0.34)
    easy, hard = easy_and_hard(0.34)
    assert (len(easy), len(hard)) == (2, 4)
    model = net().train()
    act_as_labels = asked(model, whole()).argmax(dim=1)
    optimizer, draw = sgd(model, classifier=True), batches(Streams((hard, easy)), PAPER_TRAINING)
    for step in range(STEPS):
        batch = draw(step)
        of_hard, of_easy = batch.part(0, 3), batch.part(3, 6)
        assert set(of_hard.frames) <= set(hard)
        assert set(of_easy.frames) <= set(easy)
        torch.manual_seed(seed_of(SEED, step, 0))
        labels = asked(model, of_hard.clean).argmax(dim=1)  # M' is the current model
        masks = torch.stack([half_of_the_classes(image) for image in labels])
        under = [2, 0, 1]
        mixed = of_hard.augmented.where(masks[..., None], of_hard.augmented[under])
        if target == "mixed":
            clean = of_hard.clean.where(masks[..., None], of_hard.clean[under])
            labels = asked(model, clean).argmax(dim=1)
        else:
            labels = labels.where(masks, labels[under])
        F.cross_entropy(full(model, mixed), labels).backward()
        y = cropped(act_as_labels, of_easy)
        F.cross_entropy(full(model, of_easy.clean), y).backward()
        take(optimizer, model)
    assert_restated(ours(PropagateStage, settings, PAPER_TRAINING, tmp_path), model)


# --- the authors' later code --------------------------------------------------------------------


def test_align_of_the_authors_code(tmp_path: Path) -> None:
    model = net().train()
    head = [p for n, p in model.named_parameters() if n.startswith("classifier")]
    body = [p for p in model.parameters() if all(p is not other for other in head)]
    optimizer = torch.optim.AdamW(body, lr=3e-3, betas=(0.9, 0.999), weight_decay=0.01)
    draw = batches(Streams((range(FRAMES),)), AUTHORS_TRAINING)
    for step in range(STEPS):
        p = full(model, draw(step).augmented).softmax(dim=1)
        h = -(p * p.log()).sum(dim=1) / math.log(K)
        w = (-3 * h).exp().detach()
        p_hat = (p * w[:, None]).sum(dim=(0, 2, 3)) / w.numel()
        diversity = (p_hat * p_hat.log()).sum() / math.log(K)
        (0.001 * ((1 - h) ** 5 * h).mean() + 1e-4 * diversity).backward()
        take(optimizer, model)
    assert_restated(ours(AlignStage, AUTHORS, AUTHORS_TRAINING, tmp_path), model)


def test_teach_of_the_authors_code(tmp_path: Path) -> None:
    model, teacher = net().train(), net()
    optimizer, draw = adamw(model), batches(Streams((range(FRAMES),)), AUTHORS_TRAINING)
    for step in range(STEPS):
        batch = draw(step)
        labels = asked(teacher, batch.clean).argmax(dim=1)  # every pixel has one
        z = full(model, batch.augmented)
        p = z.softmax(dim=1)
        absent = p.where(p.detach() < 0.04, torch.zeros(()).double()).sum(dim=1)
        assert (absent > 0).any()
        (F.cross_entropy(z, labels) - (1 - absent).log().mean()).backward()
        take(optimizer, model)
        average(teacher, model, min(1 - 1 / (step + 2), CAP))
    assert_restated(ours(TeachStage, AUTHORS, AUTHORS_TRAINING, tmp_path), model)


def weighted_pixel_by_pixel(z: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Mean over all pixels of w CE, in plain Python."""
    total, count = 0.0, 0
    for image, y, w in zip(z, labels, weights, strict=True):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                scores = image[:, row, column].tolist()
                top = max(scores)
                log_sum = top + math.log(sum(math.exp(score - top) for score in scores))
                total += w[row, column].item() * (log_sum - scores[int(y[row, column])])
                count += 1
    return total / count


def authors_mixture(
    batch: Batch, teacher: SegmentationNetwork
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels and weights of the hard rows 0, 2, ..., and labels of the easy ones."""
    p_hard, p_easy = asked(teacher, batch.clean[0::2]), asked(teacher, batch.clean[1::2])
    confidence, hard = p_hard.max(dim=1)
    easy = p_easy.argmax(dim=1)
    masks = torch.stack([half_of_the_classes(image) for image in easy])
    share = sum(float(c >= CONFIDENT) for c in confidence.flatten()) / confidence.numel()
    weights = torch.full(hard.shape, share).double().masked_fill(masks, 1.0)
    images = batch.augmented[1::2].where(masks[..., None], batch.augmented[0::2])
    return images, easy.where(masks, hard), weights, easy


def test_propagate_of_the_authors_code(tmp_path: Path) -> None:
    easy, hard = easy_and_hard(0.3)
    model, teacher = net().train(), net()
    optimizer, shares = adamw(model), set[float]()
    draw = batches(Streams((hard, easy), in_turn=True), AUTHORS_TRAINING)
    for step in range(STEPS):
        batch = draw(step)
        for start in (0, 2):  # a hard and an easy frame in each forward pass
            torch.manual_seed(seed_of(SEED, step, start))
            pair = batch.part(start, start + 2)
            images, labels, weights, of_easy = authors_mixture(pair, teacher)
            shares.add(weights.min().item())
            z = full(model, torch.cat([images, pair.augmented[1:]]))
            on_hard = F.cross_entropy(z[:1], labels, reduction="none")
            loss = (weights * on_hard).mean() + F.cross_entropy(z[1:], of_easy)
            p = z.softmax(dim=1)
            absent = p.where(p.detach() < 0.04, torch.zeros(()).double()).sum(dim=1)
            loss = loss - (1 - absent).log().mean(dim=(1, 2)).sum()  # of either, as in Teach
            (loss / 2).backward()  # the mean over the two frames of each kind
        take(optimizer, model)
        average(teacher, model, min(1 - 1 / (step + 2), CAP))
    assert len(shares) > 5
    assert 0 < max(shares) < 1
    assert_restated(ours(PropagateStage, AUTHORS, AUTHORS_TRAINING, tmp_path), model)


def test_the_authors_propagate_is_a_loop_over_pixels(tmp_path: Path) -> None:
    easy, hard = easy_and_hard(0.3)
    model, stage = net(), PropagateStage(AUTHORS)
    config = RunConfig(method="atp", training=AUTHORS_TRAINING)
    context = stage_context(tmp_path, frames(), NORMALISE, config)
    stage.begin(model, replace(context, normalise=normalised))  # type: ignore[arg-type]
    batch = batches(Streams((hard, easy), in_turn=True), AUTHORS_TRAINING)(1)
    teacher = net()
    torch.manual_seed(7)
    images, labels, weights, of_easy = authors_mixture(batch, teacher)
    view = batch.augmented.clone()
    view[0::2] = images
    with torch.no_grad():
        z = full(copy.deepcopy(model).train(), view)
    torch.manual_seed(7)
    terms = stage.losses(batch)
    ones = torch.ones(of_easy.shape)
    assert terms["hard"].item() == pytest.approx(
        weighted_pixel_by_pixel(z[0::2], labels, weights), rel=1e-6
    )
    assert terms["easy"].item() == pytest.approx(
        weighted_pixel_by_pixel(z[1::2], of_easy, ones), rel=1e-6
    )
    pixels = z.softmax(dim=1).permute(0, 2, 3, 1).flatten(0, 2).tolist()
    denied = [math.log(1 - sum(p for p in pixel if p < 0.04)) for pixel in pixels]
    assert terms["negative"].item() == pytest.approx(-2 * sum(denied) / len(denied), rel=1e-6)


# --- what a step is made of ---------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4])
@pytest.mark.parametrize("mix", ["none", "classmix"])
def test_terms_and_gradient_do_not_depend_on_the_micro_batch_but_for_batch_norm_and_mixing(
    micro_batch: int, mix: str, tmp_path: Path
) -> None:
    training = TrainingConfig(batch_size=4)
    found = []
    for passes_of in (4, micro_batch):
        model = build_network("tiny_network:build", K, dropout=0.0, norm=False).double()
        torch.manual_seed(1)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        stage = PropagateStage(AtpConfig(mix=mix, weight_easy=0.7, propagate_negative=0.3))
        config = RunConfig(method="atp", training=training)
        context = stage_context(tmp_path, frames(), NORMALISE, config)
        stage.begin(model, replace(context, normalise=normalised))  # type: ignore[arg-type]
        batch = batches(stage.streams(range(FRAMES)), training)(0)
        passes = Passes(model, stage, build_optimizer(stage, model, training), SEED)
        precision = Precision("fp32", torch.device("cpu"))
        losses, _ = passes.backward(batch, 0, passes_of, precision)
        found.append((losses, model.get_parameter("first.weight").grad))
    (whole_losses, gradient), (losses, parts) = found
    assert losses["easy"] == pytest.approx(whole_losses["easy"], rel=1e-5)
    if mix == "none" or micro_batch == 4:
        assert losses == pytest.approx(whole_losses, rel=1e-5)
        torch.testing.assert_close(parts, gradient, rtol=1e-5, atol=1e-7)


def seen_by(stage: Stage, batch: Batch, tmp_path: Path) -> list[Tensor]:
    """Images of every forward pass in train mode, as uint8."""
    taken: list[Tensor] = []
    model = net()
    config = RunConfig(method="atp", training=PAPER_TRAINING)
    context = stage_context(tmp_path, frames(), NORMALISE, config)

    def normalise(images: Tensor) -> Tensor:
        if model.training:
            taken.append(images)
        return normalised(images)

    stage.begin(model, replace(context, normalise=normalise))  # type: ignore[arg-type]
    stage.prepare()
    taken.clear()
    stage.losses(batch)
    return taken


@pytest.mark.parametrize("kind", [AlignStage, TeachStage])
def test_align_and_teach_of_the_text_see_no_noise(
    kind: Callable[[AtpConfig], Stage], tmp_path: Path
) -> None:
    batch = batches(Streams((range(FRAMES),)), PAPER_TRAINING)(0)
    assert not torch.equal(batch.clean, batch.augmented)
    assert torch.equal(seen_by(kind(AtpConfig()), batch, tmp_path)[-1], batch.clean)
    noisy = AtpConfig(augment_frames="all")
    assert torch.equal(seen_by(kind(noisy), batch, tmp_path)[-1], batch.augmented)


@pytest.mark.parametrize("which", ["hard", "all"])
def test_propagate_adds_noise_to_hard_frames_alone_or_to_all(which: str, tmp_path: Path) -> None:
    easy, hard = easy_and_hard(0.5)
    batch = batches(Streams((hard, easy)), PAPER_TRAINING)(0)
    stage = PropagateStage(AtpConfig(augment_frames=which, mix="none"))
    images = seen_by(stage, batch, tmp_path)[-1]
    assert torch.equal(images[:3], batch.augmented[:3])
    assert torch.equal(images[3:], (batch.clean if which == "hard" else batch.augmented)[3:])


@pytest.mark.parametrize("teacher", ["current", "ema", "frozen"])
def test_m_prime_is_the_current_model_its_average_or_that_of_the_start(
    teacher: str, tmp_path: Path
) -> None:
    model = net()
    stage = PropagateStage(AtpConfig(propagate_teacher=teacher, teacher_decay=0.9, mix="none"))
    config = RunConfig(method="atp", training=PAPER_TRAINING)
    context = stage_context(tmp_path, frames(), NORMALISE, config)
    stage.begin(model, replace(context, normalise=normalised))  # type: ignore[arg-type]
    start, mean = net(), net()
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.5 * torch.randn(parameter.shape).double()
            model.get_buffer("first_norm.running_mean").add_(0.1)
        stage.after_step()
        average(mean, model)
    expected = {"current": model, "ema": mean, "frozen": start}[teacher]
    said = F.interpolate(
        stage._says(whole()).values, SIZE, mode="bilinear", align_corners=False
    ).softmax(dim=1)
    torch.testing.assert_close(said, asked(expected, whole()), rtol=1e-6, atol=1e-9)
    others = {"current": model, "ema": mean, "frozen": start}
    del others[teacher]
    for other in others.values():
        assert not torch.allclose(said, asked(other, whole()), atol=1e-2)
    assert model.training
    assert all(not n.startswith("teacher") for n in stage.state()) == (teacher != "ema")


def test_the_streams_are_one_where_all_frames_are_easy(tmp_path: Path) -> None:
    stage = PropagateStage(AtpConfig(easy_ratio=1.0))
    config = RunConfig(method="atp", training=PAPER_TRAINING)
    stage.begin(net().float(), stage_context(tmp_path, frames(), NORMALISE, config))
    assert stage.streams(range(FRAMES)) == Streams((range(FRAMES),))
    batch = batches(stage.streams(range(FRAMES)), PAPER_TRAINING)(0)
    terms = stage.losses(batch)
    z = full(net().train(), batch.clean)
    y = cropped(asked(net(), whole()).argmax(dim=1), batch)
    assert terms["easy"].item() == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-4)
    assert terms["hard"].item() == 0
