"""TensorRT's builder and refitter on top of `fake_tensorrt`: a plan holds its ONNX model.

An engine of such a plan runs it in ONNX Runtime, so what a build or a refit puts into it is what
comes out. ``settings`` say what the library does wrong. Comments name pages of NVIDIA's TensorRT
documentation as in `fake_tensorrt`; test_tensorrt.py asks the real builder the same where it is.
"""

from __future__ import annotations

import base64
import ctypes
import json
from collections.abc import Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_cuda import FakeCudart
from fake_tensorrt import FLOAT, HALF, UINT8, Context, Engine, FakeTensorRT
from onnx import numpy_helper

_TYPES = {"float32": FLOAT, "float16": HALF, "uint8": UINT8}
_WRITTEN = {  # "Engine Inspector", "Format/Datatype" of TensorRT 10; 11 splits that field in two
    FLOAT: "Row major linear FP32",
    HALF: "Channel major FP16 format",
    "INT8": "Thirty-two wide channel vectorized row major Int8 format",
}


class Flags:
    def __init__(self) -> None:
        self.set: set[str] = {"TF32"}  # "BuilderConfig", BuilderFlag.TF32: enabled by default

    def set_flag(self, flag: str) -> None:
        self.set.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.set.discard(flag)


class Config(Flags):
    """An IBuilderConfig; a timing cache is the list of the models that were timed."""

    def __init__(self) -> None:
        super().__init__()
        self.profiling_verbosity = self.progress_monitor = self.cache = None
        self.limits: dict[str, int] = {}

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    # "BuilderConfig": create_timing_cache(b"") makes a new one; set_timing_cache without
    # ignore_mismatch is False where the device is another.
    def create_timing_cache(self, known: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: known + b"timed;", known=known)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return not cache.known.startswith(b"another machine")

    def get_timing_cache(self) -> Any:
        return self.cache


class OnnxContext(Context):
    def _compute(self) -> None:
        session = self.engine.session
        names = [output.name for output in session.get_outputs()]
        found = session.run(names, {"image": self._array("image", np.uint8)})
        for name, value in zip(names, found, strict=True):
            self._array(name, value.dtype)[...] = value


class OnnxEngine(Engine):
    def __init__(self, trt: OnnxTensorRT, document: dict[str, Any]) -> None:
        self.trt, self.document = trt, {"capturable": True, **document}
        self.model = onnx.ModelProto.FromString(base64.b64decode(document["onnx"]))
        self.refittable = document["refittable"]
        values = (*self.model.graph.input, *self.model.graph.output)
        self.shapes = {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values
        }

    @cached_property
    def session(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(
            self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def create_execution_context(self) -> Context:
        return OnnxContext(self)

    def create_engine_inspector(self) -> Any:
        convolutions = [
            {"ParameterType": "Convolution", "Inputs": [{"Format/Datatype": _WRITTEN[kind]}]}
            for kind in self.trt.settings.get("computes_in", convolution_types(self.model))
        ]
        text = json.dumps({"Layers": convolutions})
        return SimpleNamespace(get_engine_information=lambda _: text)

    def create_serialization_config(self) -> Any:
        config = Flags()
        config.set = {"EXCLUDE_WEIGHTS"}  # the worst case: the defaults are assumed
        return config

    def serialize_with_config(self, config: Any) -> bytes:
        # "SerializationConfig": INCLUDE_REFIT remains refittable, EXCLUDE_WEIGHTS drops weights.
        assert config.set == {"INCLUDE_REFIT"}  # with weights, and refittable again
        return plan_of(self.model, self.document["version"], refittable=True)


class Refitter:
    def __init__(self, engine: OnnxEngine, _logger: Any) -> None:
        self.engine, self.settings = engine, engine.trt.settings
        # "Refitting an Engine": the ONNX parser names weights as the model does.
        self.weights = {
            w.name: w for w in engine.model.graph.initializer if w.data_type in (1, 10, 16)
        }
        self.given: dict[str, Any] = {}

    def get_all_weights(self) -> list[str]:
        kept = self.settings.get("constant", ())
        return [name for name in self.weights if self.engine.refittable and name not in kept]

    def get_missing_weights(self) -> list[str]:
        """Those that were combined with others, which include constants of the preprocessing.

        "Refitter", get_missing_weights: what is not supplied of a combination, once some is.
        """
        combined = ["normalise.mean", *self.settings.get("missing", ())]
        return [name for name in combined if self.given and name not in self.given]

    def set_named_weights(self, name: str, weights: Any) -> bool:
        # "Refitter", set_named_weights: False for another name, size or type.
        if name not in self.get_all_weights():
            return False
        old = numpy_helper.to_array(self.weights[name])
        if (weights.kind, weights.count) != (_TYPES[old.dtype.name], old.size):
            return False
        self.given[name] = (weights.address, old.shape, old.dtype)
        return True

    def refit_cuda_engine(self) -> bool:
        """Read only now, from the addresses: they must still hold what they were given for.

        "Refitter", refit_cuda_engine: False while weights are missing; memory may go afterwards.
        """
        if self.get_missing_weights() or self.settings.get("refuses"):
            return False
        for name, (address, shape, dtype) in self.given.items():
            block = (ctypes.c_uint8 * (int(np.prod(shape)) * dtype.itemsize)).from_address(address)
            values = np.frombuffer(block, np.uint8).view(dtype).reshape(shape).copy()
            self.weights[name].CopyFrom(numpy_helper.from_array(values, name))
        return True


class OnnxTensorRT(FakeTensorRT):
    """The library; ``network_flags`` and ``configs`` are what it was given."""

    # The value of no version: it changed between majors ("Migrating from TensorRT 10.x to 11.x").
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
    BuilderFlag = SimpleNamespace(TF32="TF32", REFIT="REFIT")
    ProfilingVerbosity = SimpleNamespace(DETAILED="DETAILED")
    MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
    Refitter = Refitter
    IProgressMonitor = type("IProgressMonitor", (), {})

    def __init__(self, cudart: FakeCudart, **settings: Any) -> None:
        super().__init__(cudart)
        self.settings, self.configs, self.network_flags = settings, [], []

    def Weights(self, kind: str, address: int, count: int) -> Any:  # noqa: N802
        return SimpleNamespace(kind=kind, address=address, count=count)

    def make_engine(self, document: dict[str, Any]) -> Engine:
        return OnnxEngine(self, document)

    def OnnxParser(self, network: Any, _logger: Any) -> Any:  # noqa: N802
        def parse(graph: bytes) -> bool:
            model = onnx.ModelProto.FromString(graph)
            network.model = model
            network.layers = [layer_of(node, model) for node in model.graph.node]
            network.num_layers = len(network.layers)
            return not self.settings.get("cannot_parse")

        error = SimpleNamespace(desc=lambda: "no importer for\n Foo.")
        return SimpleNamespace(parse=parse, num_errors=1, get_error=lambda _: error)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        def create_network(flags: int) -> Any:
            self.network_flags.append(flags)
            network = SimpleNamespace(model=None, layers=[])
            network.get_layer = lambda i: network.layers[i]
            return network

        def build(network: Any, config: Config) -> bytes | None:
            # "ProgressMonitor", step_complete: False ends the build early. None then, and where no
            # tactic is found: assumed.
            self.configs.append(config)
            for going in self._phases(config.progress_monitor):
                if not going:
                    return None
            if self.settings.get("cannot_build"):
                logger.log(1, "no tactic for\n node_Conv_1")
                return None
            model = onnx.ModelProto()
            model.CopyFrom(network.model)
            if "forgets" in self.settings:
                for weight in model.graph.initializer:
                    if weight.name.endswith(self.settings["forgets"]):
                        zero = np.zeros_like(numpy_helper.to_array(weight)) + 7
                        weight.CopyFrom(numpy_helper.from_array(zero, weight.name))
            return plan_of(model, self.__version__, refittable="REFIT" in config.set)

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=Config,
            build_serialized_network=build,
        )

    def _phases(self, monitor: Any) -> Iterator[bool]:
        monitor.phase_start("Building", None, 2)
        yield monitor.step_complete("Building", 0)
        monitor.phase_start("Timing", "Building", 2)
        yield monitor.step_complete("Timing", 0)
        yield monitor.step_complete("Timing", 1)
        monitor.phase_finish("Timing")
        yield monitor.step_complete("Building", 1)
        monitor.phase_finish("Building")


def plan_of(model: onnx.ModelProto, version: str, *, refittable: bool) -> bytes:
    encoded = base64.b64encode(model.SerializeToString()).decode()
    return json.dumps({"onnx": encoded, "version": version, "refittable": refittable}).encode()


def convolution_types(model: onnx.ModelProto) -> list[str]:
    kinds = {w.name: numpy_helper.to_array(w).dtype.name for w in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    return [
        "INT8" if node.input[1].endswith(".dequantised") else _TYPES[kinds[node.input[1]]]
        for node in nodes
    ]


def layer_of(node: onnx.NodeProto, model: onnx.ModelProto) -> Any:
    is_convolution = node.op_type == "Conv"
    (kind,) = convolution_types(_only(node, model)) if is_convolution else ("",)
    tensor = SimpleNamespace(name=node.input[0], dtype=SimpleNamespace(name=kind))
    kinds = "CONVOLUTION" if is_convolution else node.op_type.upper()
    return SimpleNamespace(type=SimpleNamespace(name=kinds), get_input=lambda _: tensor)


def _only(node: onnx.NodeProto, model: onnx.ModelProto) -> onnx.ModelProto:
    alone = onnx.ModelProto()
    alone.graph.node.append(node)
    alone.graph.initializer.extend(model.graph.initializer)
    return alone
