"""A step that updates a weight as often as a published optimiser's list holds it."""

from __future__ import annotations

import pytest
import torch
from roadshift.adapt.methods import build_stages, resolve_config
from roadshift.adapt.networks.deeplab_v2 import DeepLabV2
from roadshift.adapt.training.optimisation import build_optimizer
from roadshift.adapt.training.repeated_updates import UPDATES, RepeatingSgd
from torch import Tensor, nn

LR, DECAY = 0.1, 0.05


def loop(
    weight: Tensor, gradients: list[Tensor], updates: int, momentum: float, *, nesterov: bool
) -> Tensor:
    """SGD over a list that holds the weight ``updates`` times, as torch 1.7 goes through it."""
    buffer = None
    for gradient in gradients:
        for _ in range(updates):
            d = gradient + DECAY * weight
            buffer = d if buffer is None else momentum * buffer + d
            weight = weight - LR * (d + momentum * buffer if nesterov else buffer)
    return weight


@pytest.mark.parametrize("nesterov", [True, False])
def test_it_is_the_loop_over_a_list_that_holds_a_weight_several_times(nesterov: bool) -> None:
    torch.manual_seed(1)
    weights = [nn.Parameter(torch.randn(4, dtype=torch.float64)) for _ in range(3)]
    gradients = [torch.randn(4, dtype=torch.float64) for _ in range(4)]
    times = (1, 3, 4)
    expected = [
        loop(w.detach().clone(), gradients, n, 0.9, nesterov=nesterov)
        for w, n in zip(weights, times, strict=True)
    ]
    groups = [{"params": [w], UPDATES: n} for w, n in zip(weights, times, strict=True)]
    optimizer = RepeatingSgd(groups, lr=LR, momentum=0.9, nesterov=nesterov, weight_decay=DECAY)
    for gradient in gradients:
        for weight in weights:
            weight.grad = gradient.clone()
        optimizer.step()
        assert len(optimizer.param_groups) == 3
    for weight, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-14)


def deeplab() -> DeepLabV2:
    return DeepLabV2(3, layers=(1, 2, 1, 1))


def test_deeplab_counts_as_the_published_loops_do() -> None:
    """`get_1x_lr_params_NOscale` of AdaptSegNet: modules, then the parameters of each."""
    model = deeplab()
    name_of = {id(p): name for name, p in model.named_parameters()}
    listed: dict[str, int] = {}
    for part in (model.conv1, model.bn1, model.layer1, model.layer2, model.layer3, model.layer4):
        for module in part.modules():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    name = name_of[id(parameter)]
                    listed[name] = listed.get(name, 0) + 1
    ours = model.published_updates()
    assert {name: ours.get(name, 1) for name in listed} == listed
    assert listed["conv1.weight"] == 1
    assert listed["layer2.1.conv2.weight"] == 3
    assert listed["layer2.0.downsample.0.weight"] == 4
    assert not [name for name in ours if name.startswith("layer6")]


@pytest.mark.parametrize("method", ["iapc", "ld"])
def test_reference_variants_step_like_that_and_each_weight_is_listed_once(method: str) -> None:
    config = resolve_config(method, assignments=[f"{method}.variant=reference"])
    model = deeplab()
    optimizer = build_optimizer(build_stages(config)[0], model, config.training)
    assert isinstance(optimizer, RepeatingSgd)
    found = {(g["factor"], g[UPDATES]): g["params"] for g in optimizer.param_groups}
    assert set(found) == {(1.0, 1), (1.0, 3), (1.0, 4), (10.0, 1)}
    listed = [id(p) for group in found.values() for p in group]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert found[1.0, 1] == [model.conv1.weight]


def test_a_network_of_which_nothing_is_known_steps_once_and_is_told_of() -> None:
    config = resolve_config("iapc", assignments=["iapc.variant=reference"])
    model = deeplab()
    model.published_updates = dict  # type: ignore[method-assign]
    said: list[str] = []
    optimizer = build_optimizer(build_stages(config)[0], model, config.training, 0, said.append)
    assert {group[UPDATES] for group in optimizer.param_groups} == {1}
    assert "each is updated once" in said[0]


def test_without_it_the_optimiser_is_torchs_own() -> None:
    config = resolve_config("iapc", assignments=["iapc.variant=paper"])
    optimizer = build_optimizer(build_stages(config)[0], deeplab(), config.training)
    assert type(optimizer) is torch.optim.SGD
