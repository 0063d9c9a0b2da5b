"""Runtime of the car: bundles, frames, engines and measurements, with numpy and no torch.

    from roadshift.runtime import open_bundle, open_engine, open_frames

    with open_engine(open_bundle("adapted")) as engine:
        for frame in open_frames("drive.mp4"):
            label_map = engine.segment(frame)  # (H, W) uint8

Names load their module on first use, so that importing this package costs almost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import Bundle, open_bundle
    from .engines import Engine, open_engine
    from .errors import RoadshiftError
    from .frames import Frame, open_frames
    from .frames.live import LiveSource, open_live
    from .labels import LabelSpace, label_space
    from .labels.metrics import ConfusionMatrix
    from .pipeline import Pipeline

__all__ = [
    "Bundle",
    "ConfusionMatrix",
    "Engine",
    "Frame",
    "LabelSpace",
    "LiveSource",
    "Pipeline",
    "RoadshiftError",
    "label_space",
    "open_bundle",
    "open_engine",
    "open_frames",
    "open_live",
]

_MODULES = {
    "Bundle": "bundle",
    "ConfusionMatrix": "labels.metrics",
    "Engine": "engines",
    "Frame": "frames",
    "LabelSpace": "labels",
    "LiveSource": "frames.live",
    "Pipeline": "pipeline",
    "RoadshiftError": "errors",
    "label_space": "labels",
    "open_bundle": "bundle",
    "open_engine": "engines",
    "open_frames": "frames",
    "open_live": "frames.live",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
