"""Callers of the gateway, which send prompts."""

from __future__ import annotations

import json
import ssl
from typing import NamedTuple

import httpx

from .parts import LARGE

PATIENCE = 15.0
"""Seconds to wait for an answer."""


class Answer(NamedTuple):
    """An answer: `tokens` is its cost by the model, `message` the reason of a refusal."""

    status: int
    headers: httpx.Headers
    tokens: int
    message: str


class Caller:
    """A caller with a token, with a certificate (in `context`), or with neither."""

    def __init__(
        self, url: str, *, token: str = "", context: ssl.SSLContext | None = None, model: str = LARGE
    ) -> None:
        self._client = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}"} if token else {},
            verify=context or True,
            timeout=PATIENCE,
            trust_env=False,
        )
        self._model = model

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def ask(self, prompt: str, *, stream: bool, **headers: str) -> Answer:
        """Send a prompt with `headers` (`x_team_id` is X-Team-ID), and read the whole answer."""
        body: dict[str, object] = {"model": self._model, "messages": [{"role": "user", "content": prompt}]}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        spoofed = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self._client.post("/v1/chat/completions", headers=spoofed, json=body)
        tokens = _tokens(answer) if answer.status_code == httpx.codes.OK else 0
        return Answer(answer.status_code, answer.headers, tokens, _message(answer))


def _tokens(answer: httpx.Response) -> int:
    """Return `usage.total_tokens` of the answer, or of the last chunk that has it; 0 without one."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        data = [
            line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")
        ]
    else:
        data = [answer.text]
    usages = [usage for each in data if (usage := json.loads(each).get("usage"))]
    return int(usages[-1]["total_tokens"]) if usages else 0


def _message(answer: httpx.Response) -> str:
    """Return the message in the body of a refusal."""
    if answer.status_code == httpx.codes.OK:
        return ""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text
