"""Sizes that a machine cannot hold, refused before any work with the bytes that they would take."""

from __future__ import annotations

from ...runtime.errors import ConfigError
from ...runtime.probes.memory import available_memory_bytes
from ...runtime.words import counted
from .config import TrainingConfig

BYTES_A_PIXEL = 15  # of a frame: its uint8 RGB, and the float32 that the network is fed
BYTES_IN_BATCH = 6  # a pixel of a batch: the clean and the noisy uint8 RGB
# A batch of as many is never refused, and above it one of more than so many passes over the frames.
LARGE_BATCH, MOST_PASSES = 64, 4


def check_frame_size(training: TrainingConfig, width: int, height: int) -> None:
    """Refuse frames of which a single one does not fit the memory.

    Raises:
        ConfigError: naming the bytes that one would take.
    """
    needed, there = BYTES_A_PIXEL * width * height, available_memory_bytes()
    if there is None or needed <= there:
        return
    if training.frame_size is not None:
        what, instead = f"training.frame_size [{width}, {height}]", "give a smaller one"
    else:
        what = f"the model's input {width}x{height}"
        instead = "give a smaller training.frame_size"
    raise ConfigError(
        f"{what}: a single frame takes {_size(needed)} and {_size(there)} of memory are available; "
        f"{instead}."
    )


def check_batch_size(training: TrainingConfig, frames: int, width: int, height: int) -> None:
    """Refuse batches that do not fit the memory, or of far more frames than there are.

    Args:
        frames: how many there are to learn from.
        width, height: of a batch's images.

    Raises:
        ConfigError: naming both numbers.
    """
    size = training.batch_size
    if size > LARGE_BATCH and size > MOST_PASSES * frames:
        raise ConfigError(
            f"training.batch_size={size}: is more than {MOST_PASSES} times the "
            f"{counted(frames, 'frame')} there are to learn from; give at most "
            f"{max(LARGE_BATCH, MOST_PASSES * frames)}."
        )
    needed, there = BYTES_IN_BATCH * size * width * height, available_memory_bytes()
    if there is not None and needed > there:
        raise ConfigError(
            f"training.batch_size={size}: the pixels of one batch take {_size(needed)} and "
            f"{_size(there)} of memory are available; give a smaller one."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
