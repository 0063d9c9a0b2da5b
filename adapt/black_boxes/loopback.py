"""HTTP requests to this machine alone: no name that leads elsewhere, no proxy, no redirect.

The address is checked after it was resolved, and the connection goes to that very address. Replies
are bounded in size, and each request in time, however slowly its bytes drip.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from threading import Timer
from urllib.parse import urlsplit

from ...runtime.errors import ConfigError, EngineError

ATTEMPTS, FIRST_PAUSE_S = 4, 0.5  # of a request; each pause is twice the one before
_LATER = frozenset({429, 500, 502, 503, 504})  # may be well the next time


@dataclass(frozen=True)
class Reply:
    """The reply to a request.

    Attributes:
        kind: its media type without parameters, in lower case.
    """

    status: int
    kind: str
    content: bytes


class Unavailable(Exception):  # noqa: N818 - a circumstance, of which a caller makes an error
    """A request that failed and may be tried again; the message is the reason, a phrase."""


@dataclass(frozen=True)
class LoopbackUrl:
    """An ``http://`` URL of this machine.

    Attributes:
        addresses: of its host, each a loopback address.
    """

    text: str
    addresses: tuple[str, ...]
    port: int
    path: str
    host: str

    @classmethod
    def parse(cls, text: str) -> LoopbackUrl:
        """The URL in ``text``.

        Raises:
            ConfigError: it is none, or its host is not this machine.
        """
        try:
            parts = urlsplit(text)
            port = parts.port or 80
        except ValueError as error:
            raise ConfigError(f"{text}: is no URL ({error}).") from error
        if parts.scheme != "http" or not parts.hostname or "@" in parts.netloc or parts.fragment:
            raise ConfigError(f"{text}: is no URL of a service; write http://127.0.0.1:PORT/PATH.")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not (path.isascii() and path.isprintable()) or " " in path:
            raise ConfigError(f"{text}: its path holds what no URL holds; encode it with %.")
        found = _addresses(text, parts.hostname, port)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(text, found, port, path, f"{host}:{port}")


def _addresses(text: str, host: str, port: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{text}: its host cannot be found ({error}).") from error
    addresses = tuple(dict.fromkeys(str(place[0]) for *_, place in found))
    elsewhere = [a for a in addresses if not ipaddress.ip_address(a.split("%")[0]).is_loopback]
    if elsewhere or not addresses:
        raise ConfigError(
            f"{text}: leads to {', '.join(elsewhere) or 'no address'}, and frames are sent to this "
            "machine alone; run the service here, or forward a port of it to 127.0.0.1."
        )
    return addresses


def request(
    url: LoopbackUrl,
    method: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float,
    largest: int,
    pause: Callable[[float], None] = time.sleep,
) -> Reply:
    """Send a request, and again where that may help, `ATTEMPTS` times at most.

    Args:
        timeout_s: of each attempt, from its beginning to the reply's last byte.
        largest: bytes of a reply.

    Raises:
        EngineError: there is no reply, or one that is too large, a redirect or of another status
            than 200, 404, 405 and 501.
    """
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            pause(FIRST_PAUSE_S * 2 ** (attempt - 1))
        try:
            return _answered(url, method, body, headers or {}, timeout_s, largest)
        except Unavailable as error:
            problem = str(error)
    raise EngineError(f"{url.text}: {problem}, {ATTEMPTS} times; see that the service runs.")


def _answered(
    url: LoopbackUrl,
    method: str,
    body: bytes | None,
    headers: Mapping[str, str],
    timeout_s: float,
    largest: int,
) -> Reply:
    deadline = time.monotonic() + timeout_s
    problem = "cannot be reached"
    for address in url.addresses:
        try:
            connected = socket.create_connection((address, url.port), timeout=timeout_s)
        except OSError as error:
            problem = f"cannot be reached ({error.strerror or error})"
            continue
        with connected:
            left = max(deadline - time.monotonic(), 0.001)
            return _exchanged(connected, url, method, body, headers, left, largest)
    raise Unavailable(problem)


def _exchanged(
    connected: socket.socket,
    url: LoopbackUrl,
    method: str,
    body: bytes | None,
    headers: Mapping[str, str],
    left_s: float,
    largest: int,
) -> Reply:
    """One request and its reply over a connection, which is cut when the time is over."""
    late: list[bool] = []

    def cut() -> None:
        late.append(True)
        with suppress(OSError):  # the other side was first
            connected.shutdown(socket.SHUT_RDWR)

    watch = Timer(left_s, cut)
    watch.daemon = True
    watch.start()
    connected.settimeout(left_s + 1)
    connection = HTTPConnection(url.host)
    connection.sock = connected
    try:
        wanted = {"Host": url.host, "Connection": "close", **headers}
        connection.request(method, url.path, body, wanted)
        response = connection.getresponse()
        content = response.read(largest + 1)
        whole = response.length in (None, 0)
    except (OSError, HTTPException) as error:
        if late:
            raise Unavailable(f"did not answer within {left_s:.3g} s") from error
        raise Unavailable(f"broke off ({error or type(error).__name__})") from error
    finally:
        watch.cancel()
    if late:
        raise Unavailable(f"did not answer within {left_s:.3g} s")
    return _checked(url, response.status, dict(response.headers), content, whole, largest)


def _checked(
    url: LoopbackUrl,
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    whole: bool,
    largest: int,
) -> Reply:
    if status in _LATER:
        raise Unavailable(f"answers with status {status}{_said(content)}")
    if 300 <= status < 400:
        raise EngineError(
            f"{url.text}: leads on to another address (status {status}), which is not followed; "
            "give the address that answers."
        )
    if status not in (200, 404, 405, 501):
        raise EngineError(f"{url.text}: answers with status {status}{_said(content)}; mend it.")
    if len(content) > largest:
        raise EngineError(
            f"{url.text}: replies with more than {largest:,} bytes; let it answer at a lower "
            "resolution."
        )
    if not whole:
        raise Unavailable("broke off within its reply")
    named = {name.lower(): value for name, value in headers.items()}
    kind = named.get("content-type", "").partition(";")[0].strip().lower()
    return Reply(status, kind, content)


def _said(content: bytes) -> str:
    """The first line of a reply's text, where it is short, for a sentence."""
    try:
        lines = content[:400].decode().strip().splitlines()
    except UnicodeDecodeError:
        return ""
    text = lines[0] if lines else ""
    plain = text.isprintable() and len(text) <= 200 and not text.startswith("<")
    return f" ({text.rstrip('.')})" if text and plain else ""
