"""`roadshift export --to tensorrt`: plans built, or refitted, on the machine that runs them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..adapt.models.loading import load_network
from ..adapt.models.torch_engine import TorchEngine
from ..runtime.bundle import Bundle, check_output
from ..runtime.engines.cuda import load_cudart
from ..runtime.engines.tensorrt_build import PRECISIONS, PlanTarget, Report
from ..runtime.engines.tensorrt_library import INSTALL, load_tensorrt
from ..runtime.errors import ConfigError, EngineError, arg
from ..runtime.probes.driver import driver_problem, gpu
from .data_splits import EvaluationData
from .judge import Judge
from .outcome import Draft, Refusal, publish_each
from .plan_maker import PlanMaker, PlanOptions, plan_name
from .refit import REFITTABLE
from .weight_origins import state_arrays


def prepare_plans(
    precisions: Sequence[str], formats: Sequence[str], options: PlanOptions | None
) -> PlanTarget | None:
    """The machine where ``formats`` ask for plans, before hours are spent; None where they do not.

    Raises:
        ConfigError: options that do not go together.
        EngineError, MissingDependencyError: as `require_machine`.
    """
    options = options or PlanOptions()
    if "tensorrt" not in formats:
        if options != PlanOptions():
            raise ConfigError(
                f"{arg('refittable', True)}, {arg('refit')} and {arg('workspace_mib')} are "
                f"for {arg('formats', ('tensorrt',))}."
            )
        return None
    if odd := sorted(set(precisions) - set(PRECISIONS)):
        raise ConfigError(
            f"{arg('precisions')} {', '.join(odd)} is not for {arg('formats', ('tensorrt',))}."
        )
    if options.refit and ("onnx" in formats or options.refittable or options.workspace_bytes):
        raise ConfigError(
            f"{arg('refit')} takes the graph and the plan of another bundle as they are: "
            "use it with "
            f"{arg('formats', ('tensorrt',))} alone, without {arg('refittable', True)} and "
            f"{arg('workspace_mib')}."
        )
    if options.refittable and (fixed := sorted(set(precisions) - set(REFITTABLE))):
        raise ConfigError(
            f"{arg('refittable', True)} is for {', '.join(REFITTABLE)}; {', '.join(fixed)} "
            "engines are rebuilt, "
            "their scales follow the weights, and the kept timings make it quick."
        )
    return require_machine()


def require_machine() -> PlanTarget:
    """The TensorRT and the GPU of this machine.

    Raises:
        EngineError, MissingDependencyError: there is no GPU or driver, or a package is missing; the
            sentence says what to install.
    """
    if problem := driver_problem():
        raise EngineError(
            f"A TensorRT plan is built on the machine that runs it, and here {problem}; go to a "
            f"machine with an NVIDIA GPU and its driver, with {INSTALL['tensorrt']}, or export "
            f"{arg('formats', ('onnx',))}."
        )
    library = load_tensorrt()
    load_cudart()
    return PlanTarget(library, gpu())


def export_plans(
    bundle: Bundle,
    precisions: Sequence[str],
    evaluation: EvaluationData,
    machine: PlanTarget,
    judge_of: Callable[[Sequence[Any]], Judge],
    *,
    options: PlanOptions | None = None,
    note: Callable[[str], None] = lambda _: None,
    report: Report = lambda *_: None,
    refused: list[Refusal] | None = None,
) -> Bundle:
    """Add a plan in each precision to ``bundle``, in place, from its ONNX models.

    All are made and judged against torch in float32 first, then those that passed are published at
    once, whatever ended the others. With
    ``options.refit`` the ONNX models are made anew too: the same graphs with the new weights.

    Args:
        judge_of: a judge that expects these label maps of the evaluation's frames.
        report: progress in thousandths of each build.
        refused: takes the plans that were not written, and why; None: that is raised.

    Raises, unless ``refused`` takes it:
        EngineError: TensorRT refuses a graph, computes in another precision, or cannot refit.
        ParityError: a plan falls below a floor.
    """
    if not precisions:
        return bundle
    options = options or PlanOptions()
    check_output(bundle.path, overwrite=True)
    network = load_network(bundle, torch.device("cpu"))
    with TorchEngine(
        network, bundle.label_space, bundle.manifest.input, device=torch.device("cpu")
    ) as torch_engine:
        judge = judge_of([torch_engine.segment(frame) for frame in evaluation.frames])
        judge.measure_fp32(torch_engine)
    with tempfile.TemporaryDirectory(prefix="roadshift-tensorrt-") as scratch:
        maker = PlanMaker(bundle, Path(scratch), machine, judge, options, note, report)
        state = state_arrays(network)

        def make(precision: str) -> list[Draft]:
            return maker.refit(precision, state) if options.refit else maker.build(precision)

        names = {precision: plan_name(precision) for precision in precisions}
        return publish_each(bundle, Path(scratch), names, "tensorrt", make, note, refused)
