"""Addresses as they are shown: a user or a password in any place of one is never among it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime.addresses import hiding, is_live, normal_address, without_password
from roadshift.runtime.errors import FrameError, RoadshiftError
from roadshift.runtime.frames import open_frames
from roadshift.runtime.frames.live import open_live, open_source

HOSTS = [
    "10.0.0.7",
    "10.0.0.7:554",
    "front-camera.local:8554",
    "recorder",
    "cam_1",
    "[fe80::1]:554",
]
# Each has a place for a host, a user and a password.
IN_FRONT = [
    "rtsp://{user}:{password}@{host}/front",
    "rtsp://{user}:{password}@{host}",
    "RTSP://{user}:{password}@{host}:554/front?x=1#y",
    "http://{password}@{host}/video.mjpg",
    "rtsp://:{password}@{host}/",
    "rtmp://{user};{password}@{host}/live",
    "rtsp:/{user}:{password}@{host}/front",  # as pathlib spells it
]
BEHIND = [
    "rtsp://{host}/user={user}&password={password}&channel=1",
    "rtsp://{host}/user={user}_password={password}_channel=1_stream=0.sdp?real_stream",
    "rtsp://{host}/{user}:{password}@/",
    "rtsp://{host}/{user}:{password}@stream",
    "rtsp://{host}/live/{user}/{password}/1",
    "rtmp://{host}/live2/{password}",
    "rtsp://{host}/front;user={user};password={password}",
    "http://{host}/cgi?usr={user}&pwd={password}",
    "http://{host}/videostream.cgi?loginuse={user}&loginpas={password}",
    "https://{host}/v?{password}",
    "HTTPS://{host}/v?a=b#{password}",
    "srt://{host}?passphrase={password}&streamid={user}",
    "gopher://{host}/{password}",
]
# Letters that no host, scheme or word of the templates has, among every sign that a URL gives
# meaning: what is shown must not have one of them.
SIGNS = "QXZJ0189 @:/?#&=;%+,!$*()[]<>|\\^~'\"`.-_äß€"
SECRETS = st.builds("{}{}{}".format, st.text(SIGNS, max_size=9), st.sampled_from("QXZJ"),
                    st.text(SIGNS, min_size=3, max_size=9))  # fmt: skip


def filled(template: str, host: str, user: str, password: str) -> str:
    return template.format(host=host, user=user, password=password)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(IN_FRONT + BEHIND), st.sampled_from(HOSTS), SECRETS, SECRETS, st.booleans())
def test_no_secret_is_shown_from_any_place(
    template: str, host: str, user: str, password: str, escaped: bool
) -> None:
    spell = quote if escaped else str
    address = filled(template, host, spell(user), spell(password))
    shown = without_password(address)
    assert not set("QXZJ") & set(shown)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(IN_FRONT + BEHIND), st.sampled_from(HOSTS), SECRETS, SECRETS)
def test_no_secret_is_said_by_what_opens_or_refuses_the_address(
    template: str, host: str, user: str, password: str
) -> None:
    address = filled(template, host, user, password)
    said = []
    refused: tuple[Callable[[], object], ...] = (
        lambda: open_source([address, "camera:0"]),
        lambda: open_frames(address),
    )
    for attempt in refused:
        with pytest.raises(RoadshiftError) as error:
            attempt()
        said.append(str(error.value))
    try:
        said.append(open_live(address).title)
    except FrameError as refusal:
        said.append(str(refusal))
    assert not [text for text in said if set("QXZJ") & set(text)]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(IN_FRONT + BEHIND), st.sampled_from(HOSTS), SECRETS, SECRETS, st.booleans())
def test_an_argument_is_hidden_in_whatever_repeats_it(
    template: str, host: str, user: str, password: str, option: bool
) -> None:
    address = filled(template, host, user, password)
    hide = hiding(["run", "bundle", f"--frames={address}" if option else address])
    for repeated in (address, json.dumps({"lost": address}), repr(address)):
        assert not set("QXZJ") & set(hide(f"error: {repeated} cannot be opened"))


PASSWORDS = ("s3cr3t", "s3#cr3t", "s3/cr3t", "s3 cr3t", "s3=cr3t@")


@pytest.mark.parametrize("template", [*IN_FRONT, *BEHIND])
def test_what_takes_an_address_for_something_else_does_not_show_it(
    template: str, tmp_path: Path
) -> None:
    """A path, its folder, its absolute form, and the two halves of module:function."""
    for password, option in itertools.product(PASSWORDS, ("", "--frames=", "--", "-o")):
        address = filled(template, "10.0.0.7", "me", password)
        hide = hiding([option + address])
        path, half = Path(address), address.partition(":")[2]
        said = (path, path.parent, path.absolute(), tmp_path / path, half, Path(half))
        for repeated in (*said, [path.parent]):
            assert "cr3t" not in hide(f"{repeated} is not there."), (password, option)


@pytest.mark.parametrize("template", [IN_FRONT[i] for i in (0, 1, 2, 4, 6)])
def test_the_host_is_still_told(template: str) -> None:
    passwords = ("secret", "p#ss", "p/ss", "p@ss", "p?ss", "p%40ss", "a:b")
    for password, host in itertools.product(passwords, HOSTS):
        if template.startswith("RTSP"):
            host = host.partition(":")[0] if host[0] != "[" else "[fe80::1]"
        assert f"***@{host}" in without_password(filled(template, host, "admin", password))


@pytest.mark.parametrize("template", BEHIND)
@pytest.mark.parametrize("host", ["10.0.0.7", "10.0.0.7:554", "[fe80::1]:554"])
def test_the_host_in_front_of_a_secret_is_still_told(template: str, host: str) -> None:
    shown = without_password(filled(template, host, "admin", "secret"))
    assert shown.lower().startswith(f"{template.partition(':')[0].lower()}://{host}")


@pytest.mark.parametrize("secret", ["s3cret", "s3/cret", "s3 cret@", "s3:cret"])
@pytest.mark.parametrize(
    "address", ["me:{}@10.0.0.7/x", "camera:me:{}@10.0.0.7", "x=rtsp://m:{}@h"]
)
def test_what_looks_like_a_password_is_masked_without_a_scheme(address: str, secret: str) -> None:
    assert without_password(address.format(secret)) == "***"


@pytest.mark.parametrize(
    "harmless",
    [
        *("camera:0", "camera:/dev/video2?size=1280x720&fps=30", "drive.mp4", "12:30:00.mp4"),
        *("frames/12:30@front.png", "C:/frames", "drive:/x", "rtsp://10.0.0.7", "http://cam:80/"),
        *("a b&c=d", "package.module:function", "", "/"),
    ],
)
def test_what_holds_no_secret_stays(harmless: str) -> None:
    assert without_password(harmless) == harmless
    assert hiding([harmless])(f"{harmless} is there") == f"{harmless} is there"


@pytest.mark.parametrize(
    ("source", "live", "normal"),
    [
        ("camera:0", True, "camera:0"),
        ("CAMERA:0", True, "camera:0"),
        ("/dev/video12", True, "camera:/dev/video12"),
        ("/dev/video0?fps=30", True, "camera:/dev/video0?fps=30"),
        ("/dev/videos", False, "/dev/videos"),
        ("RtSp://Host/Path", True, "rtsp://Host/Path"),
        ("frames", False, "frames"),
        ("0", False, "0"),
        ("12:30:00.mp4", False, "12:30:00.mp4"),
    ],
)
def test_live_sources_are_told_from_files(source: str, live: bool, normal: str) -> None:
    assert (is_live(source), normal_address(source)) == (live, normal)
