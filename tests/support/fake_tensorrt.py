"""TensorRT as far as an engine uses it, computing on `fake_cuda`'s memory.

A "plan" is JSON: the weight of a 1x1 convolution of RGB, whose argmax over classes is the output.
The fake refuses what TensorRT refuses: a plan of another version, an address that is not aligned, a
tensor that was never given a place. Comments name the page of NVIDIA's TensorRT documentation (the
Python API's unless said) that says so; "assumed" is what no page says.
"""

from __future__ import annotations

import ctypes
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import ALIGNMENT, FakeCudart

UINT8, FLOAT, HALF = "UINT8", "FLOAT", "HALF"  # DataType's members


def plan_bytes(
    weight: np.ndarray,
    *,
    size: tuple[int, int] = (32, 16),
    output: str = "labels",
    version: str = "10.16.1",
    capturable: bool = True,
    **more: Any,
) -> bytes:
    """A plan of ``weight`` (K, 3) at ``size`` (width, height), giving labels or logits."""
    document = {
        "weight": weight.tolist(),
        "size": size,
        "output": output,
        "version": version,
        "capturable": capturable,
        **more,
    }
    return json.dumps(document).encode()


class Engine:
    def __init__(self, trt: FakeTensorRT, document: dict[str, Any]) -> None:
        self.trt, self.document = trt, document
        (width, height), classes = document["size"], len(document["weight"])
        output = document["output"]
        self.shapes = {"image": (1, height, width, 3)}
        self.shapes[output] = (
            (1, height, width) if output == "labels" else (1, classes, height, width)
        )
        self.shapes.update(document.get("more", {}))

    @property
    def num_io_tensors(self) -> int:
        return len(self.shapes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.shapes[name])

    def get_tensor_dtype(self, name: str) -> str:
        return UINT8 if name in ("image", "labels") else FLOAT

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name == "image" else "OUTPUT"

    def create_execution_context(self) -> Context | None:
        # None without memory for it: assumed.
        return None if self.document.get("no_memory") else Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.at = engine, {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        # C++ API, IExecutionContext::setTensorAddress: false where the name maps to no input or
        # output; at least 256-byte alignment (the false for that is assumed).
        if name not in self.engine.shapes or address % ALIGNMENT:
            return False
        self.at[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cudart = self.engine.trt.cudart
        self.engine.trt.calls.append("execute_async_v3")
        # C++ API, IExecutionContext::setTensorAddress: before enqueueV3, each needs an address.
        if set(self.at) != set(self.engine.shapes):
            return False
        # Stricter than IExecutionContext, execute_async_v3: the default stream is taken, slowly.
        if stream not in cudart.alive["cudaStreamCreateWithFlags"]:
            return False
        # C++ API, IExecutionContext::enqueueV3: some engines are not capturable (of which kind, and
        # the false, is assumed).
        if cudart.capturing is not None and not self.engine.document["capturable"]:
            return False
        cudart.run(self._compute)
        return True

    def _compute(self) -> None:
        shapes, output = self.engine.shapes, self.engine.document["output"]
        image = self._array("image", np.uint8)[0].astype(np.float64)
        weight = np.array(self.engine.document["weight"])
        logits = np.moveaxis(image @ weight.T, -1, 0)
        target = self._array(output, np.uint8 if output == "labels" else np.float32)
        target[0] = logits.argmax(axis=0) if output == "labels" else logits
        assert shapes[output] == target.shape

    def _array(self, name: str, dtype: Any) -> np.ndarray:
        shape = self.engine.shapes[name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert self.engine.trt.cudart.inside(self.at[name], size)
        block = (ctypes.c_uint8 * size).from_address(self.at[name])
        return np.frombuffer(block, np.uint8).view(dtype).reshape(shape)


class FakeTensorRT(ModuleType):
    """``sys.modules["tensorrt"]``; ``calls`` are what it was asked to do."""

    uint8, float32, float16 = UINT8, FLOAT, HALF
    TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    LayerInformationFormat = SimpleNamespace(JSON="JSON")
    SerializationFlag = SimpleNamespace(
        EXCLUDE_WEIGHTS="EXCLUDE_WEIGHTS", INCLUDE_REFIT="INCLUDE_REFIT"
    )

    class ILogger:  # page "Logger": severities are numbers, 0 the most severe
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)

    def __init__(self, cudart: FakeCudart, version: str = "10.16.1") -> None:
        super().__init__("tensorrt")
        self.__version__, self.cudart, self.calls = version, cudart, []

    def make_engine(self, document: dict[str, Any]) -> Engine:
        return Engine(self, document)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        self.calls.append("Runtime")

        def deserialize(plan: bytes) -> Engine | None:
            self.calls.append("deserialize")
            document = json.loads(plan)
            # "Runtime", deserialize_cuda_engine: None where it could not. "Engine Compatibility":
            # another version's plan. That it logs an error, and how it reads, is assumed.
            if document["version"] != self.__version__:
                logger.log(1, "The engine plan file is not compatible\n with this version")
                return None
            return self.make_engine(document)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)
