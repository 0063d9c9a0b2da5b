"""From a foreign checkpoint to a source bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...runtime.bundle import Bundle, InputSpec, NetworkSpec, check_output
from ...runtime.errors import ConfigError, arg
from ...runtime.labels import LabelSpace
from ...runtime.words import shortened
from ..models.hub_folder import is_hub_folder
from ..models.hub_input import DEFAULT_SIZE
from ..models.importing import ARGUMENTS_OF, detect_arguments
from ..models.inputs import note_of_unit_range
from ..models.loading import IMAGENET_INPUT, network_spec
from ..models.mmseg_layouts import LAYOUTS
from ..models.mmsegmentation import MmsegCheckpoint, in_our_names, recognised
from ..models.weight_files import read_weight_file
from ..models.weight_matching import flatten
from .import_hub import import_hub_folder
from .imported_network import Classes, built_with, settled_classes, write_imported


def import_bundle(
    weights: Path | str,
    network: str | None,
    space: LabelSpace | None,
    out: Path,
    *,
    input_size: tuple[int, int] | None = None,
    colour: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    arguments: Mapping[str, Any] | None = None,
    output: str | None = None,
    key: str | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Check a checkpoint against its network and write it as a bundle.

    Preprocessing that is not given is what the network's published weights were trained with, or
    else RGB with ImageNet's statistics. What a DeepLabV2 checkpoint's names and weights tell about
    its heads and blocks is used unless ``arguments`` say otherwise.

    Args:
        weights: a PyTorch checkpoint or a safetensors file; one that would run code is refused. Or
            ``hf:FOLDER``, of which `import_hub_folder` reads whatever is ``None`` here.
        network: a registered name or ``package.module:factory``.
        space: the label space; ``None``: the one that the file says, if it is mmsegmentation's.
        input_size: (width, height), `DEFAULT_SIZE` unless given.
        colour: "rgb" or "bgr".
        mean, std: in 0-255 units, in the order of ``colour``.
        arguments: of the network.
        output: path of the logits in what the network returns, where that is not clear.
        key: where in the file the weights lie, dotted; found unless given.
        note: called with a sentence on how a user's network is built, on what its trial found, and
            on what was taken from where and what was left out.

    Raises:
        NetworkError: the file is no checkpoint or does not fit the network and label space; the
            network fails in its trials, `try_out` and `check_learning`.
        ConfigError: an argument of the network or the colour is malformed.
        OutputError: the bundle cannot be written.
    """
    if colour is not None and colour not in ("rgb", "bgr"):
        raise ConfigError(f"{arg('colour')} {shortened(colour)!r}: write rgb or bgr.")
    note_of_unit_range(mean, std, note)
    if is_hub_folder(weights):
        if key is not None:
            raise ConfigError(
                f"{arg('key')} {shortened(key)!r}: a folder of the hub holds one set of weights; "
                "leave it out."
            )
        return import_hub_folder(
            weights,
            out,
            network=network,
            space=space,
            size=input_size,
            colour=colour,
            mean=mean,
            std=std,
            arguments=arguments,
            output=output,
            overwrite=overwrite,
            note=note,
        )
    if network is None:
        raise ConfigError(
            f"{weights}: a file of weights does not say its network; give {arg('network')}, or "
            "import a folder of the hub as hf:FOLDER."
        )
    return import_weights(
        Path(weights),
        network_spec(network, arguments, output),
        space,
        out,
        size=input_size or DEFAULT_SIZE,
        colour=colour,
        mean=mean,
        std=std,
        key=key,
        overwrite=overwrite,
        note=note,
    )


def import_weights(
    weights: Path,
    spec: NetworkSpec,
    space: LabelSpace | None,
    out: Path,
    *,
    size: tuple[int, int],
    colour: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    key: str | None = None,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Check a checkpoint against its network and write it as a bundle, see `import_bundle`.

    Args:
        size: (width, height) of the model's input.
        colour: "rgb" or "bgr".
        mean, std: in 0-255 units, in the order of ``colour``.
    """
    check_output(out, overwrite)
    content = read_weight_file(weights)
    state = flatten(content, str(weights))
    width, height = size
    mmseg = recognised(content, state)
    is_theirs = mmseg is not None and spec.name in LAYOUTS
    if mmseg is not None and is_theirs:
        note(f"{weights}: a checkpoint of mmsegmentation, whose names were told by {spec.name}'s")
        state = in_our_names(spec.name, state, mmseg, str(weights))
        own = {**LAYOUTS[spec.name].arguments, **spec.arguments}
        spec = spec.model_copy(update={"arguments": own})
    classes = _classes(weights, mmseg, space, note)
    if spec.name in ARGUMENTS_OF:
        found = detect_arguments(spec.name, state, str(weights), key)
        found.pop("num_classes")  # load_weights compares it with the label space
        spec = spec.model_copy(update={"arguments": {**found, **spec.arguments}})
    built = built_with(state, str(weights), spec, classes, size, key=key, note=note)
    of_network = None if is_theirs else built.published_preprocessing
    published = of_network or IMAGENET_INPUT  # which mmsegmentation's configurations have, too
    chosen = published.colour if colour is None else colour
    return write_imported(
        built,
        spec,
        classes.space,
        InputSpec(
            width=width,
            height=height,
            colour="bgr" if chosen == "bgr" else "rgb",
            mean=mean or published.mean,
            std=std or published.std,
        ),
        out,
        configuration={"weights": weights.name, **({"key": key} if key else {})},
        overwrite=overwrite,
    )


def _classes(
    weights: Path,
    mmseg: MmsegCheckpoint | None,
    space: LabelSpace | None,
    note: Callable[[str], None],
) -> Classes:
    """The label space given, or that of the classes in a file of mmsegmentation."""
    if mmseg is None or not mmseg.class_names:
        if space is None:
            raise ConfigError(
                f"{weights}: does not say its classes; give {arg('label_space')}, or import a "
                "folder of the hub as hf:FOLDER."
            )
        return Classes(space, None)
    where = f"{weights}, classes in meta"
    return settled_classes(mmseg.class_names, space, weights.stem, where, note, mmseg.colours)
