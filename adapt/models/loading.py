"""From a bundle to a network on a device."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import ValidationError

from ...runtime.bundle import Bundle, InputSpec, NetworkSpec
from ...runtime.errors import ConfigError, NetworkError, arg
from ...runtime.labels import LabelSpace
from ...runtime.words import shortened
from ..networks import NETWORKS, ForeignNetwork, SegmentationNetwork, build_network
from ..networks.copies import copy_of
from ..networks.foreign.factory import without_class_count
from ..networks.foreign.forward_pass import BackwardError
from ..networks.foreign.learning_trial import try_learning
from ..networks.foreign.trial import try_out
from ..networks.foreign.trust import check_allowed
from .importing import load_weights, read_weights

# What a network trained from scratch sees: RGB with ImageNet's statistics, in 0-255 units.
IMAGENET_INPUT = InputSpec(
    width=1024,
    height=512,
    colour="rgb",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
)


def network_spec(
    name: str, arguments: Mapping[str, Any] | None = None, output: str | None = None
) -> NetworkSpec:
    """A network by name, with arguments that a manifest can hold.

    Args:
        arguments: numbers, texts, truth values or lists of these.
        output: path of the logits in what it returns, see `NetworkSpec`.

    Raises:
        ConfigError: the name is empty, or an argument is of another type.
    """
    try:
        return NetworkSpec(name=name, arguments=dict(arguments or {}), output=output)
    except ValidationError as error:
        problem = error.errors()[0]
        field, *below = problem["loc"]
        if not below:
            named = "network" if field == "name" else str(field)
            raise ConfigError(f"{arg(named)} {problem['input']!r}: {problem['msg']}.") from error
        raise ConfigError(
            f"{arg('arguments')} {below[0]}={shortened(str(problem['input']))}: "
            f"{problem['msg']}; a value is a number, a text, a truth value or a list of these."
        ) from error


def training_input(network: str, size: tuple[int, int], *, published: bool) -> InputSpec:
    """The input that a network is trained with.

    Args:
        network: a registered name or ``package.module:factory``.
        size: (width, height).
        published: colour and statistics of the network's published weights, where there are any;
            else, and elsewhere, `IMAGENET_INPUT`'s.
    """
    width, height = size
    spec = IMAGENET_INPUT.model_copy(update={"width": width, "height": height})
    if not published or network not in NETWORKS:
        return spec
    theirs = getattr(NETWORKS[network], "published_preprocessing", None)
    return spec if theirs is None else spec.model_copy(update=theirs._asdict())


def pick_device(device: str) -> torch.device:
    """The device asked for: "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        ConfigError: another word, or CUDA asked for and not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"{arg('device')} {shortened(str(device))!r}: use auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{arg('device', 'cuda')}: torch finds no CUDA GPU here; `roadshift doctor` "
            "says what is missing."
        )
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def device_name(device: torch.device) -> str:
    """Name of ``device`` for a manifest: "NVIDIA H200", "CPU x86_64, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def new_network(
    spec: NetworkSpec,
    space: LabelSpace,
    size: tuple[int, int],
    note: Callable[[str], None] | None = None,
) -> SegmentationNetwork:
    """Build a network with fresh weights; a user's own is tried out on noise of its input size.

    Args:
        size: (width, height) of its input.
        note: told how a user's factory was called and what the trial found. Where there is someone
            to tell, the network is new to the package, and is also tried for copies.

    Raises:
        NetworkError: it cannot be built, raises, or does not say which of its maps is the logits.
        ConfigError: an argument or ``spec.output`` contradicts the network.
    """
    arguments = without_class_count(spec.arguments, space.num_classes)
    network = build_network(spec.name, space.num_classes, **arguments)
    if spec.name in NETWORKS:
        if spec.output is not None:
            raise ConfigError(
                f"{arg('output')} {spec.output}: network '{spec.name}' has one output; "
                "leave it out."
            )
        return network
    where, (width, height) = f"network '{spec.name}'", size
    if note is not None:
        note(f"{where} is built {network.called}")
    if isinstance(network, ForeignNetwork):
        trial = network.try_out((height, width), spec.output)
    else:  # a user's own subclass of ours, which says itself where its logits are
        how: dict[str, Any] = {"size": (height, width), "output": spec.output}
        trial = try_out(network, network.__call__, space.num_classes, where, **how)
    if note is not None:
        copy_of(network)  # refused here where no copy can be built
        for said in trial.notes:
            note(f"{where}: {said}")
    return network


def check_learning(
    network: SegmentationNetwork,
    spec: NetworkSpec,
    size: tuple[int, int],
    note: Callable[[str], None] | None = None,
) -> bool:
    """Try a user's network, with its weights, as training uses it; one of ours needs no trial.

    Args:
        size: (width, height) of its input.
        note: told where no weight learns or a backward raises.

    Returns:
        False where no weight learns, or a backward raises and ``note`` was told.

    Raises:
        NetworkError: see `try_learning`; nobody is told of a backward that raises.
    """
    if spec.name in NETWORKS:
        return True
    where, (width, height) = f"network '{spec.name}'", size
    try:
        learns = try_learning(network, where, (height, width))
    except BackwardError as error:
        if note is None:
            raise
        note(
            f"{where}: its backward pass raises {error.cause}: it can be exported and run, and "
            "adapted by methods that need no gradient (bn_stats, tone_only)"
        )
        return False
    if not learns and note is not None:
        note(
            f"{where}: no weight of it learns (requires_grad is off, or what has it does not "
            "reach the logits), so bn_stats and tone_only alone, which take no step, can adapt it"
        )
    return learns


def load_network(bundle: Bundle, device: torch.device) -> SegmentationNetwork:
    """The bundle's network with its weights, in evaluation mode.

    The weights are those that the manifest lists, whatever lies in the folder by now. Code that
    the manifest names runs only where the bundle was opened with leave to (``allow_networks``).

    Raises:
        BundleError: the weights were changed after the bundle was opened.
        NetworkError: the bundle has no weights, or they do not fit its network; or its manifest
            names code that was not allowed.
    """
    artefact = bundle.artefact(kind="weights")
    if artefact is None:
        raise NetworkError(f"{bundle.path}: holds no weights, so it can only be run, not changed.")
    space, spec = bundle.label_space, bundle.manifest.network
    check_allowed(spec.name, bundle.allow_networks, f"{bundle.path}: its network")
    seen = bundle.manifest.input
    network = new_network(spec, space, (seen.width, seen.height))
    where = str(bundle.file(artefact))
    state = read_weights(bundle.content(artefact), where)
    load_weights(network, state, where, label_space=space.name)
    return network.to(device).eval()
