"""The best quantised graph that calibration frames give: method, then layers to spare."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import onnx

from ..adapt.run.budget import Deadline, Repeated
from ..adapt.run.work import spread
from ..runtime.engines import Engine
from ..runtime.engines.tensorrt_build import Report
from ..runtime.errors import NetworkError
from ..runtime.words import counted
from .calibration import METHODS, Histogram, Method, Range, collect
from .choices import FORMS, Form
from .data_splits import Calibration
from .graph import opset, raised
from .judge import Judge
from .opsets import QUANTISED_OPSET
from .quantise import layers_for, quantise, quantised_values
from .sensitivity import SWEEP_SECONDS, SWEEP_SHARE, Sensitivity, spare, sweep, sweep_frames

AFTERWARDS = 3  # times that a form's first try took, to judge it and settle where labels are made
SAID_FROM_S = 5.0  # that a sweep is expected to take


class Tuner:
    """Maker and judge of quantised graphs of one float32 graph.

    Args:
        model: float32.
        calibration: whose frames give the ranges.
        judge: compares with the float32 model on the frames that ``calibration`` holds out.
        open_model: the runtime's engine on a graph in that form.
        report: progress: done, of how many, and at what.
        note: called with a sentence on what the search will cost, and where it is cut short.
        deadline: of the whole export; its budget bounds the search.
        forms: those that will be tuned, which share its time.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: Calibration,
        judge: Judge,
        open_model: Callable[[onnx.ModelProto, Form], Engine],
        report: Report = lambda *_: None,
        note: Callable[[str], None] = lambda _: None,
        deadline: Deadline | None = None,
        forms: Sequence[Form] = FORMS,
    ) -> None:
        # torch 2.8 writes opset 18 of itself, in which there is no FP8
        self._model = raised(model, QUANTISED_OPSET) if opset(model) < QUANTISED_OPSET else model
        self._calibration, self._judge = calibration, judge
        self._open, self._report, self._note = open_model, report, note
        self._deadline, self._waiting = deadline or Deadline(None), list(forms)
        self._histograms: dict[str, Histogram] = {}
        self._ranges: dict[tuple[str, Method], Range] = {}
        self._values: dict[Form, list[str]] = {}

    def tune(self, form: Form, target: float) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """The graph in ``form``, and what was tried on the way to it, for the manifest.

        The calibration method with the highest label agreement is taken; then layers are spared,
        the most sensitive first, until agreement reaches ``target`` percent. Frames that the export
        is judged on have no say; mIoU, where it is measured, is only reported. Where a time budget
        ends first, the best so far is taken; with one, nothing is searched beyond the target.
        """
        layers = [layer.name for layer in layers_for(self._model, form)]
        if not layers:
            raise NetworkError(
                f"The network has no convolution that {form} quantises; use fp16 or fp32."
            )
        self._values[form] = quantised_values(self._model, form)
        self._collect(self._values[form])
        first, a_try_s = self._first_try(form)
        methods = [first]
        with self._share_of_time(form):
            trying = Repeated(self._deadline, expected_s=a_try_s)
            for name in METHODS[1:]:
                if not trying.fits():
                    self._note(f"{form}: no other range than {METHODS[0]} is tried in time")
                    break
                methods.append(self._try_method(form, name))
            best = max(methods, key=lambda row: row["label_agreement"])
            method, reached = best["method"], best["label_agreement"]
            frames, rows = 0, list[Sensitivity]()
            if not self._deadline.bounded or reached < target:
                frames, rows = self._swept(form, method, layers)
            sparing = Repeated(self._deadline, expected_s=a_try_s)
            spared = spare(
                rows,
                lambda names: self._agreement(form, method, names) if names else reached,
                target,
                sparing.fits,
            )
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

    def _first_try(self, form: Form) -> tuple[dict[str, Any], float]:
        """The first method and its seconds, by which time is kept back for what follows."""
        began_s = self._deadline.elapsed_s
        row = self._try_method(form, METHODS[0])
        took_s = self._deadline.elapsed_s - began_s
        self._deadline.keep_back(AFTERWARDS * len(self._waiting) * took_s)
        return row, took_s

    @contextmanager
    def _share_of_time(self, form: Form) -> Iterator[None]:
        """Give what runs inside its part of the time that the forms yet to be tuned have."""
        with self._deadline.part(1 / len(self._waiting)):
            try:
                yield
            finally:
                self._waiting.remove(form)

    def _swept(
        self, form: Form, method: Method, layers: Sequence[str]
    ) -> tuple[int, list[Sensitivity]]:
        """Frames that the sweep looked at, and what it found; all layers where there is time.

        Where time may run out they come in an order of which every beginning is evenly spread.
        """
        deadline = self._deadline
        if deadline.due:
            self._note(f"{form}: no layer was looked at in time, so none is spared")
            return 0, []
        with deadline.part(SWEEP_SHARE):
            began_s = deadline.elapsed_s
            self._agreement(form, method, layers[1:], 1)
            a_frame_s = deadline.elapsed_s - began_s
            frames = sweep_frames(len(layers), a_frame_s, min(SWEEP_SECONDS, deadline.left_s))
            expected_s = a_frame_s * frames * len(layers)
            if expected_s > SAID_FROM_S:
                self._note(
                    f"{form}: {counted(len(layers), 'layer')} one at a time on "
                    f"{counted(frames, 'frame')}, at most {expected_s:.0f} s"
                    + (f" of which there are {deadline.left_s:.0f}" if deadline.bounded else "")
                )
            order = spread(len(layers)) if deadline.bounded else range(len(layers))
            looking = Repeated(deadline, expected_s=a_frame_s * frames)
            rows = sweep(
                [layers[i] for i in order],
                lambda layer: self._agreement(
                    form, method, [name for name in layers if name != layer], frames
                ),
                self._report,
                looking.fits,
            )
        if len(rows) < len(layers):
            self._note(
                f"{form}: {len(rows)} of {counted(len(layers), 'layer')}, evenly spread, were "
                "looked at in time, and only these may be spared"
            )
        return frames, rows

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
