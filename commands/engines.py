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


def engine_of_slots(
    slots: Path, trust: Path | None, backend: str, device: str, threads: int | None
) -> Engine:
    """The engine of a vehicle's slots, which swaps models between two frames."""
    from ..runtime.console.terminal import note
    from ..runtime.engines import open_engine
    from ..runtime.signing import open_trust
    from ..runtime.slots import open_slots
    from ..runtime.slots.serving import SlotEngine
    from .parse import needed

    return SlotEngine(
        open_slots(slots),
        open_trust(needed("--trust", trust, "a plain BUNDLE")),
        open_with=lambda found: open_engine(found, backend=backend, device=device, threads=threads),
        note=note,
    )
