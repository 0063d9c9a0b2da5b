"""Engines as a command line names them."""

from __future__ import annotations

from collections.abc import Sequence
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
    return open_engine(opened, backend=backend, device=device, artefact=artefact, threads=threads)
