"""training.learn: which weights change, by name; what does not fit a network or a stage says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from roadshift.adapt.methods.base import all_but_the_classifier, split_classifier
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.networks.normalisation import norm_layers
from roadshift.adapt.training.learned_parts import Part, attention_weights, narrowed
from roadshift.runtime.errors import TrainingError
from torch import nn

NARROW: dict[str, Any] = {
    "widths": [8, 16, 20, 32],
    "depths": [1, 1, 1, 1],
    "decoder_width": 16,
}


@pytest.fixture
def network() -> SegmentationNetwork:
    return build_network("segformer_b0", 4, **NARROW)


def names(network: nn.Module, part: Part) -> set[str]:
    """Names of what learns, by the groups and by requires_grad alike."""
    assert isinstance(network, SegmentationNetwork)
    groups = narrowed(split_classifier(network, 5.0), network, part, "test")
    learned = {id(p) for group in groups for p in group.parameters}
    by_group = {n for n, p in network.named_parameters() if id(p) in learned}
    assert by_group == {n for n, p in network.named_parameters() if p.requires_grad}
    return by_group


def test_all_is_what_the_method_lets_learn(network: SegmentationNetwork) -> None:
    assert names(network, "all") == {name for name, _ in network.named_parameters()}


def test_norm_is_every_scale_and_shift(network: SegmentationNetwork) -> None:
    found = names(network, "norm")
    assert found == {n for n, _ in network.named_parameters() if "norm" in n}
    assert len(found) == 2 * len(norm_layers(network)) == 2 * (4 + 4 * 2 + 3 + 4 + 1)


def test_head_is_the_classifier(network: SegmentationNetwork) -> None:
    assert names(network, "head") == {
        "decode_head.classifier.weight",
        "decode_head.classifier.bias",
    }


def test_lora_is_of_the_projections_of_attention(network: SegmentationNetwork) -> None:
    found = names(network, "lora")
    ends = {name.partition(".attention.")[2] for name in found}
    assert ends == {f"self.{part}.weight" for part in ("query", "key", "value")} | {
        "output.dense.weight"
    }
    assert len(found) == 16


def test_attention_is_found_by_its_usual_names() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = nn.MultiheadAttention(4, 2)
            self.attn = nn.ModuleDict({"qkv": nn.Linear(4, 12), "norm": nn.LayerNorm(4)})
            self.attention1 = nn.Linear(4, 4)
            self.battneck = nn.Linear(4, 4)
            self.mlp = nn.Linear(4, 4)

    assert set(attention_weights(Block())) == {
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "attn.qkv.weight",
        "attention1.weight",
    }


def test_a_network_without_the_part_is_told_so() -> None:
    network = build_network("deeplab_v2_vgg16", 4)
    for part, said in (("norm", "no layer that normalises"), ("lora", "no attention")):
        with pytest.raises(TrainingError, match=rf"test: training\.learn={part}, .* {said}"):
            narrowed(split_classifier(network, 1.0), network, part, "test")  # type: ignore[arg-type]


def test_a_part_that_the_stage_keeps_frozen_is_told_so(network: SegmentationNetwork) -> None:
    with pytest.raises(TrainingError, match=r"learn=head leaves nothing to learn"):
        narrowed(all_but_the_classifier(network), network, "head", "shot_im")


def test_what_is_none_of_the_networks_stays(network: SegmentationNetwork) -> None:
    projection = nn.Parameter(torch.zeros(3))
    groups = split_classifier(network, 1.0)
    groups[0].parameters.append(projection)
    left = narrowed(groups, network, "norm", "test")
    assert left[0].parameters[-1] is projection
    assert projection.requires_grad
