"""Addresses of cameras and streams: recognised, taken apart, and shown without their secrets.

Recorders and cameras are given passwords in every part of a URL (``user:password@host``,
``/user=admin&password=secret``, ``?pwd=secret``, ``/live/TOKEN``), often unescaped, so that ``@``,
``/``, ``?`` and ``#`` of a password look like the URL's own. Hence only the scheme, the host and
the port of an address are ever shown or stored, and the host only where it is beyond doubt.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePath

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "rtp", "srt")
MASK = "***"

_OTHER_SCHEMES = ("rtmps", "rtspu", "rtsph", "mms", "ws", "wss", "ftp", "sftp", "smb", "webrtc")
_CAMERA = re.compile(r"(camera|csi|gst):", re.IGNORECASE)
_PIPELINE = re.compile(r"gst:\s*([a-z0-9]*)", re.IGNORECASE)  # and its first element
_DEVICE = re.compile(r"/dev/video[0-9]+(\?.*)?", re.DOTALL)
_URL = re.compile(r"\s*([a-z][a-z0-9+.-]*)://+", re.IGNORECASE)
# With one slash, as `Path` spells a URL; known schemes alone: a folder's name may end in a colon.
_PATH_OF_URL = re.compile(rf"\s*({'|'.join((*SCHEMES, *_OTHER_SCHEMES))}):/", re.IGNORECASE)
_WITHOUT_SCHEME = re.compile(r"[^/]*:.*@", re.DOTALL)  # user:password@host
_MACHINE = re.compile(
    r"(?P<host>\w(?:[\w.-]*\w)?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE
)
_END_OF_AUTHORITY = re.compile(r"[/?#\\]|$")
_IP = re.compile(r"\[[0-9a-f:.]+\]|(?:[0-9]{1,3}\.){3}[0-9]{1,3}", re.IGNORECASE)


def is_live(source: object) -> bool:
    """Tell whether a source is a camera, a pipeline or a stream: `camera:0`, `rtsp://host/x`."""
    text = str(source)
    return bool(_CAMERA.match(text) or _DEVICE.fullmatch(text) or _URL.match(text))


def is_url(name: object) -> bool:
    """Tell whether a name is a URL, also as `Path` spells it, and so no file or folder."""
    return bool(_URL.match(str(name)) or _PATH_OF_URL.match(str(name)))


def normal_address(source: str) -> str:
    """``source`` as `open_live` and FFmpeg take it: scheme in lower case, a device as a camera."""
    if _DEVICE.fullmatch(source):
        return f"camera:{source}"
    if camera := _CAMERA.match(source):
        return camera[0].lower() + source[camera.end() :]
    url = _URL.match(source)
    return source if url is None else url[0].strip().lower() + source[url.end() :]


def without_password(text: str) -> str:
    """An address as it may be shown and stored: scheme, host and port; anything else unchanged.

    ``rtsp://me:secret@10.0.0.7:554/front?x=1`` becomes ``rtsp://***@10.0.0.7:554/***``. Where two
    readings of an address disagree about its host, that is left out as well: ``rtsp://***``. Any
    element of a pipeline may have a password: ``gst:rtspsrc location=... ! ...`` becomes
    ``gst:rtspsrc``.
    """
    if pipeline := _PIPELINE.match(text):
        return f"gst:{pipeline[1]}"
    url = _URL.match(text) or _PATH_OF_URL.match(text)
    if url is None:
        secret = "://" in text or _WITHOUT_SCHEME.match(text.removeprefix("camera:"))
        return MASK if secret else text
    scheme, rest = url[1].lower(), text[url.end() :]
    machine = _machine(rest)
    if machine is None:
        return f"{scheme}://{MASK}" if rest else f"{scheme}://"
    before = f"{MASK}@" if machine.before else ""
    after = f"/{MASK}" if machine.after not in ("", "/") else machine.after
    return f"{scheme}://{before}{machine.name}{after}"


@dataclass(frozen=True)
class _Host:
    """A host with its port, and what an address says before and after it."""

    before: str
    name: str
    after: str

    @property
    def is_ip(self) -> bool:
        return _IP.match(self.name) is not None


def _machine(rest: str) -> _Host | None:
    """The machine in an address without its scheme; None where it is not beyond doubt.

    Two readings: the standard's, in which the first ``/``, ``?`` or ``#`` ends the authority, and
    that of an unescaped password, in which everything up to the last ``@`` comes before the host.
    """
    authority = _until(_END_OF_AUTHORITY, rest)
    before, at, host = authority.rpartition("@")
    standard = _checked(before + at, host, rest[len(authority) :])
    before, at, tail = rest.rpartition("@")
    if len(before) < len(authority):  # no @ after the authority: the two agree
        return standard
    host = _until(_END_OF_AUTHORITY, tail)
    unescaped = _checked(before + at, host, tail[len(host) :])
    for reading in (standard, unescaped):
        if reading is not None and reading.is_ip:
            return reading
    if standard is not None:  # a name such as `recorder`, or the user before a slash
        return None if host else standard
    return unescaped if re.match(r"[^\[:]*:", authority) else None  # `user:pass/word@host`


def _until(end: re.Pattern[str], text: str) -> str:
    found = end.search(text)
    return text[: found.start()] if found else text


def _checked(before: str, name: str, after: str) -> _Host | None:
    found = _MACHINE.fullmatch(name)
    if found is None or int(found["port"] or 0) > 65535:
        return None
    return _Host(before, name, after)


def hiding(arguments: Iterable[str]) -> Callable[[str], str]:
    """A function that replaces the addresses among a command's arguments wherever text has them.

    The last resort: what shows an address asks `without_password` itself.
    """
    replaced: dict[str, str] = {}
    for argument in arguments:
        for value in _values(argument):
            for text, shown in _repeated(value).items():
                for spelt in (text, json.dumps(text)[1:-1], repr(text)[1:-1]):
                    replaced[spelt] = shown
    ordered = sorted(replaced, key=len, reverse=True)

    def hide(text: str) -> str:
        for spelt in ordered:
            text = text.replace(spelt, replaced[spelt])
        return text

    return hide


def _values(argument: str) -> set[str]:
    """The argument, and the value that it may hold as an option: `-ox`, `--frames=x`."""
    bare = argument.lstrip("-")
    attached = {bare, bare[1:]} if bare != argument else set()
    return {argument, *attached, bare.partition("=")[2]}


def _repeated(value: str) -> dict[str, str]:
    """Texts by which an address is repeated, each with what is shown instead; none if harmless.

    Whatever takes it for a path repeats its folders, and what takes it for module:function what
    follows the colon.
    """
    whole = without_password(value)
    if whole == value:
        return {}
    found = dict.fromkeys(_pieces(value), MASK)
    half = value.partition(":")[2]
    found |= dict.fromkeys({half, str(PurePath(half))}, MASK)
    for path in map(str, (PurePath(value), *PurePath(value).parents)):
        if ":" in path.rstrip(":"):
            shown = without_password(path)
            shown = MASK if shown == path else shown  # a scheme that is not known
            found |= {path: shown, os.path.abspath(path): shown}
    found |= dict.fromkeys((value, value.strip(), normal_address(value)), whole)
    return {text: shown for text, shown in found.items() if len(text) > 3}


def _pieces(value: str) -> list[str]:
    """The parts of an address that are not shown, where they tell themselves from other text."""
    url = _URL.match(value) or _PATH_OF_URL.match(value)
    rest = value[url.end() :] if url else value
    machine = _machine(rest)
    found = [rest] if machine is None else [machine.before, machine.after.rstrip("/")]
    spelt = {text for piece in found for text in (piece, str(PurePath(piece)))}
    return [
        text for text in spelt if len(text) >= 12 or re.search(r"[^/]{2}[=@:?&;#]|[=?#].", text)
    ]
