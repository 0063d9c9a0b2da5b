"""A machine in a few words, for the pages that show its figures."""

from __future__ import annotations

from roadshift.runtime.bench.baseline import machine


def machine_line() -> str:
    """This machine, such as "2 CPU cores (AMD EPYC)", with the GPU where there is one."""
    said = machine()
    cores = f"{said['cores']} CPU cores" + (f" ({said['cpu']})" if said["cpu"] else "")
    return f"{said['gpu']}, {cores}" if said["gpu"] else cores
