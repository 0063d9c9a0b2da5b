"""Measuring a bundle against ground truth: `roadshift.evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from .arguments import LabelMapSource, ProgressUpdate, Source
from .bench.evaluation import check_label_map, labels_through, measure
from .bundle import Bundle
from .engines import Engine, open_engine
from .errors import FrameError, LabelError, naming
from .folders.label_pairs import labelled_pairs
from .given import path_of
from .labels import LabelSpace
from .labels.spaces import LabelMap
from .notes import log_note
from .printable import encodable


@dataclass(frozen=True)
class Evaluation:
    """Agreement of a model's labels with ground truth.

    Attributes:
        miou: mean of ``iou`` over the classes that occur, percent.
        iou: intersection over union of each class, percent; None for one that does not occur.
        pixel_accuracy: share of the labelled pixels that are right, percent.
        frames: that were measured.
        ci95: 95 % confidence interval of ``miou`` over the frames.
        engine: the backend that made the labels.
        images: their folder, as it was given; bytes of its name that are no UTF-8 as escapes.
        label_map: the map from the model's classes to those of the labels; None where each class
            stayed itself.
    """

    miou: float
    iou: Mapping[str, float | None]
    pixel_accuracy: float
    frames: int
    ci95: tuple[float, float]
    engine: str
    images: str = ""
    label_map: Mapping[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """The evaluation as ``roadshift eval --json`` prints it."""
        found = asdict(self) | {"ci95": list(self.ci95)}
        if self.label_map is None:
            del found["label_map"]
        return found


@naming(images=FrameError, labels=LabelError)
def evaluate(
    bundle: Bundle | Engine | Source,
    images: Source,
    labels: Source,
    *,
    label_space: LabelSpace | Source | None = None,
    label_map: LabelMapSource = None,
    backend: str = "auto",
    device: str = "auto",
    artefact: str | None = None,
    threads: int | None = None,
    on_note: Callable[[str], None] = log_note,
    on_progress: Callable[[ProgressUpdate], None] = lambda _: None,
) -> Evaluation:
    """Segment labelled images and compare each with its label map, at the label map's size.

    Args:
        bundle: a bundle or its folder; or an engine, which then stays open, and to which
            ``backend``, ``device``, ``artefact`` and ``threads`` do not apply.
        images: their folder.
        labels: the folder of their label maps.
        label_space: of the label maps; the model's own unless given.
        label_map: from the model's classes to those of ``label_space``: a JSON file, or names;
            None: the classes of the same names, or a built-in map.
        backend, device, artefact, threads: see `open_engine`.
        on_note: given a sentence on each thing that the figures depend on.
        on_progress: given the images done.

    Raises:
        BundleError, EngineError: there is no engine for the bundle.
        LabelSpaceError: no label map leads to ``label_space``.
        FrameError, LabelError: images or label maps are missing, damaged, or do not fit.
    """
    folders = path_of("images", images), path_of("labels", labels)
    if not isinstance(label_map, LabelMap):
        check_label_map(label_space, label_map)  # before an engine is opened

    def report(done: int, total: int) -> None:
        on_progress(ProgressUpdate("eval", "frames", done, total))

    opened: AbstractContextManager[Engine]
    if isinstance(bundle, Engine):
        opened = nullcontext(bundle)
    else:
        opened = open_engine(
            bundle, backend=backend, device=device, artefact=artefact, threads=threads
        )
    with opened as engine:
        pairs = labelled_pairs(*folders, note=on_note)
        mapping = labels_through(engine.label_space, label_space, label_map, note=on_note)
        record = measure(engine, pairs, mapping, report, note=on_note)
    record |= {"ci95": tuple(record["ci95"]), "images": encodable(str(images))}
    return Evaluation(**record)
