"""Re-estimated batch-norm statistics by hand, what they leave alone, and the EMA memory model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from roadshift.adapt.networks import ForeignNetwork, build_network
from roadshift.adapt.networks.batch_norm import (
    batch_norm_layers,
    fold_batch_norm,
    folding_view,
)
from roadshift.adapt.networks.ema import ema_update, frozen_copy, restore, snapshot
from roadshift.adapt.networks.mixed_statistics import reestimate_batch_norm
from torch import Tensor, nn


class Net(nn.Module):
    """Two normalised convolutions with dropout between, and a head that evaluation skips."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4, momentum=0.3)
        self.dropout = nn.Dropout(0.5)
        self.second = nn.Conv2d(4, 5, 1)
        self.norm2 = nn.BatchNorm2d(5)
        self.auxiliary = nn.BatchNorm2d(4)
        self.train_count = 0
        for norm in (self.norm1, self.norm2, self.auxiliary):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm1(self.first(images)).relu()
        if self.training:
            self.train_count += 1
            self.auxiliary(x)
        return self.norm2(self.second(self.dropout(x)))


def batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 5, 6, generator=generator) + i for i in range(count)]


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of every channel, from the definition."""
    values = x.transpose(0, 1).flatten(1).double()
    mean = values.sum(dim=1) / values.shape[1]
    return mean, ((values - mean[:, None]) ** 2).sum(dim=1) / (values.shape[1] - 1)


@torch.no_grad()
def test_statistics_are_the_mean_over_batches_each_normalised_with_its_own() -> None:
    net = Net()
    first, second = [], []
    for images in batches():
        x = net.first(images)
        first.append(statistics(x))
        mean, _ = first[-1]
        biased = x.transpose(0, 1).flatten(1).double().var(dim=1, unbiased=False)
        x = (x - mean[:, None, None]) / (biased[:, None, None] + net.norm1.eps).sqrt()
        second.append(statistics(net.second(x.float().relu())))
    assert reestimate_batch_norm(net, batches(), 1.0) == 2
    for norm, expected in ((net.norm1, first), (net.norm2, second)):
        mean = torch.stack([m for m, _ in expected]).mean(dim=0)
        variance = torch.stack([v for _, v in expected]).mean(dim=0)
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)


def test_the_order_of_the_batches_and_what_was_there_before_do_not_matter() -> None:
    one, other = Net(), Net()
    other.norm1.running_mean.fill_(100)
    reestimate_batch_norm(one, batches(), 1.0)
    reestimate_batch_norm(other, reversed(batches()), 1.0)
    torch.testing.assert_close(one.norm1.running_mean, other.norm1.running_mean)
    torch.testing.assert_close(one.norm2.running_var, other.norm2.running_var)


def test_weights_gradients_modes_and_momenta_stay() -> None:
    net = Net().train()
    net.norm2.eval()
    weights = snapshot(list(net.parameters()))
    reestimate_batch_norm(net, batches(), 1.0)
    assert all(map(torch.equal, net.parameters(), weights))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.training
    assert net.norm1.training
    assert not net.norm2.training
    assert (net.norm1.momentum, net.norm2.momentum) == (0.3, 0.1)
    assert net.train_count == 0  # everything but batch norm was in evaluation mode


def test_modes_and_momenta_come_back_when_a_batch_cannot_be_read() -> None:
    def damaged() -> Iterator[Tensor]:
        yield batches()[0]
        raise OSError("no more")

    net = Net().train()
    with pytest.raises(OSError, match="no more"):
        reestimate_batch_norm(net, damaged(), 1.0)
    assert net.training
    assert net.dropout.training
    assert net.norm1.momentum == 0.3


def test_a_layer_that_no_batch_reaches_keeps_its_statistics() -> None:
    net = Net().train()
    before = snapshot(list(net.auxiliary.buffers()))
    assert reestimate_batch_norm(net, batches(), 1.0) == 2
    assert all(map(torch.equal, net.auxiliary.buffers(), before))
    everything = snapshot(list(net.buffers()))
    assert reestimate_batch_norm(net, [], 1.0) == 0
    assert all(map(torch.equal, net.buffers(), everything))


def test_a_network_without_running_statistics_is_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    assert batch_norm_layers(net) == []
    assert reestimate_batch_norm(net, iter(()), 1.0) == 0


def test_the_statistics_pass_is_not_compiled() -> None:
    def compiler(*_: object) -> None:
        raise AssertionError("compiled")

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.norm(2 * images)
            return out

    model = Network()
    model.compile(backend=compiler)
    assert reestimate_batch_norm(model, [torch.randn(2, 3, 8, 8)], 1.0) == 1


def test_a_foreign_network_gets_its_own_mode_back() -> None:
    user_net = Net()
    net = ForeignNetwork(user_net, num_classes=5).train()
    assert reestimate_batch_norm(net, batches(), 1.0) == 2
    assert user_net.training
    net.eval()
    reestimate_batch_norm(net, batches(), 1.0)
    assert not user_net.training


# --- the memory model ---------------------------------------------------------------------------


def test_memory_follows_by_the_ema_formula_and_copies_the_buffers() -> None:
    student = Net()
    memory = frozen_copy(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    student.train()(batches()[0])
    old = snapshot(list(memory.parameters()))
    ema_update(memory, student, 0.75)
    for m, before, s in zip(memory.parameters(), old, student.parameters(), strict=True):
        torch.testing.assert_close(m, 0.75 * before + 0.25 * s)
    for ours, theirs in zip(memory.buffers(), student.buffers(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
    assert memory.norm1.num_batches_tracked == 1


def test_many_small_updates_approach_a_student_that_stands_still() -> None:
    student = Net()
    memory = frozen_copy(student)
    with torch.no_grad():
        student.first.weight.add_(1)
    start = memory.first.weight.clone()
    for _ in range(50):
        ema_update(memory, student, 0.9)
    expected = student.first.weight + 0.9**50 * (start - student.first.weight)
    torch.testing.assert_close(memory.first.weight, expected)


def test_a_decay_of_0_copies_the_student_bit_for_bit() -> None:
    student = Net()
    memory = frozen_copy(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.7).add_(1e-3)
    ema_update(memory, student, 0.0)
    assert all(map(torch.equal, memory.parameters(), student.parameters()))


def test_a_frozen_copy_does_not_learn_nor_follow_and_leaves_the_original_alone() -> None:
    student = Net().train()
    memory = frozen_copy(student)
    assert not memory.training
    assert not any(parameter.requires_grad for parameter in memory.parameters())
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    with torch.no_grad():
        student.first.weight.add_(1)
    assert not torch.equal(memory.first.weight, student.first.weight)


def test_restore_puts_back_what_snapshot_saw() -> None:
    net = Net().train()
    copies = snapshot(list(net.buffers()))
    net(batches()[0])
    assert not all(map(torch.equal, net.buffers(), copies))
    restore(list(net.buffers()), copies)
    assert all(map(torch.equal, net.buffers(), copies))
    restore([], [])


# --- folding -------------------------------------------------------------------------------------


def sequential() -> nn.Sequential:
    """Two pairs that can be folded, a convolution that ends the inner chain, one that is shared."""
    torch.manual_seed(0)
    shared = nn.Conv2d(5, 5, 1)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5, affine=False)),
        nn.Sequential(shared, nn.BatchNorm2d(5)),
        nn.Sequential(shared, nn.BatchNorm2d(5, track_running_stats=False)),
        nn.Conv2d(5, 2, 1),
    )
    for norm in batch_norm_layers(net):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.1, 9)
        if norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return net


@torch.no_grad()
def test_folding_changes_no_output() -> None:
    net = sequential().double().eval()
    (images,) = batches(1)
    expected = net(images.double())
    folded = fold_batch_norm(frozen_copy(net))
    torch.testing.assert_close(folded(images.double()), expected, rtol=0, atol=1e-10)
    left = [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) == 2  # those after the shared convolution
    assert len(batch_norm_layers(net)) == 3


@torch.no_grad()
def test_folding_keeps_hands_off_training_and_hooks() -> None:
    assert len(batch_norm_layers(fold_batch_norm(sequential().train()))) == 3
    net = sequential().eval()
    net[0][0].register_forward_hook(lambda *_: None)
    assert len(batch_norm_layers(fold_batch_norm(net))) == 2


@torch.no_grad()
def test_a_folding_view_follows_what_it_is_a_view_of() -> None:
    biased = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    student = nn.Sequential(sequential(), biased).double()
    memory = frozen_copy(student)
    view = folding_view(memory)
    before = {name: tensor.clone() for name, tensor in memory.state_dict().items()}
    for images in batches():
        images = images.double()
        student.train()(images)  # moves its statistics
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        ema_update(memory, student, 0.5)
        torch.testing.assert_close(view(images), memory(images), rtol=1e-10, atol=1e-10)
    memory.load_state_dict(before)
    torch.testing.assert_close(view(images), memory(images), rtol=1e-10, atol=1e-10)
    left = [m for m in view.modules() if isinstance(m, nn.Identity)]
    assert len(left) == 2  # plain pairs whose batch norm has weights
    assert len(batch_norm_layers(memory)) == 4
    shared = {t.data_ptr() for t in memory.state_dict().values()}
    assert all(t.data_ptr() in shared for t in view.state_dict().values())


@torch.no_grad()
def test_fast_scnn_is_folded_whole() -> None:
    network = build_network("fast_scnn", 5).to(memory_format=torch.channels_last)
    for images in batches():
        network.train()(torch.nn.functional.interpolate(images, (64, 96)))
    folded = fold_batch_norm(frozen_copy(network))
    assert not batch_norm_layers(folded)
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(
        folded(images).logits, network.eval()(images).logits, rtol=1e-4, atol=1e-4
    )
