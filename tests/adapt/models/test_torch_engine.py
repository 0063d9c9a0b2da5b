"""Torch as an engine: the labels that the definition gives, on the device that was asked for."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from bundle_cases import write_bundle
from roadshift.adapt import TorchEngine, load_network
from roadshift.adapt.models import torch_engine
from roadshift.adapt.models.loading import device_name, pick_device
from roadshift.adapt.models.segmenter import Segmenter, SegmenterWithLogits
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import ConfigError, EngineError, NetworkError
from roadshift.runtime.frames.preprocess import fit_frame, restore_labels

CPU = torch.device("cpu")


def frames(count: int, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    shape = (count, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def upsampled(logits: np.ndarray, height: int, width: int, align_corners: bool) -> np.ndarray:
    """Bilinear interpolation by its definition, (K, h, w) to (K, height, width), in float64."""

    def weights(size: int, low: int) -> np.ndarray:
        """(size, low): where each of ``size`` samples lies among ``low``."""
        i = np.arange(size)
        at = i * (low - 1) / (size - 1) if align_corners else (i + 0.5) * low / size - 0.5
        at = at.clip(0, low - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(low)))

    rows, columns = weights(height, logits.shape[1]), weights(width, logits.shape[2])
    return np.einsum("yh,khw,xw->kyx", rows, logits.astype(np.float64), columns)


@pytest.fixture(params=[("rgb", 1), ("bgr", 1), ("bgr", 0.6)])
def spec(request: Any) -> InputSpec:
    colour, gamma = request.param
    mean, std = (100, 110, 130), (50, 60, 70)
    return InputSpec(width=48, height=32, colour=colour, mean=mean, std=std, gamma=gamma)


# ---- the segmenter -------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [False, True])
def test_scores_are_the_upsampled_logits_of_normalised_pixels(
    network: Callable[..., SegmentationNetwork], spec: InputSpec, align_corners: bool
) -> None:
    model = network().eval()
    model.align_corners = align_corners
    batch = frames(2)
    pixels = 255 * (batch[..., :: -1 if spec.colour == "bgr" else 1] / 255.0) ** spec.gamma
    x = (pixels - spec.mean) / spec.std
    with torch.inference_mode():
        logits = model(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)).logits
        scores, given = Segmenter(model, spec).eval().scores(torch.from_numpy(batch))
    torch.testing.assert_close(given, logits, rtol=1e-5, atol=1e-5)
    for index in range(2):
        expected = upsampled(logits[index].numpy(), 32, 48, align_corners)
        np.testing.assert_allclose(scores[index].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_labels_are_the_argmax_of_the_scores_and_logits_come_along_where_asked_for(
    network: Callable[..., SegmentationNetwork], spec: InputSpec
) -> None:
    segmenter = Segmenter(network(), spec).eval()
    batch = torch.from_numpy(frames(2))
    with torch.inference_mode():
        scores, logits = segmenter.scores(batch)
        labels = segmenter(batch)
        both = SegmenterWithLogits(segmenter)(batch)
    assert labels.dtype == torch.uint8
    assert labels.shape == (2, 32, 48)
    torch.testing.assert_close(labels.long(), scores.argmax(dim=1))
    torch.testing.assert_close(both[0], labels)
    torch.testing.assert_close(both[1], logits)
    assert logits.shape == (2, 4, 8, 12)


# ---- the engine ----------------------------------------------------------------------------------


def test_a_bundle_that_was_not_exported_opens_in_torch(source: Bundle) -> None:
    with open_engine(source, device="cpu") as engine:
        assert isinstance(engine, TorchEngine)
        assert (engine.backend, engine.precision, engine.device) == ("torch", "fp32", "cpu")
        assert engine.artefact == "model.safetensors"
        assert engine.label_space == source.label_space
        said = f"torch {torch.__version__} runs model.safetensors (fp32) on cpu."
        assert engine.describe()["reason"] == engine.reason == said


def test_its_labels_are_the_segmenters_at_the_size_of_each_frame(source: Bundle) -> None:
    segmenter = Segmenter(load_network(source, CPU), source.manifest.input).eval()
    mixed = [frames(1, *size, seed=i)[0] for i, size in enumerate([(32, 48), (50, 70), (17, 90)])]
    with open_engine(source, device="cpu") as engine:
        found = engine.segment_batch(mixed)
        one_by_one = [engine.segment(frame) for frame in mixed]
    for frame, labels, alone in zip(mixed, found, one_by_one, strict=True):
        with torch.inference_mode():
            inside = segmenter(torch.from_numpy(fit_frame(frame, 48, 32)[None].copy()))
        expected = restore_labels(inside[0].numpy(), frame.shape[1], frame.shape[0])
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_array_equal(alone, expected)


def test_a_network_in_memory_runs_in_evaluation_mode_and_keeps_its_statistics(
    network: Callable[..., SegmentationNetwork], source: Bundle
) -> None:
    model = network(dropout=0.9).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = TorchEngine(model, source.label_space, source.manifest.input, device=CPU)
    batch = frames(2)
    np.testing.assert_array_equal(engine.infer(batch), engine.infer(batch))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert engine.artefact is None


def test_a_view_that_is_not_contiguous_gives_the_labels_of_its_copy(source: Bundle) -> None:
    mirrored = frames(1)[:, :, ::-1]
    with open_engine(source, device="cpu") as engine:
        np.testing.assert_array_equal(engine.infer(mirrored), engine.infer(mirrored.copy()))


@pytest.mark.usefixtures("one_thread")
def test_a_closed_engine_lets_go_of_its_network_and_of_the_memory_that_torch_keeps(
    source: Bundle, network: Callable[..., SegmentationNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(gone() is None))
    model = network()
    gone = weakref.ref(model)
    engine = TorchEngine(model, source.label_space, source.manifest.input, device=CPU)
    del model
    engine._device = torch.device("cuda")  # as far as closing is concerned
    engine.close()
    assert emptied == [True]
    engine._device = CPU
    with pytest.raises(EngineError, match="The torch engine was closed; open it again"):
        engine.infer(frames(1))


def test_threads_are_the_engines_alone(source: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two engines, each with its own, and torch with what it had; also where a call fails."""
    before, seen = torch.get_num_threads(), list[int]()
    scores = Segmenter.scores

    def watched(self: Segmenter, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(torch.get_num_threads())
        if len(seen) == 3:
            raise RuntimeError("from the network")
        return scores(self, images)

    monkeypatch.setattr(Segmenter, "scores", watched)
    with (
        open_engine(source, device="cpu", threads=before + 1) as one,
        open_engine(source, device="cpu", threads=before + 2) as two,
        open_engine(source, device="cpu") as plain,
    ):
        assert torch.get_num_threads() == before
        one.infer(frames(1))
        two.infer(frames(1))
        with pytest.raises(RuntimeError):
            one.infer(frames(1))
        plain.infer(frames(1))
        assert [e.describe()["threads"] for e in (one, two, plain)] == [
            before + 1, before + 2, before
        ]  # fmt: skip
    assert seen == [before + 1, before + 2, before + 1, before]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused_on_their_frame(
    source: Bundle, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    scores = Segmenter.scores

    def spoiled(self: Segmenter, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        upsampled, logits = scores(self, images)
        logits[1, 0, 0, 0] = bad
        return upsampled, logits

    monkeypatch.setattr(Segmenter, "scores", spoiled)
    with open_engine(source, device="cpu", backend="torch") as engine:
        batch = frames(3, engine.input.height, engine.input.width)
        with pytest.raises(
            EngineError,
            match=r"gives logits that are not finite on frame b; restore the bundle from a copy",
        ):
            engine.infer(batch, ["a", "b", "c"])


@pytest.mark.no_gpu
def test_cuda_is_refused_where_there_is_none_and_auto_is_the_cpu(source: Bundle) -> None:
    with pytest.raises(EngineError, match="torch finds no CUDA GPU here; `roadshift doctor`"):
        open_engine(source, device="cuda")
    with open_engine(source, device="auto") as engine:
        assert engine.device == "cpu"


# ---- torch in other ways, to compare with --------------------------------------------------------


def test_a_compiled_engine_gives_the_labels_of_the_eager_one(
    source: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as it always is; without inductor, whose C++ takes half a minute to compile."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    batch = frames(1)
    with (
        open_engine(source, backend="torch", device="cpu") as eager,
        open_engine(source, backend="torch-compile", device="cpu") as compiled,
    ):
        assert (compiled.backend, compiled.precision) == ("torch-compile", "fp32")
        assert "(fp32, compiled) on cpu" in compiled.reason
        assert compiled.describe()["threads"] == torch.get_num_threads()
        assert (eager.infer(batch) == compiled.infer(batch)).mean() > 0.99


def test_a_network_that_does_not_compile_is_a_sentence(
    source: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Callable[[Any], Any]:
        def run(_: Any) -> Any:
            raise RuntimeError("\nInvalidCxxCompiler: no working compiler\nand pages more")

        return run

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(EngineError, match="InvalidCxxCompiler: no working compiler") as caught:
        open_engine(source, backend="torch-compile", device="cpu")
    assert "needs a C++ compiler for a CPU and Triton for CUDA" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_precision_needs_a_gpu(source: Bundle) -> None:
    with pytest.raises(EngineError, match="torch-fp16 needs device='cuda'"):
        open_engine(source, backend="torch-fp16", device="cpu")


def test_the_network_alone_is_in_half_precision(
    network: Callable[..., SegmentationNetwork], spec: InputSpec
) -> None:
    model = network().eval()
    batch = torch.from_numpy(frames(1))
    with torch.inference_mode():
        scores, _ = Segmenter(model, spec).eval().scores(batch)
        half, logits = torch_engine._HalfSegmenter(model, spec).eval().scores(batch)
    assert logits.dtype == torch.float16
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, scores, rtol=1e-2, atol=1e-2)


def test_auto_never_means_one_of_them(source: Bundle) -> None:
    with open_engine(source, device="cpu") as engine:
        assert engine.backend == "torch"


# ---- from a bundle to a network ------------------------------------------------------------------


def test_a_network_is_loaded_ready_to_run(source: Bundle) -> None:
    loaded = load_network(source, CPU)
    assert not loaded.training
    expected = safetensors.torch.load_file(source.path / "model.safetensors")
    assert sorted(loaded.state_dict()) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


def test_a_bundle_without_weights_can_only_be_run(tmp_path: Path, source: Bundle) -> None:
    bare = write_bundle(tmp_path / "bare", None, like=source)
    with pytest.raises(NetworkError, match=r"bare: holds no weights"):
        load_network(bare, CPU)


def test_weights_that_do_not_fit_the_manifests_network_are_refused(source: Bundle) -> None:
    other = NetworkSpec(name="tiny_network:build", arguments={"norm": False})
    wrong = replace(source, manifest=source.manifest.model_copy(update={"network": other}))
    with pytest.raises(NetworkError, match=r"model\.safetensors: the weights do not fit"):
        load_network(wrong, CPU)


@pytest.mark.no_gpu
def test_a_device_is_picked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("auto") == pick_device("cpu") == CPU
    with pytest.raises(ConfigError, match="device='cuda': torch finds no CUDA GPU"):
        pick_device("cuda")
    with pytest.raises(ConfigError, match="device 'cuda:1': use auto, cpu or cuda"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")


@pytest.mark.usefixtures("one_thread")
def test_the_cpus_name_says_how_many_threads_it_ran_with() -> None:
    assert device_name(CPU).startswith("CPU ")
    assert device_name(CPU).endswith(", 1 threads")
