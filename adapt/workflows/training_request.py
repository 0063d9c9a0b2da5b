"""Training as a user asks for it: a network by name, or a bundle to learn on from.

What learns on keeps what it can: the bundle says its network, classes and input, and the settings
are those of the variant "finetune", unless others are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.bundle import Bundle, InputSpec, NetworkSpec
from ...runtime.errors import ConfigError, arg
from ...runtime.labels import LabelSpace
from ..methods import resolve_settings
from ..methods.supervised import Supervised
from ..models.loading import network_spec, training_input
from ..run.config import RunConfig, merge

SIZE = (1024, 512)  # of the input, unless a user or a bundle says another


@dataclass(frozen=True)
class TrainingStart:
    """The model before the first step.

    Attributes:
        initial: a file of weights, or a bundle, whose weights are taken whole; None: random ones.
    """

    network: NetworkSpec
    label_space: LabelSpace
    seen: InputSpec
    initial: Path | Bundle | None


def training_settings(
    given: Mapping[str, Any], initial: Path | Bundle | None, seed: int | None
) -> RunConfig:
    """The whole of a training's settings.

    Args:
        given: see `roadshift.adapt.methods.resolve_settings`.
        initial: see `TrainingStart`.

    Raises:
        ConfigError: see there.
    """
    if isinstance(initial, Bundle):
        given = merge({Supervised.name: {"variant": "finetune"}}, given)
    return resolve_settings(Supervised.name, given, seed=seed)


def training_start(
    initial: Path | Bundle | None,
    config: RunConfig,
    *,
    network: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    output: str | None = None,
    label_space: LabelSpace | None = None,
    size: tuple[int, int] | None = None,
) -> TrainingStart:
    """The model that a training begins with.

    Args:
        initial: see `TrainingStart`. A bundle says all of the following but, if wanted, the size.
        network: its name, with its ``arguments``, and ``output``, see `NetworkSpec`.
        size: (width, height) of the input; None: the bundle's, or `SIZE`.

    Raises:
        ConfigError: network or classes are missing, or given twice; or an argument is malformed.
    """
    given = {
        "network": network,
        "arguments": arguments,
        "output": output,
        "label_space": label_space,
    }
    if isinstance(initial, Bundle):
        for argument, value in given.items():
            if value:
                raise ConfigError(
                    f"{arg(argument)}: {initial.path}, given as {arg('initial')}, says it; leave "
                    "it out."
                )
        seen = initial.manifest.input
        if size is not None:
            seen = seen.model_copy(update={"width": size[0], "height": size[1]})
        return TrainingStart(initial.manifest.network, initial.label_space, seen, initial)
    if network is None or label_space is None:
        missing = "network" if network is None else "label_space"
        raise ConfigError(
            f"{arg(missing)} is missing: give it, or a bundle as {arg('initial')}, which says it."
        )
    published = config.method_config["variant"] == "paper"
    seen = training_input(network, size or SIZE, published=published)
    return TrainingStart(network_spec(network, arguments, output), label_space, seen, initial)
