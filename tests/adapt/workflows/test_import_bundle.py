"""From a checkpoint to a source bundle: what is taken over, what is found out, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from roadshift.adapt import load_network
from roadshift.adapt.models.loading import IMAGENET_INPUT, network_spec
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.workflows.import_bundle import import_bundle
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import ConfigError, NetworkError, OutputError
from roadshift.runtime.labels import label_space

CITYSCAPES, CAMVID = label_space("cityscapes19"), label_space("camvid11")
NewNetwork = Callable[..., SegmentationNetwork]


def assert_same_weights(bundle: Bundle, network: SegmentationNetwork) -> None:
    found = load_network(bundle, torch.device("cpu")).state_dict()
    expected = network.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A state dict of the tiny network for the 11 CamVid classes."""
    torch.manual_seed(3)
    network = build_network("tiny_network:build", CAMVID.num_classes)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}},
               tmp_path / "own.pth")  # fmt: skip
    return tmp_path / "own.pth"


def import_own(checkpoint: Path, **changes: Any) -> Bundle:
    values = {"input_size": (96, 64), **changes}
    out = checkpoint.parent / "bundle"
    return import_bundle(checkpoint, "tiny_network:build", CAMVID, out, **values)


# ---- what is taken over --------------------------------------------------------------------------


def test_the_weights_and_their_origin_are_in_the_bundle(checkpoint: Path) -> None:
    bundle = import_own(checkpoint)
    torch.manual_seed(3)
    assert_same_weights(bundle, build_network("tiny_network:build", CAMVID.num_classes))
    assert bundle.label_space == CAMVID
    assert open_bundle(bundle.path) == bundle
    origin = bundle.manifest.provenance
    assert (origin.method, origin.configuration) == ("import", {"weights": "own.pth"})
    assert origin.versions["torch"] == torch.__version__
    assert origin.parent is None


def test_preprocessing_that_is_not_given_is_rgb_with_imagenets_statistics(checkpoint: Path) -> None:
    seen = import_own(checkpoint).manifest.input
    assert seen == IMAGENET_INPUT.model_copy(update={"width": 96, "height": 64})
    assert seen.colour == "rgb"


def test_preprocessing_that_is_given_is_recorded(checkpoint: Path) -> None:
    seen = import_own(checkpoint, colour="bgr", mean=(1, 2, 3.5), std=(4, 5, 6)).manifest.input
    assert (seen.colour, seen.mean, seen.std) == ("bgr", (1, 2, 3.5), (4, 5, 6))


@pytest.mark.parametrize(
    ("mean", "std", "meant"),
    [
        (
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            "123.675,116.28,103.53 and 58.395,57.12,57.375",
        ),
        (None, (0.5, 0.5, 0.5), "as much, 127.5,127.5,127.5"),
        ((0, 0, 0), (1, 1, 1), None),
        ((123.675, 116.28, 103.53), (0.9, 0.9, 0.9), None),
        ((0.4, 0.4, 0.4), None, None),
    ],
)
def test_statistics_of_pixels_from_0_to_1_are_said(
    checkpoint: Path, mean: Any, std: Any, meant: str | None
) -> None:
    said = list[str]()
    import_own(checkpoint, mean=mean, std=std, note=said.append)
    found = [line for line in said if "look like those of pixels from 0 to 1" in line]
    assert len(found) == (meant is not None)
    assert meant is None or found[0].endswith(meant)


def test_arguments_of_the_network_are_used_and_recorded(tmp_path: Path) -> None:
    network = build_network("tiny_network:build", CAMVID.num_classes, norm=False)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    bundle = import_own(tmp_path / "own.pth", arguments={"norm": False, "dropout": 0.5})
    assert bundle.manifest.network.arguments == {"norm": False, "dropout": 0.5}
    assert_same_weights(bundle, network)


def test_a_key_chooses_among_the_weights_and_is_recorded(tmp_path: Path) -> None:
    torch.manual_seed(5)
    first, second = (build_network("tiny_network:build", CAMVID.num_classes) for _ in "ab")
    path = tmp_path / "own.pth"
    torch.save({"a": {"student": first.state_dict(), "teacher": second.state_dict()}}, path)
    with pytest.raises(NetworkError, match=r"'a\.student', 'a\.teacher'.*key a\.student"):
        import_own(path)
    said: list[str] = []
    bundle = import_own(path, key="a.teacher", note=said.append)
    assert_same_weights(bundle, second)
    assert bundle.manifest.provenance.configuration == {"weights": "own.pth", "key": "a.teacher"}
    assert said[-1] == f"{path}: took 16 tensors from 'a.teacher'."


# ---- what is found out ---------------------------------------------------------------------------

SMALL = {"layers": [1, 1, 1, 1]}


@pytest.fixture(scope="module")
def deeplab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-level DeepLabV2 of one block a stage, as a published checkpoint is laid out."""
    torch.manual_seed(0)
    network = build_network("deeplab_v2_resnet101", 19, multi_level=True, **SMALL)
    path = tmp_path_factory.mktemp("published") / "published.pth"
    torch.save(network.state_dict(), path)
    return path


def test_heads_blocks_and_preprocessing_of_a_published_checkpoint_are_found(
    deeplab: Path, tmp_path: Path
) -> None:
    network = ("deeplab_v2_resnet101", CITYSCAPES)
    bundle = import_bundle(deeplab, *network, tmp_path / "b", input_size=(1024, 512))
    arguments = bundle.manifest.network.arguments
    assert arguments["layers"] == [1, 1, 1, 1]
    assert arguments["multi_level"] is True
    assert arguments["head"] == "layer6"
    assert bundle.manifest.input.colour == "bgr"
    assert bundle.manifest.input.std == (1, 1, 1)
    torch.manual_seed(0)
    built = build_network("deeplab_v2_resnet101", 19, **arguments)
    built.load_state_dict(torch.load(deeplab, weights_only=True))
    assert_same_weights(bundle, built)


@pytest.mark.parametrize("prefix", ["module.", "any.thing."])
def test_arguments_are_found_behind_any_prefix_and_beside_an_average(
    deeplab: Path, tmp_path: Path, prefix: str
) -> None:
    state = torch.load(deeplab, weights_only=True)
    average = {name: 0.9 * value for name, value in state.items()}
    content = {"ema": average, "model": {prefix + name: value for name, value in state.items()}}
    torch.save(content, tmp_path / "w.pth")
    bundle = import_bundle(
        tmp_path / "w.pth", "deeplab_v2_resnet101", CITYSCAPES, tmp_path / "b", input_size=(96, 64)
    )
    assert bundle.manifest.network.arguments["layers"] == [1, 1, 1, 1]
    found = load_network(bundle, torch.device("cpu")).state_dict()
    torch.testing.assert_close(found["conv1.weight"], state["conv1.weight"], rtol=0, atol=0)


def test_what_a_user_says_comes_before_what_is_found(deeplab: Path, tmp_path: Path) -> None:
    bundle = import_bundle(
        deeplab,
        "deeplab_v2_resnet101",
        CITYSCAPES,
        tmp_path / "bundle",
        input_size=(96, 64),
        colour="rgb",
        std=(58, 57, 57),
        arguments={"aspp_branches": 2},
    )
    assert bundle.manifest.network.arguments["aspp_branches"] == 2
    assert (bundle.manifest.input.colour, bundle.manifest.input.std) == ("rgb", (58, 57, 57))


# ---- what is refused -----------------------------------------------------------------------------


def test_another_class_count_names_both(deeplab: Path, tmp_path: Path) -> None:
    with pytest.raises(
        NetworkError, match="the weights have 19 classes, label space camvid11 has 11"
    ):
        import_bundle(
            deeplab, "deeplab_v2_resnet101", CAMVID, tmp_path / "bundle", input_size=(96, 64)
        )
    assert list(tmp_path.iterdir()) == []


def test_weights_in_another_layout_than_deeplabs_name_their_file(checkpoint: Path) -> None:
    out = checkpoint.parent / "bundle"
    with pytest.raises(
        NetworkError, match=r"own\.pth: the weights are not in the DeepLabV2 layout"
    ):
        import_bundle(checkpoint, "deeplab_v2_resnet101", CAMVID, out, input_size=(96, 64))
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": "grey"}, "colour 'grey': write rgb or bgr"),
        ({"colour": ""}, "colour ''"),
        ({"arguments": {"num_classes": 4}}, "label_space decides that"),
    ],
)
def test_a_malformed_argument_is_refused_by_its_option(
    checkpoint: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        import_own(checkpoint, **changes)
    assert says in str(error.value)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["own.pth"]


def test_an_argument_that_the_factory_does_not_take_is_refused(checkpoint: Path) -> None:
    with pytest.raises(NetworkError, match="unexpected keyword argument 'width'"):
        import_own(checkpoint, arguments={"width": 2})


def test_an_existing_bundle_is_replaced_only_when_asked(checkpoint: Path) -> None:
    first = import_own(checkpoint)
    with pytest.raises(OutputError, match="already exists"):
        import_own(checkpoint, mean=(1, 2, 3))
    assert open_bundle(first.path) == first
    second = import_own(checkpoint, mean=(1, 2, 3), overwrite=True)
    assert open_bundle(first.path) == second
    assert second.hash != first.hash


def test_an_output_that_cannot_be_written_is_refused_before_the_weights_are_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(OutputError, match="is not an existing folder"):
        import_bundle(
            tmp_path / "missing.pth",
            "tiny_network:build",
            CAMVID,
            tmp_path / "no/bundle",
            input_size=(96, 64),
        )


def test_safetensors_are_imported_too(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    safetensors.torch.save_file(state, checkpoint.with_suffix(".safetensors"))
    by_pickle = import_own(checkpoint)
    bundle = import_own(checkpoint.with_suffix(".safetensors"), overwrite=True)
    assert bundle.manifest.artefacts == by_pickle.manifest.artefacts


# ---- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [date(2024, 1, 1), math.nan, [math.inf]])
def test_a_value_that_no_manifest_can_hold_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="arguments a"):
        network_spec("x", {"a": value})
