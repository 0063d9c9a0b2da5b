"""Backends by name: where each is opened from, what a program registers, what packages bring."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from roadshift.runtime.engines import Backend, find_backend, open_engine, register_backend, registry
from roadshift.runtime.errors import EngineError

TRIED = Backend("onnx", "roadshift.runtime.engines.onnx.engine:OnnxEngine", ("cpu",))


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.mark.parametrize("name", registry.BACKENDS)
def test_every_opener_is_there(name: str) -> None:
    """Found in the source: TensorRT and torch are not installed everywhere."""
    place = registry.BACKENDS[name].opener
    assert isinstance(place, str)
    module, _, attribute = place.partition(":")
    folder = Path(str(importlib.util.find_spec("roadshift").origin)).parent  # type: ignore[union-attr]
    source = folder.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text("utf-8")
    defined = {
        name.id if isinstance(name, ast.Name) else getattr(name, "name", None)
        for node in ast.parse(source).body
        for name in (ast.walk(node) if isinstance(node, ast.Assign) else [node])
    }
    assert attribute in defined


def test_which_backends_there_are_is_known_without_a_library() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from roadshift.runtime.engines.registry import BACKENDS, backend_names\n"
        "assert backend_names()[:3] == ['tensorrt', 'onnxruntime', 'onnxruntime-tensorrt']\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['roadshift']"


def test_a_registered_backend_opens_where_it_is_asked_for(
    make_bundle: Callable[..., Any],
) -> None:
    bundle = make_bundle()
    register_backend("tried", TRIED)
    assert register_backend("tried", TRIED) is TRIED  # as a module that is loaded twice does
    with open_engine(bundle, backend="tried") as engine:
        assert engine.artefact == "model.onnx"
    assert open_engine(bundle).backend == "onnxruntime"
    with pytest.raises(EngineError, match="no model for tried; make one with"):
        open_engine(make_bundle("empty", models={}), backend="tried")


@pytest.mark.parametrize(
    ("name", "backend", "why"),
    [
        ("torch", TRIED, "there is one of that name"),
        ("auto", TRIED, "there is one of that name"),
        ("tried", TRIED._replace(kind="weights"), "there is one of that name"),
        ("My NPU", TRIED, "a name is lower-case letters"),
        ("npu", "package:opener", "is no roadshift.Backend"),
        ("npu", TRIED._replace(kind="tflite"), "its kind 'tflite' is none of onnx, tensorrt"),
        ("npu", TRIED._replace(devices=("npu",)), "are not of cpu and cuda"),
    ],
)
def test_a_backend_that_cannot_be_registered_is_refused(name: str, backend: Any, why: str) -> None:
    register_backend("tried", TRIED)
    with pytest.raises(EngineError, match=why):
        register_backend(name, backend)


def installed(folder: Path, *points: str) -> None:
    """Packages that each register one entry point; a module that one may name."""
    (folder / "npu_of_a_test.py").write_text("from roadshift import Backend\nODD = 3\n")
    for number, point in enumerate(points):
        info = folder / f"npu{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: npu{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[roadshift.engines]\n{point}\n")


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (["npu = nowhere_at_all:NPU"], "'npu', nowhere_at_all:NPU, cannot be imported .*uninstall"),
        (["npu = npu_of_a_test:NPU"], "'npu', npu_of_a_test:NPU, cannot be imported"),
        (["npu = npu_of_a_test:ODD"], "'npu' cannot be used: 3 is no roadshift.Backend"),
        (
            ["npu = a:NPU", "npu = b:NPU"],
            r"'npu' is registered by 2 installed packages \(a:NPU, b:NPU\); let exactly one",
        ),
    ],
)
def test_a_package_whose_backend_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: list[str], why: str
) -> None:
    installed(tmp_path, *points)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=why):
        find_backend("npu")
    with pytest.raises(EngineError, match=r"backend 'npx': use auto, tensorrt or .* or npu"):
        find_backend("npx")
