"""Torch as an engine: for a bundle that was not exported, and to compare exports with.

Backends "torch" (eager, float32), "torch-fp16" (eager, the network in float16, CUDA only) and
"torch-compile" (float32, ``torch.compile`` with its default settings and a fixed shape).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...runtime.bundle import Artefact, Bundle, InputSpec
from ...runtime.engines import Engine
from ...runtime.engines.checks import BadAnswerError, not_finite
from ...runtime.errors import ConfigError, EngineError, arg
from ...runtime.labels import LabelSpace
from ..losses.common import upsample
from ..networks import SegmentationNetwork
from ..run.core_sharing import sharing_cores
from .loading import load_network, pick_device
from .segmenter import Segmenter

BACKENDS = ("torch", "torch-fp16", "torch-compile")


class TorchEngine(Engine):
    """A network in memory, in evaluation mode.

    Args:
        backend: one of `BACKENDS`; "torch-fp16" turns ``network`` into float16, in place.
        threads: CPU threads inside an operator, during calls of the engine; None leaves torch's.

    Raises:
        EngineError: float16 is asked for without CUDA, or the network does not compile.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        label_space: LabelSpace,
        input: InputSpec,
        *,
        device: torch.device,
        artefact: str | None = None,
        reason: str = "a model in memory runs in torch.",
        backend: str = "torch",
        threads: int | None = None,
    ) -> None:
        half = backend == "torch-fp16"
        super().__init__(
            label_space,
            input,
            backend=backend,
            precision="fp16" if half else "fp32",
            device=device.type,
            reason=reason,
            artefact=artefact,
        )
        if half and device.type != "cuda":
            raise EngineError(
                f"torch-fp16 needs {arg('device', 'cuda')}: a CPU is slower in float16."
            )
        self._device, self._threads = device, threads
        kind = _HalfSegmenter if half else Segmenter
        self._segmenter = kind(network, input).to(device).eval()
        self._run: Callable[[Tensor], tuple[Tensor, Tensor]] = Checked(self._segmenter)
        if backend == "torch-compile":
            self._run = torch.compile(self._run, dynamic=False)
            self._compile()
        self._cores = ExitStack()
        if device.type == "cpu":
            self._cores.enter_context(sharing_cores())

    @torch.inference_mode()
    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        images = torch.from_numpy(np.ascontiguousarray(batch))
        if self._device.type != "cuda":
            with torch_threads(self._threads):
                labels, finite = (found.numpy() for found in self._run(images))
        else:
            with _no_tf32():
                labels, finite = self._infer_on_cuda(images)
        if not finite.all():
            raise not_finite(int(np.flatnonzero(~finite)[0]))
        answer: NDArray[np.uint8] = labels
        return answer

    def _infer_on_cuda(self, images: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]
        marks[0].record()
        images = images.to(self._device)
        marks[1].record()
        found, finite = self._run(images)
        marks[2].record()
        labels, are_finite = found.cpu().numpy(), finite.cpu().numpy()
        marks[3].record()
        marks[3].synchronize()
        times = [start.elapsed_time(end) for start, end in pairwise(marks)]
        self.stage_ms = dict(zip(("h2d", "gpu", "d2h"), times, strict=True))
        return labels, are_finite

    def _compile(self) -> None:
        """Compile for one frame of the input size; the first call does it."""
        try:
            self._infer(np.zeros((1, self.input.height, self.input.width, 3), np.uint8))
        except BadAnswerError:
            pass  # compiled and run; whoever asks for labels is told
        except Exception as error:  # dynamo's and inductor's have no common base but this
            lines = [line for line in str(error).splitlines() if line.strip()]
            said = f"{type(error).__name__}: {lines[0].strip() if lines else ''}".rstrip(": .")
            raise EngineError(
                f"torch.compile cannot compile this network ({said}); it needs a C++ compiler for "
                f"a CPU and Triton for CUDA. Eager torch runs it: {arg('backend', 'torch')}."
            ) from error

    def close(self) -> None:
        def closed(_: Tensor) -> tuple[Tensor, Tensor]:
            raise EngineError("The torch engine was closed; open it again.")

        self._run = closed
        self._cores.close()
        vars(self).pop("_segmenter", None)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # torch keeps it, and the next engine would seem to need less

    def describe(self) -> dict[str, Any]:
        on_cpu = self._device.type == "cpu"
        threads = self._threads or torch.get_num_threads()
        return {**super().describe(), **({"threads": threads} if on_cpu else {})}


@contextmanager
def _no_tf32() -> Iterator[None]:
    """fp32 means fp32: torch's convolutions on CUDA would drop 13 bits of it by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class Checked(nn.Module):
    """As a `Segmenter`; also, of each frame of the batch, whether its logits are finite, (B,)."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, logits = self.segmenter.scores(images)
        finite = torch.isfinite(logits).flatten(1).all(dim=1)
        return scores.argmax(dim=1).to(torch.uint8), finite


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Compute with so many CPU threads, then with as many as before; None changes nothing."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _HalfSegmenter(Segmenter):
    """As `Segmenter`, the network in float16; pixels, upsampling and argmax stay in float32."""

    def __init__(self, network: SegmentationNetwork, spec: InputSpec) -> None:
        super().__init__(network.half(), spec)

    def scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(self.normalise(images).half()).logits
        return upsample(logits, self.size, self.network.align_corners), logits


def _open(
    bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None, backend: str
) -> Engine:
    """The bundle's network as a `TorchEngine`; ``backend`` is one of `BACKENDS`."""
    try:
        chosen = pick_device(device)
    except ConfigError as error:
        raise EngineError(error.marked) from error
    precision = "fp16" if backend == "torch-fp16" else "fp32"
    how = ", compiled" if backend == "torch-compile" else ""
    return TorchEngine(
        load_network(bundle, chosen),
        bundle.label_space,
        bundle.manifest.input,
        device=chosen,
        artefact=artefact.path,
        reason=(
            f"torch {torch.__version__} runs {artefact.path} ({precision}{how}) on {chosen.type}."
        ),
        backend=backend,
        threads=threads,
    )


open_eager, open_half, open_compiled = (partial(_open, backend=backend) for backend in BACKENDS)
