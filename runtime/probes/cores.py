"""The CPU cores that a process may use: by affinity, and by the quota of its control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def available_cores() -> int:
    """CPU cores that this process may keep busy, at least 1.

    The smaller of its affinity (``taskset``, cpusets) and its CPU quota (``docker --cpus``,
    Kubernetes' limits), rounded down: a thread more than the quota pays for is stopped with all the
    others until the quota's next period.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the process's control groups allow; None where none sets a limit.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``), and takes the least of a
    group and those around it.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's CPU control groups, each followed by those around it.

    Inside a container the path that ``/proc/self/cgroup`` names may be the host's, while the mount
    already is the container's own group: folders that do not exist have no quota.
    """
    top = root / "sys/fs/cgroup"
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        _, controllers, path = parts
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (top / controllers, top / "cpu") if controllers else (top, top / "unified"):
            folder = mount / path.strip("/")
            while folder != mount and mount in folder.parents:
                yield folder
                folder = folder.parent
            yield mount


def _quota_of(folder: Path) -> float | None:
    """Quota over period of one control group, in cores; None without a limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
        period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        return None if int(quota) <= 0 else int(quota) / int(period)
    return None
