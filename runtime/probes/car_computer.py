"""NVIDIA's software on this computer, read from its files: JetPack, L4T, CUDA, cuDNN, TensorRT.

Nothing is guessed: what no file and no library says is unknown.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LARGEST = 64 << 20  # bytes of the package database that are read

# JetPack by L4T, NVIDIA's JetPack archive (developer.nvidia.com/embedded/jetpack-archive).
_JETPACKS = {
    "36.4.4": "6.2.1",
    "36.4.3": "6.2",
    "36.4.0": "6.1",
    "36.3.0": "6.0",
    "36.2.0": "6.0 DP",
    "35.6.0": "5.1.4",
    "35.5.0": "5.1.3",
    "35.4.1": "5.1.2",
    "35.3.1": "5.1.1",
    "35.2.1": "5.1",
    "35.1.0": "5.0.2",
    "32.7.5": "4.6.5",
    "32.7.4": "4.6.4",
}
_FAMILIES = {38: 7, 36: 6, 35: 5, 34: 5, 32: 4}  # JetPack's major by L4T's, the same archive


@dataclass(frozen=True)
class CarComputer:
    """NVIDIA's software as it is installed; None where nothing says so.

    Attributes:
        model: the board, such as "NVIDIA Jetson AGX Orin Developer Kit".
        l4t: NVIDIA's Linux of the board, such as "36.4.3"; only a Jetson has one.
        jetpack: the release that it belongs to, such as "6.2", or "6" where only that is known.
        cuda: version of the toolkit or its runtime, such as "12.6.11".
        cudnn: such as "9.3.0".
        tensorrt: of the system, such as "10.3.0"; Python may see another, or none.
    """

    model: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    tensorrt: str | None = None


def car_computer(
    root: Path = Path("/"), library: Callable[[str], Any] = ctypes.CDLL
) -> CarComputer:
    """Ask the files below ``root`` and, where they do not say, cuDNN itself.

    Args:
        root: of the file system.
        library: opens a shared library by name, `OSError` where there is none.
    """
    packages = installed_packages(root)
    l4t = _l4t(root, packages)
    return CarComputer(
        model=_text(root / "proc/device-tree/model").strip("\0\n ") or None,
        l4t=l4t,
        jetpack=_jetpack(l4t, packages),
        cuda=_cuda(root, packages),
        cudnn=_upstream(packages, r"libcudnn[0-9]+(-cuda-[0-9]+)?") or _asked_cudnn(library),
        tensorrt=_upstream(packages, r"libnvinfer[0-9]+"),
    )


def installed_packages(root: Path) -> dict[str, str]:
    """Versions by name of what Debian's package manager has installed, as its database says.

    Format: deb-control(5), stanzas of ``Field: value`` with an empty line between them; installed
    is what has ``Status: ... ok installed`` (dpkg(1)).
    """
    versions = {}
    for stanza in re.split(r"\n\s*\n", _text(root / "var/lib/dpkg/status")):
        fields = dict(re.findall(r"^(Package|Status|Version): *(.+?) *$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" ok installed") and "Version" in fields:
            versions[fields.get("Package", "")] = fields["Version"]
    return versions


def _l4t(root: Path, packages: Mapping[str, str]) -> str | None:
    """From ``# R36 (release), REVISION: 4.3, GCID: ...``, or the package nvidia-l4t-core."""
    line = _text(root / "etc/nv_tegra_release")
    if found := re.match(r"# R([0-9]+) \(release\), REVISION: ([0-9]+(?:\.[0-9]+)*),", line):
        return _three(f"{found[1]}.{found[2]}")
    core = re.match(r"[0-9]+(\.[0-9]+)+", packages.get("nvidia-l4t-core", ""))
    return _three(core[0]) if core else None


def _jetpack(l4t: str | None, packages: Mapping[str, str]) -> str | None:
    """The package nvidia-jetpack says it ("6.2+b77"), else the release of L4T does."""
    if said := re.match(r"[0-9]+(\.[0-9]+)+", packages.get("nvidia-jetpack", "")):
        return said[0]
    if l4t is None:
        return None
    family = _FAMILIES.get(int(l4t.partition(".")[0]))
    return _JETPACKS.get(l4t) or (str(family) if family else None)


def _cuda(root: Path, packages: Mapping[str, str]) -> str | None:
    """The toolkit's own ``version.json``, ``{"cuda": {"version": ...}}``, or CUDA's runtime."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(_text(root / "usr/local/cuda/version.json"))["cuda"]["version"])
    return _upstream(packages, r"cuda-cudart-[0-9]+-[0-9]+")


def _asked_cudnn(library: Callable[[str], Any]) -> str | None:
    """``cudnnGetVersion``: 90300 is 9.3.0, and before cuDNN 9 8902 is 8.9.2."""
    for name in ("libcudnn.so.9", "libcudnn.so.8"):
        with suppress(OSError, AttributeError):
            ask = library(name).cudnnGetVersion
            ask.restype = ctypes.c_size_t
            number = int(ask())
            step = 10000 if number >= 90000 else 1000
            return f"{number // step}.{number % step // 100}.{number % 100}"
    return None


def _upstream(packages: Mapping[str, str], name: str) -> str | None:
    """The newest version of the packages of a name, without the packaging's own part."""
    found = [
        version.partition("-")[0]
        for package, version in packages.items()
        if re.fullmatch(name, package)
    ]
    return max(found, key=lambda text: [*map(int, re.findall("[0-9]+", text))], default=None)


def _three(version: str) -> str:
    """L4T with three numbers, as its table has it: "36.3" is 36.3.0."""
    return ".".join((*version.split("."), "0", "0")[:3])


def _text(path: Path) -> str:
    """The start of a file's text; "" where there is none, or it may not be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""


def install_line(computer: CarComputer, machine: str, has_gpu: bool) -> str | None:
    """The one line that installs everything for this computer; None where it is not known.

    Args:
        computer: as found.
        machine: as `platform.machine` says: "x86_64", "aarch64".
        has_gpu: whether a driver finds a device.
    """
    if computer.l4t is not None:
        return _jetson_line(computer.jetpack)
    if machine not in ("x86_64", "aarch64"):
        return None
    if not has_gpu:
        return "pip install 'roadshift[adapt]'"
    cuda = "cuda," if machine == "x86_64" else ""  # ONNX Runtime has no CUDA wheel for others
    return f"pip install 'roadshift[adapt,{cuda}tensorrt]'"


def _jetson_line(jetpack: str | None) -> str | None:
    """torch first, from NVIDIA's own wheels, so that the second half finds it there."""
    family = jetpack.partition(".")[0] if jetpack else None
    if family not in ("6", "7"):
        return None
    index = f"NVIDIA's Jetson wheel index for JetPack {family}"
    return (
        "pip install --index-url INDEX 'torch>=2.8' && pip install 'roadshift[adapt]', where INDEX "
        f"is {index}"
    )
