"""Writing a bundle: staged in a hidden sibling folder, flushed, and published in one step."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ..atomic import (
    check_parent,
    flush,
    locked_folder,
    output_error,
    output_errors,
    publish,
    staging_folder,
)
from ..errors import BundleError, OutputError, arg
from ..file_names import STAGED, check_name
from ..labels import LabelSpace
from ..printable import encodable
from ..regular_files import read_regular_file
from ..strict_json import LARGEST
from ..verdict import Verdict
from .manifest import (
    MANIFEST_NAME,
    Artefact,
    InputSpec,
    Kind,
    Manifest,
    Measurement,
    NetworkSpec,
    Provenance,
    check_artefact_name,
)
from .reader import Bundle, check_artefact, sha256_of


def check_output(path: str | Path, overwrite: bool = False) -> None:
    """Check that a bundle may be written to ``path``, before hours are spent on making it.

    Raises:
        OutputError: its parent is missing or unwritable, or its name is too long; or it exists,
            unless ``overwrite`` and it is a bundle or an empty folder.
    """
    path = Path(path)
    check_name(path, STAGED, inside=True, by_library=True)
    check_parent(path)
    if not path.exists():
        return
    if not _may_be_replaced(path):
        raise OutputError(
            f"{path}: exists and is not a bundle, so it is never overwritten; choose another name."
        )
    if not overwrite:
        raise OutputError(
            f"{path}: already exists; choose another name or use {arg('overwrite', True)}."
        )


def _may_be_replaced(path: Path) -> bool:
    """An empty folder, or one whose manifest is ours by its first key, even if damaged."""
    if not path.is_dir():
        return False
    with output_errors(path):
        if next(path.iterdir(), None) is None:
            return True
        manifest = path / MANIFEST_NAME
        if not manifest.is_file():
            return False
        with manifest.open("rb") as file:
            return b'"schema_version"' in file.read(64)


class BundleWriter:
    """Writer of a bundle that appears complete, on ``commit``, or not at all.

        with BundleWriter(path) as writer:
            writer.add_bytes("model.safetensors", weights, kind="weights")
            export(model, writer.open_path("model.onnx"))
            writer.add_written("model.onnx", kind="onnx", precision="fp32")
            bundle = writer.commit(network=..., label_space=..., input=..., provenance=...)

    Leaving without ``commit``, or by an exception, removes what was staged; a bundle that was there
    before stays as it is. ``base`` starts from the artefacts of that bundle (``extend_bundle``).

    Raises:
        OutputError: from any method, the disk is full, or the folder missing or not writable.
    """

    def __init__(
        self, path: str | Path, overwrite: bool = False, *, base: Bundle | None = None
    ) -> None:
        check_output(path, overwrite)
        self.path = Path(path)
        self._target = self.path.resolve()  # a symbolic link stays, its folder is replaced
        self._overwrite = overwrite
        self._base = base
        self._artefacts: dict[str, Artefact] = {}
        self._unlisted: set[str] = set()  # carried over from ``base``: a user's notes, a cache
        self._stack = ExitStack()

    def __enter__(self) -> BundleWriter:
        self._folder = self._stack.enter_context(staging_folder(self._target))
        if self._base is not None:
            try:
                self._carry_over(self._base)
            except BaseException:
                self._stack.close()
                raise
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._stack.close()
        if isinstance(error, OSError) and self._is_ours(error):
            raise output_error(error, self.path) from error

    def open_path(self, name: str) -> Path:
        """Path to write the artefact ``name`` to; ``add_written`` then lists it."""
        path = self._folder / check_artefact_name(name)
        with output_errors(self.path):
            path.unlink(missing_ok=True)  # never write through a hard link into another bundle
        self._artefacts.pop(name, None)
        return path

    def remove(self, name: str) -> None:
        """Leave out an artefact of ``base``."""
        self.open_path(name)

    def add_bytes(
        self,
        name: str,
        data: bytes,
        *,
        kind: Kind,
        precision: str | None = None,
        target: str | None = None,
        details: Mapping[str, JsonValue] | None = None,
    ) -> Artefact:
        path = self.open_path(name)
        with output_errors(self.path):
            path.write_bytes(data)
        return self.add_written(
            name, kind=kind, precision=precision, target=target, details=details
        )

    def add_file(
        self,
        name: str,
        source: str | Path,
        *,
        kind: Kind,
        precision: str | None = None,
        target: str | None = None,
        details: Mapping[str, JsonValue] | None = None,
    ) -> Artefact:
        """Add a finished file, as a hard link where possible: do not write to it afterwards."""
        source = Path(source).resolve(strict=True)
        path = self.open_path(name)
        with output_errors(self.path):
            _link_or_copy(str(source), str(path))
        return self.add_written(
            name, kind=kind, precision=precision, target=target, details=details
        )

    def add_written(
        self,
        name: str,
        *,
        kind: Kind,
        precision: str | None = None,
        target: str | None = None,
        details: Mapping[str, JsonValue] | None = None,
    ) -> Artefact:
        """Lists the file written at ``open_path(name)``, flushed to the disk."""
        path = self._folder / check_artefact_name(name)
        if not path.is_file():
            raise ValueError(f"{name}: listed before it was written to open_path({name!r})")
        with output_errors(self.path):
            flush(path)
            artefact = Artefact(
                path=name,
                kind=kind,
                sha256=sha256_of(path),
                bytes=path.stat().st_size,
                precision=precision,
                target=target,
                details=dict(details or {}),
            )
        self._artefacts[name] = artefact
        return artefact

    def commit(
        self,
        *,
        network: NetworkSpec | None = None,
        label_space: LabelSpace | None = None,
        input: InputSpec | None = None,
        provenance: Provenance | None = None,
        measured: Iterable[Measurement] = (),
        verdict: Verdict | None = None,
    ) -> Bundle:
        """Write the manifest, flush and publish; what is not given is taken from ``base``.

        Measurements of the same name replace those of ``base``.

        Raises:
            BundleError: ``base``, or a file taken over from it, was changed in the meantime.
            OutputError: the target was made by someone else in the meantime.
            ValueError: a part is given neither here nor by ``base``, or a file was written and
                never listed.
        """
        old = self._base.manifest if self._base is not None else None
        figures = {m.name: m for m in (*(old.measured if old else ()), *measured)}
        parts: dict[str, Any] = {
            "network": network or (old and old.network),
            "label_space": label_space.to_dict() if label_space else old and old.label_space,
            "input": input or (old and old.input),
            "provenance": provenance or (old and old.provenance),
        }
        missing = sorted(key for key, value in parts.items() if value is None)
        if missing:
            raise ValueError(f"{self.path}: a new bundle needs {missing}")
        stray = {path.name for path in self._folder.iterdir()} - {*self._artefacts, *self._unlisted}
        if stray:
            raise ValueError(f"{self.path}: written but not listed by add_written: {sorted(stray)}")
        self._check_taken_over()
        manifest = Manifest(
            **parts,
            artefacts=tuple(self._artefacts.values()),
            measured=tuple(figures.values()),
            verdict=verdict or (old.verdict if old else None),
        )
        record = encodable(manifest.model_dump(mode="json"))
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        with output_errors(self.path):
            (self._folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
            flush(self._folder / MANIFEST_NAME)
            flush(self._folder)
        with locked_folder(self._target):  # no other program publishes between check and exchange
            self._check_target()
            with output_errors(self.path):
                publish(self._folder, self._target, replace=self._overwrite)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Bundle(self.path, manifest, digest, self._allowed(network))

    def _allowed(self, network: NetworkSpec | None) -> frozenset[str]:
        """The modules that the new manifest may name: the caller's own, and what ``base`` may."""
        kept = self._base.allow_networks if self._base is not None else frozenset[str]()
        return kept.union(network.modules if network is not None else ())

    def _check_target(self) -> None:
        check_output(self.path, self._overwrite)
        if self._base is not None and self._base.path.resolve() == self._target:
            self._check_base(self._base)

    def _check_base(self, base: Bundle) -> None:
        try:
            content = read_regular_file(base.path / MANIFEST_NAME, LARGEST)
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != base.hash:
            raise BundleError(
                f"{self.path}: was changed by another program meanwhile; run this again."
            )

    def _carry_over(self, base: Bundle) -> None:
        """Link all of ``base`` but its manifest; its artefacts keep the hashes they came with."""
        try:
            with output_errors(self.path):
                shutil.copytree(
                    base.path,
                    self._folder,
                    symlinks=True,
                    ignore=shutil.ignore_patterns(MANIFEST_NAME),
                    copy_function=_link_or_copy,
                    dirs_exist_ok=True,
                )
        except OutputError:
            self._check_base(base)  # files that vanish while they are linked: it was replaced
            raise
        self._artefacts = {artefact.path: artefact for artefact in base.manifest.artefacts}
        self._unlisted = {path.name for path in self._folder.iterdir()} - set(self._artefacts)

    def _check_taken_over(self) -> None:
        """Raise where a file of ``base`` is no longer the one that its manifest lists."""
        if self._base is None:
            return
        listed = set(map(id, self._base.manifest.artefacts))
        for artefact in self._artefacts.values():
            if id(artefact) in listed:
                try:
                    check_artefact(self._folder / artefact.path, artefact, verify=True)
                except BundleError as error:
                    raise BundleError(
                        f"{self._base.file(artefact)}: was changed while the bundle was added to; "
                        "restore it from a copy or make it again."
                    ) from error

    def _is_ours(self, error: OSError) -> bool:
        """Tell whether a caller's OSError is about the output, not about something read."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        return isinstance(error.filename, str) and error.filename.startswith(str(self._folder))


def extend_bundle(bundle: Bundle) -> BundleWriter:
    """A writer that publishes a new version of ``bundle`` in its place, in one step.

    It starts with the artefacts of ``bundle``; adding one of the same name replaces it.
    """
    return BundleWriter(bundle.path, overwrite=True, base=bundle)


def _link_or_copy(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
