"""The choice of the backend that opens a bundle on this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..bundle import Artefact, Bundle
from ..bundle import opened as opened_bundle
from ..errors import EngineError, MissingDependencyError, Sentence, arg, marked, naming
from ..probes.machine_state import device_name
from ..words import shortened
from .base import Engine
from .registry import BACKENDS, KINDS, Backend, find_backend, opener_of, problem_here


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
        backend: "auto", or one of `backend_names`; "onnxruntime-tensorrt" is ONNX Runtime's own use
            of TensorRT, which builds for minutes at the first opening; "openvino" runs ONNX models
            on a CPU.
        device: "auto" (a GPU where it works), "cpu" or "cuda" (an error where it does not work).
        artefact: the file name of the model to run.
        threads: CPU threads of the engine; None takes the cores of this process.

    Raises:
        BundleError: the bundle cannot be read.
        EngineError: nothing here can run it as asked; the message says why and what to do.
    """
    opened = opened_bundle(bundle)
    if device not in ("auto", "cpu", "cuda"):
        raise EngineError(f"{arg('device')} {shortened(str(device))!r}: use auto, cpu or cuda.")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise EngineError(f"{arg('threads')} {threads!r}: an engine needs at least 1.")
    backend = str(backend)
    backends = BACKENDS if backend == "auto" else {backend: find_backend(backend)}
    choices = _choices(opened, backend, backends, artefact, device)
    name, chosen = choices[0]
    try:
        return _open(backends[name], opened, chosen, device, threads)
    except (EngineError, MissingDependencyError) as error:
        if name != "tensorrt" or len(choices) == 1:
            raise
        why = f"Instead of {chosen.path}: {error.marked}"
    name, chosen = choices[1]
    engine = _open(backends[name], opened, chosen, device, threads)
    engine.reason = Sentence(f"{marked(engine.reason)} {why}")
    logging.getLogger("roadshift").warning(engine.reason)
    return engine


def _open(
    backend: Backend, bundle: Bundle, artefact: Artefact, device: str, threads: int | None
) -> Engine:
    """An engine whose reason also says what in its artefact was chosen on another machine."""
    engine = opener_of(backend)(bundle, artefact, device=device, threads=threads)
    there = artefact.details.get("measured_on")
    if there is not None and there != device_name(engine.device):
        engine.reason = (
            f"{engine.reason} Where its labels are made ({artefact.details.get('argmax')}) was "
            f"chosen by time on {there}; `roadshift export {bundle.path} --to onnx` here chooses "
            "anew."
        )
    return engine


@naming(artefact=EngineError)
def _called(
    name: str, runnable: Sequence[Artefact], bundle: Bundle, backend: str
) -> list[Artefact]:
    """The one of the runnable artefacts that has the name."""
    found = [artefact for artefact in runnable if artefact.path == name]
    if not found:
        models = [a.path for a in bundle.manifest.artefacts if a.kind in KINDS]
        raise EngineError(
            f"{bundle.path} has no {name!r} that "
            f"{'an engine' if backend == 'auto' else backend} can run; "
            f"its models are {', '.join(models) or 'none'}."
        )
    return found


def _choices(
    bundle: Bundle,
    backend: str,
    backends: Mapping[str, Backend],
    name: str | None,
    device: str,
) -> list[tuple[str, Artefact]]:
    """Backends and their best artefacts, as the arguments of `open_engine` mean, best first."""
    kinds = {known.kind for known in backends.values()}
    runnable = [a for a in bundle.manifest.artefacts if a.kind in kinds]
    if name is not None:
        runnable = _called(name, runnable, bundle, backend)
    elif backend == "auto" and device == "cpu":
        backends = {other: known for other, known in backends.items() if "cpu" in known.devices}
    choices = []
    for candidate, known in backends.items():
        suits = [artefact for artefact in runnable if artefact.kind == known.kind]
        if suits and problem_here(known) is None:
            choices.append((candidate, min(suits, key=lambda a: a.precision != "fp32")))
    if not choices:
        if backend != "auto" and runnable and (why := problem_here(backends[backend])):
            raise EngineError(f"{why}.")
        raise _nothing_runs(bundle, backend, None if backend == "auto" else backends[backend].kind)
    return choices


def _nothing_runs(bundle: Bundle, backend: str, kind: str | None) -> EngineError:
    """The error that no artefact of the bundle runs on ``backend`` here, and what to do."""
    if kind in ("onnx", "tensorrt") or bundle.artefact(kind="weights") is None:
        to = "tensorrt" if kind == "tensorrt" else "onnx"
        return EngineError(
            f"{bundle.path} has no model for {'any engine' if kind is None else backend}; "
            f"make one with `roadshift export {bundle.path} --to {to}`."
        )
    if kind == "weights" or bundle.artefact(kind="onnx") is not None:
        return EngineError("torch is not installed; pip install 'roadshift[adapt]'.")
    return EngineError(
        f"{bundle.path} has no exported model and torch is not installed: run `roadshift export "
        f"{bundle.path} --to onnx` where it is, or pip install 'roadshift[adapt]'."
    )
