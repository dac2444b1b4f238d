"""The commands for operators with a service that fails for a moment."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

from .conftest import BECAUSE, Operate


class Failing(BaseHTTPRequestHandler):
    """A service whose answers are given."""

    def answer(self, status: int, body: object, **headers: str) -> None:
        """Send an answer with this body as JSON."""
        sent = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def served(service: type[Failing]) -> Iterator[str]:
    """Yield the address of such a service."""
    with HTTPServer(("127.0.0.1", 0), service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


class Lost(Failing):
    """A service that previews a change, and then has an outage."""

    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Lost.keys.append(self.headers["Idempotency-Key"])
        preview = {"edits": [], "budgets": [], "replayed": False, "notes": [], "confirmation": "yes"}
        if asked.get("dry_run"):
            self.answer(200, preview)
        else:
            self.answer(503, {"detail": "Redis: TimeoutError"})


def test_a_change_with_an_unknown_outcome_names_the_key_to_repeat_it_with(operate: Operate) -> None:
    """Without it, a repetition of a top-up would add the amount twice."""
    with served(Lost) as address:
        ended = operate("top-up", "budgets", "team=x", "5", *BECAUSE, "--server", address)
    (key,) = set(Lost.keys)
    expected = f"Redis: TimeoutError; the change may have been made: repeat the command with --key {key}\n"
    assert (1, "", expected) == (ended.code, ended.out, ended.err)


class Other(Failing):
    """Another service, or one of another version: its answers are JSON."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.answer(200, {})

    do_POST = do_GET


def test_the_answer_of_another_service_is_an_error_of_one_line(operate: Operate) -> None:
    """Each command says what may be wrong."""
    days = ("--from", "2026-11-01", "--to", "2026-12-01")
    with served(Other) as address:
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
            ended = operate(*command, "--server", address)
            assert (1, "") == (ended.code, ended.out), command
            assert 1 == ended.err.count("\n") and "the answer of the service has no " in ended.err, command


class Busy(Failing):
    """A service that answers 429 once."""

    calls = 0

    def do_GET(self) -> None:
        Busy.calls += 1
        if Busy.calls == 1:
            self.answer(429, {"detail": "slower"}, Retry_After="0")
        else:
            self.answer(200, {"lines": [], "next_cursor": None})


def test_a_service_that_is_called_too_often_is_called_again(operate: Operate) -> None:
    """The command waits for the Retry-After of the answer."""
    with served(Busy) as address:
        ended = operate("audit", "--server", address)
    assert (0, 2, "nothing was changed yet\n") == (ended.code, Busy.calls, ended.err)
