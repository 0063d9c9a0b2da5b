"""How fast an engine is, stage by stage, and whether its labels are still right.

Closed loop, single stream: the next frame starts when the last one is done (MLPerf Inference,
single-stream scenario). Frames are decoded before, so a query is a frame in memory -> its labels.
"""

from __future__ import annotations

import gc
import logging
import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle, open_bundle
from .engine import Engine, open_engine, runnable_artefacts
from .errors import ConfigError, FrameError, LabelError
from .evaluation import evaluate
from .frames import Frame, labelled_pairs, open_frames
from .metrics import ConfusionMatrix, label_agreement
from .preprocess import fit_frame, restore_labels

STABLE_COV_PERCENT = 2.5  # above it, a row carries a warning
MAX_FRAMES = 64  # of a source, kept in memory and cycled through


def bench_engine(
    engine: Engine,
    frames: Iterable[Frame] | None = None,
    warmup: int = 10,
    queries: int = 100,
    labels: Sequence[NDArray[np.uint8]] | None = None,
    reference: Engine | Sequence[NDArray[np.uint8]] | None = None,
) -> dict[str, Any]:
    """One row of the table that compares artefacts.

    Args:
        engine: what is measured.
        frames: cycled through. All frames of a list; of a source the first 64, whose reading is
            the stage "decode". None takes random textures of the engine's input size.
        warmup: queries that are not counted.
        queries: queries that are; 1,024 or more for a figure that is published.
        labels: class indices of the frames, (H, W) uint8 each, in their order, for "miou".
        reference: whose labels "label_agreement" is with, such as the fp32 engine; or those
            labels, one map a frame, so that no second engine counts for "peak_mib".

    Returns:
        JSON values. "artefact", "backend", "precision", "device". Milliseconds a query: "p50_ms",
        "p90_ms", "p99_ms", "max_ms" and "stages_ms", means that add up: "preprocess" (to the input
        size), "infer" (the engine, with the copies to and from its device), "postprocess" (back to
        the frame's size); also, outside of the queries, "decode" if ``frames`` were read here from
        their source. "fps": queries a second. "cov": standard deviation over mean, percent, and
        "warning": a sentence if that is above 2.5, else None. "outside_engine_percent": the share
        of preprocess and postprocess. "peak_mib": the highest resident memory of this process
        during the run, GPU memory not included. "label_agreement" and "miou": percent over the
        frames, each once, or None. "frames", "queries", "warmup": what was run.

    Raises:
        ConfigError: ``queries`` is below 1 or ``warmup`` below 0.
        FrameError: there are no frames.
        LabelError: there are fewer label maps than frames, or one does not fit its frame.
    """
    if queries < 1 or warmup < 0:
        raise ConfigError(
            f"A bench needs at least 1 query and no negative warm-up, not {queries} and {warmup}."
        )
    _reset_peak_memory()
    size = engine.input.width, engine.input.height
    chosen, decode_ms = _read(frames) if frames is not None else (random_frames(*size), None)
    quality = _quality(engine, chosen, labels, reference)  # before the clock, warms up as well
    for index in range(warmup):
        _query(engine, chosen[index % len(chosen)])
    gc.collect()
    started = perf_counter()
    stages = np.array([_query(engine, chosen[i % len(chosen)]) for i in range(queries)]) * 1e3
    seconds = perf_counter() - started
    totals = stages.sum(axis=1)
    preprocess, infer, postprocess = (float(mean) for mean in stages.mean(axis=0))
    p50, p90, p99 = (float(p) for p in np.percentile(totals, [50, 90, 99]))
    cov = float(100 * totals.std() / totals.mean())
    decode = {} if decode_ms is None else {"decode": decode_ms}
    return {
        "artefact": engine.artefact,
        "backend": engine.backend,
        "precision": engine.precision,
        "device": engine.device,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "max_ms": float(totals.max()),
        "fps": queries / seconds,
        "cov": cov,
        "warning": _warning(engine, cov),
        "peak_mib": peak_memory_mib(),
        **quality,
        "stages_ms": {
            **decode,
            "preprocess": preprocess,
            "infer": infer,
            "postprocess": postprocess,
        },
        "outside_engine_percent": 100 * (preprocess + postprocess) / float(totals.mean()),
        "frames": f"{len(chosen)} {'given' if frames is not None else 'random textures'}",
        "queries": queries,
        "warmup": warmup,
    }


def bench_bundle(
    bundle: Bundle | str | Path,
    *,
    frames: str | Path | None = None,
    labels: str | Path | None = None,
    queries: int = 200,
    warmup: int = 10,
    device: str = "auto",
    threads: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """A row of `bench_engine` for each artefact of a bundle that can run here.

    Label agreement is with the torch model where torch and the weights are there, and otherwise
    with the first fp32 artefact; that row's own is 100. mIoU is over all labelled frames.

    Args:
        frames: a folder, an image or a video; random textures unless given.
        labels: the folder of the frames' label maps.
        note: called with a sentence on what runs and why, and for frames that are skipped.

    Raises:
        ConfigError: labels without frames.
        EngineError: the bundle has nothing that can run here as asked.
        BundleError, FrameError, LabelError: something cannot be read.
    """
    if labels is not None and frames is None:
        raise ConfigError("Labels need the frames that they belong to; give --frames as well.")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    pairs = labelled_pairs(str(frames), labels) if labels is not None else None
    source = open_frames(frames, on_skip=note) if frames is not None else None
    artefacts = runnable_artefacts(opened)
    best = min(artefacts, key=lambda a: (a.kind != "weights", a.precision != "fp32"))
    with open_engine(opened, artefact=best.path, device=device, threads=threads) as engine:
        size = engine.input.width, engine.input.height
        read = random_frames(*size) if source is None else _read(source)[0]
        reference = [engine.segment(frame) for frame in read]
        del read
    rows = []
    for artefact in artefacts:
        with open_engine(opened, artefact=artefact.path, device=device, threads=threads) as engine:
            note(engine.reason)
            row = bench_engine(engine, source, warmup, queries, reference=reference)
            if pairs is not None:
                row["miou"] = evaluate(engine, pairs).miou()
            rows.append(row)
    return rows


def random_frames(width: int, height: int, count: int = 4, seed: int = 0) -> list[Frame]:
    """Smooth random textures, for a bench without frames; the time of no engine depends on them."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 9, 16, 3), dtype=np.uint8)
    return [
        Frame(fit_frame(image, width, height), f"random_{index}", 0)
        for index, image in enumerate(coarse)
    ]


def _read(frames: Iterable[Frame]) -> tuple[list[Frame], float | None]:
    """The first frames, and the mean milliseconds to read one unless they are in memory already."""
    started = perf_counter()
    chosen = list(frames if isinstance(frames, Sequence) else islice(frames, MAX_FRAMES))
    seconds = perf_counter() - started
    if not chosen:
        raise FrameError("No frames to measure with; give one, or None for random textures.")
    return chosen, None if isinstance(frames, Sequence) else 1e3 * seconds / len(chosen)


def _query(engine: Engine, frame: Frame) -> tuple[float, float, float]:
    """Seconds of preprocess, infer and postprocess of one frame."""
    started = perf_counter()
    fitted = fit_frame(frame.image, engine.input.width, engine.input.height)
    ready = perf_counter()
    labels = engine.infer(fitted[None])
    inferred = perf_counter()
    restore_labels(labels[0], frame.image.shape[1], frame.image.shape[0])
    return ready - started, inferred - ready, perf_counter() - inferred


def _quality(
    engine: Engine,
    frames: Sequence[Frame],
    labels: Sequence[NDArray[np.uint8]] | None,
    reference: Engine | Sequence[NDArray[np.uint8]] | None,
) -> dict[str, float | None]:
    """Agreement with the reference and mIoU over the frames, each once."""
    if labels is not None and len(labels) < len(frames):
        raise LabelError(
            f"There are {len(labels)} label maps for {len(frames)} frames; give one for each."
        )
    predictions = [engine.segment(frame) for frame in frames]
    agreement = miou = None
    if isinstance(reference, Engine):
        reference = [reference.segment(frame) for frame in frames]
    if reference is not None:
        percents = [label_agreement(p, r) for p, r in zip(predictions, reference, strict=True)]
        agreement = float(np.average(percents, weights=[p.size for p in predictions]))
    if labels is not None:
        space = engine.label_space
        confusion = ConfusionMatrix(space.num_classes, space.ignore_index)
        for frame, prediction, truth in zip(frames, predictions, labels, strict=False):
            if truth.shape != prediction.shape:
                raise LabelError(
                    f"The labels of {frame.name} are {truth.shape[1]}x{truth.shape[0]} and the "
                    f"frame is {prediction.shape[1]}x{prediction.shape[0]}; they must be equal."
                )
            confusion.update(prediction, truth)
        miou = confusion.miou()
    return {"label_agreement": agreement, "miou": miou}


def _warning(engine: Engine, cov: float) -> str | None:
    if cov <= STABLE_COV_PERCENT:
        return None
    sentence = (
        f"{engine.artefact or engine.backend}: times vary by {cov:.1f} % (coefficient of variation "
        f"above {STABLE_COV_PERCENT} %); run it longer, on a machine that does nothing else and "
        "keeps its clocks."
    )
    logging.getLogger("roadshift").warning(sentence)
    return sentence


def _reset_peak_memory() -> None:
    """Start the peak of resident memory anew, where Linux lets a process do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then peak_memory_mib() is since the start of the process


def peak_memory_mib() -> float:
    """The highest resident memory of this process since the last reset, or ever, in MiB."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
