"""A service on loopback as a black box: what it may say, and every way in which it may not."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from answering_service import image_in, reply, service
from numpy.typing import NDArray
from roadshift.adapt.black_boxes import BoxWiring, checked_answer, loopback, open_black_box
from roadshift.adapt.black_boxes.loopback import ATTEMPTS, LoopbackUrl
from roadshift.runtime.errors import ConfigError, EngineError, LabelError
from roadshift.runtime.labels import LabelSpace, label_space

TWO = LabelSpace(name="two", classes=("dark", "light"), colours=((0, 0, 0), (9, 9, 9)))
ABOUT = {"label_space": TWO.to_dict(), "input_size": [24, 16], "identity": "v1"}
IMAGE = np.random.default_rng(2).integers(0, 256, (16, 24, 3), np.uint8)
LABELS = (IMAGE.mean(axis=2) > 127).astype(np.uint8)
Body = tuple[str, bytes]


def png(labels: NDArray[Any]) -> Body:
    return "image/png", cv2.imencode(".png", labels)[1].tobytes()


def npy(array: NDArray[Any]) -> Body:
    buffer = BytesIO()
    np.save(buffer, array)
    return "application/x-npy", buffer.getvalue()


def as_json(value: Any) -> Body:
    return "application/json", json.dumps(value).encode()


def light(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (image.mean(axis=2) > 127).astype(np.uint8)


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "FIRST_PAUSE_S", 0.0)


def asked(url: str, name: str = "frame", **wiring: Any) -> NDArray[Any]:
    black_box = open_black_box(url, BoxWiring(**wiring), TWO, lambda _: None)
    return checked_answer(black_box.answer(name, IMAGE.copy()), 2, "here")


# --- what it may say -----------------------------------------------------------------------------


@pytest.mark.parametrize("accepts", ["image/png", "application/octet-stream"])
def test_it_is_sent_the_very_pixels_at_the_size_it_names(accepts: str) -> None:
    with service(lambda image: png(light(image)), ABOUT | {"accepts": accepts}) as url:
        black_box = open_black_box(url, note=lambda _: None)
        assert black_box.label_space == TWO
        assert black_box.input is not None
        assert (black_box.input.width, black_box.input.height) == (24, 16)
        assert np.array_equal(black_box.answer("frame", IMAGE), LABELS)
        large = np.repeat(np.repeat(IMAGE, 2, axis=0), 2, axis=1)
        assert np.array_equal(black_box.answer("frame", large), LABELS)


@pytest.mark.parametrize(
    "body",
    [
        lambda z: npy(z),
        lambda z: npy(z[None]),
        lambda z: npy(z.transpose(1, 2, 0)),
        lambda z: npy(z.astype(np.float16)),
        lambda z: npy(np.asfortranarray(z.astype(">f8"))),
        lambda z: as_json({"logits": z.tolist()}),
        lambda z: as_json({"probabilities": (np.exp(z) / np.exp(z).sum(axis=0)).tolist()}),
    ],
    ids=["npy", "batch", "classes last", "float16", "fortran", "logits", "probabilities"],
)
def test_soft_answers_come_as_npy_or_json(body: Callable[[NDArray[Any]], Body]) -> None:
    z = np.random.default_rng(3).normal(0, 3, (2, 8, 12)).astype(np.float32)
    expected = np.exp(z) / np.exp(z).sum(axis=0)
    with service(lambda _: body(z), ABOUT) as url:
        assert np.abs(asked(url) - expected).max() < 2e-3


@pytest.mark.parametrize(
    "body", [png(LABELS), npy(LABELS.astype(np.int64)), as_json({"classes": LABELS.tolist()})],
    ids=["png", "npy", "json"],
)  # fmt: skip
def test_classes_come_as_png_npy_or_json(body: Body) -> None:
    with service(lambda _: body, ABOUT) as url:
        assert np.array_equal(asked(url), LABELS)


def test_it_may_say_nothing_of_itself_and_is_told_the_frames_name() -> None:
    names = []

    def post(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        names.append(handler.headers["X-Frame-Name"])
        reply(handler, 200, *png(light(image_in(handler, body))))

    with service(post=post) as url:
        assert np.array_equal(asked(url, "drive_000007"), LABELS)
        with pytest.raises(ConfigError, match="does not say what its classes are; give label_sp"):
            open_black_box(url)
    assert names == ["drive_000007"]


def test_another_identity_or_size_is_another_black_box() -> None:
    about: dict[str, Any] = dict(ABOUT)

    def get(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        reply(handler, 200, *as_json(about))

    def identity(**change: Any) -> str:
        about.update(change)
        return open_black_box(url).identity

    with service(get=get) as url:
        first = identity()
        assert first == identity()
        assert len({first, identity(identity="v2"), identity(input_size=[48, 32])}) == 3


def test_ipv6_and_a_name_of_this_machine_are_this_machine() -> None:
    parsed = LoopbackUrl.parse("http://localhost:81/a?b=c")
    assert (parsed.port, parsed.path) == (81, "/a?b=c")
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    assert LoopbackUrl.parse("http://[::1]:81/").addresses == ("::1",)


# --- where frames do not go ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://192.0.2.1/x", "leads to 192.0.2.1, and frames are sent to this machine alone"),
        ("http://0.0.0.0:80/", "leads to 0.0.0.0"),
        ("http://[::]:80/", "leads to ::"),
        ("http://169.254.169.254/latest", "leads to 169.254.169.254"),
        ("http://[2001:db8::1]/", "leads to 2001:db8::1"),
        ("https://127.0.0.1/", "is no http:// address"),
        ("ftp://127.0.0.1/", "is no http:// address"),
        ("http://", "is no URL of a service"),
        ("http://user:word@127.0.0.1/", "is no URL of a service"),
        ("http://127.0.0.1@192.0.2.1/", "is no URL of a service"),
        ("http://127.0.0.1:99999/", "is no URL .Port out of range"),
        ("http://127.0.0.1/a b", "its path holds what no URL holds"),
        ("http://127.0.0.1/\r\nX: y", "its path holds what|is no URL|cannot be reached"),
    ],
)
def test_an_address_elsewhere_is_refused_before_anything_is_sent(url: str, words: str) -> None:
    with pytest.raises((ConfigError, EngineError), match=words):
        open_black_box(url, space=TWO)


def test_a_name_that_leads_elsewhere_is_refused_after_it_is_resolved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolved(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", ("127.0.0.1", 80)), (0, 0, 0, "", ("192.0.2.7", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(socket, "create_connection", pytest.fail)
    with pytest.raises(ConfigError, match=r"leads to 192\.0\.2\.7"):
        open_black_box("http://model.example/", space=TWO)


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    with service(lambda _: png(LABELS), ABOUT) as url:
        assert np.array_equal(asked(url), LABELS)


def test_a_redirect_is_not_followed() -> None:
    def post(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", "http://192.0.2.1/")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with (
        service(about=ABOUT, post=post) as url,
        pytest.raises(EngineError, match=r"another address \(status 302\), which is not fol"),
    ):
        asked(url)


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (("text/html", b"<html>"), EngineError, "the reply to frame frame is text/html; send"),
        (("image/png", b"\x89PNG\r\n\x1a\n"), LabelError, "frame frame: these labels are damaged"),
        (png(IMAGE), EngineError, "is a colour picture; send class indices"),
        (("application/x-npy", b"\x93NUMPY"), EngineError, "cannot be read as application/x-npy"),
        (("application/x-npy", npy(LABELS)[1][:-3]), EngineError, "bytes of numbers, and"),
        (npy(np.array([{}], object)), EngineError, "it holds object, and no plain numbers"),
        (("application/json", b"{"), EngineError, "cannot be read as application/json"),
        (("application/json", b'{"logits": [[[NaN]]]}'), EngineError, "cannot be read as"),
        (as_json({"logits": [[[1, 2]], [[1]]]}), EngineError, "cannot be read as"),
        (as_json({"labels": [[1]]}), EngineError, "no object with one of classes, logits, prob"),
        (as_json({"classes": [["a"]]}), EngineError, "holds other things than numbers"),
        (npy(np.full((2, 4, 6), np.nan, np.float32)), LabelError, "48 numbers of 48 that are not"),
        (npy(np.zeros((3, 4, 6), np.float32)), EngineError, r"gives float32 \(3, 4, 6\) on frame"),
        (npy(np.zeros((2, 0, 6), np.float32)), EngineError, r"gives float32 \(2, 0, 6\)"),
        (png(LABELS + 7), LabelError, r"has the classes \[7, 8\]"),
    ],
)
def test_a_reply_that_is_no_answer_is_a_sentence(
    body: Body, error: type[Exception], words: str
) -> None:
    with service(lambda _: body, ABOUT) as url, pytest.raises(error, match=words):
        asked(url)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ([], "it is no JSON object"),
        ({"label_space": "nowhere"}, "label_space 'nowhere' is not built in"),
        ({"label_space": {"name": "x"}}, "missing keys"),
        ({"label_space": "/etc/passwd"}, "is not built in"),
        ({"classes": "dark, light"}, "classes is no list of names"),
        ({"input_size": [0, 16]}, r"input_size is no \[width, height\]"),
        ({"input_size": [1 << 20, 16]}, r"input_size is no \[width, height\]"),
        ({"input_size": [True, 16]}, r"input_size is no \[width, height\]"),
        ({"identity": 3}, "identity is no text"),
        ({"accepts": "text/plain"}, "accepts is neither"),
        ({"size": [24, 16]}, r"unknown keys \['size'\]"),
    ],
    ids=str,
)
def test_a_description_that_is_none_is_a_sentence(about: Any, words: str) -> None:
    with (
        service(lambda _: png(LABELS), about) as url,
        pytest.raises(EngineError, match=f"describes itself .*{words}"),
    ):
        open_black_box(url, space=TWO)


def test_classes_of_another_label_space_are_refused() -> None:
    with service(about={"classes": ["dark", "light"]}, answer=lambda _: png(LABELS)) as url:
        assert np.array_equal(asked(url), LABELS)
        with pytest.raises(ConfigError, match="answers in the classes dark, light, which are 2"):
            open_black_box(url, space=label_space("camvid11"))


def test_what_a_service_does_itself_is_not_given() -> None:
    with pytest.raises(ConfigError, match=r"^mean, output|^output, mean"):
        open_black_box("http://127.0.0.1:9/", BoxWiring(output="a", mean=(0, 0, 0)), TWO)


def test_a_service_that_stumbles_is_asked_again_and_a_dead_one_ends_in_a_sentence() -> None:
    asked_of = []

    def post(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked_of.append(None)
        if len(asked_of) < ATTEMPTS:
            reply(handler, 503, "text/plain", b"loading the model")
        else:
            reply(handler, 200, *png(light(image_in(handler, body))))

    with service(about=ABOUT, post=post) as url:
        assert np.array_equal(asked(url), LABELS)
    with pytest.raises(EngineError, match=rf"cannot be reached \(.*refused\), {ATTEMPTS} times"):
        asked(url)


def test_a_service_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It drips a byte at a time, each within the time that a whole answer may take."""
    monkeypatch.setattr(loopback, "ATTEMPTS", 2)

    def post(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(100):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.02)

    with (
        service(about=ABOUT, post=post) as url,
        pytest.raises(EngineError, match=r"did not answer within 0\.\d+ s, 2 times"),
    ):
        asked(url, answer_timeout_s=0.2)


@pytest.mark.parametrize("length", [1000, 10])
def test_a_reply_that_breaks_off_is_asked_for_again(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "ATTEMPTS", 2)

    def post(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(b"cut")

    with (
        service(about=ABOUT, post=post) as url,
        pytest.raises(EngineError, match="broke off within its reply, 2 times"),
    ):
        asked(url)


def test_a_reply_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadshift.adapt.black_boxes.http_service.LARGEST_REPLY", 1000)
    with (
        service(lambda _: ("image/png", b"x" * 5000), ABOUT) as url,
        pytest.raises(EngineError, match="replies with more than 1,000 bytes"),
    ):
        asked(url)


def test_what_a_service_complains_of_is_told() -> None:
    def post(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        reply(handler, 400, "text/plain", b"only frames of 640x360, please.\nno more")

    with (
        service(about=ABOUT, post=post) as url,
        pytest.raises(EngineError, match=r"status 400 \(only frames of 640x360, please\)"),
    ):
        asked(url)
