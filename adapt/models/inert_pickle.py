"""Stand-ins for what training scripts save beside weights, so that reading a file runs no code.

A checkpoint often holds the script's ``argparse.Namespace``, a best score that is a NumPy scalar,
a path, or a ``dict`` of a library's own kind. ``torch.load(weights_only=True)`` refuses each of
them. Their names are well known, so each is read as an object that does nothing and holds nothing
that is used; the class of that name is neither imported nor called. Every other name is refused as
before, the classes of a saved network among them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Inert:
    """An object in the place of one that is no weight: takes anything, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Make one, whatever the pickle gives."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        """Forget the state."""


def _mapping(*_: Any) -> OrderedDict[str, Any]:
    """An empty mapping for the items that the pickle puts in next."""
    return OrderedDict()


_OBJECTS = (
    *("argparse.Namespace", "types.SimpleNamespace"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core")
      for name in ("scalar", "_reconstruct")),
    *("numpy.ndarray", "numpy.dtype", "numpy.float64", "numpy.float32", "numpy.int64"),
    *(f"pathlib{module}.{name}" for module in ("", "._local")
      for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *("datetime.datetime", "datetime.date", "datetime.timedelta", "uuid.UUID"),
    *("builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.set"),
    "mmengine.logging.history_buffer.HistoryBuffer",
)  # fmt: skip
_CALLED_MAPPINGS = ("collections.defaultdict",)  # made by a call, then filled
_MADE_MAPPINGS = (
    *("easydict.EasyDict", "yacs.config.CfgNode", "fvcore.common.config.CfgNode"),
    *("addict.addict.Dict", "addict.Dict", "mmcv.utils.config.ConfigDict"),
    *("mmengine.config.config.ConfigDict", "detectron2.config.config.CfgNode"),
    *("lightning_fabric.utilities.data.AttributeDict", "munch.Munch"),
    *("lightning.fabric.utilities.data.AttributeDict", "ml_collections.ConfigDict"),
    "pytorch_lightning.utilities.parsing.AttributeDict",
)  # subclasses of dict


@contextmanager
def inert_extras() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read the names of this file as stand-ins."""
    named: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        *((Inert, name) for name in _OBJECTS),
        *((_mapping, name) for name in _CALLED_MAPPINGS),
        *((OrderedDict, name) for name in _MADE_MAPPINGS),
    ]
    with torch.serialization.safe_globals(named):
        yield
