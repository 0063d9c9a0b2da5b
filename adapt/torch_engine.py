"""Torch eager as an engine: for a bundle that was not exported, and to compare exports with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime.bundle import Artefact, Bundle, InputSpec
from ..runtime.engine import Engine, register_backend
from ..runtime.errors import ConfigError, EngineError
from ..runtime.labels import LabelSpace
from .models import load_network, pick_device
from .networks import SegmentationNetwork
from .segmenter import Segmenter


class TorchEngine(Engine):
    """A network in memory, float32, in evaluation mode."""

    def __init__(
        self,
        network: SegmentationNetwork,
        label_space: LabelSpace,
        input: InputSpec,
        *,
        device: torch.device,
        artefact: str | None = None,
        reason: str = "a model in memory runs in torch.",
    ) -> None:
        super().__init__(
            label_space,
            input,
            backend="torch",
            precision="fp32",
            device=device.type,
            reason=reason,
            artefact=artefact,
        )
        self._device = device
        self._segmenter = Segmenter(network, input).to(device).eval()

    @torch.inference_mode()
    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        images = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
        labels: NDArray[np.uint8] = self._segmenter(images).cpu().numpy()
        return labels


def _open(bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None) -> Engine:
    try:
        chosen = pick_device(device)
    except ConfigError as error:
        raise EngineError(str(error)) from error
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchEngine(
        load_network(bundle, chosen),
        bundle.label_space,
        bundle.manifest.input,
        device=chosen,
        artefact=artefact.path,
        reason=f"torch {torch.__version__} runs {artefact.path} (fp32) on {chosen.type}.",
    )


def register() -> None:
    """Make the "torch" backend available to `open_engine`."""
    register_backend("torch", _open)
