"""The contract of every method where there is no batch norm: layer norms, and group norms.

Steps are finite and change weights, a killed run goes on to the same bits, whatever part learns;
methods of batch-norm statistics alone refuse in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_cases import write_bundle
from roadshift.adapt import adapt_black_box, adapt_bundle
from roadshift.adapt.methods import METHODS, build_stages, find_method, resolve_config
from roadshift.adapt.networks import build_network
from roadshift.adapt.run.config import RunConfig
from roadshift.runtime.bundle import Bundle, NetworkSpec, open_bundle
from roadshift.runtime.errors import NetworkError
from run_cases import Killed, assert_same, black_box, history_of, kill_at, run_options, weights
from safetensors.torch import load_file

TRANSFORMER, GROUPS = "no_batch_norm:transformer", "no_batch_norm:group_norm"
LEARNING = [m for m in METHODS if m not in ("bn_stats", "tone_only")]

Run = Callable[..., Bundle]


def small(method: str, *assignments: str) -> RunConfig:
    """Few steps, of which every stage takes at least one."""
    few = ["training.batch_size=2", "training.amp=off", *assignments]
    stages = build_stages(resolve_config(method))
    steps = max(3, 2 * sum(stage.share for stage in stages)) if stages else 0
    return resolve_config(method, assignments=[*few, f"training.steps={steps}"])


@pytest.fixture
def run(source: Bundle, target: Path, tmp_path: Path) -> Run:
    """``run(network, method, name, *assignments, **options)``: a run into ``tmp_path/name``."""
    answers, student = black_box(source.label_space, target, tmp_path)

    def run(network: str, method: str, name: str, *assignments: str, **options: Any) -> Bundle:
        job = run_options(tmp_path / name, **options)
        config = small(method, *assignments)
        if find_method(method).black_box:
            own = replace(student, network=network)
            return adapt_black_box(str(answers), [target], config, job, own)
        path = tmp_path / f"source-{name}"
        torch.manual_seed(0)
        model = build_network(network, source.label_space.num_classes)
        spec = source.manifest.network.model_copy(update={"name": network})
        given = (
            open_bundle(path, allow_networks=["no_batch_norm"])
            if path.exists()
            else write_bundle(path, model, like=source, network=spec)
        )
        return adapt_bundle(given, [target], config, job)

    return run


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method", LEARNING)
def test_a_killed_run_of_a_transformer_goes_on_to_the_same_bits(method: str, run: Run) -> None:
    whole = run(TRANSFORMER, method, "whole")
    with pytest.raises(Killed):
        run(TRANSFORMER, method, "again", report=kill_at(2), checkpoint_every_s=0.0)
    again = run(TRANSFORMER, method, "again", resume=True)
    assert_same(weights(whole), weights(again))
    assert_learned(whole, method)


@pytest.mark.parametrize("method", LEARNING)
def test_steps_of_group_norms_are_finite(method: str, run: Run) -> None:
    assert_learned(run(GROUPS, method, "out"), method)


def assert_learned(bundle: Bundle, method: str) -> None:
    history = history_of(bundle.path)
    assert {line["stage"] for line in history} == {s.name for s in build_stages(small(method))}
    assert all(math.isfinite(value) for line in history for value in line["losses"].values())
    assert all(tensor.isfinite().all() for tensor in weights(bundle).values())
    outcome: Any = bundle.manifest.provenance.configuration["outcome"]
    assert outcome["skipped_steps"] == 0
    assert outcome["statistics_why"] == "the network keeps no batch-norm statistics"


@pytest.mark.parametrize("network", [TRANSFORMER, GROUPS])
def test_batch_norm_statistics_alone_refuse(network: str, run: Run) -> None:
    with pytest.raises(NetworkError, match=r"bn_stats changes .* no batch-norm .* such as nights"):
        run(network, "bn_stats", "out")


PARTS = {  # what changes of the transformer
    "norm": ("norm1.", "norm2.", "norm."),
    "head": ("classifier.",),
    "lora": ("attn.in_proj_weight", "attn.out_proj.weight"),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("part", PARTS)
def test_a_part_alone_changes_and_a_killed_run_goes_on(part: str, run: Run, tmp_path: Path) -> None:
    learn = [f"training.learn={part}", "training.lora_rank=2", "training.lr=0.05"]
    learn += ["nightshift.align=false"] * (part == "head")  # it keeps the classifier still
    whole = run(TRANSFORMER, "nightshift", "whole", *learn)
    with pytest.raises(Killed):
        run(TRANSFORMER, "nightshift", "again", *learn, report=kill_at(2), checkpoint_every_s=0.0)
    again = run(TRANSFORMER, "nightshift", "again", *learn, resume=True)
    assert_same(weights(whole), weights(again))
    before, after = load_file(tmp_path / "source-whole" / "model.safetensors"), weights(whole)
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    ends = {end for end in PARTS[part] if any(end in name for name in changed)}
    assert ends == set(PARTS[part])
    assert all(any(end in name for end in ends) for name in changed)


def test_the_one_batch_norm_of_a_segformer_is_mixed_and_stands_still(
    source: Bundle, target: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    arguments = {"widths": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "decoder_width": 16}
    model = build_network("segformer_b0", source.label_space.num_classes, **arguments)
    spec = NetworkSpec(name="segformer_b0", arguments=arguments)
    given = write_bundle(tmp_path / "source", model, like=source, network=spec)
    found, notes = {}, list[str]()
    for method in ("bn_stats", "nightshift"):
        config = small(method, "statistics_share=0.5", "tone=none")
        job = run_options(tmp_path / method, note=notes.append)
        found[method] = weights(adapt_bundle(given, [target], config, job))
    name = "decode_head.batch_norm.running_mean"
    assert not torch.equal(found["bn_stats"][name], model.state_dict()[name])
    torch.testing.assert_close(found["bn_stats"][name], found["nightshift"][name])
    weight = "segformer.encoder.patch_embeddings.0.proj.weight"
    assert not torch.equal(found["nightshift"][weight], model.state_dict()[weight])
    assert any("in 1 of its 20 normalising layers" in note for note in notes)
