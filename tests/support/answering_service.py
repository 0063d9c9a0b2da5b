"""A service on loopback that answers frames, well or badly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Answer = Callable[[NDArray[np.uint8]], tuple[str, bytes]]
Handle = Callable[[BaseHTTPRequestHandler, bytes], None]


def reply(handler: BaseHTTPRequestHandler, status: int, kind: str, body: bytes) -> None:
    """A whole reply."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def image_in(handler: BaseHTTPRequestHandler, body: bytes) -> NDArray[np.uint8]:
    """The frame of a request, uint8 RGB (H, W, 3)."""
    if handler.headers["Content-Type"] == "image/png":
        found = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
        assert found is not None
        return np.asarray(found[..., ::-1], np.uint8)
    height, width, channels = map(int, handler.headers["X-Shape"].split(","))
    return np.frombuffer(body, np.uint8).reshape(height, width, channels)


@contextmanager
def service(
    answer: Answer | None = None, about: Any = None, *, post: Handle | None = None,
    get: Handle | None = None, host: str = "127.0.0.1",
) -> Iterator[str]:  # fmt: skip
    """Serve in a thread; yields the URL.

    Args:
        answer: gives a frame's reply, its kind and body; ``post`` answers in its place.
        about: the description; None: there is none, status 404. ``get`` answers in its place.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if get is not None:
                get(self, b"")
            elif about is None:
                reply(self, 404, "text/plain", b"no description")
            else:
                reply(self, 200, "application/json", json.dumps(about).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if post is not None:
                post(self, body)
            else:
                assert answer is not None
                reply(self, 200, *answer(image_in(self, body)))

        def log_message(self, format: str, *arguments: Any) -> None: ...

    with ThreadingHTTPServer((host, 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://{host}:{server.server_port}/segment"
        server.shutdown()
        thread.join()
