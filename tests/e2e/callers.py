"""Callers of the gateway, and their counters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import httpx

from .conftest import Gateway


class Caller(NamedTuple):
    """A caller with these headers. Its bucket counts in `windows` windows."""

    gateway: Gateway
    path: str
    headers: dict[str, str]
    bucket: str
    windows: int = 1

    def complete(self, tokens: int = 40, *, prompt: int = 0, stream: bool = False) -> httpx.Response:
        """Send one request whose completion costs `tokens`, `prompt` of them for the prompt."""
        cost = {"x-mock-tokens": str(tokens), "x-mock-prompt-tokens": str(prompt)}
        return self.gateway.complete(self.path, {**self.headers, **cost}, stream=stream)

    def spend(self, *tokens: int, stream: bool = False) -> list[int]:
        """Send requests that cost these tokens, each after the charge of the one before. Return their
        statuses.
        """
        statuses = []
        used = sum(self.used.values())
        for amount in tokens:
            statuses.append(self.complete(amount, stream=stream).status_code)
            used += amount * self.windows if statuses[-1] == 200 else 0
            self.gateway.counters.wait_until(self.bucket, used)
        return statuses

    @property
    def used(self) -> dict[str, int]:
        """Return the counts by unit: {"hour": 40, "day": 40}."""
        counters = self.gateway.counters.of(self.bucket)
        return {window.partition(":")[0]: used for window, used in counters.items()}

    def refusal(self) -> dict[str, Any]:
        """Return `rate_limit` of the body that refuses the next request, with its `message`."""
        answer = self.complete()
        assert 429 == answer.status_code
        error: dict[str, Any] = answer.json()["error"]
        return {**error["rate_limit"], "message": error["message"]}

    def next_window(self, unit: str) -> None:
        """Reset the counter of this unit, as at the end of its window."""
        self.gateway.counters.reset(self.bucket, unit)

    def fresh(self) -> Caller:
        """Reset all counters, because some names come from a file."""
        self.gateway.counters.reset(self.bucket)
        return self


def midnight(zone: ZoneInfo, *, day_of_month: int | None = None, weekday: int | None = None) -> str:
    """Return the next midnight in `zone` that begins such a day, as the instant in UTC that a refusal
    names.
    """
    day = datetime.now(zone).date() + timedelta(days=1)
    while day_of_month not in (None, day.day) or weekday not in (None, day.weekday()):
        day += timedelta(days=1)
    instant = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
