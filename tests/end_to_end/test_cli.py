"""The loop through the command line: what each command prints, and what its JSON holds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from roadshift.adapt import METHODS, NETWORKS
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.frames import open_frames
from roadshift.runtime.labels import LABEL_SPACES, label_space

Command = Callable[..., Any]

# DESIGN: the keys that a program may rely on.
EVAL_KEYS = {"miou", "iou", "pixel_accuracy", "frames", "ci95", "engine", "images"}
BENCH_KEYS = {
    *("artefact", "backend", "precision", "device", "p50_ms", "p90_ms", "p99_ms", "fps", "cov"),
    *("peak_mib", "label_agreement", "miou", "stages_ms"),
}
QUICK = ("--queries", 3, "--warmup", 1, "--rounds", 1)


# ---- train, adapt, export ----------------------------------------------------------------------


def test_training_writes_a_source_bundle_and_shows_its_losses(world: Any) -> None:
    bundle = open_bundle(world.source)
    origin = bundle.manifest.provenance
    assert (origin.method, origin.frames, origin.parent) == ("train", 4, None)
    assert bundle.manifest.network.name == "fast_scnn"
    assert (bundle.manifest.input.width, bundle.manifest.input.height) == (96, 64)
    first, second = world.train.out.splitlines()[:2]
    assert first == f"The bundle is {world.source} (train)."
    assert second.startswith("3 steps on 4 frames in ")
    assert "step: 3/3 steps supervised" in world.train.err
    assert "cross_entropy" in world.train.err


def test_adapting_says_in_json_what_it_made_and_on_stderr_what_it_does(world: Any) -> None:
    said = world.adapt.json
    bundle = open_bundle(world.adapted)
    assert said["bundle"] == str(world.adapted)
    assert (said["method"], said["frames"], said["seed"]) == ("nightshift", 4, 0)
    assert said["outcome"]["steps"] == 2
    assert bundle.manifest.provenance.parent == open_bundle(world.source).hash
    history = [json.loads(x) for x in (world.adapted / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == [1, 2]
    assert "warm start" in world.adapt.err
    assert "step: 2/2 steps nightshift" in world.adapt.err


def test_a_finished_run_leaves_nothing_beside_its_bundle(world: Any) -> None:
    names = {path.name for path in world.source.parent.iterdir()}
    assert names == {"day", "dusk", "source", "adapted"}


def test_exporting_says_in_json_how_alike_the_models_are(world: Any) -> None:
    said = world.export.json
    bundle = open_bundle(world.adapted)
    (row,) = said["artefacts"]
    artefact = bundle.artefact(kind="onnx")
    assert artefact is not None
    assert (said["bundle"], said["hash"]) == (str(world.adapted), bundle.hash)
    assert (row["path"], row["format"], row["precision"]) == ("model.onnx", "onnx", "fp32")
    assert row["bytes"] == (world.adapted / "model.onnx").stat().st_size
    assert row["opset"] == artefact.details["opset"] >= 17
    assert row["label_agreement"] >= 99.9
    assert row["max_difference"] < 1e-3
    assert (row["frames"], row["compared_on"]) == (4, "built-in scenes")


# ---- eval, run, bench --------------------------------------------------------------------------


def test_torch_and_onnx_measure_nearly_the_same(world: Any, command: Command) -> None:
    records = {
        backend: command("eval", world.adapted, *world.labelled, "--backend", backend, "--json")
        for backend in ("torch", "onnxruntime")
    }
    for backend, done in records.items():
        assert set(done.json) == EVAL_KEYS
        assert done.json["engine"] == backend
        assert done.json["frames"] == 4
        assert list(done.json["iou"]) == list(label_space("cityscapes19").classes)
        assert f"{backend} " in done.err  # which engine, and why
    onnx, torch = records["onnxruntime"].json, records["torch"].json
    assert onnx["miou"] == pytest.approx(torch["miou"], abs=0.1)
    assert onnx["pixel_accuracy"] == pytest.approx(torch["pixel_accuracy"], abs=0.1)


def test_eval_takes_the_exported_model_and_torch_where_there_is_none(
    world: Any, command: Command
) -> None:
    assert command("eval", world.adapted, *world.labelled, "--json").json["engine"] == "onnxruntime"
    assert command("eval", world.source, *world.labelled, "--json").json["engine"] == "torch"
    named = (*world.labelled, "--artefact", "model.safetensors", "--json")
    assert command("eval", world.adapted, *named).json["engine"] == "torch"


def test_eval_prints_a_row_for_each_class(world: Any, command: Command) -> None:
    done = command("eval", world.adapted, *world.labelled)
    lines = done.out.splitlines()
    firsts = [line.split("  ")[0] for line in lines]
    for name in (*label_space("cityscapes19").classes, "mIoU", "pixel accuracy", "frames"):
        assert name in firsts


def test_eval_reads_labels_in_another_encoding_of_the_same_classes(
    world: Any, command: Command, tmp_path: Path
) -> None:
    """A user's label space with the same classes, whose void is 200."""
    own = {**label_space("cityscapes19").to_dict(), "name": "own", "void_ids": [200]}
    (tmp_path / "own.json").write_text(json.dumps(own))
    (tmp_path / "labels").mkdir()
    for path in (world.dusk / "labels").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[:8] = 200
        assert cv2.imwrite(str(tmp_path / "labels" / path.name), labels)
    images = ("--images", world.dusk / "images", "--labels", tmp_path / "labels")
    done = command("eval", world.adapted, *images, "--label-space", tmp_path / "own.json", "--json")
    assert done.code == 0
    assert done.json["frames"] == 4


def test_run_writes_a_label_map_and_an_overlay_for_each_frame(
    world: Any, command: Command, tmp_path: Path
) -> None:
    done = command(
        "run",
        world.adapted,
        world.dusk / "images",
        "--out",
        tmp_path / "out",
        "--overlay",
        "--json",
    )
    said = done.json
    names = sorted(path.stem for path in (world.dusk / "images").iterdir())
    assert sorted(path.stem for path in (tmp_path / "out/labels").iterdir()) == names
    assert sorted(path.stem for path in (tmp_path / "out/overlays").iterdir()) == names
    first = cv2.imread(str(tmp_path / "out/labels" / f"{names[0]}.png"), cv2.IMREAD_UNCHANGED)
    assert (first.shape, first.dtype) == ((64, 96), np.uint8)
    assert (said["frames"], said["skipped"]) == (4, [])
    assert said["out"] == str(tmp_path / "out")
    assert said["engine"]["artefact"] == "model.onnx"
    assert "run: 4/4 frames" in done.err


def test_run_writes_a_video_and_reads_it_again(
    world: Any, command: Command, tmp_path: Path
) -> None:
    clip, again = tmp_path / "clip.mp4", tmp_path / "again.mp4"
    done = command("run", world.adapted, world.dusk / "images", "--out", clip, "--overlay")
    assert done.out.startswith("4 frames in ")
    assert " 4 read, 0 dropped, 0 skipped; " in done.out
    assert done.out.endswith(f"; to {clip}.\n")
    assert command("run", world.adapted, clip, "--out", again).code == 0
    assert sum(1 for _ in open_frames(again)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.mp4", "clip.mp4"]


def test_bench_gives_a_row_for_each_artefact(world: Any, command: Command) -> None:
    frames = ("--frames", world.dusk / "images", "--labels", world.dusk / "labels")
    both = ("--backends", "onnxruntime,torch")  # OpenVINO's rows are there where it is installed
    done = command("bench", world.adapted, *frames, *both, *QUICK, "--json")
    measured = [row for row in done.json if row["error"] is None]
    assert [row["artefact"] for row in measured] == ["model.onnx", "model.safetensors"]
    for row in measured:
        assert set(row) >= BENCH_KEYS
        assert row["bundle"] == str(world.adapted)
        assert set(row["stages_ms"]) == {"decode", "preprocess", "infer", "postprocess"}
        assert row["label_agreement"] >= 99.9
    onnx, torch = measured
    assert onnx["miou"] == pytest.approx(torch["miou"], abs=0.1)


def test_what_a_bench_cannot_run_is_said_with_the_reason(world: Any, command: Command) -> None:
    chosen = ("--backends", "onnxruntime,torch-fp16")
    done = command("bench", world.adapted, *QUICK, *chosen, "--device", "cpu", "--json")
    assert [row["backend"] for row in done.json] == ["onnxruntime"]
    done = command("bench", world.source, "--backends", "torch,onnxruntime", *QUICK)
    assert f"left out, onnxruntime cpu: {world.source} holds no artefact for it." in done.out


def test_a_bench_against_a_baseline_says_what_is_worse_by_its_exit_code(
    world: Any, command: Command, tmp_path: Path
) -> None:
    base = tmp_path / "baseline.json"
    run = ("bench", world.adapted, "--backends", "onnxruntime", "--device", "cpu", *QUICK)
    assert command(*run, "--save", base, "--plots", tmp_path / "plots").code == 0
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"latency.svg", "accuracy.svg"}
    loose = ("--tolerance", 1e9)
    same = command(*run, "--compare", base, *loose)
    assert (same.code, "Against the baseline" in same.out) == (0, True)

    document = json.loads(base.read_text())
    document["rows"][0]["p50_ms"] = 1e-9
    base.write_text(json.dumps(document))
    worse = command(*run, "--compare", base, *loose, "--json")
    assert worse.code == 3
    assert [row["backend"] for row in worse.json if row["error"] is None] == ["onnxruntime"]
    assert worse.err.splitlines()[-1].startswith(f"error: worse than {base}: p50_ms of model.onnx")

    paced = command(*run, "--camera", 1000, "--compare", base)
    assert (paced.code, paced.out) == (1, "")
    assert "measured in another way (closed loop; this run is camera at 1000 fps)" in paced.err
    nowhere = command(*run, "--save", tmp_path / "none/baseline.json")
    assert (nowhere.code, nowhere.out) == (1, "")  # before anything ran


def test_bench_of_several_bundles_says_which_row_is_whose(world: Any, command: Command) -> None:
    both = ("--backends", "onnxruntime,torch")
    done = command("bench", world.source, world.adapted, *both, *QUICK, "--json")
    measured = [row for row in done.json if row["error"] is None]
    assert [(Path(row["bundle"]).name, row["backend"]) for row in measured] == [
        ("source", "torch"),
        ("adapted", "onnxruntime"),
        ("adapted", "torch"),
    ]


# ---- looking at things -------------------------------------------------------------------------


def test_info_shows_the_manifest_and_its_hash(world: Any, command: Command) -> None:
    bundle = open_bundle(world.adapted)
    said = command("info", world.adapted, "--json").json
    assert said["hash"] == bundle.hash
    assert said["path"] == str(world.adapted)
    manifest = {key: value for key, value in said.items() if key not in ("hash", "path")}
    assert manifest == bundle.manifest.model_dump(mode="json")
    text = command("info", world.adapted).out
    for part in (bundle.hash, "fast_scnn", "cityscapes19, 19 classes", "96x64 rgb", "model.onnx"):
        assert part in text


@pytest.mark.parametrize(
    ("listing", "names"),
    [
        ("networks", list(NETWORKS)),
        ("methods", list(METHODS)),
        ("label-spaces", list(LABEL_SPACES)),
    ],
)
def test_a_listing_names_everything_there_is(
    command: Command, listing: str, names: list[str]
) -> None:
    assert [row["name"] for row in command(listing, "--json").json] == names
    text = command(listing).out
    assert all(name in text for name in names)


def test_listings_hold_lists_where_there_are_several(command: Command) -> None:
    spaces = {row["name"]: row["names"] for row in command("label-spaces", "--json").json}
    assert spaces["camvid11"] == list(label_space("camvid11").classes)
    methods = {row["name"]: row["variants"] for row in command("methods", "--json").json}
    assert "paper" in methods["iapc"]


def test_doctor_gives_one_json_list_or_a_table(command: Command) -> None:
    checks = command("doctor", "--json").json
    assert all(set(row) == {"check", "ok", "found", "advice"} for row in checks)
    text = command("doctor").out
    assert all(row["check"] in text for row in checks)


def test_the_version_is_the_packages(command: Command) -> None:
    from roadshift import __version__

    assert command("--version").out == f"roadshift {__version__}\n"


# ---- as a process ------------------------------------------------------------------------------


def test_as_a_process_an_error_is_one_line_on_stderr_and_exit_code_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "roadshift.cli", "info", str(tmp_path / "nope")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: {tmp_path / 'nope'}: does not exist; give the folder that holds manifest.json.\n"
    )


def test_help_loads_neither_the_libraries_of_the_runtime_nor_torch() -> None:
    code = (
        "import sys\nfrom roadshift import cli\nsys.argv = ['roadshift', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print({'torch', 'numpy', 'cv2', 'onnxruntime', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    learning = (
        "demo",
        "train",
        "import",
        "adapt",
        "judge",
        "compare",
        "reproduce",
        "export",
        "explain",
    )
    for name in (*learning, "eval", "run", "bench", "info"):
        assert f" {name} " in done.stdout
