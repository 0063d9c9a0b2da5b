"""Networks as users write them through the whole loop: import, adapt, take copies, export."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from roadshift.adapt.methods import resolve_config
from roadshift.adapt.models.loading import IMAGENET_INPUT, load_network, network_spec
from roadshift.adapt.networks import ForeignNetwork, build_network
from roadshift.adapt.networks.batch_norm import folding_view
from roadshift.adapt.networks.ema import ema_update, frozen_copy
from roadshift.adapt.networks.foreign import output_maps
from roadshift.adapt.run.options import RunOptions
from roadshift.adapt.workflows.adaptation import adapt_bundle, train_bundle
from roadshift.adapt.workflows.import_bundle import import_bundle
from roadshift.export.artefacts import export_bundle
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import NetworkError, RoadshiftError
from roadshift.runtime.labels import label_space
from safetensors.torch import load_file
from torch import Tensor

CAMVID = label_space("camvid11")
K = CAMVID.num_classes
COPYABLE = (
    "Base",
    "OldWeightNorm",
    "NewWeightNorm",
    "OldSpectralNorm",
    "NewSpectralNorm",
    "KeepsFeatures",
    "HoldsThings",
    "ListCalledModules",
    "FrozenTrunk",
    "HalfWeights",
    "DoubleWeights",
    "ChangesImages",
    "HiddenBuffer",
    "DataParallel",
    "Pooled",
)
OTHERS = (
    "OutAndAux",
    "LikePidnet",
    "HuggingFace",
    "Boundary",
    "Transposed",
    "LinearTokens",
    "Summed",
    "UnusedHead",
    "Synchronised",
    "WideAsClasses",
    "WantsLabelsWhileTraining",
    "LossWhileTraining",
)
CHOSEN = {"AuxFirst": "1", "Keys": "main", "Nested": "0.end"}
EXPORTED = (  # a few seconds each: those whose graphs are of different kinds
    "AuxFirst",
    "HoldsThings",
    "ListCalledModules",
    "OldSpectralNorm",
    "LinearTokens",
    "Pooled",
)
REFUSED = (
    "WantsSize",
    "FixedPositions",
    "WantsTargets",
    "LossOfItsHeadWhileTraining",
    "OnCuda",
    "ImagesToCuda",
    "CastsImages",
    "OneChannel",
    "GrowsWeights",
    "Lazy",
    "NoForward",
    "the_same",
    "AuxFirst",
    "NotFinite",
    "NotFiniteWhileTraining",
)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*weight_norm")


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., Bundle]:
    """``imported(name, output=None)``: a bundle of random weights of a network."""

    def make(name: str, output: str | None = None, **how: Any) -> Bundle:
        torch.manual_seed(1)
        weights = tmp_path / "weights.pth"
        state = {}
        with contextlib.suppress(RoadshiftError):  # the import must say it
            state = build_network(f"user_networks:{name}", K).state_dict()
        torch.save(state or {"a": torch.zeros(1)}, weights)
        where = (weights, f"user_networks:{name}", CAMVID, tmp_path / "source")
        return import_bundle(*where, output=output, **{"input_size": (48, 32), **how})

    return make


def adapted(source: Bundle, frames: Path, out: Path, method: str, *settings: str) -> Bundle:
    small = ["training.steps=2", "training.batch_size=2", "training.amp=off", *settings]
    steps = small if method != "bn_stats" else ["bn_batch_size=5"]
    config = resolve_config(method, assignments=[*steps, "tone=none"])
    return adapt_bundle(source, [frames], config, RunOptions(out, device="cpu"))


def weights_of(bundle: Bundle) -> dict[str, Tensor]:
    artefact = bundle.artefact(kind="weights")
    assert artefact is not None
    return load_file(bundle.file(artefact))


@pytest.mark.parametrize("name", [*COPYABLE, *OTHERS, *CHOSEN])
def test_it_is_imported_adapted_and_exported(
    name: str, imported: Callable[..., Bundle], frames_dir: Path, tmp_path: Path
) -> None:
    source = imported(name, CHOSEN.get(name))
    assert source.manifest.network.output == CHOSEN.get(name)
    result = adapted(source, frames_dir, tmp_path / "pseudo", "iapc", "iapc.memory_mode=train")
    before, after = weights_of(source), weights_of(result)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    main = "main." if any(n.startswith("main.") for n in before) else "head", "branches"
    assert any(n.startswith(main) for n in moved)
    assert not any(n.startswith("aux.") for n in moved)
    if name == "FrozenTrunk":
        assert not any(n.startswith("trunk.0") for n in moved)
    assert result.manifest.network == source.manifest.network
    if name in EXPORTED:
        allowed = open_bundle(result.path, allow_networks=["user_networks"])
        exported = export_bundle(allowed, ("onnx",))
        assert exported["artefacts"][0]["label_agreement"] > 99.9


@pytest.mark.parametrize("name", COPYABLE)
def test_a_copy_is_built_anew_and_stands_on_its_own(
    name: str, imported: Callable[..., Bundle]
) -> None:
    network = load_network(imported(name), torch.device("cpu")).train()
    with torch.no_grad():
        for buffer in network.buffers():
            buffer.add_(1)
    drawn = torch.get_rng_state()
    network(torch.randn(2, 3, 32, 48)).logits.sum().backward()
    torch.set_rng_state(drawn)
    clone, view = frozen_copy(network), folding_view(network.eval())
    assert torch.equal(torch.get_rng_state(), drawn)
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        expected = network(images).logits
        torch.testing.assert_close(clone(images.clone()).logits, expected, rtol=0, atol=0)
        torch.testing.assert_close(view(images.clone()).logits, expected, rtol=1e-4, atol=1e-4)
        kept = [t.clone() for t in (*clone.parameters(), *clone.buffers())]
        for parameter in network.parameters():
            parameter.add_(0.1)
        assert all(map(torch.equal, (*clone.parameters(), *clone.buffers()), kept))
        assert all(a is b for a, b in zip(view.parameters(), network.parameters(), strict=True))
        ema_update(clone, network, 0.0)
        expected = network(images).logits
        torch.testing.assert_close(clone(images.clone()).logits, expected)
    assert not any(p.requires_grad for p in clone.parameters())


@pytest.mark.no_gpu
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_at_import_and_nothing_is_written(
    name: str, imported: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(RoadshiftError) as error:
        imported(name)
    assert f"'user_networks:{name}'" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "source").exists()


@pytest.mark.parametrize("name", ["WantsTargets", "AuxFirst", "GrowsWeights", "NoBackward"])
def test_training_refuses_before_its_first_step(
    name: str, frames_dir: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for image in frames_dir.iterdir():
        (labels / image.name).write_bytes(grey_png())
    seen = IMAGENET_INPUT.model_copy(update={"width": 48, "height": 32})
    config = resolve_config("supervised", assignments=["training.steps=2"])
    job = RunOptions(tmp_path / "out", device="cpu")
    spec = network_spec(f"user_networks:{name}")
    with pytest.raises(NetworkError, match=f"'user_networks:{name}'"):
        train_bundle(frames_dir, labels, CAMVID, spec, seen, config, job)
    assert not list(tmp_path.glob("*out*"))


def grey_png() -> bytes:
    return cv2.imencode(".png", np.zeros((32, 48), np.uint8))[1].tobytes()


@pytest.mark.parametrize("name", ["AllFrozen", "LearnsElsewhere"])
def test_a_network_that_does_not_learn_is_noted_and_refused_before_frames_are_decoded(
    name: str,
    imported: Callable[..., Bundle],
    frames_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    source = imported(name, note=said.append)
    assert any("no weight of it learns" in note and "bn_stats" in note for note in said)
    adapted(source, frames_dir, tmp_path / "bn", "bn_stats")

    def decode(*_: object, **__: object) -> None:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr("roadshift.adapt.workflows.adaptation.target_frames", decode)
    with pytest.raises(RoadshiftError, match="entmin: no weight of this network learns"):
        adapted(source, frames_dir, tmp_path / "entmin", "entmin")
    assert not list(tmp_path.glob("*entmin*"))


@pytest.mark.parametrize("name", ["InPlace", "KeepsGraph", "NoBackward"])
def test_a_backward_that_raises_is_noted_and_refused_by_methods_that_take_steps(
    name: str, imported: Callable[..., Bundle], frames_dir: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    source = imported(name, note=said.append)
    (told,) = (note for note in said if "its backward pass raises" in note)
    assert told.startswith(f"network 'user_networks:{name}': ")
    assert told.endswith("adapted by methods that need no gradient (bn_stats, tone_only)")
    for method in ("bn_stats", "tone_only"):
        result = adapted(source, frames_dir, tmp_path / method, method)
        assert result.manifest.provenance.method == method
    with pytest.raises(NetworkError, match=f"'user_networks:{name}': its backward raised") as error:
        adapted(source, frames_dir, tmp_path / "entmin", "entmin")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*entmin*"))


def test_a_network_without_a_backward_is_exported(imported: Callable[..., Bundle]) -> None:
    source = open_bundle(imported("InPlace").path, allow_networks=["user_networks"])
    exported = export_bundle(source, ("onnx",))
    assert exported["artefacts"][0]["label_agreement"] > 99.9


def test_the_import_says_how_it_called_the_factory_and_what_does_not_learn(
    imported: Callable[..., Bundle],
) -> None:
    said: list[str] = []
    imported("MostlyDetached", note=said.append)
    assert said[0] == f"network 'user_networks:MostlyDetached' is built with num_classes={K}"
    assert "weights reach the output" in said[1]


def test_a_backward_that_fails_for_other_images_than_the_trials_is_a_sentence_in_training(
    imported: Callable[..., Bundle], frames_dir: Path, tmp_path: Path
) -> None:
    source = imported("NoBackwardWhenWide", input_size=(64, 32))
    narrow = adapted(source, frames_dir, tmp_path / "narrow", "entmin")
    assert narrow.manifest.provenance.method == "entmin"
    wide = "training.frame_size=[48,32]"
    with pytest.raises(NetworkError, match=r"'user_networks:NoBackwardWhenWide': its backward"):
        adapted(source, frames_dir, tmp_path / "wide", "entmin", wide)
    assert not (tmp_path / "wide").exists()


def test_an_argument_that_is_called_name_reaches_the_factory(tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(build_network("user_networks:Transposed", K).state_dict(), tmp_path / "t.pth")
    where = (tmp_path / "t.pth", "user_networks:named", CAMVID, tmp_path / "named")
    source = import_bundle(*where, input_size=(48, 32), arguments={"name": "transposed"})
    assert source.manifest.network.arguments == {"name": "transposed"}
    again = open_bundle(source.path, allow_networks=["user_networks"])
    network = load_network(again, torch.device("cpu"))
    assert network(torch.zeros(1, 3, 32, 48)).logits.shape == (1, K, 16, 24)


def test_an_output_of_a_network_that_has_one_is_refused(tmp_path: Path) -> None:
    torch.save(build_network("fast_scnn", K).state_dict(), tmp_path / "w.pth")
    where = (tmp_path / "w.pth", "fast_scnn", CAMVID, tmp_path / "b")
    with pytest.raises(RoadshiftError, match="output 1: network 'fast_scnn' has one output"):
        import_bundle(*where, input_size=(64, 64), output="1")


def test_networks_of_the_registry_are_built_anew_too() -> None:
    network = build_network("fast_scnn", K)
    assert not isinstance(network, ForeignNetwork)
    clone = frozen_copy(network.train())
    assert not clone.training
    assert all(map(torch.equal, clone.state_dict().values(), network.state_dict().values()))


def test_a_place_in_an_answer_that_is_no_number_python_reads_is_not_there() -> None:
    answer = (torch.zeros(1), [torch.ones(1)])
    assert output_maps.at(answer, "1.0") is answer[1][0]
    for path in ("2", "9" * 5000, "\u00b2", "1.\u00b2"):
        assert output_maps.at(answer, path) is None
