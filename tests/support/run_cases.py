"""Set-up for tests of stages, runs and their resumption."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from roadshift.adapt import Events, RunOptions, Student, adapt_bundle
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.losses.backends.reference import pixel_entropy
from roadshift.adapt.methods import Stage
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.workspace import HISTORY
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.labels import LabelSpace
from safetensors.torch import load_file
from torch import Tensor

SUPPORT = Path(__file__).parent  # with the programs that tests start


def stage_context(
    folder: Path, frames: FrameSet, normalise: Normalise, config: RunConfig
) -> Context:
    """A context to begin a stage with, on the CPU, for crops as large as the frames."""
    return Context(
        frames=frames,
        normalise=normalise,
        device=torch.device("cpu"),
        workdir=folder,
        config=config,
        crop_size=(frames.height, frames.width),
    )


def without_labels(stage: Stage, batch: Batch) -> Batch:
    """``batch``, in which any use of a label fails the test, as it does in the stage's frames."""
    context: Any = stage.context
    context.frames.labels = _forbidden
    object.__setattr__(batch, "labels", _Untouchable())
    return batch


def _forbidden(index: int) -> Any:
    raise AssertionError(f"the label of frame {index} was read")


class _Untouchable:
    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"a label was touched: {name}")


class Entropy(Stage):
    """Mean entropy of the network's predictions, times what ``factor`` gives for each call."""

    name = "entropy"

    def __init__(self, factor: Callable[[int], float] = lambda _: 1.0) -> None:
        self.factor, self.calls = factor, 0

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        self.model, self.normalise = model.train(), context.normalise

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        logits = self.model(self.normalise(batch.augmented)).logits
        mean_entropy = pixel_entropy(logits.log_softmax(dim=1)).mean()
        return {"entropy": self.factor(self.calls) * mean_entropy}


def sgd_steps(
    stage: Stage, parameters: Any, steps: Iterable[int], draw: Callable[[int], Batch]
) -> list[dict[str, float]]:
    """Plain SGD steps of a stage, on ``draw(step)``, as the trainer takes them; their terms."""
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    history = []
    for step in steps:
        torch.manual_seed(step)
        terms = stage.losses(draw(step))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        stage.after_step()
        history.append(values(terms))
    return history


class Killed(BaseException):
    """The loss of a process as it looks from within: nothing below may catch it."""


def kill_at(step: int) -> Callable[[ProgressUpdate], None]:
    """A report that dies after ``step``."""

    def report(progress: ProgressUpdate) -> None:
        if progress.done == step:
            raise Killed

    return report


class Polls:
    """Counts how often a run asks whether to stop."""

    def __init__(self) -> None:
        self.count = 0

    def stop_at(self, number: int) -> Callable[[], bool]:
        """Says yes to the question of this number; 0: never. Counts from 0 again."""
        self.count = 0

        def stop() -> bool:
            self.count += 1
            return self.count == number

        return stop


def block_frames(count: int, width: int, height: int) -> FrameSet:
    """Blocks of colour of 4x4 pixels, with more contrast from frame to frame."""
    rng = np.random.default_rng(1)
    blocks = rng.uniform(-1, 1, (count, height // 4, width // 4, 3))
    blocks = blocks.repeat(4, axis=1).repeat(4, axis=2)
    contrast = np.linspace(10, 120, count)[rng.permutation(count), None, None, None]
    pixels = (128 + contrast * blocks).astype(np.uint8)
    return FrameSet([f"f{i}" for i in range(count)], width, height, pixels.__getitem__)


def run_options(out: Path, **options: Any) -> RunOptions:
    """Options of a run on the CPU, with those of `Events` among them."""
    names = {field.name for field in fields(Events)} & options.keys()
    events = Events(**{name: options.pop(name) for name in names})
    return RunOptions(out, **{"device": "cpu", **options}, events=events)


def adapted(
    source: Bundle, frames: Path, config: RunConfig, out: Path, **options: Any
) -> dict[str, Tensor]:
    """The weights of a run through `adapt_bundle`, on the CPU."""
    return weights(adapt_bundle(source, [frames], config, run_options(out, **options)))


def weights(bundle: Bundle) -> dict[str, Tensor]:
    return load_file(bundle.path / "model.safetensors")


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """The same names, and bit for bit the same tensors."""
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]


def values(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    """Equal, bit for bit."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def black_box(space: LabelSpace, target: Path, folder: Path) -> tuple[Path, Student]:
    """A folder with a model's answers, which are no labels, and a student for them."""
    answers = folder / "answers"
    answers.mkdir()
    rng = np.random.default_rng(0)
    for path in (target / "images").iterdir():
        p = rng.dirichlet(np.ones(space.num_classes), (8, 12)).transpose(2, 0, 1)
        np.savez_compressed(answers / path.stem, p=p.astype(np.float32))
    (folder / "space.json").write_text(json.dumps(space.to_dict()))
    return answers, Student("tiny_network:build", str(folder / "space.json"), (48, 32))
