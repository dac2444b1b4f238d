"""Budgets over HTTP: lists, one bucket, and the preview of a change."""

from __future__ import annotations

from typing import Any

import pytest

from .served_api import (
    ADMIN,
    ServedApi,
    bearer,
    edits_of,
)


def uses(budget: dict[str, Any]) -> dict[str, tuple[int, int, str]]:
    """Return, by window, the used amount, the limit and the state."""
    return {
        each["window"]: (each["used"], each["effective_limit"], each["state"]) for each in budget["windows"]
    }


async def bucket(api: ServedApi, descriptor: str, status: int = 200) -> dict[str, Any]:
    """Return one bucket, or the problem in the response."""
    answer = await api.client.post("/bucket", json={"domain": "d", "descriptor": descriptor})
    assert status == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_bucket_is_returned_with_its_windows_usage_and_amendments(api: ServedApi) -> None:
    """Also before it has counted anything."""
    empty = await bucket(api, "team=dba")
    assert {"hour": (0, 100, "ok"), "day": (0, 1_000, "ok")} == uses(empty)
    api.ask(hits=90)
    made = (await api.change("/top-up", amount=20, window="hour"))["edits"][0]["after"]
    found = await bucket(api, "team=dba")
    assert {"hour": (90, 120, "ok"), "day": (90, 1_000, "ok")} == uses(found)
    assert ("d.team", "budget", "team=dba", [["team", "dba"]], "{d|team=dba}", [made]) == tuple(
        found[name] for name in ("rule", "kind", "descriptor", "entries", "bucket", "amendments")
    )
    hour = found["windows"][0]
    assert (30, 0.75, [made["id"]], 100) == tuple(
        hour[name] for name in ("remaining", "share", "amended_by", "limit")
    )
    assert ("2026-11-21T00:00:00Z", "2026-11-21T01:00:00Z", "{d|team=dba}:hour:2026-11-21T00Z") == tuple(
        hour[name] for name in ("starts_at", "resets_at", "counter")
    )


@pytest.mark.parametrize(
    "descriptor, status", [("nothing=x", 404), ("free=x", 404), ("team=*", 422), ("*", 422)]
)
async def test_a_bucket_that_does_not_exist_is_a_problem(
    api: ServedApi, descriptor: str, status: int
) -> None:
    """No rule matches, the rule has no limit, or there are several descriptors."""
    assert (await bucket(api, descriptor, status))["detail"]


async def test_budgets_are_searched_and_sorted(api: ServedApi) -> None:
    """By domain, key, value, share and state; the most used first."""
    for name, hits in [("dba", 100), ("ops", 90), ("web", 10)]:
        api.ask(f"team={name}", hits)
    await api.change("/override", descriptor="team=web", amount=0)
    searches: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["team=web", "team=dba", "team=ops"]),
        ({"sort": "name"}, ["team=dba", "team=ops", "team=web"]),
        ({"min_used": 0.9}, ["team=web", "team=dba", "team=ops"]),
        ({"state": "over"}, ["team=dba"]),
        ({"state": "blocked"}, ["team=web"]),
        ({"key": "team", "prefix": "o"}, ["team=ops"]),
        ({"value": "dba"}, ["team=dba"]),
        ({"key": "user"}, []),
        ({"domain": "e"}, []),
    ]
    for parameters, expected in searches:
        found = await api.get("/budgets", **parameters)
        assert expected == [one["descriptor"] for one in found["budgets"]], parameters
        assert (False, None, ["d"]) == (found["partial"], found["partial_reason"], found["domains"])
    first = await api.get("/budgets", limit=2)
    second = await api.get("/budgets", limit=2, cursor=first["next_cursor"])
    assert (["team=ops"], None) == ([one["descriptor"] for one in second["budgets"]], second["next_cursor"])


@pytest.mark.parametrize(
    "parameters, status",
    [
        ({"min_used": "x"}, 400),
        ({"min_used": "nan"}, 400),
        ({"min_used": "-1"}, 400),
        ({"state": "red"}, 400),
        ({"state": ""}, 400),
        ({"sort": "size"}, 400),
        ({"cursor": "x"}, 422),
        ({"key": "\\y"}, 422),
        ({"prefix": "a", "value": "b"}, 422),
    ],
)
async def test_an_invalid_search_is_refused(api: ServedApi, parameters: dict[str, str], status: int) -> None:
    """The response is not an empty list."""
    assert (await api.get("/budgets", status, **parameters))["detail"]


async def test_a_preview_shows_each_bucket_before_and_after(api: ServedApi) -> None:
    """For a descriptor and for a pattern. A preview changes nothing."""
    api.ask("team=dba", 100)
    api.ask("team=dbb", 60)
    api.ask("team=ops", 10)
    changes: list[tuple[str, dict[str, Any], dict[str, tuple[int, int, str]]]] = [
        (
            "/override",
            {"amount": 50, "window": "hour"},
            {"hour": (100, 50, "over"), "day": (100, 1_000, "ok")},
        ),
        ("/top-up", {"amount": 50}, {"hour": (100, 150, "ok"), "day": (100, 1_050, "ok")}),
        ("/reset", {"window": "hour"}, {"hour": (0, 100, "ok"), "day": (100, 1_000, "ok")}),
        ("/reset", {}, {"hour": (0, 100, "ok"), "day": (0, 1_000, "ok")}),
    ]
    for verb, fields, expected in changes:
        for descriptor, affected in [("team=dba", ["dba"]), ("team=db*", ["dba", "dbb"])]:
            preview = await api.change(verb, descriptor=descriptor, dry_run=True, **fields)
            assert (len(affected), False) == (preview["affected"], preview["affected_partial"])
            assert affected == [each["before"]["entries"][0][1] for each in preview["budgets"]]
            assert {"hour": (100, 100, "over"), "day": (100, 1_000, "ok")} == uses(
                preview["budgets"][0]["before"]
            )
            assert expected == uses(preview["budgets"][0]["after"]), (verb, fields)
    assert {"hour": (100, 100, "over"), "day": (100, 1_000, "ok")} == uses(await bucket(api, "team=dba"))
    assert [] == (await api.get("/amendments"))["amendments"]


async def test_a_preview_of_an_unblock_shows_the_limits_without_the_amendment(api: ServedApi) -> None:
    """Also if the request names the amendment by its id."""
    made = await api.change("/override", amount=0)
    for answer in (
        await api.change("/unblock", dry_run=True),
        await api.change("/remove", id=made["edits"][0]["id"], domain=..., descriptor=..., dry_run=True),
    ):
        (both,) = answer["budgets"]
        assert ("blocked", "ok") == (both["before"]["state"], both["after"]["state"])


async def test_a_preview_of_a_kill_switch_has_the_number_of_its_buckets(api: ServedApi) -> None:
    """It lists the first twenty."""
    for number in range(30):
        api.ask(f"team={number}", 1)
    preview = await api.change("/override", descriptor="*", amount=0, dry_run=True)
    assert (30, 20) == (preview["affected"], len(preview["budgets"]))


async def test_a_pattern_is_reset_as_a_whole_and_once(api: ServedApi) -> None:
    """One change has an edit for each bucket. A retry does not reset hits that were counted since."""
    for name in ("dba", "dbb", "ops"):
        api.ask(f"team={name}", 100)
    body = {"descriptor": "team=db*", "window": "hour"}
    assert "confirmation" in (await api.change("/reset", 422, **body))["detail"]
    preview = await api.change("/reset", **body, dry_run=True)
    done = await api.change("/reset", key="k", **body, confirmation=preview["confirmation"])
    assert [("reset", "team=dba", None, None), ("reset", "team=dbb", None, None)] == edits_of(done)
    assert 1 == done["version"]
    assert ["OK: OK 100 3600", "OK: OK 100 3600", "OVER_LIMIT: OVER_LIMIT 0 3600"] == [
        api.ask(f"team={name}") for name in ("dba", "dbb", "ops")
    ]
    api.ask("team=dba", 40)
    api.ask("team=dbc", 40)
    again = await api.change("/reset", key="k", **body, confirmation=preview["confirmation"])
    assert (True, done["edits"]) == (again["replayed"], again["edits"])
    assert ["OK: OK 60 3600", "OK: OK 60 3600"] == [api.ask(f"team={name}") for name in ("dba", "dbc")]


async def test_a_reset_by_pattern_has_buckets_that_are_newer_than_an_earlier_list(api: ServedApi) -> None:
    """The preview reads which there are, and the change has at least those of its preview."""
    api.ask("team=dba", 100)
    await api.change("/reset", descriptor="team=*", dry_run=True)
    api.ask("team=dbb", 100)
    preview = await api.change("/reset", descriptor="team=*", dry_run=True)
    assert 2 == preview["affected"] == len(preview["edits"])
    done = await api.change("/reset", descriptor="team=*", confirmation=preview["confirmation"])
    assert ["team=dba", "team=dbb"] == [edit["descriptor"] for edit in done["edits"]]


async def test_a_reset_notes_buckets_that_it_leaves_out(api: ServedApi) -> None:
    """Counters have the digest of a value of more than 128 bytes, which no pattern can be compared with."""
    long = f"team={'x' * 200}"
    api.ask(long, 100)
    problem = await api.change("/reset", 422, descriptor="team=*", dry_run=True)
    note = "1 more with a value of over 128 bytes may match team=*, and is not reset"
    note += ": give each by its descriptor"
    assert f"there is nothing to reset: {note}" == problem["detail"]
    api.ask("team=dba", 100)
    api.ask(f"team={'y' * 200}", 100)
    preview = await api.change("/reset", descriptor="team=*", dry_run=True)
    done = await api.change("/reset", descriptor="team=*", confirmation=preview["confirmation"])
    note = note.replace("1 more", "2 more").replace("is not", "are not")
    assert ([note], [note]) == (preview["notes"], done["notes"])
    assert ["team=dba"] == [edit["descriptor"] for edit in done["edits"]]
    assert [] == (await api.change("/reset", descriptor=long))["notes"]
    assert ["OK: OK 100 3600", "OK: OK 100 3600"] == [api.ask(name) for name in ("team=dba", long)]


async def test_a_reset_of_more_than_100_buckets_or_of_none_is_refused(api: ServedApi) -> None:
    """A change has at most a hundred edits, and is applied as a whole."""
    assert (
        "nothing to reset" in (await api.change("/reset", 422, descriptor="user=*", dry_run=True))["detail"]
    )
    for number in range(101):
        api.ask(f"team={number}", 1)
    problem = await api.change("/reset", 422, descriptor="team=*", dry_run=True)
    assert "at most 100 buckets, and team=* matches 101" in problem["detail"]


async def test_names_with_any_bytes_are_shown_on_one_line_and_can_be_found(api: ServedApi) -> None:
    """Markup, bidi marks, control characters, invalid UTF-8, and eight kilobytes."""
    for value in ["<script>alert(1)</script>", "\u202eevil", "a\x00b\x1b[31m", "x" * 8_000, "a,b=c*d\\e"]:
        text = "team=" + value.replace("\\", "\\\\").replace("*", "\\*").replace(",", "\\,")
        made = await api.change("/override", descriptor=text, amount=7)
        shown = made["edits"][0]["descriptor"]
        assert shown.isprintable()
        found = await bucket(api, shown)
        assert 7 == found["windows"][0]["effective_limit"]
        assert all(part.isprintable() for entry in found["entries"] for part in entry)
    listed = await api.client.get("/budgets", headers=bearer(ADMIN))
    assert 200 == listed.status_code
