"""A source model behind HTTP on this machine, for `roadshift adapt http://127.0.0.1:8765/`.

    python examples/black_box_server.py BUNDLE [--port 8765]

A GET says what it answers in; a POST of a frame, as PNG or as raw pixels, is answered with the
classes of its pixels, a PNG. docs/black-box.md has the whole protocol. Needs no torch.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
import roadshift
from numpy.typing import NDArray

LARGEST_FRAME = 256 << 20  # bytes


def decoded(body: bytes, kind: str, shape: str) -> NDArray[np.uint8]:
    """The frame in a request, uint8 RGB (H, W, 3); ValueError where there is none."""
    if kind == "application/octet-stream":
        height, width, channels = map(int, shape.split(","))
        return np.frombuffer(body, np.uint8).reshape(height, width, channels)
    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    if kind != "image/png" or image is None:
        raise ValueError("send image/png, or application/octet-stream with X-Shape: H,W,3")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def handler_of(engine: roadshift.Engine, identity: str) -> type[BaseHTTPRequestHandler]:
    """The handler of requests to a server that answers by ``engine``."""
    about = {
        "label_space": engine.label_space.to_dict(),
        "input_size": [engine.input.width, engine.input.height],
        "identity": identity,  # another model has another: answers of both are never mixed
        "accepts": "image/png",
    }

    class Handler(BaseHTTPRequestHandler):
        """Requests to one model."""

        def do_GET(self) -> None:
            """Say what answers."""
            self._send(200, "application/json", json.dumps(about).encode())

        def do_POST(self) -> None:
            """Answer a frame."""
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 < length <= LARGEST_FRAME:
                self._send(413, "text/plain", b"send one frame with its Content-Length")
                return
            kind, shape = self.headers.get("Content-Type", ""), self.headers.get("X-Shape", "")
            try:
                image = decoded(self.rfile.read(length), kind, shape)
            except ValueError as error:
                self._send(400, "text/plain", str(error).encode())
                return
            _, png = cv2.imencode(".png", engine.segment(image))
            self._send(200, "image/png", png.tobytes())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing of every frame."""

    return Handler


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", help="exported, or with weights where torch is installed")
    parser.add_argument("--port", type=int, default=8765, help="0: any that is free")
    chosen = parser.parse_args()
    bundle = roadshift.open_bundle(chosen.bundle)
    with roadshift.open_engine(bundle) as engine:
        handler = handler_of(engine, bundle.hash)
        with ThreadingHTTPServer(("127.0.0.1", chosen.port), handler) as server:
            print(f"http://127.0.0.1:{server.server_port}/", flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return


if __name__ == "__main__":
    main()
