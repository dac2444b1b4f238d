"""The verbs over HTTP: each with its preview, its idempotency key, its line in the audit, and what becomes of
it at once.
"""

from __future__ import annotations

import pytest

from .desk import ADMIN, Desk, bearer, edits_of


async def test_an_override_is_in_force_when_it_is_answered(desk: Desk) -> None:
    """And so is its removal; the answer has what was before and what is after."""
    assert "OK: OK 100 3600" == desk.ask()
    made = await desk.change("/override", amount=7, window="hour")
    assert [("put", "team=dba", None, 7)] == edits_of(made)
    assert (1, "key-1", False, False) == tuple(
        made[name] for name in ("version", "key", "replayed", "dry_run")
    )
    assert "OK: OK 7 3600" == desk.ask()
    again = await desk.change("/override", amount=9, window="hour", until="2026-11-21T00:30:00Z")
    assert [("put", "team=dba", 7, 9)] == edits_of(again)
    assert "2026-11-21T00:30:00Z" == again["edits"][0]["after"]["until"]
    gone = await desk.change("/unblock", window="hour")
    assert [("remove", "team=dba", 9, None)] == edits_of(gone)
    assert "OK: OK 100 3600" == desk.ask()


async def test_an_override_of_0_blocks_and_unblock_ends_it(desk: Desk) -> None:
    """A second unblock says that there is nothing to end."""
    assert (await desk.change("/override", amount=0))["edits"][0]["after"]["blocks"]
    assert "OVER_LIMIT: OVER_LIMIT 0 86400" == desk.ask()
    await desk.change("/unblock")
    assert "OK: OK 100 3600" == desk.ask()
    problem = await desk.change("/unblock", 404)
    assert "urn:ratelimit-service:problem:not-found" == problem["type"]
    assert "no override for team=dba" in problem["detail"]


async def test_a_top_up_is_for_some_windows_and_can_be_removed_by_its_id(desk: Desk) -> None:
    """What was used stays what it was."""
    desk.ask(hits=100)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == desk.ask()
    made = await desk.change("/top-up", amount=20, windows=1)
    assert "OK: OK 20 3600" == desk.ask()
    name = made["edits"][0]["id"]
    assert [name] == [one["id"] for one in (await desk.get("/amendments"))["amendments"]]
    await desk.change("/remove", id=name, domain=..., descriptor=...)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == desk.ask()
    await desk.change("/remove", 404, id=name, domain=..., descriptor=...)


async def test_a_removal_of_a_pattern_that_this_replica_does_not_know_yet_needs_a_confirmation(
    desk: Desk,
) -> None:
    """What it is for is read from the store."""
    made = await desk.confirmed("/override", descriptor="team=*", amount=50)
    name = made["edits"][0]["id"]
    desk.limiter.amendments.remove(name)
    body = {"id": name, "domain": ..., "descriptor": ...}
    assert "confirmation" in (await desk.change("/remove", 422, **body))["detail"]
    preview = await desk.change("/remove", **body, dry_run=True)
    await desk.change("/remove", **body, confirmation=preview["confirmation"])


async def test_a_reset_sets_used_to_0_and_says_what_it_was(desk: Desk) -> None:
    """In one window or all; the preview has what the counters hold and changes nothing."""
    desk.ask(hits=100)
    seen = await desk.change("/reset", window="hour", dry_run=True)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == desk.ask()
    done = await desk.change("/reset", window="hour")
    counter = {"counter": "{d|team=dba}:hour:2026-11-21T00Z", "used": 100}
    assert [[counter]] * 2 == [answer["edits"][0]["counters"] for answer in (seen, done)]
    assert "OK: OK 100 3600" == desk.ask()
    await desk.change("/reset", 422, window="week")
    await desk.change("/reset", 422, descriptor="free=x")


async def test_a_change_that_is_sent_again_does_nothing_a_second_time(desk: Desk) -> None:
    """It returns what it did; the same key with another change is refused."""
    first = await desk.change("/top-up", key="k", amount=20)
    second = await desk.change("/top-up", key="k", amount=20)
    assert (False, True) == (first["replayed"], second["replayed"])
    assert first["edits"] == second["edits"]
    assert "OK: OK 120 3600" == desk.ask()
    problem = await desk.change("/top-up", 422, key="k", amount=30)
    assert "idempotency key" in problem["detail"]
    assert "OK: OK 120 3600" == desk.ask()


async def test_a_reset_that_is_sent_again_does_not_reset_what_was_used_since(desk: Desk) -> None:
    """A retry of an operator's tool must not give a team a second budget."""
    desk.ask(hits=100)
    await desk.change("/reset", key="k")
    desk.ask(hits=60)
    assert (await desk.change("/reset", key="k"))["replayed"]
    assert "OK: OK 40 3600" == desk.ask()


@pytest.mark.parametrize("descriptor", ["team=*", "team=d*", "*"])
async def test_a_change_of_many_needs_the_confirmation_of_its_preview(desk: Desk, descriptor: str) -> None:
    """Without it, nothing is changed."""
    problem = await desk.change("/override", 422, descriptor=descriptor, amount=0)
    assert "urn:ratelimit-service:problem:confirmation-needed" == problem["type"]
    assert "OK: OK 100 3600" == desk.ask()
    preview = await desk.change("/override", descriptor=descriptor, amount=0, dry_run=True)
    assert "2026-11-21T00:05:00Z" == preview["confirm_by"]
    assert "OK: OK 100 3600" == desk.ask()
    await desk.change("/override", descriptor=descriptor, amount=0, confirmation=preview["confirmation"])
    assert "OVER_LIMIT" in desk.ask()
    await desk.change("/unblock", 422, descriptor=descriptor)
    await desk.confirmed("/unblock", descriptor=descriptor)
    assert "OK: OK 100 3600" == desk.ask()


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
async def test_a_confirmation_is_for_one_change(desk: Desk, other: dict[str, object]) -> None:
    """Any other field makes it another change."""
    preview = await desk.change("/override", descriptor="team=*", amount=0, dry_run=True)
    fields = {"descriptor": "team=*", "amount": 0, **other, "confirmation": preview["confirmation"]}
    assert "another change" in (await desk.change("/override", 422, **fields))["detail"]
    assert "OK: OK 100 3600" == desk.ask()


async def test_a_confirmation_is_for_one_verb_and_a_while(desk: Desk) -> None:
    """An override is not confirmed by the preview of a top-up, nor by that of ten minutes ago, nor by a
    made-up one.
    """
    fields = {"descriptor": "team=*", "amount": 1}
    preview = (await desk.change("/top-up", **fields, dry_run=True))["confirmation"]
    end, _, signature = preview.partition(".")
    for wrong in (preview, f"{int(end) + 1}.{signature}", "x", f"{end}.", f"{end}.é", "9" * 400):
        await desk.change("/override", 422, **fields, confirmation=wrong)
    desk.limiter.now += 301
    assert "expired" in (await desk.change("/top-up", 422, **fields, confirmation=preview))["detail"]


async def test_of_two_operators_the_second_one_is_refused(desk: Desk) -> None:
    """Both have seen the same preview; for one descriptor as well, where a confirmation is sent."""
    for descriptor in ("team=*", "team=dba"):
        ana, bob = [
            (await desk.change("/override", descriptor=descriptor, amount=amount, dry_run=True))[
                "confirmation"
            ]
            for amount in (7, 9)
        ]
        await desk.change("/override", descriptor=descriptor, amount=7, confirmation=ana)
        refused = await desk.change("/override", 422, descriptor=descriptor, amount=9, confirmation=bob)
        assert "another change came first" in refused["detail"]
        assert "OK: OK 7 3600" == desk.ask()


async def test_a_preview_of_a_kill_switch_names_what_it_does_not_reach(desk: Desk) -> None:
    """An override by exact descriptor comes before one of a domain."""
    await desk.change("/override", amount=50)
    preview = await desk.change("/override", descriptor="*", amount=0, dry_run=True)
    assert [("team=dba", 50)] == [(one["descriptor"], one["amount"]) for one in preview["exceptions"]]


async def test_a_change_needs_an_idempotency_key(desk: Desk) -> None:
    """Otherwise a retry could top up twice. A preview needs none. Quotes around a key do not count."""
    body = {"domain": "d", "descriptor": "team=dba", "amount": 20, "reason": "launch"}
    headers = bearer(ADMIN)
    without = await desk.client.post("/top-up", json=body, headers=headers)
    assert (422, "Idempotency-Key") == (without.status_code, without.json()["errors"][0]["field"])
    preview = await desk.client.post("/top-up", json={**body, "dry_run": True}, headers=headers)
    assert (200, None) == (preview.status_code, preview.json()["key"])
    for key, status in (("", 400), ("x" * 201, 400), ('"k"', 200), ("k", 200)):
        answer = await desk.client.post("/top-up", json=body, headers={**headers, "idempotency-key": key})
        assert status == answer.status_code, key
    assert "OK: OK 120 3600" == desk.ask()


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
async def test_a_field_that_is_not_valid_is_named(desk: Desk, field: str, value: object, status: int) -> None:
    """By 400 where it is not of its type, by 422 where it means nothing. Nothing is changed."""
    problem = await desk.change("/override", status, **{"amount": 7, field: value})
    if status == 400:
        assert [field] == [error["field"] for error in problem["errors"]]
    assert problem["detail"]
    assert "OK: OK 100 3600" == desk.ask()


async def test_the_audit_has_author_change_and_reason(desk: Desk) -> None:
    """The latest first, a page at a time."""
    desk.ask(hits=100)
    await desk.change("/override", amount=7)
    await desk.change("/reset", author="bob", reason="mistake")
    await desk.change("/unblock")
    first = await desk.get("/audit", limit=2)
    second = await desk.get("/audit", limit=2, cursor=first["next_cursor"])
    lines = [*first["lines"], *second["lines"]]
    assert [
        (3, "remove", "ana", "launch", "key-3"),
        (2, "reset", "bob", "mistake", "key-2"),
        (1, "put", "ana", "launch", "key-1"),
    ] == [tuple(line[name] for name in ("version", "action", "author", "reason", "key")) for line in lines]
    assert "2026-11-21T00:00:00Z" == lines[0]["at"]
    assert [100, 100] == [counter["used"] for counter in lines[1]["counters"]]
    assert None is second["next_cursor"]


async def test_descriptors_of_any_bytes_come_back_as_they_were_sent(desk: Desk) -> None:
    """The text of a descriptor in an answer names the same bucket in the next request."""
    text = "team=\\xFF\\xFE\\,\\*\\\\é\\x0A<b>"
    made = await desk.change("/override", descriptor=text, amount=7)
    shown = made["edits"][0]["descriptor"]
    assert shown.isprintable()
    found = await desk.get("/amendments", domain="d", descriptor=shown)
    assert [shown] == [one["descriptor"] for one in found["amendments"]]
    assert [("remove", shown, 7, None)] == edits_of(await desk.change("/unblock", descriptor=shown))
