"""Learning and judging from Python: what `roadshift.adapt_bundle` and its siblings are.

Arguments have the same names and meanings in all of them:

    bundle          a `Bundle`, or its folder
    frames          a folder, an image or a video, or several of these; no label is read
    out             the bundle to write; ``overwrite`` replaces one that is there
    label_space     a `LabelSpace`, the name of a built-in one, or a JSON file
    network         a registered name, or package.module:factory, with its ``arguments``
    input_size      (width, height) that the model sees
    settings        the method's own, such as `IapcConfig`; what is not set is its variant's
    training        steps, batch, rates; what is not set is the method's
    config          any other settings: a TOML file, or the same as nested mappings
    device          "auto" (a GPU where it works), "cpu" or "cuda"
    time_budget_s   the run ends in time; memory_budget_mib: below that peak
    resume          go on with a run of the same arguments that was stopped or killed
    on_note         given a sentence on each thing worth knowing; logged unless given
    on_progress     given a `ProgressUpdate` every so often
    stop_requested  asked between two steps; True ends the run with `RunInterrupted`, to be resumed

Raises: a `RoadshiftError` that names the argument; nothing half-written is left at ``out``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..runtime.arguments import (
    Source,
    Sources,
    size_of,
    sources,
    space_of,
    triple_of,
)
from ..runtime.bundle import Bundle, opened
from ..runtime.errors import ConfigError, FrameError, LabelError, OutputError, arg, naming
from ..runtime.given import path_of, switches, whole_of
from ..runtime.labels import LabelSpace
from ..runtime.notes import log_note
from ..runtime.verdict import Verdict
from .arguments import (
    Config,
    Note,
    OnProgress,
    chosen_method,
    given_settings,
    network_of,
    read_config,
    resolved_settings,
    run_options,
    typed_settings,
)
from .judging import judge
from .methods import DEFAULT
from .methods.supervised import Supervised
from .models.loading import pick_device
from .networks import check_network
from .run.config import Settings, TrainingConfig
from .run.events import Events
from .training.time_allocation import patience_s
from .workflows import adaptation
from .workflows import import_bundle as importing
from .workflows.search import search_settings
from .workflows.search_grid import search_grid
from .workflows.training_request import training_settings, training_start


@naming(out=OutputError)
def import_bundle(
    weights: Source,
    *,
    network: str | None = None,
    label_space: LabelSpace | Source | None = None,
    out: Source,
    arguments: Mapping[str, Any] | None = None,
    input_size: tuple[int, int] | None = None,
    colour: Literal["rgb", "bgr"] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: str | None = None,
    key: str | None = None,
    overwrite: bool = False,
    on_note: Note = log_note,
) -> Bundle:
    """Make a bundle of a published checkpoint, or of one's own.

    Args:
        weights: a .pth, .pt or .safetensors file, with its ``network`` and ``label_space``; one
            that would run code is refused. Or "hf:FOLDER", which says itself what is None here.
        input_size: (width, height); (1024, 512) unless given or said by the folder.
        colour: order of channels; it, ``mean`` and ``std`` are the published ones unless given.
        mean, std: in 0-255 units, in the order of ``colour``.
        output: path of the logits in what the network returns, where that is not clear.
        key: where in the file the weights lie, such as "model.ema"; found unless given.

    Raises:
        NetworkError: the file is no checkpoint, or does not fit the network and the label space.
        ConfigError, LabelSpaceError, OutputError: an argument is malformed.
    """
    if colour not in (None, "rgb", "bgr"):
        raise ConfigError(f"{arg('colour')}: {colour!r} is neither 'rgb' nor 'bgr'.")
    path_of("weights", weights)
    switches(overwrite=overwrite)
    network_of("hf" if network is None else network, arguments, output)
    if network is not None:
        check_network("network", network)
    if key is not None and not isinstance(key, str):
        raise ConfigError(f"{arg('key')}: {key!r} is no name of a key, such as 'model.ema'.")
    return importing.import_bundle(
        weights,
        network,
        None if label_space is None else space_of(label_space),
        path_of("out", out),
        input_size=None if input_size is None else size_of("input_size", input_size),
        colour=colour,
        mean=None if mean is None else triple_of("mean", mean),
        std=None if std is None else triple_of("std", std, positive=True),
        arguments=arguments,
        output=output,
        key=key,
        overwrite=overwrite,
        note=on_note,
    )


@naming(images=FrameError, labels=LabelError, out=OutputError)
def train_bundle(
    images: Source,
    labels: Source,
    *,
    network: str | None = None,
    label_space: LabelSpace | Source | None = None,
    out: Source,
    arguments: Mapping[str, Any] | None = None,
    input_size: tuple[int, int] | None = None,
    initial: Bundle | Source | None = None,
    output: str | None = None,
    settings: Settings | None = None,
    training: TrainingConfig | None = None,
    config: Config | None = None,
    seed: int | None = None,
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
    """Train a model on labelled images.

    Args:
        images, labels: folders; Cityscapes, ACDC and plain layouts are found by themselves.
        network, label_space: left out where ``initial`` is a bundle.
        input_size: (width, height); the bundle's, or (1024, 512), unless given.
        initial: a bundle to learn on from, by the variant "finetune" unless ``settings`` say
            another; or weights to start from, of the same network or of its backbone, as ImageNet's
            are; random ones otherwise.
        output: path of the logits in what the network returns, where that is not clear.
        settings: a `SupervisedConfig`.

    Raises:
        RoadshiftError: see the top of this module.
    """
    if initial is None or isinstance(initial, Bundle):
        start_from: Bundle | Path | None = initial
    else:
        path = path_of("initial", initial)
        start_from = opened(path, "initial") if path.is_dir() else path
    given = given_settings(Supervised.name, settings, training, config)
    resolved = training_settings(given, start_from, seed)
    if network is not None:
        network_of(network, arguments, output)
        check_network("network", network)
    start = training_start(
        start_from,
        resolved,
        network=network,
        arguments=arguments,
        output=output,
        label_space=None if label_space is None else space_of(label_space),
        size=None if input_size is None else size_of("input_size", input_size),
    )
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
    return adaptation.train_bundle(
        path_of("images", images),
        path_of("labels", labels),
        start.label_space,
        start.network,
        start.seen,
        resolved,
        options,
        initial=start.initial,
    )


@naming(frames=FrameError, out=OutputError)
def adapt_bundle(
    bundle: Bundle | Source,
    frames: Sources,
    *,
    out: Source,
    method: str | None = None,
    settings: Settings | None = None,
    training: TrainingConfig | None = None,
    config: Config | None = None,
    seed: int | None = None,
    search: Mapping[str, Sequence[Any]] | None = None,
    gate: bool = True,
    older: Sources = (),
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
    """Adapt a model to unlabelled frames.

    The result is written whatever the gate says of it: ask ``result.manifest.verdict``.

    Args:
        method: its name; that of ``config``, or "nightshift", unless given.
        search: settings to choose without labels, ``{"weight_pe": [0.2, 0.5]}``: every combination
            is run, and the best result written; its configuration has the table under "search".
        gate: set some of the frames aside and judge the result on them, without labels, against
            ``bundle``; False learns from all of them, and there is no verdict.
        older: frames of conditions that ``bundle`` serves, for the gate: nothing is learned from
            them, and a result that has forgotten them is not promoted.
        max_frames: use at most so many, evenly spaced; None: all.

    Raises:
        RoadshiftError: see the top of this module.
    """
    read = read_config(config)
    switches(gate=gate)
    name, chosen = chosen_method(method, read, DEFAULT)
    if chosen.black_box:
        raise ConfigError(
            f"{arg('method')}: {name} learns from the answers of a black box, which "
            "adapt_black_box gives it; call that, or choose another method."
        )
    resolved = resolved_settings(name, settings, training, read, seed)
    if max_frames is not None:
        whole_of("max_frames", max_frames)
    own_steps = (training is not None and "steps" in training.model_fields_set) or (
        "steps" in read.get("training", {}) or "training.steps" in (search or {})
    )
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
        patience=patience_s(name, pick_device(device), own_steps),
    )
    asked = opened(bundle), sources("frames", frames)
    past = sources("older", older, least=0)
    if not search:
        return adaptation.adapt_bundle(
            *asked, resolved, options, max_frames=max_frames, gated=gate, older=past
        )
    if not gate:
        raise ConfigError(f"{arg('search')}: chooses by what the gate measures; leave it on.")
    fixed = typed_settings(name, settings, training)
    given = given_settings(name, settings, training, read)
    grid = search_grid(name, given, search, fixed=fixed, seed=seed)
    return search_settings(*asked, grid, options, max_frames=max_frames, older=past)


@naming(frames=FrameError)
def judge_bundles(
    incumbent: Bundle | Source,
    candidate: Bundle | Source,
    frames: Sources,
    *,
    older: Sources = (),
    max_frames: int = judge.JUDGED_ON,
    device: str = "auto",
    on_note: Note = log_note,
    on_progress: OnProgress = lambda _: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Verdict:
    """Judge, without labels, whether ``candidate`` should replace ``incumbent``.

    Args:
        frames: that neither learned from.
        older: frames of other conditions, which the incumbent serves: a candidate that has
            forgotten them is not promoted, a person is asked.
        max_frames: look at no more, evenly spaced.

    Raises:
        RoadshiftError: see the top of this module.
    """
    whole_of("max_frames", max_frames)
    return judge.judge_bundles(
        opened(incumbent, "incumbent"),
        opened(candidate, "candidate"),
        sources("frames", frames),
        device=device,
        max_frames=max_frames,
        older=sources("older", older, least=0),
        events=Events(on_note, report_phase=on_progress, stop_requested=stop_requested),
    )
