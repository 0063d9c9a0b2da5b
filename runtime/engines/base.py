"""An engine: a network ready to run, frames in and label maps out, on whatever backend."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle import Artefact, Bundle, InputSpec
from ..closing import Closing
from ..errors import EngineError, ShapeError
from ..frames import Frame
from ..frames.preprocess import fit_frame, restore_labels
from ..labels import LabelSpace
from .checks import BadAnswerError, check_labels


class Engine(Closing):
    """A network ready to run: frames in, label maps out.

    Attributes:
        label_space: of the label maps.
        input: what the network was trained to see; ``infer`` takes frames of its width and height.
        backend: "tensorrt", "onnxruntime", "torch", ...
        precision: of the arithmetic, such as "fp32" or "int8".
        device: "cpu" or "cuda".
        artefact: the bundle's file that runs, None for a network that is in memory only.
        label_size: height and width of what ``infer`` gives, those of the input.
        reason: one sentence: which backend, artefact and device were chosen, and why.
        stage_ms: milliseconds of the last `infer` on a GPU: "h2d" (frames to the device), "gpu"
            (the network) and "d2h" (what comes back); None where the engine does not measure them.
    """

    stage_ms: dict[str, float] | None = None

    def __init__(
        self,
        label_space: LabelSpace,
        input: InputSpec,
        *,
        backend: str,
        precision: str,
        device: str,
        reason: str,
        artefact: str | None = None,
    ) -> None:
        self.label_space = label_space
        self.input = input
        self.backend = backend
        self.precision = precision
        self.device = device
        self.artefact = artefact
        self.reason = reason
        self.label_size = (input.height, input.width)

    @abstractmethod
    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class indices, (B, h, w) uint8 not written to again, of a batch that `infer` checked.

        Raises:
            BadAnswerError: the network fails, or its scores are not finite where they can be seen.
        """

    def infer(self, batch: NDArray[np.uint8], names: Sequence[str] = ()) -> NDArray[np.uint8]:
        """Class indices, (B, h, w) uint8, of RGB frames at the input size, (B, h, w, 3) uint8.

        Args:
            batch: the frames.
            names: of the frames, for messages.

        Raises:
            ShapeError: the frames are of another size or dtype.
            EngineError: the network fails, its scores are not finite where they can be seen, or
                what it gives are not labels of the label space; the sentence names the frame.
        """
        size = (self.input.height, self.input.width)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (*size, 3):
            raise ShapeError(
                f"infer: the batch must be uint8 (B, {size[0]}, {size[1]}, 3), "
                f"got {batch.dtype} {batch.shape}; segment() fits frames of any size."
            )
        if not len(batch):
            return np.zeros((0, *size), np.uint8)
        try:
            labels = self._infer(batch)
            check_labels(labels, (len(batch), *self.label_size), self.label_space.num_classes)
        except BadAnswerError as problem:
            what = self.artefact or f"the network ({self.backend})"
            raise EngineError(problem.sentence(what, names, len(batch))) from problem
        return labels

    def interrupt(self) -> bool:
        """End calls of `infer` that are under way, from another thread; they raise EngineError.

        Returns:
            Whether this engine can; most only end with their call.
        """
        return False

    def segment(self, frame: Frame | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class indices, (H, W) uint8, of one RGB frame of any size, (H, W, 3) uint8."""
        image = frame.image if isinstance(frame, Frame) else frame
        fitted = fit_frame(image, self.input.width, self.input.height)
        labels = self.infer(fitted[None], _names([frame]))[0]
        return restore_labels(labels, image.shape[1], image.shape[0])

    def segment_batch(self, frames: Sequence[Frame | NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """`segment` for several frames, which may differ in size, in one call of the network."""
        if not frames:
            return []
        images = [frame.image if isinstance(frame, Frame) else frame for frame in frames]
        batch = np.stack([fit_frame(i, self.input.width, self.input.height) for i in images])
        return [
            restore_labels(labels, image.shape[1], image.shape[0])
            for image, labels in zip(images, self.infer(batch, _names(frames)), strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Description of the engine, as JSON values."""
        return {
            "backend": self.backend,
            "artefact": self.artefact,
            "precision": self.precision,
            "device": self.device,
            "input_size": [self.input.width, self.input.height],
            "label_space": self.label_space.name,
            "reason": self.reason,
        }

    def close(self) -> None:  # most engines hold nothing beyond their memory
        """Release what the engine holds; it cannot be used afterwards."""


def _names(frames: Sequence[Frame | NDArray[np.uint8]]) -> list[str]:
    """The frames' names, where all have one."""
    names = [frame.name for frame in frames if isinstance(frame, Frame)]
    return names if len(names) == len(frames) else []


class Opener(Protocol):
    """Opens one artefact of a bundle on one backend; raises EngineError where it cannot."""

    def __call__(
        self, bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None
    ) -> Engine: ...
