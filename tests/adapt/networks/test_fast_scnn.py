"""Fast-SCNN: size, shapes, pooling, gradients and export."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.networks import build_network
from roadshift.adapt.networks.fast_scnn import FastSCNN, PyramidPooling
from roadshift.adapt.networks.pooling import product_pool
from torch import Tensor, nn

OnnxOutputs = Callable[[nn.Module, Tensor], list[np.ndarray]]


@pytest.fixture
def network() -> FastSCNN:
    """A network whose batch statistics have seen some data, in eval mode."""
    torch.manual_seed(0)
    network = FastSCNN(11)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 64, 96))
    return network.eval()


def test_it_has_about_1_1_million_parameters() -> None:
    parameters = sum(p.numel() for p in build_network("fast_scnn", 19).parameters())
    assert 1.0e6 < parameters < 1.3e6


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [(64, 128, 8, 16), (160, 80, 20, 10), (90, 123, 12, 16), (33, 8, 5, 1), (1, 1, 1, 1)],
)
def test_logits_and_features_are_at_stride_8_for_any_size(
    network: FastSCNN, height: int, width: int, rows: int, columns: int
) -> None:
    output = network(torch.randn(2, 3, height, width))
    assert output.logits.shape == (2, 11, rows, columns)
    assert output.features.shape == (2, 128, rows, columns)


def test_features_are_what_the_classifier_sees_before_dropout(network: FastSCNN) -> None:
    images = torch.randn(1, 3, 64, 64)
    output = network(images)
    torch.testing.assert_close(network.classifier(output.features), output.logits)
    network.dropout.train()
    first, second = network(images), network(images)
    assert torch.equal(first.features, second.features)
    assert not torch.equal(first.logits, second.logits)


def test_every_parameter_learns(network: FastSCNN) -> None:
    network.train()
    output = network(torch.randn(2, 3, 64, 96))
    (output.logits * torch.randn_like(output.logits)).sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_batch_of_one_small_frame_trains_with_finite_statistics(network: FastSCNN) -> None:
    network.train()
    network(torch.randn(1, 3, 64, 64)).logits.sum().backward()
    assert all(buffer.isfinite().all() for buffer in network.buffers())


def test_classifier_parameters_are_the_last_convolution(network: FastSCNN) -> None:
    assert [p.shape for p in network.classifier_parameters()] == [(11, 128, 1, 1), (11,)]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (2, 7), (12, 15), (16, 32)], ids=str)
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_average_pool_is_adaptive_average_pooling(size: tuple[int, int], bins: int) -> None:
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    pooled, expected = product_pool(x, (bins, bins)), F.adaptive_avg_pool2d(x, bins)
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(y, x, upstream)[0] for y in (pooled, expected)),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("grid", [(3, 5), (12, 15)], ids=["smaller than its cells", "at 480x360"])
def test_pyramid_pooling_exports(grid: tuple[int, int], onnx_outputs: OnnxOutputs) -> None:
    """The whole network's graph is in tests/export/test_every_network.py."""
    torch.manual_seed(0)
    pooling = PyramidPooling(16).eval()
    x = torch.randn(1, 16, *grid)
    (exported,) = onnx_outputs(pooling, x)
    np.testing.assert_allclose(exported, pooling(x).detach(), atol=1e-5)
