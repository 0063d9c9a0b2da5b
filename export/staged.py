"""Artefacts that lie in a scratch folder and are in no bundle yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..runtime.bundle import Artefact, Bundle, Kind
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
    artefact = staged_artefact(path, "onnx", precision, details or {})
    return OnnxEngine(replace(bundle, path=path.parent), artefact, device=device)


def staged_artefact(path: Path, kind: Kind, precision: str, details: Mapping[str, Any]) -> Artefact:
    """A finished file as the artefact that it will be."""
    return Artefact(
        path=path.name,
        kind=kind,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        precision=precision,
        details=dict(details),
    )
