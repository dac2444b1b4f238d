"""Requests and responses, as handlers see them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import NamedTuple

TEXT = "text/plain; charset=utf-8"


class IncompleteBody(Exception):
    """The peer left, or broke the protocol, before the end of its request's body."""


class Request(NamedTuple):
    """A request whose head has been read. Iterating over `body` reads the rest, and raises IncompleteBody.

    `headers` have names in lower case. `peer` is the IP address of the client; empty where it has none.
    """

    method: str
    path: str
    body: AsyncGenerator[bytes]
    query: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    peer: str = ""

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, of several with the same name all values; None where there is
        none.
        """
        values = [value for each, value in self.headers if each == name]
        return b", ".join(values).decode("latin-1") if values else None


class Response(NamedTuple):
    """A response. A body that is a generator is sent as it is made, and closed if its reader leaves."""

    body: bytes | AsyncGenerator[bytes]
    status: int = 200
    content_type: str = TEXT
    allow: str = ""
    headers: Sequence[tuple[str, str]] = ()
    """Further headers: names in lower case, and values in ASCII without line ends."""


Handler = Callable[[Request], Awaitable[Response]]


def text(body: str, status: int = 200) -> Response:
    """Return lines of plain text; the last one gets its end."""
    return Response((body if body.endswith("\n") else f"{body}\n").encode(), status)
