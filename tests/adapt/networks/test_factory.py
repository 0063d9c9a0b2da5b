"""Factories by their signatures: under which name they are given the number of classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from urllib.error import URLError

import pytest
import torch
from roadshift.adapt.networks.foreign.factory import CLASS_PARAMETERS, make_with
from roadshift.runtime.errors import ConfigError, NetworkError
from torch import nn

K = 7
NAMES = [
    *CLASS_PARAMETERS,
    *("NUM_CLASSES", "nClasses", "numClasses", "num_cls", "NumClass"),
]


def net(count: int) -> nn.Module:
    return nn.Conv2d(3, count, 1)


def made(factory: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    """Channels of what was made, and how the factory was called."""
    network, told = make_with(factory, "network 'a:b'", K, arguments)
    assert isinstance(network, nn.Conv2d)
    return network.out_channels, told


def forms(name: str) -> dict[str, Callable[..., Any]]:
    """A factory of each form whose parameter is called ``name``."""
    scope: dict[str, Any] = {"net": net, "nn": nn}
    code = f"""
def function({name}): return net({name})
def with_default({name}=21, pretrained=False): return net({name})
def second(width=3, {name}=21): return net({name})
def keyword_only(*, {name}): return net({name})
def positional_only({name}, /): return net({name})
def after_positional(width=3, /, {name}=21): return net({name})
def and_anything({name}, **kwargs): return net({name})
class Made(nn.Conv2d):
    def __init__(self, {name}=21): super().__init__(3, {name}, 1)
class WithMethod:
    @classmethod
    def build(cls, {name}): return net({name})
    @staticmethod
    def make({name}): return net({name})
class Callable_:
    def __call__(self, {name}): return net({name})
def handed_on(**kwargs): return function(**kwargs)
def bare(*args, **kwargs): return with_default(*args, **kwargs)
"""
    exec(code, scope)
    found = {key: value for key, value in scope.items() if callable(value) and key != "net"}
    found["class method"] = scope["WithMethod"].build
    found["static method"] = scope["WithMethod"].make
    found["instance"] = scope["Callable_"]()
    found["partial"] = functools.partial(scope["second"], 3)
    found["partial of the same"] = functools.partial(scope["function"], **{name: 21})
    found["wrapped"] = functools.wraps(scope["function"])(
        lambda *a, **k: scope["function"](*a, **k)
    )
    return {k: v for k, v in found.items() if k not in ("WithMethod", "Callable_")}


OPAQUE = ("handed_on", "bare")  # only some names are tried where no signature tells


@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_factory_is_given_the_classes_under_its_own_name(name: str) -> None:
    for form, factory in forms(name).items():
        if form in OPAQUE and name not in CLASS_PARAMETERS[:8]:
            continue
        assert made(factory) == (K, f"with {name}={K}"), form


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_of_the_same_meaning_must_agree(name: str) -> None:
    for form, factory in forms(name).items():
        assert made(factory, **{name: K})[0] == K, form
        with pytest.raises(ConfigError, match=rf"arguments '{name}=9': .*has 7 classes"):
            made(factory, **{name: 9})


@pytest.mark.parametrize("other", CLASS_PARAMETERS[:8])
def test_the_users_word_for_it_may_be_another(other: str) -> None:
    assert made(lambda classes: net(classes), **{other: K})[0] == K
    assert made(lambda: net(K), **{other: K})[0] == K
    with pytest.raises(ConfigError, match=f"arguments '{other}=9'"):
        made(lambda: net(9), **{other: 9})


@pytest.mark.parametrize(
    "factory",
    [
        lambda out_channels=64, num_classes=21: (out_channels == 64) and net(num_classes),
        lambda nc=3, n_classes=21: (nc == 3) and net(n_classes),
        lambda num_outputs=2, classes=21: (num_outputs == 2) and net(classes),
    ],
)
def test_the_likeliest_of_several_names_is_taken(factory: Callable[..., Any]) -> None:
    assert made(factory)[0] == K


def test_a_width_is_the_users_own_where_classes_have_a_name() -> None:
    def factory(out_channels: int, num_classes: int) -> nn.Module:
        return nn.Conv2d(3 if out_channels == 64 else 1, num_classes, 1)

    network, _ = make_with(factory, "x", K, {"out_channels": 64})
    assert (network.in_channels, network.out_channels) == (3, K)


def test_a_factory_without_a_number_is_called_without_one() -> None:
    assert made(lambda: net(K)) == (K, "without a number of classes, for it takes none")
    assert made(lambda depth=3: net(depth)) == (3, "without a number of classes, for it takes none")
    assert made(functools.partial(net, 4))[0] == 4
    assert made(lambda k, /: net(k)) == (K, f"with k={K}")


@pytest.mark.parametrize(
    ("factory", "arguments", "says"),
    [
        (
            lambda num_classes, depth: net(num_classes + depth),
            {},
            "also needs depth; give arguments depth=VALUE",
        ),
        (lambda depth: net(depth), {}, r"needs depth \(and no parameter is called num_classes"),
        (lambda num_classes: net(num_classes), {"depth": 3}, "unexpected keyword argument 'depth'"),
        (lambda num_classes: num_classes / 0, {}, "the factory raised ZeroDivisionError"),
        (lambda **kwargs: net(*kwargs["widths"]), {}, "the factory raised KeyError"),
        (lambda **kwargs: dict(num_classes=1, **kwargs), {}, "the factory raised TypeError"),
        (nn.Conv2d(3, K, 1), {}, "is a network itself.*name the class or a function"),
        (lambda num_classes: nn.Conv2d(3, num_classes, 1).state_dict(), {}, "returned a OrderedD"),
    ],
)
def test_a_factory_that_cannot_be_called_so_is_a_sentence(
    factory: Callable[..., Any], arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(NetworkError, match=says) as error:
        made(factory, **arguments)
    assert "\n" not in str(error.value)


def test_a_wrapper_for_several_gpus_is_taken_off() -> None:
    assert made(lambda nc: nn.DataParallel(net(nc)))[0] == K


def test_what_compiles_a_network_is_taken_off() -> None:
    network, _ = make_with(lambda nc: torch.compile(nn.Conv2d(3, nc, 1)), "network 'f'", K, {})
    assert type(network) is nn.Conv2d


def test_a_factory_that_exits_is_a_sentence() -> None:
    def no_gpu(num_classes: int) -> nn.Module:  # noqa: ARG001 - as some are
        raise SystemExit(0)

    with pytest.raises(NetworkError, match="raised SystemExit: 0"):
        made(no_gpu)


def test_a_group_of_options_is_read_by_attribute_and_by_item_and_is_the_networks_own() -> None:
    def factory(args: Any, classes: int = 3) -> nn.Module:
        assert args.s == args["s"] == 2.0
        assert args.head.kind == "fcn"
        assert getattr(args, "absent", None) is None
        args.s = 3.0  # published code does this
        return net(classes)

    given = {"args": {"s": 2.0, "head": {"kind": "fcn"}}}
    for _ in range(2):  # a copy is built later from the same arguments
        assert made(factory, **given) == (K, f"with classes={K}")


def test_an_option_that_is_missing_says_which_there_are() -> None:
    def factory(args: Any) -> nn.Module:
        return net(args.classes)

    with pytest.raises(NetworkError, match="AttributeError: the option 'classes' is read from a"):
        made(factory, args={"s": 2.0})


def test_channels_of_an_image_are_given_where_they_have_no_default() -> None:
    def plain(n_channels: int, n_classes: int) -> nn.Module:
        return nn.Conv2d(n_channels, n_classes, 1)

    def own_default(n_classes: int, n_channels: int = 4) -> nn.Module:
        assert n_channels == 4
        return net(n_classes)

    assert made(plain) == (K, f"with n_classes={K} and n_channels=3")
    assert made(plain, n_channels=3) == (K, f"with n_classes={K}")

    def short(img_ch: int, output_ch: int = 1) -> nn.Module:  # LeeJunHyun/Image_Segmentation
        return nn.Conv2d(img_ch, output_ch, 1)

    assert made(short) == (K, f"with output_ch={K} and img_ch=3")
    assert made(own_default) == (K, f"with n_classes={K}")


def test_a_factory_that_downloads_says_what_to_do() -> None:
    def factory(num_classes: int) -> nn.Module:
        raise URLError(f"no way to weights of {num_classes} classes")

    with pytest.raises(NetworkError, match=r"it downloads weights, which"):
        made(factory)
