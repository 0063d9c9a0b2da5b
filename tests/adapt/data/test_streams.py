"""Streams of frames: which rows a batch has, which of them a forward pass takes, and what decides
the draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from roadshift.adapt.data.dataset import Batch, CropSampler
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.data.streams import Streams
from roadshift.adapt.run.config import AugmentConfig, TrainingConfig

FRAMES = 7
EASY, HARD = [0, 3, 5], [1, 2, 4, 6]


def sampler(streams: Streams | None = None, batch_size: int = 2, seed: int = 0) -> CropSampler:
    pixels = np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 48, 3), dtype=np.uint8)
    frames = FrameSet([f"f{i}" for i in range(FRAMES)], 48, 32, pixels.__getitem__)
    training = TrainingConfig(batch_size=batch_size, crop_size=(24, 16), scale=(0.8, 1.5))
    made = CropSampler(frames, training, AugmentConfig(policy="daformer"), seed)
    if streams is not None:
        made.draw_from(streams)
    return made


def assert_same(one: Batch, other: Batch) -> None:
    assert torch.equal(one.clean, other.clean)
    assert torch.equal(one.augmented, other.augmented)
    assert (one.frames, one.crops, one.blocks) == (other.frames, other.crops, other.blocks)


@pytest.mark.parametrize("in_turn", [False, True])
def test_every_step_has_a_batch_of_each_stream(in_turn: bool) -> None:
    drawn = sampler(Streams((HARD, EASY), in_turn), batch_size=3)
    for step in range(8):
        frames = drawn.batch(step).frames
        hard = frames[0::2] if in_turn else frames[:3]
        easy = frames[1::2] if in_turn else frames[3:]
        assert len(frames) == 6
        assert set(hard) <= set(HARD)
        assert set(easy) <= set(EASY)


def test_every_frame_comes_once_an_epoch_of_its_stream() -> None:
    drawn = sampler(Streams((HARD, EASY)), batch_size=1)
    batches = [drawn.batch(step).frames for step in range(12)]  # 3 epochs of 4, 4 of 3
    hard, easy = [b[0] for b in batches], [b[1] for b in batches]
    assert all(sorted(hard[i : i + 4]) == HARD for i in (0, 4, 8))
    assert all(sorted(easy[i : i + 3]) == EASY for i in (0, 3, 6, 9))
    assert len({tuple(easy[i : i + 3]) for i in (0, 3, 6, 9)}) > 1


def test_a_step_depends_on_the_seed_and_its_number_alone() -> None:
    streams = Streams((HARD, EASY))
    first = sampler(streams)
    for step in range(5):
        first.batch(step)
    assert_same(first.batch(9), sampler(streams).batch(9))
    other = sampler(streams, seed=1)
    assert any(first.batch(s).crops != other.batch(s).crops for s in range(3))


def test_one_stream_alone_and_the_first_of_two_draw_as_ever() -> None:
    alone, beside = sampler(Streams((HARD,))), sampler(Streams((HARD, EASY)))
    for step in range(5):
        assert_same(replace(alone.batch(step), blocks=()), beside.batch(step).part(0, 2))
    assert_same(sampler().batch(3), sampler(Streams((range(FRAMES),))).batch(3))


def test_streams_of_the_same_frames_draw_apart() -> None:
    batch = [sampler(Streams((EASY, EASY))).batch(step) for step in range(6)]
    assert any(b.frames[:2] != b.frames[2:] for b in batch)
    assert all(b.crops[:2] != b.crops[2:] for b in batch)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_passes_hold_every_row_once_and_never_two_blocks(batch_size: int, micro_batch: int) -> None:
    micro_batch = min(micro_batch, batch_size)
    batch = sampler(Streams((HARD, EASY)), batch_size).batch(0)
    passes = batch.passes(micro_batch)
    rows = Counter(row for start, stop in passes for row in range(start, stop))
    assert rows == Counter(range(2 * batch_size))
    for start, stop in passes:
        assert 0 < stop - start <= micro_batch
        assert len({f in EASY for f in batch.frames[start:stop]}) == 1
    lengths = [stop - start for start, stop in passes]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("batch_size", [2, 3, 4])
def test_in_turn_every_pass_of_two_rows_or_more_holds_both(batch_size: int) -> None:
    batch = sampler(Streams((HARD, EASY), in_turn=True), batch_size).batch(0)
    for start, stop in batch.passes(batch_size):
        assert {f in EASY for f in batch.frames[start:stop]} == {True, False}


def test_a_batch_keeps_its_blocks_on_its_way_to_a_device() -> None:
    batch = sampler(Streams((HARD, EASY))).batch(0)
    assert batch.blocks == (2, 2)
    assert batch.to(torch.device("cpu")).blocks == (2, 2)
