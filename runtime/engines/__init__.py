"""Engines: a bundle's network ready to run, on ONNX Runtime, TensorRT or torch.

Names load their module on first use: which backends there are is known without numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Engine
    from .opening import open_engine
    from .registry import Backend, backend_names, find_backend, problem_here, register_backend

__all__ = [
    "Backend",
    "Engine",
    "backend_names",
    "find_backend",
    "open_engine",
    "problem_here",
    "register_backend",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Engine": "base", "open_engine": "opening"}.get(name, "registry")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value
