"""The labeller: a copy of the student that moves at the ends of epochs, and only there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.pseudo_labels.hard_labels import (
    PseudoLabels,
    frame_probabilities,
    label_frames,
)
from roadshift.adapt.pseudo_labels.labeller import Labeller
from roadshift.adapt.run.config import RunConfig, TrainingConfig
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.work import Work
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.errors import RunInterrupted
from run_cases import stage_context
from torch import Tensor

WIDTH, HEIGHT = 24, 16
Network = Callable[..., SegmentationNetwork]


def context(
    folder: Path, frames: int = 4, batch: int = 2, stop: Callable[[], bool] = lambda: False
) -> Context:
    size = (frames, HEIGHT, WIDTH, 3)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=(120, 110, 100), std=(60, 60, 60))
    made = stage_context(
        folder,
        FrameSet([f"f{i}" for i in range(frames)], WIDTH, HEIGHT, pixels.__getitem__),
        Normalise(spec),
        RunConfig(method="ld", training=TrainingConfig(batch_size=batch)),
    )
    return replace(made, work=Work(events=Events(stop_requested=stop)))


def learn(student: SegmentationNetwork) -> None:
    """A step, as far as the labeller sees it: the weights and the statistics change."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    student.train()(torch.randn(2, 3, HEIGHT, WIDTH))


def everything(labels: PseudoLabels, frames: int = 4) -> list[tuple[Any, Any]]:
    read = [labels.read(i) for i in range(frames)]
    return [(one[0].tolist(), one[1].tolist()) for one in read if one is not None]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def weights(model: SegmentationNetwork) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


# --- when it moves ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "batch", "epochs", "refreshed_before"),
    [
        (4, 2, 1, [2, 4, 6]),
        (4, 2, 2, [4]),
        (4, 2, 0, []),
        (5, 2, 1, [3, 5]),  # epochs end within batches: after 5, 10, 15 frames
        (5, 3, 1, [2, 4, 5, 7]),
        (2, 3, 1, [1, 2, 3, 4, 5, 6, 7]),  # a batch holds more than an epoch
    ],
)
def test_the_copy_is_made_anew_exactly_where_an_epoch_is_over(
    frames: int,
    batch: int,
    epochs: int,
    refreshed_before: list[int],
    tmp_path: Path,
    network: Network,
) -> None:
    student = network()
    labeller = Labeller(student, context(tmp_path, frames, batch), (1.0,), epochs)
    refreshed = []
    for step in range(8):
        before = weights(labeller.network)
        labeller.current()
        if not same(weights(labeller.network), before):
            refreshed.append(step)
            assert same(weights(labeller.network), weights(student))
        learn(student)
        labeller.after_step()
    assert refreshed == refreshed_before


def test_asking_again_within_a_step_changes_nothing(tmp_path: Path, network: Network) -> None:
    student = network()
    labeller = Labeller(student, context(tmp_path), (1.0,), 1)
    for _ in range(3):
        labels = labeller.current()
        learn(student)  # micro-batches: the statistics move between two questions
        assert labeller.current() is labels
        labeller.after_step()


def test_the_labels_are_those_of_the_copy_and_the_old_ones_go(
    tmp_path: Path, network: Network
) -> None:
    student = network()
    surroundings = context(tmp_path)
    labeller = Labeller(student, surroundings, (1.0, 0.5), 1, mirror=False, batch_statistics=True)
    first = labeller.current()
    for _ in range(2):
        learn(student)
        labeller.after_step()
    second = labeller.current()
    assert not first.path(0).parent.exists()
    expected = label_frames(
        student, context(tmp_path / "plain"), (1.0, 0.5), mirror=False, batch_statistics=True
    )
    assert everything(second) == everything(expected)
    for i in range(4):
        p = frame_probabilities(
            student, surroundings, i, (1.0, 0.5), mirror=False, batch_statistics=True
        )
        assert torch.equal(labeller.probabilities(i), p)


def test_labelling_leaves_the_student_and_the_copy_as_they_are(
    tmp_path: Path, network: Network
) -> None:
    student = network().train()
    labeller = Labeller(student, context(tmp_path), (1.0,), 1, batch_statistics=True)
    before = weights(student), weights(labeller.network)
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    labeller.current()
    assert torch.equal(torch.rand(3), drawn)  # it draws nothing from the generator
    assert student.training
    assert same(before[0], weights(student))
    assert same(before[1], weights(labeller.network))
    assert not any(p.requires_grad for p in labeller.network.parameters())


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop_after", "lost"),
    [(0, "nothing"), (1, "all"), (2, "one"), (2, "nothing"), (3, "one"), (5, "all")],
)
def test_a_resumed_labeller_gives_the_labels_of_one_that_went_on(
    stop_after: int, lost: str, tmp_path: Path, network: Network
) -> None:
    def run(labeller: Labeller, start: int) -> list[Any]:
        seen = []
        for _ in range(start, 6):
            seen.append(everything(labeller.current(), 3))
            learn(labeller.student)
            labeller.after_step()
        return seen

    whole = run(Labeller(network(), context(tmp_path / "whole", 3), (1.0,), 1), 0)
    student = network()
    labeller = Labeller(student, context(tmp_path / "out", 3), (1.0,), 1)
    for _ in range(stop_after):
        labeller.current()
        learn(student)
        labeller.after_step()
    state = {name: tensor.clone() for name, tensor in labeller.state().items()}
    files = sorted((tmp_path / "out").glob("*/*.png")) if (tmp_path / "out").exists() else []
    for path in files if lost == "all" else files[:1] if lost == "one" else []:
        path.write_bytes(path.read_bytes()[:20])
    again = Labeller(student, context(tmp_path / "out", 3), (1.0,), 1)
    again.load_state(state)
    assert run(again, stop_after) == whole[stop_after:]


def test_a_stop_while_labelling_keeps_what_was_made(tmp_path: Path, network: Network) -> None:
    polls: list[int] = []

    def stop() -> bool:
        polls.append(0)
        return len(polls) == 3

    with pytest.raises(RunInterrupted):
        Labeller(network(), context(tmp_path, stop=stop), (1.0,), 1).current()
    assert len(list(tmp_path.glob("*/*.png"))) == 2
    labels = Labeller(network(), context(tmp_path), (1.0,), 1).current()
    assert len(everything(labels)) == 4
