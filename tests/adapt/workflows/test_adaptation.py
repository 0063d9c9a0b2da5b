"""adapt_bundle and train_bundle: from a bundle and frames to a bundle, and what they refuse."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from bundle_cases import write_bundle
from roadshift.adapt import RunOptions, load_network
from roadshift.adapt.data import dataset, labelled
from roadshift.adapt.data.dataset import in_batches, stacked
from roadshift.adapt.methods import METHODS, build_stages, resolve_config
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.models.loading import device_name, pick_device
from roadshift.adapt.networks.mixed_statistics import reestimate_batch_norm
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.workspace import CHECKPOINT, PUBLISHED
from roadshift.adapt.workflows import whole_run
from roadshift.runtime.bundle import Bundle, BundleWriter, InputSpec, open_bundle
from roadshift.runtime.errors import (
    BundleError,
    ConfigError,
    FrameError,
    NetworkError,
    OutputError,
    RunInterrupted,
    TrainingError,
)
from run_cases import Killed, adapted, history_of, kill_at, weights
from torch import Tensor, nn

Settings = Callable[..., RunConfig]
CPU = torch.device("cpu")
Adapt = Callable[..., Bundle]


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name, tensor in one.items() if not torch.equal(tensor, other[name])}


def statistics(tensors: dict[str, Tensor]) -> set[str]:
    return {name for name in tensors if "running" in name}


# --- results -------------------------------------------------------------------------------------


def test_the_result_is_a_whole_bundle_and_nothing_else_is_left(
    adapt: Adapt, source: Bundle, tmp_path: Path, settings: Settings
) -> None:
    bundle = adapt("training.steps=3")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert open_bundle(bundle.path).hash == bundle.hash
    manifest, provenance = bundle.manifest, bundle.manifest.provenance
    assert manifest.network == source.manifest.network
    assert manifest.input == source.manifest.input
    assert bundle.label_space == source.label_space
    assert (provenance.parent, provenance.method) == (source.hash, "iapc")
    assert (provenance.seed, provenance.frames) == (0, 6)
    assert provenance.device is not None
    assert "torch" in provenance.versions
    outcome: Any = provenance.configuration.pop("outcome")
    assert provenance.configuration == settings("training.steps=3").model_dump(mode="json")
    assert (outcome["steps"], outcome["skipped_steps"], outcome["precision"]) == (3, 0, "fp32")
    history = (bundle.path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in history] == [1, 2, 3]
    figures = {figure.name: figure for figure in manifest.measured}
    assert figures["run_peak_memory"].value > 10
    assert figures["run_seconds"].value > 0
    load_network(bundle, CPU)


def test_every_weight_learns(adapt: Adapt, source: Bundle) -> None:
    assert changed(weights(source), weights(adapt())) == set(weights(source))


def test_the_seed_decides_the_result(adapt: Adapt, tmp_path: Path) -> None:
    first = weights(adapt(out=tmp_path / "a"))
    assert not changed(first, weights(adapt(out=tmp_path / "b")))
    assert changed(first, weights(adapt("seed=1", out=tmp_path / "c")))


def test_bf16_runs_on_a_cpu(adapt: Adapt) -> None:
    bundle = adapt("training.amp=bf16", "training.steps=2")
    outcome: Any = bundle.manifest.provenance.configuration["outcome"]
    assert (outcome["precision"], outcome["skipped_steps"]) == ("bf16", 0)
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(bundle).values())


def test_max_frames_is_an_upper_bound(adapt: Adapt) -> None:
    notes: list[str] = []
    bundle = adapt("training.steps=1", max_frames=4, note=notes.append)
    assert bundle.manifest.provenance.frames == 4
    assert any("using 4 of 6 frames" in note for note in notes)


def test_no_label_is_read_whatever_lies_beside_the_frames(
    adapt: Adapt, frames_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a label was read")

    images, labels = tmp_path / "set" / "leftImg8bit", tmp_path / "set" / "gtFine"
    for folder in (images, labels):
        (folder / "val" / "bern").mkdir(parents=True)
    for path in frames_dir.iterdir():
        name = path.stem.replace("frame", "bern")
        (images / "val" / "bern" / f"{name}_leftImg8bit.png").write_bytes(path.read_bytes())
        (labels / "val" / "bern" / f"{name}_gtFine_labelIds.png").write_bytes(path.read_bytes())
    monkeypatch.setattr(labelled, "read_labels", refuse)
    alone = weights(adapt(out=tmp_path / "alone"))
    beside = adapt(frames=images, out=tmp_path / "beside")
    assert beside.manifest.provenance.frames == 6
    assert not changed(alone, weights(beside))


# --- batch norm ----------------------------------------------------------------------------------


def reestimated(source: Bundle, frames_dir: Path) -> dict[str, Tensor]:
    """The source model's tensors with the statistics of all frames, the plain way."""
    network = load_network(source, CPU)
    spec = source.manifest.input
    frames = dataset.target_frames([frames_dir], spec.width, spec.height, frames_dir.parent)
    normalise = Normalise(spec)
    batches = (normalise(stacked(frames, rows)) for rows in in_batches(len(frames), 3))
    reestimate_batch_norm(network, batches, 1.0)
    return dict(network.state_dict())


def test_bn_stats_changes_the_statistics_and_nothing_else(
    adapt: Adapt, source: Bundle, frames_dir: Path
) -> None:
    bundle = adapt(method="bn_stats")
    before, after = weights(source), weights(bundle)
    assert statistics(before) == changed(before, after)
    assert not changed(reestimated(source, frames_dir), after)
    assert all("running" in n or "num_batches" in n for n in changed(before, after))
    assert bundle.artefact(kind="history") is None
    outcome: Any = bundle.manifest.provenance.configuration["outcome"]
    assert (outcome["steps"], outcome["batch_norm_layers"]) == (0, 2)
    assert outcome["seconds"] > 0


def test_the_warm_start_comes_before_the_first_step_unless_turned_off(
    adapt: Adapt, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    no_steps = ("training.steps=0", "final_bn=false")
    warm = weights(adapt(*no_steps, out=tmp_path / "warm", note=notes.append))
    assert "warm start: batch-norm statistics over 6 frames" in notes
    assert not changed(reestimated(source, frames_dir), warm)
    cold = weights(adapt(*no_steps, "warm_start=source", out=tmp_path / "cold"))
    assert not changed(weights(source), cold)
    steps = ("training.steps=2", "final_bn=false")
    warm = weights(adapt(*steps, out=tmp_path / "warm2"))
    cold = weights(adapt(*steps, "warm_start=source", out=tmp_path / "cold2"))
    assert "classifier.weight" in changed(warm, cold)  # the steps start from it


def test_an_aligned_tone_is_in_the_manifest_and_in_what_the_steps_see(
    adapt: Adapt, source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    darker = source.manifest.input.model_copy(update={"gamma": 0.6})
    monkeypatch.setattr(whole_run, "align_tone", lambda *_: darker)
    toned = adapt("tone=auto", out=tmp_path / "toned")
    assert toned.manifest.input == darker
    plain = adapt(out=tmp_path / "plain")
    assert plain.manifest.input == source.manifest.input
    assert statistics(weights(plain)) <= changed(weights(plain), weights(toned))


def test_the_last_statistics_are_those_of_the_clean_frames(
    adapt: Adapt, frames_dir: Path, tmp_path: Path
) -> None:
    bundle = adapt()
    assert not changed(reestimated(bundle, frames_dir), weights(bundle))
    raw = weights(adapt("final_bn=false", out=tmp_path / "raw"))
    assert statistics(raw) <= changed(raw, weights(bundle))
    assert "classifier.weight" not in changed(raw, weights(bundle))


@pytest.fixture
def plain(source: Bundle, tmp_path: Path, network: Callable[..., Any]) -> Bundle:
    """A source model without batch norm."""
    spec = source.manifest.network.model_copy(update={"arguments": {"norm": False}})
    return write_bundle(tmp_path / "plain", network(norm=False), like=source, network=spec)


def test_a_network_without_batch_norm_is_told_so(adapt: Adapt, plain: Bundle) -> None:
    notes: list[str] = []
    bundle = adapt("training.steps=1", bundle=plain, note=notes.append)
    assert "no warm start: the network keeps no batch-norm statistics" in notes
    assert changed(weights(plain), weights(bundle))
    outcome: Any = bundle.manifest.provenance.configuration["outcome"]
    assert outcome["statistics_share"] is None
    assert outcome["statistics_why"] == "the network keeps no batch-norm statistics"


def test_a_network_without_batch_norm_takes_all_steps_whatever_the_warm_start(
    adapt: Adapt, plain: Bundle, tmp_path: Path
) -> None:
    outcomes: list[Any] = []
    for asked in ("source", "mixed", "target"):
        settings = ["training.steps=2", "final_bn=true", f"warm_start={asked}"]
        bundle = adapt(*settings, method="nightshift", bundle=plain, out=tmp_path / asked)
        outcomes.append(bundle.manifest.provenance.configuration["outcome"])
    assert [outcome["steps"] for outcome in outcomes] == [2, 2, 2]
    assert {outcome["statistics_share"] for outcome in outcomes} == {None}
    assert len({outcome["statistics_why"] for outcome in outcomes}) == 1


def test_what_a_method_cannot_change_is_refused_before_a_frame_is_decoded(
    adapt: Adapt, plain: Bundle, tmp_path: Path
) -> None:
    phases: list[object] = []
    with pytest.raises(NetworkError, match=r"this network has none; choose .*, such as entmin"):
        adapt(method="tent", bundle=plain, report_phase=phases.append)
    assert phases == []
    assert {path.name for path in tmp_path.iterdir()} == {"plain"}


def test_a_part_that_the_network_does_not_have_is_refused_before_a_frame_is_decoded(
    adapt: Adapt,
) -> None:
    phases: list[object] = []
    with pytest.raises(TrainingError, match=r"nightshift: training\.learn=lora.* no attention"):
        adapt("training.learn=lora", method="nightshift", report_phase=phases.append)
    assert phases == []


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (9, 200, 31)])
def test_frames_of_one_colour_are_nothing_to_adapt_to(
    colour: tuple[int, int, int], adapt: Adapt, tmp_path: Path
) -> None:
    folder = tmp_path / "covered"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((40, 60, 3), colour, np.uint8))
    with pytest.raises(FrameError, match=r"covered: all 3 frames are of one colour.*camera"):
        adapt("training.steps=1", frames=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["covered"]


def test_one_frame_that_shows_something_is_enough_to_go_on(adapt: Adapt, tmp_path: Path) -> None:
    folder = tmp_path / "tunnel"
    folder.mkdir()
    for i in range(3):
        image = np.zeros((40, 60, 3), np.uint8)
        image[20:, :, 1] = 90 * (i == 1)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    assert adapt("training.steps=1", frames=folder).manifest.provenance.frames == 3


# --- what is refused -----------------------------------------------------------------------------


def test_an_existing_bundle_is_replaced_only_by_request(adapt: Adapt) -> None:
    first = adapt("training.steps=1")
    with pytest.raises(OutputError, match=r"already exists.*overwrite=True"):
        adapt("training.steps=2")
    assert open_bundle(first.path).hash == first.hash
    second = adapt("training.steps=2", overwrite=True)
    assert open_bundle(first.path).hash == second.hash != first.hash


def test_a_folder_that_is_no_bundle_is_never_replaced(adapt: Adapt, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="never overwritten"):
        adapt(overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_an_unfinished_run_is_continued_or_discarded_by_request(
    adapt: Adapt, tmp_path: Path, after_one_step: dict[str, Any]
) -> None:
    with pytest.raises(RunInterrupted):
        adapt(**after_one_step)
    with pytest.raises(OutputError, match=r"not finished.*resume=True.*overwrite=True"):
        adapt()
    assert (tmp_path / "out.run" / CHECKPOINT).exists()
    anew = weights(adapt("seed=3", overwrite=True))
    assert not changed(anew, weights(adapt("seed=3", out=tmp_path / "fresh")))
    assert not (tmp_path / "out.run").exists()


def test_a_run_is_left_alone_while_another_process_works_on_it(
    adapt: Adapt, tmp_path: Path, after_one_step: dict[str, Any]
) -> None:
    with pytest.raises(RunInterrupted):
        adapt(**after_one_step)
    hold = (
        "import fcntl, os, sys; handle = os.open(sys.argv[1], os.O_RDONLY); "
        "fcntl.flock(handle, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "out.run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match="another run is at work there"):
                adapt(**options)
        assert (tmp_path / "out.run" / CHECKPOINT).exists()
        other.kill()
    assert adapt(resume=True).path == tmp_path / "out"


def test_what_a_run_killed_at_its_beginning_left_is_not_used(
    adapt: Adapt, tmp_path: Path, frames_dir: Path
) -> None:
    whole = weights(adapt(out=tmp_path / "whole"))
    run = tmp_path / "out.run"
    run.mkdir()
    (run / "frames.rgb").write_bytes(bytes(6 * 48 * 32 * 3))  # black frames under these names
    names = sorted(path.stem for path in frames_dir.iterdir())
    index = {"sources": [str(frames_dir)], "size": [48, 32], "limit": None, "names": names}
    (run / "frames.json").write_text(json.dumps(index))
    assert not changed(whole, weights(adapt()))


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_an_output_whose_folder_is_missing_is_refused(
    parent: str, adapt: Adapt, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=parent):
        adapt(out=tmp_path / parent / "out")


def test_an_output_in_a_read_only_folder_is_refused(
    adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:  # a test may run as root, whom no mode bits stop
        patch.setattr(os, "access", lambda *_, **__: False)
        with pytest.raises(OutputError, match=r"out: cannot write here.*permissions"):
            adapt()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(OutputError, match="cannot write here"):
            adapt()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("assignments", "error", "words"),
    [
        (("training.amp=fp16",), ConfigError, r"training\.amp=fp16 needs a GPU"),
        (("training.crop_size=[96,64]",), FrameError, "crop_size 96x64 is larger"),
    ],
)
def test_a_run_that_cannot_begin_leaves_nothing(
    assignments: tuple[str, ...], error: type[Exception], words: str, adapt: Adapt, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        adapt(*assignments)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_not_there_leave_nothing(adapt: Adapt, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="nowhere"):
        adapt(frames=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_any_write_loses_neither_run_nor_bundle(
    adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights(adapt("training.steps=2", out=tmp_path / "whole"))
    fsync, calls, limit = os.fsync, 0, 0

    def until_full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", until_full)
    failures = 0
    while True:  # every attempt gets one write further than the last
        calls, limit = 0, limit + 1
        try:
            bundle = adapt("training.steps=2", resume=True, checkpoint_every_s=0.0)
            break
        except OutputError as error:
            failures += "disk is full" in str(error) or "cannot hold" in str(error)
            assert not (tmp_path / "out").exists()
    assert failures == limit - 1 > 3
    assert not changed(whole, weights(bundle))
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}


def test_a_result_published_before_a_kill_is_taken_as_it_is(
    adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(_: RunOptions) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(whole_run, "discard", kill)
        with pytest.raises(Killed):
            adapt()
    published = open_bundle(tmp_path / "out")
    with pytest.raises(OutputError, match="already exists"):
        adapt()
    with pytest.raises(TrainingError, match="other frames, settings"):
        adapt("seed=1", resume=True)
    assert adapt(resume=True).hash == published.hash
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_bundle_that_came_in_between_is_not_taken_for_the_runs_own(
    adapt: Adapt, tmp_path: Path, after_one_step: dict[str, Any]
) -> None:
    with pytest.raises(RunInterrupted):
        adapt(**after_one_step)
    (tmp_path / "out.run").rename(tmp_path / "aside")
    other = adapt("seed=1")
    (tmp_path / "aside").rename(tmp_path / "out.run")
    (tmp_path / "out.run" / PUBLISHED).write_text(hashlib.sha256(b"ours").hexdigest())
    with pytest.raises(OutputError, match="already exists"):
        adapt(resume=True)
    (other.path / "manifest.json").write_text('{"schema_version": 1')
    with pytest.raises(OutputError, match="already exists"):
        adapt(resume=True)
    with pytest.raises(BundleError):
        open_bundle(other.path)
    assert (tmp_path / "out.run" / CHECKPOINT).exists()


# --- devices and networks ------------------------------------------------------------------------


def test_a_device_is_what_was_asked_for_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    with pytest.raises(ConfigError, match="finds no CUDA GPU"):
        pick_device("cuda")
    with pytest.raises(ConfigError, match="device 'tpu'"):
        pick_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == CPU
    assert device_name(CPU).startswith("CPU ")


def test_a_bundle_without_weights_cannot_be_adapted(
    adapt: Adapt, source: Bundle, tmp_path: Path
) -> None:
    with BundleWriter(tmp_path / "exported") as writer:
        writer.add_bytes("model.onnx", b"onnx", kind="onnx", precision="fp32")
        exported = writer.commit(
            network=source.manifest.network,
            label_space=source.label_space,
            input=source.manifest.input,
            provenance=source.manifest.provenance,
        )
    with pytest.raises(NetworkError, match="holds no weights"):
        adapt(bundle=exported)
    assert not (tmp_path / "out.run").exists()


def test_a_loaded_network_is_ready_to_segment(source: Bundle) -> None:
    network = load_network(source, CPU)
    assert not network.training
    assert not changed(dict(network.state_dict()), weights(source))


def test_a_compiled_student_learns_what_a_plain_one_does(
    source: Bundle, frames_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced by torch.compile, its code generator left out: that takes minutes."""
    compiled: list[nn.Module] = []
    compile_module = nn.Module.compile

    def traced(module: nn.Module, *arguments: Any, **options: Any) -> None:
        compiled.append(module)
        compile_module(module, *arguments, **options, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", traced)
    common = ("training.steps=2", "training.amp=off")
    plain, fast = (
        adapted(source, frames_dir, resolve_config("iapc", assignments=[*common, *more]), out)
        for more, out in (
            ((), tmp_path / "plain"),
            (("training.compile=true",), tmp_path / "fast"),
        )
    )
    assert len(compiled) == 1
    assert plain
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)


def test_a_layers_features_and_a_compiled_network_do_not_go_together(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    config = resolve_config(
        "iapc", assignments=["training.compile=true", "iapc.feature_layer=second"]
    )
    with pytest.raises(ConfigError, match=r"layer second .* leave training.compile or"):
        adapted(source, frames_dir, config, tmp_path / "out")


def test_a_compiler_that_fails_is_told_in_a_sentence(
    source: Bundle, frames_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_module = nn.Module.compile

    def broken(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(nn.Module, "compile", lambda m: compile_module(m, backend=broken))
    config = resolve_config("iapc", assignments=["training.compile=true", "training.steps=1"])
    with pytest.raises(TrainingError, match=r"no C\+\+ compiler\); set training.compile=false"):
        adapted(source, frames_dir, config, tmp_path / "out")


WITH_STEPS = [
    name
    for name, method in METHODS.items()
    if not method.black_box and build_stages(resolve_config(name))
]


@pytest.mark.parametrize("method", WITH_STEPS)
def test_every_method_takes_the_same_steps_by_tiles(
    method: str, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    losses = []
    for kernel in ("reference", "tiled"):
        settings = ("training.steps=3", "tone=none", "warm_start=target", f"loss_backend={kernel}")
        config = resolve_config(method, assignments=settings)
        adapted(source, frames_dir, config, tmp_path / kernel)
        losses.append([line["losses"] for line in history_of(tmp_path / kernel)])
    assert len(losses[0]) == 3
    for plain, tiled in zip(*losses, strict=True):
        assert tiled == pytest.approx(plain, rel=2e-3, abs=1e-5)


# --- what a resumed run keeps of its beginning ----------------------------------------------------


@pytest.fixture
def aligned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tone alignment that finds a gamma at once; gives a number for each search."""
    searches: list[int] = []

    def align(_: object, __: object, spec: InputSpec, *___: object) -> InputSpec:
        searches.append(len(searches))
        return spec.model_copy(update={"gamma": 0.7 + 0.1 * len(searches)})

    monkeypatch.setattr("roadshift.adapt.workflows.whole_run.align_tone", align)
    return searches


def _killed_after_two_steps(adapt: Adapt) -> None:
    with pytest.raises(Killed):
        adapt("tone=auto", report=kill_at(2), checkpoint_every_s=0.0)


def test_tone_is_searched_once_and_kept_for_a_resume(aligned: list[int], adapt: Adapt) -> None:
    _killed_after_two_steps(adapt)
    bundle = adapt("tone=auto", resume=True)
    assert aligned == [0]
    assert bundle.manifest.input.gamma == pytest.approx(0.8)


def test_what_was_prepared_before_the_first_checkpoint_is_kept_for_a_resume(
    aligned: list[int], adapt: Adapt, tmp_path: Path
) -> None:
    with pytest.raises(RunInterrupted):
        adapt("tone=auto", stop_requested=lambda: bool(aligned))
    assert not (tmp_path / "out.run/checkpoint.safetensors").exists()
    pixels = tmp_path / "out.run/frames.rgb"
    decoded = pixels.stat().st_mtime_ns
    with pytest.raises(TrainingError, match="started with other frames, settings"):
        adapt("tone=auto", "seed=5", resume=True)
    with pytest.raises(Killed):
        adapt("tone=auto", resume=True, report=kill_at(1))
    assert aligned == [0]
    assert pixels.stat().st_mtime_ns == decoded
    adapt("tone=auto", resume=True)
    assert aligned == [0]


def test_a_run_stopped_before_its_first_checkpoint_is_begun_anew_without_resume(
    aligned: list[int], adapt: Adapt
) -> None:
    with pytest.raises(RunInterrupted):
        adapt("tone=auto", stop_requested=lambda: bool(aligned))
    adapt("tone=auto", "seed=5")
    assert aligned == [0, 1]


@pytest.mark.parametrize(
    "damage", ['{"run": "another", "gamma": 0.5}', "{", '{"gamma": NaN}', "[]"]
)
def test_a_kept_tone_of_another_run_or_damaged_is_not_believed(
    damage: str, aligned: list[int], adapt: Adapt, tmp_path: Path
) -> None:
    _killed_after_two_steps(adapt)
    (tmp_path / "out.run/tone.json").write_text(damage)
    adapt("tone=auto", resume=True)
    assert aligned == [0, 1]


def test_another_run_is_refused_before_any_work(aligned: list[int], adapt: Adapt) -> None:
    _killed_after_two_steps(adapt)
    with pytest.raises(TrainingError, match="started with other frames, settings"):
        adapt("tone=auto", "seed=5", resume=True)
    assert aligned == [0]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("training.batch_size=1000000", "more than 4 times the 6 frames"),
        ("training.frame_size=[10000000,10000000]", "a single frame takes"),
    ],
)
def test_a_size_that_no_machine_holds_is_refused_before_decoding_or_learning(
    setting: str, sentence: str, adapt: Adapt, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        adapt(setting)
    assert list(tmp_path.iterdir()) == []


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


def make_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (make_folder, "holds files that are no run's"),
        (lambda path: path.write_text("years of work"), "is no folder"),
        (os.mkfifo, "is no folder"),
        (make_link, "is no folder"),
    ],
)
def test_what_is_no_run_s_is_never_removed_from_where_a_run_works(
    adapt: Adapt, tmp_path: Path, make: Callable[[Path], Any], problem: str, overwrite: bool
) -> None:
    make(tmp_path / "out.run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=problem):
        adapt("training.steps=1", overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("left", ["run.json.tmp", "run.json", None])
def test_what_a_kill_leaves_before_the_first_checkpoint_is_cleared_away(
    adapt: Adapt, tmp_path: Path, left: str | None
) -> None:
    (tmp_path / "out.run").mkdir()
    if left is not None:
        (tmp_path / "out.run" / left).write_bytes(b'{"parts')
    assert adapt("training.steps=1").path == tmp_path / "out"
    assert not (tmp_path / "out.run").exists()
