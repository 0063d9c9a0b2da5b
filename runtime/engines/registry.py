"""The backends by name: Roadshift's own, those that a program registers, and installed packages'.

A package that brings one names it in its metadata; it is imported when it is asked for, or measured
by a bench:

    [project.entry-points."roadshift.engines"]
    npu = "some_package.npu:NPU"  # a `Backend`
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from ..errors import EngineError, arg
from ..installed import installed, installed_names, load
from ..words import shortened

if TYPE_CHECKING:
    from .base import Opener

ENTRY_POINTS = "roadshift.engines"
KINDS = ("onnx", "tensorrt", "weights")


class Backend(NamedTuple):
    """A way to run the artefacts of one kind.

    Attributes:
        kind: of the artefacts: "onnx", "tensorrt" or "weights".
        opener: opens one, a class or a function as `base.Opener` describes; one that is named
            "module:attribute" is imported when the first is opened.
        devices: on which it runs, of "cpu" and "cuda".
        slow: why a bench leaves it out unless it is asked for, a clause; "": it does not.
        needs_torch: only where the ``adapt`` extra is installed.
        package: that it imports, of the extra of the same name; "": none beyond Roadshift's own.
    """

    kind: str
    opener: str | Opener
    devices: tuple[str, ...] = ("cpu", "cuda")
    slow: str = ""
    needs_torch: bool = False
    package: str = ""


_ONNX = "roadshift.runtime.engines.onnx.engine"
_TENSORRT = "roadshift.runtime.engines.tensorrt_engine"
_OPENVINO = "roadshift.runtime.engines.openvino_engine"
_TORCH = "roadshift.adapt.models.torch_engine"
_BUILDS, _COMPILES = "it builds for minutes", "it compiles for minutes"

# In the order of preference of "auto", which finds ONNX Runtime alone and plain torch before what
# else runs their files: that is chosen by its name.
BACKENDS: dict[str, Backend] = {
    "tensorrt": Backend("tensorrt", f"{_TENSORRT}:TensorRTEngine", ("cuda",)),
    "onnxruntime": Backend("onnx", f"{_ONNX}:OnnxEngine"),
    "onnxruntime-tensorrt": Backend("onnx", f"{_ONNX}:open_on_tensorrt", ("cuda",), _BUILDS),
    "openvino": Backend("onnx", f"{_OPENVINO}:OpenVinoEngine", ("cpu",), package="openvino"),
    "torch": Backend("weights", f"{_TORCH}:open_eager", needs_torch=True),
    "torch-fp16": Backend("weights", f"{_TORCH}:open_half", ("cuda",), needs_torch=True),
    "torch-compile": Backend(
        "weights", f"{_TORCH}:open_compiled", slow=_COMPILES, needs_torch=True
    ),
}
_REGISTERED: dict[str, Backend] = {}  # by the program that runs


def register_backend(name: str, backend: Backend) -> Backend:
    """Let `open_engine`, and every command and function with a ``backend``, know one by name.

    "auto" does not choose it.

    Raises:
        EngineError: it is no `Backend`, or the name is none, or taken.
    """
    problem = _problem(backend)
    if not (isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_.-]*", name)):
        problem = "a name is lower-case letters, digits, underscores, hyphens and dots"
    elif name in ("auto", "all", *BACKENDS) or _REGISTERED.get(name, backend) != backend:
        problem = "there is one of that name"
    if problem:
        raise EngineError(f"Backend {name!r} cannot be registered: {problem}.")
    _REGISTERED[name] = backend
    return backend


def _problem(backend: object) -> str | None:
    """The reason why it cannot be used; None: it can."""
    if not isinstance(backend, Backend):
        return f"{backend!r} is no roadshift.Backend"
    if backend.kind not in KINDS:
        return f"its kind {backend.kind!r} is none of {', '.join(KINDS)}"
    if not backend.devices or not {"cpu", "cuda"} >= set(backend.devices):
        return f"its devices {backend.devices!r} are not of cpu and cuda"
    return None


def backend_names() -> list[str]:
    """Every backend's name, Roadshift's own first, in the order of preference."""
    return list(dict.fromkeys([*BACKENDS, *_REGISTERED, *installed_names(ENTRY_POINTS)]))


def find_backend(name: str) -> Backend:
    """The backend of that name; an installed package that brings it is imported.

    Raises:
        EngineError: there is none, or it cannot be imported or used.
    """
    known = BACKENDS.get(name) or _REGISTERED.get(name)
    if known is not None:
        return known
    if name not in installed_names(ENTRY_POINTS):
        raise EngineError(
            f"{arg('backend')} {shortened(name)!r}: use auto, {' or '.join(backend_names())}."
        )
    found = installed(ENTRY_POINTS, name, f"Backend {name!r}", EngineError)
    if problem := _problem(found):
        raise EngineError(
            f"Backend {name!r} cannot be used: {problem}; mend or uninstall the package that "
            "brings it."
        )
    backend: Backend = found
    return backend


def opener_of(backend: Backend) -> Opener:
    """The function or class that opens its artefacts, imported now where it is named."""
    opener: Opener = load(backend.opener) if isinstance(backend.opener, str) else backend.opener
    return opener


def problem_here(backend: Backend) -> str | None:
    """The reason why a backend is not available here, whatever the bundle; None: it is.

    A GPU or a library that it needs may still be missing: opening it says so.
    """
    if backend.needs_torch and find_spec("torch") is None:
        return "torch is not installed; pip install 'roadshift[adapt]'"
    if backend.package and find_spec(backend.package) is None:
        return f"{backend.package} is not installed; pip install 'roadshift[{backend.package}]'"
    return None
