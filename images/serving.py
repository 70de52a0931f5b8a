# SPDX-License-Identifier: Apache-2.0
"""What the HTTP recipes share: a threaded server on the loopback interface that answers GET with JSON."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["JsonHandler", "serve"]


class JsonHandler(BaseHTTPRequestHandler):
    """Subclasses say what the answer is."""

    def do_GET(self) -> None:
        answer = self.answer()
        if answer is None:
            self.send_error(404)
            return
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self) -> object:
        """What GET of `self.path` gives; None: not found."""
        raise NotImplementedError

    def log_message(self, format: str, *args: object) -> None:
        """No access log: stderr leads nowhere."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 64


def serve(port: int, handler: type[JsonHandler]) -> None:
    """Answers for ever, one thread a connection."""
    _Server(("127.0.0.1", port), handler).serve_forever()
