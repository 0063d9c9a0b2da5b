"""Mixed precision: which one this machine has, and the scaler that fp16 needs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from ...runtime.errors import ConfigError

PrecisionName = Literal["fp32", "bf16", "fp16"]


def cpu_has_bf16() -> bool:
    """Tell whether the CPU multiplies bf16 in hardware; emulated bf16 is slower than float32."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(_multiplies_bf16() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _multiplies_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(map(capabilities.get, ("avx512_bf16", "amx_bf16", "bf16")))
    # torch 2.8 tells of x86 alone; an ARM that has it learns in float32 there
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def native_precisions(device: torch.device) -> tuple[PrecisionName, ...]:
    """Those below float32 that ``device`` multiplies in hardware, the preferred one first."""
    if device.type != "cuda":
        return ("bf16",) if cpu_has_bf16() else ()
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return ("bf16", "fp16") if has_bf16 else ("fp16",)


class Precision:
    """Autocast and gradient scaling for one device.

    Weights, their optimiser and the losses stay in float32 throughout.

    Raises:
        ConfigError: fp16 asked for on a CPU.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        if name == "fp16" and device.type == "cpu":
            raise ConfigError("training.amp=fp16 needs a GPU; on a CPU use bf16 or off.")
        self.name = name
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        self._found_scale = name != "fp16"

    @property
    def still_searching(self) -> bool:
        """Tell whether fp16's scale let no step through yet: its first overflows are no error."""
        return not self._found_scale

    def autocast(self) -> AbstractContextManager[object]:
        """The context for forward passes."""
        if self.name == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.name == "bf16" else torch.float16
        return torch.autocast(self._device.type, dtype=dtype)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the (scaled) gradient of ``loss``."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def unscale_and_clip(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], limit: float | None
    ) -> Tensor:
        """Gradient norm after unscaling; gradients are clipped to ``limit`` if given."""
        self._scaler.unscale_(optimizer)
        return nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the optimiser's step."""
        self._scaler.step(optimizer)
        self._scaler.update()
        self._found_scale = True

    def skip(self) -> None:
        """A step was thrown away: fp16's scale goes down."""
        if self._scaler.is_enabled():
            self._scaler.update()

    def state(self) -> Mapping[str, int | float] | None:
        """The scaler's numbers, for a checkpoint."""
        scaler = self._scaler.state_dict()
        return {**scaler, "found_scale": float(self._found_scale)} if scaler else None

    def load_state(self, state: Mapping[str, int | float] | None) -> None:
        """Take back what `state` gave."""
        if state and self._scaler.is_enabled():
            numbers = dict(state)
            self._found_scale = bool(numbers.pop("found_scale"))
            self._scaler.load_state_dict(numbers)
