"""Nightshift on the tiny network: against restatements, its switches, rounds, runs, resumption."""

from __future__ import annotations

import copy
import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, CropSampler
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.data.view_sizes import scaled_size
from roadshift.adapt.losses.nightshift import nightshift_terms
from roadshift.adapt.methods import Stage, build_stages, resolve_config
from roadshift.adapt.methods.atp import AlignStage
from roadshift.adapt.methods.nightshift import Nightshift, NightshiftConfig, NightshiftStage
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.pseudo_labels.class_balance import sqrt_inverse_weights
from roadshift.adapt.run.config import AugmentConfig, RunConfig, TrainingConfig, validate
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.bundle import Bundle, InputSpec
from roadshift.runtime.errors import ConfigError, RunInterrupted
from run_cases import (
    Killed,
    Polls,
    adapted,
    assert_same,
    history_of,
    kill_at,
    stage_context,
    values,
)
from safetensors.torch import load_file
from torch import Tensor

WIDTH, HEIGHT, FRAMES, K = 24, 16, 5, 4
SIZE = (HEIGHT, WIDTH)
BN_BATCH = 2  # frames a batch of batch-norm re-estimation: two, and three
NORMALISE = Normalise(InputSpec(width=WIDTH, height=HEIGHT, mean=(120,) * 3, std=(60,) * 3))
HALF_PRECISION = 2.0**-11  # what labels lose on disk
Settings = Callable[..., RunConfig]


def net(seed: int = 0, dropout: float = 0.0) -> SegmentationNetwork:
    """The tiny network, sure enough of itself for several classes to win."""
    torch.manual_seed(seed)
    model = build_network("tiny_network:build", K, dropout=dropout)
    with torch.no_grad():
        model.get_parameter("classifier.weight").mul_(4)
    return model


def frames() -> FrameSet:
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (FRAMES, 4, 6, 3)).repeat(4, axis=1).repeat(4, axis=2)
    pixels = (blocks + rng.normal(0, 10, blocks.shape)).clip(0, 255).astype(np.uint8)
    return FrameSet([f"f{i}" for i in range(FRAMES)], WIDTH, HEIGHT, pixels.__getitem__)


def context(folder: Path, bn_batch_size: int = BN_BATCH) -> Context:
    return stage_context(
        folder, frames(), NORMALISE, RunConfig(method="nightshift", bn_batch_size=bn_batch_size)
    )


def begun(
    folder: Path, model: SegmentationNetwork, share: float | None = 1.0, **settings: Any
) -> NightshiftStage:
    chosen = validate(
        NightshiftConfig, {"align": False, "scales": (1.0,), **settings}, "nightshift"
    )
    (stage,) = Nightshift.stages(chosen)
    assert isinstance(stage, NightshiftStage)
    stage.begin(model, replace(context(folder), statistics_share=share))
    return stage


def drawn(step: int = 0, size: int = 3) -> Batch:
    """Frames as the trainer draws them: some mirrored, all with noise."""
    training = TrainingConfig(batch_size=size)
    return CropSampler(frames(), training, AugmentConfig(), seed=0).batch(step)


def folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("soft_labels-*"))


def stored(folder: Path, count: int = FRAMES) -> Tensor:
    """The labels in a folder, (N, K, H / 4, W / 4)."""
    assert len(list(folder.iterdir())) == count
    arrays = [np.load(folder / f"{i:06d}.npz")["answer"] for i in range(count)]
    return torch.from_numpy(np.stack(arrays).astype(np.float32))


# --- labels: restated ---------------------------------------------------------------------------

ARCHITECTURE = ("first", "second")  # of `tiny_network`: a convolution and its norm each


@torch.no_grad()
def reestimated(
    model: SegmentationNetwork, clean: Tensor, batch_size: int, normalise: Normalise = NORMALISE
) -> SegmentationNetwork:
    """A copy whose batch norm holds the mean of the batches' own means and unbiased variances."""
    model = copy.deepcopy(model).eval()
    layers = [(model.get_submodule(n), model.get_submodule(f"{n}_norm")) for n in ARCHITECTURE]
    found: list[list[tuple[Tensor, Tensor]]] = [[], []]
    starts = range(0, len(clean) - 1, batch_size)  # a last frame is never alone
    for start, stop in itertools.pairwise([*starts, len(clean)]):
        x = normalise(clean[start:stop])
        for (convolution, norm), statistics in zip(layers, found, strict=True):
            x = convolution(x)
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
            count = x.numel() / x.shape[1]
            statistics.append((mean, variance * count / (count - 1)))
            unit = (x - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
            x = (unit * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()
    for (_, norm), statistics in zip(layers, found, strict=True):
        means, variances = zip(*statistics, strict=True)
        norm.running_mean.copy_(torch.stack(means).mean(dim=0))
        norm.running_var.copy_(torch.stack(variances).mean(dim=0))
    return model


@torch.no_grad()
def expected_labels(
    teacher: SegmentationNetwork,
    clean: Tensor,
    scales: tuple[float, ...],
    mirror: bool,
    normalise: Normalise = NORMALISE,
) -> Tensor:
    """Frame by frame and view by view, then the mean of every 4x4 pixels."""
    found = []
    for image in clean:
        views = []
        for scale in scales:
            x = normalise(image[None])
            size = scaled_size(*x.shape[2:], scale)
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            for turned in [False, True] if mirror else [False]:
                logits = teacher(x.flip(3) if turned else x).logits
                full = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
                p = full.softmax(dim=1)
                views.append(p.flip(3) if turned else p)
        found.append(F.avg_pool2d(torch.stack(views).mean(dim=0), 4)[0])
    return torch.stack(found)


def clean_frames(of: FrameSet) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(of.image(i))) for i in range(len(of))])


@pytest.mark.parametrize(
    ("scales", "mirror"), [((1.0, 0.75, 1.25, 1.5), True), ((1.0, 0.5), False), ((1.0,), True)]
)
def test_labels_are_the_mean_over_the_views_of_a_copy_with_the_frames_statistics(
    tmp_path: Path, scales: tuple[float, ...], mirror: bool
) -> None:
    begun(tmp_path, net(), scales=scales, mirror=mirror)
    (folder,) = folders(tmp_path)
    clean = clean_frames(frames())
    expected = expected_labels(reestimated(net(), clean, BN_BATCH), clean, scales, mirror)
    labels = stored(folder)
    torch.testing.assert_close(labels, expected, rtol=0, atol=HALF_PRECISION)
    as_it_came = expected_labels(net().eval(), clean, scales, mirror)
    assert (labels - as_it_came).abs().max() > 20 * HALF_PRECISION
    assert len(labels.argmax(dim=1).unique()) > 2


def test_labelling_leaves_the_student_alone_and_ready_to_learn(tmp_path: Path) -> None:
    model, before = net(), copy.deepcopy(net().state_dict())
    torch.manual_seed(1)
    draws = torch.get_rng_state()
    begun(tmp_path, model.eval())
    assert_same(model.state_dict(), before)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), draws)


def test_labels_are_taken_up_where_all_that_they_follow_from_is_the_same(tmp_path: Path) -> None:
    begun(tmp_path, net())
    (folder,) = folders(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    for same in ({"class_balance": "none"}, {"mix": "none"}, {"weight_entropy": 1.0}):
        begun(tmp_path, net(), **same)
    assert folders(tmp_path) == [folder]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    begun(tmp_path, net(), scales=(0.5,))
    begun(tmp_path, net(), mirror=False)
    begun(tmp_path, net(seed=1))
    other_batches = context(tmp_path, bn_batch_size=FRAMES)
    NightshiftStage(NightshiftConfig(scales=(1.0,)), 0).begin(net(), other_batches)
    assert len(folders(tmp_path)) == 5


# --- losses: restated ---------------------------------------------------------------------------


def mixed(images: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's pixels of half of its classes over the image before it, a pixel at a time.

    The classes are drawn from torch's generator, image by image.
    """
    labels = q.argmax(dim=1).tolist()
    new_images, new_q = images.clone(), q.clone()
    for i, image in enumerate(labels):
        present = sorted({c for row in image for c in row})
        order = torch.randperm(len(present)).tolist()[: math.ceil(len(present) / 2)]
        pasted = {present[place] for place in order}
        for y, row in enumerate(image):
            for x, c in enumerate(row):
                if c not in pasted:
                    new_images[i, y, x] = images[i - 1, y, x]
                    new_q[i, :, y, x] = q[i - 1, :, y, x]
    return new_images, new_q


def seen_by(model: SegmentationNetwork) -> list[Tensor]:
    """A list of the images that the model is given from now on."""
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    return seen


SWITCHES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "without weights": {"class_balance": "none"},
    "without mixing": {"mix": "none"},
    "with entropy": {"weight_entropy": 0.3},
    "without either, with entropy": {
        "class_balance": "none",
        "mix": "none",
        "weight_entropy": 0.7,
    },
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_loss_is_that_of_mixed_images_and_labels_and_a_switch_changes_its_part_alone(
    tmp_path: Path, switch: str
) -> None:
    chosen = SWITCHES[switch]
    model, student, batch = net(), net().train(), drawn()
    assert {crop.flip for crop in batch.crops} == {False, True}
    stage = begun(tmp_path, model, **chosen)
    (folder,) = folders(tmp_path)

    images, q = batch.augmented, stage.labels.crops(batch)
    weights = torch.ones(K)
    if "class_balance" not in chosen:
        weights = sqrt_inverse_weights(stored(folder).mean(dim=(0, 2, 3)))
        assert weights.max() > 1.2 * weights.min()
    torch.manual_seed(3)
    if "mix" not in chosen:
        images, q = mixed(images, q)
        changed = (images != batch.augmented).any(dim=3).float().mean(dim=(1, 2))
        assert ((changed > 0) & (changed < 1)).all()
        assert changed.mean() > 0.2
    expected = nightshift_terms(
        student(NORMALISE(images)).logits,
        q,
        SIZE,
        align_corners=False,
        class_weights=weights,
        weight_entropy=chosen.get("weight_entropy", 0.0),
    )
    next_draw = torch.rand(())

    seen = seen_by(model)
    torch.manual_seed(3)
    ours = stage.losses(batch)
    assert torch.equal(torch.rand(()), next_draw)  # as many draws, none without mixing
    (given,) = seen
    assert torch.equal(given, NORMALISE(images))
    assert values(ours) == pytest.approx(values(expected), rel=1e-5)
    assert list(ours) == ["soft", "entropy"][: 1 + ("weight_entropy" in chosen)]
    torch.stack(list(ours.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    for (name, one), other in zip(model.named_parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert_same(dict(model.named_buffers()), dict(student.named_buffers()))


@pytest.mark.parametrize(
    ("share", "asked", "balanced"),
    [
        *((1.0, "auto", True), (None, "auto", True), (0.3, "auto", False)),
        *((0.3, "sqrt_inverse", True), (1.0, "none", False)),
    ],
)
def test_rare_classes_count_more_where_all_statistics_are_the_frames_own_or_it_is_asked_for(
    tmp_path: Path, share: float | None, asked: str, balanced: bool
) -> None:
    stage = begun(tmp_path, net(), share, class_balance=asked)
    assert bool((stage.weights != 1).any()) is balanced


def test_a_frame_alone_is_learned_as_it_is(tmp_path: Path) -> None:
    model = net()
    stage = begun(tmp_path, model)
    seen = seen_by(model)
    alone = drawn().part(1, 2)
    stage.losses(alone)
    assert torch.equal(seen[0], NORMALISE(alone.augmented))


def test_steps_lead_the_student_towards_the_labels(tmp_path: Path) -> None:
    model = net()
    stage = begun(tmp_path, model, mix="none")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    history = []
    for _ in range(8):
        loss = stage.losses(drawn())["soft"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] - 0.02


# --- rounds -------------------------------------------------------------------------------------

WHOLE = ("training.crop_share=1.0", "training.lr=1e-2")
TWO = NightshiftConfig(align=False, rounds=2, scales=(1.0, 0.75))


def rounds(settings: NightshiftConfig = TWO) -> list[Stage]:
    return list(Nightshift.stages(settings))


def test_every_round_labels_with_the_model_that_it_starts_from(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(net(), rounds(), *WHOLE, "training.steps=4")
    trainer.run()
    where = trainer.context
    names = [line["stage"] for line in history_of(where.workdir)]
    assert names == ["nightshift 1"] * 2 + ["nightshift 2"] * 2
    clean, batch_size = clean_frames(where.frames), where.config.bn_batch_size
    labels = [stored(folder, len(clean)) for folder in folders(where.workdir)]
    assert len(labels) == 2
    expected = []
    for number in range(2):
        model = net()
        model.load_state_dict(load_file(where.workdir / f"stage-{number}.safetensors"))
        teacher = reestimated(model, clean, batch_size, where.normalise)
        expected.append(expected_labels(teacher, clean, TWO.scales, TWO.mirror, where.normalise))
    assert (expected[0] - expected[1]).abs().max() > 20 * HALF_PRECISION
    distances = [[(ours - other).abs().max().item() for other in expected] for ours in labels]
    assert sorted(row.index(min(row)) for row in distances) == [0, 1]
    assert max(map(min, distances)) < HALF_PRECISION


def test_a_single_round_has_no_number_and_each_round_its_share_of_the_steps() -> None:
    def shares(*assignments: str) -> dict[str, int]:
        stages = build_stages(resolve_config("nightshift", assignments=assignments))
        return {stage.name: stage.share for stage in stages}

    assert shares() == {"align": 1, "nightshift": 2}
    assert shares("nightshift.align=false") == {"nightshift": 2}
    assert shares("nightshift.rounds=2") == {"align": 1, "nightshift 1": 2, "nightshift 2": 2}


def test_align_is_atps_with_the_weights_for_small_data() -> None:
    align = build_stages(resolve_config("nightshift"))[0]
    atps = build_stages(resolve_config("atp"))[0]
    assert isinstance(align, AlignStage)
    assert isinstance(atps, AlignStage)
    assert align.weights == atps.weights
    assert align.weights.entropy == 10 * align.weights.diversity


# --- runs ---------------------------------------------------------------------------------------

SMALL = ("training.steps=5", "nightshift.scales=[1.0]")  # one of Align, four of distillation


@pytest.mark.parametrize(
    ("assignments", "terms"),
    [
        ((), {"soft", "total"}),
        (("nightshift.weight_entropy=0.1",), {"soft", "entropy", "total"}),
        (("training.micro_batch=1", "training.amp=bf16"), {"soft", "total"}),
    ],
    ids=["as it is", "entropy", "bf16, a frame at a time"],
)
def test_a_run_writes_its_terms_and_moves_every_weight(
    assignments: tuple[str, ...],
    terms: set[str],
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    settings: Settings,
) -> None:
    config = settings(*SMALL, *assignments, method="nightshift")
    weights = adapted(source, frames_dir, config, tmp_path / "out")
    before = load_file(source.path / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not any(torch.equal(weights[name], before[name]) for name in before)
    history = history_of(tmp_path / "out")
    assert [(line["stage"], line["step"]) for line in history] == [
        ("align", 1),
        *(("nightshift", step) for step in range(2, 6)),
    ]
    assert history[0]["losses"].keys() == {"entropy", "diversity", "total"}
    for line in history[1:]:
        losses = line["losses"]
        assert losses.keys() == terms
        assert losses["total"] == pytest.approx(sum(losses.values()) - losses["total"], rel=1e-6)
        assert losses["soft"] > 0.5  # nats; labels of four classes are far from sure


@pytest.mark.usefixtures("one_thread")
def test_a_run_goes_on_exactly_wherever_it_was_killed_and_whether_its_labels_are_left(
    make_trainer: Callable[..., Trainer],
) -> None:
    steps = (*WHOLE, "training.steps=6")  # three a round
    whole = net(dropout=0.2)
    trainer = make_trainer(whole, rounds(), *steps)
    workdir = trainer.context.workdir
    trainer.run()
    history = history_of(workdir)

    def lose_labels() -> None:
        for folder in folders(workdir):
            shutil.rmtree(folder)

    for at in range(1, 6):
        lose_labels()
        dying = make_trainer(
            net(dropout=0.2), rounds(), *steps, report=kill_at(at), checkpoint_every_s=0
        )
        with pytest.raises(Killed):
            dying.run()
        if at % 2 == 0:
            lose_labels()
        resumed = net(seed=5, dropout=0.2)  # whatever the model holds, the checkpoint counts
        make_trainer(resumed, rounds(), *steps, resume=True).run()
        assert_same(resumed.state_dict(), whole.state_dict())
        assert history_of(workdir) == history


@pytest.mark.usefixtures("one_thread")
def test_a_run_stopped_between_rounds_or_while_it_labels_goes_on_exactly(
    source: Bundle, frames_dir: Path, tmp_path: Path, settings: Settings
) -> None:
    polls = Polls()
    config = settings(*SMALL, "tone=none", "nightshift.rounds=2", method="nightshift")
    whole = adapted(source, frames_dir, config, tmp_path / "whole", stop_requested=polls.stop_at(0))
    decoded, statistics, labels, steps = 6, 2, 6, 2  # frames, batches of three, frames, steps
    align, a_round = 1, statistics + labels + steps
    assert polls.count == decoded + statistics + align + 2 * a_round + statistics
    first = decoded + statistics + align
    second = first + a_round
    for number in (
        first,  # after Align
        first + statistics + 3,  # the first round's labels
        second,  # after its last step
        second + 1,  # the second round's teacher
        second + statistics + 3,  # and its labels
        second + a_round + 1,  # the last statistics
    ):
        out = tmp_path / f"out-{number}"
        with pytest.raises(RunInterrupted, match="resume=True"):
            adapted(source, frames_dir, config, out, stop_requested=polls.stop_at(number))
        assert_same(adapted(source, frames_dir, config, out, resume=True), whole)
        assert history_of(out) == history_of(tmp_path / "whole")


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("scales=[]", "scales must hold at least one number, all above 0"),
        ("scales=[1.0,0.0]", "scales must hold at least one number, all above 0"),
        ("scales=[1.0,-0.5]", "scales must hold at least one number, all above 0"),
        ("scales=[inf]", r"scales\.0: Input should be a finite number"),
        ("rounds=0", "rounds: Input should be greater than or equal to 1"),
        ("class_balance=rare", "class_balance: Input should be 'auto', 'sqrt_inverse' or 'none'"),
        ("mix=cutmix", "mix: Input should be 'classmix' or 'none'"),
        ("weight_entropy=-0.1", "weight_entropy: Input should be greater than or equal to 0"),
        ("mirror=sometimes", "mirror: Input should be a valid boolean"),
        ("temperature=2", "unknown key 'temperature'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(assignment: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"section nightshift: .*{sentence}"):
        resolve_config("nightshift", assignments=[f"nightshift.{assignment}"])
