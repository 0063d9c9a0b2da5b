"""Weights that no network can compute with: not finite, impossible, quantised, or out of range."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...runtime.errors import NetworkError
from ...runtime.words import counted
from .weight_matching import listed

_QUANTISED_NAMES = ("_packed_params", "qweight", "qzeros", "SCB", "weight_scale")


class BrokenWeightsError(NetworkError):
    """Weights are NaN, infinite, negative variances, or beyond the range of the network's dtype."""


def check_values(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that cannot become a network's.

    Args:
        own: the network's state dict as it was built; a buffer of it that is not finite by design
            (a mask of minus infinity) may be so in ``state``.
        state: tensors of the same names and shapes.
        where: the file, for messages.

    Raises:
        BrokenWeightsError: values are NaN, infinite, variances below 0, or beyond the range of
            the network's dtype; the sentence counts and names the tensors.
        NetworkError: tensors are quantised, or no plain arrays of numbers in memory.
    """
    _check_kinds(own, state, where)
    variances = {n: v for n, v in state.items() if n.rpartition(".")[2] == "running_var"}
    refusals = (
        (
            {n: _share(~torch.isfinite(v)) for n, v in state.items() if not _finite(v, own[n])},
            "hold values that are not finite",
            "take a checkpoint from before its training diverged",
        ),
        (
            {n: _share(v < 0) for n, v in variances.items() if bool((v < 0).any())},
            "hold variances below 0, which no batch norm can have",
            "the file is damaged or was averaged wrongly, take another one",
        ),
        (
            {n: _overflow(v, own[n]) for n, v in state.items() if _overflow(v, own[n])},
            "hold values beyond the range of the network's dtype",
            "build the network in float32, or scale its weights down",
        ),
    )
    for found, problem, advice in refusals:
        if found:
            named = listed(f"{name}: {text}" for name, text in found.items())
            tensors = counted(len(found), "tensor")
            verb = problem.replace("hold", "holds", 1) if len(found) == 1 else problem
            raise BrokenWeightsError(
                f"{where}: {tensors} of the weights {verb} ({named}); {advice}."
            )


def check_not_quantised(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse a checkpoint that, by its tensors or their names, is of a quantised network."""
    quantised = [
        name
        for name, value in tensors.items()
        if value.is_quantized or any(part in _QUANTISED_NAMES for part in name.split("."))
    ]
    if quantised:
        raise _quantised(quantised, where)


def converted(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """The dtypes of ``state`` and what they become: ``{"float16": "float32"}``."""
    return {
        _dtype(value): _dtype(own[name])
        for name, value in state.items()
        if value.dtype != own[name].dtype and own[name].is_floating_point()
    }


def _check_kinds(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    quantised = [
        name
        for name, value in state.items()
        if value.is_quantized or (own[name].is_floating_point() and _is_narrow(value))
    ]
    if quantised:
        raise _quantised(quantised, where)
    odd = {
        name: "complex" if value.is_complex() else "without values" if value.is_meta else "sparse"
        for name, value in state.items()
        if value.is_complex() != own[name].is_complex()
        or value.is_meta
        or value.layout != torch.strided
    }
    if odd:
        named = listed(f"{name}: {kind}" for name, kind in odd.items())
        raise NetworkError(
            f"{where}: holds what is no plain array of numbers ({named}); re-save the model's "
            "state_dict() as dense tensors on the CPU."
        )


def _quantised(names: list[str], where: str) -> NetworkError:
    which = f"{counted(len(names), 'tensor')}: {listed(names)}"
    return NetworkError(
        f"{where}: holds quantised weights ({which}), which cannot be trained; give the float "
        "weights that they were made from, and quantise the adapted model with `roadshift export "
        "--precision int8`."
    )


def _finite(value: Tensor, own: Tensor) -> bool:
    if not value.is_floating_point() or bool(torch.isfinite(value).all()):
        return True
    same = torch.isinf(own) & (own == value.to(own.dtype))
    return bool((torch.isfinite(value) | same).all())


def _is_narrow(value: Tensor) -> bool:
    """Tell whether these are integers or 8-bit floats, which stand for weights with a scale."""
    return not value.is_complex() and (not value.is_floating_point() or value.element_size() == 1)


def _overflow(value: Tensor, own: Tensor) -> str:
    """The largest value that ``own``'s dtype cannot hold, in words; empty if it holds all."""
    wider = value.dtype != own.dtype and value.is_floating_point() and own.is_floating_point()
    if not wider or value.numel() == 0:
        return ""
    largest = float(value.abs().nan_to_num(posinf=0.0).max())
    end = torch.finfo(own.dtype).max
    return f"reaches {largest:.3g} where {_dtype(own)} ends at {end:.3g}" if largest > end else ""


def _share(bad: Tensor) -> str:
    return f"{int(bad.sum())} of {bad.numel()}"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
