"""Targets of a bench: each artefact of a bundle on each backend and device that can run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..bundle import Artefact, Bundle
from ..engines import Backend, backend_names, find_backend, problem_here
from ..errors import ConfigError, arg
from ..probes.driver import driver_problem
from ..words import shortened
from .row import left_out_row


@dataclass(frozen=True, eq=False)  # by identity: an artefact's details are not hashable
class BenchTarget:
    """An artefact on a backend and a device: one row to be."""

    artefact: Artefact
    backend: str
    device: str

    @property
    def title(self) -> str:
        """Title such as "model.onnx on onnxruntime, cpu"."""
        return f"{self.artefact.path} on {self.backend}, {self.device}"

    def left_out(self, reason: str) -> dict[str, Any]:
        """Row of the target if it does not run after all."""
        return left_out_row(
            self.backend, self.device, reason, self.artefact.path, self.artefact.precision
        )


def choose_backends(names: str | Sequence[str]) -> tuple[str, ...]:
    """Backends by their names; "auto" alone is all but those that compile for minutes, or "all".

    Nor are those of an extra that is not installed in "auto", but for torch: who asks for one by
    its name has a row that says so.

    Raises:
        ConfigError: an unknown backend.
    """
    known = backend_names()
    chosen = _listed(names)
    if is_default(names):
        return tuple(name for name in known if _by_default(find_backend(name)))
    if chosen == ("all",):
        return tuple(known)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ConfigError(
            f"{arg('backends')} {shortened(','.join(chosen))!r}: use auto, all, or of "
            f"{', '.join(known)}, with commas."
        )
    return chosen


def _by_default(backend: Backend) -> bool:
    return not backend.slow and (not backend.package or problem_here(backend) is None)


def is_default(names: str | Sequence[str]) -> bool:
    """Tell whether "auto" alone was asked for."""
    return _listed(names) == ("auto",)


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(name for name in names if name)


def bench_targets(
    bundle: Bundle, backends: Sequence[str], device: str
) -> tuple[list[BenchTarget], list[dict[str, Any]]]:
    """Targets in the order of the table, and rows for what cannot run here, with reasons.

    Args:
        backends: see `choose_backends`.
        device: "cpu", "cuda" or "auto", which is both.

    Raises:
        ConfigError: there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"There is no device {shortened(device)!r}; use auto, cpu or cuda.")
    no_gpu = driver_problem() if device != "cpu" else None
    found: list[BenchTarget] = []
    left_out = []
    for name in [name for name in backend_names() if name in backends]:
        backend = find_backend(name)
        artefacts = [a for a in bundle.manifest.artefacts if a.kind == backend.kind]
        for where in backend.devices:
            if device not in ("auto", where):
                continue
            problem = (no_gpu if where == "cuda" else None) or problem_here(backend)
            if problem is None and not artefacts:
                problem = f"{bundle.path} holds no artefact for it"
            if problem is not None:
                left_out.append(left_out_row(name, where, f"{problem.rstrip('.')}."))
                continue
            found += [BenchTarget(artefact, name, where) for artefact in artefacts]
    return found, left_out


def not_by_default(bundle: Bundle, device: str) -> list[dict[str, Any]]:
    """Rows for what could run and "auto" leaves out, with the reason."""
    reasons = {name: why for name in backend_names() if (why := find_backend(name).slow)}
    found, _ = bench_targets(bundle, tuple(reasons), device)
    places = dict.fromkeys((target.backend, target.device) for target in found)
    return [
        left_out_row(backend, where, f"{reasons[backend]}; ask for it by its name.")
        for backend, where in places
    ]
