"""The rule on batch norm's statistics, and which layers count as norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from roadshift.adapt.networks import build_network
from roadshift.adapt.networks.normalisation import (
    carries_statistics,
    learn_alone,
    norm_layers,
    norm_parameters,
    why_no_statistics,
)
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def blocks(*norms: nn.Module | None) -> nn.Sequential:
    """A convolution and a norm for each; None: the convolution alone."""
    parts: list[nn.Module] = []
    for norm in norms:
        parts += [nn.Conv2d(4, 4, 3), *([norm] if norm is not None else [])]
    return nn.Sequential(*parts)


def batch() -> nn.Module:
    return nn.BatchNorm2d(4)


@pytest.mark.parametrize(
    ("name", "arguments", "carries"),
    [
        ("deeplab_v2_resnet101", {"layers": [1, 1, 1, 1]}, True),
        ("fast_scnn", {}, True),
        ("espnetv2", {"scale": 0.5}, True),
        ("deeplab_v2_vgg16", {}, False),
        ("segformer_b0", {}, False),
        ("segformer_b0", {"decoder": "convolutions"}, False),
    ],
)
def test_networks_of_batch_norm_carry_statistics(
    name: str, arguments: dict[str, Any], carries: bool
) -> None:
    assert carries_statistics(build_network(name, 4, **arguments)) == carries


@pytest.mark.parametrize(
    ("network", "carries"),
    [
        (blocks(batch(), batch()), True),
        (blocks(batch(), None, None), True),
        (blocks(batch(), *[None] * 4), True),
        (blocks(batch(), *[None] * 5), False),
        (blocks(batch(), nn.InstanceNorm2d(4, affine=True)), True),
        (blocks(batch(), nn.GroupNorm(2, 4), nn.GroupNorm(2, 4)), False),
        (blocks(nn.BatchNorm2d(4, track_running_stats=False)), False),
        (blocks(None), False),
    ],
)
def test_the_rule_counts_batch_norms_against_layers_and_other_norms(
    network: nn.Module, carries: bool
) -> None:
    assert carries_statistics(network) == carries
    assert (why_no_statistics(network) == "") == carries


def test_the_reason_names_the_figures() -> None:
    network = blocks(batch(), nn.LayerNorm(4), nn.LayerNorm(4))
    assert why_no_statistics(network) == (
        "the network keeps batch-norm statistics in 1 of its 3 normalising layers, for 3 with "
        "weights, too few to tell what the frames do to it"
    )
    assert why_no_statistics(blocks(None)) == "the network keeps no batch-norm statistics"


def test_norms_of_others_count_and_what_is_only_called_one_does_not() -> None:
    class ChannelNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

    class Normalise(nn.Module):
        pass

    network = nn.Sequential(ChannelNorm(), Normalise(), nn.RMSNorm(4))
    network.append(spectral_norm(nn.Linear(4, 4)))
    assert [type(layer).__name__ for layer in norm_layers(network)] == ["ChannelNorm", "RMSNorm"]
    assert len(norm_parameters(network)) == 2


def test_a_norm_that_is_used_twice_is_one() -> None:
    norm = nn.LayerNorm(4)
    assert len(norm_parameters(nn.Sequential(norm, norm))) == 2


def test_a_group_norm_learns_behind_what_is_frozen() -> None:
    """Torch's own backward pass would end the process here."""
    network = blocks(nn.GroupNorm(2, 4), nn.GroupNorm(2, 4))
    for layer in (network[0], network[2]):
        layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    twin = blocks(nn.GroupNorm(2, 4), nn.GroupNorm(2, 4))
    twin.load_state_dict(network.state_dict())
    for _ in range(2):  # the guard is put up once
        learn_alone(network, norm_parameters(network))
    assert len(network[1]._forward_pre_hooks) == 1
    images = torch.randn(2, 4, 12, 9).to(memory_format=torch.channels_last)
    network(images).square().mean().backward()
    twin(images.contiguous()).square().mean().backward()
    for ours, theirs in zip(norm_parameters(network), norm_parameters(twin), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True] * 2
