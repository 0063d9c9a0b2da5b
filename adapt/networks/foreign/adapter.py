"""A user's module seen as one of the package's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ....runtime.errors import NetworkError
from ..base import Output, SegmentationNetwork
from .forward_pass import sentences
from .output_maps import at, listed, shown
from .trial import TRIAL_SIZE, Trial, Wiring, try_out


class ForeignNetwork(SegmentationNetwork):
    """A user's module seen as a :class:`SegmentationNetwork`.

    The module may return logits (B, K, h, w) at any stride, alone or in a list, tuple, mapping or
    dataclass, and other things in training mode than in evaluation mode. A `Trial` says which map
    is the logits, which layer makes it, and where features come from: from the map that the network
    returns as such, or else from the input of that layer. Whoever knows the size of the images
    calls `try_out`; without that it is done with the first images.

    Parameters, buffers and submodules are the user's own containers, not a child called "module":
    names in ``state_dict`` and ``named_parameters`` are those of the user's module. No method of
    the module but its ``forward`` and a ``train`` of its own is called, so its attributes may have
    the names of torch's methods.
    """

    _foreign: nn.Module
    trial: Trial | None

    def __init__(self, module: nn.Module, num_classes: int, where: str | None = None) -> None:
        super().__init__()
        for container in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            self.__dict__[container] = module.__dict__[container]
        self.__dict__["_foreign"] = module  # not registered: its content is already ours
        self.num_classes = num_classes
        self.align_corners = bool(getattr(module, "align_corners", False))
        self.where = where or type(module).__name__
        self.training = module.training
        self.trial, self._root_rests = None, False

    def train(self, mode: bool = True) -> ForeignNetwork:
        """Set the mode, through the user's own ``train`` if there is one: it may freeze layers."""
        if type(self._foreign).train is not nn.Module.train:
            self._foreign.train(mode)
        else:
            self._foreign.training = mode
            super().train(mode)
        if self._root_rests:
            self._foreign.training = False
        self.training = mode
        return self

    def try_out(self, size: tuple[int, int] = TRIAL_SIZE, output: str | None = None) -> Trial:
        """Run the network once in each mode, and keep where its logits are.

        Args:
            size: (height, width) of the images that it will see.
            output: path of the logits in the answer, where a user says it.

        Raises:
            NetworkError, ConfigError: see `trial.try_out`.
        """
        run = self._foreign.__call__
        how: dict[str, Any] = {"size": size, "output": output, "rest": self._rest}
        self.keep_trial(None)
        trial = try_out(self, run, self.num_classes, self.where, **how)
        self.keep_trial(trial)
        return trial

    def keep_trial(self, trial: Trial | None) -> None:
        """Take what a trial found, of this network or of one that was built alike."""
        self.trial, self._root_rests = trial, trial is not None and trial.root_rests
        if self._root_rests:
            self._foreign.training = False

    def _rest(self) -> None:
        self._root_rests = True

    def forward(self, images: Tensor) -> Output:
        """Run the user's module and read its answer.

        Raises:
            NetworkError: the module raised, or answers otherwise than in its trial.
        """
        height, width = images.shape[2:]
        trial = self.trial or self.try_out((height, width))
        wiring = trial.of(self.training)
        if wiring.tap is None or wiring.features is not None:
            return self._read(self._answer(images), wiring, [], len(images))
        inputs: list[Any] = []
        # The hook lives for this call only: nothing outlasts the graph or is shared with a copy.
        handle = self.get_submodule(wiring.tap.layer).register_forward_pre_hook(
            lambda _, given: inputs.append(given[0] if given else None)
        )
        try:
            answer = self._answer(images)
        finally:
            handle.remove()
        return self._read(answer, wiring, inputs, len(images))

    def _answer(self, images: Tensor) -> Any:
        if torch.compiler.is_compiling():
            return self._foreign(images)
        mode = "training" if self.training else "evaluating"
        with sentences(self.where, f"for images {tuple(images.shape)} while {mode}"):
            return self._foreign(images)

    def _read(self, answer: Any, wiring: Wiring, inputs: list[Any], batch: int) -> Output:
        logits = at(answer, wiring.output)
        if (
            not isinstance(logits, Tensor)
            or logits.ndim != 4
            or logits.shape[:2] != (batch, self.num_classes)
        ):
            raise NetworkError(
                f"{self.where} returned no logits ({batch}, {self.num_classes}, h, w) at "
                f"{shown(wiring.output)} as before, but {listed(answer)}; let it return the same "
                "things for all images."
            )
        features = None if wiring.features is None else at(answer, wiring.features)
        if wiring.features is None and wiring.tap is not None:
            features = wiring.tap.features(inputs, logits)
        return Output(logits, features)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The module's own ``classifier_parameters()`` if it has one, else what makes the logits.

        Raises:
            NetworkError: there was no trial, and the network fails in one.
        """
        own: Callable[[], Iterator[nn.Parameter]] | None
        own = getattr(self._foreign, "classifier_parameters", None)
        if callable(own):
            yield from own()
            return
        head = (self.trial or self.try_out()).training.head
        named = dict(self.named_parameters())
        yield from (named[name] for name in head)


def adapt_foreign(
    module: nn.Module, num_classes: int, where: str | None = None
) -> SegmentationNetwork:
    """The module itself if it already is a :class:`SegmentationNetwork`, else wrapped as one.

    Raises:
        NetworkError: it has another class count, or is TorchScript, which cannot be trained here.
    """
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            whose = f"its part {name}" if name else type(module).__name__
            raise NetworkError(
                f"{where or type(module).__name__}: {whose} is a TorchScript module, which cannot "
                "be adapted; use the nn.Module that it was made from."
            )
    if not isinstance(module, SegmentationNetwork):
        return ForeignNetwork(module, num_classes, where)
    if module.num_classes != num_classes:
        raise NetworkError(
            f"{type(module).__name__} has {module.num_classes} classes, the label space has "
            f"{num_classes}; let the factory use the num_classes it is given."
        )
    return module


def settled(network: SegmentationNetwork, where: str) -> SegmentationNetwork:
    """The network itself, made float32 and put on the CPU, as all networks begin.

    Raises:
        NetworkError: the shape of a weight is not known before the first images.
    """
    tensors = (*network.named_parameters(), *network.named_buffers())
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        raise NetworkError(
            f"{where}: the shape of {lazy[0]} is not known before the first image; build its "
            "layers with their input channels, not as lazy ones."
        )
    return network.to(device="cpu", dtype=torch.float32)
