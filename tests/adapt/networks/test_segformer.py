"""SegFormer: equal to transformers', any size, training, arguments, names in published files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from roadshift.adapt.models.importing import detect_arguments, load_weights
from roadshift.adapt.models.initial_weights import load_initial_weights
from roadshift.adapt.networks import build_network
from roadshift.adapt.networks.segformer import SegFormer
from roadshift.adapt.networks.segformer_names import in_published_names
from roadshift.runtime.errors import NetworkError
from torch import Tensor, nn

Tensors = dict[str, Tensor]
NARROW = {"widths": [8, 16, 20, 32], "depths": [1, 2, 1, 2], "decoder_width": 24}
PUBLISHED = {"b0": 3.7, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}  # Table 2


def narrow(seed: int = 0, **arguments: Any) -> SegFormer:
    """A network of drawn weights, no two alike, in evaluation mode."""
    network = build_network("segformer_b0", 7, **NARROW, **arguments)
    assert isinstance(network, SegFormer)
    redraw(network, seed)
    return network.eval()


def redraw(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.2
                base = 1.0 if name.endswith("var") or ("norm" in name and "weight" in name) else 0.0
                drawn = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(base + spread * (3 * drawn - 1.5 if base == 0 else drawn))


# ---- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_has_as_many_parameters_as_the_paper_says(name: str) -> None:
    with torch.device("meta"):
        network = build_network(f"segformer_{name}", 150)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[name], rel=0.02)


def transformers_twin(network: SegFormer) -> nn.Module:
    """Hugging Face's network of the same size and weights."""
    transformers = pytest.importorskip(
        "transformers", reason="what Hugging Face computes is compared where it is installed"
    )
    encoder: Any = network.segformer["encoder"]
    twin: nn.Module = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            num_labels=network.num_classes,
            hidden_sizes=[norm.normalized_shape[0] for norm in encoder.layer_norm],
            depths=[len(blocks) for blocks in encoder.block],
            decoder_hidden_size=network.decode_head.batch_norm.num_features,
        )
    ).eval()
    redraw(twin, seed=3)
    return twin


@pytest.mark.parametrize("name", ["narrow", "segformer_b0"])
def test_logits_are_those_of_transformers(name: str) -> None:
    network: Any = narrow() if name == "narrow" else build_network(name, 19).eval()
    twin = transformers_twin(network)
    load_weights(network, twin.state_dict(), "transformers")
    for height, width in ((64, 96), (network.least_side, 61), (75, 130)):
        images = torch.randn(2, 3, height, width)
        with torch.no_grad():
            ours, theirs = network(images).logits, twin(images).logits
        assert ours.shape == (2, network.num_classes, -(-height // 4), -(-width // 4))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_files_that_transformers_writes_have_our_names(tmp_path: Path) -> None:
    network = narrow()
    twin: Any = transformers_twin(network)
    twin.save_pretrained(tmp_path)
    load_initial_weights(
        network, tmp_path / "model.safetensors", label_space="seven", note=lambda _: None
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images).logits, twin(images).logits)


def test_features_are_what_the_classifier_classifies() -> None:
    network = narrow()
    with torch.no_grad():
        output = network(torch.randn(2, 3, 40, 72))
        torch.testing.assert_close(output.logits, network.decode_head.classifier(output.features))
    assert output.features.shape == (2, 24, 10, 18)


def test_training_leaves_out_whole_branches_by_a_seed() -> None:
    network = narrow(drop_path=0.5, dropout=0.0).train()
    images = torch.randn(3, 3, 64, 64)

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            found: Tensor = network(images).logits
        return found

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    plain = narrow(drop_path=0.0, dropout=0.0).train()
    with torch.no_grad():
        assert torch.equal(plain(images).logits, plain(images).logits)


def test_the_smallest_image_is_the_one_that_leaves_each_stage_a_key() -> None:
    network = narrow(reductions=[4, 8, 1, 2])
    assert network.least_side == 57
    with torch.no_grad():
        assert network(torch.randn(1, 3, 57, 57)).logits.shape == (1, 7, 15, 15)
    with pytest.raises(NetworkError, match="at least 57x57 pixels, not 64x56"):
        network(torch.randn(1, 3, 56, 64))


def test_too_small_an_image_says_what_to_give() -> None:
    with pytest.raises(NetworkError, match=r"at least 29x29 pixels, not 64x28; give larger"):
        narrow()(torch.randn(1, 3, 28, 64))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"widths": [8, 16, 20]}, "widths is"),
        ({"widths": [8, 15, 20, 32]}, "multiple of its stage's heads"),
        ({"depths": [1, 0, 1, 1]}, "depths is"),
        ({"depths": [1, 1, 1, 10**6]}, "depths is"),
        ({"decoder_width": 0}, "decoder_width is 0"),
        ({"heads": [1, 2, 0, 8]}, "heads is"),
        ({"heads": [1, 2, 3, 8]}, "multiple of its stage's heads of attention, 1, 2, 3, 8"),
        ({"reductions": [8, 4, 2, 0.5]}, "reductions is"),
        ({"expansions": [4, 4, 4, 1000]}, "expansions is"),
        ({"expansions": [4, 4, 4, "four"]}, "expansions is"),
        ({"depths": 3}, r"depths is \[3\]; give four counts"),
        ({"decoder": "mlp"}, "choose linear"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        build_network("segformer_b0", 7, **arguments)


# ---- names of published files --------------------------------------------------------------------


def as_the_authors(state: Tensors) -> Tensors:
    """A state dict as the authors' training code saves it, by the layout of their modules."""
    found: Tensors = {}
    for name, tensor in state.items():
        parts = name.split(".")
        kind, rest = parts[-1], parts
        if name.startswith("decode_head.linear_c"):
            found[f"decode_head.linear_c{int(parts[2]) + 1}.proj.{kind}"] = tensor
        elif name.startswith("decode_head"):
            module = {
                "linear_fuse": "linear_fuse.conv",
                "batch_norm": "linear_fuse.bn",
                "classifier": "linear_pred",
            }[parts[1]]
            found[f"decode_head.{module}.{kind}"] = tensor
        elif rest[2] == "patch_embeddings":
            module = {"proj": "proj", "layer_norm": "norm"}[rest[4]]
            found[f"backbone.patch_embed{int(rest[3]) + 1}.{module}.{kind}"] = tensor
        elif rest[2] == "layer_norm":
            found[f"backbone.norm{int(rest[3]) + 1}.{kind}"] = tensor
        else:
            block, inner = f"backbone.block{int(rest[3]) + 1}.{rest[4]}", ".".join(rest[5:-1])
            if inner == "attention.self.value":
                continue
            if inner == "attention.self.key":
                tensor = torch.cat([tensor, state[name.replace(".key.", ".value.")]])
            module = {
                "layer_norm_1": "norm1",
                "layer_norm_2": "norm2",
                "attention.self.query": "attn.q",
                "attention.self.key": "attn.kv",
                "attention.self.sr": "attn.sr",
                "attention.self.layer_norm": "attn.norm",
                "attention.output.dense": "attn.proj",
                "mlp.dense1": "mlp.fc1",
                "mlp.dense2": "mlp.fc2",
                "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
            }[inner]
            found[f"{block}.{module}.{kind}"] = tensor
    return found


def as_mmsegmentation(state: Tensors) -> Tensors:
    """The same by its converter, from the authors' names; its decoder is another."""
    found: Tensors = {}
    theirs = as_the_authors({n: t for n, t in state.items() if n.startswith("segformer")})
    for name, tensor in theirs.items():
        end = name.removeprefix("backbone.")
        stage = int(end.split(".")[0][-1]) - 1
        rest = end.partition(".")[2]
        if end.startswith("patch_embed"):
            found[f"backbone.layers.{stage}.0.{rest.replace('proj', 'projection')}"] = tensor
        elif end.startswith("norm"):
            found[f"backbone.layers.{stage}.2.{rest}"] = tensor
        elif ".kv." not in rest:
            if ".q." in rest:
                tensor = torch.cat([tensor, theirs[name.replace(".q.", ".kv.")]])
            if "fc" in rest and rest.endswith("weight"):
                tensor = tensor[:, :, None, None]
            for old, new in {
                ".q.": ".attn.in_proj_",
                "attn.proj": "attn.attn.out_proj",
                "mlp.fc1": "ffn.layers.0",
                "mlp.dwconv.dwconv": "ffn.layers.1",
                "mlp.fc2": "ffn.layers.4",
            }.items():
                rest = rest.replace(old, new)
            found[f"backbone.layers.{stage}.1.{rest}"] = tensor
    for name, tensor in state.items():
        if name.startswith("decode_head"):
            for old, new in {
                "linear_c": "convs",
                "linear_fuse": "fusion_conv.conv",
                "batch_norm": "fusion_conv.bn",
                "classifier": "conv_seg",
            }.items():
                name = name.replace(f".{old}", f".{new}")
            if name.endswith("fusion_conv.conv.weight"):
                tensor = torch.cat(tensor.chunk(4, dim=1)[::-1], dim=1)
            found[name] = tensor
    return found


class MmsegHead(nn.Module):
    """mmsegmentation's ``SegformerHead``: maps are joined in the order in which they come."""

    def __init__(self, widths: list[int], channels: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv_module(width, channels) for width in widths)
        self.fusion_conv = conv_module(len(widths) * channels, channels)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        outs = [
            F.interpolate(conv(x), maps[0].shape[2:], mode="bilinear", align_corners=False)
            for conv, x in zip(self.convs, maps, strict=True)
        ]
        logits: Tensor = self.conv_seg(self.fusion_conv(torch.cat(outs, dim=1)))
        return logits


def conv_module(inputs: int, outputs: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    named = {"conv": convolution, "bn": nn.BatchNorm2d(outputs), "activate": nn.ReLU()}
    return nn.Sequential(OrderedDict(named))


def test_mmsegmentations_decoder_computes_the_same_here() -> None:
    widths = [8, 16, 20, 32]
    head = MmsegHead(widths, 24, 7).eval()
    redraw(head, 3)
    ours = narrow(1, decoder="convolutions")
    theirs = as_mmsegmentation(ours.state_dict())
    theirs |= {f"decode_head.{name}": tensor for name, tensor in head.state_dict().items()}
    load_weights(ours, theirs, "file.pth", note=[].append)
    maps = [torch.randn(2, width, 16 // 2**i, 32 // 2**i) for i, width in enumerate(widths)]
    with torch.no_grad():
        logits = ours.decode_head(ours.decode_head.features(maps))
        torch.testing.assert_close(logits, head(maps))


@pytest.mark.parametrize(
    ("decoder", "written"),
    [("linear", as_the_authors), ("convolutions", as_mmsegmentation)],
    ids=["authors", "mmsegmentation"],
)
@pytest.mark.parametrize("prefix", ["", "state_dict.", "model.module."])
def test_published_names_are_known(
    decoder: str, written: Callable[[Tensors], Tensors], prefix: str
) -> None:
    network, other = narrow(1, decoder=decoder), narrow(2, decoder=decoder)
    theirs = {prefix + name: t for name, t in written(network.state_dict()).items()}
    assert not theirs.keys() & network.state_dict().keys()
    theirs["auxiliary_head.convs.0.conv.weight"] = torch.zeros(3)
    notes: list[str] = []
    load_weights(other, theirs, "file.pth", note=notes.append)
    told = detect_arguments("segformer_b0", theirs, "file.pth")
    assert told == {"num_classes": 7, "decoder": decoder}
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert "auxiliary_head.convs.0.conv.weight" in notes[0]


def test_a_file_of_another_network_is_refused_by_its_names() -> None:
    with pytest.raises(NetworkError, match=r"f.pth: the weights are not in a layout of SegFormer"):
        detect_arguments("segformer_b0", {"conv1.weight": torch.zeros(1)}, "f.pth")


def test_the_authors_second_classifier_is_left_out() -> None:
    """Their decoder inherits a ``conv_seg`` that its forward pass never asks."""
    network = narrow()
    theirs = as_the_authors(network.state_dict())
    theirs |= {"decode_head.conv_seg.weight": torch.zeros(7, 24, 1, 1)}
    notes: list[str] = []
    load_weights(network, theirs, "file.pth", note=notes.append)
    assert "decode_head.conv_seg.weight" in notes[0]


def test_images_nets_encoder_is_known_by_the_authors_names(tmp_path: Path) -> None:
    """Their ``mit_b0.pth`` has no prefix and a classifier of a thousand classes."""
    network, other = narrow(1), narrow(2)
    theirs = as_the_authors(network.state_dict())
    encoder = {
        n.removeprefix("backbone."): t for n, t in theirs.items() if n.startswith("backbone")
    }
    torch.save({**encoder, "head.weight": torch.zeros(1000, 32)}, tmp_path / "mit.pth")
    notes: list[str] = []
    load_initial_weights(other, tmp_path / "mit.pth", label_space="seven", note=notes.append)
    for name, tensor in other.state_dict().items():
        same = torch.equal(tensor, network.state_dict()[name])
        assert same == name.startswith("segformer.") or name.endswith("tracked"), name
    assert "start from random weights" in notes[0]


def test_our_own_names_and_strangers_stay() -> None:
    state = narrow().state_dict() | {"epoch": torch.zeros(())}
    assert in_published_names(state).keys() == state.keys()
    odd = {
        "patch_embed1.proj.weight": torch.zeros(2),
        "block1.0.attn.kv.weight": torch.zeros(3, 2),  # no two halves
    }
    assert "block1.0.attn.kv.weight" in in_published_names(odd)
