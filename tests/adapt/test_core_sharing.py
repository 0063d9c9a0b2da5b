"""sharing_cores: when threads are made to sleep, one watch for all, and not a bit changed."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from roadshift.adapt import core_sharing
from roadshift.adapt.core_sharing import (
    QUIET_LOOKS,
    CoreWatch,
    crowded_s,
    idle_team,
    loaded_openmp,
    sharing_cores,
)

needs_gnu = pytest.mark.skipif(loaded_openmp() is None, reason="torch's OpenMP is not GNU's")


class Machine:
    """A kernel's account that a test writes, and a record of what was held."""

    def __init__(self) -> None:
        self.waited, self.held = 100.0, 0

    def hold(self) -> Callable[[], None]:
        self.held += 1

        def release() -> None:
            self.held -= 1

        return release

    def watch(self) -> CoreWatch:
        return CoreWatch(self.hold, lambda: self.waited)


def test_threads_sleep_from_the_first_look_that_finds_cores_scarce() -> None:
    machine = Machine()
    watch = machine.watch()
    watch.look(0.25)
    assert machine.held == 0
    machine.waited += 0.5 * 0.25  # half a core's worth of waiting
    watch.look(0.25)
    assert machine.held == 1
    machine.waited += 0.5 * 0.25
    watch.look(0.25)
    assert machine.held == 1, "held once, however often it is found"
    assert watch.crowded_s > 0


def test_threads_spin_again_after_a_quiet_while_and_not_before() -> None:
    machine = Machine()
    watch = machine.watch()
    machine.waited += 1
    watch.look(0.25)
    for _ in range(QUIET_LOOKS - 1):
        watch.look(0.25)
    assert machine.held == 1
    machine.waited += 0.1 * 0.25  # neither scarce nor free: the count begins again
    watch.look(0.25)
    for _ in range(QUIET_LOOKS - 1):
        watch.look(0.25)
    assert machine.held == 1
    watch.look(0.25)
    assert machine.held == 0


def test_a_thread_that_ended_with_its_time_is_no_negative_wait() -> None:
    machine = Machine()
    watch = machine.watch()
    machine.waited -= 50
    watch.look(0.25)
    machine.waited += 0.25
    watch.look(0.25)
    assert machine.held == 1


def test_closing_lets_go() -> None:
    machine = Machine()
    watch = machine.watch()
    watch.start()
    machine.waited += 1000
    watch.look(0.25)
    watch.close()
    assert machine.held == 0
    assert watch.crowded_s > 0


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> list[CoreWatch]:
    made: list[CoreWatch] = []

    def started() -> CoreWatch:
        made.append(Machine().watch())
        return made[-1]

    monkeypatch.setattr(core_sharing, "_started", started)
    monkeypatch.setattr(core_sharing, "_sharing", 0)
    monkeypatch.setattr(core_sharing, "_watch", None)
    return made


def test_nested_blocks_share_one_watch(watches: list[CoreWatch]) -> None:
    with sharing_cores():
        with sharing_cores():
            pass
        assert not watches[0]._ended.is_set()
        assert crowded_s() == 0
    assert len(watches) == 1
    assert watches[0]._ended.is_set()
    with pytest.raises(RuntimeError, match="fails"), sharing_cores():
        raise RuntimeError("fails")
    assert len(watches) == 2
    assert watches[1]._ended.is_set()


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_a_users_own_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert core_sharing._started() is None


@needs_gnu
def test_an_idle_team_is_larger_than_the_machine_and_goes_whole() -> None:
    openmp = loaded_openmp()
    assert openmp is not None

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = threads()
    end = idle_team(openmp)
    assert threads() >= before + (os.cpu_count() or 1) + 1
    end()
    idle_team(openmp)()  # the first team's threads have gone by the time that a second one has
    assert threads() <= before + (os.cpu_count() or 1) + 1


@needs_gnu
def test_not_a_bit_changes_while_threads_sleep() -> None:
    openmp = loaded_openmp()
    assert openmp is not None
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        images, layer = torch.randn(2, 8, 61, 83), torch.nn.Conv2d(8, 8, 3)

        def gradient() -> torch.Tensor:
            layer.zero_grad()
            layer(images).square().mean().backward()
            assert layer.weight.grad is not None
            return layer.weight.grad.clone()

        expected = gradient()
        end = idle_team(openmp)
        crowded = gradient()
        end()
        assert torch.equal(crowded, expected)
        assert torch.equal(gradient(), expected)
    finally:
        torch.set_num_threads(before)
