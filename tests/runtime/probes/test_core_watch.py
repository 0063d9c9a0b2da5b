"""CoreWatch: when cores are found scarce and free again, whom it tells, and when it ends."""

from __future__ import annotations

import gc
import subprocess
import sys

from roadshift.runtime.probes.core_watch import BUSY, QUIET_LOOKS, CoreWatch


class Machine:
    """The kernel's account, which a test writes."""

    def __init__(self, others: float | None = None) -> None:
        self.waited, self.others = 100.0, others

    def watch(self) -> CoreWatch:
        watch = CoreWatch(lambda: self.waited, lambda: self.others)
        watch._thread = object()  # type: ignore[assignment]  # no thread: the test looks
        watch._waited = self.waited
        return watch


class Told:
    def __init__(self) -> None:
        self.said: list[bool] = []

    def share_cores(self, scarce: bool) -> None:
        self.said.append(scarce)


def test_threads_sleep_from_the_first_look_that_finds_cores_scarce() -> None:
    machine, told = Machine(), Told()
    watch = machine.watch()
    assert watch.add(told) is False
    watch.look(0.25)
    assert told.said == []
    machine.waited += 0.5 * 0.25  # half a core's worth of waiting
    watch.look(0.25)
    machine.waited += 0.5 * 0.25
    watch.look(0.25)
    assert told.said == [True], "told once, however often it is found"
    assert watch.scarce_s() > 0


def test_a_waiter_is_not_told_while_it_is_added() -> None:
    told = Told()
    watch = Machine(others=100.0).watch()
    watch._thread, watch._born = None, (watch._born[0] - 100, 0.0)
    try:
        assert watch.add(told) is True
        assert told.said == []
    finally:
        watch.stop()


def test_threads_spin_again_after_a_quiet_while_and_not_before() -> None:
    machine, told = Machine(), Told()
    watch = machine.watch()
    watch.add(told)
    machine.waited += 1
    watch.look(0.25)
    for _ in range(QUIET_LOOKS - 1):
        watch.look(0.25)
    machine.waited += 0.1 * 0.25  # neither scarce nor free: the count begins again
    watch.look(0.25)
    for _ in range(QUIET_LOOKS - 1):
        watch.look(0.25)
    assert told.said == [True]
    watch.look(0.25)
    assert told.said == [True, False]
    kept = watch.scarce_s()
    assert watch.scarce_s() == kept > 0, "it counts no further"


def test_a_thread_that_ended_with_its_time_is_no_negative_wait() -> None:
    machine, told = Machine(), Told()
    watch = machine.watch()
    watch.add(told)
    machine.waited -= 50
    watch.look(0.25)
    machine.waited += 0.25
    watch.look(0.25)
    assert told.said == [True]


def test_who_comes_later_learns_it_and_who_has_gone_does_not() -> None:
    machine, first, second = Machine(), Told(), Told()
    watch = machine.watch()
    watch.add(first)
    machine.waited += 1
    watch.look(0.25)
    assert watch.add(second) is True
    watch.remove(first)
    for _ in range(QUIET_LOOKS):
        watch.look(0.25)
    assert (first.said, second.said) == ([True], [False])


def test_a_watch_keeps_nobody_alive() -> None:
    watch = Machine().watch()
    watch.add(Told())
    gc.collect()
    assert len(watch._waiters) == 0


def test_what_others_did_before_counts_at_the_beginning() -> None:
    for busy, scarce in ((0.0, False), (2 * BUSY, True), (None, False)):
        machine = Machine(others=10.0)
        watch = machine.watch()
        watch._born = (watch._born[0] - 100, 10.0)  # a hundred seconds ago
        machine.others = None if busy is None else 10.0 + 100 * busy
        watch.begin()
        assert watch.scarce is scarce


def test_threads_that_wait_for_one_another_are_not_told_to_sleep() -> None:
    for others_use, said in ((0.0, []), (1.0, [True]), (-2.0, [True])):  # -2: it does not count us
        machine, told = Machine(others=10.0), Told()
        watch = machine.watch()
        watch._others = 10.0
        watch.add(told)
        for _ in range(2):
            machine.waited += 0.5 * 0.25
            machine.others += others_use * 0.25
            watch.look(0.25)
        assert told.said == said


def test_who_is_alone_again_spins_although_its_own_threads_wait() -> None:
    machine, told = Machine(others=10.0), Told()
    watch = machine.watch()
    watch._others = 10.0
    watch.add(told)
    machine.waited, machine.others = machine.waited + 1, 11.0
    watch.look(0.25)
    for _ in range(QUIET_LOOKS):
        machine.waited += 1
        watch.look(0.25)
    assert told.said == [True, False]


def test_a_kernel_that_stops_telling_changes_nothing() -> None:
    machine, told = Machine(), Told()
    watch = machine.watch()
    watch.add(told)
    machine.waited = None  # type: ignore[assignment]
    watch.look(0.25)
    assert told.said == []


_ENDS_WHILE_A_WAITER_IS_TOLD = """
import itertools, threading, time
from roadshift.runtime.probes import core_watch

told = threading.Event()

class Slow:
    def share_cores(self, scarce):
        told.set()
        time.sleep(0.3)  # as long as making a session takes
        print("done", flush=True)

waited = itertools.count(step=10)
core_watch.WATCH = core_watch.CoreWatch(lambda: next(waited), lambda: None)
slow = Slow()
core_watch.WATCH.add(slow)
assert told.wait(30)
"""


def test_a_process_ends_after_what_a_waiter_was_told_is_done() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _ENDS_WHILE_A_WAITER_IS_TOLD],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "done\n", "a thread within ONNX Runtime then would abort the process"
