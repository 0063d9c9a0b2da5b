"""Bundles, engines and label maps as a command line names them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.errors import ConfigError

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle
    from ..runtime.engine import Engine
    from ..runtime.label_maps import LabelMap
    from ..runtime.labels import LabelSpace


def opened_bundle(bundle: Path, allow: Sequence[str] | None = None) -> Bundle:
    """The bundle, with a note where its own gate did not promote it; ``--allow-network`` is said.

    Raises:
        ConfigError: what is allowed is no name of a module.
    """
    from ..runtime.bundle import open_bundle
    from ..runtime.terminal import note

    opened = open_bundle(bundle, allow_networks=allow or ())
    if opened.manifest.verdict and opened.manifest.verdict.warning:
        note(f"{bundle}: {opened.manifest.verdict.warning}")
    return opened


def engine_of(
    bundle: Path,
    backend: str,
    device: str,
    artefact: str | None,
    threads: int | None,
    allow: Sequence[str] | None = None,
) -> Engine:
    """The engine asked for, on the bundle's file of that name."""
    from ..runtime.engine import open_engine

    opened = opened_bundle(bundle, allow)
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


def labels_through(
    own: LabelSpace, label_space: str | None, label_map: Path | None
) -> LabelMap | None:
    """The label map of ``--label-space`` and ``--label-map``, said on stderr; None without either.

    Args:
        own: the bundle's label space.

    Raises:
        ConfigError: a map without the label space that it leads to.
        LabelSpaceError: one of the two cannot be read, or no map leads there.
    """
    from ..runtime.labels import label_space as find_label_space
    from ..runtime.terminal import note

    check_label_options(label_space, label_map)
    if label_space is None:
        return None
    found = own.map_to(find_label_space(label_space), label_map)
    for sentence in found.notes():
        note(sentence)
    return found


def check_label_options(label_space: str | None, label_map: Path | None) -> None:
    """ConfigError for a label map without the label space that it leads to."""
    if label_map is not None and label_space is None:
        raise ConfigError(
            f"--label-map {label_map}: leads from the bundle's classes to those of the labels; say "
            "which these are with --label-space."
        )
