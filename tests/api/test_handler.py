"""Requests and responses: paths, methods, bodies, pages and problems."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ratelimit_service.api import handler, turns
from ratelimit_service.api.tokens import Role
from ratelimit_service.core.amendments.model import Put, override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import NotReady, Problem, StoreError

from .served_api import ADMIN, Desk, bearer


async def test_status_has_the_state_of_the_replica_and_the_role_of_the_caller(desk: Desk) -> None:
    await desk.change("/override", amount=7)
    desk.problems.append(Problem("a.yaml", 3, "x", "y"))
    desk.health.set("redis", False)
    status = await desk.get("/status")
    assert ("local", True, "2026-11-21T00:00:00Z") == tuple(status[name] for name in ("you", "writes", "now"))
    assert (False, ["redis"]) == (status["healthy"], status["unhealthy"])
    assert {"domains": 1, "rules": 3, "problems": 1}.items() <= status["rules"].items()
    assert {"version": 1, "count": 1, "unreadable": 0}.items() <= status["amendments"].items()
    admin = await desk.client.get("/status", headers=bearer(ADMIN))
    assert "admin" == admin.json()["you"]


async def test_rules_are_listed_in_pages(desk: Desk) -> None:
    """With their domains and the errors of the last load. Control characters are escaped for terminals."""
    desk.problems.append(Problem("a.yaml", 0, "", "'\x1b' is no unit"))
    first = await desk.get("/rules", limit=2)
    second = await desk.get("/rules", limit=2, cursor=first["next_cursor"], domain="d")
    assert (["d.team", "d.user"], ["d.free"], None) == (
        [rule["rule"] for rule in first["rules"]],
        [rule["rule"] for rule in second["rules"]],
        second["next_cursor"],
    )
    team, user = first["rules"]
    assert ("budget", [("hour", 100), ("day", 1_000)]) == (
        team["kind"],
        [(limit["window"], limit["limit"]) for limit in team["limits"]],
    )
    assert ("requests", "users", True) == (user["kind"], user["name"], user["shadow"])
    assert second["rules"][0]["unlimited"]
    assert [("d", 3, "allow")] == [
        (each["domain"], each["rules"], each["unmatched"]) for each in first["domains"]
    ]
    problem = {"file": "a.yaml", "line": None, "path": None, "problem": "'\\x1b' is no unit"}
    assert [problem] == first["problems"]
    assert [] == (await desk.get("/rules", domain="e"))["rules"]


async def test_amendments_are_listed_in_pages_the_latest_first(desk: Desk) -> None:
    """Each is on exactly one page, even if several are of the same second. Filters are the domain, a
    descriptor or a pattern.
    """
    for number in range(5):
        desk.limiter.now += number % 2
        await desk.change("/override", descriptor=f"team=t{number}", amount=number)
    await desk.confirmed("/override", descriptor="team=*", amount=50)
    await desk.change("/top-up", domain="e", amount=50)
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await desk.get("/amendments", limit=2, cursor=cursor)
        found += [one["since"] for one in page["amendments"]]
        cursor = page["next_cursor"]
    assert (7, sorted(found, reverse=True)) == (len(found), found)
    for parameters, amounts in [
        ({"domain": "d", "descriptor": "team=t3"}, {3, 50}),
        ({"domain": "d", "descriptor": "team=*"}, {50}),
        ({"domain": "e"}, {50}),
        ({"domain": "f"}, set()),
    ]:
        listed = (await desk.get("/amendments", **parameters))["amendments"]
        assert amounts == {one["amount"] for one in listed}, parameters


@pytest.mark.parametrize(
    "path, parameters, field",
    [
        ("/audit", {"limit": "0"}, "limit"),
        ("/audit", {"limit": "101"}, "limit"),
        ("/rules", {"limit": "501"}, "limit"),
        ("/audit", {"limit": "1.5"}, "limit"),
        ("/audit", {"limit": ""}, "limit"),
        ("/rules", {"limitt": "3"}, "limitt"),
        ("/status", {"x": "3"}, "x"),
        ("/rules", {"domain": "x" * 1_025}, "domain"),
    ],
)
async def test_an_invalid_parameter_is_named(
    desk: Desk, path: str, parameters: dict[str, str], field: str | None
) -> None:
    """A typo is not silently ignored."""
    answer = await desk.client.get(path, params=parameters)
    errors = [error["field"] for error in answer.json().get("errors", ())]
    assert ((400, [field]) if field else (200, [])) == (answer.status_code, errors)


@pytest.mark.parametrize("path", ["/audit", "/rules", "/amendments"])
@pytest.mark.parametrize("cursor", ["x", "-1", "x.y", "9" * 20, "١"])
async def test_a_cursor_from_another_list_is_refused(desk: Desk, path: str, cursor: str) -> None:
    """It is not taken for a position in this list."""
    assert "begin again" in (await desk.get(path, 422, cursor=cursor))["detail"]


async def test_an_ambiguous_query_is_refused(desk: Desk) -> None:
    """Repeated names, invalid UTF-8, and more than a hundred parameters."""
    for query, status in [
        ("domain=d&domain=e", 400),
        ("domain=%FF", 400),
        ("&".join(f"a{number}=" for number in range(200)), 400),
        ("domain=d%26e+f", 200),
        ("", 200),
    ]:
        assert status == (await desk.client.get(f"/rules?{query}")).status_code, query


async def test_unknown_paths_and_methods_are_problems(desk: Desk) -> None:
    """The status is 404, or 405 with the allowed methods. HEAD is GET without the body."""
    missing = await desk.client.get("/nothing")
    assert (404, "application/problem+json") == (missing.status_code, missing.headers["content-type"])
    for path, method, allow in [
        ("/status", "POST", "HEAD, GET"),
        ("/status", "OPTIONS", "HEAD, GET"),
        ("/override", "GET", "POST"),
        ("/override", "HEAD", "POST"),
    ]:
        answer = await desk.client.request(method, path)
        assert (405, allow) == (answer.status_code, answer.headers["allow"])
    head = await desk.client.head("/status")
    assert (200, b"", "application/json") == (head.status_code, head.content, head.headers["content-type"])


@pytest.mark.parametrize(
    "body, status, detail",
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[]", 400, "JSON object"),
        (b"null", 400, "JSON object"),
        (b'{"domain": NaN}', 400, "NaN is not a JSON number"),
        (b'{"domain": "d", "domain": "e"}', 400, "twice"),
        (b"\xff", 400, "not UTF-8"),
        (b"[" * 50_000, 400, "nested too deeply"),
        (b'{"amount": ' + b"9" * 5_000 + b"}", 400, "not JSON"),
        (b" " * (handler.LARGEST_BODY + 1), 413, "65536 bytes"),
    ],
)
async def test_an_invalid_body_is_refused(desk: Desk, body: bytes, status: int, detail: str) -> None:
    """The problem has the reason."""
    headers = {**bearer(ADMIN), "content-type": "application/json; charset=utf-8", "idempotency-key": "k"}
    answer = await desk.client.post("/override", content=body, headers=headers)
    assert (status, True) == (answer.status_code, detail in answer.json()["detail"]), answer.text


@pytest.mark.parametrize(
    "error, status, kind",
    [
        (StoreError("gone"), 503, "store-unavailable"),
        (NotReady("no rules"), 503, "not-ready"),
        (ValueError("a bug"), 500, "internal"),
    ],
)
async def test_an_internal_error_is_a_problem_without_details(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, kind: str
) -> None:
    """A bug is logged, not shown to the caller."""

    async def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(desk.operations, "audit", fail)
    problem = await desk.get("/audit", status)
    assert (f"urn:ratelimit-service:problem:{kind}", status != 500) == (
        problem["type"],
        str(error) in problem["detail"],
    )


async def test_each_role_has_its_own_bound_on_requests_in_flight(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that wait for the store do not lock out an operator."""
    release = asyncio.Event()
    audit = desk.operations.audit

    async def slow(*arguments: Any) -> Any:
        await release.wait()
        return await audit(*arguments)

    monkeypatch.setattr(desk.operations, "audit", slow)
    monkeypatch.setattr(handler, "MOST_IN_FLIGHT", 2)
    waiting = [asyncio.create_task(desk.get("/audit")) for _ in range(2)]
    while sum(desk.handler._in_flight.values()) < 2:
        await asyncio.sleep(0)
    assert "urn:ratelimit-service:problem:busy" == (await desk.get("/status", 503))["type"]
    await desk.change("/override", amount=7)
    release.set()
    await asyncio.gather(*waiting)
    await desk.get("/status")


async def test_long_responses_leave_most_of_the_event_loop_to_calls(desk: Desk) -> None:
    """However many are requested at once, they are made one at a time, in slices with pauses."""
    for number in range(500):
        desk.limiter.amendments.put(override(parse("d", f"team={number}"), number, since=1))
    page = await desk.handler._api.amendments(_page(500), Role.LOCAL)
    waiting = [asyncio.create_task(desk.handler._api.turns.written(page)) for _ in range(8)]
    turned = 0
    while not all(task.done() for task in waiting):
        turned += 1
        await asyncio.sleep(0.001)
    assert turned > 20
    assert len({b"".join(await task) for task in waiting}) == 1


async def test_a_long_page_is_written_in_pieces(desk: Desk) -> None:
    """Calls are handled between the pieces, which together are the JSON of the whole page."""
    amendments = [
        Put(override(parse("d", f"team={number}{'x' * 10_000}"), number, since=1)) for number in range(100)
    ]
    for put in amendments:
        desk.limiter.amendments.put(put.amendment)
    page = await desk.handler._api.amendments(_page(100), Role.LOCAL)
    pieces = await desk.handler._api.turns.written(page)
    assert page == json.loads(b"".join(pieces))
    assert 10 < len(pieces)
    assert max(map(len, pieces)) < 2 * turns._PIECE
    assert page == await desk.get("/amendments", limit=100)


async def test_listing_thousands_of_amendments_does_not_delay_calls(desk: Desk) -> None:
    """They are sorted in a thread."""
    for number in range(5_000):
        desk.limiter.amendments.put(override(parse("d", f"team={number}"), number, since=number))
    page = await desk.get("/amendments", limit=1)
    assert [4_999] == [one["amount"] for one in page["amendments"]]


def _page(limit: int) -> Any:
    from ratelimit_service.api.request_types import PageOfAmendments

    return PageOfAmendments(limit=limit)
