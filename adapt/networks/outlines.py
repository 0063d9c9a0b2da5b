"""Networks as outlines: names and shapes, without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAW = {Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_}


class _NothingDrawn(TorchFunctionMode):
    """Draws no weights: where there are none, torch takes each draw through formulas in Python."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in _DRAW or getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


@contextmanager
def outlines() -> Iterator[None]:
    """Build networks in here without weights: on torch's device "meta", without its draws."""
    with torch.device("meta"), _NothingDrawn():
        yield
