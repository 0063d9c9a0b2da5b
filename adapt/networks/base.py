"""What a segmentation network is to the rest of the package, and how a foreign one becomes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...runtime.errors import NetworkError


class Output(NamedTuple):
    """What a network returns for images of (B, 3, H, W).

    Attributes:
        logits: unnormalised scores, (B, K, h, w), at the network's own stride.
        features: what the last layer classifies, (B, D, h', w'); ``None`` where unknown.
    """

    logits: Tensor
    features: Tensor | None


class Preprocessing(NamedTuple):
    """The input that published weights were trained on: x = (image - mean) / std, in 0-255 units.

    ``mean`` and ``std`` are in the order that ``colour`` ("rgb" or "bgr") names.
    """

    colour: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class SegmentationNetwork(nn.Module):
    """Base of every network: ``forward(images (B, 3, H, W), normalised float) -> Output``.

    Attributes:
        num_classes: K, the channels of the logits.
        align_corners: the convention by which logits are upsampled to image size.
        stride: image pixels per logit along each axis; ``None`` if unknown.
        description: one sentence for listings.
        paper: where the architecture was published.
        published_preprocessing: the input that the published weights expect, if any are known.
        reference_feature_layer: the submodule whose output IAPC's reference code takes as features;
            ``None``: ``Output.features`` serves there too.
    """

    num_classes: int
    align_corners: bool
    stride: int | None = None
    description: str = ""
    paper: str = ""
    published_preprocessing: Preprocessing | None = None
    reference_feature_layer: str | None = None

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), normalised float."""
        raise NotImplementedError

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the last layers, which learn at ten times the learning rate."""
        raise NotImplementedError


class ForeignNetwork(SegmentationNetwork):
    """A user's module seen as a :class:`SegmentationNetwork`.

    The module may return logits (B, K, h, w) at any stride, a tuple that starts with logits and
    features, or a mapping with ``out`` or ``logits`` (and perhaps ``features``). If it returns no
    features, they are the input of the last convolution executed that yields K channels outside an
    auxiliary head, or of the last convolution of all where none yields K channels.

    Parameters, buffers and submodules are the user's own containers, not a child called "module":
    names in ``state_dict`` and ``named_parameters`` are those of the user's module, and copies
    (an EMA's, say) stay whole.
    """

    _foreign: nn.Module

    def __init__(self, module: nn.Module, num_classes: int) -> None:
        super().__init__()
        for container in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            self.__dict__[container] = getattr(module, container)
        self.__dict__["_foreign"] = module  # not registered: its content is already ours
        self.num_classes = num_classes
        self.align_corners = bool(getattr(module, "align_corners", False))
        self._heads = _head_names(module, num_classes)
        self.training = module.training

    def train(self, mode: bool = True) -> ForeignNetwork:
        """Set the mode through the user's own ``train``, which may keep some layers frozen."""
        self.training = mode
        self._foreign.train(mode)
        return self

    def forward(self, images: Tensor) -> Output:
        """Run the user's module and read its answer.

        Raises:
            NetworkError: the answer holds no logits, or logits of another class count.
        """
        classified: list[Tensor] = []
        # Hooks live for this call only: nothing outlasts the graph, nothing is shared with a copy.
        handles = [
            self.get_submodule(name).register_forward_pre_hook(
                lambda _, inputs: classified.append(inputs[0])
            )
            for name in self._heads
            if not _is_auxiliary(name)
        ]
        try:
            answer = self._foreign(images)
        finally:
            for handle in handles:
                handle.remove()
        logits, features = _read_answer(answer, type(self._foreign).__name__)
        if logits.shape[1] != self.num_classes:
            raise NetworkError(
                f"{type(self._foreign).__name__} returned {logits.shape[1]} channels, the label "
                f"space has {self.num_classes} classes; use the num_classes the factory is given."
            )
        if features is None and classified:
            features = classified[-1]
        return Output(logits, features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The module's own ``classifier_parameters()`` if it has one, else its class heads'."""
        own: Callable[[], Iterator[nn.Parameter]] | None
        own = getattr(self._foreign, "classifier_parameters", None)
        if own is not None:
            yield from own()
            return
        for name in self._heads:
            yield from self.get_submodule(name).parameters()


def adapt_foreign(module: nn.Module, num_classes: int) -> SegmentationNetwork:
    """The module itself if it already is a :class:`SegmentationNetwork`, else wrapped as one.

    Raises:
        NetworkError: it has another class count, or is TorchScript, which cannot be trained here.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise NetworkError(
            f"{type(module).__name__} is a TorchScript module; return the nn.Module it came from."
        )
    if not isinstance(module, SegmentationNetwork):
        return ForeignNetwork(module, num_classes)
    if module.num_classes != num_classes:
        raise NetworkError(
            f"{type(module).__name__} has {module.num_classes} classes, the label space has "
            f"{num_classes}; let the factory use the num_classes it is given."
        )
    return module


def _head_names(module: nn.Module, num_classes: int) -> tuple[str, ...]:
    """Names of the convolutions that yield K channels; failing these, of the last convolution."""
    convolutions = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Conv2d) and n]
    heads = tuple(name for name, layer in convolutions if layer.out_channels == num_classes)
    return heads or tuple(name for name, _ in convolutions[-1:])


def _is_auxiliary(name: str) -> bool:
    return any(part.startswith("aux") for part in name.split("."))


def _read_answer(answer: Any, module: str) -> tuple[Tensor, Tensor | None]:
    """Logits and, where given, features from what a user's module returned."""
    logits: Any = answer
    features: Any = None
    if isinstance(answer, Mapping):
        logits = answer.get("out", answer.get("logits"))
        features = answer.get("features")
    elif isinstance(answer, (tuple, list)) and answer:
        logits = answer[0]
        features = answer[1] if len(answer) > 1 else None
    if not (isinstance(logits, Tensor) and logits.ndim == 4):
        found = f"a {type(answer).__name__}"
        if isinstance(answer, Mapping):
            found = f"a mapping with {sorted(map(str, answer))}"
        elif isinstance(logits, Tensor):
            found = f"a tensor of shape {tuple(logits.shape)}"
        raise NetworkError(
            f"{module} returned {found}; return logits (B, K, h, w), (logits, features), or a "
            "mapping with 'out'."
        )
    is_map = isinstance(features, Tensor) and features.ndim == 4
    return logits, features if is_map else None
