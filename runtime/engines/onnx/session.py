"""ONNX Runtime sessions on exactly the device that was asked for, and what stands in their way.

ONNX Runtime itself offers the CPU where a GPU does not work, and lists its GPU providers on
machines without one. Here the driver is asked first, the CPU is forbidden, and what a session was
built on is checked.
"""

from __future__ import annotations

import fcntl
import io
import os
import platform
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import onnxruntime

from ...atomic import output_errors
from ...errors import EngineError
from ...gentle import in_a_gap
from ...probes import core_watch
from ...probes.core_watch import may_watch
from ...probes.driver import driver_problem
from ...probes.waiting import may_spin
from .cpu import SharedCpuSession
from .graph import OnnxModel

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_Provider = str | tuple[str, dict[str, str]]


def cuda_problem() -> str | None:
    """The reason why ONNX Runtime cannot use CUDA here; None: none is known without a session."""
    if _CUDA not in onnxruntime.get_available_providers():
        return _built_without("CUDA")
    return driver_problem()


def tensorrt_problem() -> str | None:
    """The reason why ONNX Runtime cannot use TensorRT here, as `cuda_problem`."""
    if _TENSORRT not in onnxruntime.get_available_providers():
        return _built_without("TensorRT")
    return cuda_problem()


def _built_without(what: str) -> str:
    advice = "pip install onnxruntime-gpu"
    if platform.machine() == "aarch64":  # pip's has no wheel for JetPack 6's Python 3.10
        advice = (
            "on a Jetson look for onnxruntime-gpu in NVIDIA's Jetson wheel index, for pip's usual "
            "one has none for it"
        )
    return f"this onnxruntime was built without {what} ({advice})"


def cpu_session(
    model: OnnxModel,
    threads: int,
    *,
    fp8: bool = False,
    again: Callable[[], OnnxModel] | None = None,
) -> Any:
    """A session on the CPU whose waiting threads spin only while nobody else wants the cores.

    Args:
        fp8: the model holds such values.
        again: reads the model once more where a second session is made of it; unless it is given,
            the model is kept in memory.
    """
    if threads == 1 or not may_watch():
        return _cpu_session(model, threads, fp8, may_spin())
    first = [model]

    def make(spin: bool) -> Any:
        chosen = first[0] if again is None else first.pop() if first else again()
        return _cpu_session(chosen, threads, fp8, spin)

    return SharedCpuSession(make)


def _cpu_session(model: OnnxModel, threads: int, fp8: bool, spin: bool) -> Any:
    options = session_options(threads, spin=spin)
    if fp8:  # the optimiser would make integer operators of it that do not exist
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return _session(model, options, [_CPU])


def cuda_session(model: OnnxModel, threads: int, *, stream: int | None, graph: bool) -> Any:
    """A session whose every node runs on CUDA.

    Args:
        stream: of the caller, on which all work is put; the session makes its own for None.
        graph: the second run is captured as a CUDA graph, which later runs launch. Then one
            thread at a time may run it, with memory at fixed addresses.

    Raises:
        EngineError: it does not; the message is the reason.
    """
    chosen = (_CUDA, {**_on_stream(stream), "use_tf32": "0", "enable_cuda_graph": str(int(graph))})
    return _gpu_session(model, threads, [chosen], "pip install 'roadshift[cuda]'")


def tensorrt_session(model: OnnxModel, threads: int, cache: Path, *, stream: int | None) -> Any:
    """A session that runs on TensorRT, and on CUDA where TensorRT lacks an operator.

    What TensorRT builds is kept in ``cache``, which must be of this very model: TensorRT's own
    names for its files do not tell two sets of weights apart.

    Raises:
        EngineError: it does not; the message is the reason.
    """
    with output_errors(cache):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)  # what lies there is run as code
    tensorrt = {
        **_on_stream(stream),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache.parent),
        "trt_fp16_enable": "0",  # the precision is in the graph
    }
    providers = [(_TENSORRT, tensorrt), (_CUDA, {**_on_stream(stream), "use_tf32": "0"})]
    with suppress(Exception):  # its package brings the libraries; without, the session says so
        import tensorrt as _  # noqa: F401
    session = _gpu_session(model, threads, providers, "pip install 'tensorrt>=10.7,<11'")
    taken = nodes_on(session, _TENSORRT)
    if taken == 0:
        raise EngineError("TensorRT takes none of the model's nodes")
    return session


def nodes_on(session: Any, provider: str) -> int | None:
    """Number of nodes that a provider runs; None where this ONNX Runtime cannot tell."""
    try:
        assigned = session.get_provider_graph_assignment_info()
    except (AttributeError, RuntimeError):
        return None
    return sum(len(part.get_nodes()) for part in assigned if part.ep_name == provider)


def _on_stream(stream: int | None) -> dict[str, str]:
    return {} if stream is None else {"user_compute_stream": str(stream)}


def _gpu_session(
    model: OnnxModel, threads: int, providers: Sequence[_Provider], install: str
) -> Any:
    said = io.StringIO()
    options = session_options(threads)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with redirect_stdout(said), _captured_stderr() as complaints:
        onnxruntime.preload_dlls()  # prints, instead of raising, what it does not find
        try:
            session = _session(model, options, providers)
        except EngineError as error:
            problem = str(error)
        else:
            if session.get_providers()[0] == providers[0][0]:
                return session
            problem = f"ONNX Runtime fell back to {session.get_providers()[0]}"
    missing = re.search(r"\S+\.so[\w.]*: cannot open shared object file", complaints())
    raise EngineError(f"a library is missing ({missing[0]}); {install}" if missing else problem)


@contextmanager
def _captured_stderr() -> Iterator[Any]:
    """Collect what native code writes to standard error; yields a function that returns it."""
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        text = ""

        def captured() -> str:
            return text

        try:
            yield captured
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            text = file.read().decode(errors="replace")


def session_options(threads: int, *, spin: bool | None = None) -> Any:
    """Options of a session on ``threads`` threads, which ``spin`` while they wait, or sleep.

    Unless it is given, as the user says, or else as the cores are now.
    """
    if spin is None:
        spin = not core_watch.WATCH.scarce if may_watch() else may_spin()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    # ONNX Runtime's own format has its own way to name other files, and may look like ONNX's.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", str(int(spin)))
    return options


def _session(model: OnnxModel, options: Any, providers: Sequence[_Provider]) -> Any:
    """A session on exactly these providers; EngineError where the model or one of them fails."""
    in_a_gap()
    try:
        with _readable(model.content, providers) as source:
            return onnxruntime.InferenceSession(
                source, options, providers=list(providers), enable_fallback=0
            )
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        why = reason(error)
        lacking = "Could not find an implementation" in why  # bf16 on a CPU, for one
        advice = "it takes another device or precision" if lacking else "export it again"
        raise EngineError(
            f"{model.file} cannot be loaded by ONNX Runtime ({why}); {advice}."
        ) from error


@contextmanager
def _readable(content: bytes, providers: Sequence[_Provider]) -> Iterator[str | bytes]:
    """A path at which ONNX Runtime reads these bytes, or else the bytes.

    It parses bytes while it holds Python's lock (its issue 27063), so that a model that serves
    would wait for the one that is opened; a file it parses without. The file is in memory, has no
    name and is sealed: nobody changes what was hashed. TensorRT's provider names its cache by the
    model's file, and gets bytes.
    """
    if list(providers) != [_CPU] or not hasattr(os, "memfd_create"):
        yield content
        return
    descriptor = os.memfd_create("model.onnx", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        path = f"/proc/self/fd/{descriptor}"
        yield path if _sealed(descriptor, content) and os.path.exists(path) else content
    finally:
        os.close(descriptor)


def _sealed(descriptor: int, content: bytes) -> bool:
    """Fill a file in memory that nobody changes after; False where a limit on files forbids it."""
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
    except OSError:  # such as a service's LimitFSIZE, which counts this file, too
        return False
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return True


def run_interruptible(
    session: Any, outputs: Sequence[str], inputs: dict[str, Any], options: Any = None
) -> list[Any]:
    """Run a session so that a signal can end it, even where the graph never does.

    Python calls a signal's handler in the main thread, and not while that is inside ONNX Runtime.
    So there the run goes on in another thread, and what a handler raises ends it.

    Args:
        options: run options, not in use elsewhere; new ones unless given.
    """
    options = options or onnxruntime.RunOptions()
    if threading.current_thread() is not threading.main_thread():
        return list(session.run(outputs, inputs, options))
    with ThreadPoolExecutor(1, "onnxruntime") as worker:
        running = worker.submit(session.run, outputs, inputs, options)
        try:
            return list(running.result())
        except BaseException:
            options.terminate = True
            raise


def reason(error: Exception) -> str:
    """The first line of an exception of ONNX Runtime, without its code and its source's places."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"^Load model from \S+ failed: *", "", text)
    lines = re.sub(r"/\S*onnxruntime\S*:\d+ [^()]*\([^()]*\) ", "", text).splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
