"""What every import ends with: a network in its weights, tried out, and the bundle of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...runtime.bundle import (
    Bundle,
    BundleWriter,
    InputSpec,
    NetworkSpec,
    Provenance,
    library_versions,
)
from ...runtime.labels import LabelSpace
from ..models.importing import load_weights, save_weights
from ..models.loading import check_learning, new_network
from ..networks import SegmentationNetwork


def built_with(
    state: Mapping[str, Tensor],
    where: str,
    spec: NetworkSpec,
    space: LabelSpace,
    size: tuple[int, int],
    *,
    key: str | None = None,
    note: Callable[[str], None],
) -> SegmentationNetwork:
    """The network with a checkpoint's weights, tried out as an import tries it.

    Args:
        state: tensors by name, see `read_checkpoint`.
        where: the file, for messages.
        size: (width, height) of its input.

    Raises:
        NetworkError, ConfigError: see `import_bundle`.
    """
    built = new_network(spec, space, size, note)
    load_weights(built, state, where, label_space=f"label space {space.name}", key=key, note=note)
    check_learning(built, spec, size, note)
    return built


def write_imported(
    network: SegmentationNetwork,
    spec: NetworkSpec,
    space: LabelSpace,
    input_spec: InputSpec,
    out: Path,
    *,
    configuration: Mapping[str, Any],
    overwrite: bool,
) -> Bundle:
    """Write a source model as a bundle whose provenance is an import.

    Raises:
        OutputError: the bundle cannot be written.
    """
    with BundleWriter(out, overwrite=overwrite) as writer:
        writer.add_bytes(
            "model.safetensors", save_weights(network), kind="weights", precision="fp32"
        )
        return writer.commit(
            network=spec,
            label_space=space,
            input=input_spec,
            provenance=Provenance(
                method="import", configuration=dict(configuration), versions=library_versions()
            ),
        )
