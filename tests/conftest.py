"""Set-up for the tests of all rooms: the GPU, the machine's cores, and a terminal's signals."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from shutil import disk_usage
from typing import Any

import pytest
from hypothesis import settings
from roadshift.runtime.probes import core_watch
from roadshift.runtime.probes.driver import driver_problem

# OpenVINO's compiled part loads once in a process: whole, before a test hides or breaks the package
# and takes out of `sys.modules` what it did not find there.
with suppress(ImportError):
    import openvino  # noqa: F401

# Examples may take as long as a machine lets them that does other work as well.
settings.register_profile("roadshift", deadline=None)
settings.load_profile("roadshift")

pytest.register_assert_rewrite(
    "export_cases", "kernel_cases", "label_guard", "loss_cases", "run_cases", "traced_cases"
)


# The commands that tests start share compiled modules, else each of them compiles the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Where memory serves as a disk, the tests' files are there: a bundle or a checkpoint is on the disk
# before it gets its name, and tests write thousands. They kill processes, and no machine.
MEMORY, ROOM = Path("/dev/shm"), 4 << 30
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and disk_usage(MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


# Collecting tests makes what stays, and each pass of the collector would go through all of it.
gc.disable()

LONGEST = "test_every_network.py"
LONG = ("end_to_end", "export", "adapt")  # rooms whose files take longest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that none of it is what the suite ends with.

    While one process is at the longest file, the other makes the bundles that end_to_end shares.
    """
    root = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        if item.path.name == LONGEST:
            return -1
        room = item.path.relative_to(root).parts[0]
        return LONG.index(room) if room in LONG else len(LONG) + (item.path.parent != root)

    items.sort(key=place)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the garbage collector to what tests make, and to one pass in ten thousand objects.

    Each of its full passes would go through all modules and tests, half a second at a time, and one
    trace of a graph would set off a hundred passes.
    """
    keep_what_is_there()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Keep what a file of tests has loaded, and let no test of a later file go through it."""
    if nextitem is not None and nextitem.path != item.path:
        keep_what_is_there()


def keep_what_is_there() -> None:
    """Take what is not garbage out of the collector's sight."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Give back to the collector what it did not see, or the process ends with a list of leaks."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is none, and those marked `no_gpu` where there is one."""
    if item.get_closest_marker("gpu") and (problem := gpu_problem()):
        pytest.skip(problem)
    if item.get_closest_marker("no_gpu") and driver_problem() is None:
        pytest.skip("there is a GPU here")


@cache
def gpu_problem() -> str | None:
    """The reason why torch cannot compute on a GPU here, None if it can."""
    if problem := driver_problem():
        return problem
    import torch

    return None if torch.cuda.is_available() else "this torch finds no CUDA GPU"


@pytest.fixture(scope="session", autouse=True)
def _cores() -> Iterator[None]:
    """Beside other programs the suite takes twice its time, not twelve times.

    And each of its processes computes on its share of the cores; the commands that tests start do
    as for anybody else, and tests of more threads say how many.
    """
    if "torch" not in sys.modules:  # whose threads they would be
        yield
        return
    import torch
    from roadshift.adapt.run.core_sharing import sharing_cores

    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    with sharing_cores():
        yield


@pytest.fixture(scope="session", autouse=True)
def _sparing_torch() -> Iterator[None]:
    """Torch does once, or not at all, what it would do in each test to no effect.

    For each export it makes its tables of the operators of ONNX anew, which takes as long as
    tracing a tiny network. And where there is no GPU, it notes the whole stack of calls with each
    seed, for when there may be one.
    """
    if "torch" not in sys.modules:
        yield
        return
    import torch

    export = torch.onnx.export

    def with_tables(*arguments: Any, **options: Any) -> Any:
        keep_tables()
        return export(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", with_tables)
        for device in (torch.cuda, torch.xpu, torch.mtia):
            if not device.is_available():
                patch.setattr(device, "manual_seed_all", lambda _: None)
        yield


@cache
def keep_tables() -> None:
    """From now on, torch's own functions give the tables that they made before.

    Should a torch have other functions, it makes them as it does.
    """
    with suppress(ImportError, AttributeError):
        from torch._export import utils
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
        utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)


@pytest.fixture
def same_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No idle team (see `core_sharing`) begins or ends because of what other programs do."""
    monkeypatch.setattr(core_watch.WATCH, "look", lambda _: None)


@pytest.fixture(scope="session", autouse=True)
def _terminal() -> None:
    """Signals as a person's terminal gives them: what is started by nohup or "&" ignores some."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, whatever a command in this process has left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
