"""Frames set aside, the verdict at the end of a run, and two bundles judged against each other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bundle_cases import write_bundle
from hypothesis import given
from hypothesis import strategies as st
from roadshift.adapt import RunOptions, adapt_bundle
from roadshift.adapt.data.frame_set import FrameSet, set_aside
from roadshift.adapt.judging import judge
from roadshift.adapt.judging.evidence import BATCH, Evidence
from roadshift.adapt.judging.judge import choose_gate, judge_bundles
from roadshift.adapt.judging.verdict import LEAST_FRAMES
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.run.budget import Deadline
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.work import Work
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import (
    ConfigError,
    FrameError,
    LabelSpaceError,
    NetworkError,
    OutputError,
    RefusedError,
    RunInterrupted,
    UndecidedError,
)
from roadshift.runtime.verdict import Check, Decision, Verdict
from run_cases import Killed, kill_at
from safetensors.torch import load_file

Settings = Callable[..., RunConfig]
Decided = Callable[[Decision], list[Evidence]]
Adapt = Callable[..., Bundle]
CHECK = Check("entropy", 0.5, 0.25, -0.3, -0.2, 0.0, True, "The candidate is surer.")


def numbered(count: int) -> FrameSet:
    """Frames whose pixels are their number."""
    names = [f"frame_{i}" for i in range(count)]
    return FrameSet(names, 1, 1, lambda i: np.full((1, 1, 3), i, np.uint8))


def numbers(frames: FrameSet) -> list[int]:
    return [int(frames.image(i)[0, 0, 0]) for i in range(len(frames))]


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Decided:
    """``decided("keep")``: every verdict is that; gives the evidence that it was asked on."""

    def install(decision: Decision) -> list[Evidence]:
        asked: list[Evidence] = []

        def decide(evidence: Evidence, classes: object, seconds: float) -> Verdict:
            assert tuple(classes) == ("road", "building", "sky", "car")  # type: ignore[arg-type]
            asked.append(evidence)
            return Verdict(decision, "Because.", (CHECK,), evidence.frames, seconds)

        monkeypatch.setattr(judge, "decide", decide)
        return asked

    return install


@pytest.fixture
def adapt(adapt: Adapt, recording: Path) -> Adapt:
    """The shared one, of a gated run over more frames."""
    return partial(adapt, frames=recording, gated=True)


@pytest.fixture
def changed(source: Bundle, tmp_path: Path) -> Callable[..., Bundle]:
    """``changed(change, label_space=...)``: a copy of the source bundle with changed weights."""

    def make(change: Callable[[torch.nn.Module], None], **parts: Any) -> Bundle:
        network = load_network(source, torch.device("cpu"))
        with torch.no_grad():
            change(network)
        return write_bundle(tmp_path / "changed", network, like=source, **parts)

    return make


def nothing(_: torch.nn.Module) -> None: ...


def louder(network: torch.nn.Module) -> None:
    network.get_parameter("classifier.weight").mul_(1.5)


# --- frames set aside -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "adapted_on", "held"),
    [(16, 12, 4), (40, 29, 10), (64, 46, 16), (82, 64, 16), (1000, 888, 100), (3000, 2663, 300)],
)
def test_the_end_of_a_recording_is_set_aside(count: int, adapted_on: int, held: int) -> None:
    learn, judged = set_aside(FrameSet([str(i) for i in range(count)], 1, 1, lambda _: np.empty(0)))
    assert judged is not None
    assert learn.names == tuple(map(str, range(adapted_on)))
    assert judged.names == tuple(map(str, range(count - held, count)))


def stamped(stamps: Sequence[float]) -> FrameSet:
    """Frames that were taken at these seconds."""
    names = [str(i) for i in range(len(stamps))]
    nanoseconds = [round(1e9 * one) for one in stamps]
    return FrameSet(names, 1, 1, lambda _: np.empty(0), stamps_ns=nanoseconds)


def named(frames: FrameSet) -> list[int]:
    return [int(name) for name in frames.names]


@pytest.mark.parametrize("count", [16, 40, 82, 1000])
def test_evenly_stamped_frames_are_split_by_their_number(count: int) -> None:
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, count)
    learn, judged = set_aside(stamped((100 + 0.1 * np.arange(count) + jitter).tolist()))
    plain = FrameSet([str(i) for i in range(count)], 1, 1, lambda _: np.empty(0))
    by_number, judged_by_number = set_aside(plain)
    assert judged is not None
    assert judged_by_number is not None
    assert named(judged) == named(judged_by_number)
    assert named(learn) == named(by_number)


def test_what_lies_near_the_judged_in_time_is_not_learned_from() -> None:
    """Ten frames a second, but for the last sixteen: one a second."""
    stamps = [0.1 * i for i in range(144)] + [15.0 + i for i in range(16)]
    learn, judged = set_aside(stamped(stamps))
    assert judged is not None
    assert named(judged) == list(range(144, 160))
    assert max(stamps[i] for i in named(learn)) < 15.0 - 2  # two of sixteen frames
    assert min(named(learn)) == 0


def test_bags_that_overlap_or_come_in_another_order_are_split_by_time() -> None:
    first, second = [50 + 0.1 * i for i in range(100)], [0.1 * i for i in range(100)]
    learn, judged = set_aside(stamped(first + second))
    assert judged is not None
    assert named(judged) == list(range(80, 100))  # the end of the bag that was recorded last
    assert set(range(100, 200)) <= set(named(learn))
    left, right = [0.1 * i for i in range(100)], [0.1 * i + 0.01 for i in range(100)]
    learn, judged = set_aside(stamped(left + right))  # two cameras at the same time
    assert judged is not None
    both = np.array(left + right)
    assert both[named(learn)].max() < both[named(judged)].min()


@given(st.lists(st.integers(0, 10**6), min_size=16, max_size=200))
def test_any_stamps_leave_frames_to_learn_from_and_none_in_both(stamps: list[int]) -> None:
    learn, judged = set_aside(stamped(stamps))
    assert judged is not None
    assert not set(named(learn)) & set(named(judged))
    assert len(learn) > 2 * len(judged)
    assert max(stamps[i] for i in named(learn)) <= min(stamps[i] for i in named(judged))


@given(st.integers(1, 200))
def test_no_frame_is_both_learned_from_and_judged_on(count: int) -> None:
    learn, judged = set_aside(numbered(count))
    if count < 16:
        assert judged is None
        assert numbers(learn) == list(range(count))
        return
    assert judged is not None
    assert len(learn) > 2 * len(judged)
    assert max(numbers(learn)) < min(numbers(judged))
    assert max(numbers(judged)) == count - 1


def test_a_part_of_a_frame_set_has_the_labels_of_its_frames() -> None:
    whole = numbered(5)
    whole.labels = lambda i: np.full((1, 1), 10 * i, np.uint8)
    part = whole.only([3, 1])
    assert (part.names, numbers(part)) == (("frame_3", "frame_1"), [3, 1])
    assert part.labels is not None
    assert [part.labels(i).item() for i in range(2)] == [30, 10]


# --- the gate of a run ----------------------------------------------------------------------------


@pytest.mark.parametrize("decision", ["promote", "keep", "ask"])
def test_a_runs_verdict_is_in_its_manifest(
    adapt: Adapt, source: Bundle, decided: Decided, decision: Decision, tmp_path: Path
) -> None:
    notes: list[str] = []
    asked = decided(decision)
    adapt(note=notes.append)
    bundle = open_bundle(tmp_path / "out")
    verdict = bundle.manifest.verdict
    assert verdict is not None
    assert (verdict.decision, verdict.sentence) == (decision, "Because.")
    assert verdict.checks == (CHECK,)
    assert verdict.incumbent == source.hash == bundle.manifest.provenance.parent
    assert verdict.frames == 10 == asked[0].frames
    assert 0 < verdict.seconds < 60
    assert bundle.manifest.provenance.frames == 29
    assert any("the last 10 of 40 frames are set aside" in note for note in notes)
    assert open_bundle(source.path).hash == source.hash
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_without_a_gate_nothing_is_set_aside(adapt: Adapt, decided: Decided) -> None:
    asked = decided("keep")
    bundle = adapt(gated=False)
    assert asked == []
    assert bundle.manifest.verdict is None
    assert bundle.manifest.provenance.frames == 40


def test_the_run_is_that_of_the_other_frames_alone(
    adapt: Adapt, recording: Path, decided: Decided, tmp_path: Path
) -> None:
    """Warm start, labels, steps and final statistics: with the frames held back not even there."""
    decided("promote")
    gated = adapt("seed=3")
    (tmp_path / "first").mkdir()
    for i in range(29):
        (tmp_path / f"first/frame_{i}.png").symlink_to(recording / f"frame_{i}.png")
    alone = adapt("seed=3", frames=tmp_path / "first", out=tmp_path / "alone", gated=False)
    one, other = (load_file(b.path / "model.safetensors") for b in (gated, alone))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_resumes_with_the_same_split(
    adapt: Adapt, decided: Decided, tmp_path: Path
) -> None:
    asked = decided("promote")
    whole = adapt(out=tmp_path / "whole")
    with pytest.raises(Killed):
        adapt(report=kill_at(2), checkpoint_every_s=0)
    resumed = adapt(resume=True)
    one, other = (load_file(b.path / "model.safetensors") for b in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert asked[0].scores["entropy"] == asked[1].scores["entropy"]


def test_a_signal_while_judging_leaves_a_run_that_resumes(
    adapt: Adapt, decided: Decided, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = decided("promote")
    stop: list[bool] = []
    gather = judge.gather

    def stopped_gather(*arguments: Any, **options: Any) -> Evidence:
        stop.append(True)
        return gather(*arguments, **options)

    monkeypatch.setattr(judge, "gather", stopped_gather)
    with pytest.raises(RunInterrupted, match="resume=True goes on"):
        adapt(stop_requested=lambda: bool(stop))
    assert (asked, (tmp_path / "out").exists()) == ([], False)
    monkeypatch.setattr(judge, "gather", gather)
    notes: list[str] = []
    verdict = adapt(resume=True, note=notes.append).manifest.verdict
    assert "resuming after step 4" in notes
    assert verdict is not None
    assert verdict.decision == "promote"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("Sizes of tensors must match\nbut do not"), "RuntimeError: Sizes of tensors"),
        (AssertionError(), "could not be judged (AssertionError)"),
        (ValueError("Expected more than 1 value per channel"), "ValueError: Expected more than 1"),
        (NetworkError("The network cannot."), "(The network cannot)"),
        (FrameError("No frame could be read."), "No frame could be read."),
    ],
    ids=["RuntimeError", "AssertionError", "ValueError", "NetworkError", "FrameError"],
)
def test_a_run_is_not_lost_when_judging_fails(
    error: Exception,
    sentence: str,
    adapt: Adapt,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    source: Bundle,
) -> None:
    def fail(*_: Any, **__: Any) -> Evidence:
        raise error

    monkeypatch.setattr(judge, "gather", fail)
    bundle = adapt()
    verdict = open_bundle(tmp_path / "out").manifest.verdict
    assert verdict is not None
    assert (verdict.decision, verdict.frames, verdict.incumbent) == ("ask", 0, source.hash)
    assert sentence in verdict.sentence
    assert "\n" not in verdict.sentence
    failure = verdict.error(bundle.path)
    assert failure is not None
    assert failure.exit_code == 6
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_was_killed_while_judged_goes_on_without_its_gate(
    adapt: Adapt, decided: Decided, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the frames that it set aside still aside, so the weights are those of the gated run."""
    decided("promote")
    whole = adapt(out=tmp_path / "whole")

    def die(*_: Any, **__: Any) -> Evidence:
        raise Killed

    monkeypatch.setattr(judge, "gather", die)
    with pytest.raises(Killed):
        adapt()
    notes: list[str] = []
    resumed = adapt(resume=True, gated=False, note=notes.append)
    assert "they stay aside, as when the run began, and are not judged on" in notes
    assert resumed.manifest.verdict is None
    assert resumed.manifest.provenance.frames == 29
    one, other = (load_file(b.path / "model.safetensors") for b in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_learned_from_all_frames_is_not_judged_on_them(adapt: Adapt) -> None:
    with pytest.raises(Killed):
        adapt(report=kill_at(2), checkpoint_every_s=0, gated=False)
    verdict = adapt(resume=True).manifest.verdict
    assert verdict is not None
    assert (verdict.decision, verdict.frames) == ("ask", 0)
    assert "began without a gate and learned from all 40 frames" in verdict.sentence


def test_too_few_frames_to_judge_on_ask_a_person(adapt: Adapt, frames_dir: Path) -> None:
    bundle = adapt(frames=frames_dir)
    verdict = bundle.manifest.verdict
    assert verdict is not None
    assert (verdict.decision, verdict.frames, verdict.checks) == ("ask", 0, ())
    assert verdict.sentence.startswith("6 frames are too few")
    assert verdict.sentence.endswith(f"give at least {judge.FOR_A_VERDICT}.")
    assert bundle.manifest.provenance.frames == 6


def test_as_many_frames_as_are_asked_for_give_a_verdict() -> None:
    held = [set_aside(numbered(judge.FOR_A_VERDICT - less))[1] for less in (0, 1)]
    assert [len(part or ()) >= LEAST_FRAMES for part in held] == [True, False]


def test_a_run_that_sets_too_few_aside_says_how_many_it_needs(
    adapt: Adapt, recording: Path, tmp_path: Path
) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    for image in sorted(recording.iterdir())[:20]:
        (drive / image.name).symlink_to(image)
    verdict = adapt("training.steps=2", frames=drive).manifest.verdict
    assert verdict is not None
    assert (verdict.decision, verdict.frames) == ("ask", 5)
    assert verdict.sentence.startswith("The 5 frames set aside are too few to judge on: give at")
    assert f"at least {judge.FOR_A_VERDICT} that show" in verdict.sentence
    assert verdict.checks


def test_a_run_that_changes_nothing_keeps_the_incumbent(adapt: Adapt, source: Bundle) -> None:
    verdict = adapt("warm_start=mixed", "statistics_share=0", method="bn_stats").manifest.verdict
    assert verdict is not None
    assert (verdict.decision, verdict.frames, verdict.checks) == ("keep", 0, ())
    assert verdict.sentence.startswith("The run has left the incumbent as it was")
    assert verdict.incumbent == source.hash


def test_without_time_for_anything_the_incumbent_is_kept(adapt: Adapt, frames_dir: Path) -> None:
    bundle = adapt("warm_start=mixed", "tone=none", frames=frames_dir, time_budget_s=1e-6)
    assert bundle.manifest.provenance.frames < 16  # none is held
    verdict = bundle.manifest.verdict
    assert verdict is not None
    assert (verdict.decision, verdict.checks) == ("keep", ())
    assert "left the incumbent as it was" in verdict.sentence


@pytest.mark.parametrize(
    ("held", "budget_s", "said"),
    [
        (15, 20.0, "time budget left time to judge on 4 frames of 15 set aside, and a verdict tak"),
        (4, 20.0, "The 4 frames set aside are too few to judge on: give at least 32"),
        (4, None, "The 4 frames set aside are too few to judge on: give at least 32"),
    ],
)
def test_what_a_run_lacked_for_a_verdict_is_said(
    held: int, budget_s: float | None, said: str
) -> None:
    assert said in judge._why_too_few(4, numbered(held), Deadline(budget_s))


def test_another_tone_alone_is_judged(adapt: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    def brighter(*given: Any) -> Any:
        spec = given[2]
        return spec.model_copy(update={"gamma": 0.5})

    monkeypatch.setattr("roadshift.adapt.workflows.whole_run.align_tone", brighter)
    verdict = adapt("tone=auto", method="tone_only").manifest.verdict
    assert verdict is not None
    assert verdict.frames == 10


def test_a_frame_that_cannot_be_read_any_more_is_left_out(
    adapt: Adapt, decided: Decided, recording: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Frames that do not fit the cache are decoded when they are drawn."""
    monkeypatch.setattr("roadshift.adapt.data.dataset.CACHE_LIMIT_BYTES", 0)
    (tmp_path / "frames").mkdir()
    for file in recording.iterdir():
        (tmp_path / "frames" / file.name).write_bytes(file.read_bytes())
    decided("promote")
    notes: list[str] = []
    (tmp_path / "frames/frame_35.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    verdict = adapt(frames=tmp_path / "frames", note=notes.append).manifest.verdict
    assert verdict is not None
    assert (verdict.decision, verdict.frames) == ("promote", 9)
    assert any(note.startswith("left out: ") and "frame_35.png" in note for note in notes)
    for i in range(30, 40):
        (tmp_path / f"frames/frame_{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    again = adapt(frames=tmp_path / "frames", overwrite=True).manifest.verdict
    assert again is not None
    assert (again.decision, again.frames) == ("ask", 0)
    assert "No frame could be read" in again.sentence


def test_at_most_32_of_the_frames_are_looked_at(
    adapt: Adapt, decided: Decided, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "JUDGED_ON", 7)
    asked = decided("promote")
    adapt()
    assert asked[0].frames == 7


def test_the_incumbent_is_never_the_output(
    source: Bundle, recording: Path, settings: Settings
) -> None:
    job = RunOptions(source.path, overwrite=True, device="cpu")
    with pytest.raises(OutputError, match=r"is the incumbent itself.*give another out"):
        adapt_bundle(source, [recording], settings(), job, gated=True)
    assert open_bundle(source.path).hash == source.hash


# --- what is written of a verdict -----------------------------------------------------------------


def test_a_bundle_from_before_there_was_a_gate_is_read(source: Bundle, tmp_path: Path) -> None:
    old = json.loads((source.path / "manifest.json").read_text())
    del old["verdict"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old/manifest.json").write_text(json.dumps(old))
    (tmp_path / "old/model.safetensors").symlink_to(source.path / "model.safetensors")
    assert open_bundle(tmp_path / "old").manifest.verdict is None


def test_what_a_verdict_that_does_not_promote_ends_with() -> None:
    verdict = Verdict("promote", "Better.", (CHECK,), 32)
    assert (verdict.error(Path("new")), verdict.warning) == (None, None)
    refused, undecided = (replace(verdict, decision=d, sentence="Worse.") for d in ("keep", "ask"))
    errors = [one.error(Path("new")) for one in (refused, undecided)]
    assert [type(error) for error in errors] == [RefusedError, UndecidedError]
    assert [error.exit_code for error in errors if error] == [5, 6]
    assert all(str(error).startswith("new: ") and str(error).endswith("Worse.") for error in errors)
    assert refused.warning == "this model was refused by its own gate: Worse."
    assert "could not decide" in (undecided.warning or "")


@pytest.mark.parametrize(
    ("asked", "black_box", "gate", "noted"),
    [
        (None, False, "refuse", 0),
        ("warn", False, "warn", 0),
        ("off", True, "off", 0),
        (None, True, "off", 1),
    ],
)
def test_the_gate_unless_a_user_chooses(
    asked: str | None, black_box: bool, gate: str, noted: int
) -> None:
    notes: list[str] = []
    assert choose_gate(asked, "atp", black_box, notes.append) == gate
    assert len(notes) == noted


def test_a_gate_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"gate 'shut' is none of refuse, warn, off\."):
        choose_gate("shut", "iapc", False, print)
    with pytest.raises(ConfigError, match="gate warn: atp_black_box knows its source model by"):
        choose_gate("warn", "atp_black_box", True, print)


# --- older frames ---------------------------------------------------------------------------------


def test_what_is_forgotten_of_older_frames_is_in_the_verdict(
    adapt: Adapt, decided: Decided, recording: Path
) -> None:
    decided("promote")
    verdict = adapt(older=[recording]).manifest.verdict
    assert verdict is not None
    check = next(check for check in verdict.checks if check.name == "older")
    assert check.sentence.startswith("On 16 older frames the candidate says the same")
    assert verdict.decision == ("promote" if check.passed else "ask")


def test_older_frames_that_are_not_there_or_not_judged_are_said_before_the_run(
    adapt: Adapt, tmp_path: Path, recording: Path
) -> None:
    with pytest.raises(FrameError, match="nowhere"):
        adapt(older=[tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="older: nothing is judged with gate=False"):
        adapt(older=[recording], gated=False)
    assert not (tmp_path / "out.run").exists()


# --- what judging costs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run_s", "forward_s", "frames"),
    [
        (1000.0, 0.1, 32),  # 320 passes fit 100 s
        (200.0, 0.1, 16),  # a tenth would be 20 s: 16 are judged on all the same
        (300.0, 0.1, 28),
    ],
)
def test_judging_takes_fewer_frames_where_it_would_cost_more_than_a_tenth_and_says_so(
    run_s: float, forward_s: float, frames: int
) -> None:
    notes: list[str] = []
    deadline = Deadline(None)
    deadline.before_s, deadline.forward_s = run_s, forward_s
    context = SimpleNamespace(work=Work(deadline), note=notes.append)
    assert judge.affordable(32, torch.nn.Identity(), context) == frames  # type: ignore[arg-type]
    seconds = judge.passes_of(frames) * forward_s
    of = " of 32" if frames < 32 else ""
    assert notes == [f"judging on {frames} frames{of}, about {seconds:.0f} s"]


def test_judging_takes_what_a_time_budget_leaves_and_nothing_where_that_is_too_little() -> None:
    deadline = Deadline(100.0)
    deadline.forward_s = 1.0
    context = SimpleNamespace(work=Work(deadline), note=lambda _: None)
    left_s = deadline.left_s
    count = judge.affordable(32, torch.nn.Identity(), context)  # type: ignore[arg-type]
    assert 0 < count < 32
    assert judge.passes_of(count) <= left_s < judge.passes_of(count + BATCH)
    deadline.forward_s = 10.0
    assert judge.affordable(32, torch.nn.Identity(), context) == 0  # type: ignore[arg-type]


# --- two bundles ----------------------------------------------------------------------------------


def test_two_bundles_are_judged_on_evenly_spaced_frames(
    source: Bundle, changed: Callable[..., Bundle], recording: Path, decided: Decided
) -> None:
    asked = decided("promote")
    done: list[tuple[int, int | None]] = []
    verdict = judge_bundles(
        source,
        changed(louder),
        [recording],
        device="cpu",
        max_frames=6,
        events=Events(report_phase=lambda judged: done.append((judged.done, judged.total))),
    )
    assert (verdict.frames, verdict.incumbent) == (6, source.hash)
    assert asked[0].scores["entropy"].difference < 0  # 1.5 times the logits: surer
    assert done == [(0, 6), (4, 6), (6, 6)]  # by batches


@pytest.mark.parametrize("distinct", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("copies", [0, 20])
def test_fewer_than_eight_different_frames_ask_a_person(
    distinct: int,
    copies: int,
    source: Bundle,
    changed: Callable[..., Bundle],
    recording: Path,
    tmp_path: Path,
) -> None:
    for i in range(distinct + copies):
        image = recording / f"frame_{i % distinct}.png"
        (tmp_path / f"{i:02d}.png").symlink_to(image)
    verdict = judge_bundles(source, changed(louder), sorted(tmp_path.glob("*.png")), device="cpu")
    assert (verdict.decision, verdict.frames) == ("ask", distinct)
    assert "too few to judge on" in verdict.sentence
    assert ("nearly the same picture" in verdict.sentence) == bool(copies)
    assert verdict.checks  # what was seen is there to look at


def test_copies_do_not_make_an_interval_narrower(
    source: Bundle, changed: Callable[..., Bundle], recording: Path
) -> None:
    once, again = (
        [recording / f"frame_{i}.png" for i in range(8) for _ in range(times)] for times in (1, 4)
    )
    candidate = changed(louder)
    verdicts = [judge_bundles(source, candidate, frames, device="cpu") for frames in (once, again)]
    assert verdicts[0].checks == verdicts[1].checks
    assert verdicts[1].frames == 8


def test_weights_that_are_no_numbers_are_refused(
    source: Bundle, changed: Callable[..., Bundle], recording: Path
) -> None:
    broken = changed(lambda network: network.get_parameter("classifier.bias").fill_(torch.nan))
    verdict = judge_bundles(source, broken, [recording], device="cpu")
    assert verdict.decision == "keep"
    assert "not numbers" in verdict.sentence
    assert "classifier.bias: 4 of 4" in verdict.sentence
    json.dumps(verdict.record(), allow_nan=False)
    with pytest.raises(NetworkError, match=r"not finite \(classifier\.bias"):
        judge_bundles(broken, source, [recording], device="cpu")


def test_logits_that_are_no_numbers_are_refused(
    source: Bundle, changed: Callable[..., Bundle], recording: Path
) -> None:
    """The weights are finite, and what is computed with them is not."""
    broken = changed(lambda network: network.get_parameter("classifier.weight").fill_(3e38))
    verdict = judge_bundles(source, broken, [recording], device="cpu")
    assert verdict.decision == "keep"
    assert "not numbers" in verdict.sentence
    json.dumps(verdict.record(), allow_nan=False)


def test_a_score_that_does_not_exist_is_null_in_the_record(
    source: Bundle,
    changed: Callable[..., Bundle],
    recording: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without batch norm there is no divergence, and a manifest holds no NaN."""
    unknown = replace(CHECK, incumbent=math.nan, low=-math.inf, high=math.nan)
    verdict = Verdict("keep", "No.", (unknown,), 6)
    monkeypatch.setattr(judge, "decide", lambda *_: verdict)
    record = judge_bundles(source, changed(louder), [recording], device="cpu").record()
    (check,) = json.loads(json.dumps(record, allow_nan=False))["checks"]
    assert (check["incumbent"], check["low"], check["high"]) == (None, None, None)
    assert check["candidate"] == CHECK.candidate


def test_the_same_model_twice_is_no_pair(
    source: Bundle, changed: Callable[..., Bundle], recording: Path
) -> None:
    for candidate in (source, changed(nothing)):
        with pytest.raises(ConfigError, match=r"is the same model as .*nothing to judge"):
            judge_bundles(source, candidate, [recording], device="cpu")


def test_the_same_weights_fed_otherwise_are_a_pair(
    source: Bundle, changed: Callable[..., Bundle], recording: Path, decided: Decided
) -> None:
    decided("ask")
    brighter = source.manifest.input.model_copy(update={"gamma": 0.5})
    verdict = judge_bundles(source, changed(nothing, input=brighter), [recording], device="cpu")
    assert verdict.decision == "ask"


def test_models_of_other_classes_are_no_pair(
    source: Bundle, changed: Callable[..., Bundle], recording: Path
) -> None:
    space = replace(source.label_space, name="other", classes=("a", "b", "c", "d"))
    with pytest.raises(LabelSpaceError, match=r"space other \(4 classes\).*four \(4 classes\)"):
        judge_bundles(source, changed(louder, label_space=space), [recording], device="cpu")


def test_frames_that_cannot_be_read_are_named(
    source: Bundle,
    changed: Callable[..., Bundle],
    tmp_path: Path,
    decided: Decided,
    recording: Path,
) -> None:
    decided("promote")
    candidate, bad = changed(louder), tmp_path / "bad"
    with pytest.raises(FrameError, match="bad"):
        judge_bundles(source, candidate, [bad], device="cpu")
    bad.mkdir()
    (bad / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(FrameError, match=r"a\.png"):
        judge_bundles(source, candidate, [bad], device="cpu")
    notes: list[str] = []
    verdict = judge_bundles(
        source, candidate, [bad, recording], events=Events(notes.append), device="cpu"
    )
    assert verdict.frames == 31
    assert any("a.png" in note for note in notes)
