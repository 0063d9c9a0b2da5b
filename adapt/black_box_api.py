"""Learning from a black box, from Python: what `roadshift.adapt_black_box` is.

Arguments that `adapt/api.py` explains have the same names and meanings here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..runtime.arguments import Source, Sources, size_of, sources, triple_of
from ..runtime.bundle import Bundle
from ..runtime.errors import ConfigError, FrameError, OutputError, arg, naming
from ..runtime.given import above_zero, path_of, whole_of
from ..runtime.labels import LabelSpace
from ..runtime.notes import log_note
from .arguments import (
    Config,
    Note,
    OnProgress,
    chosen_method,
    read_config,
    resolved_settings,
    run_options,
)
from .black_boxes import BoxWiring, Student
from .black_boxes.base import Colour, Holds
from .networks import check_network
from .run.config import Settings, TrainingConfig
from .workflows import adaptation

DEFAULT = "atp_black_box"


@naming(frames=FrameError, out=OutputError)
def adapt_black_box(
    black_box: Source | Callable[..., Any],
    frames: Sources,
    *,
    student: str,
    out: Source,
    label_space: LabelSpace | Source | None = None,
    output: str | int | None = None,
    colour: Colour | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    answers: Holds | None = None,
    answer_timeout_s: float = 60.0,
    arguments: Mapping[str, Any] | None = None,
    input_size: tuple[int, int] | None = None,
    initial: Source | None = None,
    student_output: str | None = None,
    method: str | None = None,
    settings: Settings | None = None,
    training: TrainingConfig | None = None,
    config: Config | None = None,
    seed: int | None = None,
    max_frames: int | None = 3000,
    device: str = "auto",
    time_budget_s: float | None = None,
    memory_budget_mib: float | None = None,
    checkpoint_every_s: float = 60.0,
    resume: bool = False,
    overwrite: bool = False,
    on_note: Note = log_note,
    on_progress: OnProgress = lambda _: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Bundle:
    """Teach a student from what a source model that only answers says about unlabelled frames.

    Args:
        black_box: a function of a uint8 RGB image (H, W, 3) that gives probabilities (K, h, w) or
            class indices (h, w), or its name; a folder of predictions; an .onnx, .xml (OpenVINO) or
            .tflite file; an exported bundle; or the http:// address of a service on this machine.
        student: the network that learns, with its ``arguments``.
        label_space: of the answers; needed unless the black box says it.
        output: of a file, which of its outputs answers, by name or by number from 0.
        colour, mean, std: preprocessing of a file's network, in 0-255 units; RGB and ImageNet's
            unless given.
        answers: "logits", "probabilities" or "classes"; found from the first answer unless given.
        answer_timeout_s: the longest that one answer of a service may take.
        input_size: (width, height) that the student sees; the black box's own unless given.
        initial: weights that the student starts from; random ones otherwise.
        student_output: path of the logits in what the student returns, where that is not clear.
        method: "atp_black_box" or "das3_black_box"; that of ``config``, or the first, unless given.

    Raises:
        RoadshiftError: see the top of `adapt/api.py`; what the black box has answered is kept, and
            ``resume`` asks for the rest.
    """
    read = read_config(config)
    name, chosen = chosen_method(method, read, DEFAULT)
    if not chosen.black_box:
        raise ConfigError(
            f"{arg('method')}: {name} needs the source model itself, not a black box; call "
            "adapt_bundle, or choose another method."
        )
    resolved = resolved_settings(name, settings, training, read, seed)
    if max_frames is not None:
        whole_of("max_frames", max_frames)
    above_zero("answer_timeout_s", answer_timeout_s)
    options = run_options(
        path_of("out", out),
        overwrite,
        device,
        resume,
        checkpoint_every_s,
        time_budget_s,
        memory_budget_mib,
        on_note,
        on_progress,
        stop_requested,
    )
    if student is not None:
        check_network("student", student)
    return adaptation.adapt_black_box(
        black_box,
        sources("frames", frames),
        resolved,
        options,
        Student(
            student,
            label_space,
            None if input_size is None else size_of("input_size", input_size),
            None if initial is None else path_of("initial", initial),
            student_output,
            arguments,
        ),
        wiring=BoxWiring(
            output,
            colour,
            None if mean is None else triple_of("mean", mean),
            None if std is None else triple_of("std", std, positive=True),
            answers,
            answer_timeout_s,
        ),
        max_frames=max_frames,
    )
