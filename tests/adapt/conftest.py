"""A tiny network, a source bundle and a few frames, small enough for runs of milliseconds."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from bundle_cases import write_bundle
from label_guard import no_labels, target  # noqa: F401 - fixtures
from roadshift.adapt import adapt_bundle
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.methods import Stage, resolve_config
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.work import Work
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec, Provenance
from run_cases import run_options
from run_clock import clock, slow_network  # noqa: F401 - fixtures
from spaces import FOUR
from torch import Tensor, nn

if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

WIDTH, HEIGHT, FRAMES = 48, 32, 6
INPUT = InputSpec(width=WIDTH, height=HEIGHT, mean=(110, 115, 120), std=(60, 58, 57))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread, as bit for bit comparisons between processes want it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _images(count: int) -> list[np.ndarray]:
    """Blocks of colour with noise: something for batch norm and an argmax to hold on to."""
    rng = np.random.default_rng(7)
    images = []
    for _ in range(count):
        blocks = rng.integers(0, 256, (4, 6, 3)).repeat(8, axis=0).repeat(8, axis=1)
        noisy = blocks + rng.normal(0, 12, blocks.shape)
        images.append(noisy.clip(0, 255).astype(np.uint8))
    return images


def _written(folder: Path, count: int) -> Path:
    for i, image in enumerate(_images(count)):
        assert cv2.imwrite(str(folder / f"frame_{i}.png"), image[..., ::-1])
    return folder


@pytest.fixture(scope="session")
def frames_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six PNGs of 48x32."""
    return _written(tmp_path_factory.mktemp("frames"), FRAMES)


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 PNGs of 48x32: the gate takes the last ten, and one is for nothing."""
    return _written(tmp_path_factory.mktemp("recording"), 40)


def new_network(seed: int = 0, **arguments: Any) -> SegmentationNetwork:
    """The tiny network with weights drawn from ``seed``."""
    torch.manual_seed(seed)
    return build_network("tiny_network:build", FOUR.num_classes, **arguments)


@pytest.fixture(scope="session")
def network() -> Callable[..., SegmentationNetwork]:
    """``network(seed=0, norm=True, dropout=0.2)``."""
    return new_network


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the tiny network, untrained, whose batch norm has never seen the frames.

    It finds the last class in half of the frames, so that absent classes are part of every run.
    """
    path = tmp_path_factory.mktemp("bundles") / "source"
    model = new_network()
    with torch.no_grad():
        model.get_parameter("classifier.bias")[3] -= 0.2
    return write_bundle(
        path,
        model,
        network=NetworkSpec(name="tiny_network:build"),
        label_space=FOUR,
        input=INPUT,
        provenance=Provenance(method="import"),
    )


@pytest.fixture(scope="session")
def settings() -> Callable[..., RunConfig]:
    """Small settings; ``settings("training.steps=3", method="bn_stats")`` lays more over them."""

    def make(*assignments: str, method: str = "iapc") -> RunConfig:
        small = ["training.batch_size=2", "training.amp=off", "bn_batch_size=3"]
        if resolve_config(method).warm_start == "mixed":  # which test_mixed_statistics looks at
            small += ["warm_start=target"]
        if method == "iapc":
            small += ["tone=none", "training.steps=4", "iapc.pseudo_labels=online"]
        return resolve_config(method, assignments=[*small, *assignments])

    return make


@pytest.fixture
def adapt(
    source: Bundle, frames_dir: Path, tmp_path: Path, settings: Callable[..., RunConfig]
) -> Callable[..., Bundle]:
    """``adapt("training.steps=2", out=..., overwrite=..., resume=...)`` into ``tmp_path/out``."""

    def run(
        *assignments: str,
        method: str = "iapc",
        out: Path = tmp_path / "out",
        overwrite: bool = False,
        frames: Path = frames_dir,
        bundle: Bundle = source,
        max_frames: int | None = None,
        gated: bool = False,
        older: Sequence[Path] = (),
        **options: Any,
    ) -> Bundle:
        config = settings(*assignments, method=method)
        job = run_options(out, overwrite=overwrite, **options)
        return adapt_bundle(
            bundle, [frames], config, job, max_frames=max_frames, gated=gated, older=older
        )

    return run


@pytest.fixture
def after_one_step() -> dict[str, Any]:
    """Run options with which a run is stopped, as by a signal, after its first step."""
    reports: list[ProgressUpdate] = []
    return {"report": reports.append, "stop_requested": lambda: bool(reports)}


@pytest.fixture
def make_trainer(tmp_path: Path, settings: Callable[..., RunConfig]) -> Callable[..., Trainer]:
    """A trainer of given stages over six frames in memory, working in ``tmp_path``."""

    def make(
        model: SegmentationNetwork,
        stages: Sequence[Stage],
        *assignments: str,
        **options: Any,
    ) -> Trainer:
        config = settings("augment.policy=none", *assignments)
        given = run_options(tmp_path / "out", **options)
        images = _images(FRAMES)
        names = [f"frame_{i}" for i in range(FRAMES)]
        context = Context(
            frames=FrameSet(names, WIDTH, HEIGHT, lambda i: images[i]),
            normalise=Normalise(INPUT),
            device=torch.device("cpu"),
            workdir=tmp_path,
            config=config,
            crop_size=(HEIGHT, WIDTH),
            fingerprint="run",
            work=Work.of(given),
        )
        return Trainer(model, list(stages), context, given)

    return make


@pytest.fixture
def onnx_outputs() -> Callable[[nn.Module, Tensor], list[np.ndarray]]:
    """Outputs that ONNX Runtime computes on the CPU for an exported module."""

    def outputs(module: nn.Module, x: Tensor) -> list[np.ndarray]:
        buffer = io.BytesIO()
        torch.onnx.export(module, (x,), dynamo=True, optimize=False, verbose=False).save(buffer)
        session = onnxruntime.InferenceSession(
            buffer.getvalue(), providers=["CPUExecutionProvider"]
        )
        return list(session.run(None, {session.get_inputs()[0].name: x.numpy()}))

    return outputs
