"""A provider with the habits of real ones that make an answer hard to meter."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from testing.upstream import MockLlm


class PeculiarLlm(MockLlm):
    """One that compresses what it sends where the request allows that.

    A request's header `x-mock-content-type` says what the reply calls itself, `x-mock-status` its status, and
    `x-mock-padding` how many bytes longer it is than it need be. With `x-mock-endless` the reply is a stream that begins
    and does not end.
    """

    async def _complete(self, request: Request) -> Response:
        if "x-mock-endless" in request.headers:
            return StreamingResponse(_endless(), media_type="text/event-stream")
        reply = await super()._complete(request)
        if isinstance(reply, StreamingResponse):
            return reply
        # White space after a JSON document is part of it.
        body = bytes(reply.body) + b" " * int(request.headers.get("x-mock-padding", 0))
        headers = {"content-type": request.headers.get("x-mock-content-type", reply.headers["content-type"])}
        if "gzip" in request.headers.get("accept-encoding", ""):
            body, headers["content-encoding"] = gzip.compress(body), "gzip"
        return Response(body, int(request.headers.get("x-mock-status", 200)), headers)


async def _endless() -> AsyncIterator[str]:
    yield 'data: {"choices": [{"index": 0, "delta": {"content": "Once"}}], "usage": null}\n\n'
    await asyncio.Event().wait()
