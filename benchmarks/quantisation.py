"""Cost and benefit of each precision on CamVid day. Writes docs/results/quantisation.md.

    python benchmarks/quantisation.py --data DIR [--work DIR] [--queries 200]

DIR and the work folder are those of camvid.py: the same ``fast_scnn`` learns from the day frames,
or is found there. It is exported in every precision through the command line, calibrated on the
frames that it learned from, a few of them held out to choose methods and layers on, and judged on
the last tenth of each sequence, which neither training nor calibration saw. Times are of the same
weights at 1024x512, in turns, in one run of `bench`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import camvid
from machine_line import machine_line
from roadshift.runtime.bench.baseline import machine
from roadshift.runtime.bundle import library_versions

PRECISIONS = "fp32,fp16,bf16,int8,int8-cpu,fp8"
TITLES = {
    "model.onnx": "fp32",
    "model-fp16.onnx": "fp16",
    "model-bf16.onnx": "bf16",
    "model-int8.onnx": "int8",
    "model-int8-cpu.onnx": "int8-cpu",
    "model-fp8.onnx": "fp8",
}
RESULTS = Path("benchmarks/results/quantisation.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("camvid-work"))
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--page", type=Path, default=Path("docs/results/quantisation.md"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    splits = camvid.make_splits(arguments.data, arguments.work / "frames")
    source = arguments.work / "source-0"
    camvid.train(source, splits["day_train"], 0)
    document = {
        "machine": machine(),
        "versions": library_versions(),
        "artefacts": exported(source, splits),
        "bench": timed(source, splits, arguments.queries),
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1).replace(f"{arguments.work.resolve()}/", "")
    RESULTS.write_text(text.replace(f"{arguments.work}/", "") + "\n")
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(render(document))
    print(arguments.page.read_text())


def exported(source: Path, splits: Mapping[str, Path]) -> list[dict[str, Any]]:
    """A row for each precision of a copy of ``source``; kept in the work folder."""
    bundle = source.with_name(f"{source.name}-precisions")
    kept = bundle.with_suffix(".json")
    if kept.exists():
        found: list[dict[str, Any]] = json.loads(kept.read_text())
        return found
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(source, bundle)
    held = splits["day_held"]
    rows = camvid.roadshift(
        "export",
        bundle,
        *("--precision", PRECISIONS),
        *("--frames", held / "images", "--labels", held / "labels"),
        *("--calibration", splits["day_train"] / "images"),
        *("--max-miou-drop", 1),
    )["artefacts"]
    assert isinstance(rows, list)
    kept.write_text(json.dumps(rows))
    return rows


def timed(source: Path, splits: Mapping[str, Path], queries: int) -> list[dict[str, Any]]:
    """Rows of `bench` for the same weights at 1024x512, the fastest form of each precision."""
    bundle = source.with_name(f"{source.name}-1024x512")
    if not (bundle / "model.onnx").exists():
        camvid.roadshift(
            "import",
            source / "model.safetensors",
            *("--network", "fast_scnn", *camvid.LABELS),
            *("--input-size", "1024x512", "--out", bundle, "--overwrite"),
        )
        camvid.roadshift(
            "export",
            bundle,
            *("--precision", "fp32,int8,int8-cpu"),
            *("--frames", splits["day_held"] / "images"),
            *("--calibration", splits["day_train"] / "images"),
        )
    words = ("--frames", splits["day_held"] / "images", "--queries", queries, "--rounds", 8)
    document: Any = camvid.roadshift("bench", bundle, *words)
    rows = document if isinstance(document, list) else document["rows"]
    return [row for row in rows if row["backend"] == "onnxruntime" and row["error"] is None]


# --- page -----------------------------------------------------------------------------------------


def render(document: Mapping[str, Any]) -> str:
    """The page, with its hand-written paragraphs from ``quantisation_page.md`` beside it."""
    page = Path(__file__).with_name("quantisation_page.md").read_text()
    rows = {TITLES[row["path"]]: row for row in document["artefacts"]}
    int8 = rows["int8"]["quantisation"]
    values = {
        "artefacts": artefact_table(rows),
        "methods": method_table(rows),
        "sweep": sweep_table(rows),
        "times": time_table(document["bench"]),
        "calibrated": str(int8["calibration"]["range_frames"]),
        "chosen": str(int8["calibration"]["choice_frames"]),
        "compared": str(rows["int8"]["frames"]),
        "swept": str(int8["sweep"]["frames"]),
        "onnxruntime": document["versions"]["onnxruntime"],
        "machine": machine_line(),
    }
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", value)
    return page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def artefact_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Agreement, mIoU and size of each precision, and the layers that it spares."""
    found = []
    for title, row in rows.items():
        drop = row.get("miou_fp32", row["miou"]) - row["miou"]
        spared = row.get("quantisation", {}).get("spared")
        found.append(
            [
                title,
                f"{row['label_agreement']:.2f} %",
                f"{row['miou']:.2f}",
                f"{drop:+.2f}" if title != "fp32" else "",
                f"{row['bytes'] / 2**20:.1f}",
                "" if spared is None else ", ".join(f"`{name}`" for name in spared) or "none",
            ]
        )
    head = ["precision", "label agreement", "mIoU", "mIoU lost", "MiB", "layers left in fp32"]
    return table(head, found)


def method_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Label agreement and mIoU of each calibration method, before any layer is spared."""
    found = []
    for title, row in rows.items():
        if "quantisation" not in row:
            continue
        for tried in row["quantisation"]["methods"]:
            chosen = tried["method"] == row["quantisation"]["method"]
            mark = "**" if chosen else ""
            cells = [tried["method"], f"{tried['label_agreement']:.2f} %", f"{tried['miou']:.2f}"]
            found.append([title, *(f"{mark}{cell}{mark}" for cell in cells)])
    return table(["precision", "method", "label agreement", "mIoU"], found)


def sweep_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Label agreement with one layer quantised, the most sensitive for int8 first."""
    swept = {
        title: {r["layer"]: r["label_agreement"] for r in row["quantisation"]["sweep"]["layers"]}
        for title, row in rows.items()
        if "quantisation" in row and title != "int8-cpu"
    }
    found = [
        [f"`{layer}`", *(f"{by_layer[layer]:.3f} %" for by_layer in swept.values())]
        for layer in swept["int8"]
    ]
    return table(["layer", *swept], found)


def time_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """p50 of each artefact over that of fp32, and where its labels are made."""
    base = next(row for row in rows if row["artefact"] == "model.onnx")["p50_ms"]
    found = [
        [TITLES[row["artefact"]], f"{row['p50_ms'] / base:.2f}", f"{row['cov']:.1f} %"]
        for row in rows
    ]
    return table(["precision", "p50 over fp32's", "coefficient of variation"], found)


if __name__ == "__main__":
    main()
