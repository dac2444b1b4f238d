"""The commands for operators with a service that fails for a moment."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

from .conftest import BECAUSE, Operate


class Lost(BaseHTTPRequestHandler):
    """A service that previews a change, and then has an outage."""

    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Lost.keys.append(self.headers["Idempotency-Key"])
        preview = {"edits": [], "budgets": [], "replayed": False, "notes": [], "confirmation": "yes"}
        answer = preview if asked.get("dry_run") else {"detail": "Redis: TimeoutError"}
        body = json.dumps(answer).encode()
        self.send_response(200 if asked.get("dry_run") else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


def test_a_change_with_an_unknown_outcome_names_the_key_to_repeat_it_with(operate: Operate) -> None:
    """Without it, a repetition of a top-up would add the amount twice."""
    with HTTPServer(("127.0.0.1", 0), Lost) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        ended = operate("top-up", "budgets", "team=x", "5", *BECAUSE, "--server", address)
        server.shutdown()
    (key,) = set(Lost.keys)
    expected = f"Redis: TimeoutError; the change may have been made: repeat the command with --key {key}\n"
    assert (1, "", expected) == (ended.code, ended.out, ended.err)


class Other(BaseHTTPRequestHandler):
    """Another service, or one of another version: its answers are JSON."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


def test_the_answer_of_another_service_is_an_error_of_one_line(operate: Operate) -> None:
    """Each command says what may be wrong."""
    days = ("--from", "2026-11-01", "--to", "2026-12-01")
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = ("--server", f"127.0.0.1:{server.server_port}")
        for command in (
            ("budgets",),
            ("show", "budgets", "team=x"),
            ("explain", "budgets", "team=x"),
            ("override", "budgets", "*", "5", "--yes", *BECAUSE),
            ("remove", "o-1", *BECAUSE),
            ("reset", "budgets", "team=x", "--reason", "r"),
            ("audit",),
            ("wait", "--within", "1"),
            ("top",),
            ("usage", "budgets", *days),
        ):
            ended = operate(*command, *address)
            assert (1, "") == (ended.code, ended.out), command
            assert 1 == ended.err.count("\n") and "the answer of the service has no " in ended.err, command
        server.shutdown()


class Busy(BaseHTTPRequestHandler):
    """A service that answers 429 once."""

    calls = 0

    def do_GET(self) -> None:
        Busy.calls += 1
        body = b'{"detail": "slower"}' if Busy.calls == 1 else b'{"lines": [], "next_cursor": null}'
        self.send_response(429 if Busy.calls == 1 else 200)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


def test_a_service_that_is_called_too_often_is_called_again(operate: Operate) -> None:
    """The command waits for the Retry-After of the answer."""
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ended = operate("audit", "--server", f"127.0.0.1:{server.server_port}")
        server.shutdown()
    assert (0, 2, "nothing was changed yet\n") == (ended.code, Busy.calls, ended.err)
