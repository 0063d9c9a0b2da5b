"""Artefacts that lie in a scratch folder and are in no bundle yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.bundle import Artefact, Bundle
from ..runtime.bundle.reader import sha256_of
from ..runtime.engines import Engine
from ..runtime.engines.onnx.engine import OnnxEngine


def open_staged(
    bundle: Bundle,
    path: Path,
    precision: str,
    details: Mapping[str, Any] | None = None,
    *,
    device: str = "auto",
) -> Engine:
    """The runtime's own engine on an ONNX file that will belong to ``bundle``.

    Args:
        bundle: gives the input and the label space.
        path: of the file.
        precision: of the model.
        details: that its artefact will have, as far as the engine reads them.
        device: see `OnnxEngine`.
    """
    staged = Bundle(path.parent, bundle.manifest, bundle.hash)
    artefact = Artefact(
        path=path.name,
        kind="onnx",
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        precision=precision,
        details=dict(details or {}),
    )
    return OnnxEngine(staged, artefact, device=device)
