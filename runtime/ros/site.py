"""The site's own ROS 2: its packages are found where they are, and none is installed by us."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import MissingDependencyError

_REMEDY = (
    "source the setup file of your ROS 2 (setup.bash) in this shell and install Roadshift into the "
    "Python that it has"
)


def ros_package(name: str) -> Any:
    """A package of the site's ROS 2.

    Raises:
        MissingDependencyError: it is not there, or does not load in this Python.
    """
    found = optional_package(name)
    if found is None:
        raise MissingDependencyError(f"The package {name} of ROS 2 is not found here; {_REMEDY}.")
    return found


def optional_package(name: str) -> Any | None:
    """A package of the site's ROS 2, or None where it is not there."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return None
        raise MissingDependencyError(
            f"The package {name} of ROS 2 needs {error.name}, which is not found; {_REMEDY}."
        ) from error
    except ImportError as error:  # built for another Python
        raise MissingDependencyError(
            f"The package {name} of ROS 2 does not load in this Python ({error}); {_REMEDY}."
        ) from error
