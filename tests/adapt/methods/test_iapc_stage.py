"""IAPC as a stage on a tiny network: every switch changes what it should and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, CropSampler
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.losses.common import upsample
from roadshift.adapt.losses.iapc import IapcWeights, iapc_terms
from roadshift.adapt.methods.base import FeatureTap, split_classifier
from roadshift.adapt.methods.iapc import IapcStage
from roadshift.adapt.methods.iapc_config import AUTHORS_CODE, IapcConfig
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import Output, SegmentationNetwork
from roadshift.adapt.pseudo_labels.class_balance import ClassBalance
from roadshift.adapt.pseudo_labels.prototypes import class_prototypes, class_sums, prototype_logits
from roadshift.adapt.run.config import AugmentConfig, RunConfig, TrainingConfig, validate
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.errors import ConfigError, NetworkError
from run_cases import sgd_steps, stage_context, values, without_labels
from torch import Tensor, nn

WIDTH, HEIGHT, K, D = 24, 16, 4, 6
TERMS = ("importance", "agreement", "prototype", "entropy")


class Net(SegmentationNetwork):
    """Two convolutions at stride 2, batch norm and dropout; counts its forward passes."""

    num_classes = K
    align_corners = False
    reference_feature_layer = "stem"

    def __init__(self, features: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(5, D, 3, 2, 1), nn.BatchNorm2d(D), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Conv2d(D, K, 1)
        nn.init.normal_(self.classifier.weight, std=2)
        self.gives_features = features
        self.log: list[tuple[bool, bool]] = []  # of each pass: training, with gradients

    def forward(self, images: Tensor) -> Output:
        self.log.append((self.training, torch.is_grad_enabled()))
        features = self.body(self.stem(images))
        logits = self.classifier(self.dropout(features))
        return Output(logits, features if self.gives_features else None)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        return self.classifier.parameters()


def frames(count: int = 4) -> FrameSet:
    pixels = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return FrameSet([f"f{i}" for i in range(count)], WIDTH, HEIGHT, pixels.__getitem__)


def context(folder: Path) -> Context:
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=(120, 110, 100), std=(60, 60, 60))
    return stage_context(
        folder,
        frames(),
        Normalise(spec),
        RunConfig(method="iapc", training=TrainingConfig(batch_size=3)),
    )


def batch(step: int = 0) -> Batch:
    return CropSampler(frames(), TrainingConfig(batch_size=3), AugmentConfig(), seed=0).batch(step)


def begun(folder: Path, net: Net | None = None, **settings: Any) -> IapcStage:
    stage = IapcStage(validate(IapcConfig, settings, "iapc"))
    stage.begin(net or Net(), context(folder))
    return stage


def losses(stage: IapcStage, step: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(step)
    return stage.losses(batch(step))


def train(stage: IapcStage, steps: int) -> list[dict[str, float]]:
    return sgd_steps(stage, stage.model.parameters(), range(steps), batch)


# --- the whole loss -----------------------------------------------------------------------------


def test_the_paper_variant_is_its_algorithm_box(tmp_path: Path) -> None:
    net, stage = Net(), begun(tmp_path)
    stage.memory_model.classifier.weight.data.mul_(-1)  # so that memory and teacher disagree
    drawn = batch()
    normalise = context(tmp_path).normalise
    torch.manual_seed(0)
    student = net.train()(normalise(drawn.augmented))
    with torch.no_grad():
        teacher = Net().eval()(normalise(drawn.clean))
        memory = Net()
        memory.classifier.weight.data.mul_(-1)
        seen = memory.eval()(normalise(drawn.clean))
    labels = upsample(seen.logits, (HEIGHT, WIDTH), False).argmax(dim=1)
    prototypes, present = class_prototypes(seen.features, labels[:, ::2, ::2], K)
    dot = prototype_logits(student.features, prototypes, similarity="dot", temperature=1)
    total = dot.sum(dim=1, keepdim=True).clamp(min=1e-30)  # some features are all 0
    similarity = (dot / total).clamp(min=1e-6).log()  # eq. 10
    expected = iapc_terms(
        student.logits,
        teacher.logits,
        similarity,
        present,
        (HEIGHT, WIDTH),
        align_corners=False,
        weights=IapcWeights(0.2, 0.5, 0.04, 2.0),
    )
    assert values(losses(stage)) == pytest.approx(values(expected), rel=1e-5)


VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "reference": {"variant": "reference", **AUTHORS_CODE},
}
SOFTMAX = {"normalise": "softmax"}
RARE = {"class_balance": "rare"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_learns_and_touches_neither_labels_nor_teacher(tmp_path: Path, variant: str) -> None:
    stage = begun(tmp_path, **VARIANTS[variant])
    teacher = [p.clone() for p in stage.teacher.state_dict().values()]
    student = {name: p.clone() for name, p in stage.model.named_parameters()}
    terms = stage.losses(without_labels(stage, batch()))
    assert tuple(terms) == TERMS
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    torch.optim.SGD(stage.model.parameters(), lr=0.1).step()
    stage.after_step()
    assert all(map(torch.equal, stage.teacher.state_dict().values(), teacher))
    still = {n for n, p in stage.model.named_parameters() if torch.equal(p, student[n])}
    assert still <= {"body.0.bias"}  # batch norm takes it out again
    assert all(p.grad is None for p in stage.memory_model.parameters())


def test_labels_that_lie_beside_the_frames_change_nothing(tmp_path: Path) -> None:
    plain = begun(tmp_path, prototypes="static", pseudo_labels="offline")
    drawn = batch()
    with_labels = Batch(
        drawn.clean,
        drawn.augmented,
        torch.randint(0, K, (3, HEIGHT, WIDTH)),
        drawn.frames,
        drawn.crops,
    )
    torch.manual_seed(0)
    one = plain.losses(drawn)
    torch.manual_seed(0)
    assert values(plain.losses(with_labels)) == values(one)


def test_the_student_sees_noise_and_learns_in_train_mode_the_others_do_not(tmp_path: Path) -> None:
    stage = begun(tmp_path)
    for net in (stage.model, stage.teacher, stage.memory.model):
        net.log.clear()
    losses(stage)
    assert stage.model.log == [(True, True)]
    assert stage.teacher.log == [(False, False)]
    assert stage.memory.model.log == [(False, False)]


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "term"),
    list(zip(("weight_ia", "weight_pe", "weight_ps", "weight_im"), TERMS, strict=True)),
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_weight_of_0_drops_its_term_and_leaves_the_others(
    tmp_path: Path, key: str, term: str, variant: str
) -> None:
    whole = values(losses(begun(tmp_path, **VARIANTS[variant])))
    without = values(losses(begun(tmp_path, **VARIANTS[variant], **{key: 0})))
    assert without == {name: value for name, value in whole.items() if name != term}
    double = IapcConfig.model_fields[key].default * 2
    doubled = values(losses(begun(tmp_path, **VARIANTS[variant], **{key: double})))
    assert doubled == pytest.approx(whole | {term: 2 * whole[term]}, rel=1e-6)


@pytest.mark.parametrize("prototypes", ["per_image", "static", "momentum"])
def test_without_prototype_weights_the_memory_model_never_runs(
    tmp_path: Path, prototypes: str
) -> None:
    net = Net(features=False)  # nor are features needed
    stage = begun(tmp_path, net, prototypes=prototypes, weight_pe=0, weight_ps=0)
    assert tuple(losses(stage)) == ("importance", "entropy")
    assert stage.memory.model.log == []
    assert stage.shared_prototypes is None


def test_all_weights_0_is_refused() -> None:
    nothing = dict.fromkeys(("weight_ia", "weight_pe", "weight_ps", "weight_im"), 0)
    with pytest.raises(ConfigError, match="must be above 0"):
        validate(IapcConfig, nothing, "iapc")


# --- one switch at a time -----------------------------------------------------------------------

SWITCHES: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    # settings, the same changed, the terms that change at the first step
    ({}, {"importance": "none"}, {"importance"}),
    ({}, {"importance": "first"}, {"importance"}),
    ({}, {"importance": "one_minus_second"}, {"importance"}),
    ({}, {"importance_of": "logits"}, {"importance"}),
    ({}, {"pseudo_labels": "offline"}, {"importance"}),
    ({"pseudo_labels": "offline"}, {"label_scales": [1.0]}, {"importance"}),
    ({"agree_with": "pseudo_label"}, {"pseudo_labels": "offline"}, {"importance", "agreement"}),
    ({}, {"prototypes": "static"}, {"agreement", "prototype"}),
    ({}, {"prototypes": "momentum"}, {"agreement", "prototype"}),
    ({}, {"similarity": "cosine"}, {"agreement", "prototype"}),
    ({}, SOFTMAX, {"agreement", "prototype"}),  # y' too: it is interpolated in another way
    (SOFTMAX, {"similarity": "cosine"}, {"agreement", "prototype"}),
    (SOFTMAX, {"temperature": 0.5}, {"prototype"}),
    ({}, {"prototype_labels": "grid"}, {"agreement", "prototype"}),
    ({}, {"prototype_view": "unscaled"}, set()),  # of crops without a zoom
    ({}, {"feature_layer": "stem"}, {"agreement", "prototype"}),
    ({}, {"variant": "reference"}, {"agreement", "prototype"}),  # its feature layer
    ({}, {"agree_with": "pseudo_label"}, {"agreement"}),
    ({"rare_fraction": 1.0}, RARE, {"importance", "agreement"}),
    (RARE, {"rare_fraction": 1.0}, {"importance", "agreement"}),
    (RARE | {"rare_fraction": 0.3}, {"agreement_balance": "pseudo_label"}, {"agreement"}),
    ({}, {"entropy_epsilon": 1e-2}, {"entropy"}),
    ({}, {"memory_mode": "train"}, {"agreement", "prototype"}),
    ({}, {"memory": "student"}, set()),  # at the first step the two are the same
    ({}, {"memory_decay": 0.5}, set()),
    ({}, {"clean_pass": True}, set()),
]


@pytest.mark.parametrize(
    ("base", "change", "changed"), SWITCHES, ids=["-".join(map(str, s[1])) for s in SWITCHES]
)
def test_a_switch_changes_the_terms_it_belongs_to(
    tmp_path: Path, base: dict[str, Any], change: dict[str, Any], changed: set[str]
) -> None:
    before = values(losses(begun(tmp_path, **base)))
    after = values(losses(begun(tmp_path, **base | change)))
    differ = {name for name in TERMS if after[name] != pytest.approx(before[name], rel=1e-6)}
    assert differ == changed
    assert all(np.isfinite(list(after.values())))


# --- prototypes ---------------------------------------------------------------------------------


def test_static_prototypes_are_the_source_models_means_over_all_frames_and_stay(
    tmp_path: Path,
) -> None:
    stage = begun(tmp_path, prototypes="static")
    normalise = context(tmp_path).normalise
    images = normalise(torch.stack([torch.from_numpy(frames().image(i)) for i in range(4)]))
    with torch.no_grad():
        output = Net().eval()(images)
    labels = upsample(output.logits, (HEIGHT, WIDTH), False).argmax(dim=1)[:, ::2, ::2]
    sums, counts = (part.sum(dim=0) for part in class_sums(output.features, labels, K))
    assert stage.shared_prototypes is not None
    start = stage.shared_prototypes.clone()
    torch.testing.assert_close(start, sums / counts.clamp(min=1)[:, None])
    train(stage, 3)
    assert torch.equal(stage.shared_prototypes, start)
    assert len(stage.memory.model.log) == 1  # all four frames at once, at the start


def test_whole_frames_are_labelled_at_their_own_size(tmp_path: Path) -> None:
    stage = IapcStage(validate(IapcConfig, {"prototypes": "static"}, "iapc"))
    whole = context(tmp_path)
    stage.begin(Net(), whole)
    cropped = IapcStage(validate(IapcConfig, {"prototypes": "static"}, "iapc"))
    small = Context(
        whole.frames, whole.normalise, whole.device, whole.workdir, whole.config, (HEIGHT // 2, 7)
    )
    cropped.begin(Net(), small)
    assert stage.shared_prototypes is not None
    assert cropped.shared_prototypes is not None
    assert torch.equal(cropped.shared_prototypes, stage.shared_prototypes)


def test_momentum_prototypes_move_towards_each_batchs_means(tmp_path: Path) -> None:
    stage = begun(tmp_path, prototypes="momentum", prototype_momentum=0.9)
    assert stage.shared_prototypes is not None
    stage.shared_prototypes[3] = 7.0
    stage.memory_model.classifier.bias.data[3] = -1e4  # memory never sees class 3
    before = stage.shared_prototypes.clone()
    losses(stage)
    clean = context(tmp_path).normalise(batch().clean)
    memory = Net().eval()
    memory.classifier.bias.data[3] = -1e4
    with torch.no_grad():
        output = memory(clean)
    labels = upsample(output.logits, (HEIGHT, WIDTH), False).argmax(dim=1)[:, ::2, ::2]
    sums, counts = (part.sum(dim=0) for part in class_sums(output.features, labels, K))
    expected = 0.9 * before + 0.1 * sums / counts.clamp(min=1)[:, None]
    seen = counts > 0
    assert not seen[3]
    torch.testing.assert_close(stage.shared_prototypes[seen], expected[seen])
    assert torch.equal(stage.shared_prototypes[~seen], before[~seen])


def test_an_absent_class_competes_only_as_a_zero_prototype(tmp_path: Path) -> None:
    stages = {}
    signed: dict[str, Any] = {"feature_layer": "body.1", **SOFTMAX}  # below 0 as well
    for absent in ("exclude", "zero"):
        stage = begun(tmp_path, absent_prototypes=absent, class_balance="rare", **signed)
        stage.memory_model.classifier.bias.data[:2] = -1e4  # memory never sees classes 0 and 1
        stages[absent] = stage
    drawn = batch()
    clean = stages["zero"].context.normalise(drawn.clean)
    similarity, everything = stages["zero"]._similarity(stages["zero"].student(clean), drawn, clean)
    _, present = stages["exclude"]._similarity(stages["exclude"].student(clean), drawn, clean)
    assert everything is None
    assert present is not None
    assert similarity is not None
    assert not present[:, :2].any()
    assert present[:, 2:].any(dim=1).all()
    assert similarity[:, :2].abs().sum() == 0
    terms = {absent: values(losses(stage)) for absent, stage in stages.items()}
    assert terms["zero"]["prototype"] != terms["exclude"]["prototype"]
    # the balance counts y': an absent class where 0 beats every similarity, or nowhere
    counted = {
        a: stage.balances["prototype_balance"].average[:2].tolist() for a, stage in stages.items()
    }
    assert counted["exclude"] == pytest.approx([1.6, 1.6])
    assert counted["zero"] == pytest.approx([1.0, 1.6])  # of the two zeros the first is taken


def test_a_network_without_features_is_told_what_to_do(tmp_path: Path) -> None:
    stage = begun(tmp_path, Net(features=False))
    with pytest.raises(NetworkError, match=r"iapc\.feature_layer"):
        losses(stage)
    assert tuple(losses(begun(tmp_path, Net(features=False), feature_layer="body"))) == TERMS


@pytest.mark.parametrize("layer", ["", "boddy", "body.9"])
def test_an_unknown_feature_layer_lists_the_networks_modules(tmp_path: Path, layer: str) -> None:
    with pytest.raises(ConfigError, match=r"no such module, only stem, body, dropout, classifier"):
        begun(tmp_path, feature_layer=layer)


def test_a_feature_tap_gives_the_layers_output_or_says_that_it_is_no_map() -> None:
    net, images = Net().eval(), torch.zeros(1, 3, HEIGHT, WIDTH)
    tapped = FeatureTap(net, "stem")(images)
    assert torch.equal(tapped.features, net.stem(images))
    assert torch.equal(tapped.logits, net(images).logits)
    assert FeatureTap(net, None)(images).features.shape[1] == D
    net.unused = nn.Conv2d(1, 1, 1)
    with pytest.raises(ConfigError, match="'unused': it gives no"):
        FeatureTap(net, "unused")(images)


# --- memory -------------------------------------------------------------------------------------


def test_the_ema_memory_trails_the_student(tmp_path: Path) -> None:
    stage = begun(tmp_path, memory_decay=0.9)
    before = [p.clone() for p in stage.memory_model.parameters()]
    train(stage, 1)
    for memory, old, student in zip(
        stage.memory_model.parameters(), before, stage.model.parameters(), strict=True
    ):
        torch.testing.assert_close(memory, 0.9 * old + 0.1 * student)
    for memory, student in zip(stage.memory_model.buffers(), stage.model.buffers(), strict=True):
        assert torch.equal(memory, student)


def test_without_ema_the_memory_is_the_student_of_the_last_step(tmp_path: Path) -> None:
    stage = begun(tmp_path, memory="student")
    history = train(stage, 3)
    for memory, student in zip(
        stage.memory_model.state_dict().values(), stage.model.state_dict().values(), strict=True
    ):
        assert torch.equal(memory, student)
    trailing = train(begun(tmp_path, memory="ema"), 3)
    assert history[0] == trailing[0]
    assert history[2]["prototype"] != trailing[2]["prototype"]


@pytest.mark.parametrize("memory", ["ema", "student"])
def test_the_memory_pass_leaves_the_students_statistics_alone(tmp_path: Path, memory: str) -> None:
    statistics = []
    for weight in (0.04, 0.0):
        stage = begun(tmp_path, memory=memory, weight_pe=0, weight_ps=weight)
        losses(stage)
        statistics.append(stage.model.body[1].running_mean.clone())
    assert torch.equal(*statistics)


def test_memory_in_train_mode_uses_batch_statistics_but_no_dropout(tmp_path: Path) -> None:
    stage = begun(tmp_path, memory_mode="train")
    assert stage.memory_model.body[1].training
    assert not stage.memory_model.dropout.training
    stage.memory_model.body[1].running_mean.fill_(1e3)  # of no effect
    assert values(losses(stage)) == values(losses(begun(tmp_path, memory_mode="train")))


# --- class balance ------------------------------------------------------------------------------


def test_class_balance_by_the_formula() -> None:
    balance = ClassBalance("rare", K, 0.1, torch.device("cpu"))
    absence = [1.0] * K
    rounds = (
        [0] * 70 + [1] * 10 + [2] * 9 + [255] * 11,  # 10 of 100 is not rare, 9 is, 3 is absent
        [3] * 100,
    )
    for labels in rounds:
        for c in range(K):
            absence[c] = 0.9 * absence[c] + 0.1 * (7 if labels.count(c) == 0 else 1)
        expected = [(7 if labels.count(c) < 10 else 1) * absence[c] for c in range(K)]
        ours = balance(torch.tensor(labels).view(1, 10, 10))
        assert ours.tolist() == pytest.approx(expected)
    assert balance.average.tolist() == pytest.approx(absence)


def test_sqrt_inverse_balance_by_the_formula() -> None:
    balance = ClassBalance("sqrt_inverse", K, 0.1, torch.device("cpu"))
    share = [1 / K] * K
    for labels in ([0] * 70 + [1] * 10 + [2] * 9 + [255] * 11, [3] * 100, [0] * 100):
        share = [0.9 * f + 0.1 * labels.count(c) / 100 for c, f in enumerate(share)]
        median = sorted(share)[(K - 1) // 2]
        expected = [min(3.0, max(0.5, (median / f) ** 0.5)) for f in share]
        ours = balance(torch.tensor(labels).view(1, 10, 10))
        assert ours.tolist() == pytest.approx(expected, rel=1e-5)


def test_class_balance_of_255_only_calls_every_class_absent() -> None:
    balance = ClassBalance("rare", K, 0.1, torch.device("cpu"))
    assert balance(torch.full((1, 4, 4), 255)).tolist() == pytest.approx([7 * 1.6] * K)


def test_balance_weighs_the_stored_labels_and_y_prime(tmp_path: Path) -> None:
    stage = begun(tmp_path, class_balance="rare", pseudo_labels="offline")
    assert stage.labels is not None
    for i in range(4):
        unsure = np.zeros((HEIGHT, WIDTH), np.uint16)
        stage.labels.write(i, np.full((HEIGHT, WIDTH), 2, np.uint8), unsure)
    losses(stage)
    assert stage.balances["label_balance"].average.tolist() == pytest.approx([1.6, 1.6, 1.0, 1.6])
    assert stage.balances["prototype_balance"].average[2] <= 1.6


# --- state --------------------------------------------------------------------------------------

GENTLE = {"class_balance": "sqrt_inverse"}
FULL = {"prototypes": "momentum", "class_balance": "rare", "memory_mode": "train"}


@pytest.mark.parametrize("settings", [{}, FULL, GENTLE, {"memory": "student"}], ids=str)
def test_a_stage_goes_on_from_its_state_bit_for_bit(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings = {"memory_decay": 0.9, **settings}
    stage = begun(tmp_path, **settings)
    train(stage, 2)
    student = {k: v.clone() for k, v in stage.model.state_dict().items()}
    state = {k: v.clone() for k, v in stage.state().items()}
    again = begun(tmp_path, **settings)
    again.model.load_state_dict(student)
    again.load_state(state)
    assert train(stage, 2) == train(again, 2)
    assert all(map(torch.equal, stage.state().values(), again.state().values()))


def test_a_step_thrown_away_can_be_put_back_from_touched(tmp_path: Path) -> None:
    stage = begun(tmp_path, **FULL)

    def everything() -> list[Tensor]:
        return [*stage.model.state_dict().values(), *stage.state().values()]

    before = [tensor.clone() for tensor in everything()]
    touched = [*stage.model.buffers(), *stage.touched()]
    copies = [tensor.clone() for tensor in touched]
    losses(stage)
    assert not all(map(torch.equal, everything(), before))
    for tensor, copy in zip(touched, copies, strict=True):
        tensor.copy_(copy)
    assert all(map(torch.equal, everything(), before))


def test_the_classifier_learns_at_its_own_rate() -> None:
    net = Net()
    net.stem.requires_grad_(False)
    body, classifier = split_classifier(net, 10.0)
    assert (body.name, body.factor, classifier.name, classifier.factor) == (
        *("body", 1.0),
        *("classifier", 10.0),
    )
    assert [id(p) for p in classifier.parameters] == [id(p) for p in net.classifier.parameters()]
    assert [id(p) for p in body.parameters] == [id(p) for p in net.body.parameters()]


# --- mixed precision ----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_gives_float32_terms_near_those_without(tmp_path: Path, variant: str) -> None:
    plain = values(losses(begun(tmp_path, **VARIANTS[variant])))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = losses(begun(tmp_path, **VARIANTS[variant]))
    assert all(term.dtype == torch.float32 for term in cast.values())
    assert values(cast) == pytest.approx(plain, rel=0.1)


def test_twenty_steps_sharpen_the_student(tmp_path: Path) -> None:
    history = train(begun(tmp_path), 20)
    assert history[-1]["entropy"] < 0.8 * history[0]["entropy"]
    assert train(begun(tmp_path), 20)[-1] == history[-1]
