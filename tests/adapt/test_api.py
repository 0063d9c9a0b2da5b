"""The functions of `roadshift` that learn: what they take, what they refuse, what they give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import roadshift
from roadshift import IapcConfig, LdConfig, ProgressUpdate, SupervisedConfig, TrainingConfig
from roadshift.adapt import RunOptions
from roadshift.adapt.methods import resolve_config
from roadshift.adapt.models.importing import save_weights
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.workflows import adaptation
from roadshift.runtime.bundle import Bundle
from safetensors.torch import load_file

SMALL: dict[str, Any] = {
    "tone": "none",
    "warm_start": "target",
    "bn_batch_size": 3,
    "iapc": {"pseudo_labels": "online"},
}
TWO_STEPS = TrainingConfig(steps=2, batch_size=2, amp="off")


@pytest.fixture
def labels(frames_dir: Path, tmp_path: Path) -> Path:
    """Label maps of `frames_dir`'s images."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for i, path in enumerate(sorted(frames_dir.iterdir())):
        assert cv2.imwrite(str(folder / path.name), np.full((32, 48), i % 4, np.uint8))
    return folder


def settings_of(bundle: Bundle) -> dict[str, Any]:
    return dict(bundle.manifest.provenance.configuration)


# --- what they give ------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_adapting_is_what_the_command_line_does_with_the_same_settings(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    seen: list[ProgressUpdate] = []
    ours = roadshift.adapt_bundle(
        source,
        frames_dir,
        out=tmp_path / "ours",
        method="iapc",
        settings=IapcConfig(weight_pe=0.5),
        training=TWO_STEPS,
        config=SMALL,
        seed=3,
        gate=False,
        device="cpu",
        on_progress=seen.append,
    )
    assignments = ["tone=none", "warm_start=target", "bn_batch_size=3", "training.amp=off"]
    assignments += ["iapc.pseudo_labels=online", "iapc.weight_pe=0.5", "training.steps=2"]
    config = resolve_config("iapc", assignments=[*assignments, "training.batch_size=2"], seed=3)
    job = RunOptions(tmp_path / "theirs", device="cpu")
    theirs = adaptation.adapt_bundle(source, [frames_dir], config, job)
    left, right = settings_of(ours), settings_of(theirs)
    assert left.pop("outcome")["steps"] == right.pop("outcome")["steps"] == 2
    assert left == right
    one, other = (load_file(b.path / "model.safetensors") for b in (ours, theirs))
    assert all((one[name] == other[name]).all() for name in one)
    steps = [update for update in seen if update.unit == "steps"]
    assert [(s.task, s.done, s.total) for s in steps] == [("iapc", 1, 2), ("iapc", 2, 2)]
    assert steps[0].losses.keys() >= {"total"}
    assert "frames" in {update.unit for update in seen}


def test_typed_settings_lie_over_a_file_and_leave_the_rest_to_the_variant(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'method = "bn_stats"\ntone = "none"\n[training]\nsteps = 9\nlr = 0.5\nbatch_size = 2\n'
    )
    bundle = roadshift.adapt_bundle(
        source,
        str(frames_dir),
        out=str(tmp_path / "out"),
        training=TrainingConfig(lr=0.25),
        config=file,
        gate=False,
        device="cpu",
    )
    made = settings_of(bundle)
    assert (made["method"], made["tone"]) == ("bn_stats", "none")
    assert (made["training"]["steps"], made["training"]["lr"]) == (9, 0.25)
    assert made["training"]["momentum"] == RunConfig(method="x").training.momentum


def test_a_variant_is_a_field_of_the_settings() -> None:
    from roadshift.adapt.arguments import resolved_settings

    chosen = resolved_settings("iapc", IapcConfig(variant="paper", weight_pe=0.5), None, None, None)
    paper = resolve_config("iapc", assignments=["iapc.variant=paper", "iapc.weight_pe=0.5"])
    assert chosen == paper
    assert resolved_settings("iapc", None, None, None, None) == resolve_config("iapc")


def test_training_and_importing_take_typed_values(
    source: Bundle,
    frames_dir: Path,
    labels: Path,
    tmp_path: Path,
    network: Callable[..., SegmentationNetwork],
) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(save_weights(network(norm=False)))
    how: dict[str, Any] = {
        "network": "tiny_network:build",
        "arguments": {"norm": False},
        "label_space": source.label_space,
        "input_size": (48, 32),
    }
    imported = roadshift.import_bundle(
        weights, **how, colour="bgr", mean=(1, 2, 3), std=[4, 5, 6.5], out=tmp_path / "imported"
    )
    seen = imported.manifest.input
    assert (seen.width, seen.height, seen.colour) == (48, 32, "bgr")
    assert (seen.mean, seen.std) == ((1, 2, 3), (4, 5, 6.5))
    space = tmp_path / "four.json"
    space.write_text(json.dumps(source.label_space.to_dict()))
    trained = roadshift.train_bundle(
        frames_dir,
        labels,
        **how | {"label_space": space},
        initial=weights,
        settings=SupervisedConfig(),
        training=TWO_STEPS,
        out=tmp_path / "trained",
        device="cpu",
    )
    assert trained.manifest.network.arguments == {"norm": False}
    assert trained.label_space == source.label_space
    before, after = (load_file(b.path / "model.safetensors") for b in (imported, trained))
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)


def test_a_run_that_was_stopped_goes_on(source: Bundle, frames_dir: Path, tmp_path: Path) -> None:
    done: list[ProgressUpdate] = []
    how: dict[str, Any] = {"method": "entmin", "training": TWO_STEPS, "config": {"tone": "none"}}
    how |= {"out": tmp_path / "out", "gate": False, "device": "cpu"}
    with pytest.raises(roadshift.RunInterrupted, match="resume=True"):
        roadshift.adapt_bundle(
            source,
            frames_dir,
            **how,
            on_progress=done.append,
            stop_requested=lambda: any(update.losses for update in done),
        )
    assert not (tmp_path / "out").exists()
    with pytest.raises(roadshift.OutputError, match=r"resume=True.*overwrite=True"):
        roadshift.adapt_bundle(source, frames_dir, **how)
    bundle = roadshift.adapt_bundle(source, frames_dir, **how, resume=True)
    assert settings_of(bundle)["outcome"]["steps"] == 2


def test_judging_opens_folders_and_reports(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    adapted = roadshift.adapt_bundle(
        source, frames_dir, method="bn_stats", out=tmp_path / "out", gate=False, device="cpu"
    )
    seen: list[ProgressUpdate] = []
    verdict = roadshift.judge_bundles(
        source, adapted, [frames_dir], max_frames=3, device="cpu", on_progress=seen.append
    )
    assert verdict.frames == 3
    assert (seen[-1].task, seen[-1].done, seen[-1].total) == ("judge", 3, 3)
    with pytest.raises(roadshift.RunInterrupted, match="nothing was judged"):
        roadshift.judge_bundles(source, adapted, frames_dir, stop_requested=lambda: True)


# --- what they refuse ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "argument", "words"),
    [
        ({"frames": 3}, "frames", "give a path or a list of paths, not 3"),
        ({"frames": [3]}, "frames", "give a path or a list of paths"),
        ({"frames": []}, "frames", "is empty"),
        ({"older": "nowhere", "gate": False}, "older", "nothing is judged with gate=False"),
        ({"time_budget_s": 0}, "time_budget_s", "0 is no finite number above 0"),
        ({"time_budget_s": "20m"}, "time_budget_s", "'20m' is no finite number"),
        ({"memory_budget_mib": float("nan")}, "memory_budget_mib", "nan is no finite"),
        ({"checkpoint_every_s": -1}, "checkpoint_every_s", "-1 is no finite"),
        ({"max_frames": 0}, "max_frames", "0 is no whole number from 1 up"),
        ({"max_frames": 2.5}, "max_frames", "2.5 is no whole number"),
        ({"gate": "maybe"}, "gate", "'maybe' is neither True nor False"),
        ({"overwrite": "no"}, "overwrite", "'no' is neither True nor False"),
        ({"resume": 1}, "resume", "1 is neither True nor False"),
        ({"seed": -1}, "seed", "-1 is no whole number from 0 up"),
        ({"seed": 2**32}, "seed", "is not below 4294967296"),
        ({"bundle": None}, "bundle", "None is no path"),
        ({"out": None}, "out", "None is no path"),
        ({"method": "iapc", "settings": LdConfig()}, "settings", "takes IapcConfig, not LdConfig"),
        ({"settings": {"weight_pe": 1}}, "settings", "takes NightshiftConfig, not dict"),
        ({"training": {"steps": 1}}, "training", "takes TrainingConfig, not dict"),
        ({"config": 3}, "config", "is no TOML file and no mapping"),
        ({"config": {"method": "ld"}, "method": "iapc"}, "config", "not written for method='iapc'"),
        ({"method": "atp_black_box"}, "method", "answers of a black box"),
        ({"method": "supervised"}, "method", "unknown to adapt"),
        ({"config": {"tune": "none"}}, None, "unknown key 'tune'"),
        ({"device": "tpu"}, "device", "use auto, cpu or cuda"),
    ],
)
def test_an_error_of_adapting_names_the_argument(
    changes: dict[str, Any],
    argument: str | None,
    words: str,
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
) -> None:
    given = {"bundle": source, "frames": frames_dir, "out": tmp_path / "out"} | changes
    with pytest.raises(roadshift.ConfigError, match=words) as caught:
        roadshift.adapt_bundle(**given)
    assert caught.value.argument == argument
    assert argument is None or str(caught.value).startswith(argument)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "argument", "words"),
    [
        ({"input_size": "48x32"}, "input_size", r"no \(width, height\) of at least 32"),
        ({"input_size": (48, 31)}, "input_size", "at least 32"),
        ({"input_size": (48.0, 32)}, "input_size", "at least 32"),
        ({"mean": (1, 2)}, "mean", "is not three numbers"),
        ({"mean": "1,2,3"}, "mean", "is not three numbers"),
        ({"std": (1, 2, 0)}, "std", "is not three positive numbers"),
        ({"colour": "grey"}, "colour", "neither 'rgb' nor 'bgr'"),
        ({"arguments": {"norm": object()}}, "arguments", "norm"),
        ({"arguments": [1]}, "arguments", r"\[1\] is no mapping of names"),
        ({"network": ""}, "network", "at least 1 character"),
        ({"overwrite": "no"}, "overwrite", "neither True nor False"),
        ({"key": 3}, "key", "3 is no name of a key"),
        ({"weights": None}, "weights", "None is no path"),
        ({"label_space": 3}, "label_space", "3 is no path"),
        ({"out": []}, "out", "is no path"),
    ],
)
def test_an_error_of_importing_names_the_argument(
    changes: dict[str, Any], argument: str, words: str, source: Bundle, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"network": "tiny_network:build", "label_space": source.label_space}
    given |= {"input_size": (48, 32), "out": tmp_path / "out"}
    given |= {"weights": source.path / "model.safetensors"} | changes
    with pytest.raises(roadshift.ConfigError, match=words) as caught:
        roadshift.import_bundle(**given)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("function", "argument", "value"),
    [
        ("judge_bundles", "incumbent", None),
        ("judge_bundles", "candidate", 3),
        ("judge_bundles", "max_frames", None),
        ("explain", "device", 3),
        ("judge_bundles", "max_frames", 2.5),
        ("explain", "bundle", []),
        ("explain", "source", 3),
        ("explain", "out", None),
        ("explain", "max_frames", "8"),
        ("explain", "overwrite", None),
        ("explain", "seed", -1),
        ("explain", "seed", 2**32),
        ("select_frames", "bundle", None),
        ("select_frames", "out", {}),
        ("select_frames", "count", 2.5),
        ("select_frames", "overwrite", "no"),
        ("select_frames", "seed", "0"),
        ("select_frames", "tool", ["coco"]),
        ("train_bundle", "images", None),
        ("train_bundle", "labels", 3),
        ("train_bundle", "initial", []),
        ("train_bundle", "out", None),
        ("train_bundle", "network", ""),
        ("train_bundle", "resume", "no"),
        ("train_bundle", "seed", 1.5),
        ("adapt_black_box", "initial", 3),
        ("adapt_black_box", "out", None),
        ("adapt_black_box", "max_frames", 0.5),
        ("adapt_black_box", "overwrite", "no"),
    ],
)
def test_an_error_of_the_others_names_the_argument(
    function: str, argument: str, value: Any, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    usual: dict[str, dict[str, Any]] = {
        "judge_bundles": {"incumbent": source, "candidate": source, "frames": frames_dir},
        "explain": {"bundle": source, "frames": frames_dir, "out": tmp_path / "out"},
        "select_frames": {"bundle": source, "frames": frames_dir, "out": tmp_path / "out"}
        | {"tool": "coco"},
        "train_bundle": {"images": frames_dir, "labels": frames_dir, "out": tmp_path / "out"}
        | {"network": "fast_scnn", "label_space": source.label_space},
        "adapt_black_box": {"black_box": str, "frames": frames_dir, "out": tmp_path / "out"}
        | {"student": "fast_scnn", "label_space": source.label_space},
    }
    with pytest.raises(roadshift.ConfigError) as caught:
        getattr(roadshift, function)(**usual[function] | {argument: value})
    assert caught.value.argument == argument
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "argument", "value"),
    [
        ("adapt_bundle", "bundle", "nowhere"),
        ("adapt_bundle", "frames", "nowhere"),
        ("adapt_bundle", "older", "nowhere"),
        ("adapt_bundle", "out", "nowhere/out"),
        ("adapt_bundle", "method", "iapd"),
        ("adapt_bundle", "config", {"method": "iapd"}),
        ("adapt_black_box", "frames", "nowhere"),
        ("adapt_black_box", "label_space", "cityscapes"),
        ("adapt_black_box", "method", "iapd"),
        ("adapt_black_box", "out", "nowhere/out"),
        ("adapt_black_box", "student", "fast_scn"),
        ("adapt_black_box", "student", "nowhere:build"),
        ("explain", "frames", "nowhere"),
        ("explain", "out", "nowhere/out"),
        ("explain", "source", "nowhere"),
        ("export_bundle", "calibration", "nowhere"),
        ("export_bundle", "frames", "nowhere"),
        ("export_bundle", "labels", "nowhere"),
        ("export_bundle", "refit", "nowhere"),
        ("import_bundle", "label_space", "cityscapes"),
        ("import_bundle", "network", "fast_scn"),
        ("import_bundle", "out", "nowhere/out"),
        ("judge_bundles", "candidate", "nowhere"),
        ("judge_bundles", "frames", "nowhere"),
        ("judge_bundles", "older", "nowhere"),
        ("select_frames", "frames", "nowhere"),
        ("select_frames", "out", "nowhere/out"),
        ("train_bundle", "images", "nowhere"),
        ("train_bundle", "label_space", "cityscapes"),
        ("train_bundle", "labels", "nowhere"),
        ("train_bundle", "network", "fast_scn"),
        ("train_bundle", "out", "nowhere/out"),
    ],
)
def test_an_error_of_what_is_not_there_names_the_argument(
    function: str,
    argument: str,
    value: Any,
    source: Bundle,
    frames_dir: Path,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(source.path, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["input"]["mean"] = [1, 2, 3]
    (other / "manifest.json").write_text(json.dumps(manifest))
    usual: dict[str, dict[str, Any]] = {
        "adapt_bundle": {"bundle": source, "frames": frames_dir, "out": "out"},
        "adapt_black_box": {"black_box": _half, "frames": frames_dir, "out": "out"}
        | {"student": "fast_scnn", "label_space": source.label_space},
        "explain": {"bundle": source, "frames": frames_dir, "out": "out"},
        "export_bundle": {"bundle": source, "frames": frames_dir}
        | ({"precisions": ("int8",)} if argument == "calibration" else {}),
        "import_bundle": {"weights": source.path / "model.safetensors", "out": "out"}
        | {"network": "tiny_network:build", "label_space": source.label_space},
        "judge_bundles": {"incumbent": source, "candidate": other, "frames": frames_dir},
        "select_frames": {"bundle": source, "frames": frames_dir, "out": "out", "tool": "coco"},
        "train_bundle": {"images": frames_dir, "labels": labels, "out": "out"}
        | {"network": "fast_scnn", "label_space": source.label_space, "training": TWO_STEPS},
    }
    with pytest.raises(roadshift.RoadshiftError) as caught:
        getattr(roadshift, function)(**usual[function] | {argument: value})
    assert caught.value.argument == argument
    assert not (tmp_path / "out").exists()


def _half(image: np.ndarray) -> np.ndarray:
    return np.zeros(image.shape[:2], np.uint8)


@pytest.mark.parametrize("function", ["adapt_bundle", "train_bundle", "adapt_black_box"])
def test_an_output_without_a_name_is_refused_before_any_work(
    function: str,
    source: Bundle,
    frames_dir: Path,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    given: dict[str, dict[str, Any]] = {
        "adapt_bundle": {"bundle": source, "frames": frames_dir},
        "train_bundle": {"images": frames_dir, "labels": labels}
        | {"network": "tiny_network:build", "label_space": source.label_space}
        | {"input_size": (48, 32)},
        "adapt_black_box": {"black_box": lambda image: image[..., 0], "frames": frames_dir}
        | {"student": "tiny_network:build", "label_space": source.label_space}
        | {"input_size": (48, 32)},
    }
    with pytest.raises(roadshift.OutputError, match=r"^\.: has no name of its own"):
        getattr(roadshift, function)(**given[function], out=".")
    assert not list((tmp_path / "here").iterdir())
