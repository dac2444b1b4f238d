"""The endpoints: a method for each line of endpoints.py."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from heapq import nsmallest
from itertools import islice
from typing import Any, NamedTuple

from ..amending.operations import MOST_AUDITED, Operations
from ..core.amendments.model import Amendment
from ..core.amendments.target import Target, parse
from ..core.budgets.descriptor_text import bytes_of, text_of
from ..core.errors import InvalidRequest, Problem
from ..core.matching.tree import RuleTree
from ..core.model import Rule
from ..core.rfc3339 import moment
from ..inspection.query import Query
from ..inspection.series import STEP
from ..inspection.views import Views
from ..ports import Clock
from ..runtime.health import Health
from ..version import version
from . import inspection_serializers, inspection_types, request_types, response_types, serializers
from .changes import Changes
from .openapi import description
from .previews import entries_of
from .problems import NOT_FOUND, ApiError
from .tokens import Role
from .turns import Turns

MOST_DOMAINS = 1_000
MOST_PROBLEMS = 100


async def no_control_planes() -> response_types.ControlPlanes:
    """Return the status of a service without control planes."""
    return {"control_planes": [], "overlay_problems": []}


async def no_unpaired_rules() -> Sequence[str]:
    """Return nothing: no rule is checked and never charged."""
    return ()


class ApiParts(NamedTuple):
    """The parts of the service that the API uses. The functions return the present values."""

    operations: Operations
    views: Views
    changes: Changes
    tree: Callable[[], RuleTree | None]
    problems: Callable[[], Sequence[Problem]]
    health: Health
    store: Callable[[], Awaitable[response_types.StoreStatus]]
    transport: str
    writes: bool
    now: Clock = time.time
    control_planes: Callable[[], Awaitable[response_types.ControlPlanes]] = no_control_planes
    unpaired: Callable[[], Awaitable[Sequence[str]]] = no_unpaired_rules


class Api:
    """The endpoints."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._started_at = parts.now()
        self._version = version()
        self.turns = Turns()
        self.override = parts.changes.override
        self.top_up = parts.changes.top_up
        self.reset = parts.changes.reset
        self.unblock = parts.changes.unblock
        self.remove = parts.changes.remove
        self.changes = parts.changes.several

    async def openapi(self, query: request_types.Nothing, role: Role) -> dict[str, Any]:
        """Return the description of the API."""
        return await asyncio.to_thread(description)  # the first one takes some milliseconds

    async def status(self, query: request_types.Nothing, role: Role) -> response_types.Status:
        """Return the state of this replica."""
        parts = self._parts
        tree, in_force = parts.tree(), parts.views.rules
        in_step = parts.operations.in_step
        return {
            "version": self._version,
            "transport": parts.transport,
            "replica": parts.views.registry.name,
            "hostname": socket.gethostname(),
            "now": moment(parts.now()),
            "started_at": moment(self._started_at),
            "healthy": parts.health.healthy,
            "unhealthy": parts.health.unhealthy,
            "you": serializers.role(role),
            "writes": parts.writes,
            "store": await parts.store(),
            "rules": {
                "generation": in_force.generation or None,
                "hash": in_force.digest or None,
                "loaded_at": serializers.moment_or_null(in_force.loaded_at),
                "domains": len(tree.domains) if tree else 0,
                "rules": len(tree.rules) if tree else 0,
                "problems": len(parts.problems()),
            },
            "amendments": {
                "version": in_step.version,
                "count": in_step.amendments,
                "age_seconds": round(in_step.age, 3),
                "unreadable": in_step.unreadable,
            },
        }

    async def budgets(self, query: request_types.PageOfBudgets, role: Role) -> response_types.Budgets:
        """Return a page of budgets."""
        wanted = Query(
            query.domain,
            bytes_of(query.key),
            bytes_of(query.prefix),
            None if query.value is None else bytes_of(query.value),
            query.min_used,
            query.state or "",
            query.sort,
            query.limit,
        )
        found = await self._parts.views.budgets(wanted, query.cursor)
        tree = self._parts.tree()
        return {
            "budgets": await self.turns.each(found.budgets, serializers.budget),
            "next_cursor": found.next_cursor or None,
            "partial": found.partial,
            "partial_reason": found.partial_reason or None,
            "scanned": found.scanned,
            "total": found.total,
            "domains": list(islice(tree.domains if tree else (), MOST_DOMAINS)),
        }

    async def bucket(self, body: request_types.BucketBody, role: Role) -> response_types.Budget:
        """Return one bucket."""
        entries = entries_of(parse(body.domain, body.descriptor))
        found = await self._parts.views.bucket(body.domain, entries)
        if found is None:
            raise ApiError(NOT_FOUND, f"no rule limits {body.descriptor} in {body.domain}")
        return serializers.budget(found)

    async def explain(self, body: request_types.ExplainBody, role: Role) -> inspection_types.Explanation:
        """Explain a descriptor."""
        entries = entries_of(parse(body.domain, body.descriptor))
        return inspection_serializers.explanation(
            await self._parts.views.explain(body.domain, entries, body.hits)
        )

    async def refusals(self, query: request_types.LaterRefusals, role: Role) -> inspection_types.Refusals:
        """Return the last refusals of all workers."""
        found = await self._parts.views.refusals(query.since, query.limit)
        return {
            "refusals": await self.turns.each(found, inspection_serializers.refusal),
            "last": found[0].id if found else query.since,
        }

    async def series(self, body: request_types.BucketBody, role: Role) -> inspection_types.Series:
        """Return the tokens charged to a bucket over time."""
        target = parse(body.domain, body.descriptor)
        points = await self._parts.views.series(body.domain, entries_of(target))
        if points is None:
            raise ApiError(NOT_FOUND, f"no rule limits {body.descriptor} in {body.domain}")
        return {
            "domain": body.domain,
            "descriptor": target.text,
            "step_seconds": STEP,
            "points": [{"at": moment(point.at), "tokens": point.tokens} for point in points],
        }

    async def usage(self, query: request_types.PageOfUsage, role: Role) -> inspection_types.UsageOf:
        """Return a page of ledger entries."""
        since, until = serializers.second_of(query.since), serializers.second_of(query.until)
        found = await self._parts.views.usage(query.domain, since, until, query.cursor)
        return {
            "domain": query.domain,
            "books": await self.turns.each(found.books, inspection_serializers.book),
            "model_key": text_of(found.model_key),
            "next_cursor": found.next_cursor or None,
        }

    async def usage_amendments(self, query: request_types.PageOfUsage, role: Role) -> response_types.Audit:
        """Return a page of the changes of limits in a span of time."""
        since, until = serializers.second_of(query.since), serializers.second_of(query.until)
        found, before = await self._parts.operations.audit_of_domain(
            query.domain, since, until, _number(query.cursor)
        )
        return {
            "lines": await self.turns.each(found, serializers.audit_line),
            "next_cursor": str(before) if before > 1 else None,
        }

    async def replicas(self, query: request_types.Nothing, role: Role) -> inspection_types.Replicas:
        """Return all replicas."""
        views = self._parts.views
        return inspection_serializers.replicas(await views.replicas(), views.registry.name, self._parts.now())

    async def rules(self, query: request_types.PageOfRules, role: Role) -> response_types.Rules:
        """Return a page of the rules in force."""
        tree = self._parts.tree()
        rules: Sequence[Rule] = ()
        if tree is not None and not query.domain:
            rules = tree.rules
        elif tree is not None and query.domain in tree.domains:
            rules = tree.domains[query.domain].rules
        in_force = self._parts.views.rules
        begin = self._place_in_rules(query.cursor, in_force.digest)
        end = begin + query.limit
        problems = self._parts.problems()
        return {
            "generation": in_force.generation or None,
            "hash": in_force.digest or None,
            "loaded_at": serializers.moment_or_null(in_force.loaded_at),
            "domains": await self.turns.each(
                islice(tree.domains.values() if tree else (), MOST_DOMAINS), serializers.domain
            ),
            "problems": [serializers.rule_problem(each) for each in problems[:MOST_PROBLEMS]],
            "unpaired": list(await self._parts.unpaired())[:MOST_PROBLEMS],
            "rules": await self.turns.each(rules[begin:end], serializers.rule),
            "next_cursor": f"{end}.{in_force.digest}" if end < len(rules) else None,
        }

    async def control_planes(self, query: request_types.Nothing, role: Role) -> response_types.ControlPlanes:
        """Return the control planes."""
        return await self._parts.control_planes()

    def _place_in_rules(self, cursor: str, digest: str) -> int:
        """Return the place at which a page of rules begins. Raises InvalidRequest, also if the rules have
        changed since.
        """
        if not cursor:
            return 0
        place, _, of_rules = cursor.partition(".")
        if of_rules != digest:
            raise InvalidRequest("the cursor is not one of the rules in force: begin again without one")
        return _number(place)

    async def amendments(
        self, query: request_types.PageOfAmendments, role: Role
    ) -> response_types.AmendmentList:
        """Return a page of the amendments in force here."""
        target = parse(query.domain, query.descriptor) if query.descriptor else None
        all_of_them = self._parts.operations.all()  # a copy: it is searched in a thread
        version_here = self._parts.operations.in_step.version
        after = _place(query.cursor)

        def find() -> list[Amendment]:
            found = (one for one in all_of_them if _is_for(one, query.domain, target) and _order(one) > after)
            return nsmallest(query.limit + 1, found, key=_order)

        found = await asyncio.to_thread(find)
        page = found[: query.limit]
        return {
            "amendments": await self.turns.each(page, serializers.amendment),
            "version": version_here,
            "next_cursor": f"{page[-1].since}.{page[-1].id}" if len(found) > len(page) else None,
        }

    async def audit(self, query: request_types.PageOfAudit, role: Role) -> response_types.Audit:
        """Return a page of the audit."""
        lines = await self._parts.operations.audit(_number(query.cursor), min(query.limit, MOST_AUDITED))
        last = lines[-1].version if lines else 0
        return {
            "lines": await self.turns.each(lines, serializers.audit_line),
            "next_cursor": str(last) if len(lines) >= query.limit and last > 1 else None,
        }


def _is_for(one: Amendment, domain: str, target: Target | None) -> bool:
    if domain and one.target.domain != domain:
        return False
    if target is None or one.target == target:
        return True
    return target.exact and one.target.matches(entries_of(target))


def _order(one: Amendment) -> tuple[int, str]:
    """The latest first."""
    return (-one.since, one.id)


def _place(cursor: str) -> tuple[int, str]:
    """Return the place after which a page of amendments begins. Raises InvalidRequest."""
    if not cursor:
        return (-(2**63), "")
    since, _, name = cursor.partition(".")
    return (-_number(since), name)


def _number(cursor: str) -> int:
    """Return the number in a cursor; 0 for an empty one. Raises InvalidRequest."""
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= 15):
        raise InvalidRequest("the cursor is not one of this list: begin again without one")
    return int(cursor)
