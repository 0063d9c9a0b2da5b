"""A trial of a user's network: which of its maps are the logits, and what makes them.

One forward pass in each mode, on noise of the size that the network will see, before anything is
learned. It finds the head that ships (the one of evaluation mode), the same head's map among those
of training mode, the layer's input that serves as features, and the weights that none of this
reaches; and it turns what a network cannot do into one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....runtime.errors import ConfigError, NetworkError, arg
from .forward_pass import CandidateMap, ForwardResult, left_as_it_was, see
from .output_maps import ESTABLISHED, FEATURES, at, described, listed, maps_in, shown

TRIAL_SIZE = (64, 128)  # (height, width), where nobody says what the network will see
FEW = 0.5  # share of the weights that reach the logits below which a person should know


@dataclass(frozen=True)
class Tap:
    """A layer's input that serves as features.

    Attributes:
        layer: its name in the user's network.
        call: which of its calls in a forward pass.
        layout: "map" (B, D, h, w), "last" (B, h, w, D) or "tokens" (B, h w, D), the logits' h, w.
    """

    layer: str
    call: int
    layout: str

    def features(self, inputs: Sequence[Any], logits: Tensor) -> Tensor | None:
        """The features as (B, D, h, w), of the inputs of all calls; ``None`` if there are none."""
        x = inputs[self.call] if self.call < len(inputs) else None
        if not isinstance(x, Tensor):
            return None
        if self.layout == "last":
            return x.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            return x.transpose(1, 2).reshape(len(x), x.shape[2], *logits.shape[2:])
        return x


@dataclass(frozen=True)
class Wiring:
    """Places of the logits and the features, in one mode of a user's network.

    Attributes:
        output: path of the logits in the answer, see `output_maps`.
        features: path of the features in the answer, if the network returns them.
        tap: where else they come from.
        head: names of the weights that make the logits last.
    """

    output: str
    features: str | None
    tap: Tap | None
    head: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """Wiring in both modes, and what a person should know.

    Attributes:
        root_rests: the module itself keeps ``training`` off while its layers train, for its own
            code wants labels there, or returns a loss.
    """

    evaluating: Wiring
    training: Wiring
    notes: tuple[str, ...] = ()
    root_rests: bool = False

    def of(self, training: bool) -> Wiring:
        """The wiring of a mode."""
        return self.training if training else self.evaluating


def try_out(
    network: nn.Module,
    run: Callable[[Tensor], Any],
    num_classes: int,
    where: str,
    *,
    size: tuple[int, int] = TRIAL_SIZE,
    output: str | None = None,
    rest: Callable[[], None] | None = None,
) -> Trial:
    """Run a user's network once in each mode, and find its logits.

    One that has none while training, for it raises there or returns a loss, is tried again with
    the module itself as while evaluating and its layers training: much published code takes the
    loss in its own ``forward`` behind ``if self.training``.

    Args:
        network: left as it was: weights, buffers, modes and torch's random numbers.
        run: calls the user's ``forward``.
        num_classes: K.
        where: begins every message.
        size: (height, width) of the images.
        output: path of the logits, where the user says it.
        rest: from now on the module itself is not told that it trains; ``None``: it has to be.

    Raises:
        NetworkError: the network raises, or has no logits or several that may be them.
        ConfigError: ``output`` is no map of K channels.
    """
    with left_as_it_was(network):
        evaluated = see(network, run, num_classes, where, size, training=False)
        trained, rested = _trained(network, run, num_classes, where, size, rest)
        ships = _that_ships(evaluated, trained, output, where, num_classes)
        learns = _that_learns(ships, evaluated, trained, output, where)
        _check_logits(ships, evaluated, where)
        _check_logits(learns, trained, where)
        _check_graph(learns, where)
        notes = [*rested, *_unlike(ships, learns), *_unreached(network, learns)]
        wirings = _wiring(ships, evaluated), _wiring(learns, trained)
        return Trial(*wirings, tuple(notes), root_rests=bool(rested))


def _trained(
    network: nn.Module,
    run: Callable[[Tensor], Any],
    num_classes: int,
    where: str,
    size: tuple[int, int],
    rest: Callable[[], None] | None,
) -> tuple[ForwardResult, list[str]]:
    """The pass of training mode, and a note where the module itself had to rest for it."""
    refusal: NetworkError | None = None
    trained: ForwardResult | None = None
    try:
        trained = see(network, run, num_classes, where, size, training=True)
        why = f"returns no map of {num_classes} channels ({listed(trained.answer)})"
    except NetworkError as error:
        refusal, cause = error, error.__cause__
        why = f"raises {type(cause).__name__}"
    if trained is not None and (trained.candidates or rest is None):
        return trained, []
    rested: ForwardResult | None = None
    if rest is not None:
        rest()
        with suppress(NetworkError):
            rested = see(network, run, num_classes, where, size, training=True)
    if rested is not None and rested.candidates:
        note = f"told that it trains, it {why}; so its layers alone are told, and the rest of it"
        return rested, [f"{note} is as while evaluating, without losses and heads of its own"]
    if refusal is not None:
        raise refusal
    assert trained is not None  # it did not raise
    return trained, []


# --- which map is which ---------------------------------------------------------------------------


def _that_ships(
    evaluated: ForwardResult,
    trained: ForwardResult,
    output: str | None,
    where: str,
    num_classes: int,
) -> CandidateMap:
    """The logits of evaluation mode."""
    candidates = evaluated.candidates
    if not candidates:
        raise NetworkError(f"{where} {_without_logits(evaluated.answer, num_classes)}")
    if output is not None:
        return _asked_for(output, evaluated, trained, where)
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    established = [key for key in ESTABLISHED if key in candidates and _is_keyed(evaluated.answer)]
    if len(established) == 1:
        return candidates[established[0]]
    raise _ambiguous(evaluated, where, num_classes)


def _asked_for(
    output: str, evaluated: ForwardResult, trained: ForwardResult, where: str
) -> CandidateMap:
    if output in evaluated.candidates:
        return evaluated.candidates[output]
    wanted = trained.candidates.get(output)
    if wanted is None:
        raise ConfigError(
            f"{arg('output')} {output}: {where} returns no map of as many channels as the "
            "label space has "
            f"classes there; it returns {evaluated.listed()} {evaluated.mode}, and "
            f"{trained.listed() or 'none'} {trained.mode}."
        )
    # A mean of several heads, or one made without a graph (under torch.no_grad), may be it too.
    same = [c for c in evaluated.candidates.values() if set(wanted.head) <= set(c.head)]
    found = same or [c for c in evaluated.candidates.values() if not c.head]
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"{arg('output')} {output}: {where} returns {wanted} {trained.mode}, and nothing "
        "that the same "
        f"layer made {evaluated.mode}, but {evaluated.listed()}; choose the output that is used."
    )


def _that_learns(
    ships: CandidateMap,
    evaluated: ForwardResult,
    trained: ForwardResult,
    output: str | None,
    where: str,
) -> CandidateMap:
    """The map of training mode that the same layer makes."""
    candidates = trained.candidates
    if not candidates:
        raise NetworkError(
            f"{where} returns {shown(ships.path)} while evaluating, and no map of as many "
            f"channels while training ({listed(trained.answer)}); let forward return its logits in "
            "both modes."
        )
    same = {p: c for p, c in candidates.items() if c.head and c.head == ships.head}
    if len(same) > 1:
        same = {p: c for p, c in same.items() if c.shape[2:] == ships.shape[2:]} or same
    told = ESTABLISHED if _is_keyed(trained.answer) else ()
    unknown = not ships.head and candidates.keys() == evaluated.candidates.keys()
    for found, paths in (
        (same, (output, ships.path)),
        (candidates, (output, *told, ships.path if unknown else None)),
    ):
        if len(found) == 1:
            return next(iter(found.values()))
        for path in paths:
            if path is not None and path in found:
                return found[path]
    raise NetworkError(
        f"{where} returns {ships} {evaluated.mode}, which is none of its maps {trained.mode}: "
        f"{trained.listed()}; choose one of these with {arg('output')}."
    )


def _check_logits(chosen: CandidateMap, seen: ForwardResult, where: str) -> None:
    """Raise NetworkError for probabilities: losses and confidences take the softmax themselves."""
    if chosen.sums_to_one:
        raise NetworkError(
            f"{where} returns probabilities {seen.mode} ({shown(chosen.path)}: each pixel's "
            "channels add up to 1), of which a second softmax would be taken; leave the softmax "
            "out of its forward, or return its logarithm."
        )


def _check_graph(learns: CandidateMap, where: str) -> None:
    """Raise NetworkError for logits that no weight can learn from."""
    if torch.is_inference_mode_enabled() or torch.compiler.is_exporting():
        return  # no pass has one
    if learns.graph.empty:
        raise NetworkError(
            f"{where} returns {shown(learns.path)} without a gradient while training, so none of "
            "its weights can learn; leave torch.no_grad(), torch.inference_mode() and .detach() "
            "out of its forward."
        )


def _ambiguous(seen: ForwardResult, where: str, num_classes: int) -> NetworkError:
    choices = " or ".join(f"{arg('output')} {path}" for path in seen.candidates)
    return NetworkError(
        f"{where} returns {len(seen.candidates)} maps of {num_classes} channels {seen.mode}, and "
        f"one of them is to be learned and shipped: {seen.listed()}; choose with {choices}."
    )


def _is_keyed(answer: Any) -> bool:
    """A mapping or the like, whose keys say what their values are."""
    return not isinstance(answer, (list, Tensor)) and (
        not isinstance(answer, tuple) or hasattr(answer, "_fields")
    )


def _without_logits(answer: Any, num_classes: int) -> str:
    maps = maps_in(answer)
    counts = sorted({made.shape[1] for made in maps.values()})
    if not maps:
        return (
            f"returned {described(answer)}, in which there is no map; return logits (B, K, h, w), "
            "(logits, features), or a mapping with 'out'."
        )
    if counts == [1]:
        return (
            f"returned one channel ({listed(answer)}), the label space has {num_classes} classes; "
            "return two channels, of the class and of all the rest, for a label space of two."
        )
    return (
        f"returned {' and '.join(map(str, counts))} channels, the label space has {num_classes} "
        f"classes ({listed(answer)}); choose the label space that the network was trained with, or "
        "have the factory use the number of classes that it is given."
    )


# --- what the logits are made of ------------------------------------------------------------------


def _wiring(chosen: CandidateMap, seen: ForwardResult) -> Wiring:
    tap = _tap(chosen, seen)
    return Wiring(chosen.path, _declared(chosen, seen, tap), tap, chosen.head)


def _tap(chosen: CandidateMap, seen: ForwardResult) -> Tap | None:
    """The layer whose input the logits are made of; ``None`` where that is not one map."""
    taps: dict[int, Tap | None] = {}  # by their input: several layers may share one
    for layer, one in chosen.makers:
        calls = enumerate(seen.calls.get(layer, []))
        found = [(call, x) for call, (x, node) in calls if node in one.sources]
        if not found:
            return None
        call, x = found[-1]
        layout = _layout(x, chosen.shape, linear=layer in seen.linear)
        taps[id(x)] = None if layout is None else Tap(layer, call, layout)
    return next(iter(taps.values())) if len(taps) == 1 else None


def _layout(x: Tensor, logits: tuple[int, ...], *, linear: bool) -> str | None:
    batch, _, height, width = logits
    if x.shape[0] != batch:
        return None
    if x.ndim == 4:
        return "last" if linear else "map"
    tokens = x.ndim == 3 and linear and x.shape[1] == height * width
    return "tokens" if tokens else None


def _declared(chosen: CandidateMap, seen: ForwardResult, tap: Tap | None) -> str | None:
    """Path of the features that a network returns beside its logits, if that is what they are.

    The logits must be made from them, and they must not look like logits. A tuple does not say
    what its second map is, so there it must be as wide as what the last layer takes in.
    """
    keyed = _is_keyed(seen.answer)
    path = FEATURES if keyed else "1" if chosen.path == "0" else None
    declared = None if path is None else at(seen.answer, path)
    if not isinstance(declared, Tensor) or declared.ndim != 4 or path in seen.candidates:
        return None
    if not chosen.graph.depends_on(declared) or declared.shape[1] == chosen.shape[1]:
        return None
    if keyed or tap is None:
        return path
    x = seen.calls[tap.layer][tap.call][0]
    wide = x.shape[1] if tap.layout == "map" else x.shape[-1]
    return path if declared.shape[1] == wide else None


def _unlike(ships: CandidateMap, learns: CandidateMap) -> Iterator[str]:
    if ships.head and ships.head != learns.head:
        yield (
            f"the output that learns, {learns}, is made by other layers than the one that ships, "
            f"{ships}"
        )


def _unreached(network: nn.Module, learns: CandidateMap) -> Iterator[str]:
    total = sum(p.numel() for p in network.parameters() if p.is_floating_point())
    if learns.reach is not None and total and learns.reach < FEW * total:
        yield (
            f"only {learns.reach:,} of {total:,} weights reach the output {shown(learns.path)} "
            "while training; the others do not learn"
        )
