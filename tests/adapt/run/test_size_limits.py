"""Sizes that no machine holds are refused before any work, with the bytes they would take."""

from __future__ import annotations

import pytest
from roadshift.adapt.run import size_limits
from roadshift.adapt.run.config import TrainingConfig
from roadshift.adapt.run.size_limits import check_batch_size, check_frame_size
from roadshift.runtime.errors import ConfigError
from roadshift.runtime.probes.memory import available_memory_bytes

GB = 10**9


@pytest.fixture
def eight_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_limits, "available_memory_bytes", lambda: 8 * GB)


@pytest.mark.usefixtures("eight_gb")
def test_a_frame_that_does_not_fit_is_refused() -> None:
    large = TrainingConfig(frame_size=(100_000, 100_000))
    with pytest.raises(ConfigError, match=r"frame_size \[100000, 100000\].*150\.0 GB and 8\.0 GB"):
        check_frame_size(large, 100_000, 100_000)
    with pytest.raises(ConfigError, match=r"the model's input 100000x100000: .*frame_size"):
        check_frame_size(TrainingConfig(), 100_000, 100_000)
    check_frame_size(TrainingConfig(), 4096, 2048)


@pytest.mark.usefixtures("eight_gb")
@pytest.mark.parametrize(
    ("size", "frames", "sentence"),
    [
        (1_000_000, 29, "more than 4 times the 29 frames .* at most 116"),
        (1_000_000, 10**7, r"take 3145\.7 GB and 8\.0 GB"),
        (65, 3, "more than 4 times the 3 frames .* at most 64"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(size: int, frames: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"batch_size={size}: .*{sentence}"):
        check_batch_size(TrainingConfig(batch_size=size), frames, 1024, 512)


@pytest.mark.usefixtures("eight_gb")
@pytest.mark.parametrize(("size", "frames"), [(64, 1), (4, 1), (116, 29), (256, 64)])
def test_a_batch_of_few_frames_again_and_again_is_not(size: int, frames: int) -> None:
    check_batch_size(TrainingConfig(batch_size=size), frames, 320, 160)


def test_where_no_one_knows_the_memory_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_limits, "available_memory_bytes", lambda: None)
    check_frame_size(TrainingConfig(), 100_000, 100_000)


def test_this_machine_says_what_it_has() -> None:
    room = available_memory_bytes()
    assert room is None or 0 <= room < 2**50
