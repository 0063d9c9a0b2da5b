"""Roadshift: source-free adaptation of driving-scene segmentation models, on the vehicle.

The names below are promised stable, see docs/python-api.md. They load their module when they are
first used: importing this package imports nothing else.
"""

TYPE_CHECKING = False  # as in typing, which would be the first thing that the command waits for
if TYPE_CHECKING:
    from .adapt.api import adapt_bundle, import_bundle, judge_bundles, train_bundle
    from .adapt.black_box_api import adapt_black_box
    from .adapt.data.context import Context
    from .adapt.data.dataset import Batch
    from .adapt.methods.atp_config import AtpConfig
    from .adapt.methods.base import Method, Stage
    from .adapt.methods.black_box import AtpBlackBoxConfig, Das3BlackBoxConfig
    from .adapt.methods.bn_stats import BnStatsConfig
    from .adapt.methods.das3 import Das3Config
    from .adapt.methods.entmin import EntminConfig
    from .adapt.methods.iapc_config import IapcConfig
    from .adapt.methods.ld_config import LdConfig
    from .adapt.methods.nightshift import NightshiftConfig
    from .adapt.methods.pseudo import PseudoConfig
    from .adapt.methods.registry import register_method
    from .adapt.methods.shot_im import ShotImConfig
    from .adapt.methods.supervised import SupervisedConfig
    from .adapt.methods.tent import TentConfig
    from .adapt.methods.tone_only import ToneOnlyConfig
    from .adapt.networks.base import Output, SegmentationNetwork
    from .adapt.networks.registry import register_network
    from .adapt.run.config import Settings, TrainingConfig
    from .adapt.workflows.explanation import Explanation, explain
    from .adapt.workflows.selection import FrameSelection, select_frames
    from .export.api import export_bundle
    from .export.outcome import PartialExportError
    from .runtime.api import Evaluation, evaluate
    from .runtime.arguments import ProgressUpdate
    from .runtime.bundle import Bundle, open_bundle
    from .runtime.collecting.collect import collect_frames
    from .runtime.engines import Engine, open_engine
    from .runtime.engines.registry import Backend, register_backend
    from .runtime.errors import (
        BundleError,
        ConfigError,
        EngineError,
        FloorError,
        FrameError,
        LabelError,
        LabelSpaceError,
        MissingDependencyError,
        NetworkError,
        OutputError,
        ParityError,
        RoadshiftError,
        RunInterrupted,
        ShapeError,
        SignatureError,
        SlotError,
        TrainingError,
        UnhealthyError,
    )
    from .runtime.frames import Frame, open_frames
    from .runtime.frames.live_registry import register_live_source
    from .runtime.frames.readers import register_frame_reader
    from .runtime.labels import LabelSpace
    from .runtime.pipeline import Pipeline
    from .runtime.reporting.report import write_report
    from .runtime.signing import (
        create_trust,
        generate_key,
        load_private_key,
        open_trust,
        sign_bundle,
        verify_bundle,
    )
    from .runtime.slots import create_slots, open_slots
    from .runtime.slots.serving import SlotEngine
    from .runtime.verdict import Verdict

__version__ = "0.1.0"

_ERRORS = (
    "BundleError",
    "ConfigError",
    "EngineError",
    "FloorError",
    "FrameError",
    "LabelError",
    "LabelSpaceError",
    "MissingDependencyError",
    "NetworkError",
    "OutputError",
    "ParityError",
    "RoadshiftError",
    "RunInterrupted",
    "ShapeError",
    "SignatureError",
    "SlotError",
    "TrainingError",
    "UnhealthyError",
)
_MODULES = {
    "AtpBlackBoxConfig": "roadshift.adapt.methods.black_box",
    "AtpConfig": "roadshift.adapt.methods.atp_config",
    "Backend": "roadshift.runtime.engines.registry",
    "Batch": "roadshift.adapt.data.dataset",
    "BnStatsConfig": "roadshift.adapt.methods.bn_stats",
    "Bundle": "roadshift.runtime.bundle",
    "Context": "roadshift.adapt.data.context",
    "Das3BlackBoxConfig": "roadshift.adapt.methods.black_box",
    "Das3Config": "roadshift.adapt.methods.das3",
    "Engine": "roadshift.runtime.engines",
    "EntminConfig": "roadshift.adapt.methods.entmin",
    "Evaluation": "roadshift.runtime.api",
    "Explanation": "roadshift.adapt.workflows.explanation",
    "Frame": "roadshift.runtime.frames",
    "FrameSelection": "roadshift.adapt.workflows.selection",
    "IapcConfig": "roadshift.adapt.methods.iapc_config",
    "LabelSpace": "roadshift.runtime.labels",
    "LdConfig": "roadshift.adapt.methods.ld_config",
    "Method": "roadshift.adapt.methods.base",
    "NightshiftConfig": "roadshift.adapt.methods.nightshift",
    "Output": "roadshift.adapt.networks.base",
    "PartialExportError": "roadshift.export.outcome",
    "Pipeline": "roadshift.runtime.pipeline",
    "ProgressUpdate": "roadshift.runtime.arguments",
    "PseudoConfig": "roadshift.adapt.methods.pseudo",
    "SegmentationNetwork": "roadshift.adapt.networks.base",
    "Settings": "roadshift.adapt.run.config",
    "ShotImConfig": "roadshift.adapt.methods.shot_im",
    "SlotEngine": "roadshift.runtime.slots.serving",
    "Stage": "roadshift.adapt.methods.base",
    "SupervisedConfig": "roadshift.adapt.methods.supervised",
    "TentConfig": "roadshift.adapt.methods.tent",
    "ToneOnlyConfig": "roadshift.adapt.methods.tone_only",
    "TrainingConfig": "roadshift.adapt.run.config",
    "Verdict": "roadshift.runtime.verdict",
    "adapt_black_box": "roadshift.adapt.black_box_api",
    "adapt_bundle": "roadshift.adapt.api",
    "collect_frames": "roadshift.runtime.collecting.collect",
    "create_slots": "roadshift.runtime.slots",
    "create_trust": "roadshift.runtime.signing",
    "evaluate": "roadshift.runtime.api",
    "explain": "roadshift.adapt.workflows.explanation",
    "export_bundle": "roadshift.export.api",
    "generate_key": "roadshift.runtime.signing",
    "import_bundle": "roadshift.adapt.api",
    "judge_bundles": "roadshift.adapt.api",
    "load_private_key": "roadshift.runtime.signing",
    "open_bundle": "roadshift.runtime.bundle",
    "open_engine": "roadshift.runtime.engines",
    "open_frames": "roadshift.runtime.frames",
    "open_slots": "roadshift.runtime.slots",
    "open_trust": "roadshift.runtime.signing",
    "register_backend": "roadshift.runtime.engines.registry",
    "register_frame_reader": "roadshift.runtime.frames.readers",
    "register_live_source": "roadshift.runtime.frames.live_registry",
    "register_method": "roadshift.adapt.methods.registry",
    "register_network": "roadshift.adapt.networks.registry",
    "select_frames": "roadshift.adapt.workflows.selection",
    "sign_bundle": "roadshift.runtime.signing",
    "train_bundle": "roadshift.adapt.api",
    "verify_bundle": "roadshift.runtime.signing",
    "write_report": "roadshift.runtime.reporting.report",
    **dict.fromkeys(_ERRORS, "roadshift.runtime.errors"),
}

__all__ = [
    "AtpBlackBoxConfig",
    "AtpConfig",
    "Backend",
    "Batch",
    "BnStatsConfig",
    "Bundle",
    "BundleError",
    "ConfigError",
    "Context",
    "Das3BlackBoxConfig",
    "Das3Config",
    "Engine",
    "EngineError",
    "EntminConfig",
    "Evaluation",
    "Explanation",
    "FloorError",
    "Frame",
    "FrameError",
    "FrameSelection",
    "IapcConfig",
    "LabelError",
    "LabelSpace",
    "LabelSpaceError",
    "LdConfig",
    "Method",
    "MissingDependencyError",
    "NetworkError",
    "NightshiftConfig",
    "Output",
    "OutputError",
    "ParityError",
    "PartialExportError",
    "Pipeline",
    "ProgressUpdate",
    "PseudoConfig",
    "RoadshiftError",
    "RunInterrupted",
    "SegmentationNetwork",
    "Settings",
    "ShapeError",
    "ShotImConfig",
    "SignatureError",
    "SlotEngine",
    "SlotError",
    "Stage",
    "SupervisedConfig",
    "TentConfig",
    "ToneOnlyConfig",
    "TrainingConfig",
    "TrainingError",
    "UnhealthyError",
    "Verdict",
    "__version__",
    "adapt_black_box",
    "adapt_bundle",
    "collect_frames",
    "create_slots",
    "create_trust",
    "evaluate",
    "explain",
    "export_bundle",
    "generate_key",
    "import_bundle",
    "judge_bundles",
    "load_private_key",
    "open_bundle",
    "open_engine",
    "open_frames",
    "open_slots",
    "open_trust",
    "register_backend",
    "register_frame_reader",
    "register_live_source",
    "register_method",
    "register_network",
    "select_frames",
    "sign_bundle",
    "train_bundle",
    "verify_bundle",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "onnx", "onnxscript", "tomli"):
            raise
        errors = import_module("roadshift.runtime.errors")
        raise errors.MissingDependencyError(
            f"roadshift.{name} needs {error.name}: pip install 'roadshift[adapt]'."
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
