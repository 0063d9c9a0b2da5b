"""The trial of a user's network: its logits, the layer that makes them, its features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import user_networks
from roadshift.adapt.methods.base import split_classifier
from roadshift.adapt.networks import ForeignNetwork, build_network
from roadshift.adapt.networks.copies import copy_of
from roadshift.runtime.errors import ConfigError, NetworkError

K = 5


def tried(name: str, output: str | None = None, num_classes: int = K) -> ForeignNetwork:
    torch.manual_seed(0)
    network = build_network(f"user_networks:{name}", num_classes)
    assert isinstance(network, ForeignNetwork)
    network.try_out((32, 64), output)
    return network


def head_of(network: ForeignNetwork) -> set[str]:
    head = {id(p) for p in network.classifier_parameters()}
    return {name for name, p in network.named_parameters() if id(p) in head}


AMBIGUOUS = {
    "Numbered": ("0.7", "1.0"),
    "AuxFirst": ("1", "0"),
    "MainFirst": ("0", "1"),
    "Keys": ("main", "aux"),
    "Nested": ("0.end", "0.side"),
    "Dataclass": ("end", "side"),
    "Resized": ("1", "0"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_several_maps_of_k_channels_are_a_refusal_that_lists_them(name: str) -> None:
    with pytest.raises(NetworkError) as error:
        tried(name)
    said = str(error.value)
    for path, maker in zip(AMBIGUOUS[name], ("main", "aux"), strict=True):
        assert f"{path} (1x5x" in said
        assert f"made by {maker}, 8" in said  # weights: the trunk's, and this head's
        assert f"output {path}" in said


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("which", [0, 1])
def test_the_output_that_is_chosen_is_the_one_ever_after(
    name: str, which: int, training: bool
) -> None:
    network = tried(name, AMBIGUOUS[name][which])
    maker = ("main", "aux")[which]
    assert head_of(network) == {f"{maker}.weight", f"{maker}.bias"}
    network.train(training)
    images = torch.randn(2, 3, 32, 64)
    output = network(images)
    expected = network.get_submodule(maker)(output.features)
    if expected.shape != output.logits.shape:
        expected = torch.nn.functional.interpolate(expected, (32, 64), mode="bilinear")
    torch.testing.assert_close(output.logits, expected)
    output.logits.sum().backward()
    others = network.get_submodule(("aux", "main")[which])
    assert all(p.grad is None or not p.grad.any() for p in others.parameters())


@pytest.mark.parametrize("output", ["2", "features", "0.out", ""])
def test_an_output_that_is_not_there_is_refused_with_those_that_are(output: str) -> None:
    with pytest.raises(ConfigError, match=f"output {output}: .*0 .*made by aux.*1 .*made by main"):
        tried("AuxFirst", output)


def test_an_auxiliary_output_of_training_alone_cannot_be_chosen() -> None:
    with pytest.raises(ConfigError, match="nothing that the same layer made while evaluating"):
        tried("LikePidnet", "0")


@pytest.mark.parametrize("output", [None, "1"])
def test_the_head_of_evaluation_mode_is_found_in_training_modes_answer(output: str | None) -> None:
    network = tried("LikePidnet", output)
    images = torch.randn(2, 3, 32, 64)
    for mode in (False, True):
        found = network.train(mode)(images)
        torch.testing.assert_close(found.logits, network.get_submodule("main")(found.features))


@pytest.mark.parametrize("name", ["MeanOfHeads", "WithoutGraph"])
def test_what_no_layer_ties_together_is_tied_by_the_user(name: str) -> None:
    with pytest.raises(NetworkError, match=r"which is none of its maps while training.*output"):
        tried(name)
    network = tried(name, "1")
    images = torch.randn(2, 3, 32, 64)
    found = network.train()(images)
    torch.testing.assert_close(found.logits, network.get_submodule("main")(found.features))
    assert head_of(network) == {"main.weight", "main.bias"}
    assert network.eval()(images).logits.shape == (2, K, 8, 16)


@pytest.mark.parametrize("name", ["OutAndAux", "OtherOrder"])
def test_resized_maps_are_matched_by_the_layer_before(name: str) -> None:
    network = tried(name)
    for mode in (False, True):
        found = network.train(mode)(torch.randn(2, 3, 32, 64))
        own = network.get_submodule("main")(found.features)
        own = torch.nn.functional.interpolate(own, (32, 64), mode="bilinear")
        torch.testing.assert_close(found.logits, own)


HEADS: dict[str, tuple[set[str], bool]] = {
    "Base": ({"head.weight", "head.bias"}, True),
    "HuggingFace": ({"head.weight", "head.bias"}, True),
    "NamesFeatures": ({"head.weight", "head.bias"}, True),
    "Boundary": ({"head.weight", "head.bias"}, True),
    "Transposed": ({"head.weight", "head.bias"}, True),
    "LinearTokens": ({"head.weight", "head.bias"}, True),
    "LinearLast": ({"head.weight", "head.bias"}, True),
    "LogSoftmax": ({"head.weight", "head.bias"}, True),
    "OneHeadEach": ({f"head.{i}.{n}" for i in range(K) for n in ("weight", "bias")}, True),
    "Einsum": ({"classes"}, False),
    "Summed": ({f"branches.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")}, True),
    "Normed": (
        {f"head.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")} | {"head.2.weight"},
        True,
    ),
    "UnusedHead": ({"head.weight", "head.bias"}, True),
    "OldWeightNorm": ({"head.weight_g", "head.weight_v", "head.bias"}, True),
    "NewWeightNorm": (
        {f"head.parametrizations.weight.original{i}" for i in (0, 1)} | {"head.bias"},
        True,
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_classifier_is_what_makes_the_logits_and_features_are_its_input(name: str) -> None:
    network, (head, has_features) = tried(name), HEADS[name]
    assert head_of(network) == head
    images = torch.randn(2, 3, 32, 64)
    output = network.eval()(images)
    trunk = network.get_submodule("trunk")(images)
    if has_features:
        torch.testing.assert_close(output.features, trunk)
    else:
        assert output.features is None
    groups = {group.name: group.parameters for group in split_classifier(network, 10.0)}
    body = {id(p) for p in network.get_submodule("trunk").parameters()}
    assert body <= {id(p) for p in groups["body"]}


def test_a_linear_head_on_normed_tokens_is_the_classifier_and_nothing_before_it() -> None:
    network = tried("NormedTokens")
    assert head_of(network) == {"head.weight", "head.bias"}
    images = torch.randn(2, 3, 32, 64)
    features = network.eval()(images).features
    tokens = network.get_submodule("trunk")(images).permute(0, 2, 3, 1)
    normed = network.get_submodule("norm")(tokens)
    torch.testing.assert_close(features, normed.permute(0, 3, 1, 2))


def test_the_same_head_is_the_same_in_both_modes_in_whichever_order_it_is_met() -> None:
    trial = tried("Queries").trial
    assert trial.evaluating.head == trial.training.head
    assert trial.notes == ()


def test_a_head_that_is_no_parameter_is_no_classifier() -> None:
    assert head_of(tried("Unregistered")) == set()


def test_layers_as_wide_as_there_are_classes_are_no_classifier() -> None:
    assert head_of(tried("WideAsClasses")) == {"head.weight", "head.bias"}


def test_features_with_k_channels_are_not_taken_for_features_or_logits() -> None:
    network = tried("NamesFeatures", num_classes=user_networks.WIDTH)
    output = network(torch.randn(1, 3, 32, 64))
    torch.testing.assert_close(output.logits, network.get_submodule("head")(output.features))
    with pytest.raises(NetworkError, match="2 maps of 8 channels"):
        tried("Boundary", num_classes=user_networks.WIDTH)


def test_weights_that_do_not_reach_the_logits_are_counted() -> None:
    notes = " ".join(tried("MostlyDetached").trial.notes)
    total = sum(p.numel() for p in tried("MostlyDetached").parameters())
    assert f"only 45 of {total} weights reach the output" in notes
    assert tried("Base").trial.notes == ()


@pytest.mark.parametrize("name", ["Base", "OldSpectralNorm", "FrozenTrunk", "HiddenBuffer"])
def test_a_trial_leaves_everything_as_it_was(name: str) -> None:
    network = build_network(f"user_networks:{name}", K).train()
    before = {
        "tensors": [t.clone() for t in (*network.parameters(), *network.buffers())],
        "modes": [m.training for m in network.modules()],
        "learns": [p.requires_grad for p in network.parameters()],
        "draw": torch.get_rng_state(),
    }
    network.try_out((32, 64))
    after = [*network.parameters(), *network.buffers()]
    assert all(map(torch.equal, after, before["tensors"]))
    assert [m.training for m in network.modules()] == before["modes"]
    assert [p.requires_grad for p in network.parameters()] == before["learns"]
    assert torch.equal(torch.get_rng_state(), before["draw"])
    assert all(p.grad is None for p in network.parameters())


def test_hooks_that_a_network_gives_its_parts_are_not_given_twice() -> None:
    network = build_network("user_networks:HooksItself", K).eval()
    images = torch.randn(1, 3, 32, 64)
    for _ in range(2):  # each trial begins where the network was
        network.try_out((32, 64))
        network(images)
    assert network(images).logits.shape[1] == K
    assert len(network.get_submodule("trunk")._forward_hooks) == 1


UNUSABLE = {
    "WantsSize": "raised AssertionError: images must be 512x1024, for images .*input_size",
    "FixedPositions": r"raised RuntimeError: The size of tensor.*\(1, 3, 32, 64\).*input_size",
    "WantsTargets": "missing 1 required positional argument: 'targets'.*the images alone",
    "WantsLabelsInItsHead": r"not NoneType.*return its maps without .* given no labels, while",
    "LossOfItsHeadWhileTraining": "no map of as many channels while training",
    "ImagesToCuda": r"leave \.cuda\(\) and fixed devices out",
    "CastsImages": "images and weights are float32",
    "OneChannel": "returned one channel .*return two channels",
    "ShadowsTrain": "'bool' object is not callable, for images",
    "Softmax": "returns probabilities while evaluating .*leave the softmax out",
    "SoftmaxWhenEvaluating": "returns probabilities while evaluating .*leave the softmax out",
    "NeedsGpu": "raised SystemExit: no GPU for 1 images, for images",
    "NeverAGraph": r"without a gradient while training, so none .* torch\.no_grad\(\)",
    "Detached": r"without a gradient while training, so none .* \.detach\(\)",
    "NoForward": 'missing the required "forward"',
}


LOSS_OF_ITS_OWN = {
    "WantsLabelsWhileTraining": "raises TypeError",
    "LossWhileTraining": r"returns no map of 5 channels (a mapping with ['loss'])",
}


@pytest.mark.parametrize("name", LOSS_OF_ITS_OWN)
def test_a_network_that_takes_its_loss_itself_is_trained_by_its_layers_alone(name: str) -> None:
    network = tried(name)
    assert network.trial is not None
    assert f"it {LOSS_OF_ITS_OWN[name]}; so its layers alone are" in " ".join(network.trial.notes)
    copy = copy_of(network.train())
    for one in (network, copy):
        assert one.training
        assert all(module.training for module in one.modules())
        assert one(torch.randn(2, 3, 32, 64)).logits.requires_grad
        assert not any(module.training for module in one.eval().modules())


@pytest.mark.no_gpu
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_network_that_cannot_be_used_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(NetworkError, match=UNUSABLE[name]) as error:
        tried(name)
    assert str(error.value).startswith(f"network 'user_networks:{name}'")
    assert "\n" not in str(error.value)


def test_a_size_that_a_network_does_not_take_later_is_a_sentence_too() -> None:
    network = build_network("user_networks:FixedPositions", K)
    network.try_out((20, 28))
    with pytest.raises(NetworkError, match=r"for images \(2, 3, 16, 28\) while training"):
        network.train()(torch.zeros(2, 3, 16, 28))


def test_another_answer_than_in_the_trial_is_refused() -> None:
    network: Any = tried("OutAndAux")
    module = network._foreign
    module.forward = lambda x: {"out": x}
    with pytest.raises(NetworkError, match=r"at out as before, but out \(1, 3, 32, 64\)"):
        network(torch.zeros(1, 3, 32, 64))


@pytest.mark.parametrize("wrong", [lambda x: x[:1], lambda x: x[:, :-1], lambda _: None])
def test_other_logits_than_one_map_a_frame_are_refused_at_any_moment(wrong: Any) -> None:
    network: Any = tried("OutAndAux")
    module = network._foreign
    honest = module.forward
    module.forward = lambda x: {"out": wrong(honest(x)["out"])}
    with pytest.raises(NetworkError, match=r"no logits \(2, 5, h, w\) at out as before, but") as e:
        network(torch.zeros(2, 3, 32, 64))
    assert "but the answer itself;" not in str(e.value)
