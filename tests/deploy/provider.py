"""A provider with the APIs of real ones, and with behaviour that makes an answer hard to meter."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from testing.mock_llm import MockLlm
from testing.waiting import wait_for

COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/messages"
RESPONSES, EMBEDDINGS = "/v1/responses", "/v1/embeddings"
COUNT_TOKENS = "/v1/messages/count_tokens"

Event = dict[str, Any]
"""One event of a stream. If it has a `type`, that is also its name."""

_PIECE = 4_000
"""Bytes that a stream sends at once."""

_PAUSE = 0.002
"""Seconds between two of them, so that they arrive one by one."""


class PeculiarLlm(MockLlm):
    """A provider of chat completions, messages, responses and embeddings, each in its own format. Headers of
    a request make the answer unusual.

    `x-mock-content-type` replaces its content type and `x-mock-status` its status; `x-mock-padding` is a
    number of bytes by which the answer, or the event of responses with the usage, is longer. `x-mock-usage`
    is `none` for no usage; `full` for messages whose last event repeats the tokens of the prompt with a
    larger number; and `each` for completions with the cost so far in every chunk. `x-mock-endless` is a
    stream that stops before its usage. `x-mock-silent`, whose value names the request for `wait_for_silence`,
    has no answer. Answers are compressed if the request allows it.
    """

    METHODS = ("GET", "POST")

    def __init__(self) -> None:
        self._silent: set[str] = set()
        super().__init__()

    def wait_for_silence(self, name: str) -> None:
        """Return when the request of this name is here, and will not be answered."""
        wait_for(f"the request {name}", lambda: name in self._silent)

    async def _complete(self, request: Request) -> Response:
        headers, path = request.headers, request.url.path
        if "x-mock-silent" in headers:
            self._silent.add(headers["x-mock-silent"])
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return Response()
        body = {} if request.method == "GET" else await request.json()
        usage = None
        if headers.get("x-mock-usage") != "none" and path in _USAGE:
            usage = _USAGE[path](int(headers.get("x-mock-tokens", 40)))
        padding = int(headers.get("x-mock-padding", 0))
        if body.get("stream"):
            events = _EVENTS[path](usage, headers.get("x-mock-usage", ""), "x" * padding)
            if path == COMPLETIONS and not body.get("stream_options", {}).get("include_usage"):
                events = [event for event in events if event["choices"]]
            if "x-mock-endless" in headers:
                return StreamingResponse(_endless(events[0]), media_type="text/event-stream")
            return StreamingResponse(_written(events), media_type="text/event-stream")
        answer: dict[str, Any] = {"object": "an answer", "usage": usage}
        if path == COUNT_TOKENS:
            answer = {"input_tokens": 40}  # the cost of the message itself, not of counting
        elif path == COMPLETIONS and usage is None:
            del answer["usage"]
        reply = JSONResponse(answer)
        # White space after a JSON document is part of it.
        content = bytes(reply.body) + b" " * padding
        sent = {"content-type": headers.get("x-mock-content-type", reply.headers["content-type"])}
        if "gzip" in headers.get("accept-encoding", ""):
            content, sent["content-encoding"] = gzip.compress(content), "gzip"
        return Response(content, int(headers.get("x-mock-status", 200)), sent)


# Usage, in the words of each API


def _of_openai(total: int) -> dict[str, Any]:
    return {"prompt_tokens": total // 4, "completion_tokens": total - total // 4, "total_tokens": total}


def _of_responses(total: int) -> dict[str, Any]:
    details = {"cached_tokens": total // 8}
    prompt = {"input_tokens": total // 4, "input_tokens_details": details}
    return {**prompt, "output_tokens": total - total // 4, "total_tokens": total}


def _of_embeddings(total: int) -> dict[str, Any]:
    return {"prompt_tokens": total, "total_tokens": total}


def _of_messages(total: int) -> dict[str, Any]:
    """Return four numbers whose sum is the cost; input_tokens are those that were not cached."""
    cached = {"cache_creation_input_tokens": total // 8, "cache_read_input_tokens": total // 4}
    prompt = total // 8
    return {"input_tokens": prompt, **cached, "output_tokens": total - prompt - sum(cached.values())}


_USAGE = {
    COMPLETIONS: _of_openai,
    MESSAGES: _of_messages,
    RESPONSES: _of_responses,
    EMBEDDINGS: _of_embeddings,
}

# Streams


def _chunks(usage: Event | None, manner: str, padding: str) -> Sequence[Event]:
    so_far = {"total_tokens": 1} if manner == "each" else None
    words = [
        {"choices": [{"index": 0, "delta": {"content": word}}], "usage": so_far} for word in ("Hel", "lo!")
    ]
    return [*words, {"choices": [], "usage": usage}] if usage else words


def _message(usage: Event | None, manner: str, padding: str) -> Sequence[Event]:
    started: Event = {"type": "message", "content": []}
    ended: Event = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    if usage:
        prompt = {name: tokens for name, tokens in usage.items() if name != "output_tokens"}
        started["usage"] = {**prompt, "output_tokens": 1}
        ended["usage"] = {"output_tokens": usage["output_tokens"]}
        if manner == "full":  # a tool on the provider's side has made the prompt longer
            started["usage"]["input_tokens"] -= 3
            ended["usage"] = usage
    return [
        {"type": "message_start", "message": started},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello!"}},
        ended,
        {"type": "message_stop"},
    ]


def _response(usage: Event | None, manner: str, padding: str) -> Sequence[Event]:
    response: Event = {"object": "response", "usage": None}
    return [
        {"type": "response.created", "response": response},
        {"type": "response.output_text.delta", "delta": "Hello!"},
        {"type": "response.completed", "response": {**response, "output": [padding], "usage": usage}},
    ]


_EVENTS = {COMPLETIONS: _chunks, MESSAGES: _message, RESPONSES: _response}


async def _written(events: Sequence[Event]) -> AsyncIterator[bytes]:
    text = "".join(map(_event, events)) + ("" if "type" in events[0] else "data: [DONE]\n\n")
    content = text.encode()
    for begin in range(0, len(content), _PIECE):
        yield content[begin : begin + _PIECE]
        await asyncio.sleep(_PAUSE)


async def _endless(event: Event) -> AsyncIterator[str]:
    yield _event(event)
    await asyncio.Event().wait()


def _event(event: Event) -> str:
    named = f"event: {event['type']}\n" if "type" in event else ""
    return f"{named}data: {json.dumps(event)}\n\n"
