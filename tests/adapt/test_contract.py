"""The contract of every registered method and network, a third party's among them.

A method: its steps are finite and deterministic, a killed run goes on to the same bits, no label is
read, a time budget is kept. A network: its logits and features fit, it is built anew and computed
deterministically, its classifier is part of it, and a step is finite and changes it. That networks
export is in `tests/export/test_every_network.py`, and of the third party's in
`tests/end_to_end/test_third_party.py`. The package in `tests/third_party` is known by its metadata
alone, as an installed one is.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from roadshift.adapt import adapt_black_box, adapt_bundle
from roadshift.adapt.data.dataset import Batch
from roadshift.adapt.methods import METHODS, build_stages, find_method, resolve_config
from roadshift.adapt.networks import NETWORKS, SegmentationNetwork, build_network
from roadshift.adapt.run.config import RunConfig
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.installed import installed_names
from run_cases import (
    Killed,
    assert_same,
    black_box,
    history_of,
    kill_at,
    run_options,
    weights,
)
from run_clock import A_FRAME_S, Clock
from torch.nn.functional import cross_entropy

SITE = str(Path(__file__).parents[1] / "third_party")
EVERY_METHOD = [*METHODS, "sharp"]
# The code of segformer_b0, pidnet_s and ddrnet23_slim, with up to 85 M weights: seconds each.
LARGER = {*(f"segformer_b{size}" for size in range(1, 6)), "pidnet_m", "ddrnet23"}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name in LARGER]
EVERY_NETWORK = [*(n for n in NETWORKS if n not in LARGER), "lane_net", "tiny_network:build"]
EVERY_NETWORK += installed_names("roadshift.networks")  # METHODS has the installed ones itself
ARGUMENTS = {  # not 40 million parameters
    "deeplab_v3plus": {"backbone": "mobilenet_v2"},
    "deeplab_v2_resnet101": {"layers": [1, 1, 1, 1]},
}
K = 4

Settings = Callable[..., RunConfig]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> Iterator[None]:
    """The third party's package is on Python's path, its entry points are read anew."""
    sys.path.append(SITE)
    METHODS.__dict__.pop("_installed", None)
    yield
    sys.path.remove(SITE)
    METHODS.__dict__.pop("_installed", None)
    METHODS._registered.pop("sharp", None)


# --- methods -------------------------------------------------------------------------------------


def small(method: str) -> RunConfig:
    """Few steps, of which every stage takes at least one."""
    assignments = ["training.batch_size=2", "training.amp=off", "bn_batch_size=3", "tone=none"]
    if resolve_config(method).warm_start == "mixed":
        assignments.append("warm_start=target")  # with which every stage takes part
    steps = max(3, 2 * sum(stage.share for stage in build_stages(resolve_config(method))))
    return resolve_config(method, assignments=[*assignments, f"training.steps={steps}"])


Run = Callable[..., Bundle]


@pytest.fixture
def run(source: Bundle, target: Path, tmp_path: Path) -> Run:
    """``run(method, name, **options)``: a whole small run into ``tmp_path/name``."""
    answers, student = black_box(source.label_space, target, tmp_path)

    def run(method: str, name: str, **options: Any) -> Bundle:
        job = run_options(tmp_path / name, **options)
        if find_method(method).black_box:
            return adapt_black_box(str(answers), [target], small(method), job, student)
        return adapt_bundle(source, [target], small(method), job)

    return run


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method", EVERY_METHOD)
def test_steps_are_finite_and_a_killed_run_goes_on_to_the_same_bits(method: str, run: Run) -> None:
    stages = build_stages(small(method))
    whole = run(method, "whole")
    if stages:
        with pytest.raises(Killed):
            run(method, "again", report=kill_at(2), checkpoint_every_s=0.0)
    again = run(method, "again", resume=True)
    assert_same(weights(whole), weights(again))
    assert all(tensor.isfinite().all() for tensor in weights(whole).values())
    if not stages:
        return
    history = history_of(whole.path)
    assert history == history_of(again.path)
    assert {line["stage"] for line in history} == {stage.name for stage in stages}
    for line in history:
        assert line["losses"].keys() > {"total"}
        assert all(math.isfinite(value) for value in line["losses"].values())
    outcome: Any = whole.manifest.provenance.configuration["outcome"]
    assert outcome["skipped_steps"] == 0


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_no_label_of_a_target_frame_is_read(method: str, run: Run, no_labels: list[Batch]) -> None:
    bundle = run(method, "out")
    assert bundle.manifest.provenance.frames == 6
    steps = small(method).training.steps
    stages = build_stages(small(method))
    assert len(no_labels) >= steps if stages else not no_labels
    assert all(batch.labels is None for batch in no_labels)
    history = (bundle.path / "history.jsonl").read_text().splitlines() if stages else []
    assert {json.loads(line)["stage"] for line in history} == {stage.name for stage in stages}


@pytest.mark.usefixtures("slow_network")
@pytest.mark.parametrize("budget", [0.2, 2.0, 10.0, 30.0])
@pytest.mark.parametrize("method", sorted(m for m in EVERY_METHOD if not m.endswith("black_box")))
def test_no_method_takes_longer_than_the_budget(
    method: str,
    budget: float,
    clock: Clock,
    source: Bundle,
    recording: Path,
    tmp_path: Path,
    settings: Settings,
) -> None:
    steps = () if method in ("bn_stats", "tone_only") else ("training.steps=300",)
    config = settings(*steps, "tone=auto", method=method)
    notes: list[str] = []
    began = clock.now
    job = run_options(tmp_path / "out", time_budget_s=budget, note=notes.append)
    bundle = adapt_bundle(source, [recording], config, job, gated=True)
    # At the least a forward pass is timed, and a look, statistics and a verdict need one batch.
    assert clock.now - began <= 1.2 * budget + 40 * A_FRAME_S, notes
    outcome: Any = bundle.manifest.provenance.configuration["outcome"]
    if steps and budget == 30:
        assert outcome["steps"] > 3, notes
    assert bundle.manifest.verdict is not None


@pytest.mark.usefixtures("slow_network")
@pytest.mark.parametrize("budget", [2.0, 10.0, 30.0])
@pytest.mark.parametrize("method", sorted(m for m in EVERY_METHOD if m.endswith("black_box")))
def test_no_black_box_method_takes_longer_than_the_budget(
    method: str,
    budget: float,
    clock: Clock,
    source: Bundle,
    target: Path,
    tmp_path: Path,
    settings: Settings,
) -> None:
    answers, student = black_box(source.label_space, target, tmp_path)
    config = settings("training.steps=3000", "tone=none", method=method)
    notes: list[str] = []
    began = clock.now
    job = run_options(tmp_path / "out", time_budget_s=budget, note=notes.append)
    bundle = adapt_black_box(str(answers), [target], config, job, student)
    assert clock.now - began <= 1.2 * budget + 40 * A_FRAME_S, notes
    outcome: Any = bundle.manifest.provenance.configuration["outcome"]
    assert outcome["steps"] < 3000, notes
    if budget == 30:
        assert outcome["steps"] > 3, notes


# --- networks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[*EVERY_NETWORK, *SLOW])
def built(request: pytest.FixtureRequest) -> SegmentationNetwork:
    """Every network for K classes, of weights drawn from a seed."""
    torch.manual_seed(0)
    return build_network(request.param, K, **ARGUMENTS.get(request.param, {}))


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_logits_and_features_are_of_the_images(built: SegmentationNetwork) -> None:
    with torch.no_grad():
        output = built.eval()(images())
    assert output.logits.shape[:2] == (2, K)
    assert output.logits.isfinite().all()
    if built.stride is not None:
        h, w = output.logits.shape[2:]
        assert abs(h - 64 / built.stride) <= 1
        assert abs(w - 96 / built.stride) <= 1
    assert output.features is not None
    assert output.features.ndim == 4
    assert output.features.isfinite().all()
    assert built.num_classes == K


def test_it_is_built_anew_and_computes_the_same_bits(
    built: SegmentationNetwork, one_thread: None
) -> None:
    del one_thread
    assert built.rebuild is not None
    twin = built.rebuild()
    twin.load_state_dict(built.state_dict())
    with torch.no_grad():
        first, second = (network.eval()(images()).logits for network in (built, twin))
        again = built(images()).logits
    assert torch.equal(first, second)
    assert torch.equal(first, again)


def test_the_classifier_is_a_part_of_it(built: SegmentationNetwork) -> None:
    built.eval()(images())  # a user's own network is tried out with its first images
    own = {id(parameter) for parameter in built.parameters()}
    head = {id(parameter) for parameter in built.classifier_parameters()}
    assert head
    assert head < own


def test_a_step_is_finite_and_changes_its_weights(built: SegmentationNetwork) -> None:
    assert built.rebuild is not None
    network = built.rebuild().train()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-2)
    logits = network(images()).logits
    labels = torch.arange(logits[:, 0].numel()).reshape(logits[:, 0].shape) % K
    loss = cross_entropy(logits, labels)
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    after = dict(network.named_parameters())
    assert all(parameter.isfinite().all() for parameter in after.values())
    head = {id(parameter) for parameter in network.classifier_parameters()}
    moved = [p for name, p in after.items() if not torch.equal(before[name], p)]
    assert {id(p) in head for p in moved} == {True, False}  # the classifier, and the rest
