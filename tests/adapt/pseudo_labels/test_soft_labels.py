"""SoftLabels: class mass, made once, taken up, made anew. Crops: `test_stored_answers.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, Crop
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.pseudo_labels.soft_labels import SoftLabels
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.work import Work
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.errors import OutputError, RunInterrupted

WIDTH, HEIGHT, K = 24, 16, 4
Label = NDArray[Any]


class Source:
    """Gives ``labels`` by frame number; remembers when it was opened and what it was asked."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self.labels, self.opened, self.asked = labels, 0, list[int]()

    def __call__(self) -> Callable[[int], Label]:
        self.opened += 1
        return self.label

    def label(self, frame: int) -> Label:
        self.asked.append(frame)
        return self.labels[frame]


def soft_labels(
    folder: Path, source: Source, name: str = "labels", stop: Callable[[], bool] = lambda: False
) -> SoftLabels:
    def no_image(_: int) -> NDArray[np.uint8]:
        raise AssertionError("soft labels look at no frame themselves")

    names = [f"frame_{i}" for i in range(len(source.labels))]
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=(0,) * 3, std=(1,) * 3)
    context = Context(
        frames=FrameSet(names, WIDTH, HEIGHT, no_image),
        normalise=Normalise(spec),
        device=torch.device("cpu"),
        workdir=folder,
        config=RunConfig(method="nightshift"),
        crop_size=(HEIGHT, WIDTH),
        work=Work(events=Events(stop_requested=stop)),
    )
    return SoftLabels(folder / name, context, K, source)


def soft(seed: int, scale: int = 4) -> Label:
    """Probabilities at ``1 / scale`` of the frame, multiples of 1/64 for float16 to hold."""
    shape = (HEIGHT // scale, WIDTH // scale)
    parts = np.random.default_rng(seed).multinomial(64, [0.6, 0.3, 0.1, 0.0], shape)
    return (parts.transpose(2, 0, 1) / 64).astype(np.float32)


def hard(seed: int, scale: int = 1) -> Label:
    """Classes at ``1 / scale`` of the frame, some of them 255."""
    shape = (HEIGHT // scale, WIDTH // scale)
    drawn = np.random.default_rng(seed).integers(0, K, shape)
    return np.where(drawn == K - 1, 255, drawn).astype(np.uint8)


def four() -> list[Label]:
    return [soft(0), hard(1), soft(2, 1), hard(3, 2)]


def crops(labels: SoftLabels, frame: int) -> list[float]:
    nothing = torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    whole = Crop(0, 0, WIDTH, HEIGHT, False)
    found: list[float] = labels.crops(Batch(nothing, nothing, None, (frame,), (whole,))).tolist()
    return found


# --- class mass ---------------------------------------------------------------------------------


def slow_mass(labels: Sequence[Label]) -> list[float]:
    """A pixel at a time; every frame counts alike, whatever the size of its label."""
    mass = [0.0] * K
    for label in labels:
        rows, columns = label.shape[-2:]
        for y in range(rows):
            for x in range(columns):
                for c in range(K):
                    q = label[c, y, x] if label.ndim == 3 else float(label[y, x] == c)
                    mass[c] += float(q) / (rows * columns * len(labels))
    return mass


LABEL = st.builds(soft, st.integers(0, 99), st.sampled_from([1, 2, 4, 8])) | st.builds(
    hard, st.integers(0, 99), st.sampled_from([1, 2])
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(labels=st.lists(LABEL, min_size=1, max_size=3))
def test_class_mass_is_the_mean_over_the_pixels_of_all_frames(
    labels: list[Label], tmp_path_factory: pytest.TempPathFactory
) -> None:
    mass = soft_labels(tmp_path_factory.mktemp("labels"), Source(labels)).class_mass()
    assert (mass.dtype, tuple(mass.shape)) == (torch.float32, (K,))
    assert mass.tolist() == pytest.approx(slow_mass(labels), abs=2.0**-11)


def test_pixels_without_a_class_are_nobodys_mass(tmp_path: Path) -> None:
    nobody = np.full((HEIGHT, WIDTH), 255, np.uint8)
    half = nobody.copy()
    half[: HEIGHT // 2] = 2
    mass = soft_labels(tmp_path, Source([nobody, half])).class_mass()
    assert mass.tolist() == [0, 0, 0.25, 0]


# --- made once ----------------------------------------------------------------------------------


def test_labels_are_made_once_and_a_later_run_does_not_open_the_source(tmp_path: Path) -> None:
    first = Source(four())
    made = soft_labels(tmp_path, first)
    assert (first.opened, first.asked) == (1, [0, 1, 2, 3])
    again = Source([np.zeros(0)] * 4)
    taken_up = soft_labels(tmp_path, again)
    assert (again.opened, again.asked) == (0, [])
    assert torch.equal(taken_up.class_mass(), made.class_mass())
    assert [crops(taken_up, i) for i in range(4)] == [crops(made, i) for i in range(4)]
    assert first.asked == [0, 1, 2, 3]  # and none of that asks for anything


def test_another_name_is_another_folder(tmp_path: Path) -> None:
    one = soft_labels(tmp_path, Source([hard(0)]), "one")
    other = soft_labels(tmp_path, Source([hard(1)]), "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]
    assert crops(one, 0) != crops(other, 0)
    assert crops(soft_labels(tmp_path, Source([hard(2)]), "one"), 0) == crops(one, 0)


def test_a_run_that_was_stopped_makes_only_the_rest(tmp_path: Path) -> None:
    source = Source(four())
    with pytest.raises(RunInterrupted, match="resume=True"):
        soft_labels(tmp_path, source, stop=lambda: len(source.asked) == 3)
    assert source.asked == [0, 1, 2]
    resumed = Source(four())
    labels = soft_labels(tmp_path, resumed)
    assert (resumed.opened, resumed.asked) == (1, [3])
    whole = soft_labels(tmp_path, Source(four()), "whole")
    assert torch.equal(labels.class_mass(), whole.class_mass())


@pytest.mark.parametrize("frame", [0, 1], ids=["soft", "hard"])
@pytest.mark.parametrize("left", [0, 0.5], ids=["empty", "cut"])
def test_a_damaged_label_is_named_while_the_run_lasts_and_made_again_by_the_next(
    frame: int, left: float, tmp_path: Path
) -> None:
    labels = soft_labels(tmp_path, Source(four()))
    mass = labels.class_mass()
    path = tmp_path / "labels" / f"{frame:06d}.npz"
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    for use in (lambda: labels.class_mass(), lambda: crops(labels, frame)):
        with pytest.raises(
            OutputError, match=rf"00000{frame}\.npz: the label vanished.*resume=True"
        ):
            use()
    source = Source(four())
    again = soft_labels(tmp_path, source)
    assert (source.opened, source.asked) == (1, [frame])
    assert torch.equal(again.class_mass(), mass)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a file")
    source = Source(four())
    with pytest.raises(OutputError, match="labels"):
        soft_labels(tmp_path, source)
    assert source.opened == 0
