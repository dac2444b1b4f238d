"""Explanations, replicas and rules over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.ports import InForce
from tests.limiter import descriptor

from .served_api import ServedApi, serve_api


async def explained(api: ServedApi, target: str, hits: int = 0, **body: Any) -> dict[str, Any]:
    """Return an explanation."""
    given = {"domain": "d", "descriptor": target, "hits": hits, **body}
    answer = await api.client.post("/explain", json=given)
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_an_explanation_has_the_decision_and_its_reasons(api: ServedApi) -> None:
    """The rule that applies, the rules that do not, the deciding window, and the amendments. Nothing is
    counted.
    """
    api.ask(hits=90)
    made = (await api.change("/top-up", amount=20, window="hour"))["edits"][0]["after"]
    found = await explained(api, "team=dba", 1_000)
    assert found == await explained(api, "team=dba", 1_000)
    assert ("ok", "OK", "there is room in every window", None, "d.team") == tuple(
        found[name] for name in ("verdict", "code", "reason", "message", "rule")
    )
    assert ("hour", 120, "2026-11-21T01:00:00Z") == tuple(
        found["limit"][name] for name in ("window", "limit", "resets_at")
    )
    assert [("d.team", True)] == [(each["rule"], each["wins"]) for each in found["considered"]]
    (amendment,) = found["amendments"]
    assert {**made, "holds": True}.items() <= amendment.items()
    assert (90, "team=dba") == (found["budget"]["windows"][0]["used"], found["budget"]["descriptor"])
    assert "OK: OK 30 3600" == api.ask()


@pytest.mark.parametrize(
    "target, verdict, code",
    [
        ("team=dba", "over", "OVER_LIMIT"),
        ("team=eve", "blocked", "OVER_LIMIT"),
        ("user=al", "shadowed", "OK"),
        ("free=x", "unlimited", "OK"),
        ("nothing=x", "unmatched", "OK"),
    ],
)
async def test_an_explanation_has_a_verdict(api: ServedApi, target: str, verdict: str, code: str) -> None:
    """Each verdict comes with the code that a gateway would get."""
    api.ask("team=dba", 100)
    api.ask("user=al", 9)
    await api.change("/override", descriptor="team=eve", amount=0)
    found = await explained(api, target, 1)
    assert (verdict, code) == (found["verdict"], found["code"])
    assert found["reason"]


async def test_an_explanation_includes_the_holds_of_requests_in_flight() -> None:
    """A check that holds would refuse is explained as refused, with the same message. An explanation takes no
    hold.
    """
    rules = "domain: d\ndescriptors: [{key: team, hold: 50, rate_limit: {unit: day, tokens_per_unit: 100}}]\n"
    async with serve_api(ServedApi(files=(rules,))) as api:
        for verdict, held in [("ok", 0), ("ok", 50), ("held", 100)]:
            first, found = await explained(api, "team=dba"), await explained(api, "team=dba")
            assert first == found
            assert (verdict, [held]) == (
                found["verdict"],
                [window["held"] for window in found["budget"]["windows"]],
            )
            decision = api.limiter.ask(descriptor("team=dba", 0))
            assert decision.code.name == found["code"]
            assert (found["message"] or "").encode() in decision.body
        listed = (await api.client.post("/bucket", json={"domain": "d", "descriptor": "team=dba"})).json()
        assert (0, 100, "ok") == tuple(listed["windows"][0][name] for name in ("used", "held", "state"))
        api.limiter.ask(descriptor("team=dba", 10))
        (budget,) = (await api.get("/budgets"))["budgets"]
        assert (10, 50) == tuple(budget["windows"][0][name] for name in ("used", "held"))
        await api.change("/reset")
        (budget,) = (await api.get("/budgets"))["budgets"]
        assert (0, 50) == tuple(budget["windows"][0][name] for name in ("used", "held"))


async def test_an_unknown_domain_has_a_verdict_and_a_missing_descriptor_is_a_problem(api: ServedApi) -> None:
    assert "unknown" == (await explained(api, "team=dba", domain="e"))["verdict"]
    for target in ("team=*", "*", "team"):
        answer = await api.client.post("/explain", json={"domain": "d", "descriptor": target})
        assert 422 == answer.status_code


async def test_replicas_are_listed_with_the_versions_that_they_have(api: ServedApi) -> None:
    """They are in step once all have the rules and amendments of this replica."""
    first = await api.get("/replicas")
    assert (True, [("here", True, 1, "a-hash", 0)]) == (
        first["in_step"],
        [
            tuple(each[name] for name in ("id", "this", "generation", "hash", "amendments_version"))
            for each in first["replicas"]
        ],
    )
    await api.limiter.store.replicas.meet("there", InForce("an-older-hash", 0, "0.1.0"))
    second = await api.get("/replicas")
    assert (False, ["here", "there"]) == (
        second["in_step"],
        [each["id"] for each in second["replicas"]],
    )
    await api.limiter.store.replicas.meet("there", InForce("a-hash", 0, "0.1.0"))
    assert (await api.get("/replicas"))["in_step"]


async def test_a_replica_that_keeps_earlier_rules_and_amendments_is_listed_with_its_lag(
    api: ServedApi,
) -> None:
    """The lag grows until it has the rules of the others. Its amendments are those of an earlier version."""
    store = api.limiter.store.replicas

    async def listed() -> list[tuple[Any, ...]]:
        found = await api.get("/replicas")
        names = ("id", "generation", "amendments_version", "behind_seconds", "seen_at")
        return [found["in_step"], *[tuple(each[name] for name in names) for each in found["replicas"]]]

    await api.get("/replicas")
    await store.meet("there", InForce("a-hash", 0, "0.1.0"))
    api.rules.digest = "new-rules"
    await api.change("/override", amount=7)
    now = "2026-11-21T00:00:00Z"
    assert [False, ("here", 2, 1, 0.0, now), ("there", 1, 0, 0.0, now)] == await listed()
    api.limiter.now += 7
    later = "2026-11-21T00:00:07Z"
    assert [False, ("here", 2, 1, 0.0, later), ("there", 1, 0, 7.0, now)] == await listed()
    api.limiter.now += 2.5
    await store.meet("there", InForce("a-hash", 0, "0.1.0"))
    assert [("there", 1, 0, 9.5, "2026-11-21T00:00:09Z")] == (await listed())[2:]
    await store.meet("there", InForce("new-rules", 0, "0.1.0"))
    assert [("there", 2, 0, 0.0, "2026-11-21T00:00:09Z")] == (await listed())[2:]
    assert not (await api.get("/replicas"))["in_step"]  # without the amendment
    await store.meet("there", InForce("new-rules", 1, "0.1.0"))
    assert (await api.get("/replicas"))["in_step"]


async def test_a_cursor_from_before_a_reload_is_refused(api: ServedApi) -> None:
    """Otherwise, a list would begin with the old rules and continue with the new ones."""
    first = await api.get("/rules", limit=1)
    assert ("a-hash", "2026-11-21T00:00:00Z") == (first["hash"], first["loaded_at"])
    await api.get("/rules", limit=1, cursor=first["next_cursor"])
    api.rules.digest = "another-hash"
    assert "begin again" in (await api.get("/rules", 422, limit=1, cursor=first["next_cursor"]))["detail"]
