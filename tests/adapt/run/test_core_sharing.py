"""sharing_cores: an idle team while cores are scarce, one for all, and not a bit changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from roadshift.adapt.run import core_sharing
from roadshift.adapt.run.core_sharing import crowded_s, idle_team, loaded_openmp, sharing_cores
from roadshift.runtime.probes import core_watch
from roadshift.runtime.probes.core_watch import CoreWatch

needs_gnu = pytest.mark.skipif(loaded_openmp() is None, reason="torch's OpenMP is not GNU's")


@pytest.fixture
def teams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Events of the idle teams, in order; none is really started."""
    happened: list[str] = []

    def team(_: object) -> Callable[[], None]:
        happened.append("began")
        return lambda: happened.append("ended")

    monkeypatch.setattr(core_sharing, "idle_team", team)
    monkeypatch.setattr(core_sharing, "loaded_openmp", object)
    monkeypatch.setattr(core_sharing, "may_watch", lambda: True)
    monkeypatch.setattr(core_sharing, "_sharing", 0)
    monkeypatch.setattr(core_sharing, "_team", None)
    monkeypatch.setattr(core_watch, "WATCH", CoreWatch(lambda: 0.0, lambda: None))
    return happened


def scarce(now: bool) -> None:
    with core_watch.WATCH._lock:
        core_watch.WATCH._tell(now)


def test_a_team_is_there_while_cores_are_scarce(teams: list[str]) -> None:
    with sharing_cores():
        assert teams == []
        scarce(True)
        assert teams == ["began"]
        assert crowded_s() > 0
        scarce(False)
        assert teams == ["began", "ended"]
        scarce(True)
    assert teams == ["began", "ended", "began", "ended"]
    scarce(False)
    scarce(True)
    assert len(teams) == 4, "nobody shares any more"
    assert crowded_s() == 0


def test_nested_blocks_share_one_team(teams: list[str]) -> None:
    with sharing_cores():
        scarce(True)
        with sharing_cores():
            pass
        assert teams == ["began"]
    assert teams == ["began", "ended"]
    with pytest.raises(RuntimeError, match="fails"), sharing_cores():
        raise RuntimeError("fails")
    assert teams == ["began", "ended", "began", "ended"], "scarce already when it began"


def test_a_users_own_setting_is_left_alone(
    teams: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_sharing, "may_watch", lambda: False)
    with sharing_cores():
        scarce(True)
    assert teams == []


@needs_gnu
def test_an_idle_team_is_larger_than_the_machine_and_goes_whole() -> None:
    program = (  # in a process of its own, where no other thread comes or goes
        "import os\n"
        "from roadshift.adapt.run.core_sharing import idle_team, loaded_openmp\n"
        "def threads(): return len(os.listdir('/proc/self/task'))\n"
        "openmp = loaded_openmp()\n"
        "before = threads()\n"
        "for _ in range(5):\n"
        "    end = idle_team(openmp)\n"
        "    print(threads() - before)\n"
        "    end()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    more = (os.cpu_count() or 1) + 1  # the leader is one of them
    counts = list(map(int, ran.stdout.split()))
    assert counts[0] == more
    # Threads of a team that has ended may take a while to go on a busy machine, but do go.
    assert more <= max(counts) < len(counts) * more


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
