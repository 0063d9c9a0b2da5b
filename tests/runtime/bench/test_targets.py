"""Rows of a bench: each artefact on each backend and device, and why others have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from roadshift.runtime.bench import targets
from roadshift.runtime.bench.targets import bench_targets, choose_backends, not_by_default
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import backend_names, find_backend, registry
from roadshift.runtime.errors import ConfigError


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle], tiny: Any) -> Bundle:
    """Two ONNX models and weights; torch's backends are there."""
    models = {f"{name}.onnx": tiny.onnx(32, 16, tiny.weight()) for name in ("model", "model-int8")}
    precisions = {"model-int8.onnx": "int8"}
    return make_bundle(models=models, precisions=precisions, weights=b"x")


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "driver_problem", lambda: None)


@pytest.fixture(autouse=True)
def with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _: object())


def chosen(bundle: Bundle, backends: str, device: str) -> list[tuple[str, str, str]]:
    found, _ = bench_targets(bundle, choose_backends(backends.split(",")), device)
    return [(c.artefact.path, c.backend, c.device) for c in found]


@pytest.mark.usefixtures("with_gpu")
def test_every_artefact_runs_on_every_backend_and_device_that_takes_it(bundle: Bundle) -> None:
    assert chosen(bundle, "onnxruntime,torch,torch-fp16", "auto") == [
        ("model.onnx", "onnxruntime", "cpu"),
        ("model-int8.onnx", "onnxruntime", "cpu"),
        ("model.onnx", "onnxruntime", "cuda"),
        ("model-int8.onnx", "onnxruntime", "cuda"),
        ("model.safetensors", "torch", "cpu"),
        ("model.safetensors", "torch", "cuda"),
        ("model.safetensors", "torch-fp16", "cuda"),
    ]
    assert chosen(bundle, "torch-fp16", "cpu") == []
    assert {device for _, _, device in chosen(bundle, "all", "cpu")} == {"cpu"}


def test_without_a_gpu_its_rows_are_left_out_with_the_reason(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "driver_problem", lambda: "no CUDA driver found")
    found, left_out = bench_targets(bundle, ("onnxruntime", "torch-fp16"), "auto")
    assert {c.device for c in found} == {"cpu"}
    assert [(row["backend"], row["device"], row["error"]) for row in left_out] == [
        ("onnxruntime", "cuda", "no CUDA driver found."),
        ("torch-fp16", "cuda", "no CUDA driver found."),
    ]


def test_a_backend_that_is_not_installed_or_has_no_artefact_says_so(
    bundle: Bundle, make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, left_out = bench_targets(make_bundle("bare"), ("torch",), "cpu")
    assert left_out[0]["error"].endswith("bare holds no artefact for it.")
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    _, left_out = bench_targets(bundle, ("torch",), "cpu")
    assert left_out[0]["error"] == "torch is not installed; pip install 'roadshift[adapt]'."


@pytest.mark.usefixtures("with_gpu")
def test_what_auto_leaves_out_says_how_to_ask_for_it(bundle: Bundle) -> None:
    rows = not_by_default(bundle, "auto")
    assert [(row["backend"], row["device"]) for row in rows] == [
        ("onnxruntime-tensorrt", "cuda"),
        ("torch-compile", "cpu"),
        ("torch-compile", "cuda"),
    ]
    assert {row["error"] for row in rows} == {
        "it builds for minutes; ask for it by its name.",
        "it compiles for minutes; ask for it by its name.",
    }
    assert [row["device"] for row in not_by_default(bundle, "cpu")] == ["cpu"]


def test_auto_is_all_but_what_compiles_for_minutes() -> None:
    assert set(choose_backends("all")) - set(choose_backends("auto")) == {
        name for name in backend_names() if find_backend(name).slow
    }
    assert choose_backends(["torch-compile", "onnxruntime"]) == ("torch-compile", "onnxruntime")
    assert choose_backends("onnxruntime") == ("onnxruntime",)
    for wrong in ("", "onnx", "torch,none"):
        with pytest.raises(ConfigError, match=f"'{wrong}': use auto, all, or of tensorrt"):
            choose_backends(wrong.split(","))
    with pytest.raises(ConfigError, match="no device 'gpu'"):
        bench_targets(None, (), "gpu")  # type: ignore[arg-type]
