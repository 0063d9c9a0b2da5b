"""A fleet: a maker's key, the models that it signed, and the slots of a vehicle."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from roadshift.runtime.bundle import Artefact, Bundle, open_bundle
from roadshift.runtime.signing import (
    PrivateKey,
    Trust,
    create_trust,
    generate_key,
    load_private_key,
    sign_bundle,
)
from roadshift.runtime.slots import (
    Health,
    PlanBuilder,
    SlotStore,
    commit,
    create_slots,
    install,
    read_audit,
    try_model,
)
from signed_bundles import small_bundle


class StandInPlans(PlanBuilder):
    """A builder whose plans nothing runs: what is stored is the same as of any other."""

    def build(self, store: SlotStore, bundle: Bundle, before: Artefact | None = None) -> Artefact:
        del before
        path, content = store.incoming_plan, f"plan of {bundle.hash}".encode()
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            file.write(content)
            os.fsync(file.fileno())
        model = bundle.artefact(kind="onnx")
        assert model is not None
        details = {"flavour": "tensorrt", "version": "10", "gpu": "none", "compute_capability": "0"}
        return Artefact(
            path="model-fp32.plan",
            kind="tensorrt",
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            precision="fp32",
            details={**details, "onnx": {"path": model.path, "sha256": model.sha256}},
        )


HEALTHY = Health(True, ("well",), 100, 5.0)


class Fleet:
    """A maker's key, what it signed, and a vehicle's slots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        generate_key(folder / "maker.key")
        self.key: PrivateKey = load_private_key(folder / "maker.key")
        self.trust: Trust = create_trust(folder / "trust", {"maker": self.key.public})
        self.store: SlotStore = create_slots(folder / "slots")

    def model(self, version: int, weights_of: int | None = None, **parts: Any) -> Bundle:
        """A signed bundle, with other weights for each version unless they are said."""
        path = self.folder / f"v{version}"
        seed = version if weights_of is None else weights_of
        bundle = small_bundle(path, seed, self_test=True, mark=version, **parts)
        sign_bundle(bundle, self.key, version=version)
        return bundle

    def signed_again(self, model: int, version: int, **parts: Any) -> Bundle:
        """A model that was made before, signed as of another version."""
        bundle = open_bundle(self.folder / f"v{model}")
        sign_bundle(bundle, self.key, version=version, **parts)
        return bundle

    def installed(self, version: int, **parts: Any) -> Bundle:
        bundle = self.model(version, **parts)
        install(self.store, bundle.path, self.trust)
        return bundle

    def running(self, version: int) -> Bundle:
        bundle = self.installed(version)
        try_model(self.store, self.trust)
        commit(self.store, HEALTHY)
        return bundle

    def events(self) -> list[str]:
        return [record.event for record in read_audit(self.store.path)]
