"""Outputs in the order of a label space."""

from __future__ import annotations

import pytest
import torch
from roadshift.adapt.models.class_order import reorder_classes
from roadshift.adapt.networks import adapt_foreign, build_network
from roadshift.runtime.errors import NetworkError
from torch import Tensor, nn

ORDER = (2, 0, 3, 1)


@pytest.mark.parametrize("name", ["fast_scnn", "deeplab_v2_resnet101"])
def test_the_outputs_change_places_and_nothing_else_does(name: str) -> None:
    arguments = {"layers": [1, 1, 1, 1]} if name.startswith("deeplab") else {}
    network = build_network(name, 4, **arguments).train()
    images = torch.randn(1, 3, 32, 64)
    network.eval()
    before = network(images).logits
    statistics = [buffer.clone() for buffer in network.buffers()]
    network.train()
    reorder_classes(network, ORDER, (64, 32), "w")
    assert network.training
    assert all(map(torch.equal, network.buffers(), statistics))
    network.eval()
    torch.testing.assert_close(network(images).logits, before[:, list(ORDER)])


class WithPriors(nn.Module):
    """Logits to which a constant of each class is added, in a shape of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("priors", torch.arange(4.0).reshape(1, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images) + self.priors
        return logits


def test_outputs_that_do_not_follow_the_last_layer_are_refused() -> None:
    with pytest.raises(NetworkError, match="is not one whose rows are classes"):
        reorder_classes(adapt_foreign(WithPriors(), 4), ORDER, (32, 32), "w")
