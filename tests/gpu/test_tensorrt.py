"""TensorRT on a GPU: built, run as a CUDA graph, refitted, and refused where it does not belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import frames_of, write_source
from roadshift.export.artefacts import export_bundle
from roadshift.export.plan_maker import PlanOptions
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec, extend_bundle, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.engines.tensorrt_library import load_tensorrt
from roadshift.runtime.errors import EngineError, RoadshiftError
from roadshift.runtime.labels.metrics import label_agreement


def missing() -> str | None:
    try:
        load_tensorrt()
    except RoadshiftError as error:
        return str(error)
    return None


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(missing() is not None, reason=f"needs TensorRT: {missing()}"),
]

SIZE = InputSpec(width=256, height=128, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
FRAMES = frames_of(SIZE, 4)
FLOOR = {"fp32": 99.9, "fp16": 99.5}


def shift(network: torch.nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not name.endswith("running_var"):
            tensor.mul_(1.05)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """fast_scnn in fp32 and fp16, refittable."""
    bundle = write_source(
        tmp_path_factory.mktemp("base") / "b", NetworkSpec(name="fast_scnn"), SIZE
    )
    export_bundle(
        bundle,
        ("onnx", "tensorrt"),
        precisions=("fp32", "fp16"),
        plans=PlanOptions(refittable=True),
    )
    return open_bundle(bundle.path)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plan_runs_as_one_graph_and_agrees_with_torch(base: Bundle, precision: str) -> None:
    """Frames that change come back as their own labels: a graph that replays the first is wrong."""
    plan = base.artefact(name=f"model-{precision}.plan")
    assert plan is not None
    with (
        open_engine(base, artefact=plan.path) as engine,
        open_engine(base, backend="torch", device="cpu") as torch_engine,
    ):
        assert engine.describe()["cuda_graph"] is True
        for frame in FRAMES:
            agreement = label_agreement(engine.segment(frame), torch_engine.segment(frame))
            assert agreement > FLOOR[precision]
        assert engine.stage_ms is not None
        assert all(0 < engine.stage_ms[stage] < 1000 for stage in ("h2d", "gpu", "d2h"))
        assert len(np.unique(engine.segment(FRAMES[0]))) > 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_refit_takes_less_time_than_a_build_and_gives_the_new_labels(
    base: Bundle, tmp_path: Path, precision: str
) -> None:
    spec = NetworkSpec(name="fast_scnn")
    adapted = write_source(tmp_path / "adapted" / "b", spec, SIZE, shift)
    export_bundle(adapted, ("tensorrt",), precisions=(precision,), plans=PlanOptions(refit=base))
    adapted = open_bundle(adapted.path)
    old, new = (b.artefact(name=f"model-{precision}.plan") for b in (base, adapted))
    assert old is not None
    assert new is not None
    assert float(str(new.details["refit_s"])) < float(str(old.details["build_s"]))
    with (
        open_engine(adapted, artefact=new.path) as engine,
        open_engine(adapted, backend="torch", device="cpu") as torch_engine,
    ):
        for frame in FRAMES:
            agreement = label_agreement(engine.segment(frame), torch_engine.segment(frame))
            assert agreement > FLOOR[precision]


def test_a_plan_of_another_gpu_is_passed_over(base: Bundle) -> None:
    plan = base.artefact(kind="tensorrt")
    assert plan is not None
    with extend_bundle(base) as writer:
        data = base.file(plan).read_bytes()
        details = {**plan.details, "gpu": "another"}
        writer.add_bytes("other.plan", data, kind="tensorrt", precision="fp32", details=details)
        moved = writer.commit()
    with pytest.raises(EngineError, match="rebuild it here"):
        open_engine(moved, artefact="other.plan")
