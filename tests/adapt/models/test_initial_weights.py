"""Weights to start training from: ImageNet's of the backbone, or the network's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from roadshift.adapt.models.initial_weights import load_initial_weights
from roadshift.adapt.models.loading import IMAGENET_INPUT, training_input
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.networks.deeplab_v2 import DeepLabV2
from roadshift.runtime.errors import NetworkError
from torch import Tensor, nn

SMALL = (1, 1, 2, 1)
State = dict[str, Tensor]


def load(network: SegmentationNetwork, state: State, folder: Path) -> list[str]:
    """The notes of starting ``network`` from ``state``."""
    torch.save(state, folder / "init.pth")
    notes: list[str] = []
    load_initial_weights(network, folder / "init.pth", label_space="four", note=notes.append)
    return notes


def drawn(state: State, seed: int) -> State:
    """Other values of the same names and shapes, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value if value.ndim == 0 else torch.rand(value.shape, generator=generator) + 0.1
        for name, value in state.items()
    }


def imagenet_resnet(prefix: str) -> State:
    """A small ResNet's state dict in torchvision's and the Caffe models' names."""
    whole = DeepLabV2(2, layers=SMALL).state_dict()
    trunk = {n: v for n, v in whole.items() if not n.startswith(("layer5.", "layer6."))}
    return {prefix + name: value for name, value in drawn(trunk, 3).items()}


@pytest.mark.parametrize(
    ("prefix", "rest"),
    [
        ("", {"fc.weight": (1000, 2048), "fc.bias": (1000,)}),  # torchvision's resnet101
        ("Scale.", {"Scale.layer5.conv2d_list.0.weight": (21, 2048, 3, 3)}),  # AdaptSegNet's file
    ],
    ids=["torchvision", "Caffe"],
)
def test_a_resnet_gets_its_body_and_keeps_its_drawn_classifier(
    prefix: str, rest: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    body = imagenet_resnet(prefix)
    network = DeepLabV2(4, layers=SMALL)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    others = {name: torch.zeros(shape) for name, shape in rest.items()}
    (said,) = load(network, {**body, **others}, tmp_path)
    for name, value in network.state_dict().items():
        is_head = name.startswith("layer6.")
        assert torch.equal(value, before[name] if is_head else body[prefix + name]), name
    assert f"took {len(body)} tensors of the backbone" in said
    assert "layer6.conv2d_list.0" in said
    assert said.endswith("start from random weights.")


def torchvision_vgg16() -> State:
    """The names and shapes of torchvision's vgg16, with a small fc6."""
    widths = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3), nn.ReLU()]
            channels = width
    features = nn.Sequential(*layers).state_dict()
    state = {f"features.{name}": value for name, value in drawn(features, 5).items()}
    return {**state, "classifier.0.weight": torch.zeros(8, 16), "classifier.0.bias": torch.zeros(8)}


def test_vgg_16_gets_its_thirteen_convolutions_in_order(tmp_path: Path) -> None:
    state, network = torchvision_vgg16(), build_network("deeplab_v2_vgg16", 4)
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    (said,) = load(network, state, tmp_path)
    theirs = [value for name, value in state.items() if name.startswith("features.")]
    convolutions = [m for m in network.features.modules() if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]
    ours = [p for m in convolutions[:13] for p in (m.weight, m.bias)]
    assert len(theirs) == 26
    assert all(map(torch.equal, ours, theirs))
    left = [n for n in fresh if n.startswith(("features.29.", "features.31.", "classifier."))]
    assert len(left) == 12  # fc6, fc7 and four dilated convolutions
    assert all(torch.equal(network.state_dict()[name], fresh[name]) for name in left)
    assert "took 26 tensors of the backbone" in said
    assert "features.29" in said


@pytest.mark.parametrize("name", ["fast_scnn", "deeplab_v2_vgg16"])
def test_a_whole_checkpoint_is_taken_whole(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source, network = build_network(name, 4), build_network(name, 4)
    load(network, source.state_dict(), tmp_path)
    assert all(map(torch.equal, network.state_dict().values(), source.state_dict().values()))


def test_what_fits_neither_way_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    network = DeepLabV2(4, layers=SMALL)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shallow = {n: v for n, v in imagenet_resnet("").items() if not n.startswith("layer4.")}
    other_shape = {**imagenet_resnet(""), "conv1.weight": torch.zeros(64, 3, 3, 3)}
    other_classes = {**imagenet_resnet(""), **DeepLabV2(9, layers=SMALL).state_dict()}
    for state, said in (
        (shallow, "names are missing"),
        (other_shape, "names are missing"),
        (other_classes, "the weights have 9 classes, four has 4"),
    ):
        with pytest.raises(NetworkError, match=said):
            load(network, state, tmp_path)
    broken = {**imagenet_resnet(""), "bn1.weight": torch.full((64,), float("nan"))}
    with pytest.raises(NetworkError, match=r"bn1\.weight"):
        load(network, broken, tmp_path)
    assert all(map(torch.equal, network.state_dict().values(), before.values()))


def test_source_models_of_papers_see_what_their_imagenet_weights_saw() -> None:
    theirs = training_input("deeplab_v2_resnet101", (96, 64), published=True)
    assert (theirs.width, theirs.height, theirs.colour) == (96, 64, "bgr")
    assert theirs.std == (1.0, 1.0, 1.0)
    for network, published in (
        ("deeplab_v2_resnet101", False),
        ("fast_scnn", True),
        ("somewhere:build", True),
    ):
        ours = training_input(network, (96, 64), published=published)
        assert ours == IMAGENET_INPUT.model_copy(update={"width": 96, "height": 64})
