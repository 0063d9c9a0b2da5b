"""Objects by name: lazily by "module:attribute", and those of installed packages.

A package names what it brings in its metadata, and it is imported when it is used:

    [project.entry-points."roadshift.engines"]
    npu = "some_package.npu:NPU"
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .errors import RoadshiftError


def load(place: str) -> Any:
    """The object that "package.module:attribute" names; importing it may take seconds."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def installed_names(group: str) -> list[str]:
    """The names that installed packages register in a group of entry points."""
    from importlib.metadata import entry_points  # slow to import, and rarely asked for

    return sorted({point.name for point in entry_points(group=group)})


def installed(group: str, name: str, title: str, error: type[RoadshiftError]) -> Any:
    """The object that an installed package registers under ``name``, imported now.

    Args:
        group: of entry points, such as "roadshift.engines".
        name: one of `installed_names`.
        title: begins a message, "Backend 'npu'".
        error: the class of what is raised.

    Raises:
        RoadshiftError: no package registers it, several do, or it cannot be imported.
    """
    from importlib.metadata import entry_points

    points = {point.value: point for point in entry_points(group=group, name=name)}
    if len(points) != 1:
        raise error(
            f"{title} is registered by {len(points)} installed packages "
            f"({', '.join(sorted(points))}); let exactly one do it."
        )
    ((place, point),) = points.items()
    try:
        return point.load()
    except (ImportError, AttributeError) as problem:
        raise error(
            f"{title}, {place}, cannot be imported ({problem}); mend or uninstall the package that "
            "brings it."
        ) from problem
