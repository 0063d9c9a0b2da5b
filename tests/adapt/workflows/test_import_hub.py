"""Folders of the hub as bundles, written by transformers itself with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from roadshift import open_bundle
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.networks import NETWORKS
from roadshift.adapt.workflows.import_bundle import import_bundle
from roadshift.runtime.console.flags import with_flags
from roadshift.runtime.errors import ConfigError, NetworkError
from roadshift.runtime.labels import label_space

transformers = pytest.importorskip(
    "transformers", reason="the folders of these tests are written by transformers"
)
NETWORK = "transformers:AutoModelForSemanticSegmentation"
CITY = label_space("cityscapes19")
INPUT = {
    "image_processor_type": "SegformerImageProcessor",
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "size": {"height": 64, "width": 64},
}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 64,
    "patch_size": 16,
}


def _convnext() -> Any:
    return transformers.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1] * 4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


CONFIGS: dict[str, Callable[..., Any]] = {
    "segformer": lambda **k: transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16, **k
    ),
    "upernet": lambda **k: transformers.UperNetConfig(
        backbone_config=_convnext(), hidden_size=16, auxiliary_channels=8, auxiliary_in_channels=24,
        **k
    ),
    "mobilevit": lambda **k: transformers.MobileViTConfig(
        hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], **k
    ),
    "mobilenet_v2": lambda **k: transformers.MobileNetV2Config(depth_multiplier=0.35, **k),
    "dpt": lambda **k: transformers.DPTConfig(
        **VIT, is_hybrid=False, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16, **k
    ),
    "beit": lambda **k: transformers.BeitConfig(
        **VIT, out_indices=[1, 2, 3, 4], use_relative_position_bias=True, **k
    ),
    "data2vec": lambda **k: transformers.Data2VecVisionConfig(
        **VIT, out_indices=[0, 1, 2, 3], use_relative_position_bias=True, **k
    ),
}  # fmt: skip


def written(kind: str, path: Path, names: tuple[str, ...] = CITY.classes, **how: Any) -> Any:
    """The folder of a tiny model with random weights, and the model."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    torch.manual_seed(0)
    model = transformers.AutoModelForSemanticSegmentation.from_config(CONFIGS[kind](**labels))
    model.eval().save_pretrained(path, **how)
    (path / "preprocessor_config.json").write_text(json.dumps(INPUT))
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_bundle_computes_what_the_folders_model_does(kind: str, tmp_path: Path) -> None:
    model = written(kind, tmp_path / kind)
    notes: list[str] = []
    bundle = import_bundle(
        f"hf:{tmp_path / kind}", NETWORK, None, tmp_path / "b", note=notes.append
    )
    assert bundle.label_space == CITY
    seen = bundle.manifest.input
    assert (seen.width, seen.height, seen.mean) == (64, 64, (127.5, 102.0, 76.5))
    allowed = open_bundle(bundle.path, allow_networks=["transformers"])
    network = load_network(allowed, torch.device("cpu"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images).logits, model(images).logits, rtol=1e-4, atol=1e-5
        )
    said = "\n".join(notes)
    assert "id2label: its classes are those of cityscapes19" in said
    assert "preprocessor_config.json: input 64x64 (size); RGB; mean 127.5, 102, 76.5" in said


@pytest.mark.skipif("segformer_b0" not in NETWORKS, reason="segformer_b0 is none of the networks")
def test_a_published_segformer_is_one_of_ours_and_needs_no_package(tmp_path: Path) -> None:
    labels = {"id2label": dict(enumerate(CITY.classes))}
    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**labels))
    model.eval().save_pretrained(tmp_path / "b0")
    (tmp_path / "b0" / "preprocessor_config.json").write_text(json.dumps(INPUT))
    bundle = import_bundle(f"hf:{tmp_path / 'b0'}", None, None, tmp_path / "b")
    assert bundle.manifest.network.name == "segformer_b0"
    network = load_network(bundle, torch.device("cpu"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images).logits, model(images).logits, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_sizes": [8, 16, 20, 32], "depths": [1, 2, 1, 2], "decoder_hidden_size": 24},
        {
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 2, 1],
            "decoder_hidden_size": 16,
            "num_attention_heads": [1, 1, 2, 4],
            "sr_ratios": [4, 2, 2, 1],
            "mlp_ratios": [2, 3, 1, 4],
        },
    ],
    ids=["sizes", "all"],
)
def test_a_segformer_of_no_published_size_is_ours_with_arguments(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    labels = {"id2label": dict(enumerate(CITY.classes))}
    torch.manual_seed(0)
    config = transformers.SegformerConfig(**labels, **settings)
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # apart from what they begin as, biases too
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(INPUT))
    bundle = import_bundle(f"hf:{tmp_path / 'm'}", None, None, tmp_path / "b")
    assert bundle.manifest.network.name == "segformer_b0"
    network = load_network(open_bundle(bundle.path), torch.device("cpu"))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images).logits, model(images).logits, rtol=1e-5, atol=1e-5
        )


def test_classes_in_another_order_are_put_in_the_label_spaces(tmp_path: Path) -> None:
    names = tuple(reversed(CITY.classes))
    model = written("upernet", tmp_path / "m", names)
    bundle = import_bundle(f"hf:{tmp_path / 'm'}", NETWORK, None, tmp_path / "b")
    assert bundle.label_space == CITY
    network = load_network(
        open_bundle(bundle.path, allow_networks=["transformers"]), torch.device("cpu")
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images).logits, model(images).logits.flip(1), rtol=1e-4, atol=1e-5
        )


def test_classes_of_their_own_and_shards_in_pickles(tmp_path: Path) -> None:
    names = ("lane", "verge", "anything else")
    written("upernet", tmp_path / "my-roads", names, max_shard_size="20KB")
    assert list((tmp_path / "my-roads").glob("model-0*.safetensors"))
    bundle = import_bundle(f"hf:{tmp_path / 'my-roads'}", NETWORK, None, tmp_path / "b")
    assert (bundle.label_space.name, bundle.label_space.classes) == ("my-roads", names)


def test_a_later_command_asks_before_transformers_builds_anything(tmp_path: Path) -> None:
    written("upernet", tmp_path / "m")
    bundle = import_bundle(f"hf:{tmp_path / 'm'}", NETWORK, None, tmp_path / "b")
    with pytest.raises(NetworkError, match="code of the module transformers"):
        load_network(open_bundle(bundle.path), torch.device("cpu"))


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    written("upernet", tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    config["auto_map"] = {"AutoModelForSemanticSegmentation": "evil.Net"}
    file.write_text(json.dumps(config))
    (tmp_path / "m" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(NetworkError, match="names code of its own"):
        import_bundle(f"hf:{tmp_path / 'm'}", NETWORK, None, tmp_path / "b")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    written("upernet", tmp_path / "m")
    torch.save({"backbone.x": torch.ones(1)}, tmp_path / "m" / "pytorch_model.bin")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(NetworkError, match=r"pytorch_model\.bin: the weights do not fit"):
        import_bundle(f"hf:{tmp_path / 'm'}", NETWORK, None, tmp_path / "b")


def test_a_users_argument_goes_over_the_folders_and_a_key_is_refused(tmp_path: Path) -> None:
    written("upernet", tmp_path / "m")
    given = {"config": {"initializer_range": 0.5}}
    bundle = import_bundle(f"hf:{tmp_path / 'm'}", NETWORK, None, tmp_path / "b", arguments=given)
    config = bundle.manifest.network.arguments["config"]
    assert isinstance(config, dict)
    assert (config["initializer_range"], config["hidden_size"]) == (0.5, 16)
    assert not {"id2label", "architectures"} & config.keys()
    with pytest.raises(ConfigError, match="key 'model': a folder of the hub holds one set"):
        import_bundle(f"hf:{tmp_path / 'm'}", NETWORK, None, tmp_path / "c", key="model")


def test_what_a_folder_does_not_say_of_the_input_is_said_with_its_flags(tmp_path: Path) -> None:
    written("segformer", tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").unlink()
    notes: list[str] = []
    given = {"mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)}
    import_bundle(f"hf:{tmp_path / 'm'}", NETWORK, None, tmp_path / "b", note=notes.append, **given)
    said = "\n".join(with_flags(note) for note in notes)
    assert (
        f"{tmp_path / 'm'} has no preprocessor_config.json: input 1024x512 (assumed; --input-size "
        "gives another); RGB (assumed; --colour gives another); mean 0, 0, 0, std 255, 255, 255"
    ) in said


def test_a_type_that_is_none_of_ours_says_how_it_is_built(tmp_path: Path) -> None:
    written("upernet", tmp_path / "m")
    with pytest.raises(NetworkError, match=f"is of type upernet, .* by network {NETWORK}"):
        import_bundle(f"hf:{tmp_path / 'm'}", None, None, tmp_path / "b")
