"""Which handler answers a request."""

from __future__ import annotations

from collections.abc import Mapping

from .messages import Handler, Request, Response, text


def routes(handlers: Mapping[str, Handler], below: Mapping[str, Handler] | None = None) -> Handler:
    """Return a handler that passes a request to the one for its path.

    `below` has handlers for all paths that begin with a text.
    """
    prefixes = tuple((below or {}).items())

    async def route(request: Request) -> Response:
        handler = handlers.get(request.path)
        if handler is None:
            handler = next((each for begin, each in prefixes if request.path.startswith(begin)), None)
        return await handler(request) if handler is not None else text("Not Found", 404)

    return route


def get(handler: Handler) -> Handler:
    """Return `handler` for GET and HEAD alone."""

    async def only(request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return await handler(request)
        return text("Method Not Allowed", 405)._replace(allow="GET, HEAD")

    return only
