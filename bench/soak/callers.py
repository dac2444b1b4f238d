"""Callers of a gateway: completions as JSON and as streams, some of which they abort, and a record of the
cost.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from .http1 import Client

JSON, STREAM, ABORTED = "JSON", "stream", "aborted stream"
ABORTED_COST = 1_000
"""The charge of deploy/envoy/envoy.yaml for a stream whose caller hangs up before its usage."""

TEAMS, SMALL_TEAMS = 2_000, 5
PATH = "/v1/chat/completions"
_ASKED = {"model": "gpt-x", "messages": [{"role": "user", "content": "Hello?"}]}
_ONCE = json.dumps(_ASKED).encode()
_STREAMED = json.dumps({**_ASKED, "stream": True, "stream_options": {"include_usage": True}}).encode()
_WORKERS = 200
_SMALL_SHARE = 0.05
_KINDS, _WEIGHTS = (JSON, STREAM, ABORTED), (50, 40, 10)
_LATE = 1.0
"""If the load is more seconds than this behind its schedule, it does not catch up."""


class Failure(NamedTuple):
    """A request that was not served, with its begin and end (`time.time`)."""

    began: float
    ended: float
    why: str


@dataclass
class Books:
    """The record of the callers."""

    served: Counter[str] = field(default_factory=Counter)
    """By kind."""
    refused: int = 0
    charged: Counter[str] = field(default_factory=Counter)
    """Tokens, by team."""
    failures: list[Failure] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """The number of all requests, served or not."""
        return self.served.total() + self.refused + len(self.failures)


class Callers:
    """Sends `rate` requests a second to the gateway at `address` until `end`."""

    def __init__(self, address: str, rate: float) -> None:
        self.books = Books()
        self._rate = rate
        self._dice = random.Random(20_261_121)
        self._ended = False
        self._due = time.perf_counter()
        self._client = Client(address)

    async def run(self) -> None:
        """Send requests until the end, and wait for all answers."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work())
        self._client.close()

    def end(self) -> None:
        """Send no more requests."""
        self._ended = True

    async def _work(self) -> None:
        while not self._ended:
            self._due = max(self._due + 1 / self._rate, time.perf_counter() - _LATE)
            await asyncio.sleep(max(0.0, self._due - time.perf_counter()))
            await self._call()

    async def _call(self) -> None:
        dice, began = self._dice, time.time()
        if dice.random() < _SMALL_SHARE:
            team = f"small-{dice.randrange(SMALL_TEAMS)}"
        else:
            team = f"team-{int(TEAMS * dice.random() ** 3)}"
        (kind,) = dice.choices(_KINDS, _WEIGHTS)
        cost = dice.randrange(1, 4_000)
        try:
            status = await self._complete(kind, team, cost)
        except (OSError, EOFError, ValueError) as error:
            self.books.failures.append(Failure(began, time.time(), f"{kind}: {error!r}"))
            return
        if status == 200:
            self.books.served[kind] += 1
            self.books.charged[team] += ABORTED_COST if kind == ABORTED else cost
        elif status == 429:
            self.books.refused += 1
        else:
            self.books.failures.append(Failure(began, time.time(), f"{kind}: status {status}"))

    async def _complete(self, kind: str, team: str, cost: int) -> int:
        """Return the status of a completion, after reading it to its end or aborting it after the first
        event.
        """
        headers = {"x-team-id": team, "x-mock-tokens": str(cost), "content-type": "application/json"}
        if kind == ABORTED:
            headers["x-mock-endless"] = "yes"
        body = _ONCE if kind == JSON else _STREAMED
        return await self._client.post(PATH, headers, body, hang_up=kind == ABORTED)
