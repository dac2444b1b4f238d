"""Requests and responses: paths, methods, bodies, pages and problems."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from ratelimit_service.api import endpoint_methods, handler, turns
from ratelimit_service.api.tokens import Role
from ratelimit_service.core.amendments.model import Amendment, Put, override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import NotReady, Problem, StoreError
from testing.waiting import PATIENCE, until

from .served_api import ADMIN, ServedApi, bearer


async def test_status_has_the_state_of_the_replica_and_the_role_of_the_caller(api: ServedApi) -> None:
    await api.change("/override", amount=7)
    api.problems.append(Problem("a.yaml", 3, "x", "y"))
    api.health.set("redis", False)
    status = await api.get("/status")
    assert ("local", True, "2026-11-21T00:00:00Z") == tuple(status[name] for name in ("you", "writes", "now"))
    assert (False, ["redis"]) == (status["healthy"], status["unhealthy"])
    assert {"domains": 1, "rules": 3, "problems": 1}.items() <= status["rules"].items()
    assert {"version": 1, "count": 1, "unreadable": 0}.items() <= status["amendments"].items()
    admin = await api.client.get("/status", headers=bearer(ADMIN))
    assert "admin" == admin.json()["you"]


async def test_rules_are_listed_in_pages(api: ServedApi) -> None:
    """With their domains and the errors of the last load. Control characters are escaped for terminals."""
    api.problems.append(Problem("a.yaml", 0, "", "'\x1b' is no unit"))
    first = await api.get("/rules", limit=2)
    second = await api.get("/rules", limit=2, cursor=first["next_cursor"], domain="d")
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
    assert [] == (await api.get("/rules", domain="e"))["rules"]


async def test_amendments_are_listed_in_pages_the_latest_first(api: ServedApi) -> None:
    """Each is on exactly one page, even if several are of the same second. Filters are the domain, a
    descriptor or a pattern.
    """
    for number in range(5):
        api.limiter.now += number % 2
        await api.change("/override", descriptor=f"team=t{number}", amount=number)
    await api.confirmed("/override", descriptor="team=*", amount=50)
    await api.change("/top-up", domain="e", amount=50)
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await api.get("/amendments", limit=2, cursor=cursor)
        found += [one["since"] for one in page["amendments"]]
        cursor = page["next_cursor"]
    assert (7, sorted(found, reverse=True)) == (len(found), found)
    for parameters, amounts in [
        ({"domain": "d", "descriptor": "team=t3"}, {3, 50}),
        ({"domain": "d", "descriptor": "team=*"}, {50}),
        ({"domain": "e"}, {50}),
        ({"domain": "f"}, set()),
    ]:
        listed = (await api.get("/amendments", **parameters))["amendments"]
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
    api: ServedApi, path: str, parameters: dict[str, str], field: str | None
) -> None:
    """A typo is not silently ignored."""
    answer = await api.client.get(path, params=parameters)
    errors = [error["field"] for error in answer.json().get("errors", ())]
    assert ((400, [field]) if field else (200, [])) == (answer.status_code, errors)


@pytest.mark.parametrize("path", ["/audit", "/rules", "/amendments"])
@pytest.mark.parametrize("cursor", ["x", "-1", "x.y", "9" * 20, "١"])
async def test_a_cursor_from_another_list_is_refused(api: ServedApi, path: str, cursor: str) -> None:
    """It is not taken for a position in this list."""
    assert "begin again" in (await api.get(path, 422, cursor=cursor))["detail"]


async def test_an_ambiguous_query_is_refused(api: ServedApi) -> None:
    """Repeated names, invalid UTF-8, and more than a hundred parameters."""
    for query, status in [
        ("domain=d&domain=e", 400),
        ("domain=%FF", 400),
        ("&".join(f"a{number}=" for number in range(200)), 400),
        ("domain=d%26e+f", 200),
        ("", 200),
    ]:
        assert status == (await api.client.get(f"/rules?{query}")).status_code, query


async def test_unknown_paths_and_methods_are_problems(api: ServedApi) -> None:
    """The status is 404, or 405 with the allowed methods. HEAD is GET without the body."""
    missing = await api.client.get("/nothing")
    assert (404, "application/problem+json") == (missing.status_code, missing.headers["content-type"])
    for path, method, allow in [
        ("/status", "POST", "HEAD, GET"),
        ("/status", "OPTIONS", "HEAD, GET"),
        ("/override", "GET", "POST"),
        ("/override", "HEAD", "POST"),
    ]:
        answer = await api.client.request(method, path)
        assert (405, allow) == (answer.status_code, answer.headers["allow"])
    head = await api.client.head("/status")
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
async def test_an_invalid_body_is_refused(api: ServedApi, body: bytes, status: int, detail: str) -> None:
    """The problem has the reason."""
    headers = {**bearer(ADMIN), "content-type": "application/json; charset=utf-8", "idempotency-key": "k"}
    answer = await api.client.post("/override", content=body, headers=headers)
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
    api: ServedApi, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, kind: str
) -> None:
    """A bug is logged, not shown to the caller."""

    async def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(api.operations, "audit", fail)
    problem = await api.get("/audit", status)
    assert (f"urn:ratelimit-service:problem:{kind}", status != 500) == (
        problem["type"],
        str(error) in problem["detail"],
    )


async def test_each_role_has_its_own_bound_on_requests_in_flight(
    api: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that wait for the store do not lock out an operator."""
    release = asyncio.Event()
    audit = api.operations.audit

    async def slow(*arguments: Any) -> Any:
        await release.wait()
        return await audit(*arguments)

    monkeypatch.setattr(api.operations, "audit", slow)
    monkeypatch.setattr(handler, "MOST_IN_FLIGHT", 2)
    waiting = [asyncio.create_task(api.get("/audit")) for _ in range(2)]
    await until(lambda: sum(api.handler._in_flight.values()) >= 2)
    assert "urn:ratelimit-service:problem:busy" == (await api.get("/status", 503))["type"]
    await api.change("/override", amount=7)
    release.set()
    await asyncio.gather(*waiting)
    await api.get("/status")


async def test_long_responses_leave_most_of_the_event_loop_to_calls(api: ServedApi) -> None:
    """However many are requested at once, they are made one at a time, in slices with pauses."""
    for number in range(500):
        api.limiter.amendments.put(override(parse("d", f"team={number}"), number, since=1))
    page = await api.handler._api.amendments(_page(500), Role.LOCAL)
    waiting = [asyncio.create_task(api.handler._api.turns.written(page)) for _ in range(8)]
    turned = 0
    while not all(task.done() for task in waiting):
        turned += 1
        await asyncio.sleep(0.001)
    assert turned > 20
    assert 1 == len({b"".join(await task) for task in waiting})


async def test_a_long_page_is_written_in_pieces(api: ServedApi) -> None:
    """Calls are handled between the pieces, which together are the JSON of the whole page."""
    amendments = [
        Put(override(parse("d", f"team={number}{'x' * 10_000}"), number, since=1)) for number in range(100)
    ]
    for put in amendments:
        api.limiter.amendments.put(put.amendment)
    page = await api.handler._api.amendments(_page(100), Role.LOCAL)
    pieces = await api.handler._api.turns.written(page)
    assert page == json.loads(b"".join(pieces))
    assert 10 < len(pieces)
    assert max(map(len, pieces)) < 2 * turns._PIECE
    assert page == await api.get("/amendments", limit=100)


async def test_calls_are_decided_while_thousands_of_amendments_are_searched(
    api: ServedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is held until calls have been decided. It is in a thread, whose every step is in Python, so
    that the event loop can take its turn after each of them.
    """
    for number in range(5_000):
        api.limiter.amendments.put(override(parse("d", f"team={number}"), number, since=number))
    order, began, decided = endpoint_methods._order, threading.Event(), threading.Event()
    threads, waited = list[int](), list[bool]()

    def held(one: Amendment) -> tuple[int, str]:
        if not began.is_set():
            began.set()
            waited.append(decided.wait(PATIENCE))
        threads.append(threading.get_ident())
        return order(one)

    monkeypatch.setattr(endpoint_methods, "_order", held)
    listing = asyncio.create_task(api.get("/amendments", limit=1))
    await until(began.is_set)
    for _ in range(100):
        api.ask(hits=1)
        await asyncio.sleep(0)
    assert not listing.done()
    decided.set()
    assert [4_999] == [one["amount"] for one in (await listing)["amendments"]]
    assert ([True], True) == (waited, len(threads) >= 5_000)
    assert threading.get_ident() not in threads


def _page(limit: int) -> Any:
    from ratelimit_service.api.request_types import PageOfAmendments

    return PageOfAmendments(limit=limit)
