"""A graph is made simpler without losing what a network adds to its divisors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_cases import RGB, frames_of, write_source
from roadshift.export.artefacts import export_onnx
from roadshift.export.data_splits import EvaluationData
from roadshift.export.onnx import MODEL
from roadshift.export.simplify import simplify
from roadshift.runtime.bundle import NetworkSpec
from torch import Tensor, nn


class Guarded(nn.Module):
    """Shares that are 0 where nothing is bright, as linear attention's are."""

    def __init__(self, num_classes: int, little: float | None = 1e-12) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, num_classes, 1)
        self.little = nn.Parameter(torch.tensor(1e-12)) if little is None else little

    def forward(self, x: Tensor) -> Tensor:
        bright = x.relu()
        return self.head((bright + 0.0) / (bright.sum(1, keepdim=True) + self.little))


@pytest.mark.parametrize("opset", [None, 18])
@pytest.mark.parametrize("little", [1e-15, 1e-8, 1e-5, None])
def test_what_keeps_a_divisor_from_0_stays(little: float | None, opset: int | None) -> None:
    network = Guarded(2, little).eval()
    dark = -torch.ones(1, 3, 4, 4)
    how = {"dynamo": True, "optimize": False, "opset_version": opset, "verbose": False}
    program = torch.onnx.export(network, (dark,), **how)
    assert program is not None
    simplify(program)
    model = program.model_proto
    onnx.checker.check_model(model)
    operators = [node.op_type for node in model.graph.node]
    assert operators == ["Relu", "ReduceSum", "Add", "Div", "Conv"]  # and no addition of 0
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (scores,) = session.run(None, {session.get_inputs()[0].name: dark.numpy()})
    assert np.array_equal(scores, network(dark).detach().numpy())


def test_a_network_that_divides_by_such_a_sum_is_exported_as_it_computes(tmp_path: Path) -> None:
    spec = NetworkSpec(name=f"{__name__}:Guarded")
    before = write_source(tmp_path / "bundle", spec, RGB)
    frames = [np.zeros_like(frame) for frame in frames_of(RGB)]
    bundle = export_onnx(before, EvaluationData(frames, "the dark"))
    assert "Div" in {node.op_type for node in onnx.load(bundle.path / MODEL).graph.node}
