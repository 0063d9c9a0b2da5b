"""The installed TensorRT, and what a plan of it needs of a machine.

TensorRT and TensorRT for RTX are the same interface under two names; a plan belongs to the one that
built it. Loading the library is safe anywhere. Making its builder or its runtime is not: without a
driver that ends the process, so the driver is always asked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..bundle.manifest import Artefact
from ..errors import MissingDependencyError
from ..probes.driver import Gpu, driver_problem, gpu

INSTALL = {
    "tensorrt": "pip install 'roadshift[tensorrt]'",
    "tensorrt_rtx": "pip install tensorrt-rtx cuda-bindings",
}


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT.

    Attributes:
        module: the Python module.
        flavour: its name, "tensorrt" or "tensorrt_rtx".
        version: such as "10.16.1.11".
    """

    module: Any
    flavour: str
    version: str

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"

    def listen(self) -> tuple[Any, list[str]]:
        """A logger for the library, and the list that its errors end up in."""
        base: Any = self.module.ILogger
        said: list[str] = []
        bad = (base.Severity.ERROR, base.Severity.INTERNAL_ERROR)

        class Listener(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                if severity in bad:
                    said.append(" ".join(text.split()))

        return Listener(), said


def load_tensorrt(flavour: str | None = None) -> TensorRT:
    """The TensorRT of that flavour; of any, TensorRT itself before TensorRT for RTX.

    Raises:
        MissingDependencyError: it is not installed, or does not import; or there is no such
            flavour: a manifest may say any, and nothing is imported by its name.
    """
    if flavour is not None and flavour not in INSTALL:
        raise MissingDependencyError(
            f"there is no TensorRT {flavour[:40]!r}, a plan is of {' or '.join(INSTALL)}; the ONNX "
            "models run without it."
        )
    wanted = list(INSTALL) if flavour is None else [flavour]
    found = {name: _imported(name) for name in wanted}
    for name, module in found.items():
        if not isinstance(module, str):
            return TensorRT(module, name, str(module.__version__))
    raise MissingDependencyError(
        f"{wanted[0]} {found[wanted[0]]}: {INSTALL[wanted[0]]}, on a machine "
        "with an NVIDIA GPU; the ONNX models run without it."
    )


def _imported(name: str) -> Any:
    """The module, or what is wrong with it."""
    try:
        return import_module(name)
    except Exception as error:  # importing loads native libraries, which fails in many ways
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        return "is not installed" if missing else f"does not import ({error})"


def machine_problem(flavour: str | None = None) -> str | None:
    """The reason why no plan runs on this machine, the end of a sentence; None: one may.

    Args:
        flavour: as in `load_tensorrt`.
    """
    if problem := driver_problem():
        return f"{problem}; it needs an NVIDIA GPU and its driver"
    try:
        load_tensorrt(flavour)
    except MissingDependencyError as error:
        return str(error).rstrip(".")
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return f"cuda-bindings is not installed: {INSTALL['tensorrt']}"
    return None


def plan_problem(artefact: Artefact, weights_sha256: str | None) -> str | None:
    """The reason why a plan cannot run here, the end of a sentence; None: none is known.

    Nothing of TensorRT is touched beyond its import: a plan is native code and is not deserialised
    where it does not belong.

    Args:
        artefact: of kind "tensorrt".
        weights_sha256: of the bundle's weights, None where it has none.
    """
    made = dict(artefact.details)
    flavour = str(made.get("flavour", "tensorrt"))
    if problem := machine_problem(flavour):
        return problem
    if different := _differences(made, load_tensorrt(flavour), gpu()):
        return f"{'; '.join(different)}; rebuild it here"
    if weights_sha256 is not None and made.get("weights_sha256") not in (None, weights_sha256):
        return (
            "it holds other weights than the bundle; refit it"
            if made.get("refittable")
            else "it holds other weights than the bundle and is not refittable; rebuild it"
        )
    return None


def _differences(made: dict[str, Any], installed: TensorRT, here: Gpu) -> list[str]:
    version = installed.version
    pairs = [
        ("gpu", here.name, "it was built for {}, and this is {}"),
        ("compute_capability", here.compute_capability, "for compute capability {}, and not {}"),
        ("version", version, f"with {installed.flavour} {{}}, and {{}} is installed"),
    ]
    return [
        text.format(made.get(key, "unknown"), found)
        for key, found, text in pairs
        if made.get(key) != found
    ]
