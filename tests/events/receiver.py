"""A receiver of webhooks over real HTTP. It keeps its deliveries, and a test sets its answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Got:
    """One delivery."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Webhook:
    """A webhook. `answer` returns the status for the next delivery; if it returns None, the request hangs
    until the end of the test.
    """

    answer: Callable[[int], int | None] = lambda number: 204
    got: list[Got] = field(default_factory=list)

    def __enter__(self) -> Self:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                webhook.got.append(Got({name.lower(): value for name, value in self.headers.items()}, body))
                status = webhook.answer(len(webhook.got))
                if status is None:
                    webhook._end.wait()
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", f"{webhook.url}elsewhere")
                # Longer than any client would read.
                self.send_header("content-length", "1000000000000" if status == 200 else "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self._end = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the received events in order."""
        return [got.event for got in self.got]
