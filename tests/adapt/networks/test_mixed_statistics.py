"""Mixed batch-norm statistics: the formula, the share, what a run does with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.methods import METHODS, resolve_config
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.networks import Output, SegmentationNetwork
from roadshift.adapt.networks.batch_norm import batch_norm_layers
from roadshift.adapt.networks.mixed_statistics import (
    Moments,
    mix_statistics,
    reestimate_batch_norm,
    running_statistics,
    target_statistics,
)
from roadshift.adapt.networks.modes import evaluating
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.options import RunOptions
from roadshift.adapt.scoring.statistics_share import (
    FRAMES,
    SHARES,
    StatisticsShare,
    capped,
    find_share,
    score,
    weighted_mean,
)
from roadshift.adapt.workflows.adaptation import adapt_bundle
from roadshift.runtime.bundle import Bundle, InputSpec
from roadshift.runtime.errors import ConfigError, RunInterrupted
from run_cases import run_options
from torch import Tensor, nn

shares = st.floats(0, 1)
values = st.lists(st.floats(-50, 50), min_size=2, max_size=30)


# ---- the mixture --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(source=values, target=values, times=st.integers(1, 5))
def test_the_mixture_is_that_of_both_sets_of_inputs(
    source: list[float], target: list[float], times: int
) -> None:
    """With a share that is a ratio of whole numbers the inputs themselves can be pooled."""
    pooled = np.array(source * len(target) + target * (len(source) * times))
    layer = nn.BatchNorm2d(1).double()
    old, new = (
        Moments(torch.tensor([np.mean(v)]), torch.tensor([np.var(v)])) for v in (source, target)
    )
    assert mix_statistics({layer: old}, {layer: new}, times / (times + 1)) == 1
    np.testing.assert_allclose(layer.running_mean, [pooled.mean()], atol=1e-9)
    np.testing.assert_allclose(layer.running_var, [pooled.var()], rtol=1e-9, atol=1e-9)


@given(shares)
def test_the_ends_are_exact_and_what_is_between_is_between(share: float) -> None:
    layer = nn.BatchNorm2d(2)
    old = Moments(torch.tensor([0.1, -3.0]), torch.tensor([0.7, 1e-3]))
    new = Moments(torch.tensor([0.3, 5.0]), torch.tensor([0.2, 1e3]))
    for end, expected in ((0.0, old), (1.0, new)):
        mix_statistics({layer: old}, {layer: new}, end)
        assert torch.equal(layer.running_mean, expected.mean)
        assert torch.equal(layer.running_var, expected.variance)
    mix_statistics({layer: old}, {layer: new}, share)
    low, high = torch.minimum(old.mean, new.mean), torch.maximum(old.mean, new.mean)
    assert bool(((low - 1e-6 <= layer.running_mean) & (layer.running_mean <= high + 1e-6)).all())
    assert bool((layer.running_var >= torch.minimum(old.variance, new.variance) - 1e-6).all())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())


def test_looking_at_the_target_changes_nothing() -> None:
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = target_statistics(net, [torch.randn(2, 3, 8, 8) + 4])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert list(found) == batch_norm_layers(net)
    assert not torch.equal(found[net[1]].mean, net[1].running_mean)


class _Frozen(nn.BatchNorm2d):
    """A layer that stays in evaluation mode, as published code freezes batch norm."""

    def train(self, mode: bool = True) -> _Frozen:
        return super().train(mode and False)


def test_batch_norm_that_holds_itself_in_evaluation_mode_is_mixed_as_any() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), _Frozen(4)).train()
    plain = network()
    plain.load_state_dict(net.state_dict())
    batch = torch.randn(2, 3, 8, 8) + 4
    assert reestimate_batch_norm(net, [batch], 0.5) == reestimate_batch_norm(plain, [batch], 0.5)
    torch.testing.assert_close(net[1].running_mean, plain[1].running_mean)
    assert not net[1].training
    with evaluating(net, own_statistics=True):
        own = net(batch)
    torch.testing.assert_close(own.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)


def test_no_share_asks_for_no_frame_and_a_source_of_one_s_own_may_be_given() -> None:
    net = network()
    given_source = running_statistics(net)
    net[1].running_mean.fill_(100)

    def frames() -> Any:
        raise AssertionError("a frame was read")
        yield

    assert reestimate_batch_norm(net, frames(), 0.0) == 0
    batch = torch.randn(2, 3, 8, 8)
    target = target_statistics(net, [batch])[net[1]]
    assert reestimate_batch_norm(net, [batch], 0.5, source=given_source) == 1
    torch.testing.assert_close(net[1].running_mean, target.mean / 2)


# ---- the share ----------------------------------------------------------------------------------


def test_the_score_is_information_times_steadiness() -> None:
    class Fixed(SegmentationNetwork):
        num_classes, align_corners = 2, False

        def forward(self, images: Tensor) -> Output:
            return Output(10 * torch.cat([images[:, :1], -images[:, :1]], 1), None)

    symmetric = torch.tensor([1.0, -1.0, -1.0, 1.0]).expand(1, 3, 2, 4)
    lopsided = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(1, 3, 2, 4)
    net = Fixed().eval()
    assert score(net, [symmetric]) == pytest.approx(np.log(2), rel=1e-3)  # steady: 1
    assert score(net, [lopsided]) == pytest.approx(score(net, [symmetric]))  # mirrored back
    assert score(net, [torch.ones(1, 3, 2, 4)]) == pytest.approx(0, abs=1e-6)  # one class: nothing


@given(st.lists(st.floats(0, 3), min_size=len(SHARES), max_size=len(SHARES)))
def test_the_share_is_a_mean_that_the_better_scores_pull(found: list[float]) -> None:
    share = weighted_mean(SHARES, found)
    assert 0 <= share <= 1
    if max(found) > 0:
        best = SHARES[int(np.argmax(found))]
        alone = [5.0 * max(found) if s == best else f for s, f in zip(SHARES, found, strict=True)]
        assert abs(weighted_mean(SHARES, alone) - best) <= abs(share - best) + 1e-9


def test_without_any_information_the_source_s_own_statistics_stay() -> None:
    assert weighted_mean(SHARES, [0.0] * len(SHARES)) == 0.0


def test_few_different_frames_are_not_worth_more_than_the_source_s_own() -> None:
    assert capped(1.0, 1, "w").value == pytest.approx(0.33)
    assert capped(1.0, 2, "w") == StatisticsShare(0.5, "w; 2 different frames allow no more")
    assert capped(1.0, 1, "w").why == "w; 1 different frame allows no more"
    assert capped(0.2, 2, "w") == StatisticsShare(0.2, "w")
    assert capped(0.95, FRAMES, "w").value == 1.0
    assert capped(0.89, FRAMES, "w").value == 0.89


class Shifted(SegmentationNetwork):
    """Batch norm, then a class a sign: right only with the statistics that the images have."""

    num_classes, align_corners, stride = 2, False, 1

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.norm, self.gain = nn.BatchNorm2d(3, affine=False), gain

    def forward(self, images: Tensor) -> Output:
        x = self.gain * self.norm(images)[:, :1]
        return Output(torch.cat([x, -x], 1), x)


def shifted_context(count: int, folder: Path) -> Context:
    """Frames of two greys, both brighter than what `Shifted` takes for the middle."""
    rng = np.random.default_rng(0)
    images = [
        np.repeat(rng.integers(0, 2, (16, 16, 1), np.uint8) * 90 + 150, 3, axis=2)
        for _ in range(count)
    ]
    spec = InputSpec(width=16, height=16, mean=(100, 100, 100), std=(20, 20, 20))
    return Context(
        frames=FrameSet([f"{i}" for i in range(count)], 16, 16, lambda i: images[i]),
        normalise=Normalise(spec),
        device=torch.device("cpu"),
        workdir=folder,
        config=resolve_config("bn_stats"),
        crop_size=(16, 16),
    )


@pytest.mark.parametrize("few", [1, 2, 40])
def test_statistics_worth_nothing_are_replaced_as_far_as_the_frames_allow(
    few: int, tmp_path: Path
) -> None:
    context = shifted_context(few, tmp_path)
    net = Shifted(4.0).eval()
    net.norm.running_mean.fill_(-5.0)  # all that is seen lies on one side
    source = running_statistics(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    target = target_statistics(net, context.whole_frames("x"))
    found = find_share(net, source, target, context, few)
    assert found.value == {1: 0.33, 2: 0.5, 40: 1.0}[few]
    told = find_share(net, source, target, context, 1)
    assert told.value == 0.33
    assert told.why.endswith("; 1 different frame allows no more")
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


# ---- a run --------------------------------------------------------------------------------------


Run = Callable[..., tuple[SegmentationNetwork, dict[str, Any]]]


@pytest.fixture
def run(source: Bundle, frames_dir: Path, tmp_path: Path) -> Run:
    """Adapt the tiny source model; gives the network and the manifest's outcome."""

    def adapt(method: str, *assignments: str) -> tuple[SegmentationNetwork, dict[str, Any]]:
        small = ["training.batch_size=2", "training.amp=off", "tone=none"]
        config = resolve_config(method, assignments=[*small, *assignments])
        job = RunOptions(tmp_path / "out", overwrite=True, device="cpu")
        bundle = adapt_bundle(source, [frames_dir], config, job)
        outcome = bundle.manifest.provenance.configuration["outcome"]
        return load_network(bundle, torch.device("cpu")), outcome

    return adapt


ADAPTING = sorted(
    name for name, method in METHODS.items() if not method.black_box and name != "supervised"
)


@pytest.mark.parametrize("method", ADAPTING)
def test_no_method_replaces_statistics_unless_it_is_asked_to(
    method: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every way to other statistics goes through one function; with a share given, all keep it."""
    seen: list[float] = []
    real = mix_statistics

    def watched(source: Any, target: Any, share: float) -> int:
        seen.append(share)
        return real(source, target, share)

    for module in (
        "networks.mixed_statistics",
        "training.batch_norm_statistics",
        "scoring.statistics_share",
    ):
        monkeypatch.setattr(f"roadshift.adapt.{module}.mix_statistics", watched)
    steps = [] if method in ("bn_stats", "tone_only") else ["training.steps=2"]
    share = [] if method == "tone_only" else ["statistics_share=0.25"]
    _, outcome = run(method, *steps, *share)
    assert seen == [0.25] * len(share)
    assert outcome["statistics_share"] == (0.25 if share else None)


def test_statistics_stand_still_while_a_run_learns_unless_they_are_all_the_target_s(
    run: Run, source: Bundle
) -> None:
    before = running_statistics(load_network(source, torch.device("cpu"))).values()
    for asked, still in (
        (["warm_start=source"], True),
        (["statistics_share=0.0"], True),
        (["statistics_share=0.0", "freeze_bn=false", "final_bn=false"], False),
    ):
        model, outcome = run("entmin", "training.steps=3", *asked)
        same = [
            torch.equal(layer.running_mean, mean) and torch.equal(layer.running_var, variance)
            for (mean, variance), layer in zip(before, batch_norm_layers(model), strict=True)
        ]
        assert all(same) is still
        assert outcome["statistics_share"] == 0.0


def test_the_manifest_says_how_much_was_found_and_why(run: Run) -> None:
    _, outcome = run("bn_stats")
    assert 0 <= outcome["statistics_share"] <= 6 / 8  # of six frames
    assert "informative" in outcome["statistics_why"]


def test_a_share_beside_another_warm_start_is_refused() -> None:
    with pytest.raises(ConfigError, match="statistics_share is for warm_start=mixed"):
        resolve_config("entmin", assignments=["warm_start=target", "statistics_share=0.5"])


def test_nightshift_learns_gently_and_without_align_where_statistics_stand_still(
    run: Run, tmp_path: Path
) -> None:
    for asked, stages, lr in (
        (["statistics_share=0.5"], {"nightshift"}, 1e-3),
        (["warm_start=target"], {"align", "nightshift"}, 3e-3),
        (["statistics_share=0.5", "nightshift.align=true"], {"align", "nightshift"}, 1e-3),
        (["statistics_share=0.5", "training.frozen_lr=2e-3"], {"nightshift"}, 2e-3),
    ):
        _, outcome = run("nightshift", "training.steps=6", *asked)
        lines = (tmp_path / "out" / "history.jsonl").read_text().splitlines()
        history = [json.loads(line) for line in lines]
        assert {line["stage"] for line in history} == stages
        assert history[0]["lr"] == pytest.approx(lr)
        assert outcome["steps"] == len(history) == (6 if len(stages) == 2 else 4)


@pytest.mark.parametrize(("asked", "told"), [("0.5", 1), ("1", 0)])
def test_steps_that_go_with_a_stage_left_out_are_told_once(
    asked: str, told: int, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    few = ["training.steps=4", "training.batch_size=2", "training.amp=off"]
    config = resolve_config("nightshift", assignments=[*few, f"statistics_share={asked}"])
    notes: list[str] = []
    job = RunOptions(tmp_path / "out", device="cpu", events=Events(note=notes.append))
    adapt_bundle(source, [frames_dir], config, job)
    sentences = [note for note in notes if note.startswith("align is left out")]
    assert len(sentences) == told
    assert all("2 of 4 are taken" in sentence for sentence in sentences)


def test_a_run_with_mixed_statistics_goes_on_exactly(
    source: Bundle, frames_dir: Path, tmp_path: Path, after_one_step: dict[str, Any]
) -> None:
    config = resolve_config(
        "nightshift",
        assignments=["training.steps=6", "training.batch_size=2", "training.amp=off"],
    )

    def adapt(folder: str, **options: Any) -> Bundle:
        job = run_options(tmp_path / folder, **options)
        return adapt_bundle(source, [frames_dir], config, job)

    whole = adapt("whole")
    with pytest.raises(RunInterrupted):
        adapt("stopped", **after_one_step)
    resumed = adapt("stopped", resume=True)
    first, second = (load_network(bundle, torch.device("cpu")) for bundle in (whole, resumed))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    outcomes = [b.manifest.provenance.configuration["outcome"] for b in (whole, resumed)]
    assert outcomes[0]["statistics_share"] == outcomes[1]["statistics_share"] < 1
    assert outcomes[0]["statistics_why"] == outcomes[1]["statistics_why"] != ""
