"""Formats and precisions of an export, without torch: a slip is told before that is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..runtime.arguments import names_of

Form = Literal["int8", "fp8", "int8-cpu"]  # of quantised graphs
FORMATS = ("onnx", "tensorrt")
HALVES = ("fp16", "bf16")
FORMS: tuple[Form, ...] = ("int8", "fp8", "int8-cpu")
PRECISIONS = ("fp32", *HALVES, *FORMS)


def formats_of(given: Sequence[str]) -> list[str]:
    """Names of `FORMATS`, each once, in the order given.

    Raises:
        ConfigError: another name, or none.
    """
    return names_of("formats", given, FORMATS, "this version exports to")


def precisions_of(given: Sequence[str]) -> list[str]:
    """Names of `PRECISIONS`, as `formats_of`."""
    return names_of("precisions", given, PRECISIONS, "this version exports to")
