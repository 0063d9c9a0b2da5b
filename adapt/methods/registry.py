"""The methods by name: Roadshift's own, those that a program registers, and installed packages'.

A package that brings a method names it in its metadata; it is imported when the method is used:

    [project.entry-points."roadshift.methods"]
    max_squares = "some_package.max_squares:MaxSquares"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from ...runtime.errors import ConfigError
from ..run.config import RunConfig, Settings
from .base import Method

ENTRY_POINTS = "roadshift.methods"
MethodType = TypeVar("MethodType", bound=type[Method])
_TAKEN = {*RunConfig.model_fields, "recipe"}  # a method's section stands beside these


class MethodRegistry(MutableMapping[str, type[Method]]):
    """Methods by name, in the order in which they came, those of installed packages last."""

    def __init__(self) -> None:
        self._registered: dict[str, type[Method]] = {}

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=ENTRY_POINTS)}

    def __getitem__(self, name: str) -> type[Method]:
        if name not in self._registered and name in self._installed:
            self[name] = _loaded(self._installed[name])
        return self._registered[name]

    def __setitem__(self, name: str, method: type[Method]) -> None:
        self._registered[name] = method

    def __delitem__(self, name: str) -> None:
        del self._registered[name]

    def __contains__(self, name: object) -> bool:
        return name in self._registered or name in self._installed

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self._registered, *self._installed])

    def __len__(self) -> int:
        return len({*self._registered, *self._installed})


METHODS = MethodRegistry()


def register_method(method: MethodType) -> MethodType:
    """Make ``method`` known by its name to every command and function, also as a decorator.

    Raises:
        ConfigError: it is no complete `Method`, or its name is taken.
    """
    problem = _problem(method)
    if problem:
        raise ConfigError(f"method {method!r} cannot be registered: {problem}.")
    if method.name in METHODS and METHODS[method.name] is not method:
        raise ConfigError(
            f"method {method.name!r} is registered already, as {_place(METHODS[method.name])}; "
            f"give {_place(method)} another name."
        )
    METHODS[method.name] = method
    return method


def _problem(method: Any) -> str | None:
    """The reason why ``method`` cannot be used; ``None``: it can."""
    if not (isinstance(method, type) and issubclass(method, Method)):
        return "it is no subclass of roadshift.adapt.methods.Method"
    missing = [
        name for name in ("name", "summary", "source", "Config") if not hasattr(method, name)
    ]
    if missing:
        return f"it lacks {', '.join(missing)}"
    if not (isinstance(method.name, str) and re.fullmatch(r"[A-Za-z_]\w*", method.name)):
        return f"its name {method.name!r} is no word of letters, digits and underscores"
    if method.name in _TAKEN:
        return f"{method.name} is a setting of every run; choose another name"
    config: Any = method.Config
    if not (isinstance(config, type) and issubclass(config, Settings)):
        return "its Config is no subclass of roadshift.adapt.run.config.Settings"
    if "roadshift" not in method.presets:
        return 'its presets lack "roadshift", which is what `roadshift adapt` runs'
    return None


def _loaded(point: EntryPoint) -> type[Method]:
    """The method of an installed package."""
    package = point.dist.name if point.dist else point.value
    try:
        method: type[Method] = point.load()
    except Exception as error:  # whatever the package's own code raises
        raise ConfigError(
            f"method {point.name!r} of the installed package {package} cannot be imported from "
            f"{point.value} ({type(error).__name__}: {error}); mend or uninstall {package}."
        ) from error
    problem = _problem(method) or (
        None if method.name == point.name else f"it calls itself {method.name!r}"
    )
    if problem:
        raise ConfigError(
            f"method {point.name!r} of the installed package {package} cannot be used: {problem}; "
            f"mend or uninstall {package}."
        )
    return method


def _place(method: type[Method]) -> str:
    return f"{method.__module__}.{method.__qualname__}"
