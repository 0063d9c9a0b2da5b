"""From a folder as the Hugging Face hub lays it out to a source bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...runtime.bundle import Bundle, InputSpec, NetworkSpec, check_output
from ...runtime.errors import Sentence
from ...runtime.labels import LabelSpace
from ..models.hub_folder import read_hub_folder, read_hub_weights
from ..models.hub_input import Triple, hub_input
from ..models.hub_networks import hub_network
from ..models.loading import network_spec
from ..networks.foreign.transformers_models import in_installed_names, is_of_transformers
from ..run.config import merge
from .imported_network import built_with, settled_classes, write_imported


def import_hub_folder(
    source: Path | str,
    out: Path,
    *,
    network: str | None = None,
    space: LabelSpace | None = None,
    size: tuple[int, int] | None = None,
    colour: str | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    arguments: Mapping[str, Any] | None = None,
    output: str | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Make a bundle of ``hf:FOLDER``; what is not given is read from its files, and said.

    Args:
        source: ``hf:`` and the folder. Nothing of it is run, and nothing is downloaded.
        network: one of ours, or ``transformers:AutoModelForSemanticSegmentation``; of ours the one
            that the folder's ``model_type`` says, unless given.
        space: the label space; that of the folder's class names unless given. Where both have the
            same classes in different orders, the network's outputs are put in the space's.
        size: (width, height) of the model's input.
        colour: "rgb" or "bgr".
        mean, std: in 0-255 units, in the order of ``colour``.
        arguments: of the network, over those that the folder says, group by group.
        output: path of the logits in what the network returns, where that is not clear.
        note: called with a sentence on each thing that was read, and from where.

    Raises:
        NetworkError: the folder holds no model that can be built, or its weights do not fit.
        LabelSpaceError: its classes have no names and no label space was given, or it has another
            number of them.
        ConfigError: its input, or an argument, is malformed.
        OutputError: the bundle cannot be written.
    """
    check_output(out, overwrite)
    folder = read_hub_folder(source)
    spec = hub_network(folder, network)
    spec = network_spec(spec.name, merge(spec.arguments, arguments or {}), output)
    note(f"{folder.config_file}: a model of type {folder.model_type}, built as {spec.name}")
    classes = settled_classes(
        folder.class_names,
        space,
        folder.path.resolve().name or "hub",
        f"{folder.config_file}, id2label",
        note,
    )
    seen = hub_input(
        folder.preprocessing,
        str(folder.path / (folder.preprocessing_file or "preprocessor_config.json")),
        size=size,
        colour=colour,
        mean=mean,
        std=std,
    )
    where = folder.preprocessing_file or f"{folder.path} has no preprocessor_config.json"
    note(Sentence(f"{where}: {'; '.join(seen.told)}"))
    state, file = read_hub_weights(folder)
    if is_of_transformers(spec.name):
        attribute = spec.name.partition(":")[2]
        config, count = _mapping(spec), classes.space.num_classes
        state = in_installed_names(attribute, config, count, state, file)
    built = built_with(state, file, spec, classes, seen.size, note=note)
    return write_imported(
        built,
        spec,
        classes.space,
        InputSpec(
            width=seen.size[0],
            height=seen.size[1],
            colour="bgr" if seen.colour == "bgr" else "rgb",
            mean=seen.mean,
            std=seen.std,
        ),
        out,
        configuration={"weights": Path(file).name, "folder": folder.path.resolve().name},
        overwrite=overwrite,
    )


def _mapping(spec: NetworkSpec) -> Mapping[str, Any]:
    config = spec.arguments.get("config")
    return config if isinstance(config, Mapping) else {}
