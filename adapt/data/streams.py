"""Streams of frames: the frames that the rows of each step's batch are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Streams:
    """Sets of frames, of each of which every step takes a batch of ``training.batch_size``.

    Args:
        frames: numbers of the frames of each stream, none empty.
        in_turn: a row of each stream in turn, so that a forward pass of several rows holds frames
            of all; else the first stream's rows come first, and no forward pass holds two streams'.
    """

    frames: tuple[Sequence[int], ...]
    in_turn: bool = False

    def rows(self, batch_size: int) -> list[tuple[int, int]]:
        """The stream, and the place in its batch, of every row."""
        streams = range(len(self.frames))
        if self.in_turn:
            return [(stream, slot) for slot in range(batch_size) for stream in streams]
        return [(stream, slot) for stream in streams for slot in range(batch_size)]

    def blocks(self, batch_size: int) -> tuple[int, ...]:
        """Lengths of the runs of rows that no forward pass crosses, see `Batch.blocks`."""
        if self.in_turn:
            return (batch_size * len(self.frames),)
        return (batch_size,) * len(self.frames)

    def drawn(self, stream: int, position: int, seed: int) -> tuple[int, np.random.Generator]:
        """The frame at ``position`` of a stream, and what draws its crop and noise.

        Every frame comes once an epoch of its stream, shuffled; all follows from the arguments.
        """
        frames = self.frames[stream]
        epoch, place = divmod(position, len(frames))
        shuffling, drawing = [seed, epoch], [seed, epoch, place]
        if stream:  # the first one draws as it would alone
            shuffling, drawing = [seed, epoch, 0, stream], [seed, epoch, place + 1, stream]
        order = np.random.default_rng(shuffling).permutation(len(frames))
        return frames[int(order[place])], np.random.default_rng(drawing)
