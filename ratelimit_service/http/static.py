"""The page for browsers: files of this package, each with the headers that keep scripts of others out.

Everything that the page shows of callers comes from /api/v1 and is inserted as text. The content security
policy is a second wall: it allows scripts and styles of this port alone, none within the document, and no way
to make a script of text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from .messages import Request, Response, text

BELOW = "/ui/"
"""The path of the files."""

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""The content types by the ending; files with other endings are not served."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

VARY = (("vary", "accept"),)
"""The headers of a path whose answer depends on the headers of the request."""

_HEADERS = (
    *VARY,
    ("cache-control", "no-cache"),
    ("content-security-policy", POLICY),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
)


class _File(NamedTuple):
    body: bytes
    content_type: str
    tag: str


class Page:
    """The document of the page and its files, read at the first request for one of them."""

    @cached_property
    def _files(self) -> Mapping[str, _File]:
        return dict(_read(files(__package__) / "page", ""))

    async def document(self, request: Request) -> Response:
        """Return the document."""
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        """Return the file for a path below BELOW."""
        return self._answer(request, request.path.removeprefix(BELOW))

    def _answer(self, request: Request, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            return text("Not Found", 404)
        headers = (*_HEADERS, ("etag", found.tag))
        if found.tag in (request.header(b"if-none-match") or ""):
            return Response(b"", 304, found.content_type, headers=headers)
        return Response(found.body, 200, found.content_type, headers=headers)


def wants_html(request: Request) -> bool:
    """Return whether a browser asks for a document; `curl` and scripts accept anything, and get text."""
    return "text/html" in (request.header(b"accept") or "")


def _read(directory: Traversable, before: str) -> Iterator[tuple[str, _File]]:
    for each in directory.iterdir():
        name = f"{before}{each.name}"
        if each.is_dir():
            yield from _read(each, f"{name}/")
        elif content_type := _TYPES.get(each.name.rpartition(".")[2]):
            body = each.read_bytes()
            yield name, _File(body, content_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
