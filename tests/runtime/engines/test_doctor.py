"""Findings of `doctor`, which goes on where something is broken."""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cuda import Driver
from roadshift.runtime.engines import doctor
from roadshift.runtime.engines.doctor import diagnose
from roadshift.runtime.engines.onnx import session as onnx_session
from roadshift.runtime.probes.car_computer import CarComputer

CHECKS = [
    *("python", "cpu", "computer", "gpu", "system libraries", "onnxruntime", "onnxruntime on CUDA"),
    *("openvino", "torch", "onnx", "tensorrt", "cuda-bindings", "video", "disk", "to install"),
]


def found() -> dict[str, dict[str, Any]]:
    return {row["check"].split(" (")[0]: row for row in diagnose()}


def test_every_check_says_what_was_found_and_what_to_do_where_it_is_not_well() -> None:
    rows = diagnose()
    assert [row["check"].split(" (")[0] for row in rows] == CHECKS
    for row in rows:
        assert set(row) == {"check", "ok", "found", "advice"}
        assert row["ok"] in (True, None, False)
        assert row["found"]
        assert (row["advice"] == "") == (row["ok"] is True)
    assert json.loads(json.dumps(rows)) == rows


def test_it_names_the_versions_that_are_installed() -> None:
    rows = found()
    assert sys.version.split()[0] in rows["python"]["found"]
    assert metadata.version("onnx") == rows["onnx"]["found"]
    assert rows["onnxruntime"]["ok"] is True
    assert "CPU" in rows["onnxruntime"]["found"]


def test_this_opencv_decodes_video() -> None:
    row = found()["video"]
    assert row["ok"] is True
    assert "FFMPEG: YES" in row["found"]


def test_an_opencv_without_ffmpeg_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "  Video I/O:\n    FFMPEG:       NO\n    GStreamer:    NO\n"
    monkeypatch.setattr(doctor.cv2, "getBuildInformation", lambda: said)
    row = found()["video"]
    assert (row["ok"], row["found"]) == (False, "FFMPEG: NO; GStreamer: NO")
    assert "cannot decode video" in row["advice"]


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    row = found()["torch"]
    assert (row["ok"], row["found"]) == (None, "not installed")
    assert "pip install 'roadshift[adapt]'" in row["advice"]


def test_a_torch_that_does_not_import_is_a_fault_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    rows = found()
    assert rows["torch"]["ok"] is False
    assert "does not import: libcudart.so.12" in rows["torch"]["found"]
    assert list(rows) == CHECKS


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ("x86_64", "pip install 'roadshift[cuda]'"),
        ("aarch64", "brings it on x86-64 alone; a GPU here runs plans"),
    ],
)
def test_without_a_driver_everything_runs_on_the_cpu(
    machine: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr("platform.machine", lambda: machine)
    rows = found()
    assert (rows["gpu"]["ok"], rows["gpu"]["found"]) == (None, "no libcuda.so.1")
    assert "CPU" in rows["gpu"]["advice"]
    assert rows["onnxruntime on CUDA"]["ok"] is None
    assert says in rows["onnxruntime on CUDA"]["advice"]


@pytest.mark.parametrize(
    ("driver", "ok", "says"),
    [
        (
            Driver(2),
            True,
            "2 GPU(s), first: NVIDIA Test, compute capability 8.7, driver CUDA 12.8",
        ),
        (Driver(0), False, "the driver finds no device"),
        (Driver(1, 999), False, "cuInit failed with 999"),
    ],
)
def test_a_driver_is_asked_for_its_gpus(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, ok: bool, says: str
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(onnx_session, "cuda_problem", lambda: None)
    rows = found()
    assert (rows["gpu"]["ok"], rows["gpu"]["found"]) == (ok, says)
    assert rows["onnxruntime on CUDA"]["ok"] is True


@pytest.mark.parametrize(
    ("name", "driver", "ok", "says"),
    [
        ("tensorrt", None, True, "tensorrt 10.16"),
        ("tensorrt-rtx", None, True, "tensorrt-rtx 10.16"),
        ("tensorrt", "no CUDA driver", None, "tensorrt 10.16; no CUDA driver"),
        ("tensorrt-lean", None, None, "tensorrt-lean 10.16, which runs no plan of roadshift's"),
        (None, None, None, "not installed"),
    ],
)
def test_the_kind_of_tensorrt_is_found_and_whether_it_has_a_driver(
    monkeypatch: pytest.MonkeyPatch, name: str | None, driver: str | None, ok: bool, says: str
) -> None:
    real = metadata.version

    def version(distribution: str) -> str:
        if distribution.startswith("tensorrt"):
            if distribution != name:
                raise metadata.PackageNotFoundError(distribution)
            return "10.16"
        return real(distribution)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(doctor, "driver_problem", lambda: driver)
    row = found()["tensorrt"]
    assert (row["ok"], row["found"]) == (ok, says)
    if ok is None:
        assert ("GPU and its driver" if driver else "roadshift[tensorrt]") in row["advice"]


def test_a_nearly_full_disk_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[Path] = []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return SimpleNamespace(free=2**30)

    monkeypatch.setattr(doctor.shutil, "disk_usage", disk_usage)
    row = found()["disk"]
    assert (row["ok"], row["found"]) == (False, "1 GiB free in this folder")
    assert asked == [tmp_path]


@pytest.mark.parametrize(
    ("computer", "ok", "says", "line"),
    [
        (
            CarComputer("NVIDIA Jetson AGX Orin", "36.4.3", "6.2", "12.6.11", "9.3.0", "10.3.0"),
            True,
            "NVIDIA Jetson AGX Orin, JetPack 6.2, L4T 36.4.3",
            "NVIDIA's Jetson wheel index for JetPack 6",
        ),
        (CarComputer(l4t="99.1.0"), None, "a Jetson, JetPack unknown, L4T 99.1.0", "unknown"),
    ],
)
def test_a_jetson_is_named_and_what_to_install_on_it(
    monkeypatch: pytest.MonkeyPatch, computer: CarComputer, ok: bool, says: str, line: str
) -> None:
    monkeypatch.setattr(doctor, "car_computer", lambda: computer)
    rows = found()
    assert (rows["computer"]["ok"], rows["computer"]["found"]) == (ok, says)
    assert line in rows["to install"]["found"]
    assert rows["to install"]["ok"] is ok


@pytest.mark.parametrize(
    ("missing", "gpu", "line"),
    [
        (None, False, "nothing: what this computer can use is there"),
        (None, True, "nothing: what this computer can use is there"),
        ("onnx", False, "pip install 'roadshift[adapt]'"),
        ("cuda-bindings", False, "nothing: what this computer can use is there"),
        ("cuda-bindings", True, "pip install 'roadshift[adapt,cuda,tensorrt]'"),
        ("onnxruntime on CUDA", True, "pip install 'roadshift[adapt,cuda,tensorrt]'"),
    ],
)
def test_what_to_install_is_said_where_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, gpu: bool, line: str
) -> None:
    def package(name: str, _advice: str) -> dict[str, Any]:
        return {"check": name, "ok": None if name == missing else True, "found": "", "advice": ""}

    monkeypatch.setattr(doctor, "_package", package)
    for name in ("torch", "tensorrt"):
        monkeypatch.setattr(doctor, f"_{name}", lambda name=name: package(name, ""))
    cuda = package("onnxruntime on CUDA", "")
    monkeypatch.setattr(doctor, "_onnxruntime_cuda", lambda: cuda)
    monkeypatch.setattr(doctor, "driver_problem", lambda: None if gpu else "no driver")
    monkeypatch.setattr(doctor, "car_computer", CarComputer)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert found()["to install"]["found"] == line


@pytest.mark.parametrize(("seen", "ok"), [(None, None), (object(), True)])
def test_a_tensorrt_of_the_system_that_python_does_not_see_is_said(
    monkeypatch: pytest.MonkeyPatch, seen: object, ok: bool
) -> None:
    monkeypatch.setattr(doctor, "car_computer", lambda: CarComputer(tensorrt="10.3.0"))
    monkeypatch.setattr(doctor, "find_spec", lambda name: seen if name == "tensorrt" else None)
    row = found()["system libraries"]
    assert row["found"] == "CUDA not found, cuDNN not found, TensorRT 10.3.0"
    assert row["ok"] is ok
    assert ("--system-site-packages" in row["advice"]) == (ok is None)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    diagnose()
    assert tuple(capfd.readouterr()) == ("", "")
