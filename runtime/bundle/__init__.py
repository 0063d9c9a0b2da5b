"""Model bundles: a folder with ``manifest.json`` and the artefacts that it lists.

Reading checks the schema and every hash; writing goes through a hidden sibling folder, so that a
bundle is complete or absent. No artefact is ever unpickled.
"""

from __future__ import annotations

from .manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Artefact,
    InputSpec,
    Kind,
    Manifest,
    Measurement,
    NetworkSpec,
    Provenance,
    library_versions,
)
from .reader import Bundle, open_bundle, opened
from .writer import BundleWriter, check_output, extend_bundle

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Artefact",
    "Bundle",
    "BundleWriter",
    "InputSpec",
    "Kind",
    "Manifest",
    "Measurement",
    "NetworkSpec",
    "Provenance",
    "check_output",
    "extend_bundle",
    "library_versions",
    "open_bundle",
    "opened",
]
