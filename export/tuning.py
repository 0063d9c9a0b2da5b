"""The best quantised graph that calibration frames give: method, then layers to spare."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

import onnx

from ..runtime.engines import Engine
from ..runtime.engines.tensorrt_build import Report
from ..runtime.errors import NetworkError
from .calibration import METHODS, Histogram, Method, Range, collect
from .data_splits import Calibration
from .judge import Judge
from .quantise import Form, layers_for, quantise, quantised_values
from .sensitivity import spare, sweep, sweep_frames

FORMS: tuple[Form, ...] = ("int8", "fp8", "int8-cpu")


class Tuner:
    """Maker and judge of quantised graphs of one float32 graph.

    Args:
        model: float32.
        calibration: whose frames give the ranges.
        judge: compares with the float32 model on the frames that ``calibration`` holds out.
        open_model: the runtime's engine on a graph in that form.
        report: progress: done, of how many, and at what.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: Calibration,
        judge: Judge,
        open_model: Callable[[onnx.ModelProto, Form], Engine],
        report: Report = lambda *_: None,
    ) -> None:
        self._model, self._calibration, self._judge = model, calibration, judge
        self._open, self._report = open_model, report
        self._histograms: dict[str, Histogram] = {}
        self._ranges: dict[tuple[str, Method], Range] = {}
        self._values: dict[Form, list[str]] = {}

    def tune(self, form: Form, target: float) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """The graph in ``form``, and what was tried on the way to it, for the manifest.

        The calibration method with the highest label agreement is taken; then layers are spared,
        the most sensitive first, until agreement reaches ``target`` percent. Frames that the export
        is judged on have no say; mIoU, where it is measured, is only reported.
        """
        layers = [layer.name for layer in layers_for(self._model, form)]
        if not layers:
            raise NetworkError(
                f"The network has no convolution that {form} quantises; use fp16 or fp32."
            )
        self._values[form] = quantised_values(self._model, form)
        self._collect(self._values[form])
        methods = [self._try_method(form, method) for method in METHODS]
        method: Method = max(methods, key=lambda row: row["label_agreement"])["method"]
        frames = self._sweep_frames(form, method, layers)
        rows = sweep(
            layers,
            lambda layer: self._agreement(
                form, method, [name for name in layers if name != layer], frames
            ),
            self._report,
        )
        spared = spare(rows, lambda names: self._agreement(form, method, names), target)
        details = {
            "method": method,
            "calibration": {
                "range_frames": len(self._calibration.frames),
                "choice_frames": len(self._calibration.choice),
                "source": self._calibration.source,
            },
            "methods": methods,
            "layers": len(layers),
            "spared": spared,
            "sweep": {"frames": frames, "layers": [asdict(row) for row in rows]},
        }
        model = self._graph(form, method, spared)
        onnx.checker.check_model(model)
        return model, {"quantisation": details}

    def _collect(self, values: Sequence[str]) -> None:
        missing = [value for value in values if value not in self._histograms]
        if missing:
            self._histograms |= collect(
                self._model, missing, self._calibration.frames, self._report
            )

    def _graph(self, form: Form, method: Method, spared: Collection[str]) -> onnx.ModelProto:
        ranges = {value: self._range(value, method) for value in self._values[form]}
        return quantise(self._model, form, ranges, spared)

    def _range(self, value: str, method: Method) -> Range:
        """Found once for all graphs that are tried."""
        if (value, method) not in self._ranges:
            self._ranges[value, method] = self._histograms[value].range(method)
        return self._ranges[value, method]

    def _agreement(
        self, form: Form, method: Method, spared: Collection[str], frames: int | None = None
    ) -> float:
        with self._open(self._graph(form, method, spared), form) as engine:
            return self._judge.agreement(engine, frames)

    def _try_method(self, form: Form, method: Method) -> dict[str, Any]:
        with self._open(self._graph(form, method, ()), form) as engine:
            row: dict[str, Any] = {
                "method": method,
                "label_agreement": self._judge.agreement(engine),
            }
            miou = self._judge.miou(engine)
        return row if miou is None else {**row, "miou": miou}

    def _sweep_frames(self, form: Form, method: Method, layers: Sequence[str]) -> int:
        started = time.monotonic()
        self._agreement(form, method, layers[1:], 1)
        return sweep_frames(len(layers), time.monotonic() - started)
