"""`roadshift info`."""

from __future__ import annotations

from .options import BundleIn, Json


def info(bundle: BundleIn, as_json: Json = False) -> None:
    """Show what a bundle holds and comes from; check every hash."""
    from ..runtime.bundle import open_bundle
    from ..runtime.console.terminal import note
    from ..runtime.engines.onnx.graph import refused_models
    from .tables import bundle_tables, show

    opened = open_bundle(bundle)
    for sentence in refused_models(opened):
        note(sentence)
    document = {"path": str(bundle), "hash": opened.hash, **opened.manifest.model_dump(mode="json")}
    show(document, as_json, lambda: bundle_tables(opened))
