"""Reading a bundle: the schema, the files and their hashes, and exactly what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from ... import __version__
from ..errors import BundleError, ConfigError, RoadshiftError, arg, naming
from ..given import path_of, switches
from ..labels import LabelSpace
from ..regular_files import check_regular, read_regular_file, sha256_of_rest
from ..strict_json import LARGEST, JsonError, parse_json
from ..words import shortened
from .manifest import MANIFEST_NAME, SCHEMA_VERSION, Artefact, Kind, Manifest

_REMEDY = "restore the bundle from a copy or make it again"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk as it was read.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
        hash: SHA-256 of the bytes of ``manifest.json``; it covers every artefact through theirs.
        allow_networks: modules of Python that its manifest may name, see `open_bundle`.
        beside: files of artefacts that lie elsewhere than in its folder, by their names.
    """

    path: Path
    manifest: Manifest
    hash: str
    allow_networks: frozenset[str] = field(default=frozenset(), compare=False)
    beside: Mapping[str, Path] = field(default_factory=dict, compare=False)

    @cached_property
    def label_space(self) -> LabelSpace:
        return LabelSpace.from_dict(self.manifest.label_space)

    def artefact(self, kind: Kind | None = None, name: str | None = None) -> Artefact | None:
        """The first artefact of that kind and file name, whichever are given."""
        for artefact in self.manifest.artefacts:
            if kind in (None, artefact.kind) and name in (None, artefact.path):
                return artefact
        return None

    def file(self, artefact: Artefact) -> Path:
        """Path of an artefact, for messages; `content` is what to load."""
        return self.beside.get(artefact.path) or self.path / artefact.path

    def content(self, artefact: Artefact) -> bytes:
        """An artefact's bytes, which are those that the manifest lists, whatever came meanwhile.

        Raises:
            BundleError: the file was changed or removed after the bundle was opened.
        """
        path = self.file(artefact)
        try:
            content = read_regular_file(path, artefact.bytes)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}.") from error
        _check_hash(path, artefact, hashlib.sha256(content).hexdigest())
        return content


def opened(bundle: Bundle | str | Path, name: str = "bundle") -> Bundle:
    """The bundle itself, or the one of that folder, which is the argument ``name``.

    Raises:
        ConfigError: it is neither.
        BundleError: the folder holds no bundle.
    """
    if isinstance(bundle, Bundle):
        return bundle
    with naming(**{name: RoadshiftError}):
        return open_bundle(path_of(name, bundle))


def open_bundle(
    path: str | Path,
    *,
    verify: bool = True,
    allow_networks: Collection[str] = (),
    note: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Read a bundle; with ``verify``, every artefact's content is hashed, not only its size.

    Args:
        path: its folder.
        verify: hash now what is there. `Bundle.content` does so again, at its use.
        allow_networks: modules, "package.module", whose code may run where the manifest names a
            factory of theirs as its network. Without, a network that is not registered is refused.
            Nothing of this bundle alone is allowed by it: name no module that you do not trust.
        note: called with a sentence where the bundle's own gate did not promote it.

    Raises:
        BundleError: what is wrong with which file.
        ConfigError: what is allowed is no name of a module, or another argument is malformed.
    """
    switches(verify=verify)
    allowed = _module_names(allow_networks)
    path = path_of("path", path)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:  # a name of 300 bytes
        raise BundleError(f"{path}: cannot be looked at ({error.strerror}).") from error
    if not is_folder:
        problem = "is a file, and a bundle is a folder" if exists else "does not exist"
        raise BundleError(f"{path}: {problem}; give the folder that holds {MANIFEST_NAME}.")
    try:
        content = read_regular_file(path / MANIFEST_NAME, LARGEST)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: is not a bundle, it has no {MANIFEST_NAME}.") from error
    except OSError as error:
        raise BundleError(f"{path / MANIFEST_NAME}: cannot be read ({error.strerror}).") from error
    bundle = Bundle(
        path,
        _parse_manifest(content, path / MANIFEST_NAME),
        hashlib.sha256(content).hexdigest(),
        allowed,
    )
    for artefact in bundle.manifest.artefacts:
        check_artefact(bundle.file(artefact), artefact, verify)
    verdict = bundle.manifest.verdict
    if verdict is not None and verdict.warning:
        note(f"{path}: {verdict.warning}")
    return bundle


def _module_names(names: Collection[str]) -> frozenset[str]:
    """The modules that a user allowed, each "package.module"."""
    several = isinstance(names, Collection) and not isinstance(names, str)
    if not (several and all(isinstance(name, str) for name in names)):
        raise ConfigError(
            f"{arg('allow_networks')}: {shortened(repr(names))} is no list of names, such as "
            "['package.module']."
        )
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(
                f"{arg('allow_networks')} {shortened(name)!r}: name a module of Python, "
                "package.module, without its path and without its factory."
            )
    return frozenset(names)


def _parse_manifest(content: bytes, where: Path) -> Manifest:
    try:
        data = parse_json(content, unique_keys=True)  # or readers see different ones
    except JsonError as error:
        raise BundleError(
            f"{where}: truncated or not JSON ({error}); restore the bundle from a copy."
        ) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BundleError(f"{where}: has no schema_version, so this is not a roadshift bundle.")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{where}: schema {version} was written by a newer roadshift, and this one "
            f"({__version__}) reads up to schema {SCHEMA_VERSION}; upgrade roadshift."
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise BundleError(
            f"{where}: invalid at {shortened(key)!r}: {first['msg']}{more}."
        ) from error


def check_artefact(path: Path, artefact: Artefact, verify: bool) -> None:
    """Raise `BundleError` where the file at ``path`` is not the artefact that a manifest lists.

    With ``verify`` its content is hashed, not only its size looked at.
    """
    try:
        check_regular(path)
        size = path.stat().st_size
        if size != artefact.bytes:
            raise BundleError(
                f"{path}: has {size} bytes and {MANIFEST_NAME} says {artefact.bytes}; {_REMEDY}."
            )
        actual = sha256_of(path) if verify else artefact.sha256
    except FileNotFoundError as error:
        raise BundleError(
            f"{path}: is listed in {MANIFEST_NAME} and missing; {_REMEDY}."
        ) from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}.") from error
    _check_hash(path, artefact, actual)


def _check_hash(path: Path, artefact: Artefact, actual: str) -> None:
    if actual != artefact.sha256:
        raise BundleError(
            f"{path}: was changed after it was written (SHA-256 {actual[:12]}, {MANIFEST_NAME} "
            f"says {artefact.sha256[:12]}); {_REMEDY}."
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return sha256_of_rest(file)
