"""The self-test that an export leaves in a bundle: frames with the labels that are right for them.

A vehicle that installs the bundle compares with it what its own engine gives, see
`runtime.slots.self_test`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..runtime.bundle import Bundle, extend_bundle
from ..runtime.engines import open_engine
from ..runtime.frames.images import Image
from ..runtime.slots.self_test import SELF_TEST_NAME, SelfTest, pack_self_test
from ..runtime.spacing import evenly_spaced

FRAMES = 4  # evenly spaced


def with_self_test(bundle: Bundle, frames: Sequence[Image], made: Sequence[str]) -> Bundle:
    """The bundle with a self-test: up to `FRAMES` frames, labelled by the float32 network.

    Its details say how many percent of the labels each ONNX model gives here. Plans are not asked:
    a plan is compared with its ONNX model when it is built.

    Args:
        frames: at the bundle's input size, uint8 (H, W, 3) RGB.
        made: names of the artefacts that were exported.

    Raises:
        EngineError: a model does not run here.
        OutputError: the bundle cannot be written.
    """
    chosen = np.stack([frames[place] for place in evenly_spaced(len(frames), FRAMES)])
    with open_engine(bundle, backend="torch", device="cpu") as reference:
        labels = np.stack([reference.infer(frame[None])[0] for frame in chosen])
    test, agreement = SelfTest(chosen, labels, {}), {}
    for artefact in bundle.manifest.artefacts:
        if artefact.kind == "onnx" and artefact.path in made:
            name = artefact.path
            with open_engine(bundle, backend="onnxruntime", artefact=name, device="cpu") as engine:
                agreement[name] = test.agreement(engine)
    with extend_bundle(bundle) as writer:
        writer.add_bytes(
            SELF_TEST_NAME,
            pack_self_test(chosen, labels),
            kind="other",
            details={"frames": len(chosen), "agreement": {**agreement}},
        )
        return writer.commit()
