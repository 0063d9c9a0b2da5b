"""Places of a network's weights in a checkpoint: below which keys, behind which prefix.

A checkpoint is seen flat: ``{"ema": {"module.conv.weight": t}}`` is the one tensor
``ema.module.conv.weight``. Wrapper keys and prefixes are then the same thing, and a network fits
behind each prefix that all of its names follow. A prefix that all names of the *network* share may
be missing or another one in the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...runtime.errors import NetworkError, arg
from ...runtime.words import shortened

COUNTER = "num_batches_tracked"  # checkpoints older than PyTorch 0.4.1 lack it
_ON_THE_SIDE = (COUNTER, "total_ops", "total_params")  # counted by tools, not used by a network
_PLAIN = {"state_dict", "model_state_dict", "model_state", "params", "weights"} | {
    *("model", "net", "network", "module", "_orig_mod", "backbone")
}  # usual wrappers and prefixes of the model itself
_INNER_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)  # of a part of a network: on several GPUs, compiled, checkpointed
_AVERAGED = re.compile(
    r"(?<![a-z])(ema|swa)(?![a-z])|averag|moving|optim|exp_avg|momentum", re.IGNORECASE
)
_DEEPEST = 16  # a pickle may hold itself; no honest one nests deeper


def flatten(content: Any, where: str) -> dict[str, Tensor]:
    """Every tensor below ``content`` by the dotted path of its keys, in the file's order.

    Raises:
        NetworkError: there is none, or two have one path.
    """
    tensors: dict[str, Tensor] = {}
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        if isinstance(value, Tensor) and path:
            if value.is_nested:
                raise NetworkError(
                    f"{where}: {path!r} is a nested tensor, and weights are plain arrays of "
                    "numbers; re-save the model's state_dict()."
                )
            if path in tensors:
                raise NetworkError(
                    f"{where}: holds two tensors named {path!r}, one by a key with dots and one "
                    "below nested keys; re-save the model's own state_dict() alone."
                )
            tensors[path] = value.detach()
        elif depth < _DEEPEST:
            below = [(f"{path}.{key}" if path else str(key), v, depth + 1) for key, v in _in(value)]
            waiting.extend(reversed(below))
    if not tensors:
        found = listed(str(key) for key, _ in _in(content))
        raise NetworkError(
            f"{where}: holds no state dict (found {found}); re-save it with "
            "torch.save(model.state_dict(), path)."
        )
    return tensors


def _in(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, (list, tuple)) else []


def below_key(
    tensors: Mapping[str, Tensor], key: str | None, where: str
) -> tuple[dict[str, Tensor], str]:
    """The tensors below a dotted key, and what was before their names; all of them for None.

    Raises:
        NetworkError: nothing lies below the key; the sentence lists what there is.
    """
    if key is None:
        return dict(tensors), ""
    start = f"{key.strip('.')}."
    inside = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    if not inside:
        counts = Counter(name.partition(".")[0] for name in tensors)
        known = listed(f"{name} ({count})" for name, count in counts.most_common())
        raise NetworkError(
            f"{where}: nothing lies below {arg('key')} {shortened(key)!r}; with the number of "
            f"tensors below each, its keys are {known}."
        )
    return inside, start


@dataclass(frozen=True)
class Match:
    """A network found in a checkpoint.

    Attributes:
        prefix: of its tensors' names in the checkpoint.
        tensors: by the network's own names; `COUNTER` may be missing.
        unexpected: names in the checkpoint that seem to belong to a larger network of this kind.
        left_out: all others that are not in ``tensors``.
        rivals: other prefixes behind which the network fits as well.
    """

    prefix: str
    tensors: dict[str, Tensor]
    unexpected: tuple[str, ...]
    left_out: tuple[str, ...]
    rivals: tuple[str, ...]


def match(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str) -> Match:
    """Find the network whose state dict is ``own`` in a checkpoint.

    Raises:
        NetworkError: names are missing behind every prefix, or several fit and none is plainly it.
    """
    shared = _shared_prefix(own)
    ends = {name.removeprefix(shared): name for name in own}
    needed = {end for end in ends if not end.endswith(COUNTER)}
    fits, counts = _prefixes(tensors, needed)
    if not fits:
        raise _missing(tensors, ends, needed, counts, where)
    alike = [p for p in fits if all(tensors[p + e].shape == own[ends[e]].shape for e in needed)]
    prefix = choose(alike or fits, lambda p: (tensors[p + end] for end in sorted(needed)), where)
    taken = {prefix + end: name for end, name in ends.items() if prefix + end in tensors}
    others = [name for name in tensors if name not in taken]
    unexpected = tuple(name for name in others if _belongs(name, prefix, ends))
    return Match(
        prefix,
        {name: tensors[found] for found, name in taken.items()},
        unexpected,
        tuple(name for name in others if name not in set(unexpected)),
        tuple(p for p in alike if p != prefix),
    )


def without_inner_wrappers(
    tensors: Mapping[str, Tensor], own: Iterable[str]
) -> tuple[dict[str, Tensor], str]:
    """The tensors without the names of what wraps a part: ``trunk.module.0`` becomes ``trunk.0``.

    Returns:
        Them, and those names for a sentence: "" where nothing changes, because there are none, two
        tensors would get one name, or the network's own names have such a word.
    """
    found = _INNER_WRAPPERS.intersection(part for name in tensors for part in name.split("."))
    plain = {
        ".".join(part for part in name.split(".") if part not in found): tensor
        for name, tensor in tensors.items()
    }
    is_own = any(not _INNER_WRAPPERS.isdisjoint(name.split(".")) for name in own)
    if is_own or len(plain) < len(tensors):
        return dict(tensors), ""
    return plain, ", ".join(sorted(found))


def prefixes_of(names: Iterable[str]) -> list[str]:
    """Every prefix that ends at a dot in one of the names, and none at all, the shortest first."""
    return sorted({prefix for name in names for prefix, _ in _splits(name)}, key=len)


def choose(prefixes: list[str], content: Callable[[str], Iterable[Tensor]], where: str) -> str:
    """The prefix that plainly leads to the model, among those behind which a network fits.

    Well-known wrappers (``state_dict``, ``model``, ``module``...) come before any other, and all
    before averages of weights. Where several remain they must hold the same.

    Raises:
        NetworkError: they do not; the sentence lists them for ``--key``.
    """
    plain = [p for p in prefixes if set(p.split(".")[:-1]) <= _PLAIN]
    current = [p for p in prefixes if not _AVERAGED.search(p)]
    left = plain or current or prefixes
    first, *others = left
    if all(_equal(content(first), content(other)) for other in others):
        return first
    raise NetworkError(
        f"{where}: the network fits {len(left)} sets of weights in it "
        f"({listed(shown(p) for p in left)}); choose one with {arg('key')} {as_key(left[0])}."
    )


def as_key(prefix: str) -> str:
    """A prefix as ``--key`` takes it."""
    return prefix.rstrip(".")


def shown(prefix: str) -> str:
    """A prefix for a sentence."""
    return repr(as_key(prefix)) if prefix else "those at the top"


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few of the names, and a mark if there are more; "none" without any."""
    every = list(names)
    return ", ".join(every[:most]) + (", ..." if len(every) > most else "") or "none"


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """The name as prefix and end, at its start and at each dot."""
    yield "", name
    for found in re.finditer(r"\.", name):
        yield name[: found.end()], name[found.end() :]


def _prefixes(tensors: Iterable[str], needed: set[str]) -> tuple[list[str], Counter[str]]:
    """Prefixes that all needed names follow, and how many of them follow each."""
    counts = Counter(p for name in tensors for p, end in _splits(name) if end in needed)
    return [p for p, count in counts.items() if count == len(needed)], counts


def _shared_prefix(names: Iterable[str]) -> str:
    """The longest prefix ending at a dot that all names have, and all are longer than."""
    every = list(names)
    shared = (
        [p for p, _ in _splits(every[0]) if all(n.startswith(p) for n in every)] if every else []
    )
    return shared[-1] if shared else ""


def _belongs(name: str, prefix: str, ends: Mapping[str, str]) -> bool:
    """Tell whether a tensor that the network lacks is of a part that it has, only deeper.

    A part is a first word behind the prefix; parts that differ in digits alone are of a kind, so
    ``layer5`` belongs to what has a ``layer4``. What lies in other parts (a loss, an auxiliary
    head) does not.
    """
    if not name.startswith(prefix) or name.endswith(_ON_THE_SIDE):
        return False
    kinds = {_kind(end) for end in ends}
    return _kind(name.removeprefix(prefix)) in kinds


def _kind(end: str) -> str:
    return re.sub(r"\d+", "#", end.partition(".")[0])


def _equal(these: Iterable[Tensor], those: Iterable[Tensor]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(these, those, strict=True)
    )


def _missing(
    tensors: Mapping[str, Tensor],
    ends: Mapping[str, str],
    needed: set[str],
    counts: Counter[str],
    where: str,
) -> NetworkError:
    """A phrase on what is missing behind the prefix that comes closest."""
    closest = [prefix for prefix, _ in counts.most_common(5)] or [""]
    prefix = closest[0]
    missing = [name for end, name in ends.items() if end in needed and prefix + end not in tensors]
    unexpected = [
        name.removeprefix(prefix)
        for name in tensors
        if name.startswith(prefix) and name.removeprefix(prefix) not in ends
    ]
    sets = ", ".join(f"{shown(p)} with {counts[p]}" for p in closest if counts[p])
    return NetworkError(
        f"{where}: the weights do not fit the network: {len(missing)} names are missing "
        f"({listed(missing)}), {len(unexpected)} are unexpected ({listed(unexpected)}); choose the "
        "network and arguments that they were saved from"
        + (
            f", or another set of weights with {arg('key')} (of {len(needed)} names: {sets})"
            * (len(closest) > 1)
        )
        + "."
    )
