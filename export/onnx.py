"""From a torch bundle to ONNX, verified against the model that it came from."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from .. import __version__
from ..adapt.models.loading import load_network
from ..adapt.models.segmenter import Segmenter, SegmenterWithLogits
from ..runtime.bundle import Bundle
from ..runtime.engines.checks import GO_BACK
from ..runtime.errors import FloorError, MissingDependencyError, NetworkError, ParityError, arg
from ..runtime.words import counted
from .data_splits import EvaluationData
from .graph import opset
from .simplify import simplify
from .weight_origins import (
    FOLDS,
    NOT_REFITTABLE,
    find_folds,
    folds_to_json,
    set_metadata,
    stand_in_weights,
    state_arrays,
    write_gamma,
    write_weights,
)

MODEL = "model.onnx"
MIN_AGREEMENT = 99.9  # percent of pixels
MAX_RELATIVE_DIFFERENCE = 1e-3  # of the logits' largest magnitude
# Percent of pixels where they may differ by more: where max pooling finds two values nearly equal,
# rounding chooses, and what unpools by that choice (SegNet) puts the value elsewhere.
MOST_APART = 0.1


@dataclass(frozen=True)
class Parity:
    """Agreement of an ONNX model and its torch model, both on the CPU in float32.

    Attributes:
        label_agreement: percent of pixels with the same class.
        max_difference: of the upsampled logits, absolute.
        max_logit: largest magnitude of those logits, to read ``max_difference`` against.
        frames: how many were compared.
        compared_on: which.
        apart: percent of pixels with a logit that differs by more than is allowed.
    """

    label_agreement: float
    max_difference: float
    max_logit: float
    frames: int
    compared_on: str
    apart: float = 100.0


@dataclass(frozen=True)
class Traced:
    """A float32 graph that was found to do what torch does.

    Attributes:
        model: the graph.
        parity: with torch.
        labels: what torch makes of each frame of the evaluation, uint8 (H, W).
    """

    model: onnx.ModelProto
    parity: Parity
    labels: list[NDArray[np.uint8]]


def trace(
    bundle: Bundle,
    path: Path,
    evaluation: EvaluationData,
    *,
    with_logits: bool = False,
    min_agreement: float = MIN_AGREEMENT,
    opset_version: int | None = None,
) -> Traced:
    """Write the float32 graph of ``bundle`` to ``path`` and compare it with torch.

    The graph takes ``image``, uint8 (1, H, W, 3) RGB at the bundle's input size, and gives
    ``labels``, uint8 (1, H, W): normalisation, upsampling and argmax are inside. With
    ``with_logits`` it also gives ``logits``, float32 (1, K, h, w), at the network's stride.
    ``opset_version`` is that of ONNX's operators in it; None: the exporter's own.

    Raises:
        NetworkError: the bundle has no weights, or its network cannot be exported.
        ParityError: the ONNX model does something else than torch.
    """
    network = load_network(bundle, torch.device("cpu"))
    segmenter = Segmenter(network, bundle.manifest.input).eval()
    model = write_graph(
        segmenter, bundle, path, with_logits=with_logits, opset_version=opset_version
    )
    parity, labels = compare(segmenter, model, evaluation)
    check_parity(parity, min_agreement, f"{bundle.path}: {MODEL}")
    return Traced(model, parity, labels)


def onnx_name(precision: str) -> str:
    """The file name of an ONNX model in a bundle."""
    return MODEL if precision == "fp32" else f"model-{precision}.onnx"


def write_graph(
    segmenter: Segmenter,
    bundle: Bundle,
    path: Path,
    *,
    with_logits: bool,
    opset_version: int | None = None,
) -> onnx.ModelProto:
    """Trace ``segmenter`` at the bundle's input size and save it with its metadata.

    Raises:
        MissingDependencyError: onnxscript, which torch exports with, is missing.
        NetworkError: the network does what cannot be traced or has no ONNX operator.
    """
    module: nn.Module = SegmenterWithLogits(segmenter) if with_logits else segmenter
    network, gamma = segmenter.network, bundle.manifest.input.gamma
    with stand_in_weights(network) as state:
        program = _traced(module, bundle, opset_version)
        folds = find_folds(program.model_proto, network, state, _weights_read(program))
    if isinstance(folds, str):  # then only its own weights make the graph, and no refit is possible
        model = _traced(module, bundle, opset_version).model_proto
        set_metadata(model, NOT_REFITTABLE, folds)
    else:
        model = program.model_proto
        folds |= write_gamma(model, gamma)
        write_weights(model, folds, state_arrays(network), gamma)
        set_metadata(model, FOLDS, json.dumps(folds_to_json(folds)))
    stamp(model, bundle)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return model


def _traced(module: nn.Module, bundle: Bundle, opset_version: int | None) -> torch.onnx.ONNXProgram:
    """``module`` as a graph, with the errors of `write_graph`."""
    spec = bundle.manifest.input
    example = torch.zeros((1, spec.height, spec.width, 3), dtype=torch.uint8)
    outputs = ["labels", "logits"] if isinstance(module, SegmenterWithLogits) else ["labels"]
    try:
        with torch.inference_mode(), _quiet():
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                input_names=["image"],
                output_names=outputs,
                opset_version=opset_version,
                optimize=False,
                verbose=False,
            )
            assert program is not None  # torch.onnx.export returns one when no path is given
            simplify(program)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Exporting needs {error.name}: pip install 'roadshift[adapt]'."
        ) from error
    except Exception as error:  # the exporter wraps what the network raised in its own ways
        raise NetworkError(
            f"{bundle.path}: network '{bundle.manifest.network.name}' cannot be exported to ONNX "
            f"({_cause(error)}); its forward may not branch on values and may only use operators "
            "that ONNX has."
        ) from error
    written = opset(program.model_proto)
    if opset_version not in (None, written):
        raise NetworkError(
            f"{bundle.path}: network '{bundle.manifest.network.name}' has operators that cannot be "
            f"written in opset {opset_version}; choose {arg('opset')} {written} or newer."
        )
    return program


def _weights_read(program: torch.onnx.ONNXProgram) -> set[str]:
    """Keys of the network's state dict that something in the trace reads."""
    exported = program.exported_program
    assert exported is not None
    signature = exported.graph_signature
    read = {n.name for n in exported.graph.nodes if n.op == "placeholder" and n.users}
    keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    # "network." or "segmenter.network.": where the network is in what was traced
    return {key.partition("network.")[2] for name, key in keys.items() if name in read}


def _cause(error: BaseException) -> str:
    """The innermost exception's first line: the exporter's own are pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def stamp(model: onnx.ModelProto, bundle: Bundle) -> None:
    """Write into a graph's metadata which bundle it is of."""
    manifest = bundle.manifest
    told = {
        "version": __version__,
        "bundle": bundle.hash,
        "network": manifest.network.model_dump_json(),
        "label_space": json.dumps(manifest.label_space),
        "input": manifest.input.model_dump_json(),
    }
    for key, value in told.items():
        set_metadata(model, f"roadshift.{key}", value)


def compare(
    segmenter: Segmenter, model: onnx.ModelProto, evaluation: EvaluationData
) -> tuple[Parity, list[NDArray[np.uint8]]]:
    """Run both on every frame, on the CPU in float32; also torch's labels of each."""
    if not evaluation.frames:
        raise ValueError("compare: at least one frame is needed")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _with_scores(model), options, providers=["CPUExecutionProvider"]
    )
    same = pixels = apart = 0
    difference = largest = 0.0
    kept = []
    for frame in evaluation.frames:
        image = np.ascontiguousarray(frame)[None]
        with torch.inference_mode():
            expected = segmenter.scores(torch.from_numpy(image))[0].numpy()
        labels, scores = session.run(["labels", _SCORES], {"image": image})
        kept.append(expected[0].argmax(axis=0).astype(np.uint8))
        same += int((labels[0] == kept[-1]).sum())
        pixels += labels.size
        # np.maximum keeps a nan, which then fails the check; max() would drop it
        by_pixel = np.abs(scores - expected).max(axis=1)
        difference = float(np.maximum(difference, by_pixel.max()))
        largest_here = float(np.abs(expected).max())
        largest = float(np.maximum(largest, largest_here))
        apart += int((~(by_pixel <= _allowed(largest_here))).sum())
    parity = Parity(
        100 * same / pixels,
        difference,
        largest,
        len(evaluation.frames),
        evaluation.compared_on,
        100 * apart / pixels,
    )
    return parity, kept


def check_parity(parity: Parity, min_agreement: float, what: str) -> None:
    """Refuse a model that is not the same as another.

    Raises:
        ParityError: the logits are not finite.
        FloorError: labels or logits differ more than is allowed, by how much.
    """
    if not math.isfinite(parity.max_logit):
        raise ParityError(
            f"{what} was not written: its torch model gives logits that are not finite on "
            f"{parity.compared_on}; {GO_BACK}."
        )
    if not parity.label_agreement >= min_agreement:
        advice = (
            f"check that the network computes the same in every run, or set {arg('min_agreement')}"
            if math.isfinite(parity.max_difference)
            else "its logits are not numbers where torch's are: look for divisions by, roots and "
            "logarithms of nearly 0 in the network's forward"
        )
        raise FloorError(
            f"{what} agrees with its torch model on {parity.label_agreement:.3f} % of the pixels "
            f"of {counted(parity.frames, 'frame')}, less than {min_agreement} %, and was "
            f"not written; {advice}.",
            metric="label_agreement",
            measured=parity.label_agreement,
            limit=min_agreement,
        )
    allowed = _allowed(parity.max_logit)
    few = parity.apart <= MOST_APART and math.isfinite(parity.max_difference)
    if not (parity.max_difference <= allowed or few):
        raise FloorError(
            f"{what} differs from its torch model by {parity.max_difference:.2e} in a logit, more "
            f"than {allowed:.2e}, on {parity.apart:.2f} % of the pixels, of which {MOST_APART} % "
            "may, and was not written; check that the network computes the same in every run and "
            "for every frame.",
            metric="logit_difference",
            measured=parity.max_difference,
            limit=allowed,
        )


def _allowed(max_logit: float) -> float:
    """Largest difference of two logits that counts as rounding."""
    return MAX_RELATIVE_DIFFERENCE * max(max_logit, 1.0)


_SCORES = "roadshift_scores"


def _with_scores(model: onnx.ModelProto) -> bytes:
    """The model with the argmax's input as one more output, to compare numbers as well."""
    copy = deepcopy(model)
    argmax = [node for node in copy.graph.node if node.op_type == "ArgMax"][-1]
    copy.graph.node.append(onnx.helper.make_node("Identity", [argmax.input[0]], [_SCORES]))
    copy.graph.output.append(
        onnx.helper.make_tensor_value_info(_SCORES, onnx.TensorProto.FLOAT, None)
    )
    data: bytes = copy.SerializeToString()
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter logs and prints pages of its own workings; its failures are exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
