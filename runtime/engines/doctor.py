"""Show what this machine can do, and what to install for more."""

from __future__ import annotations

import ctypes
import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2

from ..bundle.manifest import library_versions
from ..probes.car_computer import CarComputer, car_computer, install_line
from ..probes.cores import available_cores
from ..probes.driver import driver_problem, gpu, started_driver
from ..probes.waiting import waiting


def diagnose() -> list[dict[str, Any]]:
    """Checks in the order a reader wants them: ``{"check", "ok", "found", "advice"}``.

    ``ok`` is None where something is optional and absent; ``advice`` is "" where nothing is to do.
    """
    computer = car_computer()
    checks = [
        _python(),
        _cpu(),
        _computer(computer),
        _driver(),
        _libraries(computer),
        _onnxruntime(),
        _onnxruntime_cuda(),
        _package("openvino", "a further CPU engine: pip install 'roadshift[openvino]'"),
        _torch(),
        _package("onnx", "exports need it: pip install 'roadshift[adapt]'"),
        _tensorrt(),
        _package("cuda-bindings", "plans need it: pip install 'roadshift[tensorrt]'"),
        _codecs(),
        _disk(),
    ]
    return [*checks, _install(computer, {check["check"]: check for check in checks})]


def _check(name: str, ok: bool | None, found: str, advice: str = "") -> dict[str, Any]:
    return {"check": name, "ok": ok, "found": found, "advice": "" if ok else advice}


def _python() -> dict[str, Any]:
    versions = library_versions()
    found = f"Python {versions['python']}, roadshift {versions['roadshift']}"
    return _check("python", True, found)


def _cpu() -> dict[str, Any]:
    found = f"{platform.machine()}, {available_cores()} cores, {platform.system()}"
    return _check("cpu", True, f"{found}; threads wait {waiting()}")


def _computer(computer: CarComputer) -> dict[str, Any]:
    if computer.l4t is None:
        return _check("computer", True, f"{computer.model or platform.machine()}, no Jetson")
    jetpack = f"JetPack {computer.jetpack or 'unknown'}"
    found = f"{computer.model or 'a Jetson'}, {jetpack}, L4T {computer.l4t}"
    advice = "Roadshift does not know this release of L4T; docs/jetson.md says which it knows"
    return _check("computer", True if computer.jetpack else None, found, advice)


def _libraries(computer: CarComputer) -> dict[str, Any]:
    """NVIDIA's libraries of the system; pip's packages bring their own."""
    versions = {"CUDA": computer.cuda, "cuDNN": computer.cudnn, "TensorRT": computer.tensorrt}
    found = ", ".join(f"{name} {version or 'not found'}" for name, version in versions.items())
    hidden = computer.tensorrt is not None and find_spec("tensorrt") is None
    advice = (
        "this Python does not see the system's TensorRT: make its environment with "
        "python3 -m venv --system-site-packages"
    )
    return _check("system libraries", None if hidden else True, found, advice)


def _install(computer: CarComputer, checks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The one line that installs all that this computer can use, unless all of it is there."""
    has_gpu = driver_problem() is None
    line = install_line(computer, platform.machine(), has_gpu)
    brought = ["torch", "onnx"]
    if computer.l4t is not None and "no CUDA" in checks["torch"]["found"]:
        brought.append("a torch that runs on the Jetson's GPU")
    elif computer.l4t is None and has_gpu:
        brought += ["tensorrt", "cuda-bindings"]
        brought += ["onnxruntime on CUDA"] * (platform.machine() == "x86_64")
    if line and all(name in checks and checks[name]["ok"] for name in brought):
        line = "nothing: what this computer can use is there"
    advice = (
        "pip install roadshift runs models; to adapt on a Jetson's GPU takes JetPack 6 or newer"
    )
    return _check("to install", True if line else None, line or "unknown", advice)


def _driver() -> dict[str, Any]:
    advice = "no NVIDIA driver: everything runs on the CPU"
    started = started_driver()
    if started is None:
        return _check("gpu", None, "no libcuda.so.1", advice)
    cuda, code = started
    if code:
        return _check(
            "gpu", False, f"cuInit failed with {code}", "check the driver with nvidia-smi"
        )
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if not count.value:
        return _check("gpu", False, "the driver finds no device", advice)
    first = gpu()
    found = (
        f"{count.value} GPU(s), first: {first.name}, compute capability "
        f"{first.compute_capability}, driver {first.driver}"
    )
    return _check("gpu", True, found)


def _onnxruntime() -> dict[str, Any]:
    import onnxruntime

    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )
    return _check("onnxruntime", True, f"{onnxruntime.__version__}, built with {providers}")


def _onnxruntime_cuda() -> dict[str, Any]:
    from .onnx.session import cuda_problem

    problem = cuda_problem()
    if problem is None:
        return _check("onnxruntime on CUDA", True, "driver and provider found")
    advice = "for a GPU: an NVIDIA driver, then pip install 'roadshift[cuda]'"
    if platform.machine() != "x86_64":
        advice = "roadshift[cuda] brings it on x86-64 alone; a GPU here runs plans of TensorRT"
    return _check("onnxruntime on CUDA", None, problem, advice)


def _torch() -> dict[str, Any]:
    advice = "to train, adapt and export: pip install 'roadshift[adapt]'"
    if find_spec("torch") is None:
        return _check("torch", None, "not installed", advice)
    import importlib

    try:
        torch: Any = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return _check("torch", False, f"does not import: {error}", advice)
    gpu = f"CUDA on {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "no CUDA"
    return _check("torch", True, f"{torch.__version__}, {gpu}")


def _package(name: str, advice: str) -> dict[str, Any]:
    try:
        return _check(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return _check(name, None, "not installed", advice)


def _tensorrt() -> dict[str, Any]:
    for name in ("tensorrt", "tensorrt-rtx"):
        with suppress(metadata.PackageNotFoundError):
            found = f"{name} {metadata.version(name)}"
            problem = driver_problem()
            return _check(
                "tensorrt",
                True if problem is None else None,
                found if problem is None else f"{found}; {problem}",
                "plans are built and run on a machine with an NVIDIA GPU and its driver",
            )
    install = "to build and run plans on an NVIDIA GPU: pip install 'roadshift[tensorrt]'"
    with suppress(metadata.PackageNotFoundError):
        lean = (
            f"tensorrt-lean {metadata.version('tensorrt-lean')}, which runs no plan of roadshift's"
        )
        return _check("tensorrt", None, lean, install)
    return _check("tensorrt", None, "not installed", install)


def _codecs() -> dict[str, Any]:
    lines = [line.strip() for line in cv2.getBuildInformation().splitlines()]
    video = [line for line in lines if line.startswith(("FFMPEG:", "GStreamer:", "v4l/v4l2:"))]
    found = "; ".join(" ".join(line.split()) for line in video)
    reads = any(line.startswith("FFMPEG:") and "YES" in line for line in video)
    return _check(
        f"video (opencv {cv2.__version__})", reads, found, "this OpenCV cannot decode video files"
    )


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    advice = "decoded frames and checkpoints may not fit here"
    return _check("disk", free > 5, f"{free:.0f} GiB free in this folder", advice)
