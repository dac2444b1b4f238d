"""Recent refusals and series over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.core.model import Entry
from ratelimit_service.inspection.refusals import Refusal

from .served_api import ServedApi


def elsewhere(number: int) -> Refusal:
    """Return a refusal that another worker reports."""
    return Refusal(number, 1, "d", (Entry(b"team", b"x\xff"),), True, "the domain wants a team", 3)


async def test_refusals_are_listed_the_latest_first(api: ServedApi) -> None:
    """Each has the refusing window and the used amount. Those before `since` are left out."""
    api.ask("team=dba", 100)
    assert {"refusals": [], "last": 0} == await api.get("/refusals")
    api.ask("team=dba", 7)
    api.limiter.now += 1
    await api.change("/override", descriptor="team=eve", amount=0)
    api.ask("team=eve")
    found = await api.get("/refusals")
    blocked, over = found["refusals"]
    assert blocked["id"] == found["last"] > over["id"]
    assert {
        "at": "2026-11-21T00:00:00Z",
        "descriptor": "team=dba",
        "entries": [["team", "dba"]],
        "reason": "over_limit",
        "message": None,
        "rule": "d.team",
        "window": "hour",
        "limit": 100,
        "used": 107,
        "hits": 7,
        "resets_at": "2026-11-21T01:00:00Z",
    }.items() <= over.items()
    assert ("blocked", "team=eve") == (blocked["reason"], blocked["descriptor"])
    later = await api.get("/refusals", since=over["id"])
    assert [blocked] == later["refusals"]
    assert [blocked] == (await api.get("/refusals", limit=1))["refusals"]
    nothing = await api.get("/refusals", since=found["last"])
    assert ([], found["last"]) == (nothing["refusals"], nothing["last"])


async def test_refusals_of_other_workers_are_included(api: ServedApi) -> None:
    """All are in the order of time. A refusal by the domain has its reason in words, and a truncated
    descriptor has no name.
    """
    api.ask("team=dba", 100)
    api.ask("team=dba")
    (own,) = (await api.get("/refusals"))["refusals"]
    api.elsewhere.refusals = [[elsewhere(own["id"] + 1), elsewhere(1)], []]
    found = await api.get("/refusals")
    assert [own["id"] + 1, own["id"], 1] == [each["id"] for each in found["refusals"]]
    assert {
        "descriptor": None,
        "entries": [["team", "x\\xff"]],
        "reason": "denied",
        "message": "the domain wants a team",
        "rule": None,
        "limit": None,
    }.items() <= found["refusals"][0].items()


async def series(api: ServedApi, descriptor: str, status: int = 200) -> dict[str, Any]:
    """Return the series of a bucket, or the problem in the response."""
    answer = await api.client.post("/series", json={"domain": "d", "descriptor": descriptor})
    assert status == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_series_begins_with_its_first_request(api: ServedApi) -> None:
    """It has one point for each step, with the charges in that step."""
    api.ask("team=dba", 50)
    first = await series(api, "team=dba")
    assert ("d", "team=dba", []) == (first["domain"], first["descriptor"], first["points"])
    for hits in (7, 0):
        api.ask("team=dba", hits)
        api.limiter.now += first["step_seconds"]
        await api.views._series.step()
    assert [("2026-11-21T00:00:02Z", 7), ("2026-11-21T00:00:04Z", 0)] == [
        (point["at"], point["tokens"]) for point in (await series(api, "team=dba"))["points"]
    ]


@pytest.mark.parametrize("descriptor, status", [("nothing=x", 404), ("team=*", 422)])
async def test_a_series_without_a_bucket_is_a_problem(api: ServedApi, descriptor: str, status: int) -> None:
    """No rule matches, or there are several descriptors."""
    assert (await series(api, descriptor, status))["detail"]
