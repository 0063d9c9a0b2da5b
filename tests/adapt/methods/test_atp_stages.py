"""ATP and DAS3 as stages on the tiny network: against restatements, switches, runs, resumption."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, Crop, CropSampler
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.data.mixing import classmix_masks, cutmix_masks
from roadshift.adapt.losses.atp import AlignWeights, align_terms, regional_contrast, teach_terms
from roadshift.adapt.methods import Stage, resolve_config
from roadshift.adapt.methods.atp import AUTHORS_CODE, AlignStage, TeachStage, stages_of
from roadshift.adapt.methods.atp_config import AtpConfig
from roadshift.adapt.methods.das3 import Das3Config
from roadshift.adapt.methods.propagate import PropagateStage
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import Output, SegmentationNetwork, build_network
from roadshift.adapt.run.config import AugmentConfig, RunConfig, TrainingConfig, validate
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.work import Work
from roadshift.adapt.training.trainer import Trainer
from roadshift.adapt.workflows.method_variants import choose_variants
from roadshift.runtime.bundle import Bundle, InputSpec
from roadshift.runtime.errors import ConfigError, NetworkError, RunInterrupted
from run_cases import (
    Killed,
    Polls,
    adapted,
    assert_same,
    block_frames,
    history_of,
    kill_at,
    sgd_steps,
    stage_context,
    values,
)
from torch import Tensor

WIDTH, HEIGHT, FRAMES, K = 24, 16, 6, 4
SIZE = (HEIGHT, WIDTH)
WHOLE = ("training.crop_share=1.0", "augment.policy=jitter")
NORMALISE = Normalise(InputSpec(width=WIDTH, height=HEIGHT, mean=(120,) * 3, std=(60,) * 3))


def net(seed: int = 0, dropout: float = 0.0) -> SegmentationNetwork:
    """The tiny network, sure enough of itself for its confidences to differ."""
    torch.manual_seed(seed)
    model = build_network("tiny_network:build", K, dropout=dropout)
    with torch.no_grad():
        model.get_parameter("classifier.weight").mul_(6)
    return model


def frames() -> FrameSet:
    return block_frames(FRAMES, WIDTH, HEIGHT)


def context(folder: Path) -> Context:
    training = TrainingConfig(batch_size=3)
    return stage_context(
        folder, frames(), NORMALISE, RunConfig(method="atp", bn_batch_size=4, training=training)
    )


# As "roadshift" has it: one stream of frames, all of them noisy, a teacher that stands still.
OURS: dict[str, Any] = {
    "augment_frames": "all",
    "diversity_of": "batch",
    "propagate_teacher": "frozen",
    "streams": "one",
}


def begun(kind: type[Any], folder: Path, model: SegmentationNetwork, **settings: Any) -> Any:
    stage = kind(validate(AtpConfig, {**OURS, **settings}, "atp"))
    stage.begin(model, context(folder))
    return stage


def drawn(step: int = 0) -> Batch:
    """Three frames as the trainer draws them."""
    return CropSampler(frames(), TrainingConfig(batch_size=3), AugmentConfig(), seed=0).batch(step)


def batch_of(rows: Sequence[int]) -> Batch:
    """Whole frames, not mirrored, with noise."""
    clean = torch.stack([torch.from_numpy(frames().image(i)) for i in rows])
    noise = torch.randint(-20, 21, clean.shape, generator=torch.Generator().manual_seed(0))
    augmented = (clean + noise).clamp(0, 255).to(torch.uint8)
    return Batch(
        clean, augmented, None, tuple(rows), (Crop(0, 0, WIDTH, HEIGHT, False),) * len(rows)
    )


def train(stage: Stage, model: SegmentationNetwork, steps: range) -> list[dict[str, float]]:
    groups = [{"params": group.parameters} for group in stage.parameter_groups(model, 10.0)]
    return sgd_steps(stage, groups, steps, drawn)


def shaken(model: SegmentationNetwork) -> SegmentationNetwork:
    """``model``, its weights moved."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def full(logits: Tensor) -> Tensor:
    """Logits at frame size."""
    return F.interpolate(logits, SIZE, mode="bilinear", align_corners=False)


@torch.no_grad()
def softmax(model: SegmentationNetwork, images: Tensor) -> Tensor:
    """In evaluation mode, at frame size."""
    return full(copy.deepcopy(model).eval()(NORMALISE(images)).logits).softmax(dim=1)


# --- align --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"distribution": "pixels"}, {"per_weight": False}),
        ({"detach_sharpness": True}, {"detach_weight": True}),
        ({"detach_focus": True}, {"detach_focus": True}),
        ({"align_focus": 5.0, "align_sharpness": 1.0}, {}),
    ],
    ids=str,
)
def test_align_is_its_terms_on_the_noisy_view(
    tmp_path: Path, settings: dict[str, Any], options: dict[str, bool]
) -> None:
    stage = begun(AlignStage, tmp_path, net(), align_entropy=2, align_diversity=0.5, **settings)
    focus, sharpness = settings.get("align_focus", 3.0), settings.get("align_sharpness", 3.0)
    model = net().train()
    expected = align_terms(
        model(NORMALISE(drawn().augmented)).logits,
        SIZE,
        align_corners=False,
        weights=AlignWeights(entropy=2, diversity=0.5, focus=focus, sharpness=sharpness),
        **options,
    )
    terms = stage.losses(drawn())
    assert values(terms) == pytest.approx(values(expected), rel=1e-6)
    body = [name for name, _ in model.named_parameters() if not name.startswith("classifier")]
    ours, restated = (
        torch.autograd.grad(torch.stack(list(t.values())).sum(), [*map(m.get_parameter, body)])
        for m, t in ((stage.model, terms), (model, expected))
    )
    for one, other in zip(ours, restated, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_align_moves_the_body_and_leaves_the_classifier_bit_for_bit(
    make_trainer: Callable[..., Trainer],
) -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    heavy = ("training.lr=0.1", "training.weight_decay=0.1", "training.steps=3")
    make_trainer(model, [AlignStage(AtpConfig())], *WHOLE, *heavy).run()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("classifier"), name


def test_align_spreads_the_predictions_over_the_classes(tmp_path: Path) -> None:
    model = net()
    model.get_parameter("classifier.bias").data[1] += 2
    before = softmax(model, batch_of(range(FRAMES)).clean).mean(dim=(0, 2, 3))
    train(begun(AlignStage, tmp_path, model), model, range(20))
    after = softmax(model, batch_of(range(FRAMES)).clean).mean(dim=(0, 2, 3))
    assert -(after * after.log()).sum() > -(before * before.log()).sum() + 0.05


# --- teach --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.65, 0.2, 1.0])
def test_teach_learns_the_most_confident_share_of_each_class_over_all_frames(
    tmp_path: Path, share: float
) -> None:
    stage = begun(TeachStage, tmp_path, net(), class_share=share)
    everything = batch_of(range(FRAMES))
    ours = stage.labels.of(everything)
    confidence, predicted = softmax(net(), everything.clean).max(dim=1)
    assert len(predicted.unique()) > 2
    for c in predicted.unique().tolist():
        inside, taken = confidence[predicted == c], ours[predicted == c]
        ranked = sorted(inside.tolist(), reverse=True)
        threshold = ranked[max(1, math.floor(share * len(ranked))) - 1]
        assert bool((taken[inside >= threshold] == c).all())
        assert bool((taken[inside < threshold - 0.0016] == 255).all())  # a bin below it


def test_teach_is_its_terms_on_the_noisy_view(tmp_path: Path) -> None:
    options = {"positive": 0.5, "negative": 2.0, "negative_below": 0.1}
    weights = {"weight_positive": 0.5, "weight_negative": 2.0}
    stage = begun(TeachStage, tmp_path, net(), **weights, negative_below=0.1)
    labels = begun(TeachStage, tmp_path, net()).labels.of(drawn())
    logits = net().train()(NORMALISE(drawn().augmented)).logits
    expected = teach_terms(logits, labels, SIZE, align_corners=False, **options)
    assert values(stage.losses(drawn())) == pytest.approx(values(expected), rel=1e-6)
    assert 0.2 < (labels == 255).float().mean() < 0.6


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_teach_labels_anew_at_the_ends_of_epochs(tmp_path: Path, epochs: int) -> None:
    model = net()
    stage = begun(TeachStage, tmp_path, model, refresh_epochs=epochs)
    copied = []
    for step in range(5):  # two steps of three frames are an epoch
        before = copy.deepcopy(model.state_dict())
        train(stage, model, range(step, step + 1))
        teacher = stage.labels.labeller.network.state_dict()
        if all(map(torch.equal, teacher.values(), before.values())):
            copied.append(step)
        assert len(list(tmp_path.glob("pseudo_labels-*"))) == 1  # old ones are gone
    assert copied == {0: [0], 1: [0, 2, 4], 2: [0, 4]}[epochs]


def test_teach_draws_scales_and_mirror_into_its_labels(tmp_path: Path) -> None:
    kinds = [{}, {"mirror": True}, {"scales": (1.0, 1.5)}]
    labels = [
        begun(TeachStage, tmp_path, net(), class_share=1.0, **kind).labels.of(drawn())
        for kind in kinds
    ]
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])


@pytest.mark.parametrize("at", [1, 2, 3])
def test_teach_goes_on_from_its_state_bit_for_bit(tmp_path: Path, at: int) -> None:
    model = net()
    stage = begun(TeachStage, tmp_path, model)
    train(stage, model, range(at))
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(stage.state())
    again = net()
    resumed = begun(TeachStage, tmp_path, again)
    again.load_state_dict(weights)
    resumed.load_state(state)
    rest = range(at, at + 3)
    assert train(stage, model, rest) == train(resumed, again, rest)
    assert_same(stage.state(), resumed.state())
    assert_same(model.state_dict(), again.state_dict())


# --- propagate: the split -----------------------------------------------------------------------


def mean_entropies() -> list[float]:
    """Mean entropy of every frame under the network, taken a pixel and a class at a time."""
    found = []
    for image in softmax(net(), batch_of(range(FRAMES)).clean):
        pixels = image.double().flatten(1).T.tolist()
        found.append(sum(-p * math.log(p) for pixel in pixels for p in pixel) / len(pixels))
    return found


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 3), (0.3, 1), (0.1, 1), (0.84, 5), (1.0, 6)])
def test_the_easy_frames_are_those_of_lowest_mean_entropy(
    tmp_path: Path, ratio: float, count: int
) -> None:
    stage = begun(PropagateStage, tmp_path, net(), easy_ratio=ratio)
    entropies = mean_entropies()
    assert stage.easy == set(np.argsort(entropies)[:count].tolist())
    assert stage.easy != set(range(count)) or count == FRAMES


@pytest.mark.parametrize("bit", [0, 3])
def test_kept_entropies_that_were_changed_are_noted_and_measured_again(
    tmp_path: Path, bit: int
) -> None:
    easy = begun(PropagateStage, tmp_path, net(), easy_ratio=0.5).easy
    (kept,) = tmp_path.glob("entropies-*.json")
    whole = kept.read_bytes()
    changed = bytearray(whole)
    changed[whole.rindex(b".", 0, whole.index(b"sha256")) + 1] ^= 1 << bit  # another figure
    kept.write_bytes(changed)
    notes: list[str] = []
    stage = PropagateStage(validate(AtpConfig, {"easy_ratio": 0.5}, "atp"))
    stage.begin(net(), replace(context(tmp_path), work=Work(events=Events(notes.append))))
    assert stage.easy == easy
    assert any(kept.name in note and "damaged" in note for note in notes)
    assert kept.read_bytes() == whole


# --- propagate: the terms -----------------------------------------------------------------------


def restated(
    student: SegmentationNetwork, rows: Sequence[int], easy: set[int], settings: dict[str, Any]
) -> tuple[dict[str, Tensor], Output, Tensor]:
    """The algorithm box, a frame at a time; moves ``student``'s statistics as one step does.

    Returns the terms, the student's output, and the labels that it should have given.
    """
    batch, teacher = batch_of(rows), net()
    images, clean = batch.augmented.clone(), batch.clean.clone()
    p = softmax(teacher, batch.clean)
    target, labels = p.clone(), p.argmax(dim=1)
    hard = [row for row, frame in enumerate(rows) if frame not in easy]
    mix = settings.get("mix", "classmix")
    if mix != "none" and hard:
        torch.manual_seed(0)
        masks = (classmix_masks if mix == "classmix" else cutmix_masks)(labels[hard])
        for n, row in enumerate(hard):
            inside, under = masks[n], hard[n - 1]
            for out, of in ((images, batch.augmented), (clean, batch.clean)):
                out[row] = torch.where(inside[..., None], of[row], of[under])
            target[row] = torch.where(inside, p[row], p[under])
    if settings.get("target") == "mixed" and hard:
        target[hard] = softmax(student, clean[hard])
    labels[hard] = target[hard].argmax(dim=1)
    output = student.train()(NORMALISE(images))
    log_p = full(output.logits).log_softmax(dim=1)
    zero = torch.zeros(())
    easy_losses = [
        F.nll_loss(log_p[r, None], labels[r, None]) for r in set(range(len(rows))) - set(hard)
    ]
    hard_losses = [F.nll_loss(log_p[r, None], labels[r, None]) for r in hard]
    if settings.get("consistency") == "probabilities":
        hard_losses = [-(target[r] * log_p[r]).sum(dim=0).mean() for r in hard]
    terms = {
        "easy": torch.stack(easy_losses).mean() if easy_losses else zero,
        "hard": torch.stack(hard_losses).mean() if hard_losses else zero,
    }
    return terms, output, labels


EASY, HARD = np.argsort(mean_entropies())[:3].tolist(), np.argsort(mean_entropies())[3:].tolist()
BATCHES = {
    "both": [HARD[0], EASY[1], HARD[2], EASY[0], HARD[1]],
    "all easy": EASY,
    "all hard": HARD,
    "one hard": [EASY[2], HARD[1]],
    "one hard alone": [HARD[0]],
}


@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(
    ("target", "consistency", "mix"),
    [
        ("frames", "labels", "classmix"),
        ("frames", "probabilities", "cutmix"),
        ("mixed", "labels", "none"),
        ("mixed", "probabilities", "classmix"),
    ],
)
def test_propagate_is_its_algorithm_box(
    tmp_path: Path, rows: list[int], target: str, consistency: str, mix: str
) -> None:
    model = net()
    settings = {"mix": mix, "target": target, "consistency": consistency}
    stage = begun(PropagateStage, tmp_path, model, **settings)
    shaken(model)
    student = copy.deepcopy(model)
    torch.manual_seed(0)
    ours = stage.losses(batch_of(rows))
    expected, _, _ = restated(student, rows, set(EASY), settings)
    assert values(ours) == pytest.approx(values(expected), rel=1e-5, abs=1e-7)
    torch.stack(list(ours.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, student.get_parameter(name).grad, rtol=1e-3, atol=1e-6
        )
    for name, buffer in model.named_buffers():  # one pass in train mode: the student's own
        torch.testing.assert_close(buffer, student.get_buffer(name))
    assert model.training


def test_every_setting_of_propagate_changes_the_hard_term_alone(tmp_path: Path) -> None:
    terms = []
    changes = [{}, {"mix": "cutmix"}, {"mix": "none"}, {"target": "mixed"}]
    changes += [{"consistency": "probabilities"}, {"weight_hard": 2.0}]
    for change in changes:
        model = net(dropout=0.0)
        stage = begun(PropagateStage, tmp_path, model, **change)
        model.requires_grad_(False)
        shaken(model)
        torch.manual_seed(0)
        terms.append(values(stage.losses(batch_of([HARD[0], HARD[1], HARD[2]]))))
    assert all(t["easy"] == 0 for t in terms)
    hard = [round(t["hard"], 6) for t in terms]
    assert len(set(hard)) == len(hard)
    assert hard[-1] == pytest.approx(2 * hard[0], rel=1e-5)


def test_only_the_most_confident_labels_of_the_easy_frames_count(tmp_path: Path) -> None:
    model = net()
    stage = begun(PropagateStage, tmp_path, model, easy_labels=0.4)
    confidence, labels = softmax(net(), batch_of(EASY).clean).max(dim=1)
    for c in labels.unique():
        inside = confidence[labels == c]
        threshold = inside.sort(descending=True).values[max(1, math.floor(0.4 * len(inside))) - 1]
        labels[(labels == c) & (confidence < threshold - 1e-3)] = 255
    log_p = full(net().train()(NORMALISE(batch_of(EASY).augmented)).logits).log_softmax(dim=1)
    expected = F.nll_loss(log_p, labels, ignore_index=255)
    ours = stage.losses(batch_of(EASY))["easy"]
    assert ours.item() == pytest.approx(expected.item(), rel=2e-2)
    assert ours.item() != pytest.approx(
        begun(PropagateStage, tmp_path, net()).losses(batch_of(EASY))["easy"].item(), rel=5e-2
    )


def test_the_teacher_of_propagate_stands_still(tmp_path: Path) -> None:
    model = net()
    stage = begun(PropagateStage, tmp_path, model)
    start = copy.deepcopy(model.state_dict())
    train(stage, model, range(3))
    assert_same(stage.teacher.state_dict(), start)
    assert not torch.equal(model.get_parameter("first.weight"), start["first.weight"])


# --- propagate: regional contrast ---------------------------------------------------------------


@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES)
def test_regional_contrast_sees_the_labels_of_easy_and_mixed_frames(
    tmp_path: Path, rows: list[int]
) -> None:
    model = net()
    stage = begun(PropagateStage, tmp_path, model, weight_reco=0.5, target="mixed")
    student = copy.deepcopy(shaken(model))
    torch.manual_seed(0)
    ours = stage.losses(batch_of(rows))
    terms, output, labels = restated(student, rows, set(EASY), {"target": "mixed"})
    if not set(rows) - set(EASY):
        torch.manual_seed(0)  # nothing was mixed
    confidence = output.logits.softmax(dim=1).amax(dim=1)
    nearest = (slice(None), slice(0, None, 4), slice(0, None, 4))
    assert stage.projection is not None
    expected = 0.5 * regional_contrast(
        stage.projection(output.features), labels[nearest], confidence
    )
    assert ours["contrast"].item() == pytest.approx(expected.item(), rel=1e-3)
    assert ours["contrast"].item() > 0
    assert ours["easy"].item() == pytest.approx(terms["easy"].item(), rel=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_the_projection_learns_at_the_classifiers_rate_and_comes_back_with_the_state(
    tmp_path: Path,
) -> None:
    model = net()
    torch.manual_seed(3)
    stage = begun(PropagateStage, tmp_path, model, weight_reco=1.0)
    groups = {group.name: group for group in stage.parameter_groups(model, 7.0)}
    assert groups["projection"].factor == 7.0
    assert len(groups["projection"].parameters) == 4
    start = copy.deepcopy(stage.state())
    train(stage, model, range(2))
    assert not any(map(torch.equal, stage.state().values(), start.values()))
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(stage.state())
    again = net()
    resumed = begun(PropagateStage, tmp_path, again, weight_reco=1.0)
    assert not torch.equal(resumed.state()["0.weight"], state["0.weight"])
    again.load_state_dict(weights)
    resumed.load_state(state)
    rest = range(2, 4)
    assert train(stage, model, rest) == train(resumed, again, rest)
    assert_same(stage.state(), resumed.state())


def test_without_reco_there_is_no_state_and_no_projection(tmp_path: Path) -> None:
    stage = begun(PropagateStage, tmp_path, net())
    assert stage.state() == {}
    stage.load_state({})
    assert [group.name for group in stage.parameter_groups(net(), 7.0)] == ["body", "classifier"]


def test_reco_on_a_network_without_features_says_what_to_do(tmp_path: Path) -> None:
    model = build_network("user_networks:Einsum", K)
    with pytest.raises(NetworkError, match=r"returns none: return \(logits, features\), or set"):
        begun(PropagateStage, tmp_path, model, weight_reco=1.0)
    assert not list(tmp_path.iterdir())  # before anything was labelled


# --- runs ---------------------------------------------------------------------------------------

Settings = Callable[..., RunConfig]
SMALL = ("tone=none", "training.steps=3")


SUBSETS = [
    ["align"],
    ["teach"],
    ["propagate"],
    ["align", "teach"],
    ["align", "propagate"],
    ["teach", "propagate"],
    ["align", "teach", "propagate"],
]


@pytest.mark.parametrize("stages", SUBSETS, ids="-".join)
def test_any_of_the_stages_runs_alone(
    stages: list[str], source: Bundle, frames_dir: Path, tmp_path: Path, settings: Settings
) -> None:
    method = "das3" if "propagate" in stages else "atp"
    config = settings(*SMALL, f"{method}.stages={json.dumps(stages)}", method=method)
    weights = adapted(source, frames_dir, config, tmp_path / "out")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    ran = [line["stage"] for line in history_of(tmp_path / "out")]
    assert sorted(set(ran), key=ran.index) == stages
    assert len(ran) == 3


TERMS = {
    "align": {"entropy", "diversity"},
    "teach": {"positive", "negative"},
    "propagate": {"easy", "hard"},
}


@pytest.mark.parametrize(
    ("assignment", "stage", "changed"),
    [
        ("align_entropy=0", "align", {"diversity"}),
        ("align_diversity=0", "align", {"entropy"}),
        ("weight_positive=0", "teach", {"negative"}),
        ("weight_negative=0", "teach", {"positive"}),
        ("weight_easy=0", "propagate", {"hard"}),
        ("weight_hard=0", "propagate", {"easy"}),
        ("weight_reco=0.1", "propagate", {"easy", "hard", "contrast"}),
    ],
)
def test_a_weight_of_0_takes_its_term_and_no_other_out_of_the_history(
    assignment: str,
    stage: str,
    changed: set[str],
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    settings: Settings,
) -> None:
    config = settings(*SMALL, f"atp.{assignment}", method="atp")
    adapted(source, frames_dir, config, tmp_path / "out")
    found = {
        line["stage"]: set(line["losses"]) - {"total"} for line in history_of(tmp_path / "out")
    }
    assert found == {**TERMS, stage: changed}


RESUMED = {
    "atp with reco": AtpConfig(weight_reco=0.1, mix="cutmix"),
    "das3 from mixed frames": Das3Config(consistency="probabilities"),
    "ours": AtpConfig(**OURS),
    "the authors'": AtpConfig(**AUTHORS_CODE),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("settings_of", RESUMED.values(), ids=RESUMED)
def test_a_run_goes_on_exactly_wherever_it_was_killed(
    settings_of: AtpConfig, make_trainer: Callable[..., Trainer]
) -> None:
    # Two steps a stage, each an epoch, so that Teach labels anew before its second.
    steps = (*WHOLE, "training.steps=6", "training.batch_size=6", "training.lr=1e-2")
    whole = net(dropout=0.2)
    trainer = make_trainer(whole, stages_of(settings_of), *steps)
    trainer.run()
    history = history_of(trainer.context.workdir)
    names = [line["stage"] for line in history]
    assert names == ["align"] * 2 + ["teach"] * 2 + ["propagate"] * 2

    for at in range(1, 6):
        dying = make_trainer(
            net(dropout=0.2),
            stages_of(settings_of),
            *steps,
            report=kill_at(at),
            checkpoint_every_s=0,
        )
        with pytest.raises(Killed):
            dying.run()
        resumed = net(seed=5, dropout=0.2)  # whatever the model holds, the checkpoint counts
        make_trainer(resumed, stages_of(settings_of), *steps, resume=True).run()
        assert_same(resumed.state_dict(), whole.state_dict())
        assert history_of(trainer.context.workdir) == history


@pytest.mark.usefixtures("one_thread")
def test_a_run_stopped_while_it_prepares_a_stage_goes_on_exactly(
    source: Bundle, frames_dir: Path, tmp_path: Path, settings: Settings
) -> None:
    polls = Polls()
    config = settings(*SMALL, 'atp.stages=["teach","propagate"]', "atp.scales=[1.0]", method="atp")
    whole = adapted(source, frames_dir, config, tmp_path / "whole", stop_requested=polls.stop_at(0))
    decoded = 6  # frames
    warm = 2  # batches of three frames
    labelled = 6  # frames, by each of the stages
    easy = 6  # frames whose entropy is measured
    before = decoded + warm
    assert polls.count == before + labelled + 1 + easy + labelled + 2 + warm  # one step, then two
    for number in (4, before + 2, before + labelled + 2, before + labelled + 1 + easy + 3):
        out = tmp_path / f"out-{number}"
        with pytest.raises(RunInterrupted, match="resume=True"):
            adapted(source, frames_dir, config, out, stop_requested=polls.stop_at(number))
        assert_same(adapted(source, frames_dir, config, out, resume=True), whole)


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("stages=[]", r"stages must be some of \['align', 'teach', 'propagate'\], in this order"),
        ('stages=["teach","align"]', "in this order"),
        ('stages=["align","align"]', "in this order"),
        ('stages=["learn"]', r"stages\.0: Input should be 'align', 'teach' or 'propagate'"),
        ("scales=[]", "scales must hold at least one number, all above 0"),
        ("scales=[1.0,0.0]", "scales must hold at least one number, all above 0"),
        ("class_share=0", "class_share: Input should be greater than 0"),
        ("easy_ratio=1.5", "easy_ratio: Input should be less than or equal to 1"),
        ("negative_below=1", "negative_below: Input should be less than 1"),
        ("mix=mixup", "mix: Input should be 'classmix', 'cutmix', 'none' or 'easy_"),
        ("K=0.65", "unknown key 'K'"),
    ],
)
@pytest.mark.parametrize("method", ["atp", "das3"])
def test_a_wrong_setting_is_one_sentence(method: str, assignment: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"section {method}: .*{sentence}"):
        resolve_config(method, assignments=[f"{method}.{assignment}"])


@pytest.mark.parametrize(
    ("stage", "weights"),
    [
        ("align", ("align_entropy", "align_diversity")),
        ("teach", ("weight_positive", "weight_negative")),
        ("propagate", ("weight_easy", "weight_hard", "weight_reco")),
    ],
)
def test_a_stage_without_a_term_is_refused_unless_left_out(
    stage: str, weights: tuple[str, ...]
) -> None:
    nothing = [f"atp.{weight}=0" for weight in weights]
    with pytest.raises(ConfigError, match=rf"every term of {stage} has weight 0; leave it out"):
        resolve_config("atp", assignments=nothing)
    others = [name for name in TERMS if name != stage]
    resolve_config("atp", assignments=[*nothing, f"atp.stages={json.dumps(others)}"])


@pytest.mark.parametrize("method", ["atp", "das3"])
@pytest.mark.parametrize("variant", ["paper", "roadshift"])
def test_the_variants_are_the_papers_and_ours(method: str, variant: str) -> None:
    config = resolve_config(method, assignments=[f"{method}.variant={variant}"])
    own, training = config.method_config, config.training
    assert own["stages"] == ["align", "teach", "propagate"]
    assert (own["class_share"], own["negative_below"]) == (0.65, 0.05)
    assert (own["teach_labels"], own["negative_jointly"]) == ("stored", False)
    split = {"atp": (0.5, "frames"), "das3": (0.3, "mixed")}[method]
    assert (own["easy_ratio"], own["target"], own["mix"]) == (*split, "classmix")
    align = tuple(own[f"align_{name}"] for name in ("entropy", "focus", "diversity", "sharpness"))
    paper = variant == "paper"
    assert align == ((0.002, 3.0, 1.0, 3.0) if paper else (1.0, 0.0, 0.1, 3.0))
    assert (own["distribution"], own["detach_sharpness"]) == ("weights", False)
    new = ("diversity_of", "augment_frames", "streams", "propagate_teacher")
    assert tuple(own[name] for name in new) == (
        ("image", "hard", "two", "current") if paper else ("batch", "all", "one", "frozen")
    )
    assert own["align_frozen_classifier"]
    assert (config.tone, config.warm_start) == (("none", "source") if paper else ("auto", "mixed"))
    assert (config.final_bn, config.weight_interpolation) == (
        (False, 1.0) if paper else (True, 0.5)
    )
    assert (own["easy_labels"], own["mirror"]) == ((1.0, False) if paper else (0.65, True))
    noise = {"atp": "daformer", "das3": "none"}[method]
    assert config.augment.policy == (noise if paper else "jitter")
    if paper:
        assert (training.lr, training.lr * training.classifier_lr_factor) == (2.5e-4, 2.5e-3)
        assert (training.weight_decay, training.poly_power) == (5e-4, 0.9)
        teach = training.steps // 3 * training.batch_size
        assert 9 < teach / 2975 <= 10  # epochs of Cityscapes


@pytest.mark.parametrize("method", ["atp", "das3"])
def test_the_authors_variant_is_their_later_code(method: str) -> None:
    config = resolve_config(method, assignments=[f"{method}.variant=authors"])
    own, training = config.method_config, config.training
    expected = {
        "align_focus": 5.0,
        "align_entropy": 0.001,
        "align_diversity": 1e-4,
        "diversity_over_log_classes": True,
        "distribution": "pixels",
        "detach_sharpness": True,
        "detach_focus": False,
        "negative_below": 0.04,
        "negative_jointly": True,
        "teach_labels": "online",
        "teacher_decay": 0.999,
        "teacher_ramp": True,
        "propagate_negative": 1.0,
        "easy_ratio": 0.3,
        "mix": "easy_onto_hard",
        "propagate_teacher": "ema",
        "hard_pixels": "confident_share",
        "confident_above": 0.968,
    }
    assert {name: own[name] for name in expected} == expected
    assert (training.optimizer, training.lr, training.batch_size) == ("adamw", 6e-5, 2)
    assert (training.steps, training.crop_size) == (40_000, (640, 640))
    assert config.augment.policy == "daformer"
    assert training.steps // 3 * training.batch_size / 2975 <= 10  # passes of Teach


@pytest.mark.parametrize("method", ["atp", "das3"])
def test_the_authors_variant_goes_by_its_old_name_for_a_release(method: str) -> None:
    old, new = (
        resolve_config(method, assignments=[f"{method}.variant={name}"])
        for name in ("reference", "authors")
    )
    assert old == new
    assert old.method_config["variant"] == "authors"
    with pytest.raises(ConfigError, match=r"variant 'other' is unknown; .* paper, authors, road"):
        resolve_config(method, assignments=[f"{method}.variant=other"])
    (chosen,) = choose_variants([f"{method}:reference"])
    assert chosen.title == f"{method}:authors"


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["easy_labels_from=teacher", "easy_labels=0.5"], "easy_labels is a share of stored label"),
        (["mix=easy_onto_hard", "consistency=probabilities"], "must be labels where mix=easy_onto"),
        (["hard_pixels=confident_share", "consistency=probabilities"], "must be labels where hard"),
        (["mix=easy_onto_hard", "target=mixed"], "target must be frames where mix=easy_onto_hard"),
        (["teach_labels=answers"], "teach_labels=answers is for the methods of a black box"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    assignments: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        resolve_config("atp", assignments=[f"atp.{entry}" for entry in assignments])


def test_a_run_without_a_hard_frame_says_so(tmp_path: Path) -> None:
    notes = list[str]()
    work = Work(events=Events(notes.append))
    PropagateStage(AtpConfig(easy_ratio=1.0)).begin(net(), replace(context(tmp_path), work=work))
    assert any("every frame counts as easy" in note for note in notes)
    notes.clear()
    half = tmp_path / "half"
    half.mkdir()
    PropagateStage(AtpConfig()).begin(net(), replace(context(half), work=work))
    assert not any("every frame counts as easy" in note for note in notes)
