"""Engines as a command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..runtime.engines import Engine


def engine_of(
    bundle: Path,
    backend: str,
    device: str,
    artefact: str | None,
    threads: int | None,
    allow: Sequence[str] | None = None,
    trust: Path | None = None,
) -> Engine:
    """The engine asked for, on the bundle's file of that name; with ``trust``, a signed one's."""
    from ..runtime.bundle import open_bundle
    from ..runtime.console.terminal import note
    from ..runtime.engines import open_engine

    opened = open_bundle(bundle, allow_networks=allow or (), note=note)
    if trust is not None:
        from ..runtime.signing import open_trust, verify_bundle

        verify_bundle(opened, open_trust(trust))
    return open_engine(opened, backend=backend, device=device, artefact=artefact, threads=threads)


def engine_of_slots(
    slots: Path,
    trust: Path | None,
    backend: str,
    device: str,
    threads: int | None,
    *,
    artefact: str | None = None,
    allow: Sequence[str] | None = None,
) -> Engine:
    """The engine of a vehicle's slots, which swaps models between two frames.

    Args:
        artefact, allow: what is for a plain bundle alone, to be refused where it was given.
    """
    from ..runtime.console.terminal import note
    from ..runtime.engines import open_engine
    from ..runtime.signing import open_trust
    from ..runtime.slots import open_slots
    from ..runtime.slots.serving import SlotEngine
    from .parse import needed

    for option, value in (("--artefact", artefact), ("--allow-network", allow)):
        if value:
            raise typer.BadParameter("is for a BUNDLE, not with --slots.", param_hint=option)
    return SlotEngine(
        open_slots(slots),
        open_trust(needed("--trust", trust, "a plain BUNDLE")),
        open_with=lambda found: open_engine(found, backend=backend, device=device, threads=threads),
        note=note,
    )
