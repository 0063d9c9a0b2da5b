"""The end of every import: a network in its weights, tried out, and the bundle of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from ...runtime.labels.class_names import order_of, space_of_names
from ..models.class_order import reorder_classes
from ..models.importing import load_weights, save_weights
from ..models.loading import check_learning, new_network
from ..networks import SegmentationNetwork


class Classes(NamedTuple):
    """The label space of an import, and the order of its classes in the network's outputs.

    Attributes:
        space: the label space.
        order: see `order_of`.
    """

    space: LabelSpace
    order: tuple[int, ...] | None


def settled_classes(
    names: Sequence[str],
    given: LabelSpace | None,
    own_name: str,
    where: str,
    note: Callable[[str], None],
    colours: Sequence[tuple[int, int, int]] = (),
) -> Classes:
    """The label space given, or else the one that a model's own class names say.

    Args:
        names: of the model's outputs, in their order; empty where it says none.
        own_name: of a label space of its own.
        where: the file and the key in it, for messages.
        note: told which label space the names say.
        colours: of a label space of its own; empty: they are chosen.

    Raises:
        LabelSpaceError: neither says one, or they are of different numbers of classes.
    """
    if given is None:
        found = space_of_names(names, own_name, where, colours)
        note(f"{where}: {found.told}")
        return Classes(found.space, order_of(found.space, names, where))
    return Classes(given, order_of(given, names, where) if names else None)


def built_with(
    state: Mapping[str, Tensor],
    where: str,
    spec: NetworkSpec,
    classes: Classes,
    size: tuple[int, int],
    *,
    key: str | None = None,
    note: Callable[[str], None],
) -> SegmentationNetwork:
    """The network with a checkpoint's weights, tried out as an import tries it.

    Args:
        state: tensors by name, see `read_checkpoint`.
        where: the file, for messages.
        classes: its outputs are put in the label space's order.
        size: (width, height) of its input.

    Raises:
        NetworkError, ConfigError: see `import_bundle`.
    """
    name = classes.space.name
    built = new_network(spec, classes.space, size, note)
    load_weights(built, state, where, label_space=f"label space {name}", key=key, note=note)
    check_learning(built, spec, size, note)
    if classes.order is not None:
        reorder_classes(built, classes.order, size, where)
        note(
            f"{where}: has the classes of {name} in another order, and its outputs were put in "
            "that of the label space"
        )
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
