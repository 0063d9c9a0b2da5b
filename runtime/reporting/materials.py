"""A bill of materials of a model: CycloneDX 1.6, JSON (ECMA-424)."""

from __future__ import annotations

import uuid
from typing import Any

from ... import __version__
from ..bundle import MANIFEST_NAME, Bundle

_NAMESPACE = uuid.UUID("6f0c1f0e-3f0a-5f5b-9d0e-7a1a5f6f4c11")


def bill_of_materials(bundle: Bundle) -> dict[str, Any]:
    """The document: the model, its files with their hashes, and the software that made it.

    The same bundle gives the same document, serial number included.
    """
    origin = bundle.manifest.provenance
    files = [
        _file(MANIFEST_NAME, bundle.hash),
        *(_file(artefact.path, artefact.sha256) for artefact in bundle.manifest.artefacts),
    ]
    made_with = [
        {"type": "library", "bom-ref": f"software:{name}", "name": name, "version": version}
        for name, version in origin.versions.items()
    ]
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": bundle.path.name,
        "version": bundle.hash[:12],
        "hashes": [{"alg": "SHA-256", "content": bundle.hash}],
        "modelCard": {
            "modelParameters": {
                "task": "semantic segmentation",
                "modelArchitecture": bundle.manifest.network.name,
                "inputs": [{"format": "image"}],
                "outputs": [{"format": f"label map ({bundle.label_space.name})"}],
            }
        },
    }
    if origin.parent:
        model["pedigree"] = {
            "ancestors": [
                {
                    "type": "machine-learning-model",
                    "name": "parent",
                    "version": origin.parent[:12],
                    "hashes": [{"alg": "SHA-256", "content": origin.parent}],
                }
            ]
        }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, bundle.hash)}",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [{"type": "application", "name": "roadshift", "version": __version__}]
            },
            "component": model,
        },
        "components": [*files, *made_with],
        "dependencies": [
            {"ref": "model", "dependsOn": [c["bom-ref"] for c in (*files, *made_with)]}
        ],
    }


def _file(name: str, sha256: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }
