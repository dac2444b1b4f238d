"""The API of a replica that counts in memory, on a real port, with a clock that tests set."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from ratelimit_service.amending.follower import Follower
from ratelimit_service.amending.operations import Operations
from ratelimit_service.api.changes import Changes
from ratelimit_service.api.endpoint_methods import Api, ApiParts
from ratelimit_service.api.guard import Guard
from ratelimit_service.api.handler import ApiHandler
from ratelimit_service.api.previews import Previews
from ratelimit_service.api.response_types import StoreStatus
from ratelimit_service.api.tokens import Token, Tokens
from ratelimit_service.core.errors import Problem
from ratelimit_service.core.model import OVER_LIMIT, Decision, DomainRules
from ratelimit_service.core.plan import Plan
from ratelimit_service.core.rules.reader import load
from ratelimit_service.http.server import HttpPort
from ratelimit_service.inspection.listing import Lister
from ratelimit_service.inspection.prices import Prices
from ratelimit_service.inspection.refusals import Refusal, Refusals
from ratelimit_service.inspection.replicas import Registry
from ratelimit_service.inspection.views import Views
from ratelimit_service.ports import InForce
from ratelimit_service.runtime.health import Health
from ratelimit_service.sources.yaml_text import read as read_yaml
from tests.limiter import (
    MIDNIGHT,
    Limiter,
    NoObserver,
    decision_text,
    descriptor,
)

RULES = """
domain: d
descriptors:
  - key: team
    rate_limits: [{unit: hour, tokens_per_unit: 100}, {unit: day, tokens_per_unit: 1000}]
  - {key: user, shadow_mode: true, rate_limit: {name: users, unit: minute, requests_per_unit: 5}}
  - {key: free, rate_limit: {unlimited: true}}
"""

ADMIN, READ = "admin-0123456789", "read-0123456789a"


def bearer(token: str) -> dict[str, str]:
    """Return the header with a token."""
    return {"authorization": f"Bearer {token}"}


@dataclass
class RulesHere:
    """The rules that the API shows, in place of a rulebook."""

    problems: list[Problem]
    domains: Sequence[DomainRules]
    digest: str = "a-hash"
    loaded_at: float = MIDNIGHT


class Noting(NoObserver):
    """An observer that records refusals."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    def decided(self, plan: Plan, decision: Decision) -> None:
        if decision.code is OVER_LIMIT:
            self._refusals.note(plan, decision)


class Elsewhere:
    """The other workers of the service, each with the refusals that it reports."""

    def __init__(self) -> None:
        self.refusals: list[list[Refusal]] = []

    def share(self, name: str, provide: Callable[[], Awaitable[Any]]) -> None:
        pass

    async def ask(self, name: str) -> list[Any]:
        return self.refusals


class ServedApi:
    """The parts behind the API, and a client of it. `seconds` is its monotonic clock."""

    def __init__(
        self,
        admin: str = ADMIN,
        read: str = READ,
        files: Sequence[str] = (RULES,),
        first_answer: float = 10,
    ) -> None:
        self.noted = Refusals()
        self.elsewhere = Elsewhere()
        self.limiter = Limiter(*files, observer=Noting(self.noted))
        self.seconds = 0.0
        self.problems: list[Problem] = []
        store, amendments = self.limiter.store, self.limiter.amendments
        self.follower = Follower(
            store.amendments, amendments, [self.limiter.service], now=lambda: self.limiter.now
        )
        self.operations = Operations(
            store,
            amendments,
            self.follower,
            lambda: self.limiter.service.tree,
            now=lambda: self.limiter.now,
        )
        self.rules = RulesHere(
            self.problems,
            load([read_yaml(f"{place}.yaml", text.encode()) for place, text in enumerate(files)]).domains,
        )
        lister = Lister(
            store,
            amendments,
            lambda: self.limiter.service.tree,
            now=lambda: self.limiter.now,
            first_answer=first_answer,
        )
        registry = Registry(
            store.replicas, lambda: InForce(self.rules.digest, self.follower.version, "0.1.0"), "here"
        )
        self.prices = Prices()
        self.views = Views(
            store,
            amendments,
            lister,
            registry,
            self.rules,
            self.limiter.service.foresee,
            self.noted,
            self.elsewhere,
            now=lambda: self.limiter.now,
            prices=self.prices,
        )
        tokens = Tokens(Token("ADMIN_TOKEN", admin), Token("READ_TOKEN", read))
        self.health = Health()
        parts = ApiParts(
            self.operations,
            self.views,
            Changes(
                self.operations,
                Previews(self.operations, self.views, 0.8),
                tokens.admin,
                lambda: self.limiter.now,
            ),
            lambda: self.limiter.service.tree,
            lambda: self.problems,
            self.health,
            _store,
            "native",
            bool(admin),
            lambda: self.limiter.now,
        )
        self.guard = Guard(tokens, lambda: self.seconds)
        self.handler = ApiHandler(Api(parts), self.guard)
        self.client = httpx.AsyncClient(trust_env=False, timeout=60)
        self.keys = 0

    def ask(self, text: str = "team=dba", hits: int = 0) -> str:
        """Return the answer that a gateway gets for a request."""
        return decision_text(self.limiter.ask(descriptor(text, hits)))

    async def get(self, path: str, status: int = 200, /, **parameters: Any) -> dict[str, Any]:
        """Return the response to a GET from loopback."""
        return _body(await self.client.get(path, params=parameters), status)

    async def change(
        self, path: str, status: int = 200, /, *, key: Any = None, **body: Any
    ) -> dict[str, Any]:
        """Return the response to a change, which has an idempotency key of its own unless one is given."""
        self.keys += 1
        headers = {
            **bearer(ADMIN),
            "content-type": "application/json",
            "idempotency-key": key or f"key-{self.keys}",
        }
        fields = {"domain": "d", "descriptor": "team=dba", "reason": "launch", "author": "ana", **body}
        given = {name: value for name, value in fields.items() if value is not ...}
        return _body(await self.client.post(path, content=json.dumps(given), headers=headers), status)

    async def confirmed(self, path: str, /, **body: Any) -> dict[str, Any]:
        """Preview a change, send it with the confirmation, and return the response."""
        preview = await self.change(path, **body, dry_run=True)
        return await self.change(path, **body, confirmation=preview["confirmation"])


def _body(response: httpx.Response, status: int) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert (status, "problem+json" if status >= 400 else "json") == (
        response.status_code,
        response.headers["content-type"].removeprefix("application/"),
    ), body
    return body


def edits_of(answer: Mapping[str, Any]) -> list[tuple[str, str, int | None, int | None]]:
    """Return, for each edit, the operation, the target, and the amounts before and after."""
    return [
        (
            edit["action"],
            edit["descriptor"],
            edit["before"] and edit["before"]["amount"],
            edit["after"] and edit["after"]["amount"],
        )
        for edit in answer["edits"]
    ]


@asynccontextmanager
async def serve_api(api: ServedApi) -> AsyncIterator[ServedApi]:
    """Serve the API of a Desk, and yield the Desk."""
    port = HttpPort(api.handler.answer, "127.0.0.1", 0)
    await port.start()
    try:
        async with api.client:
            api.client.base_url = f"http://{port.address}/api/v1"
            yield api
    finally:
        await port.stop(1)
        await api.views.close()


async def _store() -> StoreStatus:
    return {"type": "memory", "reachable": True, "circuit_open": False, "journal_hits": 0}
