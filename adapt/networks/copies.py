"""Copies of networks, built anew: a user's module may hold what no copy can be made of.

Generators, locks, open files, tensors that some layer keeps of the last forward pass: none of it is
weights, and a factory makes the rest of it again.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...runtime.errors import NetworkError
from .foreign.adapter import ForeignNetwork

Model = TypeVar("Model", bound=nn.Module)


def copy_of(model: Model) -> Model:
    """A copy with its own weights and buffers, equal to those of ``model``, and its modes.

    A network of `build_network` is built anew, without a draw of any random generator, and given
    the state; any other module is deep-copied.

    Raises:
        NetworkError: built anew, the network has other weights, or is the same network again.
    """
    fresh = _built_anew(model)
    if fresh is None:
        return copy.deepcopy(model)
    for name, new, old in _pairs(fresh, model):
        held: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
        held = ((new._parameters, old._parameters), (new._buffers, old._buffers))
        for own, theirs in held:
            for key, tensor in theirs.items():
                _put(own, key, tensor, f"{name}.{key}".lstrip("."), model)
    return fresh


def view_of(model: Model) -> Model:
    """A model built anew, or copied, that shares every weight and buffer of ``model``.

    Raises:
        NetworkError: see `copy_of`.
    """
    fresh = _built_anew(model)
    if fresh is None:
        shared: dict[int, object] = {id(t): t for t in (*model.parameters(), *model.buffers())}
        return copy.deepcopy(model, shared)
    for _, new, old in _pairs(fresh, model):
        new._parameters.update(old._parameters)
        new._buffers.update(old._buffers)
    return fresh


def _built_anew(model: Model) -> Model | None:
    """The network with fresh weights in the modes of ``model``; ``None`` if nobody knows how."""
    rebuild = getattr(model, "rebuild", None)
    if rebuild is None:
        return None
    with _no_draws():
        fresh: Model = rebuild()
    if isinstance(model, ForeignNetwork) and isinstance(fresh, ForeignNetwork):
        fresh.keep_trial(model.trial)
    mine = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    if any(id(tensor) in mine for tensor in (*fresh.parameters(), *fresh.buffers())):
        raise NetworkError(
            f"{_named(model)}: the factory returned the same layers twice; let it build new ones "
            "whenever it is called."
        )
    fresh.train(model.training)
    for _, new, old in _pairs(fresh, model):
        new.training = old.training
    return fresh


def _pairs(fresh: nn.Module, model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """The modules of both by name; NetworkError where one has others."""
    new, old = dict(fresh.named_modules()), dict(model.named_modules())
    for name, module in old.items():
        other = new.get(name)
        if other is None or len(new) != len(old):
            raise _differs(model, next(iter(new.keys() ^ old.keys()), name))
        yield name, other, module


def _put(own: dict[str, Any], key: str, tensor: Tensor | None, name: str, model: nn.Module) -> None:
    """Give ``own[key]`` the values, device, type and memory layout of ``tensor``."""
    mine = own.get(key)
    if key not in own or (mine is None) != (tensor is None):
        raise _differs(model, name)
    if tensor is None or mine is None:
        return
    if mine.shape != tensor.shape:
        raise _differs(model, name)
    if isinstance(mine, nn.Parameter):
        mine.data = tensor.detach().clone()
        mine.requires_grad_(tensor.requires_grad)
    else:
        own[key] = tensor.detach().clone()


def _differs(model: nn.Module, name: str) -> NetworkError:
    return NetworkError(
        f"{_named(model)}: built anew, it differs in {name}; let the factory make the same layers "
        "and weights whenever it is called, and forward none."
    )


def _named(model: nn.Module) -> str:
    return str(getattr(model, "where", type(model).__name__))


@contextmanager
def _no_draws() -> Iterator[None]:
    """Weights that are overwritten at once must not move the generators that a run draws from."""
    drawn, draws = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(draws)  # noqa: NPY002 - a user's
