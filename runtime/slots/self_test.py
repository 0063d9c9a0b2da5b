"""The self-test of a bundle: frames and the labels that its export recorded for them.

`roadshift export` writes the artefact ``self-test.npz``: ``frames`` (N, h, w, 3) uint8 RGB at the
input size, and ``labels`` (N, h, w) uint8, those of the float32 model. Its details say how many
percent of them each exported artefact gave at the export.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle import Artefact, Bundle
from ..engines import Engine
from ..errors import BundleError, EngineError

SELF_TEST_NAME = "self-test.npz"
SLACK = 1.0  # percent of labels that another machine's arithmetic may move
LEAST_AGREEMENT = 97.0  # percent, of an artefact whose agreement was not recorded


@dataclass(frozen=True)
class SelfTest:
    """Frames with the labels that are right for them, and what is asked of an artefact."""

    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    recorded: dict[str, float]  # percent of labels by artefact

    def least(self, *artefacts: str | None) -> float:
        """Percent of the labels that an engine has to give, by the first artefact with a record."""
        found = [self.recorded[name] for name in artefacts if name in self.recorded]
        return found[0] - SLACK if found else LEAST_AGREEMENT

    def agreement(self, engine: Engine) -> float:
        """Percent of the labels that the engine gives."""
        same = [
            float((engine.infer(frame[None])[0] == labels).mean())
            for frame, labels in zip(self.frames, self.labels, strict=True)
        ]
        return 100 * sum(same) / len(same)


def pack_self_test(frames: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    """The content of the artefact."""
    packed = io.BytesIO()
    np.savez_compressed(packed, frames=frames, labels=labels)
    return packed.getvalue()


def self_test_of(bundle: Bundle) -> SelfTest | None:
    """The self-test that a bundle brings, or None.

    Raises:
        BundleError: it is damaged, or not of the bundle's input size.
    """
    artefact = bundle.artefact(name=SELF_TEST_NAME)
    if artefact is None:
        return None
    where, content = bundle.file(artefact), bundle.content(artefact)
    try:
        if not content.startswith(b"PK"):  # NumPy takes it for something else, and says so
            raise zipfile.BadZipFile("it is no archive of arrays")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            frames, labels = arrays["frames"], arrays["labels"]
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(
            f"{where}: is no self-test ({error}); export the bundle again."
        ) from error
    size = (bundle.manifest.input.height, bundle.manifest.input.width)
    if (
        frames.dtype != np.uint8
        or labels.dtype != np.uint8
        or not len(frames)
        or frames.shape != (len(labels), *size, 3)
        or labels.shape != (len(frames), *size)
    ):
        raise BundleError(
            f"{where}: holds {frames.dtype} {frames.shape} and {labels.dtype} {labels.shape}, "
            f"which are no frames of {size[1]}x{size[0]} with labels; export the bundle again."
        )
    return SelfTest(frames, labels, _recorded(artefact))


def _recorded(artefact: Artefact) -> dict[str, float]:
    figures = artefact.details.get("agreement")
    if not isinstance(figures, dict):
        return {}
    return {name: float(v) for name, v in figures.items() if isinstance(v, (int, float))}


def check_self_test(bundle: Bundle, engine: Engine) -> float | None:
    """Percent of the self-test's labels that the engine gives; None where there is no self-test.

    Raises:
        EngineError: it gives fewer than it has to.
        BundleError: the self-test is damaged.
    """
    test = self_test_of(bundle)
    if test is None:
        return None
    found = test.agreement(engine)
    least = test.least(engine.artefact, _built_from(bundle, engine.artefact))
    if found < least:
        raise EngineError(
            f"{bundle.path}: {engine.artefact or 'the network'} gives {found:.2f} % of the labels "
            f"that its export recorded, and {least:.2f} % are needed; it does not work on this "
            "machine as it did there."
        )
    return found


def _built_from(bundle: Bundle, name: str | None) -> str | None:
    """The ONNX model that a plan was built from; None for what is no plan."""
    artefact = bundle.artefact(kind="tensorrt", name=name) if name is not None else None
    onnx = artefact.details.get("onnx") if artefact is not None else None
    path = onnx.get("path") if isinstance(onnx, dict) else None
    return path if isinstance(path, str) else None
