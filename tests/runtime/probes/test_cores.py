"""available_cores: affinity and control groups of both versions, as containers mount them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from roadshift.runtime.probes import cores
from roadshift.runtime.probes.cores import available_cores, cpu_quota


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),  # docker --cpus 1.5
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        # the least of the groups around the process's own (Kubernetes: pod and container)
        (
            "0::/pod/box\n",
            {
                "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
                "sys/fs/cgroup/pod/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/cpu.max": "800000 100000\n",
            },
            4.0,
        ),
        # version 1: the host's path in a container whose mount is its own group
        (
            "4:cpu,cpuacct:/docker/0123\n0::/\n",
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            "1:cpu:/a\n",
            {
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        # the memory group's files say nothing of cores; damaged files neither
        ("5:memory:/a\n", {"sys/fs/cgroup/memory/a/cpu.max": "100000 100000\n"}, None),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "soon\n"}, None),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
        ("nonsense\n", {}, None),
    ],
)
def test_the_quota_is_the_least_of_the_groups(
    tmp_path: Path, cgroup: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(machine(tmp_path, cgroup, files)) == quota


@pytest.mark.parametrize(
    ("quota", "most"), [(None, None), (0.5, 1), (1.9, 1), (2.0, 2), (1e6, None)]
)
def test_cores_are_those_that_quota_and_affinity_both_allow(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, most: int | None
) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    allowed = len(os.sched_getaffinity(0))
    assert available_cores() == (allowed if most is None else min(most, allowed))
