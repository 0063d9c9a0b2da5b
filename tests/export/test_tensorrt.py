"""Plans: built in the precision of their graph, refitted with the next weights, refused with words.

TensorRT's builder is a stand-in that runs the ONNX model it was given; the real parser and builder,
of TensorRT for RTX, take graphs in test_every_network.py. What only a GPU shows is in tests/gpu.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_cases import RGB, frames_of, stays_as_it_is, write_source
from fake_builder import OnnxTensorRT
from fake_cuda import Driver, FakeCudart, use_driver
from onnx import numpy_helper
from roadshift.export.artefacts import export_bundle, export_onnx
from roadshift.export.calibration import collect
from roadshift.export.data_splits import EvaluationData
from roadshift.export.judge import Floors
from roadshift.export.plan_maker import PlanOptions
from roadshift.export.quantise import quantise, quantised_values
from roadshift.export.refit import base_to_refit
from roadshift.export.tensorrt import prepare_plans
from roadshift.export.weight_origins import folds_from_json, read_folds
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec, extend_bundle, open_bundle
from roadshift.runtime.engines import cuda as cuda_module
from roadshift.runtime.engines import open_engine
from roadshift.runtime.engines.tensorrt_build import (
    build_plan,
    cache_file,
    check_precision,
    inspect_plan,
)
from roadshift.runtime.engines.tensorrt_library import load_tensorrt
from roadshift.runtime.errors import (
    BundleError,
    ConfigError,
    EngineError,
    MissingDependencyError,
    ParityError,
    RoadshiftError,
)
from roadshift.runtime.probes.driver import Gpu

TINY = NetworkSpec(name="tiny_network:build")
OWN = TINY.modules
FRAMES = frames_of(RGB)
LOOSE = Floors(80)  # drawn weights leave most pixels undecided


def draw(network: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not name.endswith("running_var"):
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle exported to ONNX in fp32 and fp16, and one that was adapted from it."""
    folder = tmp_path_factory.mktemp("originals")
    base = write_source(folder / "a" / "base", TINY)
    export_onnx(base, EvaluationData(FRAMES, "scenes"), precisions=("fp32", "fp16"))
    changed = RGB.model_copy(update={"gamma": 0.7})  # as tone alignment may
    adapted = write_source(folder / "b" / "adapted", TINY, changed, lambda n: draw(n, 1))
    return base.path, adapted.path


@dataclass
class Workshop:
    """A machine with a GPU, a base bundle and an adapted one on it."""

    base: Path
    adapted: Path
    trt: OnnxTensorRT
    cudart: FakeCudart

    def build(self, **options: Any) -> Bundle:
        return self.export(self.base, ("tensorrt",), **options)

    def refit(self, **options: Any) -> Bundle:
        plans = PlanOptions(refit=open_bundle(self.base))
        return self.export(self.adapted, ("tensorrt",), plans=plans, **options)

    def export(self, path: Path, to: tuple[str, ...], **options: Any) -> Bundle:
        export_bundle(
            open_bundle(path, allow_networks=OWN), to, **{"precisions": ("fp16",), **options}
        )
        return open_bundle(path, allow_networks=OWN)


def no_kernel(*_: Any) -> None:
    """A device that is none takes no kernel."""
    raise MissingDependencyError("no NVRTC to compile a kernel with")


@pytest.fixture
def workshop(
    originals: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workshop:
    base, adapted = tmp_path / "a" / "base", tmp_path / "b" / "adapted"
    for source, copy in zip(originals, (base, adapted), strict=True):
        shutil.copytree(source, copy)
    cudart = FakeCudart()
    trt = OnnxTensorRT(cudart)
    use_driver(monkeypatch, Driver())
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(cuda_module, "load_cudart", lambda: cudart)
    monkeypatch.setattr("roadshift.export.tensorrt.load_cudart", lambda: cudart)
    monkeypatch.setattr("roadshift.runtime.engines.tensorrt_engine.UpsampleKernel", no_kernel)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Workshop(base, adapted, trt, cudart)


def labels_of(bundle: Bundle, backend: str, **options: Any) -> list[np.ndarray]:
    with open_engine(bundle, backend=backend, **options) as engine:
        return [engine.segment(frame) for frame in FRAMES]


def agree(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return float(np.mean([np.mean(x == y) for x, y in zip(a, b, strict=True)]))


REFITTABLE = PlanOptions(refittable=True)


# ---- building -----------------------------------------------------------------------------------


def test_a_plan_says_what_it_was_built_from_and_for(workshop: Workshop) -> None:
    bundle = workshop.build()
    plan = bundle.artefact(kind="tensorrt", name="model-fp16.plan")
    graph = bundle.artefact(kind="onnx", name="model-fp16.onnx")
    weights = bundle.artefact(kind="weights")
    assert plan is not None
    assert graph is not None
    assert weights is not None
    assert (plan.precision, plan.target) == ("fp16", "tensorrt")
    parity = plan.details.pop("parity")
    seconds = plan.details.pop("build_s")
    assert plan.details == {
        "flavour": "tensorrt",
        "version": "10.16.1",
        "gpu": "NVIDIA Test",
        "compute_capability": "8.7",
        "driver": "CUDA 12.8",
        "onnx": {"path": "model-fp16.onnx", "sha256": graph.sha256},
        "weights_sha256": weights.sha256,
        "refittable": False,
        "outputs": ["labels"],
        "layers": {"fp16": 3},
        "exported_from": plan.details["exported_from"],
        **({"argmax": graph.details["argmax"]} if "argmax" in graph.details else {}),
    }
    assert isinstance(parity, dict)
    assert parity["label_agreement"] > 99.8
    assert parity["compared_with"] == "torch in fp32"
    assert isinstance(seconds, float)
    assert agree(labels_of(bundle, "tensorrt"), labels_of(bundle, "torch")) > 0.998
    assert workshop.cudart.leaked == {}


def test_networks_are_strongly_typed_without_tf32_or_precision_flags(workshop: Workshop) -> None:
    workshop.build(plans=PlanOptions(workspace_bytes=1 << 30))
    (config,) = workshop.trt.configs
    assert workshop.trt.network_flags == [1 << 3]
    assert config.set == set()
    assert config.limits == {"WORKSPACE": 1 << 30}
    assert config.profiling_verbosity == "DETAILED"


def test_timings_are_kept_by_gpu_and_version_and_used_again(
    workshop: Workshop, tmp_path: Path
) -> None:
    workshop.build()
    (file,) = (tmp_path / "cache/roadshift").iterdir()
    assert file.name == "tensorrt-10.16.1-NVIDIA-Test-8.7.timing"
    assert file.read_bytes() == b"timed;"
    workshop.build()
    assert file.read_bytes() == b"timed;timed;"
    file.write_bytes(b"another machine")
    workshop.build()
    assert file.read_bytes() == b"timed;"
    library = load_tensorrt("tensorrt")
    assert cache_file(library, Gpu("NVIDIA Orin", "8.7", "1")).name != file.name


def test_a_cache_that_cannot_be_written_costs_no_build(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert workshop.build().artefact(kind="tensorrt") is not None


def test_progress_goes_up_to_the_whole(workshop: Workshop) -> None:
    seen: list[tuple[int, int, str]] = []
    workshop.build(report=lambda *step: seen.append(step))
    shares = [done for done, of, _ in seen if of == 1000]
    assert shares == sorted(shares)
    assert sorted(set(shares)) == [0, 500, 750, 1000]
    assert "fp16: Timing" in {text for _, _, text in seen}


def test_an_interrupt_stops_the_build_and_writes_nothing(workshop: Workshop) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with stays_as_it_is(open_bundle(workshop.base)), pytest.raises(KeyboardInterrupt):
        workshop.build(report=interrupt)


def test_models_that_are_not_there_are_exported_first(workshop: Workshop) -> None:
    record = export_bundle(
        open_bundle(workshop.adapted, allow_networks=OWN), ("tensorrt",), precisions=("fp32",)
    )
    assert [row["path"] for row in record["artefacts"]] == ["model.onnx", "model-fp32.plan"]
    row = record["artefacts"][1]
    assert (row["format"], row["precision"], row["layers"]) == ("tensorrt", "fp32", {"fp32": 3})
    json.dumps(record)


def test_silent_fp32_is_refused(workshop: Workshop) -> None:
    workshop.trt.settings["computes_in"] = ["FLOAT", "HALF", "FLOAT"]
    with (
        stays_as_it_is(open_bundle(workshop.base)),
        pytest.raises(
            EngineError, match="should compute in fp16, and of its layers 2 in fp32, 1 in"
        ),
    ):
        workshop.build()


def test_a_plan_that_computes_something_else_is_refused(workshop: Workshop) -> None:
    """As TensorRT 11.3 may with a refittable plan, whose biases it can drop."""
    workshop.trt.settings["forgets"] = "bias"
    with (
        stays_as_it_is(open_bundle(workshop.base)),
        pytest.raises(ParityError, match=r"model-fp16\.plan agrees with its torch model on"),
    ):
        workshop.build(plans=REFITTABLE)
    assert workshop.cudart.leaked == {}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cannot_parse": True}, "does not take .*model-fp16.onnx: no importer for Foo"),
        ({"cannot_build": True}, "cannot build .*model-fp16.onnx: no tactic for node_Conv_1"),
    ],
)
def test_what_tensorrt_refuses_it_says_in_its_own_words(
    workshop: Workshop, settings: dict[str, Any], says: str
) -> None:
    workshop.trt.settings.update(settings)
    with stays_as_it_is(open_bundle(workshop.base)), pytest.raises(EngineError, match=says):
        workshop.build()


def quantised(folder: Path, loud: float = 1.0) -> Bundle:
    """An int8 model in a bundle; its first layer, which is spared, gives ``loud`` times as much."""

    def change(network: Any) -> None:
        for tensor in network.first.parameters():
            tensor.data *= loud
        network.second.weight.data /= loud

    spec = NetworkSpec(name=TINY.name, arguments={"norm": False})
    bundle = write_source(folder, spec, change=change)
    bundle = export_onnx(bundle, EvaluationData(FRAMES, "scenes"))
    full = onnx.load(bundle.path / "model.onnx")
    ranges = {
        name: histogram.range("minmax")
        for name, histogram in collect(full, quantised_values(full, "int8"), FRAMES).items()
    }
    onnx.save(quantise(full, "int8", ranges, ["first"]), bundle.path / "int8")
    with extend_bundle(bundle) as writer:
        writer.add_file(
            "model-int8.onnx",
            bundle.path / "int8",
            kind="onnx",
            precision="int8",
            details={"outputs": ["labels"]},
        )
        return writer.commit()


def test_what_is_not_quantised_is_built_in_fp16(workshop: Workshop, tmp_path: Path) -> None:
    bundle = quantised(tmp_path / "q" / "bundle")
    bundle = workshop.export(bundle.path, ("tensorrt",), precisions=("int8",), floors=LOOSE)
    plan = bundle.artefact(kind="tensorrt")
    graph = bundle.artefact(kind="onnx", name="model-int8.onnx")
    assert plan is not None
    assert graph is not None
    assert (plan.details["unquantised"], plan.details["layers"]) == ("fp16", {"fp16": 1, "int8": 2})
    assert plan.details["onnx"] == {"path": graph.path, "sha256": graph.sha256}
    kinds = {w.data_type for w in onnx.load(bundle.file(graph)).graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds  # the ONNX model stays as it was


@pytest.mark.parametrize(
    ("loud", "said"),
    [(1e5, "in fp16 the model falls below its floor"), (1e8, "fp16 cannot hold weight 'network.")],
)
def test_what_fp16_cannot_hold_stays_in_fp32_and_that_is_said(
    workshop: Workshop, tmp_path: Path, loud: float, said: str
) -> None:
    notes: list[str] = []
    bundle = quantised(tmp_path / "q" / "bundle", loud)
    bundle = workshop.export(
        bundle.path, ("tensorrt",), precisions=("int8",), floors=LOOSE, note=notes.append
    )
    plan = bundle.artefact(kind="tensorrt")
    assert plan is not None
    assert (plan.details["unquantised"], plan.details["layers"]) == ("fp32", {"fp32": 1, "int8": 2})
    assert any("what is not quantised stays in fp32" in note and said in note for note in notes)


# ---- refitting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_next_weights_go_into_the_plan_and_the_graph(
    workshop: Workshop, precision: str
) -> None:
    base = workshop.build(plans=REFITTABLE, precisions=(precision,))
    assert workshop.trt.configs[0].set == {"REFIT"}
    adapted = workshop.refit(precisions=(precision,))
    expected = labels_of(adapted, "torch")
    assert agree(expected, labels_of(base, "torch")) < 0.95
    assert agree(labels_of(adapted, "tensorrt"), expected) > 0.998
    assert agree(labels_of(adapted, "onnxruntime", device="cpu"), expected) > 0.998
    assert len(workshop.trt.configs) == 1  # nothing was built again
    plan = adapted.artefact(kind="tensorrt")
    weights = adapted.artefact(kind="weights")
    assert plan is not None
    assert weights is not None
    assert plan.details["refitted_from"] == base.hash
    assert plan.details["weights_sha256"] == weights.sha256
    assert isinstance(plan.details["refit_s"], float)
    assert workshop.cudart.leaked == {}


def test_plans_that_end_in_logits_are_built_run_and_refitted_alike(workshop: Workshop) -> None:
    base = workshop.export(workshop.base, ("onnx", "tensorrt"), argmax="runtime", plans=REFITTABLE)
    plan = base.artefact(kind="tensorrt")
    assert plan is not None
    assert (plan.details["argmax"], plan.details["outputs"]) == ("runtime", ["logits"])
    adapted = workshop.refit()
    expected = labels_of(adapted, "torch")
    for bundle, labels in ((base, labels_of(base, "torch")), (adapted, expected)):
        assert agree(labels_of(bundle, "tensorrt"), labels) > 0.998
    assert agree(labels_of(adapted, "onnxruntime", device="cpu"), expected) > 0.998


def test_a_refitted_plan_can_be_refitted_again(workshop: Workshop, tmp_path: Path) -> None:
    workshop.build(plans=REFITTABLE)
    adapted = workshop.refit()
    third = write_source(tmp_path / "c" / "third", TINY, RGB, lambda n: draw(n, 2))
    workshop.export(third.path, ("tensorrt",), plans=PlanOptions(refit=adapted))
    third = open_bundle(third.path, allow_networks=OWN)
    assert agree(labels_of(third, "tensorrt"), labels_of(third, "torch")) > 0.998


def test_the_map_in_the_manifest_is_that_of_the_graph(workshop: Workshop) -> None:
    bundle = workshop.build(plans=REFITTABLE)
    plan = bundle.artefact(kind="tensorrt")
    assert plan is not None
    listed = plan.details["folds"]
    assert isinstance(listed, dict)
    assert folds_from_json(listed) == read_folds(onnx.load(bundle.path / "model-fp16.onnx"))
    assert listed["network.first.weight"] == {
        **{"how": "weight", "conv": "first", "norm": "first_norm", "eps": 1e-5, "axis": 0}
    }


def edit(path: Path, **details: Any) -> None:
    """Change what a manifest says about its plan."""
    bundle = open_bundle(path)
    plan = bundle.artefact(kind="tensorrt")
    assert plan is not None
    with extend_bundle(bundle) as writer:
        data = (path / plan.path).read_bytes()
        writer.add_bytes(
            plan.path,
            data,
            kind="tensorrt",
            precision=plan.precision,
            details={**plan.details, **details},
        )
        writer.commit()


def lose_a_weight(workshop: Workshop) -> None:
    plan = open_bundle(workshop.base).artefact(kind="tensorrt")
    assert plan is not None
    listed = plan.details["folds"]
    assert isinstance(listed, dict)
    edit(workshop.base, folds={n: f for n, f in listed.items() if n != "network.classifier.bias"})


def export_the_graph_again(workshop: Workshop) -> None:
    bundle = open_bundle(workshop.base)
    with extend_bundle(bundle) as writer:
        data = (workshop.base / "model-fp16.onnx").read_bytes() + b"\x72\x00"
        writer.add_bytes("model-fp16.onnx", data, kind="onnx", precision="fp16")
        writer.commit()


def another_network(workshop: Workshop) -> None:
    shutil.rmtree(workshop.adapted)
    spec = NetworkSpec(name="tiny_network:build", arguments={"norm": False})
    write_source(workshop.adapted, spec)


def no_gamma(workshop: Workshop) -> None:
    shutil.rmtree(workshop.adapted)
    write_source(workshop.adapted, TINY, RGB.model_copy(update={"gamma": 1.0}))


def another_size(workshop: Workshop) -> None:
    shutil.rmtree(workshop.adapted)
    write_source(workshop.adapted, TINY, InputSpec(**{**RGB.model_dump(), "width": 64}))


def setting(**settings: Any) -> Callable[[Workshop], None]:
    return lambda workshop: workshop.trt.settings.update(settings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: edit(w.base, refittable=False), "was not built with refittable=True"),
        (lambda w: edit(w.base, gpu="NVIDIA Orin"), "for NVIDIA Orin, and this is .*rebuild"),
        (lambda w: edit(w.base, version="11.4"), "with tensorrt 11.4, and 10.16.1 is .*rebuild"),
        (lose_a_weight, "map of weights lacks network.classifier.bias"),
        (export_the_graph_again, "built from another model-fp16.onnx"),
        (another_network, "differ in network, and a refit swaps weights alone"),
        (another_size, "differ in input, and"),
        (no_gamma, "differ in whether pixels are raised to a gamma"),
        (setting(constant=["network.first.bias"]), "network.first.*bias .* for constants"),
        (setting(missing=["scale of something"]), "wants scale of something as well"),
        (setting(refuses=True), "could not refit"),
    ],
)
def test_what_stands_in_the_way_of_a_refit_is_a_sentence(
    workshop: Workshop, change: Callable[[Workshop], None], says: str
) -> None:
    workshop.build(plans=REFITTABLE)
    if "network.first" in says:
        graph = read_folds(onnx.load(workshop.base / "model-fp16.onnx"))
        assert graph is not None
        name = next(n for n, fold in graph.items() if fold.how == "bias")
        workshop.trt.settings["constant"] = [name]
        says = f"{name} of .* for constants"
    else:
        change(workshop)
    before = open_bundle(workshop.adapted)
    with stays_as_it_is(before), pytest.raises(EngineError, match=says) as info:
        workshop.refit()
    assert "build" in str(info.value)


def test_without_a_plan_to_refit_it_says_how_to_build_one(workshop: Workshop) -> None:
    with pytest.raises(EngineError, match=r"has no model-fp16.plan to refit; .*refittable=True"):
        workshop.refit()


def test_a_plan_that_was_changed_is_not_refitted(workshop: Workshop) -> None:
    base = workshop.build(plans=REFITTABLE)
    plans = PlanOptions(refit=base)
    file = base.path / "model-fp16.plan"
    file.write_bytes(file.read_bytes().replace(b"10.16.1", b"10.16.2"))
    with pytest.raises(BundleError, match="was changed after it was written"):
        workshop.export(workshop.adapted, ("tensorrt",), plans=plans)


def test_weights_that_a_precision_cannot_hold_are_refused_by_name(
    workshop: Workshop, tmp_path: Path
) -> None:
    base = workshop.build(plans=REFITTABLE)
    large = write_source(
        tmp_path / "c" / "large", TINY, RGB, lambda n: n.state_dict()["classifier.weight"].mul_(1e7)
    )
    with pytest.raises(ParityError, match=r"classifier.weight' reaches .* float16 cannot hold"):
        workshop.export(large.path, ("tensorrt",), plans=PlanOptions(refit=base))


def test_a_graph_without_a_map_cannot_be_built_refittable(workshop: Workshop) -> None:
    file = workshop.base / "model-fp16.onnx"
    model = onnx.load(file)
    kept = [entry for entry in model.metadata_props if "folds" not in entry.key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    with extend_bundle(open_bundle(workshop.base)) as writer:
        writer.add_bytes(file.name, model.SerializeToString(), kind="onnx", precision="fp16")
        writer.commit()
    with pytest.raises(EngineError, match="cannot be built refittable=True: it lacks the map"):
        workshop.build(plans=REFITTABLE)


# ---- options, and what is missing ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "options", "says"),
    [
        (("onnx",), {"plans": REFITTABLE}, "refittable=True, refit and workspace_mib are for"),
        (("onnx", "tensorrt"), {"refit": True}, r"use it with formats=\('tensorrt',\) alone"),
        (("tensorrt", "trt"), {}, "this version exports to onnx, tensorrt"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    workshop: Workshop, to: tuple[str, ...], options: dict[str, Any], says: str
) -> None:
    if options.pop("refit", False):
        options["plans"] = PlanOptions(refit=open_bundle(workshop.base))
    with pytest.raises(ConfigError, match=says):
        workshop.export(workshop.base, to, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precisions": ("fp16",), "argmax": "runtime"}, "argmax would change nothing"),
        ({"precisions": ("fp16",), "with_logits": True}, "logits would change nothing"),
        ({"precisions": ("int8",), "calibration": ["drive"]}, "calibration would change nothing"),
    ],
)
def test_options_of_onnx_models_that_are_there_already_are_refused(
    workshop: Workshop, options: dict[str, Any], said: str
) -> None:
    model = (workshop.base / "model.onnx").read_bytes()
    with extend_bundle(open_bundle(workshop.base)) as writer:
        writer.add_bytes("model-int8.onnx", model, kind="onnx", precision="int8")
        writer.commit()
    with pytest.raises(ConfigError, match=rf"{said}.*formats=\('onnx', 'tensorrt'\)"):
        workshop.build(**options)


def test_quantised_engines_are_rebuilt_and_say_why(workshop: Workshop) -> None:
    bundle = workshop.build(plans=REFITTABLE)
    for attempt in (
        lambda: prepare_plans(["fp16", "int8"], ["tensorrt"], REFITTABLE),
        lambda: base_to_refit(bundle, open_bundle(workshop.adapted), "fp8"),
    ):
        with pytest.raises(RoadshiftError, match=r"engines are rebuilt, .* kept timings make it"):
            attempt()
    with pytest.raises(
        ConfigError, match=r"precisions int8-cpu is not for formats=\('tensorrt',\)"
    ):
        prepare_plans(["int8-cpu"], ["tensorrt"], None)


def test_missing_packages_and_drivers_are_sentences(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'roadshift\[tensorrt\]'"):
        workshop.build()
    use_driver(monkeypatch, None)
    with pytest.raises(
        EngineError, match=r"libcuda.so.1.*with pip install 'roadshift\[tensorrt\]'"
    ):
        workshop.build()


@pytest.mark.no_gpu
def test_the_command_says_what_to_install_and_exits_with_1(originals: tuple[Path, Path]) -> None:
    before = hashlib.sha256((originals[0] / "manifest.json").read_bytes()).hexdigest()
    done = subprocess.run(
        [sys.executable, "-m", "roadshift.cli", "export", str(originals[0]), "--to", "tensorrt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    *notes, error = done.stderr.splitlines()
    assert notes == ["loading torch"]
    assert error.startswith("error: A TensorRT plan is built on the machine that runs it")
    assert "libcuda.so.1" in done.stderr
    assert "pip install 'roadshift[tensorrt]'" in done.stderr
    assert hashlib.sha256((originals[0] / "manifest.json").read_bytes()).hexdigest() == before


# ---- what the inspector says, and the real library ----------------------------------------------


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([{"ParameterType": "Convolution", "Inputs": [{"Format/Datatype": "Half"}]}], {"fp16": 1}),
        (
            [
                {"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
                {
                    "ParameterType": "Convolution",
                    "Inputs": [
                        {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8"}
                    ],
                },
            ],
            {"int8": 1},
        ),
        (
            [{"LayerType": "kgen", "Inputs": [{"DataType": "BF16", "Format": "Linear"}]}],
            {"bf16": 1},
        ),
        ([{"LayerType": "kgen", "Inputs": [{"Format/Datatype": "FP8"}]}], {"fp8": 1}),
        (["only", "names"], {}),
        ([{"LayerType": "Constant", "Inputs": []}], {}),
    ],
)
def test_the_inspector_is_read_as_each_version_writes(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    layers: list[Any],
    expected: dict[str, int],
) -> None:
    from types import SimpleNamespace

    from fake_builder import OnnxEngine

    bundle = workshop.build()
    plan = (bundle.path / "model-fp16.plan").read_bytes()
    text = json.dumps({"Layers": layers})
    inspector = SimpleNamespace(get_engine_information=lambda _: text)
    monkeypatch.setattr(OnnxEngine, "create_engine_inspector", lambda _: inspector)
    assert dict(inspect_plan(load_tensorrt("tensorrt"), plan, "p", None)) == expected


def test_a_precision_is_there_if_fp32_does_not_outnumber_it() -> None:
    from collections import Counter

    check_precision(Counter(fp16=3, fp32=3), "fp16", "p")
    check_precision(Counter(), "fp16", "p")
    for counts in (Counter(fp16=2, fp32=3), Counter(fp32=3), Counter(int8=3)):
        with pytest.raises(EngineError, match="p should compute in fp16"):
            check_precision(counts, "fp16", "p")


def test_the_real_builder_takes_the_graphs_and_finds_a_precision_that_is_not_there(
    originals: tuple[Path, Path],
) -> None:
    pytest.importorskip("tensorrt_rtx")
    library = load_tensorrt("tensorrt_rtx")
    seen: list[int] = []
    for name, precision in (("model.onnx", "fp32"), ("model-fp16.onnx", "fp16")):
        graph = (originals[0] / name).read_bytes()
        plan = build_plan(
            library,
            graph,
            name,
            precision,
            workspace_bytes=1 << 28,
            report=lambda done, *_: seen.append(done),
        )
        assert len(plan) > 10_000
    assert seen[-1] == 1000
    fp32 = (originals[0] / "model.onnx").read_bytes()
    with pytest.raises(EngineError, match="should compute in fp16, and of its layers 3 in fp32"):
        build_plan(library, fp32, "model-fp16.onnx", "fp16")
    with pytest.raises(EngineError, match=r"does not take model.onnx: .*ONNX"):
        build_plan(library, b"nonsense", "model.onnx", "fp32")


def test_an_interrupted_real_build_stops_with_what_interrupted_it(
    originals: tuple[Path, Path],
) -> None:
    """The exception comes out of the build, not out of the library's own code."""
    pytest.importorskip("tensorrt_rtx")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    graph = (originals[0] / "model.onnx").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        build_plan(load_tensorrt("tensorrt_rtx"), graph, "m", "fp32", report=interrupt)


def test_half_graphs_keep_the_map_of_their_weights(originals: tuple[Path, Path]) -> None:
    whole, half = (onnx.load(originals[0] / name) for name in ("model.onnx", "model-fp16.onnx"))
    assert read_folds(whole) == read_folds(half) is not None
    kinds = {w.name: numpy_helper.to_array(w).dtype.name for w in half.graph.initializer}
    assert kinds["network.first.weight"] == "float16"
