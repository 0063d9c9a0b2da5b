"""Backends by name, and the choice of the one that opens a bundle on this machine."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ..bundle import Artefact, Bundle, open_bundle
from ..errors import EngineError, MissingDependencyError, arg
from ..probes.machine_state import device_name
from ..words import shortened
from .base import Engine, Opener


def _open_onnx(bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None) -> Engine:
    from .onnx.engine import OnnxEngine  # onnxruntime takes 0.2 s to import

    return OnnxEngine(bundle, artefact, device=device, threads=threads)


def _open_plan(bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None) -> Engine:
    from .tensorrt_engine import TensorRTEngine

    return TensorRTEngine(bundle, artefact, device=device, threads=threads)


def _open_onnx_on_tensorrt(
    bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None
) -> Engine:
    from .onnx.engine import OnnxEngine

    return OnnxEngine(bundle, artefact, device=device, threads=threads, tensorrt=True)


# The kind of artefact that each backend runs; the backends in the order of preference of "auto".
# "auto" finds ONNX Runtime alone and plain torch before their variants, which are to compare with.
_KIND_OF = {
    "tensorrt": "tensorrt",
    "onnxruntime": "onnx",
    "onnxruntime-tensorrt": "onnx",
    "torch": "weights",
    "torch-fp16": "weights",
    "torch-compile": "weights",
}
_OPENERS: dict[str, Opener] = {
    "tensorrt": _open_plan,
    "onnxruntime": _open_onnx,
    "onnxruntime-tensorrt": _open_onnx_on_tensorrt,
}


_TORCH_BACKENDS = (
    "roadshift.adapt.models.torch_engine"  # registers torch's, where torch is installed
)


def register_backend(name: str, opener: Opener) -> None:
    """Make a backend available to `open_engine`."""
    _OPENERS[name] = opener


def _is_there(name: str) -> bool:
    """Tell whether a backend can be opened; torch itself is imported by `_opener` alone."""
    learns = sys.version_info >= (3, 11) and find_spec("torch") is not None
    return name in _OPENERS or (_KIND_OF[name] == "weights" and learns)


def _opener(name: str) -> Opener:
    if name not in _OPENERS:
        import_module(_TORCH_BACKENDS).register()
    return _OPENERS[name]


def open_engine(
    bundle: Bundle | str | Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    artefact: str | None = None,
    threads: int | None = None,
) -> Engine:
    """Open a bundle with the best backend that this machine has; ``engine.reason`` says which.

    "auto" takes TensorRT when the bundle has a plan, otherwise ONNX Runtime when it has an ONNX
    model, otherwise torch when it is there and the bundle has weights. A plan that cannot run here
    is passed over, and a warning and ``reason`` say why. Among several plans or models it takes the
    first in fp32, then the first; ``artefact`` names another.

    Args:
        bundle: a bundle or its folder.
        backend: "auto", or one of `backend_kinds`; "onnxruntime-tensorrt" is ONNX Runtime's own use
            of TensorRT, which builds for minutes at the first opening.
        device: "auto" (a GPU where it works), "cpu" or "cuda" (an error where it does not work).
        artefact: the file name of the model to run.
        threads: CPU threads of the engine; None takes the cores of this process.

    Raises:
        BundleError: the bundle cannot be read.
        EngineError: nothing here can run it as asked; the message says why and what to do.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if device not in ("auto", "cpu", "cuda"):
        raise EngineError(f"{arg('device')} {shortened(device)!r}: use auto, cpu or cuda.")
    if threads is not None and threads < 1:
        raise EngineError(f"{arg('threads')} {threads}: an engine needs at least 1.")
    if backend not in ("auto", *_KIND_OF):
        raise EngineError(
            f"{arg('backend')} {shortened(backend)!r}: use auto, {' or '.join(_KIND_OF)}."
        )
    choices = _choices(opened, backend, artefact, device)
    name, chosen = choices[0]
    try:
        return _open(name, opened, chosen, device, threads)
    except (EngineError, MissingDependencyError) as error:
        if name != "tensorrt" or len(choices) == 1:
            raise
        why = f"Instead of {chosen.path}: {error}"
    name, chosen = choices[1]
    engine = _open(name, opened, chosen, device, threads)
    engine.reason = f"{engine.reason} {why}"
    logging.getLogger("roadshift").warning(engine.reason)
    return engine


def _open(
    name: str, bundle: Bundle, artefact: Artefact, device: str, threads: int | None
) -> Engine:
    """An engine whose reason also says what in its artefact was chosen on another machine."""
    engine = _opener(name)(bundle, artefact, device=device, threads=threads)
    there = artefact.details.get("measured_on")
    if there is not None and there != device_name(engine.device):
        engine.reason = (
            f"{engine.reason} Where its labels are made ({artefact.details.get('argmax')}) was "
            f"chosen by time on {there}; export --to onnx here to choose anew."
        )
    return engine


def backend_kinds() -> dict[str, str]:
    """Every backend with the kind of artefact that it runs, in the order of preference."""
    return dict(_KIND_OF)


def backend_problem(name: str) -> str | None:
    """Why a backend is not available here, whatever the bundle; None if it is.

    A GPU or a library that it needs may still be missing: opening it says so.
    """
    if _is_there(name):
        return None
    return "torch is not installed; pip install 'roadshift[adapt]'"


def _choices(
    bundle: Bundle, backend: str, name: str | None, device: str
) -> list[tuple[str, Artefact]]:
    """Backends and their best artefacts, as the arguments of `open_engine` mean, best first."""
    kinds = _KIND_OF if backend == "auto" else {backend: _KIND_OF[backend]}
    runnable = [a for a in bundle.manifest.artefacts if a.kind in kinds.values()]
    if name is not None:
        runnable = [a for a in runnable if a.path == name]
        if not runnable:
            known = [a.path for a in bundle.manifest.artefacts if a.kind in _KIND_OF.values()]
            raise EngineError(
                f"{bundle.path} has no {name!r} that "
                f"{'an engine' if backend == 'auto' else backend} can run; "
                f"its models are {', '.join(known) or 'none'}."
            )
    elif backend == "auto" and device == "cpu":
        kinds = {other: kind for other, kind in kinds.items() if other != "tensorrt"}
    choices = []
    for candidate, kind in kinds.items():
        found = sorted((a for a in runnable if a.kind == kind), key=lambda a: a.precision != "fp32")
        if found and _is_there(candidate):
            choices.append((candidate, found[0]))
    if not choices:
        raise _nothing_runs(bundle, backend)
    return choices


def _nothing_runs(bundle: Bundle, backend: str) -> EngineError:
    """Why no artefact of the bundle runs on ``backend`` here, and what to do about it."""
    exported = ("tensorrt", "onnxruntime", "onnxruntime-tensorrt")
    if backend in exported or bundle.artefact(kind="weights") is None:
        to = "tensorrt" if backend == "tensorrt" else "onnx"
        return EngineError(
            f"{bundle.path} has no model for {'any engine' if backend == 'auto' else backend}; "
            f"make one with `roadshift export {bundle.path} --to {to}`."
        )
    if backend == "torch" or bundle.artefact(kind="onnx") is not None:
        return EngineError("torch is not installed; pip install 'roadshift[adapt]'.")
    return EngineError(
        f"{bundle.path} has no exported model and torch is not installed: run `roadshift export "
        f"{bundle.path} --to onnx` where it is, or pip install 'roadshift[adapt]'."
    )
