"""From an ONNX graph to a TensorRT plan, in the precision that the graph is written in.

Networks are strongly typed: the graph says every type, and no flag changes one. That holds for
TensorRT 10 and 11 and for TensorRT for RTX, which builds without a GPU as well.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import replacing
from ..errors import EngineError, arg
from ..probes.driver import Gpu
from .tensorrt_library import TensorRT

Report = Callable[[int, int, str], None]  # done, of how many, at what
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")  # of plans
# Of the ONNX model's details, for the engine.
CARRIED = ("argmax", "align_corners", "measured_on", "outputs")
CheckEngine = Callable[[Any, Any], None]  # of a deserialised engine and its logger; may raise

_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}
_LEARNED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
# How the inspector writes a tensor's type, most telling first: "Half", "Row major linear FP32", ...
_WRITTEN = {
    "fp8": r"fp8",
    "int8": r"int8",
    "bf16": r"bf16|bfloat16",
    "fp16": r"fp16|half",
    "fp32": r"fp32|float",
}


@dataclass(frozen=True)
class PlanTarget:
    """TensorRT and GPU that plans are built with and for."""

    library: TensorRT
    gpu: Gpu

    def details(self) -> dict[str, Any]:
        """The part of a plan's details that says what it was built for."""
        return {
            "flavour": self.library.flavour,
            "version": self.library.version,
            "gpu": self.gpu.name,
            "compute_capability": self.gpu.compute_capability,
            "driver": self.gpu.driver,
        }


def build_plan(
    library: TensorRT,
    graph: bytes,
    what: str,
    precision: str,
    *,
    refittable: bool = False,
    workspace_bytes: int | None = None,
    timing_cache: Path | None = None,
    report: Report = lambda *_: None,
) -> bytes:
    """A plan of an ONNX model, for the GPU of this machine.

    The caller has made sure that there is a driver, unless ``library`` is TensorRT for RTX, which
    ends the process without one only in its runtime.

    Args:
        graph: the ONNX model's bytes.
        what: its name, for messages.
        precision: that its convolutions are in.
        refittable: keep the weights apart, to be swapped later.
        workspace_bytes: of device memory that a layer may use besides its tensors; None, any.
        timing_cache: the file to read and write how long each kernel took; TensorRT for RTX keeps
            none.
        report: progress in thousandths.

    Raises:
        EngineError: the graph is not in ``precision``, or TensorRT refuses it; its own words.
    """
    trt = library.module
    logger, said = library.listen()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        words = [parser.get_error(i).desc() for i in range(parser.num_errors)] or said
        raise EngineError(f"{library} does not take {what}: {_first(words)}.")
    check_precision(graph_precisions(network), precision, what)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    if refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    monitor = progress_monitor(trt, report)
    config.progress_monitor = monitor
    cache = None
    if timing_cache is not None and library.flavour == "tensorrt":
        cache = _read_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        raise EngineError(f"{library} cannot build {what}: {_first(said)}.")
    if cache is not None and timing_cache is not None:
        _write_cache(config.get_timing_cache(), timing_cache)
    return bytes(memoryview(plan))


def graph_precisions(network: Any) -> Counter[str]:
    """Count the convolutions and matrix products of a parsed network by the type that they take.

    Behind a dequantisation, the type is the one that was quantised to.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    quantised = {
        layer.get_output(0).name: layer.get_input(0).dtype.name
        for layer in layers
        if layer.type.name == "DEQUANTIZE"
    }
    found: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name in _LEARNED:
            taken = layer.get_input(0)
            name = quantised.get(taken.name, taken.dtype.name)
            found[_TYPES.get(name, name.lower())] += 1
    return found


def inspect_plan(
    library: TensorRT, plan: bytes, what: str, check: CheckEngine | None = None
) -> Counter[str]:
    """Count the layers of a built plan by type taken; none where its inspector does not say.

    Of convolutions where it tells them from other layers. Needs a driver.

    Args:
        check: of what else the loaded plan has to be.

    Raises:
        EngineError: TensorRT cannot load what it built, or ``check`` refuses it.
    """
    trt = library.module
    logger, said = library.listen()
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"{library} cannot load {what}, which it built: {_first(said)}.")
    if check is not None:
        check(engine, logger)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text).get("Layers", [])
    except ValueError:
        return Counter()
    detailed = [layer for layer in layers if isinstance(layer, Mapping)]
    convolutions = [layer for layer in detailed if layer.get("ParameterType") == "Convolution"]
    return Counter(filter(None, map(_written, convolutions or detailed)))


def check_precision(found: Counter[str], precision: str, what: str) -> None:
    """Raise EngineError where another precision than the wanted one does the work."""
    if not found or (found[precision] > 0 and found[precision] >= found["fp32"]):
        return
    counts = ", ".join(f"{count} in {name}" for name, count in found.most_common())
    raise EngineError(
        f"{what} should compute in {precision}, and of its layers {counts}; export its ONNX model "
        f"again with {arg('formats', ('onnx', 'tensorrt'))} {arg('precisions')} {precision}."
    )


def cache_file(library: TensorRT, gpu: Gpu) -> Path:
    """File of the timings of this GPU and this TensorRT, for all bundles."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    key = f"{library.flavour}-{library.version}-{gpu.name}-{gpu.compute_capability}"
    return Path(base) / "roadshift" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', key)}.timing"


def progress_monitor(trt: Any, report: Report) -> Any:
    """TensorRT's progress as thousandths of the whole; ``stopped`` is what interrupted it.

    An exception must not pass through native code, so one is kept and the build asked to stop.
    """
    base: Any = trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.stopped: BaseException | None = None
            self._phases: list[list[Any]] = []  # name, steps done, steps
            self._shown = 0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            del parent
            self._phases.append([name, 0, steps])
            self._tell()

        def step_complete(self, name: str, step: int) -> bool:
            for phase in self._phases:
                if phase[0] == name:
                    phase[1] = step + 1
            self._tell()
            return self.stopped is None

        def phase_finish(self, name: str) -> None:
            self._phases = [phase for phase in self._phases if phase[0] != name]
            self._tell()

        def _tell(self) -> None:
            share, width = 0.0, 1.0
            for _, done, steps in self._phases:
                share += width * min(done / steps, 1.0)
                width /= steps
            self._shown = max(self._shown, int(1000 * share)) if self._phases else 1000
            try:
                report(self._shown, 1000, self._phases[-1][0] if self._phases else "")
            except BaseException as error:
                self.stopped = self.stopped or error

    return Monitor()


def _written(layer: Mapping[str, Any]) -> str | None:
    """The type of a layer's first input, as the inspector writes it."""
    inputs = [tensor for tensor in layer.get("Inputs", ()) if isinstance(tensor, Mapping)]
    if not inputs:
        return None
    keys = ("Format/Datatype", "DataType", "Format")
    text = " ".join(str(inputs[0].get(key, "")) for key in keys).lower()
    return next((name for name, words in _WRITTEN.items() if re.search(words, text)), None)


def _read_cache(config: Any, file: Path) -> Any:
    try:
        known = file.read_bytes()
    except OSError:
        known = b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, False):  # of another machine or version after all
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _write_cache(cache: Any, file: Path) -> None:
    """Replace the file in one step; a build is not lost because its timings cannot be kept."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, f"{file.name}.{os.getpid()}") as staged:
            staged.write(memoryview(cache.serialize()))


def _first(words: Iterable[str]) -> str:
    """The first complaint, as the end of a sentence."""
    return " ".join(next(iter(words), "it does not say why").split()).rstrip(".")
