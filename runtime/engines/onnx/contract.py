"""The contract of an ONNX artefact, whatever runs it: frames in, labels or logits out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...bundle import Artefact, Bundle
from ...errors import EngineError
from ..checks import GO_BACK, check_array, check_logits, not_finite
from ..upsample import upsample_argmax
from .graph import OnnxModel
from .nan_checks import nan_weights, scores_are_finite


class Port(NamedTuple):
    """An input or output of a model.

    Attributes:
        type: of its elements, in ONNX Runtime's words, as "tensor(uint8)".
        shape: sizes; where one is open, a name or None.
    """

    type: str
    shape: list[Any]


def check_weights(model: OnnxModel) -> None:
    """Refuse weights that are NaN.

    Raises:
        EngineError: some are; the sentence names them.
    """
    if bad := nan_weights(model.content):
        more = ", ..." if len(bad) > 3 else ""
        are = "1 weight that is" if len(bad) == 1 else f"{len(bad)} weights that are"
        raise EngineError(f"{model.file} has {are} NaN ({', '.join(bad[:3])}{more}); {GO_BACK}.")


def check_contract(
    inputs: Mapping[str, Port], outputs: Mapping[str, Port], file: Path, bundle: Bundle, output: str
) -> int | None:
    """The batch size of a model, None if open.

    Args:
        inputs, outputs: of the model, by name.
        file: that it is of.
        bundle: says the size of the frames and the classes.
        output: "labels" or "logits".

    Raises:
        EngineError: the model does not take or give what the manifest describes.
    """
    spec = bundle.manifest.input
    if list(inputs) != ["image"] or output not in outputs:
        raise EngineError(
            f"{file} takes {', '.join(inputs)} and gives {', '.join(outputs)}, and an engine needs "
            f"a model from 'image' to '{output}'; export the bundle again."
        )
    batch, *size = inputs["image"].shape
    wanted = [spec.height, spec.width, 3]
    kind = "uint8" if output == "labels" else "float"
    types = (inputs["image"].type, outputs[output].type)
    fits = len(size) == 3 and all(
        not isinstance(got, int) or got == need for got, need in zip(size, wanted, strict=True)
    )
    if not fits or types != ("tensor(uint8)", f"tensor({kind})"):
        raise EngineError(
            f"{file} takes {types[0]} {inputs['image'].shape} and gives {types[1]}, but the "
            f"manifest says uint8 frames of {spec.width}x{spec.height}, (1, {spec.height}, "
            f"{spec.width}, 3), to {kind} {output}; export the bundle again."
        )
    classes = bundle.label_space.num_classes
    shape = outputs[output].shape
    if output == "logits" and (len(shape) != 4 or shape[1] not in (classes, None)):
        raise EngineError(
            f"{file} gives logits {shape}, and the {classes} classes of "
            f"{bundle.label_space.name!r} need (1, {classes}, h, w); export the bundle again."
        )
    return batch if isinstance(batch, int) else None


class Answers:
    """Labels from what an ONNX artefact gives, checked.

    A graph that ends in labels hides its scores, and NaN becomes the first class. So where a frame
    comes out as one class alone, its scores are looked at, once in an engine's life.

    Attributes:
        output: the name of what is read, "labels" or "logits".
        align_corners: whether the outer logits lie on the outer pixels; None where the graph ends
            in labels.
    """

    def __init__(self, bundle: Bundle, artefact: Artefact, threads: int) -> None:
        in_runtime = artefact.details.get("argmax") == "runtime"
        self.align_corners = bool(artefact.details.get("align_corners")) if in_runtime else None
        self.output = "logits" if in_runtime else "labels"
        self._hides_scores = not in_runtime  # until they were looked at
        self._bundle, self._artefact, self._threads = bundle, artefact, threads

    def labels(
        self, found: Any, batch: NDArray[np.uint8], *, made: bool | None = None
    ) -> NDArray[np.uint8]:
        """Labels, (B, h, w) uint8, of what the model gives for ``batch``, (B, h, w, 3) uint8.

        Args:
            found: the array behind ``output``.
            made: it holds labels already, as where a kernel made them of logits; None: where
                ``output`` says so.

        Raises:
            BadAnswerError: it is no array of that kind, or its scores are not finite.
        """
        if self.align_corners is None or made:
            check_array(found, "labels", np.uint8, batch.shape[:3])
            if self._hides_scores and found.min() == found.max():
                self._look_at_scores(batch)
            labels: NDArray[np.uint8] = found
            return labels
        size = found.shape[2:] if isinstance(found, np.ndarray) else ()
        check_logits(found, (len(batch), self._bundle.label_space.num_classes, *size))
        height, width = batch.shape[1:3]
        return np.stack([upsample_argmax(z, width, height, self.align_corners) for z in found])

    def _look_at_scores(self, batch: NDArray[np.uint8]) -> None:
        """Refuse a graph whose labels are all alike because its scores are NaN."""
        content = self._bundle.content(self._artefact)
        if scores_are_finite(content, batch, self._threads) is False:
            raise not_finite(0)
        self._hides_scores = False
