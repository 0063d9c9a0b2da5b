"""ESPNetv2: the release's forward pass restated, its names, any size, gradients and export."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.adapt.networks import build_network
from roadshift.adapt.networks.espnetv2 import ESPNetv2
from roadshift.adapt.networks.pooling import average_pool
from roadshift.runtime.errors import NetworkError
from torch import Tensor

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> ESPNetv2:
    """A narrow network whose batch statistics have seen some data, in evaluation mode."""
    torch.manual_seed(0)
    network = ESPNetv2(20, scale=0.5)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 3, 64, 96))
    return network.eval()


# ---- the release's forward pass, from the names of a state dict alone ---------------------------


def norm(w: Tensors, name: str, x: Tensor) -> Tensor:
    mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, w[f"{name}.weight"], w[f"{name}.bias"])


def cb(w: Tensors, name: str, x: Tensor, act: bool = True, stride: int = 1) -> Tensor:
    kernel = w[f"{name}.conv.weight"]
    groups = x.shape[1] // kernel.shape[1]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[2] // 2, groups=groups)
    x = norm(w, f"{name}.bn", x)
    return F.prelu(x, w[f"{name}.act.weight"]) if act else x


def cbr(w: Tensors, name: str, x: Tensor) -> Tensor:
    kernel = w[f"{name}.cbr.0.weight"]
    groups = x.shape[1] // kernel.shape[1]
    x = F.conv2d(x, kernel, padding=kernel.shape[2] // 2, groups=groups)
    return F.prelu(norm(w, f"{name}.cbr.1", x), w[f"{name}.cbr.2.weight"])


def br(w: Tensors, name: str, x: Tensor) -> Tensor:
    return F.prelu(norm(w, f"{name}.0", x), w[f"{name}.1.weight"])


def eesp(w: Tensors, name: str, x: Tensor, field: int, stride: int = 1) -> Tensor:
    reduced = cb(w, f"{name}.proj_1x1", x)
    sizes = sorted(s if s <= field else 3 for s in (3, 5, 7, 9))
    total, branches = torch.zeros(()), []
    for i, size in enumerate(sizes):
        d = (size - 1) // 2
        kernel = w[f"{name}.spp_dw.{i}.conv.weight"]
        y = F.conv2d(reduced, kernel, stride=stride, padding=d, dilation=d, groups=len(kernel))
        total = total + y
        branches.append(total)
    y = norm(w, f"{name}.br_after_cat.bn", torch.cat(branches, 1))
    y = F.prelu(y, w[f"{name}.br_after_cat.act.weight"])
    y = cb(w, f"{name}.conv_1x1_exp", y, act=False)
    return y if stride == 2 else F.prelu(y + x, w[f"{name}.module_act.weight"])


def down(w: Tensors, name: str, x: Tensor, image: Tensor, field: int) -> Tensor:
    both = torch.cat([F.avg_pool2d(x, 3, 2, 1), eesp(w, f"{name}.eesp", x, field, 2)], 1)
    while image.shape[2] != both.shape[2]:
        image = F.avg_pool2d(image, 3, 2, 1)
    image = cb(w, f"{name}.inp_reinf.1", cb(w, f"{name}.inp_reinf.0", image), act=False)
    return F.prelu(both + image, w[f"{name}.act.weight"])


def pyramid(w: Tensors, name: str, x: Tensor) -> Tensor:
    x = cbr(w, f"{name}.projection_layer", x)
    height, width = x.shape[2:]
    levels = []
    for i, scale in enumerate((2.0, 1.5, 1.0, 0.5, 0.1)):
        kernel = w[f"{name}.stages.{i}.weight"]
        size = (max(5, math.ceil(height * scale)), max(5, math.ceil(width * scale)))
        y = x
        if scale < 1:
            y = F.adaptive_avg_pool2d(y, size)
        elif scale > 1:
            y = F.interpolate(y, size, mode="bilinear", align_corners=True)
        y = F.conv2d(y, kernel, padding=1, groups=len(kernel))
        if scale < 1:
            y = F.interpolate(y, (height, width), mode="bilinear", align_corners=True)
        elif scale > 1:
            y = F.adaptive_avg_pool2d(y, (height, width))
        levels.append(y)
    y = br(w, f"{name}.merge_layer.0.br", torch.cat(levels, 1))
    y = y.unflatten(1, (5, -1)).transpose(1, 2).flatten(1, 2)  # the shuffle of channels
    y = cbr(w, f"{name}.merge_layer.2", y)
    y = F.conv2d(y, w[f"{name}.merge_layer.3.weight"], w.get(f"{name}.merge_layer.3.bias"))
    return br(w, f"{name}.br.br", y) if f"{name}.br.br.0.weight" in w else y


def merged(w: Tensors, stage: str, encoder: Tensor, x: Tensor) -> Tensor:
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    gate = encoder.mean((2, 3), keepdim=True)
    gate = F.conv2d(gate, w[f"merge_enc_dec_{stage}.wt_layer.1.weight"]).sigmoid()
    return br(
        w, f"bu_br_{stage}", cbr(w, f"merge_enc_dec_{stage}.expansion_layer", encoder) * gate + x
    )


def released(w: Tensors, images: Tensor) -> Tensor:
    """The logits before the release's last upsampling."""
    at2 = cb(w, "base_net.level1", images, stride=2)
    at4 = down(w, "base_net.level2_0", at2, images, 13)
    at8 = down(w, "base_net.level3_0", at4, images, 11)
    for i in range(3):
        at8 = eesp(w, f"base_net.level3.{i}", at8, 9)
    at16 = down(w, "base_net.level4_0", at8, images, 9)
    for i in range(7):
        at16 = eesp(w, f"base_net.level4.{i}", at16, 7)
    x = pyramid(w, "bu_dec_l1", at16)
    x = pyramid(w, "bu_dec_l2", merged(w, "l2", at8, x))
    x = pyramid(w, "bu_dec_l3", merged(w, "l3", at4, x))
    return pyramid(w, "bu_dec_l4", merged(w, "l4", at2, x))


@pytest.mark.parametrize(("scale", "size"), [(0.5, (64, 96)), (1.25, (32, 160)), (2.0, (96, 48))])
def test_it_computes_what_the_release_does(scale: float, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    network = ESPNetv2(20, scale=scale)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    network.double().eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = released(network.state_dict(), images)
        torch.testing.assert_close(network(images).logits, expected, rtol=1e-9, atol=1e-9)


# ---- the network --------------------------------------------------------------------------------


def test_its_names_and_sizes_are_those_of_the_published_weights() -> None:
    for scale, parameters in ((0.5, 80_342), (2.0, 789_242)):
        network = ESPNetv2(20, scale=scale)
        assert len(network.state_dict()) == 526
        assert sum(p.numel() for p in network.parameters()) == parameters
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["base_net.level2_0.eesp.proj_1x1.conv.weight"] == (24, 8, 1, 1)
    assert shapes["bu_dec_l4.merge_layer.3.weight"] == (20, 10, 1, 1)
    assert shapes["merge_enc_dec_l3.expansion_layer.cbr.0.weight"] == (48, 8, 3, 3)


@pytest.mark.parametrize("size", [(64, 128), (90, 123), (33, 8), (1, 1)], ids=str)
def test_logits_and_features_are_at_stride_2_for_any_size(
    network: ESPNetv2, size: tuple[int, int]
) -> None:
    output = network(torch.randn(2, 3, *size))
    grid = tuple((side + 1) // 2 for side in size)
    assert output.logits.shape == (2, 20, *grid)
    assert output.features.shape == (2, 10, *grid)
    head = network.bu_dec_l4.merge_layer[3]
    torch.testing.assert_close(head(output.features), output.logits)
    assert [id(p) for p in network.classifier_parameters()] == [id(p) for p in head.parameters()]


def test_every_parameter_learns_but_those_that_the_release_leaves_idle() -> None:
    torch.manual_seed(0)
    network = ESPNetv2(5, scale=0.5).train()
    logits = network(torch.randn(2, 3, 64, 96)).logits
    (logits * torch.randn_like(logits)).sum().backward()
    silent = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    idle = {f"base_net.level{level}_0.eesp.module_act.weight" for level in (2, 3, 4)}
    assert silent == idle


def test_a_scale_that_is_not_published_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"scale is one of 0\.5, 1\.0, .*2\.0, not 3"):
        build_network("espnetv2", 20, scale=3)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 17)] * 2), st.tuples(*[st.integers(1, 17)] * 2))
def test_average_pool_is_adaptive_average_pooling(
    size: tuple[int, int], cells: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    pooled, expected = average_pool(x, cells), F.adaptive_avg_pool2d(x, cells)
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, x, upstream)[0] for y in (pooled, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
