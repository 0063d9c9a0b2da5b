"""Engines: a bundle's network ready to run, on ONNX Runtime, TensorRT or torch."""

from .base import Engine
from .registry import backend_kinds, backend_problem, open_engine, register_backend

__all__ = ["Engine", "backend_kinds", "backend_problem", "open_engine", "register_backend"]
