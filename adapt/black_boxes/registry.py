"""The kinds of black boxes, and the opening of one by its name.

folder      NAME.npz or NAME.npy with one array (K, h, w) of probabilities, or NAME.png with
            class indices (255: none), for every frame NAME; of any size, over the whole frame
bundle      its ONNX artefact
.onnx       of `roadshift export`, or anyone's; .xml (OpenVINO) and .tflite likewise
http://     a service on this machine, see `http_service`
module:fn   fn(image uint8 RGB (H, W, 3)) -> (K, h, w) probabilities, or (h, w) class indices
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ...runtime.errors import ConfigError
from ...runtime.installed import load
from ...runtime.labels import LabelSpace
from ...runtime.notes import log_note
from .base import BlackBox, BoxWiring, Note
from .function import name_of, of_function


class BlackBoxOpener(Protocol):
    """A function that opens black boxes of one kind."""

    def __call__(
        self, source: str, wiring: BoxWiring, space: LabelSpace | None, note: Note, /
    ) -> BlackBox:
        """Open the one that ``source`` names; ``space`` is given for its answers, or None."""
        ...


_ROOM = "roadshift.adapt.black_boxes"
# By the suffix of a file, the scheme of a URL, or a word for what is told apart in another way;
# imported when the first of the kind is opened.
KINDS: Mapping[str, str] = {
    ".onnx": f"{_ROOM}.onnx_file:open_onnx",
    ".xml": f"{_ROOM}.openvino_file:open_openvino",
    ".tflite": f"{_ROOM}.tflite_file:open_tflite",
    "http:": f"{_ROOM}.http_service:open_service",
    "bundle": f"{_ROOM}.onnx_file:open_exported",
    "folder": f"{_ROOM}.folder:open_folder",
    "function": f"{_ROOM}.function:open_function",
}


def kind_of(source: str) -> str | None:
    """The key in `KINDS` of what ``source`` names; None where it is no black box."""
    path, scheme = Path(source), source.partition("//")[0].lower()
    if "://" in source:
        return scheme if scheme in KINDS else None
    if path.suffix in KINDS:
        return path.suffix
    if (path / "manifest.json").exists():
        return "bundle"
    if path.is_dir():
        return "folder"
    return "function" if ":" in source else None


def open_black_box(
    source: str | Path | Callable[..., Any] | BlackBox,
    wiring: BoxWiring | None = None,
    space: LabelSpace | None = None,
    note: Note = log_note,
) -> BlackBox:
    """Open the black box that ``source`` names, see the top of this module, or that it is itself.

    Args:
        wiring: what it does not say of itself.
        space: of its answers, likewise.
        note: told what is assumed and found.

    Raises:
        ConfigError: it is none of these, an empty folder, or lacks something that is not given.
        BundleError, EngineError: it is damaged, cannot be run, or does not answer.
        MissingDependencyError: the package that runs it is not installed.
        NetworkError: there is no such Python function.
    """
    wiring = wiring or BoxWiring()
    if isinstance(source, BlackBox):
        return source
    if callable(source):
        return of_function(source, wiring)
    kind = kind_of(str(source))
    if kind is None:
        problem = "is not a black box" if Path(source).exists() else "does not exist"
        if "://" in str(source):
            problem = "is no http:// address"
        raise ConfigError(
            f"{source}: {problem}; give a folder of predictions, an .onnx, .xml or .tflite file, "
            "a bundle with an ONNX artefact, http://127.0.0.1:PORT/PATH, or "
            "package.module:function."
        )
    opener: BlackBoxOpener = load(KINDS[kind])
    return opener(str(source), wiring, space, note)


def source_name(source: str | Path | Callable[..., Any] | BlackBox) -> str:
    """The name of a black box, as a record keeps it."""
    if isinstance(source, BlackBox):
        return source.identity
    return name_of(source) if callable(source) else str(source)
