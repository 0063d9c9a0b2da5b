"""Importing a module that a user named: his own, never one that lies in a model bundle.

The module is found where Python finds any other. Only a module that is installed nowhere is looked
for in the current directory, after everything else, so that no file there stands in for a package
that is installed. Whatever is imported on the way (parent packages, and what they import) must lie
outside of every bundle, whose files are data of whoever made it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from ....runtime.bundle import MANIFEST_NAME
from ....runtime.errors import NetworkError, RoadshiftError
from ....runtime.strict_json import JsonError, read_json
from ....runtime.words import shortened


def import_callable(name: str, where: str, wanted: str) -> Callable[..., Any]:
    """The object that ``package.module:attribute`` names, with `user_modules` in force.

    Raises:
        NetworkError: there is no such module or attribute, it lies in a bundle, importing it
            raised, or it cannot be called. ``where`` begins the sentence, and ``wanted`` says what
            should be there.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise NetworkError(
            f"{where}: {shortened(module_name)!r} is no name of a module; name {wanted}."
        )
    with user_modules(module_name):
        try:
            module = importlib.import_module(module_name)
        except RoadshiftError:
            raise
        except Exception as error:
            if _is_missing(error, module_name):
                raise NetworkError(f"{where}: {_nowhere(module_name)}") from error
            said = f"{type(error).__name__}: {error}".rstrip(". ")
            hint = (
                "; install what it imports beside Roadshift, or run from the folder that holds it"
                if isinstance(error, ModuleNotFoundError)
                else ""
            )
            raise NetworkError(
                f"{where}: importing '{module_name}' raised {said}{hint}."
            ) from error
        if module.__spec__ is not None:
            _check_outside_bundles(module.__spec__)  # imported by others, before
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        problem = "is not callable" if hasattr(module, attribute) else "does not exist"
        file = getattr(module, "__file__", None) or module_name
        raise NetworkError(f"{where}: '{attribute}' {problem} in {file}; name {wanted}.")
    return found


def _is_missing(error: Exception, module_name: str) -> bool:
    """Tell whether the module itself, or a package that it lies in, was not found."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return False
    return f"{module_name}.".startswith(f"{error.name}.")


def _nowhere(module_name: str) -> str:
    top, here = module_name.partition(".")[0], os.getcwd()
    if (installed := _installed_file(module_name)) is not None:
        return (
            f"there is no module '{module_name}' below the installed {installed}, which comes "
            f"before a '{top}' in {here}; give yours another name."
        )
    return (
        f"there is no module '{module_name}' in the environment or in {here}; run from the folder "
        "that holds it, or install it."
    )


@contextmanager
def user_modules(module_name: str) -> Iterator[None]:
    """Import ``module_name`` and what it needs as the top of this file says, for the duration."""
    importlib.invalidate_caches()
    here, guard = os.getcwd(), _BundleGuard()
    added = here not in sys.path and _installed_file(module_name) is None
    sys.meta_path.insert(0, guard)
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        sys.meta_path.remove(guard)
        if added:
            _remove_last(sys.path, here)


def _installed_file(module_name: str) -> str | None:
    """File of the module's outermost package as Python finds it by itself; nothing is run.

    A folder without ``__init__.py`` does not count: others may add to it.
    """
    spec = next(_specs(module_name.partition(".")[0], None, None), None)
    return None if spec is None else spec.origin


def _specs(
    name: str, path: Sequence[str] | None, target: ModuleType | None
) -> Iterator[ModuleSpec]:
    """Specs that the finders other than ours find, the first first."""
    for finder in list(sys.meta_path):
        find = getattr(finder, "find_spec", None)  # very old finders have none
        if find is not None and not isinstance(finder, _BundleGuard):
            spec = find(name, path, target)
            if spec is not None:
                yield spec


def _remove_last(entries: list[str], entry: str) -> None:
    """Take out the last of equal entries, if it is still there."""
    for i in reversed(range(len(entries))):
        if entries[i] == entry:
            del entries[i]
            return


class _BundleGuard:
    """A finder before all others: it finds what they find, and refuses what lies in a bundle."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the first other finder that knows the module.

        Raises:
            NetworkError: the module, or a folder that it takes submodules from, lies in a bundle.
        """
        spec = next(_specs(name, path, target), None)
        if spec is not None:
            _check_outside_bundles(spec)
        return spec


def _check_outside_bundles(spec: ModuleSpec) -> None:
    places = list(spec.submodule_search_locations or ())
    if spec.has_location and spec.origin is not None:
        places.append(spec.origin)
    for place in places:
        if bundle := bundle_around(Path(place)):
            raise NetworkError(
                f"module '{spec.name}' lies in the model bundle {bundle}, and nothing in a bundle "
                "is ever run; if you wrote that module, keep it in a folder of its own."
            )


def bundle_around(path: Path) -> Path | None:
    """The model bundle that ``path`` lies in, by its name or by what its links lead to."""
    for way in (Path(os.path.abspath(path)), path.resolve()):
        for folder in (way, *way.parents):
            if _is_bundle(folder):
                return folder
    return None


def _is_bundle(folder: Path) -> bool:
    """Tell whether a folder's manifest is one that `open_bundle` would begin to read."""
    try:
        manifest = read_json(folder / MANIFEST_NAME)
    except (OSError, JsonError):
        return False
    return isinstance(manifest, dict) and {"schema_version", "artefacts"} <= manifest.keys()
