"""`roadshift info`."""

from __future__ import annotations

from .options import BundleIn, Json
from .tables import run_seconds


def info(bundle: BundleIn, as_json: Json = False) -> None:
    """What a bundle holds and comes from; checks every hash."""
    from ..runtime.bundle import open_bundle
    from ..runtime.terminal import print_json, table, verdict_table

    opened = open_bundle(bundle)
    if as_json:
        print_json(
            {"path": str(bundle), "hash": opened.hash, **opened.manifest.model_dump(mode="json")}
        )
        return
    manifest = opened.manifest
    seen, origin = manifest.input, manifest.provenance
    pixels = f"{seen.colour}, gamma {seen.gamma:g}, mean {seen.mean}, std {seen.std}"
    rows = [
        ("hash", opened.hash),
        ("network", manifest.network.name),
        ("label space", f"{opened.label_space.name}, {opened.label_space.num_classes} classes"),
        ("input", f"{seen.width}x{seen.height} {pixels}"),
        ("made by", ", ".join(filter(None, (origin.method, origin.created, origin.device)))),
    ]
    known = {"parent": origin.parent, "frames": origin.frames, "seed": origin.seed}
    rows += [(name, str(value)) for name, value in known.items() if value is not None]
    rows += [(m.name, f"{m.value} {m.unit} ({m.how})") for m in manifest.measured]
    table(str(bundle), ["", ""], rows)
    table(
        "\nartefacts",
        ["file", "kind", "precision", "bytes", "sha256"],
        [(a.path, a.kind, a.precision, a.bytes, a.sha256[:12]) for a in manifest.artefacts],
    )
    if manifest.verdict is not None:
        verdict_table(manifest.verdict, **run_seconds(opened))
