"""Networks for roads under the names of public code: names, sizes, export, learning, checkpoints.

The fingerprints were taken from the public definitions themselves, which our networks equal to the
last bit of the logits (docs/networks.md says how that was compared).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from roadshift.adapt.models.importing import detect_arguments, load_weights
from roadshift.adapt.models.initial_weights import load_initial_weights
from roadshift.adapt.networks import SegmentationNetwork, build_network, ddrnet
from roadshift.adapt.networks.outlines import outlines
from roadshift.runtime.errors import NetworkError
from torch import Tensor, nn

OnnxOutputs = Callable[[nn.Module, Tensor], list[np.ndarray]]


class Published(NamedTuple):
    """A public definition at 19 classes, and what tells it apart."""

    name: str
    arguments: dict[str, Any]
    tensors: int
    parameters: int
    digest: str  # SHA-256 of its names with their shapes, a line each, sorted
    features: int
    stride: int
    heads: tuple[str, ...]  # of training, in its checkpoints


PUBLISHED = (
    Published(
        *("pidnet_s", {}, 453, 7_625_715),
        "4531051c524a7599b796dbdefb2cda1abfd417082ebcd060d3d227b9e97db0fa",
        *(128, 8, ("seghead_p", "seghead_d")),
    ),
    Published(
        *("pidnet_m", {}, 453, 28_538_515),
        "8297260023ed4e1d51f7097463a21984151b6f8be89ddfe838b90be54e10b8bf",
        *(128, 8, ("seghead_p", "seghead_d")),
    ),
    Published(
        *("pidnet_l", {}, 519, 36_939_571),
        "6f597ef9aea0da6184dcdd7a7efff73e6bd25311a046baf9d6486de8552fa4f1",
        *(256, 8, ("seghead_p", "seghead_d")),
    ),
    Published(
        *("ddrnet23_slim", {}, 333, 5_695_987),
        "39e73e86e38c100d30912e45701bf6b1ce17152016d73fd72d4b9034477cb41e",
        *(64, 8, ("seghead_extra",)),
    ),
    Published(
        *("ddrnet23", {}, 333, 20_148_947),
        "8f382d031c675e63f02047e89235c0b22f85caf1bff98ef5e8082dfdbd7babeb",
        *(128, 8, ("seghead_extra",)),
    ),
    Published(
        *("bisenetv2", {}, 327, 3_358_627),
        "41f361b3ea7daf3646830595dc5994f02fdd8434f9153d58be5a1fe8ab45ddf9",
        *(1024, 8, ("aux2", "aux3", "aux4", "aux5_4")),
    ),
    Published(
        *("deeplab_v3plus", {"backbone": "resnet50"}, 368, 39_761_331),
        "24e401d97fe9200c9694b6400a989c1a707974ec347c87fef4b0ccdeb20fab82",
        *(256, 4, ()),
    ),
    Published(
        *("deeplab_v3plus", {"backbone": "resnet101"}, 674, 58_753_459),
        "83fb6c12a03e7c00bc0c261f627bb0b257c58d8134440af6ce6e72ec63fcd8f5",
        *(256, 4, ()),
    ),
    Published(
        *("deeplab_v3plus", {"backbone": "mobilenet_v2"}, 356, 5_225_203),
        "008d469c9a86a96dd577d0b6e7ea6871ac19c66e6398d866aa31de276bba7a40",
        *(256, 4, ()),
    ),
)
SMALL = tuple(p for p in PUBLISHED if p.parameters < 8e6)
CLASSES = 5


def said(published: Published) -> str:
    return "-".join([published.name, *published.arguments.values()])


every = pytest.mark.parametrize("published", PUBLISHED, ids=said)
small = pytest.mark.parametrize("published", SMALL, ids=said)


def drawn(published: Published) -> SegmentationNetwork:
    """The network with statistics of batch norm and shifts that no two channels share."""
    torch.manual_seed(0)
    network = build_network(published.name, CLASSES, **published.arguments)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


@every
def test_names_and_shapes_are_those_of_the_public_definition(published: Published) -> None:
    with outlines():
        network = build_network(published.name, 19, **published.arguments)
    lines = sorted(
        f"{name} {'x'.join(map(str, value.shape))}" for name, value in network.state_dict().items()
    )
    assert len(lines) == published.tensors
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == published.digest
    assert sum(p.numel() for p in network.parameters()) == published.parameters


@every
def test_logits_and_features_are_at_the_networks_stride(published: Published) -> None:
    with outlines():
        network = build_network(published.name, CLASSES, **published.arguments).eval()
    assert network.stride == published.stride
    for size in ((64, 96), (45, 70), (33, 17)):
        output = network(torch.empty(2, 3, *size, device="meta"))
        if "mobilenet_v2" in published.arguments.values():  # its first convolution is not padded
            grid = tuple(-(-((side - 1) // 2) // 2) for side in size)
        else:
            grid = tuple(-(-side // published.stride) for side in size)
        assert output.logits.shape == (2, CLASSES, *grid), size
        assert output.features is not None
        assert output.features.shape == (2, published.features, *grid), size


@small
def test_the_classifier_makes_the_logits_of_the_features(published: Published) -> None:
    network = drawn(published)
    with torch.no_grad():
        output = network(torch.randn(1, 3, 64, 96))
    weight, bias = network.classifier_parameters()
    assert output.features is not None
    made = nn.functional.conv2d(output.features, weight, bias)
    torch.testing.assert_close(made, output.logits)
    assert output.logits.std() > 0


@pytest.mark.parametrize("published", [p for p in SMALL if p.name == "ddrnet23_slim"], ids=said)
def test_onnx_runtime_gives_the_same_logits(
    published: Published, onnx_outputs: OnnxOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a size that no stride divides; tests/export asks the other families about their graphs.

    Of blocks that only repeat there is one.
    """
    monkeypatch.setattr(ddrnet, "_BLOCKS", 1)
    network, images = drawn(published), torch.randn(1, 3, 45, 70)
    with torch.no_grad():
        expected = network(images).logits.numpy()
    logits = onnx_outputs(network, images)[0]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


@small
def test_every_parameter_learns_from_the_weights_that_a_training_begins_with(
    published: Published,
) -> None:
    torch.manual_seed(0)
    network = build_network(published.name, CLASSES, **published.arguments).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):  # what a scale of zero keeps from learning learns from the second on
        optimiser.zero_grad()
        logits = network(torch.randn(2, 3, 64, 96)).logits
        assert logits.abs().max() < 50
        labels = torch.randint(CLASSES, logits.shape[:1] + logits.shape[2:])
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert loss.isfinite()
    silent = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent <= {"segment.S5_5.bn.bias"}  # BiSeNetV2 normalises what is made of it again
    assert all(value.isfinite().all() for value in network.state_dict().values())


# ---- checkpoints ---------------------------------------------------------------------------------


def saved(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("published", [p for p in SMALL if p.heads], ids=said)
def test_heads_of_training_are_left_out_and_named(published: Published) -> None:
    state = saved(drawn(published), "model.")
    for head in published.heads:
        state[f"model.{head}.conv1.weight"] = torch.zeros(2, 2)
        state[f"model.{head}.bn1.bias"] = torch.zeros(2)
    state["loss.criterion.weight"] = torch.ones(19)
    network, told = build_network(published.name, CLASSES), list[str]()
    load_weights(network, state, "city.pt", note=told.append)
    named = ", ".join(published.heads)
    count = 2 * len(published.heads)
    assert f"{count} tensors of heads that only training asks for ({named}) left out" in told[0]
    assert "1 other tensor was left out (loss.criterion.weight)" in told[0]
    assert all(value.equal(state[f"model.{n}"]) for n, value in network.state_dict().items())
    load_weights(network, {n: v for n, v in state.items() if n.startswith("model.")}, "city.pt")


def test_a_size_of_the_same_kind_is_refused_by_its_shapes() -> None:
    with outlines():
        medium, small_one = build_network("pidnet_m", 19), build_network("pidnet_s", 19)
    with pytest.raises(NetworkError, match=r"another shape .*choose the network"):
        load_weights(small_one, saved(medium), "city.pt")


@pytest.mark.parametrize("published", PUBLISHED[-3:], ids=said)
def test_the_backbone_of_a_deeplab_v3plus_shows_in_its_checkpoint(published: Published) -> None:
    with outlines():
        network = build_network(published.name, 19, **published.arguments)
    state = {"cur_itrs": torch.zeros(()), **saved(network, "model_state.")}
    found = detect_arguments(published.name, state, "best.pth")
    assert found == {"num_classes": 19, **published.arguments}


def test_a_checkpoint_of_another_layout_is_no_deeplab_v3plus() -> None:
    state = {"conv1.weight": torch.zeros(1)}
    with pytest.raises(NetworkError, match=r"layout of DeepLabV3\+ .*found conv1\.weight"):
        detect_arguments("deeplab_v3plus", state, "best.pth")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"backbone": "xception"}, "choose resnet50, resnet101, mobilenet_v2"),
        ({"backbone": ["resnet50"]}, "choose resnet50, resnet101, mobilenet_v2"),
        ({"output_stride": 4}, "output_stride is 4; choose 16 or 8"),
        ({"output_stride": []}, r"output_stride is \[\]; choose 16 or 8"),
    ],
    ids=str,
)
def test_arguments_of_no_deeplab_v3plus_are_refused(argument: Any, sentence: str) -> None:
    with pytest.raises(NetworkError, match=sentence):
        build_network("deeplab_v3plus", 19, **argument)


def of_imagenet(published: Published) -> Iterator[tuple[str, Tensor]]:
    """Weights as classifiers have them: the backbone's names there, and a last layer."""
    network = drawn(published)
    state = network.state_dict()
    for here, there in network.backbone_names().items():
        yield there, state[here]
    yield "linear.weight", torch.zeros(1000, 8)


@small
def test_a_training_begins_with_a_backbone_of_imagenet(
    published: Published, tmp_path: Path
) -> None:
    theirs = dict(of_imagenet(published))
    torch.save({"state_dict": theirs}, tmp_path / "imagenet.pth")
    network, told = build_network(published.name, 7, **published.arguments), list[str]()
    load_initial_weights(
        network, tmp_path / "imagenet.pth", label_space="seven classes", note=told.append
    )
    names = network.backbone_names()
    state = network.state_dict()
    assert f"took {len(names)} tensors of the backbone" in told[0]
    assert all(state[here].equal(theirs[there]) for here, there in names.items())


def test_backbones_of_deeplab_v3plus_have_torchvisions_names() -> None:
    with outlines():
        resnet = build_network("deeplab_v3plus", 19, backbone="resnet50").backbone_names()
        mobile = build_network("deeplab_v3plus", 19, backbone="mobilenet_v2").backbone_names()
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight"} <= {*resnet.values()}
    assert {"layer3.5.conv3.weight", "layer4.2.bn3.bias"} <= {*resnet.values()}
    assert mobile["backbone.low_level_features.0.0.weight"] == "features.0.0.weight"
    assert mobile["backbone.high_level_features.17.conv.2.weight"] == "features.17.conv.2.weight"


def test_a_smaller_output_stride_takes_the_same_weights_and_looks_closer() -> None:
    torch.manual_seed(0)
    networks = [
        build_network("deeplab_v3plus", CLASSES, backbone="mobilenet_v2", output_stride=stride)
        for stride in (16, 8)
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    deepest = [n.eval().get_submodule("backbone")(torch.randn(1, 3, 64, 96))[1] for n in networks]
    assert [tuple(map_.shape[-2:]) for map_ in deepest] == [(4, 6), (8, 12)]
