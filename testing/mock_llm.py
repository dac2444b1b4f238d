"""A mock LLM provider: OpenAI-style chat completions whose cost the request can set."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .waiting import PATIENCE, wait_for

DEFAULT_TOKENS = 40


class MockLlm:
    """A provider on its own port (`port`), served by a thread.

    `cost` returns the total cost of the reply to a body (default: always 40). A header `x-mock-tokens` sets
    it for one request, and `x-mock-prompt-tokens` the part of the prompt (default: a quarter).
    `x-mock-together: N` holds the reply back until N such requests have arrived, so that all of them have
    been checked before any is charged. A body with `"stream": true` is answered with server-sent events; if
    its `stream_options` have `include_usage`, the last one before `[DONE]` has the usage.
    """

    METHODS: Sequence[str] = ("POST",)

    def __init__(self, cost: Callable[[Any], int] = lambda body: DEFAULT_TOKENS) -> None:
        self._cost = cost
        self._together: dict[int, asyncio.Barrier] = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        application = Starlette(routes=[Route("/{path:path}", self._complete, methods=list(self.METHODS))])
        self._server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        wait_for("the mock provider", lambda: self._server.started)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        total = int(request.headers.get("x-mock-tokens") or self._cost(body))
        usage = _usage(total, int(request.headers.get("x-mock-prompt-tokens", total // 4)))
        if together := int(request.headers.get("x-mock-together", 0)):
            barrier = self._together.setdefault(together, asyncio.Barrier(together))
            await asyncio.wait_for(barrier.wait(), PATIENCE)
        if body.get("stream"):
            with_usage = body.get("stream_options", {}).get("include_usage", False)
            return StreamingResponse(_events(usage if with_usage else None), media_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}
        return JSONResponse({"object": "chat.completion", "choices": [choice], "usage": usage})

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(timeout=10)
        self._socket.close()


def _usage(total: int, prompt: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": total - prompt, "total_tokens": total}


def _events(usage: dict[str, int] | None) -> Iterator[str]:
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": word}}], "usage": None} for word in ("Hel", "lo", "!")
    ]
    if usage is not None:
        chunks.append({"choices": [], "usage": usage})
    for chunk in chunks:
        yield f"data: {json.dumps({'object': 'chat.completion.chunk', **chunk})}\n\n"
    yield "data: [DONE]\n\n"
