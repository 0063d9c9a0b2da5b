"""A Python function as a black box: by name, or itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import EngineError
from ...runtime.labels import LabelSpace
from ..networks import import_callable
from .base import Answer, BlackBox, BoxWiring, Note

_WHY = "is a Python function, which does all itself"


def open_function(source: str, wiring: BoxWiring, space: LabelSpace | None, note: Note) -> BlackBox:
    """Open the function that "package.module:function" names.

    Raises:
        NetworkError: there is none, or it is not callable.
        ConfigError: wiring is given.
    """
    del space, note  # it says nothing of itself
    wiring.check_unused(source, _WHY)
    wanted = "a function of an RGB image that returns probabilities or class indices"
    return _asked(import_callable(source, f"black box '{source}'", wanted), source)


def of_function(function: Callable[..., Any], wiring: BoxWiring) -> BlackBox:
    """A function as a black box.

    Raises:
        ConfigError: wiring is given.
    """
    name = name_of(function)
    wiring.check_unused(name, _WHY)
    return _asked(function, name)


def name_of(function: Callable[..., Any]) -> str:
    """A function's name, "package.module:function"; its class's where it is an object."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _asked(function: Callable[..., Any], source: str) -> BlackBox:
    def answer(name: str, image: NDArray[np.uint8]) -> Answer:
        try:
            return np.asarray(function(image))
        except Exception as error:
            raise EngineError(
                f"black box '{source}': raised {type(error).__name__} on frame {name}: {error}"
            ) from error

    return BlackBox(answer, source)
