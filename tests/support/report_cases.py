"""Content for pages in tests: documents of commands, and bundles with all that one can have."""

from __future__ import annotations

import json
from pathlib import Path

from fleets import Fleet
from roadshift.runtime.bundle import Bundle, BundleWriter, Measurement, open_bundle
from roadshift.runtime.verdict import Check, Verdict
from signed_bundles import small_bundle

EVALUATION = {
    "miou": 41.23456789,
    "iou": {"road": 91.5, "car<script>": 12.25, "train": None},
    "pixel_accuracy": 88.125,
    "frames": 12,
    "ci95": [39.5, 43.0625],
    "engine": {"backend": "onnxruntime"},
}
BENCH = [
    {
        **{"artefact": "model.onnx", "backend": "onnxruntime", "precision": "fp32"},
        **{"device": "cpu", "p50_ms": 10.5, "p90_ms": 11.25, "p99_ms": 12.125, "fps": 95.0},
        **{"peak_mib": 210.5, "label_agreement": 100.0, "miou": None, "stages_ms": {}},
    }
]
COMPARISON = [
    {"method": "source only", "miou": 20.5, "gain": 0.0, "iou": {"road": 80.5}},
    {"method": "iapc", "miou": 25.125, "gain": 4.625, "seconds": 61.5, "iou": {"road": 85.25}},
    {"method": "ld", "miou": None, "error": "it failed"},
]


def full_bundle(path: Path) -> None:
    """A bundle with history, a verdict and a measured figure."""
    checks = (Check("entropy", 0.5, 0.25, -0.5, 0.125, 0.75, True, "It is certain enough."),)
    verdict = Verdict("keep", "The <b>car</b> is gone.", checks, 16, 2.5, "a" * 64)
    base = small_bundle(path)
    history = "".join(
        json.dumps({"stage": "teach", "step": i, "losses": {"ce": 2.0 / i, "total": 1.0}}) + "\n"
        for i in range(1, 2000)
    )
    with BundleWriter(path, overwrite=True, base=base) as writer:
        writer.add_bytes("history.jsonl", history.encode(), kind="history")
        writer.commit(
            measured=[Measurement(name="miou", value=33.5, unit="%", how="on <frames>")],
            verdict=verdict,
        )


def judged_bundles(folder: Path) -> list[Bundle]:
    """Two bundles with all that `full_bundle` has, of one name in two folders, and a signed one."""
    for parent in ("one", "two"):
        (folder / parent).mkdir()
        full_bundle(folder / parent / "model")
    signed = Fleet(folder).model(1)
    return [open_bundle(folder / parent / "model") for parent in ("one", "two")] + [signed]
