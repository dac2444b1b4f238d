"""The page over an API with the answers of a test: names with any bytes, ten thousand buckets, errors.

The answers conform to the schemas of /api/v1; test_scenes.py tests the page over the service itself.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from ratelimit_service.http.messages import Request, Response
from ratelimit_service.http.routes import routes
from ratelimit_service.http.server import HttpPort
from ratelimit_service.http.static import BELOW, Page

from .answers import Json, moment, rule

TOKEN = "a token of an admin"


class Refused(Exception):
    """Raised to answer with a problem."""

    def __init__(self, status: int, title: str, detail: str = "") -> None:
        super().__init__(title)
        self.status = status
        self.problem = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "errors": [],
        }


class FakeApi:
    """The page, and an API over `budgets` and the other attributes, on a free port."""

    def __init__(self) -> None:
        self.budgets: list[Json] = []
        self.refusals: list[Json] = []
        self.amendments: list[Json] = []
        self.audit: list[Json] = []
        self.books: list[Json] = []
        self.book_pages = 1
        self.usage_broken: Refused | None = None
        self.problems: list[Json] = []
        self.unpaired: list[str] = []
        self.control_planes: list[Json] = []
        self.overlay_problems: list[str] = []
        self.domains: list[str] = ["token-budgets"]
        self.notes: list[str] = []
        """Why changes have no effect now."""
        self.rules = [rule("token-budgets.team", ("hour", 5_000))]
        self.status: Json = {}
        self.points: list[Json] = []
        self.partial: str | None = None
        self.broken: Refused | None = None
        """The answer to every request except /status."""
        self.wants_token = False
        self.forgets_cursors = False
        """Whether the cursors of lists are those of another store."""
        self.calls: Counter[str] = Counter()
        self.bodies: list[tuple[str, Json, str | None]] = []
        """The path, the body and the idempotency key of each change."""
        self._loop = asyncio.new_event_loop()
        self._page = Page()
        self._port = HttpPort(self._handler(), "127.0.0.1", 0)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._port.start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._port.stop(0), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        """Return the address of the page."""
        return f"http://{self._port.address}/"

    def _handler(self) -> Callable[[Request], Any]:
        return routes({"/": self._page.document}, {BELOW: self._page.file, "/api/v1/": self._api})

    async def _api(self, request: Request) -> Response:
        name = request.path.removeprefix("/api/v1/")
        self.calls[name] += 1
        body = b"".join([chunk async for chunk in request.body])
        query = {key: values[-1] for key, values in parse_qs(request.query).items()}
        try:
            answer = self._answer(name, request, query, json.loads(body) if body else {})
        except Refused as refused:
            text = json.dumps(refused.problem).encode()
            return Response(text, refused.status, "application/problem+json")
        return Response(json.dumps(answer).encode(), content_type="application/json")

    def _answer(self, name: str, request: Request, query: dict[str, str], body: Json) -> Json:
        given = request.header(b"authorization")
        if (given or self.wants_token) and given != f"Bearer {TOKEN}":
            raise Refused(401, "Unauthorized", "the token is not one of this service")
        you = "admin" if given else "local"
        if name == "status":
            return self._status(you)
        if self.broken is not None:
            raise self.broken
        if name in ("override", "top-up", "reset", "unblock", "remove"):
            return self._change(name, request, body)
        answers: dict[str, Callable[[], Json]] = {
            "budgets": lambda: self._listing(query),
            "bucket": lambda: self._bucket(body),
            "rules": self._rules,
            "replicas": self._replicas,
            "control-planes": lambda: {
                "control_planes": self.control_planes,
                "overlay_problems": self.overlay_problems,
            },
            "refusals": lambda: self._refusals(int(query.get("since", 0))),
            "amendments": lambda: {"amendments": self.amendments, "version": 12, "next_cursor": None},
            "usage": lambda: self._usage(query),
            "usage-amendments": lambda: {"lines": self.audit, "next_cursor": None},
            "audit": lambda: {"lines": self.audit, "next_cursor": None},
            "series": lambda: {**body, "step_seconds": 2, "points": self.points},
            "explain": lambda: self._explanation(body),
        }
        if name not in answers:
            raise Refused(404, "Not Found")
        return answers[name]()

    def _status(self, you: str) -> Json:
        status: Json = {
            "version": "0.2.0",
            "transport": "native",
            "now": moment(),
            "started_at": moment(-3_600),
            "replica": "replica-1",
            "hostname": "ratelimit-0",
            "healthy": True,
            "unhealthy": [],
            "you": you,
            "writes": True,
            "store": {"type": "redis", "reachable": True, "circuit_open": False, "journal_hits": 0},
            "rules": {
                "generation": 3,
                "hash": "5c1f0a6be2d94c07",
                "loaded_at": moment(-3_600),
                "domains": len(self.domains),
                "rules": 1,
                "problems": len(self.problems),
            },
            "amendments": {"version": 12, "count": len(self.amendments), "age_seconds": 0.2, "unreadable": 0},
        }
        return status | self.status

    def _listing(self, query: dict[str, str]) -> Json:
        narrowed = query.keys() & {"domain", "state", "key", "prefix"}
        found = [
            each
            for each in self.budgets
            if not narrowed
            or (
                query.get("domain", each["domain"]) == each["domain"]
                and query.get("state", each["state"]) == each["state"]
                and any(
                    query.get("key", key) == key and value.startswith(query.get("prefix", ""))
                    for key, value in each["entries"]
                )
            )
        ]
        if query.get("sort") == "-used":
            order = ("blocked", "over", "low", "ok")
            found.sort(key=lambda each: (order.index(each["state"]), -(each["share"] or 0)))
        if self.forgets_cursors and "cursor" in query:
            raise Refused(422, "Unprocessable", "it is not a position in this store")
        start, limit = int(query.get("cursor", 0)), int(query.get("limit", 50))
        end = start + limit
        return {
            "budgets": found[start:end],
            "next_cursor": str(end) if end < len(found) else None,
            "partial": self.partial is not None,
            "partial_reason": self.partial,
            "scanned": len(found),
            "total": None if self.partial else len(found),
            "domains": self.domains,
        }

    def _usage(self, query: dict[str, str]) -> Json:
        """Return entries that begin in the requested period. Pages repeat them, as some stores do."""
        since, until = query["since"], query["until"]
        page = int(query.get("cursor", 0)) + 1
        if self.usage_broken is not None and page > 1:
            raise self.usage_broken
        books = [
            {**book, "spent": [each for each in book["spent"] if since <= each["start"] < until]}
            for book in self.books
        ]
        cursor = str(page) if page < self.book_pages else None
        return {"domain": query["domain"], "books": books, "model_key": "model", "next_cursor": cursor}

    def _bucket(self, body: Json) -> Json:
        for each in self.budgets:
            if (each["domain"], each["descriptor"]) == (body["domain"], body["descriptor"]):
                return each
        raise Refused(404, "Not Found", "no rule limits it")

    def _rules(self) -> Json:
        return {
            "generation": 3,
            "hash": "5c1f0a6be2d94c07",
            "loaded_at": moment(-3_600),
            "domains": [
                {
                    "domain": name,
                    "rules": 1,
                    "limits_as_data": 0,
                    "unmatched": "deny",
                    "required_keys": ["team"],
                }
                for name in self.domains
            ],
            "problems": self.problems,
            "unpaired": self.unpaired,
            "rules": self.rules if self.domains else [],
            "next_cursor": None,
        }

    def _replicas(self) -> Json:
        replica = {
            "id": "replica-1",
            "this": True,
            "version": "0.2.0",
            "generation": 3,
            "hash": "5c1f0a6be2d94c07",
            "amendments_version": 12,
            "behind_seconds": 0.0,
            "seen_at": moment(),
        }
        other = {**replica, "id": "replica-2", "this": False, "generation": 2, "behind_seconds": 42.0}
        third = {**replica, "id": "replica-3", "this": False, "amendments_version": 11}
        return {"replicas": [replica, other, third], "in_step": False}

    def _refusals(self, since: int) -> Json:
        fresh = [each for each in self.refusals if each["id"] > since]
        fresh.sort(key=lambda each: -each["id"])
        return {"refusals": fresh, "last": max([since, *[each["id"] for each in fresh]])}

    def _explanation(self, body: Json) -> Json:
        return {
            "domain": body["domain"],
            "descriptor": body["descriptor"],
            "entries": [body["descriptor"].split("=", 1)],
            "verdict": "over",
            "rule": "token-budgets.team",
            "code": "OVER_LIMIT",
            "reason": "5774 of 5000 tokens of this hour are used",
            "considered": [
                {
                    "rule": "token-budgets.team",
                    "source": None,
                    "wins": True,
                    "reason": "its key is that of the descriptor",
                },
                {
                    "rule": "token-budgets.user",
                    "source": None,
                    "wins": False,
                    "reason": "the descriptor has no entry user",
                },
            ],
            "budget": None,
            "limit": {"window": "hour", "limit": 5_000, "remaining": 0, "resets_at": moment(1_800)},
            "message": "Try again in 30 minutes.",
            "source": "rules.yaml:4",
            "considered_left_out": 0,
            "possible_more": False,
            "amendments": [{**each, "holds": True, "why": "it holds"} for each in self.amendments],
            "possible": [
                {
                    "rule": "token-budgets.team.model",
                    "source": None,
                    "missing": ["model"],
                    "reason": "it wants an entry model",
                }
            ],
        }

    def _change(self, name: str, request: Request, body: Json) -> Json:
        self.bodies.append((name, body, request.header(b"idempotency-key")))
        bulk = "*" in body.get("descriptor", "")
        if bulk and not body.get("dry_run") and body.get("confirmation") != "yes":
            raise Refused(422, "Confirmation needed", "send the confirmation of the preview")
        put = {
            "id": "o-1",
            "kind": "top_up" if name == "top-up" else "override",
            "domain": body.get("domain"),
            "descriptor": body.get("descriptor"),
            "amount": body.get("amount"),
            "window": body.get("window"),
            "until": body.get("until"),
            "windows": body.get("windows"),
            "since": moment(),
            "author": body.get("author", "api"),
            "reason": body["reason"],
            "blocks": body.get("amount") == 0,
        }
        edit: Json = {
            "action": "reset" if name == "reset" else "remove" if name in ("unblock", "remove") else "put",
            "id": "o-1",
            "domain": body.get("domain"),
            "descriptor": body.get("descriptor"),
            "window": body.get("window"),
            "before": None,
            "after": put if name in ("override", "top-up") else None,
            "counters": [],
        }
        if edit["after"] and not body.get("dry_run"):
            self.amendments.append(put)
        return {
            "dry_run": bool(body.get("dry_run")),
            "replayed": False,
            "version": 13,
            "key": request.header(b"idempotency-key"),
            "edits": [edit],
            "budgets": [{"before": each, "after": each} for each in self.budgets[:1]],
            "affected": len(self.budgets) if bulk else None,
            "affected_partial": False,
            "exceptions": [],
            "notes": self.notes,
            "confirmation": "yes" if body.get("dry_run") else None,
            "confirm_by": None,
        }
