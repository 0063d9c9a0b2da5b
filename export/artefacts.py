"""`roadshift export`: which artefacts, compared on which frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..adapt.scenes import render_scene
from ..runtime.bundle import Bundle
from ..runtime.errors import ConfigError
from ..runtime.frames import open_frames
from ..runtime.preprocess import fit_frame
from .onnx import MODEL, export_onnx

FORMATS = ("onnx",)
PARITY_FRAMES = 16


def export_bundle(
    bundle: Bundle,
    to: str,
    *,
    frames: Sequence[str] = (),
    with_logits: bool = False,
    min_agreement: float,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Export ``bundle`` to every format of ``to`` ("onnx"), in place.

    Args:
        frames: sources of frames to compare on, the first 16 of them; built-in scenes otherwise.
        min_agreement: percent of pixels that must keep their class.
        note: called with a sentence for each frame that is skipped.

    Returns:
        ``{"bundle", "hash", "artefacts": [row]}`` with one row an artefact.

    Raises:
        ConfigError: an unknown format.
        ParityError: an artefact is not the model that it came from; the bundle stays as it was.
    """
    wanted = [name.strip() for name in to.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown or not wanted:
        raise ConfigError(f"--to {to!r}: this version exports to {', '.join(FORMATS)}.")
    pixels, compared_on = _parity_frames(bundle, frames, note)
    exported, parity = export_onnx(
        bundle,
        pixels,
        compared_on=compared_on,
        with_logits=with_logits,
        min_agreement=min_agreement,
    )
    artefact = exported.artefact(kind="onnx", name=MODEL)
    assert artefact is not None  # export_onnx just wrote it
    row = {
        "path": artefact.path,
        "format": "onnx",
        "precision": artefact.precision,
        "bytes": artefact.bytes,
        "opset": artefact.details["opset"],
        "outputs": artefact.details["outputs"],
        "label_agreement": parity.label_agreement,
        "max_difference": parity.max_difference,
        "frames": parity.frames,
        "compared_on": parity.compared_on,
    }
    return {"bundle": str(exported.path), "hash": exported.hash, "artefacts": [row]}


def _parity_frames(
    bundle: Bundle, sources: Sequence[str], note: Callable[[str], None]
) -> tuple[list[NDArray[np.uint8]], str]:
    width, height = bundle.manifest.input.width, bundle.manifest.input.height
    if not sources:
        scenes = [render_scene(seed, "daylight", width, height).image for seed in range(4)]
        return scenes, "built-in scenes"
    found = []
    for frame in open_frames(list(sources), on_skip=note):
        found.append(fit_frame(frame.image, width, height))
        if len(found) == PARITY_FRAMES:
            break
    return found, "frames of " + ", ".join(sources)
