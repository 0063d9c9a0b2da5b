"""An engine, known by its entry point alone: it calls dark pixels road, and others sky."""

import numpy as np
from numpy.typing import NDArray
from roadshift import Backend, Bundle, Engine, EngineError
from roadshift.runtime.bundle import Artefact


class NightEngine(Engine):
    """The brightness of pixels in place of a network."""

    def __init__(
        self, bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None
    ) -> None:
        if device == "cuda" or threads is not None:
            raise EngineError("The night engine runs in one thread of a CPU.")
        super().__init__(
            bundle.label_space,
            bundle.manifest.input,
            backend="night",
            precision="none",
            device="cpu",
            artefact=artefact.path,
            reason=f"Brightness stands for {artefact.path}.",
        )

    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        road, sky = map(self.label_space.classes.index, ("road", "sky"))
        return np.where(batch.mean(axis=3) < 128, road, sky).astype(np.uint8)


NIGHT = Backend("onnx", NightEngine, devices=("cpu",))
