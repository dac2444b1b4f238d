"""Callers as the gateway has them: each sends a prompt, and says what came back."""

from __future__ import annotations

import json
import ssl
from typing import NamedTuple

import httpx

from .parts import LARGE

PATIENCE = 15.0
"""Seconds until an answer that does not come is given up."""


class Answer(NamedTuple):
    """What a caller got: `tokens` is what the model says it has cost, `message` why it was refused."""

    status: int
    headers: httpx.Headers
    tokens: int
    message: str


class Caller:
    """Somebody with a token, or with a certificate (in `context`), or with neither."""

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
        """Nothing more is asked."""
        self._client.close()

    def ask(self, prompt: str, *, stream: bool, **headers: str) -> Answer:
        """Send one prompt, with `headers` (`x_team_id` is X-Team-ID), and read the answer to its end."""
        body: dict[str, object] = {"model": self._model, "messages": [{"role": "user", "content": prompt}]}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        spoofed = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self._client.post("/v1/chat/completions", headers=spoofed, json=body)
        tokens = _tokens(answer) if answer.status_code == httpx.codes.OK else 0
        return Answer(answer.status_code, answer.headers, tokens, _message(answer))


def _tokens(answer: httpx.Response) -> int:
    """`usage.total_tokens`, of the answer or of the last chunk that has it; 0 where none has."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        data = [
            line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")
        ]
    else:
        data = [answer.text]
    usages = [usage for each in data if (usage := json.loads(each).get("usage"))]
    return int(usages[-1]["total_tokens"]) if usages else 0


def _message(answer: httpx.Response) -> str:
    """Why a request was refused, in the words of the body."""
    if answer.status_code == httpx.codes.OK:
        return ""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text
