"""A text message gateway to talk to: takes what it is sent, or answers as it is told to."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Gateway:
    """Listens on a port of its own; ``answers``: the next statuses, then 200."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.answers: deque[int] = deque()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                gateway.taken.append({**body, "headers": dict(self.headers)})
                self.send_response(gateway.answers.popleft() if gateway.answers else 200)
                self.send_header("Content-Length", "0")
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/send"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
