"""`roadshift compare`: methods from one source model, on the same frames, steps and seeds.

Each run leaves its bundle and a record in ``OUT/runs``, so that a comparison that was interrupted,
or is asked again with one method more, does only what is missing.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...runtime.arguments import ProgressUpdate
from ...runtime.atomic import output_errors
from ...runtime.bench.evaluation import evaluate
from ...runtime.bundle import Bundle, open_bundle
from ...runtime.engines import open_engine
from ...runtime.errors import (
    BundleError,
    FrameError,
    OutputError,
    RoadshiftError,
    RunInterrupted,
    Sentence,
    arg,
    marked,
)
from ...runtime.file_names import check_name
from ...runtime.frames import open_frames
from ...runtime.labels.metrics import evaluation_record
from ...runtime.labels.spaces import LabelMap
from ..data.input_hashes import hash_of, learned_from
from ..methods import hashed_settings
from ..models.loading import pick_device
from ..run.checksums import (
    DamagedError,
    content_hash,
    read_json_with_checksum,
    write_json_with_checksum,
)
from ..run.config import RunConfig
from ..run.events import Events
from ..run.options import RunOptions
from .ablations import Ablation
from .adaptation import adapt_bundle
from .method_variants import MethodVariant

RUNS = "runs"  # folder in the output: a bundle and a record for each run
Pairs = Sequence[tuple[Path, Path]]


@dataclass(frozen=True)
class VariantRun:
    """One run of a variant: what it took and what it gave, or why it could not."""

    seed: int
    bundle: Path
    evaluation: dict[str, Any]  # of the `eval` shape
    seconds: float = 0.0  # warm start, pseudo-labels and steps
    steps_per_s: float | None = None  # of the steps alone; None for a method without steps
    peak_mib: float = 0.0
    frames: int = 0
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None  # and nothing of the above but seed and bundle


@dataclass(frozen=True)
class Comparison:
    """Inputs of a comparison, and the results of each variant, seed by seed.

    Attributes:
        source: the source model.
        frames: target frames: folders, images, videos, bags; no label of theirs is read by a run.
        pairs: labelled images that every model is measured on.
        before: what the source model measures, of the `eval` shape.
        label_map: from the models' classes to those of the labels, which are the models' own
            without one.
        ablation: the table whose rows the variants are; None for methods side by side.
    """

    source: Bundle
    frames: tuple[str, ...]
    pairs: Pairs
    before: dict[str, Any]
    results: dict[MethodVariant, list[VariantRun]]
    label_map: LabelMap | None = None
    ablation: Ablation | None = None

    @property
    def succeeded(self) -> bool:
        """Tell whether any run of any method gave a result."""
        return any(run.error is None for runs in self.results.values() for run in runs)


def _say_nothing(_: str) -> None:
    """Drop what opening frames says: every run opens them and says it."""


def compare(
    source: Bundle,
    frames: Sequence[str],
    pairs: Pairs,
    variants: Sequence[MethodVariant],
    options: RunOptions,
    *,
    label_map: LabelMap | None = None,
    max_frames: int | None = None,
    ablation: Ablation | None = None,
) -> Comparison:
    """Run every variant with every seed, one at a time, and measure what each gives.

    Results in ``options.out`` that follow from the same settings, frames and source model are taken
    up, and a run that was interrupted goes on; with ``overwrite`` everything is done anew. A method
    that fails is a result with its error, and the others go on.

    Args:
        options: its ``out`` is the folder of the comparison.
        label_map: from the models' classes to those of the labels, and how label files encode
            these; they are in the bundle's label space unless given, see `LabelSpace.map_to`.
        max_frames: use at most so many target frames, evenly spaced.
        ablation: the table whose rows ``variants`` are, for the report.

    Raises:
        RunInterrupted: a signal came; calling it again goes on from there.
        RoadshiftError: of what concerns all methods: frames, labels, source, device, the folder.
    """
    check_comparison(options.out)
    # Before hours of work: the frames are there, and so is the device.
    open_frames(frames, on_skip=_say_nothing)
    device = pick_device(options.device)
    with output_errors(options.out):
        options.out.mkdir(exist_ok=True)
        (options.out / RUNS).mkdir(exist_ok=True)
    results: dict[MethodVariant, list[VariantRun]] = {variant: [] for variant in variants}
    total = sum(len(variant.configs) for variant in variants)
    done, now = 0, "source only"
    try:
        runner = _Runner(
            source,
            tuple(frames),
            pairs,
            options,
            label_map,
            max_frames,
            device,
            _content_of(learned_from(frames, max_frames), options.events),
            _content_of([file for pair in pairs for file in pair], options.events),
        )
        before = runner.source_only()
        for seed in range(max(len(variant.configs) for variant in variants)):
            for variant in variants:
                now = f"{variant.title}, seed {seed}"
                options.events.note(f"{now} (run {done + 1} of {total})")
                results[variant].append(runner.result(variant, seed, now))
                done += 1
    except RunInterrupted as error:
        how = f"without {arg('overwrite')} " if options.overwrite else ""
        raise RunInterrupted(
            f"Stopped at {now}, with {done} of {total} runs done; the same command {how}goes on "
            "from there."
        ) from error
    return Comparison(source, tuple(frames), pairs, before, results, label_map, ablation)


def check_comparison(out: Path) -> None:
    """Refuse a folder that holds something else than a comparison, or nothing.

    Raises:
        OutputError: it does, or it is a file, or its name is too long.
    """
    check_name(out, inside=True)
    with output_errors(out):
        names = {path.name for path in out.iterdir()} if out.exists() else set()
    if "manifest.json" in names:
        raise OutputError(f"{out}: is a bundle; give another {arg('out')} for the comparison.")
    begun = (out / RUNS / "source-only.json").is_file() or names <= {RUNS}
    if not begun:
        raise OutputError(
            f"{out}: exists and holds no comparison, so nothing there is overwritten; choose "
            "another name."
        )


@dataclass(frozen=True)
class _Runner:
    """Common inputs of all runs of a comparison; see `compare`."""

    source: Bundle
    frames: tuple[str, ...]
    pairs: Pairs
    options: RunOptions
    label_map: LabelMap | None
    max_frames: int | None
    device: torch.device
    frames_identity: str
    pairs_identity: str

    def source_only(self) -> dict[str, Any]:
        """The source model's record, of the `eval` shape."""
        path = self.options.out / RUNS / "source-only.json"
        record = self._kept(path, self.source.hash)
        return self._measured(path, record, self.source, "source only")

    def result(self, variant: MethodVariant, seed: int, title: str) -> VariantRun:
        """Adapt and measure, or take up what is there."""
        name = variant.run_name(seed)
        folder, path = self.options.out / RUNS / name, self.options.out / RUNS / f"{name}.json"
        config = variant.configs[seed]
        self.options.events.stop_if_requested()
        try:
            record = self._kept(path, self._fingerprint(config))
            bundle = _bundle_of(record, folder, self.source.allow_networks)
            if bundle is None:
                bundle, record = self._adapt(folder, path, record, config, title)
            else:
                self.options.events.note(f"taken up from {folder}")
            evaluation = self._measured(path, record, bundle, title)
        except (RunInterrupted, OutputError):
            raise
        except (RoadshiftError, torch.OutOfMemoryError) as error:
            sentence = marked(error)
            if isinstance(error, torch.OutOfMemoryError):
                sentence = "The GPU's memory is not enough; lower training.batch_size for all."
            self.options.events.note(Sentence(f"{title} failed: {sentence}"))
            return VariantRun(seed, folder, {}, error=Sentence(sentence))
        origin = bundle.manifest.provenance
        return VariantRun(
            seed,
            folder,
            evaluation,
            seconds=record["seconds"],
            steps_per_s=record["steps_per_s"],
            peak_mib=record["peak_mib"],
            frames=origin.frames or 0,
            device=origin.device or "",
            versions=origin.versions,
        )

    def _kept(self, path: Path, fingerprint: str) -> dict[str, Any]:
        """The record at ``path`` if it is of the same run; else that of one not yet begun."""
        try:
            record = {} if self.options.overwrite else _read_record(path)
        except (DamagedError, OSError) as error:
            self.options.events.note(f"{path}: damaged ({error}): doing it again")
            return {"run": fingerprint}
        if record.get("run") == fingerprint:
            return record
        if record:
            self.options.events.note(
                f"what {path} is about followed from other settings, frames, source model or "
                "version: doing it again"
            )
        return {"run": fingerprint}

    def _adapt(
        self, folder: Path, path: Path, record: dict[str, Any], config: RunConfig, title: str
    ) -> tuple[Bundle, dict[str, Any]]:
        """Adapt into ``folder``; what an earlier attempt of the same run left is continued."""
        gc.collect()  # the last run's network may hold itself in a cycle; this one needs its room
        torch.cuda.empty_cache()
        events, clock = self.options.events, _StepRate()

        def report(progress: ProgressUpdate) -> None:
            clock.tick()
            events.report(replace(progress, task=f"{title}, {progress.task}"))

        resume = record.get("begun", False)
        record = {"run": record["run"], "begun": True}
        write_json_with_checksum(path, record)
        bundle = adapt_bundle(
            self.source,
            self.frames,
            config,
            replace(
                self.options,
                out=folder,
                overwrite=True,
                device=self.device.type,
                resume=resume,
                began=None,
                events=replace(events, report=report),
            ),
            max_frames=self.max_frames,
        )
        outcome: Any = bundle.manifest.provenance.configuration["outcome"]
        whole = outcome["steps"] / outcome["seconds"] if outcome["steps"] else None
        record |= {
            "bundle": bundle.hash,
            "seconds": outcome["seconds"],
            "steps_per_s": clock.rate or whole,
            "peak_mib": outcome["peak_memory_mib"],
        }
        write_json_with_checksum(path, record)
        return bundle, record

    def _measured(
        self, path: Path, record: dict[str, Any], bundle: Bundle, title: str
    ) -> dict[str, Any]:
        """The bundle's record of the `eval` shape, kept at ``path`` from then on."""
        through = self.label_map
        space = through.target.to_dict() if through else None
        names = [] if through is None or through.is_identity else [through.name, through.to_dict()]
        fingerprint = hash_of([bundle.hash, self.pairs_identity, space, *names])
        if record.get("measured") != fingerprint:
            evaluation = self._evaluate(bundle, title)
            record = {**record, "measured": fingerprint, "evaluation": evaluation}
            write_json_with_checksum(path, record)
        kept: dict[str, Any] = record["evaluation"]
        return kept

    def _evaluate(self, bundle: Bundle, title: str) -> dict[str, Any]:
        report = self.options.events.measuring(f"{title}, measuring frames")
        with open_engine(bundle, backend="torch", device=self.device.type) as engine:
            through = self.label_map
            confusion = evaluate(engine, self.pairs, through, report)
            space = through.target if through else engine.label_space
            return evaluation_record(confusion, space, engine.backend, through)

    def _fingerprint(self, config: RunConfig) -> str:
        """Hash of everything that decides a run, besides the machine."""
        return hash_of(
            [
                __version__,
                self.source.hash,
                self.frames_identity,
                self.max_frames,
                hashed_settings(config),
                self.options.time_budget_s,
                self.device.type,
            ]
        )


class _StepRate:
    """Rate of a run's steps; pauses between stages hardly count."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def tick(self) -> None:
        """Record the end of a step."""
        self._times.append(time.monotonic())

    @property
    def rate(self) -> float | None:
        """Steps a second, from the median interval; None for fewer than two steps."""
        intervals = [b - a for a, b in zip(self._times, self._times[1:], strict=False)]
        return 1 / statistics.median(intervals) if intervals else None


def _bundle_of(
    record: dict[str, Any], folder: Path, allow_networks: Collection[str]
) -> Bundle | None:
    """The finished run's bundle, if it is the one that the record is about."""
    if "bundle" not in record:
        return None
    try:
        bundle = open_bundle(folder, allow_networks=allow_networks)
    except BundleError:
        return None
    return bundle if bundle.hash == record["bundle"] else None


def _read_record(path: Path) -> dict[str, Any]:
    """The document that was written there; empty if there is no such file.

    Raises:
        DamagedError: it was changed since.
        OSError: it cannot be read.
    """
    return read_json_with_checksum(path) if path.exists() else {}


def _content_of(files: Sequence[Path], events: Events) -> str:
    """Changes with the places and the content of ``files``."""
    try:
        content = content_hash(files, events)
    except OSError as error:
        raise FrameError(
            f"{error.filename}: cannot be read ({error.strerror or error})."
        ) from error
    return hash_of([[str(file.resolve()) for file in files], content])
