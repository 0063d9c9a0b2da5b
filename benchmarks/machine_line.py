"""Which machine a page's figures come from, in a few words."""

from __future__ import annotations

from roadshift.runtime.bench.baseline import machine


def machine_line() -> str:
    """Such as "2 CPU cores (AMD EPYC)", with the GPU where there is one."""
    said = machine()
    cores = f"{said['cores']} CPU cores" + (f" ({said['cpu']})" if said["cpu"] else "")
    return f"{said['gpu']}, {cores}" if said["gpu"] else cores
