"""IAPC's "reference" variant against a plain restatement of it over five steps with batch norm.

The restatement shares no code with the package but the batches that are drawn, which
`tests/adapt/data` looks at: maps of the frame's size, loops over images, classes and weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, Crop
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.methods import build_stages, resolve_config
from roadshift.adapt.methods.iapc import IapcStage
from roadshift.adapt.methods.iapc_config import IapcConfig
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import Output, SegmentationNetwork
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.options import RunOptions
from roadshift.adapt.run.work import Work
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.bundle import InputSpec
from torch import Tensor, nn

WIDTH, HEIGHT, K, STEPS, BATCH = 80, 40, 5, 5, 3
CROP = (16, 32)  # (height, width)
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
EVERYTHING = {  # what `reference` says, in a small size, with a warm-up that ends within the run
    "iapc.variant": "reference",
    "training.steps": STEPS,
    "training.schedule_steps": 20,
    "training.warmup_steps": 3,
    "training.lr": 1e-3,
    "training.batch_size": BATCH,
    "training.frame_size": f"[{WIDTH}, {HEIGHT}]",
    "training.crop_size": f"[{CROP[1]}, {CROP[0]}]",
    "training.amp": "off",
    "loss_backend": "reference",
    "iapc.crop_classes": 3,
    "iapc.memory_decay": 0.9,  # so that the memory model differs from the start within five steps
}
UPDATES = {"layer3.0.weight": 3, "layer3.0.bias": 3, "layer4.0.weight": 4}  # a step, of a weight


class Net(SegmentationNetwork):
    """Convolutions, batch norm with frozen scale and shift, features before the last of them."""

    num_classes = K
    align_corners = True
    reference_feature_layer = "layer3"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer1 = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6))
        self.layer3 = nn.Sequential(nn.Conv2d(6, 7, 3, 2, 1), nn.BatchNorm2d(7), nn.ReLU())
        self.layer4 = nn.Sequential(nn.Conv2d(7, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer6 = nn.Conv2d(8, K, 3, 1, 1)
        nn.init.normal_(self.layer6.weight, std=0.5)
        with torch.no_grad():  # every class has its pixels, and the first score is far from 0
            self.layer6.bias -= self.eval()(normalised(all_frames())).logits.mean(dim=(0, 2, 3))
            self.layer6.bias += torch.tensor([4.0, 4, 4, 3.9, 3.75])  # the last two are rare
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> Output:
        third = self.layer3(self.layer1(images).relu())
        fourth = self.layer4(third)
        return Output(self.layer6(fourth), fourth)

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the features of the authors' layer."""
        third = self.layer3(self.layer1(images).relu())
        return self.layer6(self.layer4(third)), third

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        return self.layer6.parameters()

    def published_updates(self) -> dict[str, int]:
        return UPDATES


def frames(count: int = 6) -> FrameSet:
    """Blobs of colour with noise: argmaxes that rounding does not turn."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, 5, 10, 3), dtype=np.uint8)
    images = [cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for image in coarse]
    return FrameSet([f"f{i}" for i in range(count)], WIDTH, HEIGHT, images.__getitem__)


def all_frames() -> Tensor:
    return torch.from_numpy(np.stack([frames().image(i) for i in range(6)]))


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.permute(0, 3, 1, 2).float() - mean) / std


def up(values: Tensor, size: tuple[int, int] = CROP) -> Tensor:
    return F.interpolate(values, size=size, mode="bilinear", align_corners=True)


class Restated:
    """The section on IAPC's reference code, line by line."""

    def __init__(self, model: Net, images: FrameSet) -> None:
        self.student = model.train()
        self.source = copy.deepcopy(model).eval()
        self.memory = copy.deepcopy(model).train()
        self.momenta: dict[str, Tensor] = {}
        self.often = torch.ones(K)
        self.images = images
        with torch.no_grad():
            self.labels = [self.pseudo_label(images.image(i)) for i in range(len(images))]

    def pseudo_label(self, image: Any) -> Any:
        """Summed softmax over 0.8 x {1, 1.25, 0.75} of the frame and their mirror images."""
        x = normalised(torch.from_numpy(image)[None])
        total = torch.zeros(1, K, HEIGHT, WIDTH)
        for scale in (0.8, 1.0, 0.6):
            size = (round(HEIGHT * scale), round(WIDTH * scale))
            view = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total += up(self.source.both(view)[0], (HEIGHT, WIDTH)).softmax(dim=1)
            mirrored = up(self.source.both(view.flip(3))[0], (HEIGHT, WIDTH)).softmax(dim=1)
            total += mirrored.flip(3)
        return total.argmax(dim=1)[0].numpy().astype(np.uint8)

    def label_of(self, frame: int, crop: Crop) -> Tensor:
        window = self.labels[frame][crop.top :, crop.left :][: crop.height, : crop.width]
        at = cv2.resize(window, CROP[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return torch.from_numpy((at[:, ::-1] if crop.flip else at).copy()).long()

    def unscaled(self, frame: int, crop: Crop) -> Tensor:
        h, w = CROP
        top = math.floor(crop.top * (HEIGHT - h) / (HEIGHT - crop.height))
        left = math.floor(crop.left * (WIDTH - w) / (WIDTH - crop.width))
        window = self.images.image(frame)[top : top + h, left : left + w]
        return torch.from_numpy((window[:, ::-1] if crop.flip else window).copy())

    def class_weights(self, labels: Tensor) -> Tensor:
        weight, often = torch.ones(K), torch.ones(K)
        for c in range(K):
            count = int((labels == c).sum())
            if count < 4096 / (512 * 256) * labels.numel():
                weight[c] = 7
            if count == 0:
                often[c] = 7
        self.often = 0.9 * self.often + 0.1 * often
        return weight * self.often

    def step(self, number: int, batch: Batch) -> None:
        rows = list(zip(batch.frames, batch.crops, strict=True))
        y_hat = torch.stack([self.label_of(*row) for row in rows])
        clean, noisy = normalised(batch.clean), normalised(batch.augmented)
        with torch.no_grad():
            ranked = up(self.source.both(clean)[0]).sort(dim=1, descending=True).values
            omega = 1 - ranked[:, 1] / ranked[:, 0]
            plain = torch.stack([self.unscaled(*row) for row in rows])
            logits, remembered = self.memory.both(normalised(plain))
            seen = up(logits).argmax(dim=1)
            seen = F.interpolate(seen[:, None].float(), remembered.shape[2:], mode="nearest")[:, 0]
        low, features = self.student.both(noisy)
        z = up(low)
        similarity = torch.zeros(BATCH, K, *features.shape[2:])
        for b in range(BATCH):
            for c in range(K):
                inside = seen[b] == c
                k = remembered[b][:, inside].mean(dim=1) if inside.any() else torch.zeros(7)
                k = k / k.norm().clamp(min=1e-12)
                length = features[b].norm(dim=0).clamp(min=1e-12)
                similarity[b, c] = (features[b] * k[:, None, None]).sum(dim=0) / length
        coarse = similarity.argmax(dim=1)
        y_prime = F.interpolate(coarse[:, None].float(), CROP, mode="nearest")[:, 0].long()
        y_t = z.argmax(dim=1)
        a, p = self.class_weights(y_hat), z.softmax(dim=1)
        weighted = F.cross_entropy(z, y_hat, weight=a, reduction="none")
        agreed = y_prime.clone()
        agreed[y_prime != y_hat] = 255
        enhanced = F.cross_entropy(z, agreed, weight=a, ignore_index=255, reduction="none")
        loss = 0.2 * (omega * weighted).mean() + 0.5 * enhanced.mean()
        loss += 0.04 * (F.cross_entropy(z, y_prime) + F.cross_entropy(up(similarity), y_t))
        loss += 2.0 * -(p * (p + 1e-5).log()).sum(dim=1).mean()
        factor = 0.1 + 0.9 * number / 3 if number < 3 else (1 - number / 20) ** 0.9
        learning = {n: p for n, p in self.student.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(learning.values()))
        with torch.no_grad():
            for (name, weight), gradient in zip(learning.items(), gradients, strict=True):
                rate = 1e-3 * factor * (10 if "layer6" in name else 1)
                for _ in range(UPDATES.get(name, 1)):  # Nesterov, as torch has it
                    decayed = gradient + 5e-4 * weight
                    seen_before = self.momenta.get(name)
                    momentum = decayed if seen_before is None else 0.9 * seen_before + decayed
                    self.momenta[name] = momentum
                    weight.sub_(rate * (decayed + 0.9 * momentum))
            self.student.both(clean)
            for m, s in zip(self.memory.parameters(), self.student.parameters(), strict=True):
                m.copy_(0.9 * m + 0.1 * s)
            for m, s in zip(self.memory.buffers(), self.student.buffers(), strict=True):
                m.copy_(s)


def configured(**changed: Any) -> RunConfig:
    """``name=value`` of IAPC's own settings, or ``section.name``."""
    own = IapcConfig.model_fields
    chosen = EVERYTHING | {f"iapc.{n}" if n in own else n: v for n, v in changed.items()}
    return resolve_config("iapc", assignments=[f"{key}={value}" for key, value in chosen.items()])


def trainer(
    folder: Path, model: Net, config: RunConfig, note: Callable[[str], None] = lambda _: None
) -> tuple[Trainer, list[Batch]]:
    """A trainer, and the batches that it will have drawn."""
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=MEAN, std=STD)
    context = Context(
        frames=frames(),
        normalise=Normalise(spec),
        device=torch.device("cpu"),
        workdir=folder,
        config=config,
        crop_size=CROP,
        losses=config.loss_backend,  # type: ignore[arg-type] - reference or tiled
        work=Work(events=Events(note=note)),
    )
    made = Trainer(model, build_stages(config), context, RunOptions(folder / "out"))
    drawn: list[Batch] = []
    draw = made.sampler.batch

    def noted(step: int) -> Batch:
        drawn.append(draw(step))
        return drawn[-1]

    made.sampler.batch = noted  # type: ignore[method-assign]
    return made, drawn


def learnt(folder: Path, **changed: Any) -> dict[str, Tensor]:
    model = Net()
    folder.mkdir()
    trainer(folder, model, configured(**changed))[0].run()
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights that `EVERYTHING` ends with."""
    return learnt(tmp_path_factory.mktemp("reference") / "run")


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_five_steps_end_with_the_weights_of_a_plain_restatement(
    tmp_path: Path, backend: str
) -> None:
    config = configured(loss_backend=backend)
    ours, plain = Net(), Restated(Net(), frames())
    start = copy.deepcopy(ours.state_dict())
    run, drawn = trainer(tmp_path, ours, config)
    run.run()
    assert len(drawn) == STEPS
    for number, batch in enumerate(drawn):
        plain.step(number, batch)
    moved = 0.0
    for name, value in plain.student.state_dict().items():
        assert (ours.state_dict()[name] - value).abs().max().item() <= 1e-6, name
        moved = max(moved, float((value - start[name]).abs().max()))
    assert moved > 1e-3


def test_the_restatement_has_all_that_it_is_to_show(tmp_path: Path) -> None:
    """Several classes, rare ones among them, crops with a zoom, and the condition at work."""
    plain = Restated(Net(), frames())
    run, drawn = trainer(tmp_path, Net(), configured())
    run.run()
    labels = [torch.stack([plain.label_of(*row) for row in rows_of(batch)]) for batch in drawn]
    counts = [len(image.unique()) for batch in labels for image in batch]
    assert sum(count > 3 for count in counts) >= len(counts) / 2
    assert any(bool((plain.class_weights(batch) >= 7).any()) for batch in labels)
    assert len({crop.width for batch in drawn for crop in batch.crops}) > 5


def rows_of(batch: Batch) -> list[tuple[int, Crop]]:
    return list(zip(batch.frames, batch.crops, strict=True))


@pytest.mark.parametrize(
    ("change", "of_weights"),
    [
        ({"clean_pass": "false"}, False),
        ({"agreement_balance": "prototype"}, True),
        ({"label_scales": "[1.0, 1.25, 0.75]"}, True),
        ({"prototype_view": "crop"}, True),
        ({"prototype_labels": "pixels"}, True),
        ({"crop_classes": 0}, True),
        ({"similarity": "dot", "normalise": "linear"}, True),
        ({"training.repeated_updates": "false"}, True),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_setting_leads_elsewhere(
    tmp_path: Path, unchanged: dict[str, Tensor], change: dict[str, Any], of_weights: bool
) -> None:
    one, other = unchanged, learnt(tmp_path / "other", **change)
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ, "the setting does nothing"
    weights = {name for name in differ if "running" not in name and "num_batches" not in name}
    assert bool(weights) == of_weights


# --- the clean pass and the condition on crops ----------------------------------------------------


@pytest.mark.parametrize(("clean", "passes"), [("true", 4), ("false", 2)])
def test_a_clean_pass_is_one_more_for_each_micro_batch(
    tmp_path: Path, clean: str, passes: int
) -> None:
    weights = learnt(tmp_path / "run", clean_pass=clean, **{"training.micro_batch": 2})
    assert weights["layer1.1.num_batches_tracked"].item() == passes * STEPS


def test_no_clean_pass_is_made_where_the_statistics_stand_still(tmp_path: Path) -> None:
    model = Net()
    run, drawn = trainer(tmp_path, model, configured(**{"freeze_bn": "true"}))
    run.run()
    (stage,) = run.stages
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.register_forward_hook(lambda *_: pytest.fail("the student ran"))
    stage.look_again(drawn[0])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_condition_that_no_crop_can_meet_is_told_and_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    run, _ = trainer(tmp_path, Net(), configured(crop_classes=K), said.append)
    (stage,) = run.stages
    stage.begin(run.model, run.context)
    assert stage.crop_condition() is None
    assert len(said) == 1
    assert "none holds more than iapc.crop_classes=5 of the network's 5 classes" in said[0]


@pytest.mark.parametrize(("wanted", "holds"), [(2, True), (3, False)])
def test_the_condition_counts_the_stored_labels(tmp_path: Path, wanted: int, holds: bool) -> None:
    run, _ = trainer(tmp_path, Net(), configured(crop_classes=wanted))
    (stage,) = run.stages
    stage.begin(run.model, run.context)
    classes = np.zeros((HEIGHT, WIDTH), np.uint8)
    classes[:10], classes[30:, 40:] = 1, 2
    assert isinstance(stage, IapcStage)
    assert stage.labels is not None
    stage.labels.write(4, classes, np.zeros((HEIGHT, WIDTH), np.uint16))
    condition = stage.crop_condition()
    assert condition is not None
    assert condition.draws == 10
    assert condition.of_frame(4)(Crop(0, 0, WIDTH, HEIGHT, flip=False)) == holds
    assert not condition.of_frame(4)(Crop(0, 0, 40, 20, flip=False))  # the third is elsewhere
