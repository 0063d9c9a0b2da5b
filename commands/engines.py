"""Engines as a command line names them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtime.engines import Engine


def engine_of(
    bundle: Path,
    backend: str,
    device: str,
    artefact: str | None,
    threads: int | None,
    allow: Sequence[str] | None = None,
) -> Engine:
    """The engine asked for, on the bundle's file of that name."""
    from ..runtime.bundle import open_bundle
    from ..runtime.console.terminal import note
    from ..runtime.engines import open_engine

    opened = open_bundle(bundle, allow_networks=allow or (), note=note)
    named = None if artefact is None else opened.artefact(name=artefact)
    wanted = named or opened.artefact(kind="onnx")
    if backend.startswith("torch") or (
        backend == "auto" and (wanted is None or wanted.kind == "weights")
    ):
        import_torch_backend()
    return open_engine(opened, backend=backend, device=device, artefact=artefact, threads=threads)


def import_torch_backend() -> None:
    """Make the torch engine known where the ``adapt`` extra is; exported bundles need none."""
    if sys.version_info >= (3, 11) and find_spec("torch") is not None:
        from .. import adapt as _  # noqa: F401
