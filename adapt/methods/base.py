"""Methods as ordered lists of stages. The trainer owns everything else.

A stage says which parameters learn, prepares itself over the frames, turns a batch into named loss
terms, and updates its teachers after the step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ...runtime.errors import ConfigError
from ..data.context import Context
from ..data.dataset import Batch, CropCondition
from ..data.streams import Streams
from ..networks import Output, SegmentationNetwork
from ..run.config import Settings


class Stage(ABC):
    """One part of a method, from a starting model to a better one."""

    name: str  # in progress and history
    share: int = 1  # of the run's steps, beside those of the other stages
    when_frozen: bool = True  # it serves too where batch norm's statistics stand still
    mixes: bool = False  # frames of one forward pass with one another: with one alone it cannot

    def check(self, model: SegmentationNetwork) -> None:  # noqa: B027 - most can change any
        """Refuse a network that the stage cannot change, before any frame is decoded.

        Raises:
            NetworkError: it is one.
        """

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        """Take ``model`` as the student; a stage that needs more around it makes that here, too.

        Called once before the first step and again when a run is resumed, both times with the same
        weights in ``model``: it must do the same both times. Work over all frames goes through the
        context (`Context.whole_frames`, `Context.prepare`), which ends it where time runs out.
        """
        self.model, self.context = model.train(), context

    def prepare(self) -> None:  # noqa: B027 - most stages are prepared by `begin`
        """Do what takes a pass over the frames and follows from the stage's state.

        Called before the first step, and again when a run is resumed and the state is loaded.
        """

    def streams(self, frames: Sequence[int]) -> Streams:
        """The frames that each step draws from, of those that the stage is prepared for.

        Asked for after `prepare`. By default all are one stream: a step has one batch.
        """
        return Streams((frames,))

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss terms of one batch, scalars by name; their sum is minimised."""

    def crop_condition(self) -> CropCondition | None:
        """A condition on the crops that batches are made of; asked for once, when prepared."""
        return None

    def parameter_groups(self, model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:
        """Parameters that learn, and their rates: by default all, the classifier's times
        ``factor``.
        """
        return split_classifier(model, factor)

    def look_again(self, batch: Batch) -> None:  # noqa: B027 - most have seen enough
        """See a micro-batch once more, after the optimiser's step and before `after_step`."""

    def after_step(self) -> None:  # noqa: B027 - a stage without teachers has nothing to do
        """Update teachers and moving averages from the student's new weights."""

    def touched(self) -> list[Tensor]:
        """Tensors that `losses` changes in place, besides the student's buffers.

        The trainer puts them back when a step is thrown away.
        """
        return []

    def state(self) -> dict[str, Tensor]:
        """Tensors that change from step to step, besides the student and the optimiser's."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027 - as `state`
        """Take back what `state` gave."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at ``factor`` times the run's learning rate."""

    name: str
    parameters: list[nn.Parameter]
    factor: float


class Method(ABC):
    """A named way to adapt, with its settings and its presets.

    ``presets[variant]`` is laid over the run's defaults; "roadshift" is what `roadshift adapt`
    does.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    Config: ClassVar[type[Settings]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"roadshift": {}}
    black_box: ClassVar[bool] = False  # starts from a model that only answers, see `BlackBox`
    asks_frozen_teacher: ClassVar[bool] = False  # at every step; what ``teacher_cache`` keeps

    @classmethod  # noqa: B027 - most can change any
    def check(cls, model: SegmentationNetwork) -> None:
        """Refuse a network that the method cannot change, before any frame is decoded.

        Raises:
            NetworkError: it is one.
        """

    @staticmethod
    @abstractmethod
    def stages(settings: Any) -> Sequence[Stage]:
        """The stages, in order, for the settings of `Config`."""


# What hundreds of frames bear, for every method's "roadshift" variant: few steps on whole frames
# (networks that pool the whole image see another one in a crop), and half of the way that the steps
# lead. Where batch norm stands still nothing takes the scale out of a step: it is to be smaller.
SMALL_DATA: Mapping[str, Any] = {
    "weight_interpolation": 0.5,
    "training": {
        "steps": 100,
        "batch_size": 4,
        "lr": 1e-3,
        "frozen_lr": 3e-4,
        "classifier_lr_factor": 5.0,
    },
}


def split_classifier(model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:
    """All parameters that require a gradient: the body, and the classifier at ``factor``."""
    head = {id(parameter) for parameter in model.classifier_parameters()}
    learn = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        ParameterGroup("body", [p for p in learn if id(p) not in head], 1.0),
        ParameterGroup("classifier", [p for p in learn if id(p) in head], factor),
    ]
    return [group for group in groups if group.parameters]


def all_but_the_classifier(model: SegmentationNetwork) -> list[ParameterGroup]:
    """For a stage in which the classifier, as the source data made it, stands still."""
    return [group for group in split_classifier(model, 1.0) if group.name != "classifier"]


class FeatureTap:
    """A network's output with the features of a named layer in place of its own.

    Args:
        layer: a module of the network by its dotted name, or ``None`` for the network's own
            features.

    Raises:
        ConfigError: the network has no such module, or (when called) it gives no feature map.
    """

    def __init__(self, model: SegmentationNetwork, layer: str | None) -> None:
        self.model = model
        self._name = layer
        modules = dict(model.named_modules())
        if layer is not None and not (layer and layer in modules):
            names = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(
                f"feature_layer {layer!r}: {type(model).__name__} has no such module, only {names}."
            )
        self._layer = None if layer is None else modules[layer]

    def __call__(self, images: Tensor) -> Output:
        if self._layer is None:
            return self.model(images)  # type: ignore[no-any-return]
        caught: list[Tensor] = []
        hook = self._layer.register_forward_hook(lambda _, __, out: caught.append(out))
        try:
            output: Output = self.model(images)
        finally:
            hook.remove()
        if not (caught and isinstance(caught[-1], Tensor) and caught[-1].ndim == 4):
            raise ConfigError(
                f"feature_layer {self._name!r}: it gives no (B, D, h, w) features; name another."
            )
        return Output(output.logits, caught[-1])


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with ``prefix.`` before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named ``prefix.*``, without the prefix."""
    return {n[len(prefix) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{prefix}.")}
