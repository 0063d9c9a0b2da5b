"""The trial of a user's network as training uses it, and whose fault a failed backward is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from roadshift.adapt.data.dataset import Batch
from roadshift.adapt.methods.entmin import EntminStage
from roadshift.adapt.networks import ForeignNetwork, SegmentationNetwork, build_network
from roadshift.adapt.networks.foreign.forward_pass import sentences
from roadshift.adapt.networks.foreign.learning_trial import check_backward, try_learning
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.errors import NetworkError
from torch import Tensor

K = 4
SIZE = (32, 64)
BACKWARD = {
    "InPlace": r"raised RuntimeError: .*modified by an inplace operation.*write x = x \+ y",
    "KeepsGraph": r"raised RuntimeError: Trying to backward .* a second time.*\.detach\(\)",
    "NoBackward": "raised NotImplementedError: You must implement .* backward",
}
UNUSABLE = {
    **BACKWARD,
    "NotFinite": "returns logits that are not finite while evaluating",
    "NotFiniteWhileTraining": "returns logits that are not finite while training",
}


def built(name: str, size: tuple[int, int] = SIZE) -> ForeignNetwork:
    torch.manual_seed(0)
    network = build_network(f"user_networks:{name}", K)
    assert isinstance(network, ForeignNetwork)
    network.try_out(size)
    return network


@pytest.mark.parametrize("size", [SIZE, (256, 320)])
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_training_would_fail_at_is_one_sentence(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(NetworkError, match=UNUSABLE[name]) as error:
        try_learning(built(name), "network 'x'", size)
    said = str(error.value)
    assert said.startswith("network 'x'")
    assert "\n" not in said
    assert "Hint" not in said
    assert not any(side in said for side in ("256", "320"))  # noise of fewer pixels does


@pytest.mark.parametrize(
    "name", ["Base", "FrozenTrunk", "FrozenInPlace", "RemembersDetached", "KeepsFeatures", "Pooled"]
)
def test_what_learns_passes(name: str) -> None:
    assert try_learning(built(name), "network 'x'", SIZE)


@pytest.mark.parametrize("name", ["AllFrozen", "LearnsElsewhere"])
def test_what_does_not_learn_is_told(name: str) -> None:
    assert not try_learning(built(name), "network 'x'", SIZE)


def test_a_network_of_one_size_is_tried_on_that() -> None:
    network = built("WantsSize", (512, 1024))
    assert try_learning(network, "network 'x'", (512, 1024))


@pytest.mark.parametrize("name", ["Base", "FrozenTrunk", "RemembersDetached", "KeepsGraph"])
def test_a_network_is_left_as_it_was(name: str) -> None:
    network: Any = built(name).train()
    network.get_parameter("head.bias").grad = torch.ones(K)
    tensors = [*network.parameters(), *network.buffers()]
    before = [t.clone() for t in tensors]
    modes = [m.training for m in network.modules()]
    learns = [p.requires_grad for p in network.parameters()]
    drawn = torch.get_rng_state()
    if name == "KeepsGraph":
        with pytest.raises(NetworkError):
            try_learning(network, "network 'x'", SIZE)
    else:
        try_learning(network, "network 'x'", SIZE)
    now = (*network.parameters(), *network.buffers())
    assert all(a is b for a, b in zip(tensors, now, strict=True))
    assert all(map(torch.equal, tensors, before))
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == learns
    assert torch.equal(torch.get_rng_state(), drawn)
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    assert gradients.keys() == {"head.bias"}
    assert torch.equal(gradients["head.bias"], torch.ones(K))
    assert getattr(network._foreign, "last", None) is None


# --- in a run -------------------------------------------------------------------------------------


class Spoiled(EntminStage):
    """A stage whose loss has a backward that raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        loss = super().losses(batch)["entropy"]
        loss.register_hook(self._spoil)
        return {"entropy": loss}

    def _spoil(self, _: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("name", BACKWARD)
def test_a_step_names_the_network_whose_backward_fails(
    name: str, make_trainer: Callable[..., Trainer]
) -> None:
    stages = [EntminStage()]
    trainer = make_trainer(built(name), stages, "training.steps=3", "warm_start=source")
    with pytest.raises(NetworkError, match=f"user_networks:{name}': its backward {BACKWARD[name]}"):
        trainer.run()


NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
)


@pytest.mark.parametrize(
    ("name", "error"),
    [("Base", RuntimeError("a bug")), *((n, e) for n in ("Base", "NoBackward") for e in NO_MEMORY)],
)
def test_a_loss_that_fails_and_a_lack_of_memory_are_not_the_networks(
    name: str, error: Exception, make_trainer: Callable[..., Trainer]
) -> None:
    trainer = make_trainer(built(name), [Spoiled(error)], "training.steps=1", "warm_start=source")
    with pytest.raises(type(error)) as raised:
        trainer.run()
    assert raised.value is error


def test_a_network_of_the_packages_own_is_never_blamed(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    network: SegmentationNetwork = build_network("fast_scnn", K)
    monkeypatch.setattr(
        "roadshift.adapt.training.forward_backward.check_backward",
        lambda *_: pytest.fail("it was tried"),
    )
    bug = RuntimeError("a bug")
    trainer = make_trainer(network, [Spoiled(bug)], "training.steps=1", "warm_start=source")
    with pytest.raises(RuntimeError, match="a bug"):
        trainer.run()


@pytest.mark.parametrize("part", ["forward", "backward"])
@pytest.mark.parametrize("error", NO_MEMORY)
def test_a_lack_of_memory_in_a_users_code_stays_what_it_is(error: Exception, part: Any) -> None:
    with pytest.raises(type(error)) as raised, sentences("network 'x'", "for images", part):
        raise error
    assert raised.value is error


def test_a_backward_that_works_is_not_blamed() -> None:
    check_backward(built("Base").train(), "network 'x'", (2, 3, 32, 64))
