"""LD's stages on a tiny network: selection, rounds, the boundary stage, state, whole runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt import adapt_bundle
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, Crop, CropSampler
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.losses.ld import LdWeights, boundary_cross_entropy, ld_terms
from roadshift.adapt.methods import build_stages, resolve_config
from roadshift.adapt.methods.ld import Ld
from roadshift.adapt.methods.ld_boundary import AuthorsBoundaryStage
from roadshift.adapt.methods.ld_config import LdConfig
from roadshift.adapt.methods.ld_stages import SelfTraining
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.pseudo_labels.hard_labels import frame_probabilities
from roadshift.adapt.pseudo_labels.labeller import Labeller
from roadshift.adapt.pseudo_labels.selection import Selection
from roadshift.adapt.pseudo_labels.thresholds import BINS, confidence_bins
from roadshift.adapt.run.config import AugmentConfig, RunConfig, TrainingConfig, validate
from roadshift.adapt.run.workspace import HISTORY
from roadshift.runtime.bundle import Bundle, InputSpec, open_bundle
from roadshift.runtime.errors import ConfigError
from run_cases import (
    Killed,
    kill_at,
    run_options,
    sgd_steps,
    stage_context,
    values,
    without_labels,
)
from safetensors.torch import load_file
from torch import Tensor

WIDTH, HEIGHT, K, FRAMES = 24, 16, 4, 4
TERMS = ("selected", "entropy", "negative")
Network = Callable[..., SegmentationNetwork]
Settings = Callable[..., RunConfig]


def frames() -> FrameSet:
    shape = (FRAMES, HEIGHT // 4, WIDTH // 4, 3)
    blocks = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = blocks.repeat(4, axis=1).repeat(4, axis=2)
    return FrameSet([f"f{i}" for i in range(FRAMES)], WIDTH, HEIGHT, pixels.__getitem__)


def context(folder: Path) -> Context:
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=(120, 110, 100), std=(60, 60, 60))
    return stage_context(
        folder,
        frames(),
        Normalise(spec),
        RunConfig(method="ld", training=TrainingConfig(batch_size=2)),
    )


def batch(step: int = 0) -> Batch:
    return CropSampler(frames(), TrainingConfig(batch_size=2), AugmentConfig(), seed=0).batch(step)


def whole_batch(which: Sequence[int] = range(FRAMES)) -> Batch:
    """Whole frames as they are."""
    images = torch.stack([torch.from_numpy(frames().image(i)) for i in which])
    crops = tuple(Crop(0, 0, WIDTH, HEIGHT, flip=False) for _ in which)
    return Batch(images, images, None, tuple(which), crops)


def begun(
    folder: Path, model: SegmentationNetwork, number: int = 0, **settings: Any
) -> SelfTraining:
    stages = Ld.stages(validate(LdConfig, settings, "ld"))
    stage = stages[number]
    assert isinstance(stage, SelfTraining)
    stage.begin(model, context(folder))
    return stage


def losses(stage: SelfTraining, step: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(step)
    return stage.losses(batch(step))


def train(stage: SelfTraining, steps: int, start: int = 0) -> list[dict[str, float]]:
    return sgd_steps(stage, stage.model.parameters(), range(start, start + steps), batch)


# --- selection ----------------------------------------------------------------------------------


def confident(model: SegmentationNetwork, folder: Path) -> Tensor:
    """Probabilities of all frames, (N, K, H, W), as one unmirrored view gives them."""
    surroundings = context(folder)
    every = [
        frame_probabilities(model, surroundings, i, (1.0,), mirror=False) for i in range(FRAMES)
    ]
    return torch.stack(every)


def expected_selection(
    p: Tensor, share: float, image_share: float, threshold_of: str
) -> tuple[Tensor, dict[int, int]]:
    """The rules, a pixel at a time, and each predicted class's threshold as a bin."""
    confidence, predicted = p.max(dim=1)
    bins = confidence_bins(p)

    def top(pool: list[float], part: float) -> int:
        rank = max(1, math.floor(part * len(pool)))
        return int(confidence_bins(torch.tensor(sorted(pool, reverse=True)[rank - 1])))

    found = predicted.unique().tolist()
    needed = {c: top(confidence[predicted == c].tolist(), share) for c in found}
    labels = torch.full_like(predicted, 255)
    for i in range(len(p)):
        of_image = top(confidence[i].flatten().tolist(), image_share) if image_share else BINS
        for y in range(HEIGHT):
            for x in range(WIDTH):
                own = int(predicted[i, y, x])
                asked = needed if threshold_of == "any_class" else {own: needed[own]}
                passed = any(int(bins[i, c, y, x]) >= least for c, least in asked.items())
                if passed or int(bins[i, own, y, x]) >= of_image:
                    labels[i, y, x] = own
    return labels, needed


@pytest.mark.parametrize("threshold_of", ["predicted", "any_class"])
@pytest.mark.parametrize(
    ("share", "image_share"), [(0.2, 0.0), (0.05, 0.15), (1e-6, 1e-6), (1.0, 0.0)]
)
@pytest.mark.parametrize("lost", [(), (2,), (1, 2, 3)], ids=["all", "one absent", "one class"])
def test_selection_follows_the_rules_pixel_by_pixel(
    threshold_of: Any,
    share: float,
    image_share: float,
    lost: tuple[int, ...],
    tmp_path: Path,
    network: Network,
) -> None:
    model = network()
    model.get_parameter("classifier.weight").data.mul_(4)
    model.get_parameter("classifier.bias").data[list(lost)] -= 30  # never predicted
    labeller = Labeller(model, context(tmp_path), (1.0,), 0, mirror=False)
    selection = Selection(labeller, share, image_share, threshold_of)
    ours = selection.labels(whole_batch())
    expected, needed = expected_selection(
        confident(labeller.network, tmp_path), share, image_share, threshold_of
    )
    assert torch.equal(ours, expected)
    assert ours.dtype == torch.int64
    for c in range(K):
        assert int(selection.thresholds[c]) == needed.get(c, BINS)
        assert (ours == c).any() == (c in needed)  # each class that is predicted is learnt
    if share == 1:
        assert not (ours == 255).any()


def test_any_class_lets_pixels_pass_that_their_own_class_refuses(
    tmp_path: Path, network: Network
) -> None:
    """A rare class that is never sure of itself has a low threshold, which others reach."""
    chosen = {}
    for threshold_of in ("predicted", "any_class"):
        labeller = Labeller(network(), context(tmp_path), (1.0,), 0, mirror=False)
        selection = Selection(labeller, 0.2, 0.0, threshold_of)  # type: ignore[arg-type]
        chosen[threshold_of] = selection.labels(whole_batch())
    own, anyone = (chosen[rule] for rule in ("predicted", "any_class"))
    assert bool((anyone == own)[own != 255].all())
    assert int((anyone != 255).sum()) > int((own != 255).sum())


def test_crops_get_the_labels_under_them(tmp_path: Path, network: Network) -> None:
    for threshold_of in ("predicted", "any_class"):
        labeller = Labeller(network(), context(tmp_path), (1.0,), 0)
        selection = Selection(labeller, 0.3, 0.1, threshold_of)  # type: ignore[arg-type]
        whole = selection.labels(whole_batch([2]))[0]
        images = torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8)
        crops = (Crop(0, 0, WIDTH, HEIGHT, flip=True), Crop(4, 2, 12, 8, flip=False))
        cropped = selection.labels(Batch(images, images, None, (2, 2), crops))
        assert torch.equal(cropped[0], whole.flip(1))
        window = whole[2:10, 4:16]
        assert torch.equal(
            cropped[1], window.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
        )


def test_what_any_class_passes_is_stored_rebuilt_and_removed(
    tmp_path: Path, network: Network
) -> None:
    def select(share: float, student: SegmentationNetwork) -> tuple[Labeller, Tensor]:
        labeller = Labeller(student, context(tmp_path), (1.0,), 1, mirror=False)
        return labeller, Selection(labeller, share, 0.0, "any_class").labels(whole_batch())

    student = network()
    labeller, first = select(0.2, student)
    stored = sorted(tmp_path.glob("*/any_class*/*.png"))
    assert len(stored) == FRAMES
    content = [path.read_bytes() for path in stored]
    stored[0].unlink()
    stored[1].write_bytes(content[1][:30])
    assert torch.equal(select(0.2, student)[1], first)
    assert [path.read_bytes() for path in stored] == content
    assert not torch.equal(select(0.5, student)[1], first)  # another share is not taken up
    for _ in range(2):
        labeller.after_step()
    student.get_parameter("classifier.bias").data[0] += 0.5
    labeller.current()  # an epoch is over: labels of another model
    assert not any(path.exists() for path in stored)


# --- a round ------------------------------------------------------------------------------------


def test_a_round_is_its_algorithm_box(tmp_path: Path, network: Network) -> None:
    model, stage = network(), begun(tmp_path, network(), class_share=0.3)
    drawn = batch()
    normalise = context(tmp_path).normalise
    labels = Selection(
        Labeller(model, context(tmp_path / "other"), (1.0,), 1, mirror=False), 0.3
    ).labels(drawn)
    torch.manual_seed(0)
    logits = model.train()(normalise(drawn.augmented)).logits
    ranks = torch.randint(-1, 6, (2, HEIGHT, WIDTH)).clamp(2, 4)  # C = 4: 2 + [-3, 3]
    expected = ld_terms(
        logits,
        labels,
        ranks,
        (HEIGHT, WIDTH),
        align_corners=model.align_corners,
        weights=LdWeights(1.0, 1.0, 1.0),
    )
    ours = losses(stage)
    assert tuple(ours) == TERMS
    assert values(ours) == pytest.approx(values(expected), rel=1e-6)
    assert (labels != 255).any()
    assert (labels == 255).any()


REFERENCE: dict[str, Any] = dict(Ld.presets["reference-2022"]["ld"])
BALANCED: dict[str, Any] = {"class_balance": "sqrt_inverse", "scales": [1.0, 0.5], "mirror": True}
VARIANTS = {"paper": {}, "reference": REFERENCE, "roadshift": BALANCED}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("boundary", [False, True])
def test_a_step_learns_and_touches_neither_labels_nor_labeller(
    variant: str, boundary: bool, tmp_path: Path, network: Network
) -> None:
    settings = {**VARIANTS[variant], "boundary_stage": boundary}
    stage = begun(tmp_path, network(), -1, **settings)
    labelling = [t.clone() for t in stage.labeller.network.state_dict().values()]
    student = [p.clone() for p in stage.model.parameters()]
    drawn = without_labels(stage, batch())
    torch.manual_seed(0)  # of dropout and of the mixture: that a step has labels to learn from
    terms = stage.losses(drawn)
    assert tuple(terms) == (("boundary",) if boundary else TERMS)
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    torch.optim.SGD(stage.model.parameters(), lr=0.1).step()
    stage.after_step()
    assert stage.model.training
    assert all(map(torch.equal, stage.labeller.network.state_dict().values(), labelling))
    now = stage.model.named_parameters()
    still = {name for (name, p), q in zip(now, student, strict=True) if torch.equal(p, q)}
    assert still <= {"first.bias", "second.bias"}  # batch norm takes them out again


def test_a_batch_in_which_nothing_is_selected_learns_from_the_other_terms(
    tmp_path: Path, network: Network
) -> None:
    stage = begun(tmp_path, network(), image_share=0.1)
    losses(stage)
    stored = stage.labeller.current()
    for i in range(FRAMES):  # no confidence at all
        shape = (HEIGHT, WIDTH)
        stored.write(i, np.zeros(shape, np.uint8), np.zeros(shape, np.uint16))
    terms = losses(stage)
    assert terms["selected"].item() == 0
    assert terms["entropy"].item() > 0
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stage.model.parameters())


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_weight_of_0_drops_its_term_and_leaves_the_others(
    term: str, variant: str, tmp_path: Path, network: Network
) -> None:
    base = VARIANTS[variant]
    whole = values(losses(begun(tmp_path, network(), **base)))
    without = values(losses(begun(tmp_path, network(), **base, **{f"weight_{term}": 0})))
    assert without == {name: value for name, value in whole.items() if name != term}
    doubled = values(losses(begun(tmp_path, network(), **base, **{f"weight_{term}": 2})))
    assert doubled == pytest.approx(whole | {term: 2 * whole[term]}, rel=1e-6)


SWITCHES: list[tuple[dict[str, Any], set[str]]] = [
    ({"selected_mean_over": "all"}, {"selected"}),
    ({"complementary": "ranked_below"}, {"negative"}),
    ({"complementary": "random"}, {"negative"}),
    ({"class_share": 0.6}, {"selected"}),
    ({"image_share": 0.3}, {"selected"}),
    ({"threshold_of": "any_class"}, {"selected"}),
    ({"scales": [0.5]}, {"selected"}),
    ({"mirror": True}, {"selected"}),
    ({"batch_statistics": True}, {"selected"}),
    ({"class_balance": "sqrt_inverse"}, {"selected"}),
    ({"rank_draw": "step"}, {"negative"}),
    ({"rank_spread": 0}, {"negative"}),
    ({"share_growth": 0.5, "rounds": 2}, set()),  # from the second round on
    ({"round_lr_factor": 0.5}, set()),
    ({"refresh_epochs": 0}, set()),  # from the second epoch on
]


@pytest.mark.parametrize(("change", "changed"), SWITCHES, ids=[str(s[0]) for s in SWITCHES])
def test_a_switch_changes_the_terms_it_belongs_to(
    change: dict[str, Any], changed: set[str], tmp_path: Path, network: Network
) -> None:
    before = values(losses(begun(tmp_path / "before", network())))
    after = values(losses(begun(tmp_path / "after", network(), **change)))
    differ = {name for name in TERMS if after[name] != pytest.approx(before[name], rel=1e-6)}
    assert differ == changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict.fromkeys((f"weight_{term}" for term in TERMS), 0), "must be above 0"),
        ({"scales": []}, "at least one number"),
        ({"scales": [1.0, 0.0]}, "all above 0"),
        ({"class_share": 0}, "class_share: .*greater than 0"),
        ({"boundary_weight": 0.5}, "boundary_weight: .*greater than or equal to 1"),
    ],
)
def test_settings_without_a_meaning_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(LdConfig, change, "ld")


# --- rounds -------------------------------------------------------------------------------------


def test_rounds_select_more_and_learn_more_slowly(tmp_path: Path, network: Network) -> None:
    settings = {**REFERENCE, "rounds": 3, "round_lr_factor": 0.5, "boundary_stage": True}
    settings["boundary_share"] = 0.7
    stages = [begun(tmp_path, network(), number, **settings) for number in range(4)]
    selections = [stage.selection for stage in stages]
    assert [one.class_share for one in selections] == pytest.approx([0.1, 0.15, 0.2, 0.7])
    assert [one.image_share for one in selections] == pytest.approx([0.1, 0.15, 0.2, 0])
    assert [one.threshold_of for one in selections] == ["any_class"] * 3 + ["predicted"]
    factors = [[g.factor for g in one.parameter_groups(one.model, 10.0)] for one in stages]
    assert factors == [[1, 10], [0.5, 5], [0.25, 2.5], [0.125, 1.25]]


def test_growth_ends_at_everything_and_leaves_an_unused_image_share_unused(
    tmp_path: Path, network: Network
) -> None:
    stage = begun(tmp_path, network(), 2, rounds=3, class_share=0.5, share_growth=0.4)
    assert (stage.selection.class_share, stage.selection.image_share) == (1.0, 0.0)


def test_labels_move_at_the_ends_of_epochs_or_not_at_all(tmp_path: Path, network: Network) -> None:
    for epochs, moved_at in ((0, []), (1, [2, 4]), (2, [4])):
        stage = begun(tmp_path / str(epochs), network(), refresh_epochs=epochs)
        moved, before = [], None
        for step in range(6):
            train(stage, 1, step)
            now = (stage.labeller.current(), stage.selection.thresholds)
            if before is not None and now[1] is not before[1]:
                moved.append(step)
            before = now
        assert moved == moved_at


def test_presets_are_the_recipes_of_the_paper_and_of_the_authors_code() -> None:
    paper = resolve_config("ld", assignments=["ld.variant=paper"])
    assert paper.method_config == LdConfig().model_dump(mode="json")
    dated = [
        resolve_config("ld", assignments=[f"ld.variant={name}"])
        for name in ("reference", "reference-2022")
    ]
    for config, share, rounds, lr in zip(dated, (0.2, 0.1), (5, 2), (7.5e-5, 1e-4), strict=True):
        settings = validate(LdConfig, config.method_config, "ld")
        shares = (settings.class_share, settings.image_share, settings.share_growth)
        assert shares == (share, share, 0.05)
        assert (settings.rank_draw, settings.threshold_of) == ("step", "any_class")
        assert settings.round_lr_factor == pytest.approx(1 / math.sqrt(2))
        assert settings.rounds == rounds
        assert len(build_stages(config)) == rounds
        training = config.training
        assert (training.lr, training.steps, training.schedule_steps) == (lr, 991 * rounds, 5000)
        assert training.schedule_restarts
    assert paper.training.lr == 1e-3
    for config in (paper, *dated):
        assert (config.tone, config.warm_start, config.final_bn) == ("none", "source", False)
        assert (config.training.batch_size, config.training.crop_size) == (3, (600, 600))
        zooms = () if config is paper else (0.5, 0.75, 1.0, 1.25, 1.5)
        assert config.training.scale_values == zooms
        assert config.training.scale == ((0.5, 1.5) if config is paper else (1.0, 1.0))
        assert config.augment.policy == "none"
    theirs = resolve_config(
        "ld",
        assignments=["ld.variant=reference", "ld.boundary_stage=true", "ld.boundary=authors"],
    )
    assert [stage.name for stage in build_stages(theirs)] == ["ld"] * 5 + ["boundary"] * 5
    ours = resolve_config("ld", assignments=["ld.boundary_stage=true"])
    assert [stage.name for stage in build_stages(ours)] == ["ld", "boundary"]
    assert (ours.warm_start, ours.training.steps) == ("mixed", 100)


# --- the boundary stage -------------------------------------------------------------------------


def test_the_boundary_stage_is_its_algorithm_box(tmp_path: Path, network: Network) -> None:
    settings: dict[str, Any] = {"boundary_stage": True, "boundary_weight": 5, "boundary_width": 2}
    stage = begun(tmp_path, network(), 1, **settings)
    model, drawn = network().train(), batch()
    labels = Selection(
        Labeller(model, context(tmp_path / "other"), (1.0,), 1, mirror=False), 1.0
    ).labels(drawn)
    assert not (labels == 255).any()
    torch.manual_seed(0)
    images, targets = drawn.augmented.clone(), labels.clone()
    for i, j in ((0, 1), (1, 0)):
        present = sorted(set(labels[i].flatten().tolist()))
        order = torch.randperm(len(present)).tolist()[: (len(present) + 1) // 2]
        pasted = {present[place] for place in order}
        for y in range(HEIGHT):
            for x in range(WIDTH):
                if int(labels[i, y, x]) not in pasted:
                    images[i, y, x] = drawn.augmented[j, y, x]
                    targets[i, y, x] = labels[j, y, x]
    assert not torch.equal(targets, labels)
    expected = boundary_cross_entropy(
        model(context(tmp_path).normalise(images)).logits,
        targets,
        (HEIGHT, WIDTH),
        align_corners=model.align_corners,
        boundary_weight=5,
        boundary_width=2,
    )
    assert losses(stage)["boundary"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_authors_boundary_stage_is_its_algorithm_box(tmp_path: Path, network: Network) -> None:
    settings: dict[str, Any] = {"class_share": 0.3, "boundary_stage": True, "boundary": "authors"}
    settings |= {"boundary_confident_from": 0.3, "batch_statistics": True}
    stage = begun(tmp_path, network(0, dropout=0.0), 1, **settings)
    assert isinstance(stage, AuthorsBoundaryStage)
    model, drawn = network(0, dropout=0.0).train(), batch()
    normalise = context(tmp_path).normalise
    chosen = stage.selection.labels(drawn)
    logits = network(0, dropout=0.0).train()(normalise(drawn.clean)).logits  # m = f before a step
    p = F.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear").softmax(dim=1)
    torch.manual_seed(0)
    kept, images = [], []
    for i in range(2):
        present = sorted(set(_theirs(chosen[i], p[i]).flatten().tolist()))
        order = torch.randperm(len(present)).tolist()[: len(present) // 2]
        kept.append({present[place] for place in order})
        images.append(_theirs(chosen[i], p[i]))
    mixed, targets = drawn.augmented.clone(), torch.stack(images)
    sure = [0.0, 0.0]
    for i, j in ((0, 1), (1, 0)):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                of = i if int(images[i][y, x]) in kept[i] else j
                mixed[i, y, x], targets[i, y, x] = drawn.augmented[of, y, x], images[of][y, x]
                is_chosen = int(chosen[of, y, x]) != 255
                sure[i] += is_chosen or float(p[of, :, y, x].detach().max()) >= 0.3
    assert all(0 < count < HEIGHT * WIDTH for count in sure)
    z = F.interpolate(model(normalise(mixed)).logits, (HEIGHT, WIDTH), mode="bilinear")
    each = F.cross_entropy(z, targets, reduction="none").mean(dim=(1, 2))
    expected = (each * torch.tensor(sure) / (HEIGHT * WIDTH)).mean()
    assert losses(stage)["boundary"].item() == pytest.approx(expected.item(), rel=1e-5)


def _theirs(chosen: Tensor, p: Tensor) -> Tensor:
    """The selected labels, and elsewhere the average's, of one image."""
    return chosen.where(chosen != 255, p.max(dim=0).indices)


def test_the_authors_average_is_the_student_after_a_step_and_then_lags(
    tmp_path: Path, network: Network
) -> None:
    settings: dict[str, Any] = {"boundary_stage": True, "boundary": "authors"}
    stage = begun(tmp_path, network(), 1, boundary_ema=0.6, **settings)
    assert isinstance(stage, AuthorsBoundaryStage)
    expected: list[Tensor] = []
    for step, decay in enumerate((0.0, 0.5, 0.6)):
        train(stage, 1, step)
        now = [p.detach().clone() for p in stage.model.parameters()]
        before = expected or now
        expected = [decay * m + (1 - decay) * f for m, f in zip(before, now, strict=True)]
        for ours, theirs in zip(stage.average.parameters(), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_single_image_is_learnt_from_as_it_is(tmp_path: Path, network: Network) -> None:
    stage = begun(tmp_path, network(), 1, boundary_stage=True, boundary_weight=1)
    one = batch().part(0, 1)
    model = network().train()
    labels = stage.selection.labels(one)
    torch.manual_seed(3)
    ours = stage.losses(one)["boundary"]
    torch.manual_seed(3)
    for image in labels:
        torch.randperm(len(image.unique()))  # the draw of classes, before the dropout's
    logits = model(context(tmp_path).normalise(one.augmented)).logits
    expected = boundary_cross_entropy(
        logits,
        labels,
        (HEIGHT, WIDTH),
        align_corners=model.align_corners,
        boundary_weight=1,
        boundary_width=1,
    )
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


# --- state --------------------------------------------------------------------------------------

STATES: list[tuple[int, dict[str, Any]]] = [
    (0, {}),
    (0, BALANCED),
    (1, REFERENCE | {"refresh_epochs": 1}),
    (1, {"boundary_stage": True}),
    (1, {"boundary_stage": True, "boundary": "authors", "boundary_ema": 0.5}),
]
NAMES = ["paper", "ours", "code", "boundary", "authors' boundary"]


@pytest.mark.parametrize(("number", "settings"), STATES, ids=NAMES)
@pytest.mark.parametrize("steps", [1, 2])
def test_a_stage_goes_on_from_its_state_bit_for_bit(
    number: int, settings: dict[str, Any], steps: int, tmp_path: Path, network: Network
) -> None:
    stage = begun(tmp_path / "one", network(), number, **settings)
    train(stage, steps)
    student = {k: v.clone() for k, v in stage.model.state_dict().items()}
    state = {k: v.clone() for k, v in stage.state().items()}
    again = begun(tmp_path / "two", network(), number, **settings)  # its labels are not there
    again.model.load_state_dict(student)
    again.load_state(state)
    assert train(stage, 3, steps) == train(again, 3, steps)
    assert all(map(torch.equal, stage.state().values(), again.state().values()))


@pytest.mark.parametrize(("number", "settings"), STATES, ids=NAMES)
def test_a_step_thrown_away_can_be_put_back_from_touched(
    number: int, settings: dict[str, Any], tmp_path: Path, network: Network
) -> None:
    stage = begun(tmp_path, network(), number, **settings)

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


@pytest.mark.parametrize("boundary", [False, True])
def test_autocast_gives_float32_terms_near_those_without(
    boundary: bool, tmp_path: Path, network: Network
) -> None:
    stage = begun(tmp_path, network(), -1, boundary_stage=boundary)
    plain = values(losses(stage))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = losses(stage)
    assert all(term.dtype == torch.float32 for term in cast.values())
    assert values(cast) == pytest.approx(plain, rel=0.1)


# --- whole runs ---------------------------------------------------------------------------------


SMALL = ("tone=none", "training.steps=6", "training.frame_size=[48,32]")
RUNS: dict[str, tuple[str, ...]] = {
    "roadshift": ("ld.boundary_stage=true", "ld.scales=[1.0]"),
    "paper": ("ld.variant=paper", "training.crop_size=[32,32]"),
    "reference": (
        "ld.variant=reference",
        "training.crop_size=[32,32]",
        "ld.refresh_epochs=1",
        "ld.boundary_stage=true",
    ),
    "authors' boundary": (
        "ld.variant=reference-2022",
        "ld.boundary_stage=true",
        "ld.boundary=authors",
        "training.crop_size=[32,32]",
    ),
    "micro": ("ld.boundary_stage=true", "training.micro_batch=1", "ld.refresh_epochs=1"),
}


def adapted(source: Bundle, frames_dir: Path, config: RunConfig, out: Path, **options: Any) -> Path:
    job = run_options(out, **options)
    return adapt_bundle(source, [frames_dir], config, job).path


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", RUNS)
def test_a_whole_run_gives_a_bundle_and_resumes_exactly(
    name: str, source: Bundle, frames_dir: Path, tmp_path: Path, settings: Settings
) -> None:
    config = settings(*SMALL, *RUNS[name], method="ld")
    whole = adapted(source, frames_dir, config, tmp_path / "whole")
    bundle = open_bundle(whole)
    assert bundle.manifest.provenance.method == "ld"
    outcome: Any = bundle.manifest.provenance.configuration["outcome"]
    assert (outcome["steps"], outcome["skipped_steps"]) == (6, 0)

    run = tmp_path / "out.run"
    for step in (2, 5):
        with pytest.raises(Killed):
            adapted(
                source,
                frames_dir,
                config,
                tmp_path / "out",
                report=kill_at(step),
                resume=True,
                checkpoint_every_s=0,
            )
        stored = sorted(run.glob("pseudo_labels-*/**/*.png"))
        assert stored
        for number, path in enumerate(stored):  # some damaged, some lost, some whole
            if number % 3 == 0:
                path.write_bytes(path.read_bytes()[:25])
            elif number % 3 == 1:
                path.unlink()
    again = adapted(source, frames_dir, config, tmp_path / "out", resume=True)
    one, other = (load_file(path / "model.safetensors") for path in (whole, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    assert (again / HISTORY).read_text() == (whole / HISTORY).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_twenty_steps_sharpen_the_student_and_are_repeatable(
    tmp_path: Path, network: Network
) -> None:
    history = train(begun(tmp_path / "a", network()), 20)
    assert history[-1]["entropy"] < 0.8 * history[0]["entropy"]
    assert train(begun(tmp_path / "b", network()), 20) == history
