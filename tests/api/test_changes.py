"""Changes over HTTP: previews, idempotency keys, the audit, and their immediate effect."""

from __future__ import annotations

import asyncio

import pytest

from ratelimit_service.ports import WalkStep

from .served_api import (
    ADMIN,
    ServedApi,
    bearer,
    edits_of,
    serve_api,
)


async def test_an_override_is_in_force_once_the_response_is_sent(api: ServedApi) -> None:
    """So is its removal. The response has the amendments before and after."""
    assert "OK: OK 100 3600" == api.ask()
    made = await api.change("/override", amount=7, window="hour")
    assert [("put", "team=dba", None, 7)] == edits_of(made)
    assert (1, "key-1", False, False) == tuple(
        made[name] for name in ("version", "key", "replayed", "dry_run")
    )
    assert "OK: OK 7 3600" == api.ask()
    again = await api.change("/override", amount=9, window="hour", until="2026-11-21T00:30:00Z")
    assert [("put", "team=dba", 7, 9)] == edits_of(again)
    assert "2026-11-21T00:30:00Z" == again["edits"][0]["after"]["until"]
    gone = await api.change("/unblock", window="hour")
    assert [("remove", "team=dba", 9, None)] == edits_of(gone)
    assert "OK: OK 100 3600" == api.ask()


async def test_an_override_of_0_blocks_and_unblock_ends_it(api: ServedApi) -> None:
    """A second unblock reports that there is nothing to remove."""
    assert (await api.change("/override", amount=0))["edits"][0]["after"]["blocks"]
    assert "OVER_LIMIT: OVER_LIMIT 0 86400" == api.ask()
    await api.change("/unblock")
    assert "OK: OK 100 3600" == api.ask()
    problem = await api.change("/unblock", 404)
    assert "urn:ratelimit-service:problem:not-found" == problem["type"]
    assert "no override for team=dba" in problem["detail"]


async def test_nothing_to_unblock_is_a_problem_with_the_override_that_applies(api: ServedApi) -> None:
    """A block by pattern cannot be removed for one descriptor alone."""
    await api.confirmed("/override", descriptor="team=d*", amount=0)
    await api.confirmed("/override", descriptor="*", amount=0)
    problem = await api.change("/unblock", 404)
    expected = (
        "there is no override for team=dba with this window in d, and its limit is that for team=d* and *"
    )
    assert expected == problem["detail"]


async def test_a_change_without_an_effect_has_a_note(api: ServedApi) -> None:
    """In the preview and in the answer, for each edit, and not when it is sent again."""
    expected = ["it changes no limit of team=dba: the rule has no window week, but hour, day"]
    assert expected == (await api.change("/top-up", amount=5, window="week", dry_run=True))["notes"]
    assert expected == (await api.change("/top-up", amount=5, window="week", key="k"))["notes"]
    assert [] == (await api.change("/top-up", amount=5, window="week", key="k"))["notes"]
    changes = [
        {"verb": "override", "domain": "d", "descriptor": "team=dba", "amount": 5},
        {"verb": "override", "domain": "D", "descriptor": "team=dba", "amount": 5},
        {"verb": "top-up", "domain": "d", "descriptor": "free=x", "amount": 5},
    ]
    made = await api.confirmed("/changes", changes=changes, domain=..., descriptor=...)
    assert [
        "the service has no rules for the domain 'D': its domains are d",
        "free=x is unlimited: only a block of every window has an effect",
    ] == made["notes"]
    assert [] == (await api.change("/unblock"))["notes"]


async def test_a_top_up_applies_to_given_windows_and_can_be_removed_by_its_id(api: ServedApi) -> None:
    """The used amount stays the same."""
    api.ask(hits=100)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == api.ask()
    made = await api.change("/top-up", amount=20, windows=1)
    assert "OK: OK 20 3600" == api.ask()
    name = made["edits"][0]["id"]
    assert [name] == [one["id"] for one in (await api.get("/amendments"))["amendments"]]
    await api.change("/remove", id=name, domain=..., descriptor=...)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == api.ask()
    await api.change("/remove", 404, id=name, domain=..., descriptor=...)


async def test_removing_a_pattern_that_the_replica_has_not_read_yet_needs_a_confirmation(
    api: ServedApi,
) -> None:
    """The replica reads the amendment from the store."""
    made = await api.confirmed("/override", descriptor="team=*", amount=50)
    name = made["edits"][0]["id"]
    api.limiter.amendments.remove(name)
    body = {"id": name, "domain": ..., "descriptor": ...}
    assert "confirmation" in (await api.change("/remove", 422, **body))["detail"]
    preview = await api.change("/remove", **body, dry_run=True)
    await api.change("/remove", **body, confirmation=preview["confirmation"])


async def test_a_reset_sets_used_to_0_and_returns_the_previous_amount(api: ServedApi) -> None:
    """In one window or in all. A preview returns the counts and changes nothing."""
    api.ask(hits=100)
    seen = await api.change("/reset", window="hour", dry_run=True)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == api.ask()
    done = await api.change("/reset", window="hour")
    counter = {"counter": "{d|team=dba}:hour:2026-11-21T00Z", "used": 100}
    assert [[counter]] * 2 == [answer["edits"][0]["counters"] for answer in (seen, done)]
    assert "OK: OK 100 3600" == api.ask()
    await api.change("/reset", 422, window="week")
    await api.change("/reset", 422, descriptor="free=x")


async def test_a_reset_by_pattern_waits_until_the_store_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list shows the first buckets after 0.1 s; here, at once."""
    async with serve_api(ServedApi(first_answer=0)) as api:
        for team in ("dba", "dev", "web"):
            api.ask(f"team={team}", hits=100)
        store = api.limiter.store
        walk, begun, may_end = store.walk, asyncio.Event(), asyncio.Event()

        async def slow_walk(*arguments: str) -> WalkStep:
            begun.set()
            await may_end.wait()
            return await walk(*arguments)

        monkeypatch.setattr(store, "walk", slow_walk)
        waiting = asyncio.create_task(api.change("/reset", descriptor="team=d*", dry_run=True))
        await begun.wait()
        assert (await api.get("/budgets"))["partial"]
        may_end.set()
        preview = await waiting
        assert 2 == preview["affected"]
        await api.change("/reset", descriptor="team=d*", confirmation=preview["confirmation"])
        answers = [api.ask(f"team={name}").partition(":")[0] for name in ("dba", "dev", "web")]
        assert ["OK", "OK", "OVER_LIMIT"] == answers


async def test_a_change_that_is_sent_again_is_applied_once(api: ServedApi) -> None:
    """A retry gets the first result. The same key with another change is refused."""
    first = await api.change("/top-up", key="k", amount=20)
    second = await api.change("/top-up", key="k", amount=20)
    assert (False, True) == (first["replayed"], second["replayed"])
    assert first["edits"] == second["edits"]
    assert "OK: OK 120 3600" == api.ask()
    problem = await api.change("/top-up", 422, key="k", amount=30)
    assert "idempotency key" in problem["detail"]
    assert "OK: OK 120 3600" == api.ask()


async def test_a_reset_that_is_sent_again_keeps_later_charges(api: ServedApi) -> None:
    """Otherwise, a retry by an operator's tool would give a team a second budget."""
    api.ask(hits=100)
    await api.change("/reset", key="k")
    api.ask(hits=60)
    assert (await api.change("/reset", key="k"))["replayed"]
    assert "OK: OK 40 3600" == api.ask()


@pytest.mark.parametrize("descriptor", ["team=*", "team=d*", "*"])
async def test_a_change_of_a_pattern_needs_the_confirmation_from_its_preview(
    api: ServedApi, descriptor: str
) -> None:
    """Without it, nothing changes."""
    problem = await api.change("/override", 422, descriptor=descriptor, amount=0)
    assert "urn:ratelimit-service:problem:confirmation-needed" == problem["type"]
    assert "OK: OK 100 3600" == api.ask()
    preview = await api.change("/override", descriptor=descriptor, amount=0, dry_run=True)
    assert "2026-11-21T00:05:00Z" == preview["confirm_by"]
    assert "OK: OK 100 3600" == api.ask()
    await api.change("/override", descriptor=descriptor, amount=0, confirmation=preview["confirmation"])
    assert "OVER_LIMIT" in api.ask()
    await api.change("/unblock", 422, descriptor=descriptor)
    await api.confirmed("/unblock", descriptor=descriptor)
    assert "OK: OK 100 3600" == api.ask()


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 1},
        {"descriptor": "*"},
        {"window": "hour"},
        {"until": "2026-11-22T00:00:00Z"},
        {"reason": "another"},
        {"author": "bob"},
        {"domain": "e"},
    ],
)
async def test_a_confirmation_is_valid_for_one_change_only(api: ServedApi, other: dict[str, object]) -> None:
    """If any field differs, it is another change."""
    preview = await api.change("/override", descriptor="team=*", amount=0, dry_run=True)
    fields = {"descriptor": "team=*", "amount": 0, **other, "confirmation": preview["confirmation"]}
    assert "another change" in (await api.change("/override", 422, **fields))["detail"]
    assert "OK: OK 100 3600" == api.ask()


async def test_a_confirmation_is_valid_for_one_verb_and_expires(api: ServedApi) -> None:
    """The preview of a top-up does not confirm an override; neither does a preview from ten minutes ago, nor
    an invented confirmation.
    """
    fields = {"descriptor": "team=*", "amount": 1}
    preview = (await api.change("/top-up", **fields, dry_run=True))["confirmation"]
    end, _, signature = preview.partition(".")
    for wrong in (preview, f"{int(end) + 1}.{signature}", "x", f"{end}.", f"{end}.é", "9" * 400):
        await api.change("/override", 422, **fields, confirmation=wrong)
    api.limiter.now += 301
    assert "expired" in (await api.change("/top-up", 422, **fields, confirmation=preview))["detail"]


async def test_the_second_of_two_operators_with_the_same_preview_is_refused(api: ServedApi) -> None:
    """Also for a single descriptor, if the request has a confirmation."""
    for descriptor in ("team=*", "team=dba"):
        ana, bob = [
            (await api.change("/override", descriptor=descriptor, amount=amount, dry_run=True))[
                "confirmation"
            ]
            for amount in (7, 9)
        ]
        await api.change("/override", descriptor=descriptor, amount=7, confirmation=ana)
        refused = await api.change("/override", 422, descriptor=descriptor, amount=9, confirmation=bob)
        assert "another change came first" in refused["detail"]
        assert "OK: OK 7 3600" == api.ask()


async def test_a_preview_of_a_kill_switch_names_the_buckets_that_stay_open(api: ServedApi) -> None:
    """An override for an exact descriptor takes precedence over one for a domain."""
    await api.change("/override", amount=50)
    preview = await api.change("/override", descriptor="*", amount=0, dry_run=True)
    assert [("team=dba", 50)] == [(one["descriptor"], one["amount"]) for one in preview["exceptions"]]


async def test_a_change_needs_an_idempotency_key(api: ServedApi) -> None:
    """Otherwise, a retry could top up twice. A preview needs no key. Quotes around a key are ignored."""
    body = {"domain": "d", "descriptor": "team=dba", "amount": 20, "reason": "launch"}
    headers = bearer(ADMIN)
    without = await api.client.post("/top-up", json=body, headers=headers)
    assert (422, "Idempotency-Key") == (without.status_code, without.json()["errors"][0]["field"])
    preview = await api.client.post("/top-up", json={**body, "dry_run": True}, headers=headers)
    assert (200, None) == (preview.status_code, preview.json()["key"])
    for key, status in (("", 400), ("x" * 201, 400), ('"k"', 200), ("k", 200)):
        answer = await api.client.post("/top-up", json=body, headers={**headers, "idempotency-key": key})
        assert status == answer.status_code, key
    assert "OK: OK 120 3600" == api.ask()


@pytest.mark.parametrize(
    "field, value, status",
    [
        ("amount", -1, 400),
        ("amount", 2**53, 400),
        ("amount", "7", 400),
        ("amount", True, 400),
        ("amount", 1.5, 400),
        ("amount", None, 400),
        ("amount", ..., 400),
        ("domain", "", 400),
        ("domain", 7, 400),
        ("descriptor", "", 400),
        ("descriptor", "team", 422),
        ("descriptor", "te*m=dba", 422),
        ("descriptor", "team=\\y", 422),
        ("descriptor", "\ud800", 400),
        ("window", "fortnight", 422),
        ("window", "1hour", 422),
        ("until", "tomorrow", 422),
        ("until", "2026-11-22", 422),
        ("until", "2026-11-22T00:00:00", 422),
        ("until", "2026-11-20T00:00:00Z", 422),
        ("reason", "", 400),
        ("reason", ..., 400),
        ("reason", "a\nb", 422),
        ("reason", "x" * 1001, 400),
        ("author", "\u202e", 422),
        ("dry_run", "yes", 400),
        ("amonut", 7, 400),
    ],
)
async def test_an_invalid_field_is_named(api: ServedApi, field: str, value: object, status: int) -> None:
    """The status is 400 for a wrong type and 422 for an invalid value. Nothing changes."""
    problem = await api.change("/override", status, **{"amount": 7, field: value})
    if status == 400:
        assert [field] == [error["field"] for error in problem["errors"]]
    assert problem["detail"]
    assert "OK: OK 100 3600" == api.ask()


async def test_the_audit_has_author_change_and_reason(api: ServedApi) -> None:
    """In pages, the latest change first."""
    api.ask(hits=100)
    await api.change("/override", amount=7)
    await api.change("/reset", author="bob", reason="mistake")
    await api.change("/unblock")
    first = await api.get("/audit", limit=2)
    second = await api.get("/audit", limit=2, cursor=first["next_cursor"])
    lines = [*first["lines"], *second["lines"]]
    assert [
        (3, "remove", "ana", "launch", "key-3"),
        (2, "reset", "bob", "mistake", "key-2"),
        (1, "put", "ana", "launch", "key-1"),
    ] == [tuple(line[name] for name in ("version", "action", "author", "reason", "key")) for line in lines]
    assert "2026-11-21T00:00:00Z" == lines[0]["at"]
    assert [100, 100] == [counter["used"] for counter in lines[1]["counters"]]
    assert None is second["next_cursor"]


async def test_a_descriptor_in_a_response_is_valid_in_the_next_request(api: ServedApi) -> None:
    """It names the same bucket, whatever its bytes."""
    text = "team=\\xFF\\xFE\\,\\*\\\\é\\x0A<b>"
    made = await api.change("/override", descriptor=text, amount=7)
    shown = made["edits"][0]["descriptor"]
    assert shown.isprintable()
    found = await api.get("/amendments", domain="d", descriptor=shown)
    assert [shown] == [one["descriptor"] for one in found["amendments"]]
    assert [("remove", shown, 7, None)] == edits_of(await api.change("/unblock", descriptor=shown))
