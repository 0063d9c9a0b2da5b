"""Calls of a user's network factory, however it names the number of classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError

from torch import nn

from ....runtime.errors import ConfigError, NetworkError, arg
from .arguments import as_options, channels

# Parameters that mean the number of classes, likeliest first; case and underscores do not count.
CLASS_PARAMETERS = (
    *("num_classes", "n_classes", "nclasses", "classes", "num_class", "n_class", "nclass"),
    *("nb_classes", "num_cls", "n_cls", "ncls", "class_num", "classes_num", "class_count"),
    *("number_of_classes", "num_labels", "n_labels", "num_outputs", "n_outputs", "num_out"),
    *("out_channels", "output_channels", "out_channel", "out_ch", "out_chans", "num_categories"),
    *("output_ch", "output_channel", "nc"),
)
_TRIED = CLASS_PARAMETERS[:8]  # where only **kwargs show, these are tried in turn
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class FactoryCall:
    """Arguments of a factory, and how the number of classes is among them, for people."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    told: str


def make_with(
    factory: Callable[..., Any], where: str, num_classes: int, arguments: Mapping[str, Any]
) -> tuple[nn.Module, str]:
    """Call a user's factory with the number of classes, under the name that it has there.

    Args:
        factory: a function, a class or a partial of one.
        where: begins every message, "network 'x:y'".
        num_classes: K.
        arguments: the user's own; one that means the number of classes must be K, and a mapping
            is handed over as `arguments.Options`. A parameter without a default that means the
            channels of an image (``n_channels``) is given 3 unless it is among them.

    Returns:
        The network, and a clause on how the factory was called.

    Raises:
        ConfigError: an argument says another number of classes.
        NetworkError: the factory cannot be called so, raised, or returned no network.
    """
    if isinstance(factory, nn.Module):
        raise NetworkError(
            f"{where}: is a network itself, and copies of it must be built; name the class or a "
            "function that returns a new one."
        )
    refusal: TypeError | None = None
    for call in _calls(factory, where, num_classes, as_options(arguments)):
        try:
            return _network(factory(*call.positional, **call.named), where), call.told
        except NetworkError:  # noqa: PERF203 - one call, or a few
            raise
        except TypeError as error:
            # A factory that hands **kwargs on says only here which names it does not know.
            ours = [name for name in call.named if name not in arguments]
            if not any(f"unexpected keyword argument '{name}'" in str(error) for name in ours):
                raise _raised(where, error) from error
            refusal = refusal or error
        except (Exception, SystemExit) as error:  # sys.exit() where there is no GPU, say
            raise _raised(where, error) from error
    assert refusal is not None  # every call but the last was refused, and so was that one
    raise _raised(where, refusal) from refusal


def _calls(
    factory: Callable[..., Any], where: str, num_classes: int, arguments: Mapping[str, Any]
) -> Iterator[FactoryCall]:
    """The ways to call ``factory``, one unless its signature is no more than ``**kwargs``."""
    parameters = _parameters(factory)
    named = {n: p for n, p in parameters.items() if p.kind not in _VARIADIC}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    chosen = min(
        (n for n in named if _rank(n) is not None), key=lambda n: _RANKS[_plain(n)], default=None
    )
    said = _said(chosen, named, arguments, num_classes)
    if not takes_any:
        arguments = {n: v for n, v in arguments.items() if n in named or n not in said}
        _check_known(where, named, arguments)
    seen = channels(named, arguments)
    arguments, also = {**seen, **arguments}, "".join(f" and {n}={v}" for n, v in seen.items())
    if chosen is None and not said:
        chosen = _only_required(named, arguments)
    if chosen is not None:
        values = {chosen: num_classes, **arguments}
        yield _bound(where, named, values, f"with {chosen}={values[chosen]}{also}")
    elif said and takes_any:
        yield _bound(where, named, arguments, f"with {said[0]}={num_classes}{also}, as you say")
    elif takes_any:
        for name in _TRIED:
            yield _bound(
                where, named, {name: num_classes, **arguments}, f"with {name}={num_classes}{also}"
            )
    else:
        yield _bound(
            where, named, arguments, f"without a number of classes{also}, for it takes none"
        )


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters by name; of what shows no signature, ``**kwargs`` alone."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        any_name = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
        return {"kwargs": any_name}


def _said(
    chosen: str | None,
    named: Mapping[str, inspect.Parameter],
    arguments: Mapping[str, Any],
    num_classes: int,
) -> list[str]:
    """The user's arguments that mean the number of classes; ConfigError where one is not K.

    That is the factory's own parameter for it, and such a name that is no parameter at all.
    """
    said = [n for n in arguments if n == chosen or (n not in named and _rank(n) is not None)]
    for name in said:
        if arguments[name] != num_classes:
            raise ConfigError(
                f"{arg('arguments')} '{name}={arguments[name]}': {arg('label_space')} "
                "decides that, and has "
                f"{num_classes} classes; leave the argument out or choose another label space."
            )
    return said


def without_class_count(arguments: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """``arguments`` less ``num_classes``, which every network is given; ConfigError if not K."""
    _said(
        "num_classes", {}, {n: v for n, v in arguments.items() if n == "num_classes"}, num_classes
    )
    return {name: value for name, value in arguments.items() if name != "num_classes"}


def _check_known(
    where: str, named: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]
) -> None:
    for name in arguments:
        if name not in named:
            known = ", ".join(named) or "none"
            raise NetworkError(
                f"{where}: the factory got an unexpected keyword argument '{name}' (its parameters "
                f"are: {known}); correct {arg('arguments')}."
            )


def _only_required(
    named: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]
) -> str | None:
    """The one positional-only parameter without a default, whose name says nothing to a caller."""
    required = [n for n, p in named.items() if p.default is p.empty and n not in arguments]
    alone = len(required) == 1 and named[required[0]].kind is inspect.Parameter.POSITIONAL_ONLY
    return required[0] if alone else None


def _bound(
    where: str, named: Mapping[str, inspect.Parameter], values: Mapping[str, Any], told: str
) -> FactoryCall:
    """``values`` as positional-only and keyword arguments; NetworkError if one is missing."""
    missing = [n for n, p in named.items() if p.default is p.empty and n not in values]
    if missing:
        example = f"{arg('arguments')} {missing[0]}=VALUE"
        classes = (
            ""
            if any(_rank(n) is not None for n in values)
            else (" (and no parameter is called num_classes, classes, or the like)")
        )
        raise NetworkError(
            f"{where}: the factory also needs {', '.join(missing)}{classes}; give {example}, or "
            "name a function that needs the number of classes alone."
        )
    positional = []
    rest = dict(values)
    for name, parameter in named.items():
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            break
        positional.append(rest.pop(name, parameter.default))
    return FactoryCall(tuple(positional), rest, told)


def _network(made: Any, where: str) -> nn.Module:
    """A factory's network, less what wraps it for several GPUs or compiled it; or NetworkError."""
    while isinstance(made, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or (
        type(made).__name__ == "OptimizedModule"
    ):
        made = made.module if hasattr(made, "device_ids") else made._orig_mod
    if not isinstance(made, nn.Module):
        raise NetworkError(
            f"{where}: the factory returned a {type(made).__name__}; it must return an nn.Module."
        )
    return made


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


_RANKS = {_plain(name): rank for rank, name in enumerate(CLASS_PARAMETERS)}


def _rank(name: str) -> int | None:
    """The place in ``CLASS_PARAMETERS``; ``None``: the name means something else."""
    return _RANKS.get(_plain(name))


def _raised(where: str, error: BaseException) -> NetworkError:
    hint = ""
    if "CUDA" in str(error) or "NVIDIA" in str(error):
        hint = f"; leave .cuda() out of it: {arg('device')} decides where a network runs"
    elif isinstance(error, (URLError, ConnectionError)):
        hint = (
            "; it downloads weights, which those of the file replace: switch that off with "
            f"{arg('arguments')} (pretrained=false, say), in its code, or put what it downloads "
            "where it looks first"
        )
    said = (str(error).splitlines() or [""])[0]
    return NetworkError(
        f"{where}: the factory raised {type(error).__name__}: {said.rstrip('.')}{hint}."
    )
