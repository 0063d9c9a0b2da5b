"""NVIDIA's software on a car computer, from files of the form that NVIDIA and Debian document."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from roadshift.runtime.probes.car_computer import (
    CarComputer,
    car_computer,
    install_line,
    installed_packages,
)

# NVIDIA, Jetson Linux Developer Guide: the first line of /etc/nv_tegra_release.
RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n"
)
# NVIDIA, CUDA toolkit: version.json of /usr/local/cuda.
CUDA = {"cuda": {"name": "CUDA SDK", "version": "12.6.11"}, "cuda_nvcc": {"version": "12.6.68"}}
# Debian, deb-control(5): /var/lib/dpkg/status; versions as JetPack 6.2 has them.
PACKAGES = {
    "nvidia-jetpack": "6.2+b77",
    "nvidia-l4t-core": "36.4.3-20250107174145",
    "cuda-cudart-12-6": "12.6.68-1",
    "libcudnn9-cuda-12": "9.3.0.75-1",
    "libnvinfer10": "10.3.0.30-1+cuda12.5",
    "libnvinfer-dev": "99.0-1",
}


def status(packages: dict[str, str], state: str = "install ok installed") -> str:
    return "\n".join(
        f"Package: {name}\nStatus: {state}\nPriority: optional\nVersion: {version}\n"
        f"Description: a library\n of several lines: Version: 0.1\n"
        for name, version in packages.items()
    )


def no_library(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def cudnn(number: int, name: str = "libcudnn.so.9") -> Callable[[str], Any]:
    def get() -> int:
        return number

    class Library:
        cudnnGetVersion = staticmethod(get)  # noqa: N815 - cuDNN's name

    return lambda asked: Library if asked == name else no_library(asked)


@pytest.fixture
def plant(tmp_path: Path) -> Callable[..., Path]:
    """Write files by their absolute path below a root, and give the root."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_an_orin_with_jetpack_6_is_read_from_its_files(plant: Callable[..., Path]) -> None:
    root = plant(
        {
            "/etc/nv_tegra_release": RELEASE,
            "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
            "/usr/local/cuda/version.json": json.dumps(CUDA),
            "/var/lib/dpkg/status": status(PACKAGES),
        }
    )
    assert car_computer(root, no_library) == CarComputer(
        model="NVIDIA Jetson AGX Orin Developer Kit",
        l4t="36.4.3",
        jetpack="6.2",
        cuda="12.6.11",
        cudnn="9.3.0.75",
        tensorrt="10.3.0.30",
    )


def test_without_the_release_file_packages_say_it(plant: Callable[..., Path]) -> None:
    packages = {name: v for name, v in PACKAGES.items() if name != "nvidia-jetpack"}
    found = car_computer(plant({"/var/lib/dpkg/status": status(packages)}), no_library)
    assert (found.l4t, found.jetpack, found.cuda) == ("36.4.3", "6.2", "12.6.68")


@pytest.mark.parametrize(
    ("release", "revision", "l4t", "jetpack"),
    [
        ("36", "4.0", "36.4.0", "6.1"),
        ("36", "3", "36.3.0", "6.0"),
        ("36", "9.9", "36.9.9", "6"),  # of the family, not in the table
        ("35", "4.1", "35.4.1", "5.1.2"),
        ("32", "7.4", "32.7.4", "4.6.4"),
        ("38", "2.0", "38.2.0", "7"),
        ("99", "1.0", "99.1.0", None),
    ],
)
def test_jetpack_is_known_by_l4t_or_not_at_all(
    plant: Callable[..., Path], release: str, revision: str, l4t: str, jetpack: str | None
) -> None:
    line = f"# R{release} (release), REVISION: {revision}, GCID: 1, BOARD: generic\n"
    found = car_computer(plant({"/etc/nv_tegra_release": line}), no_library)
    assert (found.l4t, found.jetpack) == (l4t, jetpack)


@pytest.mark.parametrize("line", ["", "R36", "# R36 (release)", "# Rxx (release), REVISION: 1,"])
def test_a_release_file_of_another_form_says_nothing(plant: Callable[..., Path], line: str) -> None:
    assert car_computer(plant({"/etc/nv_tegra_release": line}), no_library) == CarComputer()


@pytest.mark.parametrize(
    "version",
    ["", "{", "[]", '{"cuda": 12}', '{"cuda": {}}', "null", '{"CUDA": {"version": "1"}}'],
)
def test_a_cuda_that_does_not_say_its_version_is_not_found(
    plant: Callable[..., Path], version: str
) -> None:
    root = plant({"/usr/local/cuda/version.json": version})
    assert car_computer(root, no_library).cuda is None


def test_a_package_that_was_removed_is_not_installed(plant: Callable[..., Path]) -> None:
    removed = status(PACKAGES, state="deinstall ok config-files")
    assert installed_packages(plant({"/var/lib/dpkg/status": removed})) == {}


def test_the_newest_of_several_versions_is_named(plant: Callable[..., Path]) -> None:
    packages = {"libcudnn8": "8.9.4.25-1", "libcudnn9-cuda-12": "9.10.2.21-1"}
    packages |= {"libnvinfer8": "8.6.2.3-1", "libnvinfer10": "10.3.0.30-1"}
    found = car_computer(plant({"/var/lib/dpkg/status": status(packages)}), no_library)
    assert (found.cudnn, found.tensorrt) == ("9.10.2.21", "10.3.0.30")


@pytest.mark.parametrize(
    ("library", "version"),
    [
        (cudnn(91002), "9.10.2"),
        (cudnn(90300), "9.3.0"),
        (cudnn(8902, "libcudnn.so.8"), "8.9.2"),
        (lambda _: object(), None),
    ],
)
def test_where_no_package_says_it_cudnn_is_asked(
    tmp_path: Path, library: Callable[[str], Any], version: str | None
) -> None:
    assert car_computer(tmp_path, library).cudnn == version


def test_this_machine_is_read_without_an_error() -> None:
    assert isinstance(car_computer(), CarComputer)


# --- what to install ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("computer", "machine", "gpu", "line"),
    [
        (CarComputer(), "x86_64", True, "pip install 'roadshift[adapt,cuda,tensorrt]'"),
        (CarComputer(), "x86_64", False, "pip install 'roadshift[adapt]'"),
        (CarComputer(), "aarch64", True, "pip install 'roadshift[adapt,tensorrt]'"),
        (CarComputer(), "aarch64", False, "pip install 'roadshift[adapt]'"),
        (CarComputer(), "riscv64", False, None),
        (CarComputer(l4t="99.1.0"), "aarch64", True, None),
        (CarComputer(l4t="35.4.1", jetpack="5.1.2"), "aarch64", True, None),
    ],
)
def test_each_computer_has_one_line_or_none_is_known(
    computer: CarComputer, machine: str, gpu: bool, line: str | None
) -> None:
    assert install_line(computer, machine, gpu) == line


@pytest.mark.parametrize(("l4t", "jetpack"), [("36.4.3", "6.2"), ("36.9.9", "6"), ("38.2.0", "7")])
def test_on_a_jetson_torch_comes_first_and_from_nvidia(l4t: str, jetpack: str) -> None:
    line = install_line(CarComputer(l4t=l4t, jetpack=jetpack), "aarch64", has_gpu=True)
    assert line is not None
    assert line.startswith("pip install --index-url INDEX 'torch>=2.8' && pip install 'roadshift")
    assert line.endswith(f"NVIDIA's Jetson wheel index for JetPack {jetpack[0]}")
    assert "://" not in line
