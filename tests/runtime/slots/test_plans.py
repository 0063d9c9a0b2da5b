"""TensorRT plans beside the slots: built, found, refused and removed.

CUDA and TensorRT are stand-ins; the builder's runs the ONNX model that it was given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_builder import OnnxTensorRT
from fake_cuda import Driver, FakeCudart, use_driver
from fleets import HEALTHY, Fleet
from roadshift.runtime.bundle import Bundle, extend_bundle
from roadshift.runtime.engines import cuda as cuda_module
from roadshift.runtime.engines import open_engine, tensorrt_library
from roadshift.runtime.errors import ConfigError, EngineError, SlotError
from roadshift.runtime.signing import sign_bundle
from roadshift.runtime.slots import (
    PlanBuilder,
    SlotState,
    build_plans,
    commit,
    install,
    start_of_run,
    try_model,
)
from roadshift.runtime.slots.plans import open_with_plan
from roadshift.runtime.slots.serving import SlotEngine
from signed_bundles import small_bundle

BATCH = np.random.default_rng(0).integers(0, 256, (1, 16, 32, 3), dtype=np.uint8)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> OnnxTensorRT:
    """A GPU, a driver and TensorRT 10.16.1."""
    cudart = FakeCudart()
    library = OnnxTensorRT(cudart)
    use_driver(monkeypatch, Driver())
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr(cuda_module, "load_cudart", lambda: cudart)
    monkeypatch.setattr(tensorrt_library, "find_spec", lambda _: True)
    return library


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


class Said(list[str]):
    """A list of the sentences that were noted."""

    def __contains__(self, part: object) -> bool:
        return any(str(part) in sentence for sentence in self)


def installed(fleet: Fleet, version: int, builder: PlanBuilder, **parts: object) -> SlotState:
    bundle = fleet.model(version, **parts)
    install(fleet.store, bundle.path, fleet.trust, plans=builder)
    return fleet.store.state()


def with_foreign_plan(fleet: Fleet, version: int) -> Bundle:
    """A signed bundle with a plan of another machine."""
    bundle = small_bundle(fleet.folder / f"v{version}", version, self_test=True, mark=version)
    elsewhere = {"flavour": "tensorrt", "version": "10.7.0", "gpu": "NVIDIA Orin"}
    details = {**elsewhere, "compute_capability": "8.7"}
    with extend_bundle(bundle) as writer:
        writer.add_bytes(
            "model-fp32.plan", b"native code", kind="tensorrt", precision="fp32", details=details
        )
        bundle = writer.commit()
    sign_bundle(bundle, fleet.key, version=version)
    return bundle


def running(fleet: Fleet) -> Bundle:
    """The active model as a run opens it."""
    active = start_of_run(fleet.store, fleet.trust).active
    assert active is not None
    return active


def plans_of(fleet: Fleet) -> list[Path]:
    return sorted((fleet.store.path / "plans").glob("*.plan"))


def one_byte_other(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_plan_is_built_recorded_used_and_removed_with_its_slot(
    fleet: Fleet, trt: OnnxTensorRT
) -> None:
    steps = list[tuple[int, int]]()
    builder = PlanBuilder("fp32", report=lambda done, total, _: steps.append((done, total)))
    state = installed(fleet, 1, builder)
    plan = state.slots["a"].plan
    assert plan is not None
    assert plan.details["gpu"] == "NVIDIA Test"
    assert steps[-1] == (1000, 1000)
    assert (fleet.store.path / "plans" / "timings").read_bytes() == b"timed;"
    assert fleet.store.audit()[-1].details["plan"] == plan.sha256
    before = {
        path: path.read_bytes()
        for path in fleet.store.folder(state.slots["a"].hash).iterdir()
        if path.is_file()
    }
    try_model(fleet.store, fleet.trust)
    commit(fleet.store, HEALTHY)
    bundle = running(fleet)
    with (
        SlotEngine(fleet.store, fleet.trust) as engine,
        open_engine(bundle, backend="onnxruntime") as other,
    ):
        assert (engine.backend, engine.artefact) == ("tensorrt", "model-fp32.plan")
        np.testing.assert_array_equal(engine.infer(BATCH), other.infer(BATCH))
    assert all(path.read_bytes() == content for path, content in before.items())
    (first,) = plans_of(fleet)
    for version in (2, 3):
        installed(fleet, version, builder)
        try_model(fleet.store, fleet.trust)
        commit(fleet.store, HEALTHY)
    assert first not in plans_of(fleet)  # its slot has another model
    assert len(plans_of(fleet)) == 2
    assert trt.cudart.leaked == {}


def test_a_plan_that_was_brought_and_does_not_fit_is_rebuilt(
    fleet: Fleet, trt: OnnxTensorRT
) -> None:
    bundle = with_foreign_plan(fleet, 1)
    install(fleet.store, bundle.path, fleet.trust, plans=PlanBuilder())
    plan = fleet.store.state().slots["a"].plan
    assert plan is not None
    assert plan.precision == "fp32"
    assert trt.calls.count("deserialize") >= 2  # inspected, then run; the foreign one never
    assert b"native code" not in plans_of(fleet)[0].read_bytes()


def test_a_bundle_without_a_plan_gets_none_unless_asked(fleet: Fleet, trt: OnnxTensorRT) -> None:
    assert installed(fleet, 1, PlanBuilder()).slots["a"].plan is None
    with pytest.raises(EngineError, match="no ONNX model in fp16 to build a TensorRT plan of"):
        installed(fleet, 2, PlanBuilder("fp16"))
    with pytest.raises(ConfigError, match=r"'fp7'.* use auto, none, fp32"):
        PlanBuilder("fp7")
    assert trt.calls == []


def test_the_same_graph_signed_again_is_not_built_again(fleet: Fleet, trt: OnnxTensorRT) -> None:
    installed(fleet, 1, PlanBuilder("fp32"))
    try_model(fleet.store, fleet.trust)
    commit(fleet.store, HEALTHY)
    state = installed(fleet, 2, PlanBuilder("fp32"), weights_of=1)
    assert len(trt.configs) == 1
    assert state.slots["a"].plan == state.slots["b"].plan
    assert len(plans_of(fleet)) == 1


@pytest.mark.parametrize("damage", [one_byte_other, os.unlink])
def test_a_plan_that_was_changed_is_never_loaded_and_built_anew(
    fleet: Fleet, trt: OnnxTensorRT, damage: Callable[[Path], None]
) -> None:
    installed(fleet, 1, PlanBuilder("fp32"))
    try_model(fleet.store, fleet.trust)
    commit(fleet.store, HEALTHY)
    damage(plans_of(fleet)[0])
    trt.calls.clear()
    with open_with_plan(open_engine, running(fleet)) as engine:
        assert engine.backend == "onnxruntime"
        assert "roadshift slot build makes it anew" in engine.reason
    assert trt.calls == []
    assert build_plans(fleet.store, fleet.trust, PlanBuilder()) == ["a"]
    assert fleet.store.audit()[-1].event == "plan built"
    with open_with_plan(open_engine, running(fleet)) as engine:
        assert engine.backend == "tensorrt"
    assert build_plans(fleet.store, fleet.trust, PlanBuilder()) == []


def test_another_tensorrt_makes_a_plan_stale_until_it_is_built_anew(
    fleet: Fleet, trt: OnnxTensorRT
) -> None:
    installed(fleet, 1, PlanBuilder("fp32"))
    try_model(fleet.store, fleet.trust)
    commit(fleet.store, HEALTHY)
    trt.__version__ = "10.17.0"
    with open_with_plan(open_engine, running(fleet)) as engine:
        assert engine.backend == "onnxruntime"
        assert "with tensorrt 10.16.1, and 10.17.0 is installed" in engine.reason
        assert "`roadshift slot build`" in engine.reason
    old = plans_of(fleet)
    assert build_plans(fleet.store, fleet.trust, PlanBuilder()) == ["a"]
    assert len(plans_of(fleet)) == 1
    assert plans_of(fleet) != old
    with open_with_plan(open_engine, running(fleet)) as engine:
        assert engine.backend == "tensorrt"


@pytest.mark.parametrize("name", ["", "state.json"])
@pytest.mark.usefixtures("trt")
def test_a_plan_is_not_loaded_where_others_could_have_placed_it(
    fleet: Fleet, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(fleet, 1, PlanBuilder("fp32"))
    try_model(fleet.store, fleet.trust)
    commit(fleet.store, HEALTHY)
    path = fleet.store.path / name
    assert running(fleet).beside
    with monkeypatch.context() as other:
        other.setattr(os, "geteuid", lambda: os.stat(path).st_uid + 1)
        expected = os.stat(path).st_uid == 0  # root's are anybody's to run
        assert bool(running(fleet).beside) is expected
    path.chmod(path.stat().st_mode | 0o020)
    with open_with_plan(open_engine, running(fleet)) as engine:
        assert engine.backend == "onnxruntime"
    assert f"chmod go-w {path}" in caplog.text
    said = Said()
    assert build_plans(fleet.store, fleet.trust, PlanBuilder(note=said.append)) == []
    assert "no TensorRT plan is built of model" in said


def test_slots_are_writable_by_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        fleet = Fleet(tmp_path)
        fleet.running(1)
    finally:
        os.umask(old)
    for path in (fleet.store.path, fleet.store.path / "state.json"):
        assert not path.stat().st_mode & 0o022


def test_without_a_gpu_the_model_is_installed_and_it_is_said(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_driver(monkeypatch, None)
    said = Said()
    state = installed(fleet, 1, PlanBuilder("fp32", note=said.append))
    assert state.slots["a"].plan is None
    assert ": no CUDA driver found (libcuda.so.1); it needs an NVIDIA GPU" in said


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"cannot_parse": True}, "does not take"),
        ({"cannot_build": True}, "cannot build"),
        ({"computes_in": ["INT8"]}, "should compute in fp32"),
        ({"forgets": "w"}, "of the labels that its export recorded"),
    ],
)
def test_a_plan_that_cannot_be_built_or_is_wrong_costs_no_installation(
    fleet: Fleet, trt: OnnxTensorRT, settings: dict[str, object], sentence: str
) -> None:
    trt.settings.update(settings)
    said = Said()
    state = installed(fleet, 1, PlanBuilder("fp32", note=said.append))
    assert state.slots["a"].plan is None
    assert sentence in said
    assert [path.name for path in (fleet.store.path / "plans").iterdir()] in ([], ["timings"])


def test_what_stops_a_build_stops_it_and_leaves_nothing(fleet: Fleet, trt: OnnxTensorRT) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        installed(fleet, 1, PlanBuilder("fp32", report=stop))
    assert fleet.store.state().slots == {}
    assert trt.calls == []


def test_building_waits_for_nobody_and_nobody_builds_while_another_installs(fleet: Fleet) -> None:
    fleet.running(1)
    with fleet.store.installing(), pytest.raises(SlotError, match="another program is changing"):
        build_plans(fleet.store, fleet.trust, PlanBuilder("fp32"))
