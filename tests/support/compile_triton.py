"""Every loss's kernels compiled for GPUs that need not be there: compile_triton.py CAPABILITY...

Triton compiles them to machine code with the assembler that it brings along: every launch of a loss
for the first capability, and the one with the longest code for the others. Prints a JSON list:
the compute capability, the loss, the bytes of the kernel's machine code, and the bytes of each
thread's stack (registers that were spilled).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before anything imports Triton

import torch
import triton
from kernel_cases import LOSSES, problem, results
from roadshift.adapt.losses.backends import triton_backend
from roadshift.adapt.losses.iapc import IapcWeights, iapc_terms
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

kernel: Any = triton_backend.pixels_kernel
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
TYPES = {
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
}
Launch = tuple[dict[str, str], dict[str, Any], dict[str, Any]]  # types, constants, options
launches: list[Launch] = []
found: list[tuple[int, str, int, int]] = []


class Recorder:
    """Stands in for the kernel, and keeps what each launch would compile."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return self.launch

    def launch(self, *arguments: Any, **named: Any) -> None:
        values = dict(zip(kernel.arg_names, arguments, strict=False)) | named
        types, constants = {}, {}
        for parameter in kernel.params:
            value = values.pop(parameter.name)
            if isinstance(value, torch.Tensor):
                types[parameter.name] = f"*{TYPES[value.dtype]}"
            elif parameter.is_constexpr or value in (None, 1):  # as a launch makes them constants
                types[parameter.name], constants[parameter.name] = "constexpr", value
            else:
                types[parameter.name] = "i32"
        launch = (types, constants, values)  # what is left are the compiler's options
        if launch not in launches:
            launches.append(launch)


def stack_of(machine_code: bytes) -> int:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        tool = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
        said = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    return max(map(int, re.findall(r"STACK:(\d+)", said)))


def many_classes() -> None:
    """IAPC's loss of 150 classes at stride 8."""
    z, t, s = (torch.randn(1, 150, 16, 32, requires_grad=True) for _ in range(3))
    weights = IapcWeights(importance=0.2, agreement=0.5, prototype=0.1, entropy=0.02)
    terms = iapc_terms(
        z, t, s, None, (128, 256), align_corners=True, weights=weights, kernel="triton"
    )
    torch.stack(list(terms.values())).sum().backward()


def compiled(loss: str, launch: Launch, capability: int) -> int:
    """Compile what ``launch`` of ``loss`` would, add its row, and give the bytes of its code."""
    types, constants, options = launch
    source = ASTSource(kernel, signature=types, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    code = triton.compile(source, target=target, options=options).asm["cubin"]
    found.append((capability, loss, len(code), stack_of(code)))
    return len(code)


triton_backend.pixels_kernel = Recorder()  # type: ignore[assignment]
for loss in (*LOSSES, many_classes):
    launches.clear()
    if loss is many_classes:
        many_classes()
    else:
        results(loss, problem(0, small=False, dtype=torch.float32), "triton")
    first, *others = map(int, sys.argv[1:])
    sizes = [compiled(loss.__name__, launch, first) for launch in launches]
    for capability in others:
        compiled(loss.__name__, launches[sizes.index(max(sizes))], capability)
print(json.dumps(found))
