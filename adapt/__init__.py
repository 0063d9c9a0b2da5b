"""Everything that learns: networks, losses, methods and the trainer. Needs torch."""

from .black_boxes import BoxWiring, Student
from .methods import METHODS, choose_method, find_method, register_method, resolve_config
from .models.loading import load_network
from .models.torch_engine import TorchEngine
from .networks import NETWORKS, build_network
from .run.events import Events
from .run.options import RunOptions
from .workflows.adaptation import adapt_black_box, adapt_bundle, train_bundle

__all__ = [
    "METHODS",
    "NETWORKS",
    "BoxWiring",
    "Events",
    "RunOptions",
    "Student",
    "TorchEngine",
    "adapt_black_box",
    "adapt_bundle",
    "build_network",
    "choose_method",
    "find_method",
    "load_network",
    "register_method",
    "resolve_config",
    "train_bundle",
]
