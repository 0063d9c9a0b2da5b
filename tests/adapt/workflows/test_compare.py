"""Comparing methods: what runs, what is taken up and what is done anew, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from roadshift.adapt import METHODS, RunOptions, adapt_bundle
from roadshift.adapt.methods import resolve_config
from roadshift.adapt.workflows import compare as module
from roadshift.adapt.workflows.compare import Comparison, check_comparison, compare
from roadshift.adapt.workflows.compare_request import measured_pairs
from roadshift.adapt.workflows.compare_rows import comparison_rows
from roadshift.adapt.workflows.method_variants import choose_variants
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bench.evaluation import evaluate
from roadshift.runtime.bundle import Bundle, BundleWriter, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import (
    ConfigError,
    FrameError,
    LabelError,
    OutputError,
    RunInterrupted,
)
from run_cases import run_options
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("training.batch_size=2", "training.amp=off", "tone=none", "bn_batch_size=3")
ONLINE = "iapc.pseudo_labels=online"


@pytest.fixture(scope="module")
def labels_dir(frames_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label map of blocks for each frame, a corner of it unlabelled."""
    folder, rng = tmp_path_factory.mktemp("labels"), np.random.default_rng(3)
    for path in sorted(frames_dir.iterdir()):
        labels = rng.integers(0, 4, (4, 6)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
        labels[:8, :8] = 255
        assert cv2.imwrite(str(folder / path.name), labels)
    return folder


@dataclass
class Bench:
    """Comparisons of tiny runs into ``out``; ``adapted`` names the runs that were carried out."""

    source: Bundle
    frames: Path
    labels: Path
    out: Path
    adapted: list[str]
    measured: list[str]

    def __call__(
        self,
        methods: str = "bn_stats,iapc",
        *assignments: str,
        seeds: int = 1,
        steps: int | None = 2,
        overwrite: bool = False,
        max_frames: int | None = None,
        out: Path | None = None,
        **options: Any,
    ) -> Comparison:
        self.adapted.clear()
        self.measured.clear()
        own = [ONLINE] if "iapc" in methods else []
        variants = choose_variants(
            methods.split(","), [*SMALL, *own, *assignments], seeds=seeds, steps=steps
        )
        return compare(
            self.source,
            [str(self.frames)],
            measured_pairs([str(self.frames)], None, self.labels),
            variants,
            run_options(out or self.out, overwrite=overwrite, **options),
            max_frames=max_frames,
        )


@pytest.fixture
def bench(
    source: Bundle,
    frames_dir: Path,
    labels_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """A `Bench` over copies of the frames and labels, which a test may change."""
    for folder in (frames_dir, labels_dir):
        (tmp_path / folder.name).mkdir()
        for path in folder.iterdir():
            (tmp_path / folder.name / path.name).write_bytes(path.read_bytes())
    frames, labels = tmp_path / frames_dir.name, tmp_path / labels_dir.name
    made = Bench(source, frames, labels, tmp_path / "out", [], [])

    def adapting(source: Bundle, frames: Any, config: Any, job: RunOptions, **more: Any) -> Bundle:
        made.adapted.append(job.out.name)
        return adapt_bundle(source, frames, config, job, **more)

    def measuring(engine: Any, *more: Any) -> Any:
        made.measured.append(engine.label_space.name)
        return evaluate(engine, *more)

    monkeypatch.setattr(module, "adapt_bundle", adapting)
    monkeypatch.setattr(module, "evaluate", measuring)
    monkeypatch.setattr(module.gc, "collect", lambda: 0)  # it takes longer than a tiny run
    return made


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def outcomes(comparison: Comparison) -> dict[str, list[Any]]:
    """The part of a comparison's rows that does not depend on the clock."""
    return {
        variant.title: [(run.seed, run.evaluation, run.frames, run.error) for run in runs]
        for variant, runs in comparison.results.items()
    }


# --- what runs -----------------------------------------------------------------------------------


def test_every_run_is_the_one_that_adapt_makes_and_eval_measures(
    bench: Bench, tmp_path: Path
) -> None:
    comparison = bench("bn_stats,iapc")
    pairs = measured_pairs([str(bench.frames)], None, bench.labels)
    for variant, runs in comparison.results.items():
        for seed, run in enumerate(runs):
            own = [ONLINE, "training.steps=2"] if variant.method == "iapc" else []
            config = resolve_config(variant.method, assignments=[*SMALL, *own], seed=seed)
            alone = tmp_path / f"{variant.title}-{seed}"
            made = adapt_bundle(
                bench.source, [bench.frames], config, RunOptions(alone, device="cpu")
            )
            assert_same_weights(run.bundle, alone)
            with open_engine(made, backend="torch", device="cpu") as engine:
                confusion = evaluate(engine, pairs)
            assert run.evaluation["miou"] == confusion.miou()
            assert run.frames == 6
    with open_engine(bench.source, backend="torch", device="cpu") as engine:
        assert comparison.before["miou"] == evaluate(engine, pairs).miou()


def test_steps_are_of_methods_that_take_steps_and_a_section_is_of_its_own_method(
    bench: Bench,
) -> None:
    comparison = bench("bn_stats,iapc", "iapc.weight_pe=0.7", steps=3)
    configurations = {
        variant.title: open_bundle(runs[0].bundle).manifest.provenance.configuration
        for variant, runs in comparison.results.items()
    }
    taken: Any = {title: found["outcome"] for title, found in configurations.items()}
    assert {title: outcome["steps"] for title, outcome in taken.items()} == {
        "bn_stats": 0,
        "iapc": 3,
    }
    section: Any = configurations["iapc"]["method_config"]
    assert section["weight_pe"] == 0.7
    results = {variant.title: runs[0] for variant, runs in comparison.results.items()}
    assert results["bn_stats"].steps_per_s is None
    assert results["iapc"].steps_per_s is not None
    assert results["iapc"].steps_per_s > 0
    assert all(run.peak_mib > 10 and run.seconds > 0 for run in results.values())


def test_no_label_is_read_while_a_method_adapts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapting = module.adapt_bundle

    def without_labels(*arguments: Any, **more: Any) -> Bundle:
        aside = bench.labels.rename(bench.labels.with_name("aside"))
        try:
            return adapting(*arguments, **more)
        finally:
            aside.rename(bench.labels)

    monkeypatch.setattr(module, "adapt_bundle", without_labels)
    assert bench().succeeded
    assert len(bench.adapted) == 2


def test_progress_says_which_run_and_which_stage(bench: Bench) -> None:
    notes: list[str] = []
    steps: list[ProgressUpdate] = []
    bench("bn_stats,iapc", note=notes.append, report=steps.append)
    assert [note for note in notes if "(run" in note] == [
        "bn_stats, seed 0 (run 1 of 2)",
        "iapc, seed 0 (run 2 of 2)",
    ]
    assert [(s.task, s.done, s.total) for s in steps if "measuring" not in s.task] == [
        ("iapc, seed 0, iapc", 1, 2),
        ("iapc, seed 0, iapc", 2, 2),
    ]
    measuring = [(s.task, s.done) for s in steps if s.task.startswith("source only")]
    assert measuring == [("source only, measuring frames", done) for done in range(1, 7)]


# --- what is taken up ----------------------------------------------------------------------------


def test_the_same_comparison_again_runs_and_measures_nothing(bench: Bench) -> None:
    first = bench(seeds=2)
    again = bench(seeds=2)
    assert (bench.adapted, bench.measured) == ([], [])
    assert comparison_rows(again) == comparison_rows(first)


def test_a_method_or_a_seed_more_runs_only_that(bench: Bench) -> None:
    bench("bn_stats")
    bench("iapc,bn_stats")
    assert bench.adapted == ["iapc-roadshift-seed0"]
    bench("iapc,bn_stats", seeds=2)
    assert bench.adapted == ["iapc-roadshift-seed1", "bn_stats-roadshift-seed1"]


def test_a_comparison_interrupted_again_and_again_goes_on_to_the_same_end(
    bench: Bench, tmp_path: Path
) -> None:
    whole = bench(seeds=2, out=tmp_path / "whole")
    order = [f"{method}-roadshift-seed{seed}" for seed in (0, 1) for method in ("bn_stats", "iapc")]
    assert bench.adapted == order
    heard: list[ProgressUpdate] = []
    notes: list[str] = []
    for stage, step, begun, done in (
        ("iapc, seed 0, iapc", 1, order[:2], 1),
        ("iapc, seed 1, iapc", 2, order[1:], 3),  # after its last step
        ("iapc, seed 1, measuring", 3, order[3:], 3),
    ):

        def report(progress: ProgressUpdate, stage: str = stage, step: int = step) -> None:
            if progress.task.startswith(stage) and progress.done == step:
                heard.append(progress)

        heard.clear()
        with pytest.raises(RunInterrupted) as stopped:
            bench(seeds=2, report=report, stop_requested=lambda: bool(heard), note=notes.append)
        assert str(stopped.value) == (
            f"Stopped at {stage.rpartition(', ')[0]}, with {done} of 4 runs done; the same command "
            "goes on from there."
        )
        assert bench.adapted == begun
    resumed = bench(seeds=2)
    assert (bench.adapted, len(bench.measured)) == ([], 1)
    assert [note for note in notes if "resuming" in note] == [
        "resuming after step 1",
        "resuming after step 2",
    ]
    assert outcomes(resumed) == outcomes(whole)
    for name in order:
        assert_same_weights(tmp_path / "whole/runs" / name, bench.out / "runs" / name)


def test_a_stop_between_two_runs_is_heeded(bench: Bench) -> None:
    def stop_requested() -> bool:
        return "bn_stats-roadshift-seed0" in bench.adapted

    with pytest.raises(RunInterrupted, match="Stopped at bn_stats, seed 0, with 0 of 2 runs done"):
        bench("bn_stats,iapc", stop_requested=stop_requested)
    assert bench.adapted == ["bn_stats-roadshift-seed0"]


def test_after_overwrite_the_command_that_goes_on_is_another(bench: Bench) -> None:
    with pytest.raises(RunInterrupted, match="the same command without overwrite goes on"):
        bench(overwrite=True, stop_requested=lambda: True)


# --- what is done anew ---------------------------------------------------------------------------


def test_overwrite_does_everything_anew(bench: Bench) -> None:
    bench("bn_stats")
    bench("bn_stats", overwrite=True)
    assert bench.adapted == ["bn_stats-roadshift-seed0"]
    assert len(bench.measured) == 2


def test_another_setting_of_one_method_redoes_that_method(bench: Bench) -> None:
    bench()
    notes: list[str] = []
    bench("bn_stats,iapc", "iapc.weight_pe=0.7", note=notes.append)
    assert bench.adapted == ["iapc-roadshift-seed0"]
    assert len(bench.measured) == 1
    (note,) = (note for note in notes if "doing it again" in note)
    assert "iapc-roadshift-seed0.json" in note


@pytest.mark.parametrize("change", ["steps", "frame", "fewer frames", "budget", "source"])
def test_what_decides_all_runs_redoes_all(change: str, bench: Bench, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {}
    methods = "iapc" if change == "steps" else "bn_stats"
    bench(methods)
    if change == "steps":
        arguments = {"steps": 3}
    elif change == "fewer frames":
        arguments = {"max_frames": 3}
    elif change == "budget":
        arguments = {"time_budget_s": 1000.0}
    elif change == "source":
        bench.source = bundle_of(bench.source, tmp_path / "other", weights(bench.source.path))
    else:
        image = cv2.imread(str(bench.frames / "frame_0.png"))
        assert cv2.imwrite(str(bench.frames / "frame_0.png"), 255 - image)
    after = bench(methods, **arguments)
    assert len(bench.adapted) == 1
    assert all(run.error is None for runs in after.results.values() for run in runs)
    if change == "fewer frames":
        assert [run.frames for runs in after.results.values() for run in runs] == [3]


def test_a_run_stopped_with_other_settings_is_not_continued(
    bench: Bench, after_one_step: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(RunInterrupted):
        bench("iapc", **{**after_one_step, "report": stop_after_a_step(after_one_step)})
    notes: list[str] = []
    after = bench("iapc", "iapc.weight_pe=0.7", note=notes.append)
    assert not any("resuming" in note for note in notes)
    alone = bench("iapc", "iapc.weight_pe=0.7", out=tmp_path / "alone")
    assert outcomes(after) == outcomes(alone)


def stop_after_a_step(options: dict[str, Any]) -> Callable[[ProgressUpdate], None]:
    """The report of ``after_one_step``, for steps of a run and not for frames measured."""

    def report(progress: ProgressUpdate) -> None:
        if "measuring" not in progress.task:
            options["report"](progress)

    return report


def test_other_labels_are_measured_without_adapting_anew(bench: Bench) -> None:
    before = bench("bn_stats")
    for path in bench.labels.iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[:, 24:] = 255
        assert cv2.imwrite(str(path), labels)
    after = bench("bn_stats")
    assert (bench.adapted, len(bench.measured)) == ([], 2)
    assert after.before["miou"] != before.before["miou"]


@pytest.mark.parametrize("damage", ["record", "bundle", "no bundle"])
def test_a_result_that_is_damaged_is_made_again(damage: str, bench: Bench) -> None:
    before = bench("bn_stats")
    folder = bench.out / "runs" / "bn_stats-roadshift-seed0"
    if damage == "record":
        folder.with_suffix(".json").write_text('{"run": "')
    elif damage == "bundle":
        (folder / "model.safetensors").write_bytes(b"")
    else:
        folder.rename(bench.out / "moved")
    after = bench("bn_stats")
    assert bench.adapted == ["bn_stats-roadshift-seed0"]
    assert outcomes(after) == outcomes(before)


# --- what fails ----------------------------------------------------------------------------------


def test_a_method_that_fails_is_a_row_with_its_sentence_and_the_others_go_on(bench: Bench) -> None:
    comparison = bench("iapc,bn_stats", "iapc.feature_layer=nowhere")
    source, iapc, bn_stats = comparison_rows(comparison)
    assert "feature_layer 'nowhere'" in iapc["error"]
    figures = ("miou", "gain", "seconds", "steps_per_s", "peak_mib", "collapsed")
    assert [iapc[key] for key in figures] == [None] * 6
    assert iapc["classes_lost"] == []
    assert set(iapc["iou"].values()) == {None}
    assert "error" not in source
    assert "error" not in bn_stats
    assert comparison.succeeded
    assert not bench("iapc", "iapc.feature_layer=nowhere").succeeded
    assert bench.adapted == ["iapc-roadshift-seed0"]  # failures are tried again


def test_memory_that_runs_out_fails_one_method(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapting = module.adapt_bundle

    def exhausted(source: Bundle, frames: Any, config: Any, *more: Any, **options: Any) -> Bundle:
        if config.method == "iapc":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return adapting(source, frames, config, *more, **options)

    monkeypatch.setattr(module, "adapt_bundle", exhausted)
    _, iapc, bn_stats = comparison_rows(bench("iapc,bn_stats"))
    assert "training.batch_size" in iapc["error"]
    assert bn_stats["miou"] is not None


def test_an_output_that_cannot_be_written_ends_the_comparison(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Bundle:
        raise OutputError("out: the disk is full; free some space.")

    monkeypatch.setattr(module, "adapt_bundle", full)
    with pytest.raises(OutputError, match="disk is full"):
        bench()


def test_what_concerns_all_methods_is_refused_before_the_first(
    bench: Bench, source: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=r"source: is a bundle; give another out"):
        bench(out=source.path)
    with pytest.raises(OutputError, match="missing is not an existing folder"):
        bench(out=tmp_path / "missing" / "out")
    pairs = measured_pairs([str(bench.frames)], None, bench.labels)
    with pytest.raises(FrameError, match="nowhere does not exist"):
        compare(source, ["nowhere"], pairs, choose_variants(["bn_stats"]), RunOptions(bench.out))
    with pytest.raises(OutputError, match="the name is 1 bytes too long"):
        bench(out=tmp_path / ("x" * 256))
    assert bench.adapted == []
    assert not bench.out.exists()


@pytest.mark.parametrize("name", ["compare.md", "compare.json", "notes.txt", "runs/mine.json"])
def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path, name: str) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    (tmp_path / "out" / "b.txt").touch()
    with pytest.raises(OutputError, match=r"out: exists and holds no comparison"):
        check_comparison(tmp_path / "out")
    (tmp_path / "out/runs").mkdir(exist_ok=True)
    (tmp_path / "out/runs/source-only.json").touch()
    check_comparison(tmp_path / "out")  # one that was begun, with notes beside it


def test_a_folder_for_a_comparison_may_be_missing_empty_or_just_begun(tmp_path: Path) -> None:
    check_comparison(tmp_path / "out")
    check_comparison(tmp_path)
    (tmp_path / "runs").mkdir()
    check_comparison(tmp_path)


def bundle_of(like: Bundle, path: Path, tensors: dict[str, torch.Tensor]) -> Bundle:
    """A bundle as ``like``, of another time."""
    from safetensors.torch import save

    provenance = like.manifest.provenance.model_copy(update={"created": "2001-01-01T00:00:00"})
    with BundleWriter(path) as writer:
        writer.add_bytes("model.safetensors", save(tensors), kind="weights")
        return writer.commit(
            network=like.manifest.network,
            label_space=like.label_space,
            input=like.manifest.input,
            provenance=provenance,
        )


# --- which methods, with which settings ----------------------------------------------------------


def titles(methods: str | None, *assignments: str, **more: Any) -> list[str]:
    names = None if methods is None else methods.split(",")
    return [variant.title for variant in choose_variants(names, assignments, **more)]


def test_all_is_every_method_that_starts_from_a_bundle() -> None:
    assert titles(None) == [name for name, method in METHODS.items() if not method.black_box]
    assert titles(None, "tone=none", "training.batch_size=2", steps=5) == titles(None)


def test_methods_keep_their_order_and_a_repeated_one_counts_once() -> None:
    chosen = "bn_stats,iapc:paper,iapc,bn_stats,iapc:roadshift"
    assert titles(chosen) == ["bn_stats", "iapc:paper", "iapc"]
    assert titles("iapc,iapc:paper", "iapc.variant=paper") == ["iapc:paper"]


def test_a_variant_brings_its_preset_and_steps_go_over_it() -> None:
    names = ["iapc:paper", "iapc"]
    paper, ours = choose_variants(names, ["iapc.weight_pe=0.7"], seeds=2, steps=7)
    assert [config.seed for config in paper.configs] == [0, 1]
    assert paper.configs[0] == resolve_config(
        "iapc", assignments=["iapc.variant=paper", "iapc.weight_pe=0.7", "training.steps=7"]
    )
    assert ours.configs[1] == resolve_config(
        "iapc", assignments=["iapc.weight_pe=0.7", "training.steps=7"], seed=1
    )


@pytest.mark.parametrize(
    ("methods", "assignments", "words"),
    [
        ("iapc,magic", [], "method 'magic' is unknown; there are .*iapc"),
        ("supervised", [], "method 'supervised' is unknown"),
        ("iapc,", [], "method '' is unknown"),
        ("iapc:fancy", [], r"iapc\.variant 'fancy' is unknown"),
        (
            "bn_stats",
            ["iapc.weight_pe=1"],
            r"iapc\.weight_pe=1: iapc is not one of methods",
        ),
        ("bn_stats", ["seed=4"], "assignments seed=4: a comparison counts its seeds itself"),
        ("bn_stats,iapc", ["iapcc.weight_pe=1"], "unknown key 'iapcc'"),
    ],
)
def test_a_method_or_setting_that_would_do_nothing_is_refused(
    methods: str, assignments: Sequence[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_variants(methods.split(","), assignments)


def test_black_box_methods_are_run_by_adapt() -> None:
    (name, *_) = [name for name, method in METHODS.items() if method.black_box]
    with pytest.raises(ConfigError, match=f"'{name}' starts from answers"):
        choose_variants(["bn_stats", name])


def test_labels_alone_measure_on_the_target_frames(frames_dir: Path, labels_dir: Path) -> None:
    pairs = measured_pairs([str(frames_dir)], None, labels_dir)
    assert pairs == measured_pairs(["clip.mp4", "more"], frames_dir, labels_dir)
    assert [(a.parent, b.parent) for a, b in pairs] == [(frames_dir, labels_dir)] * 6
    clip = frames_dir.parent / "clip.mp4"
    clip.touch()
    for frames in ([str(clip)], [f"{clip}#/topic"], [str(frames_dir), str(frames_dir)]):
        with pytest.raises(LabelError, match="give the folder of the labelled images with images"):
            measured_pairs(frames, None, labels_dir)
    with pytest.raises(FrameError, match="nowhere does not exist"):
        measured_pairs(["nowhere"], None, labels_dir)
