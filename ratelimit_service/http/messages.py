"""Requests and responses, as handlers see them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple

TEXT = "text/plain; charset=utf-8"


class IncompleteBody(Exception):
    """The peer left, or broke the protocol, before the end of its request's body."""


class Request(NamedTuple):
    """A request whose head has been read. Iterating over `body` reads the rest, and raises IncompleteBody."""

    method: str
    path: str
    body: AsyncGenerator[bytes]


class Response(NamedTuple):
    """A response. A body that is a generator is sent as it is made, and closed if its reader leaves."""

    body: bytes | AsyncGenerator[bytes]
    status: int = 200
    content_type: str = TEXT
    allow: str = ""


Handler = Callable[[Request], Awaitable[Response]]


def text(body: str, status: int = 200) -> Response:
    """Return lines of plain text; the last one gets its end."""
    return Response((body if body.endswith("\n") else f"{body}\n").encode(), status)
