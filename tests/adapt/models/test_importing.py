"""Foreign checkpoints in, safetensors in and out, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from payload import Payload
from roadshift.adapt.models.importing import (
    detect_arguments,
    detect_deeplab_arguments,
    load_weights,
    load_weights_file,
    read_checkpoint,
    save_weights,
)
from roadshift.adapt.networks import ForeignNetwork, adapt_foreign, build_network
from roadshift.adapt.networks.deeplab_v2 import DeepLabV2
from roadshift.runtime.errors import NetworkError
from torch import Tensor, nn

SMALL = (1, 1, 2, 1)


def small_deeplab(num_classes: int = 5, **arguments: Any) -> DeepLabV2:
    """A small DeepLabV2 whose summed branches are no longer as initialised."""
    network = DeepLabV2(num_classes, layers=SMALL, **arguments)
    with torch.no_grad():
        for parameter in network.classifier_parameters():
            parameter.mul_(1.1)
    return network


def equal_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("legacy", [True, False], ids=["before 1.6", "zip"])
def test_a_checkpoint_that_carries_code_is_refused_and_the_code_is_not_run(
    tmp_path: Path, legacy: bool
) -> None:
    target, path = tmp_path / "executed", tmp_path / "weights.pth"
    content = {"weight": torch.zeros(1), "extra": Payload(target)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(NetworkError, match=r"holds more than tensors \(\w+\.mkdir\).*re-save"):
        read_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # the payload was live


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (nn.Conv2d(3, 3, 1), r"holds more than tensors \(torch.nn.modules.conv.Conv2d\)"),
        ({"epoch": 3, "best": 0.5}, r"holds no state dict \(found epoch, best\)"),
        ([1.0, "weights"], "holds no state dict"),
        ({}, "holds no state dict"),
    ],
    ids=["a whole module", "numbers", "a list", "nothing"],
)
def test_what_is_not_a_state_dict_is_refused(tmp_path: Path, content: Any, sentence: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(NetworkError, match=sentence):
        read_checkpoint(tmp_path / "weights.pth")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(NetworkError, match="holds no state dict"):
        read_checkpoint(tmp_path / "weights.pth")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    module = torch.jit.trace(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4))
    torch.jit.save(module, tmp_path / "weights.pt")
    with pytest.raises(NetworkError, match="TorchScript archive"):
        read_checkpoint(tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "image"])
def test_damaged_files_are_refused_with_their_name(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    torch.save({"weight": torch.zeros(1000)}, path)
    if path.suffix == ".safetensors":
        path.write_bytes(safetensors.torch.save({"weight": torch.zeros(1000)}))
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:900], "empty": b"", "image": b"\xff\xd8\xff\xe0JFIF"}[damage])
    said = "is damaged|not a readable|is empty|is a JPEG picture"
    with pytest.raises(NetworkError, match=rf"{name}: ({said})"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"nowhere\.pth: no such file"):
        read_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("name", ["fast_scnn", "deeplab"])
def test_saved_weights_come_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    first, second = (
        build_network("fast_scnn", 5) if name == "fast_scnn" else small_deeplab() for _ in "ab"
    )
    (tmp_path / "weights.safetensors").write_bytes(save_weights(first))
    load_weights_file(second, tmp_path / "weights.safetensors")
    assert equal_states(second.state_dict(), first.state_dict())
    assert save_weights(second) == save_weights(first)


def test_a_foreign_module_that_wraps_a_model_gets_its_weights_back(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.ModuleDict({"model": nn.Conv2d(3, 5, 1)})

    first, second = (adapt_foreign(build(), 5) for _ in "ab")
    (tmp_path / "weights.safetensors").write_bytes(save_weights(first))
    load_weights_file(second, tmp_path / "weights.safetensors")
    assert equal_states(second.state_dict(), first.state_dict())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"multi_level": True},
        {"multi_level": True, "aspp_branches": 2},
        {"head": "layer5", "aspp_branches": 2},
    ],
    ids=["AdvEnt and IAPC", "AdvEnt multi", "AdaptSegNet multi", "AdaptSegNet single"],
)
def test_a_published_layout_is_recognised_and_gives_its_logits(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    source = small_deeplab(19, **arguments).eval()
    old = {
        f"module.{name}": value
        for name, value in source.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    path = tmp_path / "GTA5.pth"
    torch.save({"state_dict": old, "iteration": 9}, path, _use_new_zipfile_serialization=False)
    state = read_checkpoint(path)
    found = detect_arguments("deeplab_v2_resnet101", state, path.name)
    assert found == {
        "num_classes": 19,
        "multi_level": False,
        "head": "layer6",
        "aspp_branches": 4,
        "layers": list(SMALL),
        **arguments,
    }
    network = build_network("deeplab_v2_resnet101", found.pop("num_classes"), **found).eval()
    load_weights(network, state, path.name)
    images = torch.randn(1, 3, 40, 56)
    assert torch.equal(network(images).logits, source(images).logits)


def with_a_second_head(source: DeepLabV2) -> dict[str, Tensor]:
    """LD's published layout: beside the ``layer5`` that is asked a ``layer6`` as it was drawn."""
    spare = DeepLabV2(source.num_classes, layers=SMALL).state_dict()
    return {
        **source.state_dict(),
        **{name: value for name, value in spare.items() if name.startswith("layer6.")},
    }


def test_of_two_heads_of_2048_channels_layer5_is_read_and_layer6_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = small_deeplab(19, head="layer5").eval()
    torch.save(with_a_second_head(source), tmp_path / "gta5_source_only.pth")
    state = read_checkpoint(tmp_path / "gta5_source_only.pth")
    assert state["layer5.conv2d_list.0.weight"].shape == (19, 2048, 3, 3)
    assert state["layer6.conv2d_list.0.weight"].shape == (19, 2048, 3, 3)
    found = detect_arguments("deeplab_v2_resnet101", state, "ld.pth")
    assert found == {
        "num_classes": 19,
        "multi_level": False,
        "head": "layer5",
        "aspp_branches": 4,
        "layers": list(SMALL),
    }
    images = torch.randn(1, 3, 40, 56)
    notes: list[str] = []
    for note in (None, notes.append):  # without a note nothing else may be left out
        network = build_network("deeplab_v2_resnet101", 19, head="layer5", layers=SMALL).eval()
        load_weights(network, state, "ld.pth", note=note)
        assert torch.equal(network(images).logits, source(images).logits)
    (said,) = notes
    assert (
        "8 tensors of a second classifier that the published code never asks for (layer6." in said
    )
    stranger = {**state, "layer7.weight": torch.zeros(1)}
    with pytest.raises(NetworkError, match=r"1 are unexpected \(layer7.weight\)"):
        load_weights(network, stranger, "ld.pth", note=notes.append)


def test_a_second_head_of_fewer_channels_is_adaptsegnets_and_stays() -> None:
    torch.manual_seed(0)
    found = detect_deeplab_arguments(small_deeplab(19, multi_level=True).state_dict())
    assert (found["multi_level"], found["head"]) == (True, "layer6")


def test_an_untrained_deeplab_sums_four_branches() -> None:
    torch.manual_seed(0)
    network = DeepLabV2(19, layers=SMALL)
    assert detect_deeplab_arguments(network.state_dict())["aspp_branches"] == 4


def test_other_weights_are_not_taken_for_a_deeplab() -> None:
    with pytest.raises(NetworkError, match="not in the DeepLabV2 layout"):
        detect_deeplab_arguments(build_network("fast_scnn", 5).state_dict())


@pytest.mark.parametrize("name", ["fast_scnn", "deeplab"])
def test_another_class_count_is_said_in_classes(name: str) -> None:
    def build(classes: int) -> Any:
        return build_network(name, classes) if name == "fast_scnn" else small_deeplab(classes)

    network = build(11)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(
        NetworkError, match=r"w.pth: the weights have 19 classes, label space camvid11 has 11"
    ):
        load_weights(network, build(19).state_dict(), "w.pth", label_space="label space camvid11")
    assert equal_states(network.state_dict(), before)


class ClassesInManyLayers(nn.Module):
    """As ESPNet ends: classes as widths, in sums and in multiples, and a transposed convolution."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, 4, 1)
        self.level3 = nn.Conv2d(16, classes, 1)
        self.norm = nn.BatchNorm2d(classes)
        self.both = nn.Conv2d(16 + classes, 2 * classes, 1)
        self.narrow = nn.Conv2d(2 * classes, classes - 4 * (classes // 5), 1)
        self.wide = nn.Conv2d(classes - 4 * (classes // 5), classes, 1)
        self.classifier = nn.ConvTranspose2d(classes, classes, 2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        f = self.body(x)
        both = self.both(torch.cat([f, self.norm(self.level3(f))], 1))
        return self.classifier(self.wide(self.narrow(both)))


@pytest.mark.parametrize(("other", "known"), [(20, " (of as many classes: cityscapes20)"), (9, "")])
def test_a_class_count_that_sits_in_many_layers_is_said_in_classes(other: int, known: str) -> None:
    network = build_network(f"{__name__}:ClassesInManyLayers", 19)
    assert isinstance(network, ForeignNetwork)
    network.try_out((64, 64))
    weights = ClassesInManyLayers(other).state_dict()
    with pytest.raises(NetworkError) as caught:
        load_weights(network, weights, "w.pth", label_space="label space cityscapes19")
    assert str(caught.value) == (
        f"w.pth: the weights have {other} classes, label space cityscapes19 has 19; choose the "
        f"label space that they were trained with{known}."
    )


@pytest.mark.parametrize(("classes", "other"), [(19, 20), (20, 19), (11, 19)])
def test_classes_are_counted_by_the_classifier_where_inner_widths_follow_them(
    classes: int, other: int
) -> None:
    weights = build_network("espnetv2", other, scale=0.5).state_dict()
    with pytest.raises(NetworkError, match=f"w.pth: the weights have {other} classes, the label"):
        load_weights(build_network("espnetv2", classes, scale=0.5), weights, "w.pth")


def test_a_width_that_differs_beside_the_classes_is_no_class_count() -> None:
    network = build_network("fast_scnn", 5)
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    name = next(n for n, p in network.named_parameters() if len(p) == 5 and p.ndim == 4)
    state[name] = torch.zeros(9, 64, 1, 1)
    with pytest.raises(NetworkError, match=r"1 tensors have another shape"):
        load_weights(network, state, "w.pth")


def test_missing_and_unexpected_names_are_counted_and_the_first_five_shown() -> None:
    network = build_network("fast_scnn", 5)
    state = dict(network.state_dict())
    gone = [name for name in state if name.startswith("head.") and "tracked" not in name][:7]
    for name in gone:
        state[f"old.{name}"] = state.pop(name)
    with pytest.raises(NetworkError) as caught:
        load_weights(network, state, "w.pth")
    message = str(caught.value)
    assert "7 names are missing" in message
    assert "7 are unexpected" in message
    assert all(name in message for name in gone[:5])
    assert gone[5] not in message


def test_another_shape_is_named_and_changes_nothing() -> None:
    network = build_network("fast_scnn", 5)
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    state["fusion.deep.0.weight"] = torch.zeros(128, 64, 1, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(
        NetworkError, match=r"fusion.deep.0.weight is \(128, 64, 1, 1\), not \(128, 128, 1, 1\)"
    ):
        load_weights(network, state, "w.pth")
    assert equal_states(network.state_dict(), before)
