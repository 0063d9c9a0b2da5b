"""Batch norm over one value a channel: by hand, in re-estimation, in steps, in labelling."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import user_networks
from bundle_cases import write_bundle
from roadshift.adapt.methods import resolve_config
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.networks import build_network
from roadshift.adapt.networks.batch_norm_of_one import allow_lone_values, lone_values_allowed
from roadshift.adapt.networks.mixed_statistics import reestimate_batch_norm
from roadshift.adapt.workflows.adaptation import adapt_bundle
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec
from roadshift.runtime.labels import label_space
from run_cases import run_options
from torch import Tensor, nn

CAMVID = label_space("camvid11")


def norm(affine: bool = True) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(4, affine=affine)
    nn.init.normal_(layer.running_mean)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    return layer.train()


@pytest.mark.parametrize("affine", [True, False])
def test_a_lone_value_is_normalised_with_the_running_statistics_which_stay(affine: bool) -> None:
    layer, x = norm(affine), torch.randn(1, 4, 1, 1, requires_grad=True)
    before = [buffer.clone() for buffer in layer.buffers()]
    said: list[str] = []
    with lone_values_allowed(nn.Sequential(layer), said.append):
        found = layer(x)
        layer(x)
    expected = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(found, expected)
    assert all(map(torch.equal, layer.buffers(), before))
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0  # with statistics of its own it would be 0
    assert said == [s for s in said if "batch norm 0 sees one value" in s]
    assert len(said) == 1
    with pytest.raises(ValueError, match="more than 1 value"):
        layer(x)


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (1, 4, 1, 2), (3, 4, 5, 6)])
def test_more_values_are_normalised_as_ever(shape: tuple[int, ...]) -> None:
    x, layer, other = torch.randn(shape), norm(), norm()
    with lone_values_allowed(layer):
        torch.testing.assert_close(layer(x), other(x))
    assert all(map(torch.equal, layer.buffers(), other.buffers()))


def test_a_copy_of_a_layer_uses_its_own_statistics() -> None:
    layer, x = norm(), torch.randn(1, 4, 1, 1)
    undo = allow_lone_values(layer)
    clone = copy.deepcopy(layer)
    clone.running_mean.add_(1)
    expected = F.batch_norm(x, clone.running_mean, clone.running_var, clone.weight, clone.bias)
    torch.testing.assert_close(clone(x), expected)
    undo()
    assert "forward" not in vars(layer)


def batches(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 16, 24, generator=generator) for size in sizes]


def pooled() -> nn.Module:
    torch.manual_seed(2)
    network = user_networks.Pooled(5)
    reestimate_batch_norm(network, batches(4), 1.0)
    return network


def test_reestimation_leaves_a_layer_of_lone_values_and_does_the_others() -> None:
    one, plain = pooled(), user_networks.Base(5)
    plain.load_state_dict({k: v for k, v in one.state_dict().items() if "pool" not in k})
    kept = [buffer.clone() for buffer in one.pool[2].buffers()]
    assert reestimate_batch_norm(one, batches(1, 1, 1), 1.0) == 2
    assert all(map(torch.equal, one.pool[2].buffers(), kept))
    reestimate_batch_norm(plain, batches(1, 1, 1), 1.0)
    torch.testing.assert_close(one.trunk[4].running_var, plain.trunk[4].running_var)


def test_reestimation_counts_only_batches_that_have_a_variance_in_any_order() -> None:
    large, small = batches(4), batches(1)
    expected, first, last = pooled(), pooled(), pooled()
    reestimate_batch_norm(expected, large, 1.0)
    assert reestimate_batch_norm(first, [*small, *large], 1.0) == 3
    reestimate_batch_norm(last, [*large, *small], 1.0)
    for network in (first, last):
        found = network.pool[2].running_var
        torch.testing.assert_close(found, expected.pool[2].running_var)
    assert float(first.pool[2].running_var.min()) > 0


def test_a_compiled_network_with_pooling_takes_single_frames() -> None:
    network = pooled().train()
    with lone_values_allowed(network):
        expected = network(batches(1)[0])
        compiled = torch.compile(network, backend="eager")
        torch.testing.assert_close(compiled(batches(1)[0]), expected)


# --- whole runs -----------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Bundle:
    torch.manual_seed(0)
    network = build_network("user_networks:Pooled", CAMVID.num_classes)
    return write_bundle(
        tmp_path / "source",
        network,
        network=NetworkSpec(name="user_networks:Pooled"),
        label_space=CAMVID,
        input=InputSpec(width=48, height=32, mean=(110, 115, 120), std=(60, 58, 57)),
    )


RUNS = {
    "bn_stats": ["bn_batch_size=5"],
    "bn_stats, one at a time": ["bn_batch_size=1"],
    "tent, one at a time": ["training.micro_batch=1"],
    "entmin, batches of one": ["training.batch_size=1"],
    "iapc, memory in training mode": ["training.micro_batch=1", "iapc.memory_mode=train"],
    "nightshift": ["training.micro_batch=1", "bn_batch_size=5"],
    "ld, labels by the frame's statistics": ["training.batch_size=1", "ld.batch_statistics=true"],
}


@pytest.mark.parametrize("run", RUNS)
def test_runs_over_single_frames_end_well(
    run: str, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    method = run.partition(",")[0]
    steps = [] if method == "bn_stats" else ["training.steps=2", "training.amp=off"]
    size = [] if "batch_size=1" in " ".join(RUNS[run]) else ["training.batch_size=2"]
    assignments = [*steps, *(size if steps else []), "tone=none", "warm_start=target", *RUNS[run]]
    said: list[str] = []
    config = resolve_config(method, assignments=assignments)
    job = run_options(tmp_path / "out", note=said.append)
    result = adapt_bundle(source, [frames_dir], config, job)
    after = load_network(result, torch.device("cpu"))
    assert all(bool(tensor.isfinite().all()) for tensor in after.state_dict().values())
    alone = run != "bn_stats"
    assert any("batch norm pool.2 sees one value" in sentence for sentence in said) == alone
