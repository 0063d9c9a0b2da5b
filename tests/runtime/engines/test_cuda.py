"""Device memory and graphs: what is asked of CUDA, in which order, and that all is released."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from fake_cuda import TEXTS, Driver, FakeCudart, use_driver
from roadshift.runtime.engines import cuda as module
from roadshift.runtime.engines.cuda import Cuda, load_cudart
from roadshift.runtime.errors import EngineError, MissingDependencyError
from roadshift.runtime.probes import driver


def test_bytes_go_to_the_device_and_come_back() -> None:
    fake = FakeCudart()
    with Cuda(cudart=fake) as cuda:
        source = cuda.pinned((3, 5), np.uint8)
        target = cuda.pinned((3, 5), np.uint8)
        source[...] = np.arange(15).reshape(3, 5)
        buffer = cuda.device_buffer(15)
        cuda.to_device(buffer, source)
        cuda.to_host(target, buffer)
        cuda.synchronize()
        np.testing.assert_array_equal(target, source)
        assert fake.calls[:2] == ["cudaSetDevice", "cudaStreamCreateWithFlags"]


def test_pinned_memory_has_its_shape_and_starts_at_zero() -> None:
    with Cuda(cudart=FakeCudart()) as cuda:
        array = cuda.pinned((2, 3, 4), np.float32)
        assert (array.shape, array.dtype, array.any()) == ((2, 3, 4), np.float32, False)
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_closing_releases_everything_once_the_stream_last() -> None:
    fake = FakeCudart()
    cuda = Cuda(cudart=fake)
    cuda.device_buffer(8)
    cuda.pinned((8,), np.uint8)
    cuda.event()
    cuda.capture(lambda: None)
    before = len(fake.calls)
    cuda.close()
    assert fake.leaked == {}
    assert fake.calls[before:] == [
        *("cudaStreamSynchronize", "cudaGraphExecDestroy", "cudaEventDestroy", "cudaFreeHost"),
        *("cudaFree", "cudaStreamDestroy"),
    ]
    cuda.close()
    assert fake.calls.count("cudaFree") == 1


@pytest.mark.parametrize("broken", ["cudaMalloc", "cudaHostAlloc", "cudaEventCreate"])
def test_a_refusal_names_the_call_and_leaves_the_rest_to_be_released(broken: str) -> None:
    fake = FakeCudart(fail={broken: 2})
    with Cuda(cudart=fake) as cuda:
        makers = {
            "cudaMalloc": lambda: cuda.device_buffer(4),
            "cudaHostAlloc": lambda: cuda.pinned((4,), np.uint8),
            "cudaEventCreate": lambda: cuda.event(),
        }
        for make in makers.values():
            make()
        with pytest.raises(EngineError, match=f"CUDA refused {broken}: out of memory") as info:
            makers[broken]()
        assert "(cudaErrorMemoryAllocation)" in str(info.value)
    assert fake.leaked == {}


def test_no_stream_leaves_nothing_behind() -> None:
    fake = FakeCudart(fail={"cudaStreamCreateWithFlags": 1})
    with pytest.raises(EngineError, match="cudaStreamCreateWithFlags"):
        Cuda(cudart=fake)
    assert fake.leaked == {}


def test_a_captured_graph_does_its_work_at_each_launch_and_not_before() -> None:
    fake = FakeCudart()
    with Cuda(cudart=fake) as cuda:
        source, target = cuda.pinned((4,), np.uint8), cuda.pinned((4,), np.uint8)
        buffer = cuda.device_buffer(4)

        def work() -> None:
            cuda.to_device(buffer, source)
            cuda.to_host(target, buffer)

        launch = cuda.capture(work)
        source[...] = 7
        assert not target.any()
        launch()
        assert (target == 7).all()
        source[...] = 9
        launch()
        assert (target == 9).all()
        assert fake.calls.count("cudaMemcpyAsync") == 2
        assert fake.calls.count("cudaGraphDestroy") == 1


def test_a_capture_that_fails_ends_and_leaves_the_stream_usable() -> None:
    fake = FakeCudart()
    with Cuda(cudart=fake) as cuda:

        def refuse() -> None:
            raise EngineError("not capturable")

        with pytest.raises(EngineError, match="not capturable"):
            cuda.capture(refuse)
        assert fake.capturing is None
        assert fake.calls[-3:] == ["cudaStreamEndCapture", "cudaGraphDestroy", "cudaGetLastError"]
        cuda.capture(lambda: None)()
    assert fake.leaked == {}


def test_a_graph_that_cannot_be_instantiated_is_destroyed() -> None:
    fake = FakeCudart(fail={"cudaGraphInstantiate": 1})
    with Cuda(cudart=fake) as cuda, pytest.raises(EngineError, match="cudaGraphInstantiate"):
        cuda.capture(lambda: None)
    assert fake.leaked == {}


def test_events_tell_the_time_between_them() -> None:
    with Cuda(cudart=FakeCudart()) as cuda:
        first, second = cuda.event(), cuda.event()
        cuda.record(first)
        cuda.record(second)
        cuda.synchronize()
        assert cuda.elapsed_ms(first, second) == 1.0


def test_the_fakes_errors_are_those_of_the_bindings() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    fake = FakeCudart()
    for error, text in TEXTS.items():
        (_, name), (_, said) = fake.cudaGetErrorName(error), fake.cudaGetErrorString(error)
        code = getattr(real.cudaError_t, name.decode())
        assert (int(code), real.cudaGetErrorString(code)[1]) == (error, said)
        assert text == said.decode()


def test_the_bindings_have_every_function_and_constant_that_is_used() -> None:
    """The fake stands in for these; here the real module is held against it."""
    real = pytest.importorskip("cuda.bindings.runtime")
    functions = [name[1:] for name in vars(FakeCudart) if name.startswith("_cuda")]
    functions += [*FakeCudart._RELEASES, "cudaSetDevice", "cudaStreamSynchronize"]
    functions += ["cudaGetLastError", "cudaGraphLaunch"]
    missing = [name for name in functions if not callable(getattr(real, name, None))]
    assert missing == []
    assert real.cudaStreamNonBlocking == 1
    assert int(real.cudaMemcpyKind.cudaMemcpyHostToDevice) == 1
    assert int(real.cudaMemcpyKind.cudaMemcpyDeviceToHost) == 2
    assert hasattr(real.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
    assert hasattr(real, "cudaHostAllocDefault")


# ---- the driver, and what is missing ------------------------------------------------------------


def test_the_driver_says_which_gpu_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    use_driver(monkeypatch, Driver())
    found = driver.gpu()
    assert (found.name, found.compute_capability, found.driver) == (
        "NVIDIA Test",
        "8.7",
        "CUDA 12.8",
    )


@pytest.mark.parametrize(
    ("found", "says"),
    [(Driver(0), "finds no device"), (Driver(1, 999), "cuInit returned 999"), (None, "libcuda")],
)
def test_no_gpu_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, found: Driver | None, says: str
) -> None:
    use_driver(monkeypatch, found)
    assert says in str(driver.driver_problem())
    for ask in (driver.gpu, load_cudart):
        with pytest.raises(EngineError, match=says):
            ask()


def test_missing_bindings_are_a_sentence_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "driver_problem", lambda: None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'roadshift\[tensorrt\]'"):
        load_cudart()
