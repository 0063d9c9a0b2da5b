"""The schema of a bundle's ``manifest.json``: frozen, and no key beyond those declared here."""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator

from ... import __version__
from ..errors import LabelSpaceError
from ..labels import LabelSpace
from ..strict_model import Sha256, StrictModel
from ..verdict import Verdict

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"

_LONGEST_NAME = 255  # bytes, of file systems

Kind = Literal["weights", "onnx", "tensorrt", "history", "report", "other"]
Triple = tuple[float, float, float]


class NetworkSpec(StrictModel):
    """The builder of the network: its registered name or ``package.module:factory``.

    ``output`` is the path of the logits in what a user's network returns ("1", "main", "0.out"),
    where a person had to choose.
    """

    name: Annotated[str, Field(min_length=1)]
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    output: str | None = None

    @property
    def modules(self) -> tuple[str, ...]:
        """The module whose code builds the network, or none for a registered one."""
        module, colon, _ = self.name.partition(":")
        return (module,) if colon else ()


class InputSpec(StrictModel):
    """Input of the network: ``x = (255 (image / 255)^gamma - mean) / std``, in ``colour`` order.

    ``image``, ``mean`` and ``std`` are in 0-255 units. ``gamma`` is 1 unless tone alignment found
    another for the vehicle's frames; below 1 it brightens.
    """

    width: Annotated[int, Field(ge=1, le=32767)]  # OpenCV resizes no larger ones
    height: Annotated[int, Field(ge=1, le=32767)]
    colour: Literal["rgb", "bgr"] = "rgb"
    mean: Triple
    std: Triple
    gamma: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("std")
    @classmethod
    def _divides(cls, std: Triple) -> Triple:
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {std}")
        return std


class Artefact(StrictModel):
    """One file of the bundle, with its SHA-256 in hexadecimal and its size in bytes."""

    path: str
    kind: Kind
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]
    precision: str | None = None
    target: str | None = None
    details: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("path")
    @classmethod
    def _is_file_name(cls, path: str) -> str:
        return check_artefact_name(path)


class Provenance(StrictModel):
    """Origin of a bundle.

    Attributes:
        parent: hash of the bundle that it was made from.
        method: what made it, with the resolved ``configuration``, ``seed`` and count of ``frames``.
        versions: of the software, see ``library_versions``.
        device: what it was made on.
        fingerprint: of the run that made it: of its settings, source model and the content of what
            it learned from. The same run, asked for again, is found to have finished.
        created: UTC, ISO 8601.
    """

    parent: str | None = None
    method: str | None = None
    configuration: dict[str, JsonValue] = Field(default_factory=dict)
    seed: int | None = None
    frames: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    device: str | None = None
    fingerprint: str | None = None
    created: str = Field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )


class Measurement(StrictModel):
    """A measured figure, unique by name, and how it was measured."""

    name: str
    value: float
    unit: str
    how: str


class Manifest(StrictModel):
    """All that a bundle says about itself; ``label_space`` is ``LabelSpace.to_dict()``.

    ``verdict`` is that of the gate which an adapted model had to pass, or None.
    """

    schema_version: int = SCHEMA_VERSION
    network: NetworkSpec
    label_space: dict[str, Any]
    input: InputSpec
    artefacts: tuple[Artefact, ...]
    provenance: Provenance
    measured: tuple[Measurement, ...] = ()
    verdict: Verdict | None = None

    @field_validator("label_space")
    @classmethod
    def _is_label_space(cls, data: dict[str, Any]) -> dict[str, Any]:
        try:
            LabelSpace.from_dict(data)
        except LabelSpaceError as error:
            raise ValueError(str(error)) from error
        return data

    @field_validator("artefacts")
    @classmethod
    def _are_unique(cls, artefacts: tuple[Artefact, ...]) -> tuple[Artefact, ...]:
        paths = [artefact.path for artefact in artefacts]
        if len(set(paths)) < len(paths):
            raise ValueError("two artefacts have the same path")
        return artefacts


def check_artefact_name(name: str) -> str:
    """The name itself, if it is a plain file name in the bundle's folder; ValueError otherwise."""
    if not re.fullmatch(r"[^/\\\x00-\x1f\x7f-\x9f]+", name) or name in (".", "..", MANIFEST_NAME):
        raise ValueError(f"{name!r} is no plain file name in the bundle's own folder")
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise ValueError(f"{name[:24]!r}... has more than {_LONGEST_NAME} bytes")
    return name


def library_versions() -> dict[str, str]:
    """Versions of python, roadshift and the libraries that are installed, none imported."""
    found = {name: _version_of_any(names) for name, names in _DISTRIBUTIONS.items()}
    installed = {name: version for name, version in found.items() if version is not None}
    return {"python": platform.python_version(), "roadshift": __version__, **installed}


@cache
def _version_of_any(distributions: tuple[str, ...]) -> str | None:
    """Version of the first that is installed; libraries stay while a process lives."""
    for distribution in distributions:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return None


_DISTRIBUTIONS = {
    "numpy": ("numpy",),
    "opencv": ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "torch": ("torch",),
    "onnx": ("onnx",),
}
