"""Whose code may run: a file names networks, and only a user or an installed package names code.

A manifest, or a recipe, may come from anyone. It may name a registered network freely: one of
``NETWORKS``, or an entry point of the group ``roadshift.networks`` of an installed distribution.
"package.module:factory" in it is imported and called only where the user named that module, for
this command or this call; nothing remembers it. What a user types himself is allowed by that.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points

from ....runtime.errors import NetworkError, arg
from ....runtime.words import shortened

ENTRY_POINTS = "roadshift.networks"
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def check_allowed(name: str, allowed: Collection[str], where: str) -> None:
    """Refuse the code that a file names, unless a user named its module.

    Args:
        name: of a network or a black box, as the file has it; without a colon it names no code.
        allowed: modules that the user named for this command.
        where: begins the sentence: the file, and what in it.

    Raises:
        NetworkError: ``name`` is "package.module:attribute", and the module is not allowed.
    """
    module, colon, attribute = name.partition(":")
    if not colon or module in allowed:
        return
    if not (_MODULE.fullmatch(module) and attribute.isidentifier()):
        raise NetworkError(
            f"{where} is {shortened(name)!r}, which is no network and no package.module:factory."
        )
    raise NetworkError(
        f"{where} is {name}, code of the module {module} that would run with your rights; if you "
        "know that module and trust it, allow it for this command with "
        f"{arg('allow_networks', [module])}."
    )


def registered_factory(name: str) -> str | None:
    """The "package.module:factory" that an installed distribution registers as ``name``, if any.

    Raises:
        NetworkError: several do, or the entry point names no factory.
    """
    found: set[EntryPoint] = set(entry_points(group=ENTRY_POINTS, name=name))
    values = sorted({point.value for point in found})
    if len(values) > 1:
        raise NetworkError(
            f"network '{name}' is registered by several installed packages ({', '.join(values)}); "
            "uninstall all but one."
        )
    if not values:
        return None
    point = next(iter(found))
    if not (_MODULE.fullmatch(point.module) and (point.attr or "").isidentifier()):
        raise NetworkError(
            f"network '{name}': its entry point {point.value!r} is no package.module:factory; "
            "mend the package that registers it."
        )
    return f"{point.module}:{point.attr}"


def registered_names() -> list[str]:
    """The networks that installed distributions register."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})
