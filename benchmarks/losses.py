"""Time and memory of IAPC's whole loss, forward and backward, by every kernel.

    python benchmarks/losses.py [--device cuda] [--sizes 512x256 ...] [--classes 11 19 150]
                                [--batch 1] [--threads N] [--compiled 1024x512x19]
                                [--out benchmarks/results/losses-cpu]

Writes OUT.json, OUT.md and OUT.png. All kernels run in one process on the same logits, which are an
eighth of the frame's size along each axis.

The floor of a forward and backward pass; B frames of H x W pixels, K classes, logits of h x w:

    bytes          8 B K h w 4          student, teacher and prototypes read twice (forward, and
                                        again backward), two gradients written
    exponentials   3 B K H W            one softmax each of student, teacher and prototypes; a
                                        kernel that recomputes them on the way back needs six
    multiply-adds  3 B K H W 4 + 2 B K H W 4    four taps a logit, and back again

Its time is the longest of the three at the rates that torch reaches here (a copy, exponentials in
the cache, a product of matrices); "of the limit" is the floor's time over the measured one.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from machine_line import machine_line
from roadshift.adapt.losses.backends.choice import choose_kernel
from roadshift.adapt.losses.iapc import IapcWeights, iapc_terms
from roadshift.adapt.models.loading import device_name
from roadshift.adapt.run.budget import peak_memory
from roadshift.commands.parse import parse_size
from roadshift.runtime.bundle import library_versions
from roadshift.runtime.errors import ConfigError
from torch import Tensor

WEIGHTS = IapcWeights(importance=0.2, agreement=0.5, prototype=0.1, entropy=0.02)
STRIDE = 8
REFERENCE_TENSORS = 14  # of the frame's size that the reference holds at once, about
Run = Callable[[], list[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="+", default=["512x256", "1024x512", "2048x1024"])
    parser.add_argument("--classes", nargs="+", type=int, default=[11, 19, 150])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=3.0, help="of repetitions, each case")
    parser.add_argument(
        "--compiled", nargs="*", help="WxHxCLASSES where torch.compile runs too; all unless given"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    rates = machine_rates(device)
    try:
        arguments.triton = choose_kernel("triton", device) == "triton"
    except ConfigError as error:
        arguments.triton = False
        print(f"left out: {error}", file=sys.stderr)
    rows = []
    for size in arguments.sizes:
        width, height = parse_size("--sizes", size)
        for classes in arguments.classes:
            for name, row in cases(device, arguments, height, width, classes).items():
                problem = {"size": size, "classes": classes, "batch": arguments.batch}
                floor = floor_seconds(rates, arguments.batch, classes, height, width)
                if "seconds" in row:
                    row["of the limit"] = floor / row["seconds"]
                rows.append({**problem, "kernel": name, **row})
                print(json.dumps(rows[-1]), flush=True)
    document = {
        "device": device_name(device),
        "machine": machine_line(),
        "threads": arguments.threads,
        "date": date.today().isoformat(),
        "versions": library_versions(),
        "rates": rates,
        "rows": rows,
    }
    out = arguments.out or Path(f"benchmarks/results/losses-{device.type}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(document))
    plot(rows, out.with_suffix(".png"), document["machine"])
    print(table(document))


def cases(
    device: torch.device, arguments: argparse.Namespace, height: int, width: int, classes: int
) -> dict[str, dict[str, Any]]:
    """Measurements by kernel."""
    torch.manual_seed(0)
    shape = (arguments.batch, classes, height // STRIDE, width // STRIDE)
    z, t, s = (3 * torch.randn(shape, device=device) for _ in range(3))
    z.requires_grad_()
    s.requires_grad_()
    full = 4 * arguments.batch * classes * height * width
    kernels: dict[str, Callable[..., dict[str, Tensor]]] = {"reference": iapc_terms}
    if arguments.compiled is None or f"{width}x{height}x{classes}" in arguments.compiled:
        torch._dynamo.reset()
        kernels["reference, compiled"] = torch.compile(iapc_terms, dynamic=False)
    kernels["tiled"] = iapc_terms
    if arguments.triton:
        kernels["triton"] = iapc_terms
    found: dict[str, dict[str, Any]] = {}
    for name, terms in kernels.items():
        kernel = name.partition(",")[0]
        if kernel == "reference" and REFERENCE_TENSORS * full > 0.8 * free_memory(device):
            found[name] = {"left out": "too large for this machine's memory"}
            continue

        def forward(terms: Any = terms, kernel: str = kernel) -> list[Tensor]:
            found = terms(
                z, t, s, None, (height, width), align_corners=True, weights=WEIGHTS, kernel=kernel
            )
            return list(found.values())

        try:
            found[name] = measure(forward, [z, s], device, arguments.seconds)
        except Exception as error:  # a compiler that is not there, most of all
            found[name] = {"left out": str(error).splitlines()[0][:120]}
    for name, row in found.items():
        if "seconds" in row and "seconds" in found["reference"]:
            for key in ("seconds", "extra MiB"):
                row[f"{key} of reference"] = row[key] / max(found["reference"][key], 1e-9)
            row["name"] = name
    return found


def measure(
    forward: Run, leaves: list[Tensor], device: torch.device, seconds: float
) -> dict[str, Any]:
    """Median times and the peak of the memory that one pass adds."""

    def step() -> tuple[float, float]:
        start = clock(device)
        total = torch.stack(forward()).sum()
        middle = clock(device)
        torch.autograd.grad(total, leaves)
        return clock(device) - start, clock(device) - middle

    def without_gradient() -> float:
        start = clock(device)
        with torch.no_grad():
            forward()
        return clock(device) - start

    for _ in range(2):  # compiles, and fills the allocator
        took, _ = step()
        without_gradient()
        if took > seconds:
            break
    both, alone = [], []
    begin = time.perf_counter()
    while len(both) < (3 if took < seconds else 1) or time.perf_counter() - begin < seconds:
        both.append(step())
        alone.append(without_gradient())
    before = memory_in_use(device)
    with peak_memory(device) as peak:
        step()
    return {
        "seconds": statistics.median(total for total, _ in both),
        "forward": statistics.median(alone),
        "backward": statistics.median(backward for _, backward in both),
        "extra MiB": max(0, peak.bytes - before) / 2**20,
        "repetitions": len(both),
    }


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def memory_in_use(device: torch.device) -> int:
    """Bytes in use before a pass, with what earlier ones left behind given back."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return 0


# --- the floor ------------------------------------------------------------------------------------


def machine_rates(device: torch.device) -> dict[str, float]:
    """Bytes copied, exponentials and multiply-adds a second that torch reaches."""
    values = torch.rand(1 << 26, device=device)
    other = torch.empty_like(values)
    square = torch.rand(2048, 2048, device=device)
    small = torch.rand(1 << 15, device=device) if device.type == "cpu" else values
    room = torch.empty_like(small)

    def rate(amount: float, work: Callable[[], object], times: int = 1) -> float:
        best = float("inf")
        for _ in range(5):
            start = clock(device)
            for _ in range(times):
                work()
            best = min(best, (clock(device) - start) / times)
        return amount / best

    return {
        "bytes": rate(2 * values.nbytes, lambda: other.copy_(values)),
        "exponentials": rate(len(small), lambda: torch.exp(small, out=room), 200),
        "multiply-adds": rate(2048**3, lambda: square @ square),
    }


def floor_seconds(
    rates: dict[str, float], batch: int, classes: int, height: int, width: int
) -> float:
    """Least seconds that the machine's rates allow; see the head of this file."""
    cells = batch * classes * (height // STRIDE) * (width // STRIDE)
    pixels = batch * classes * height * width
    return max(
        8 * cells * 4 / rates["bytes"],
        3 * pixels / rates["exponentials"],
        20 * pixels / rates["multiply-adds"],
    )


# --- what it writes -------------------------------------------------------------------------------


def table(document: dict[str, Any]) -> str:
    """Markdown."""
    versions = document["versions"]
    lines = [
        f"IAPC's loss, all four terms, float32, on {document['machine']}, "
        f"{document['threads']} threads, torch {versions.get('torch')}, {document['date']}.",
        "",
        "| size | classes | kernel | forward | backward | both | of reference | extra memory | "
        "of reference | of the limit |",
        "|---" * 10 + "|",
    ]
    for row in document["rows"]:
        head = f"| {row['size']} | {row['classes']} | {row['kernel']} "
        if "seconds" not in row:
            lines.append(f"{head}| {row['left out']} |" + " |" * 6)
            continue
        times = [f"{1e3 * row[key]:.1f} ms" for key in ("forward", "backward", "seconds")]
        ratios = [row.get(f"{key} of reference") for key in ("seconds", "extra MiB")]
        shares = ["" if ratio is None else f"{ratio:.3f}" for ratio in ratios]
        memory = f"{row['extra MiB']:.1f} MiB"
        lines.append(
            f"{head}| {' | '.join(times)} | {shares[0]} | {memory} | {shares[1]} | "
            f"{row['of the limit']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def batch_pixels(row: dict[str, Any]) -> int:
    width, height = map(int, row["size"].split("x"))
    batch: int = row["batch"]
    return batch * width * height


def plot(rows: list[dict[str, Any]], path: Path, device: str) -> None:
    """Time and memory against pixels, for the number of classes in the middle."""
    import matplotlib  # comes with the extra ``test``

    matplotlib.use("Agg")
    from matplotlib import pyplot

    classes = sorted({row["classes"] for row in rows})
    middle = classes[len(classes) // 2]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        mine = [
            row
            for row in rows
            if row["kernel"] == kernel and row["classes"] == middle and "seconds" in row
        ]
        pixels = [batch_pixels(row) for row in mine]
        axes[0].loglog(pixels, [1e3 * row["seconds"] for row in mine], "o-", label=kernel)
        axes[1].loglog(pixels, [max(0.1, row["extra MiB"]) for row in mine], "o-", label=kernel)
    axes[0].set(xlabel="pixels", ylabel="ms, forward and backward")
    axes[1].set(xlabel="pixels", ylabel="extra MiB")
    sizes = {batch_pixels(row): row["size"] for row in rows}
    for axis in axes:
        axis.set_xticks(list(sizes), list(sizes.values()))
        axis.minorticks_off()
    axes[0].legend(fontsize=8)
    figure.suptitle(f"IAPC's loss, {middle} classes, {device}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
