"""Several edits in one change: limits in bulk."""

from __future__ import annotations

from typing import Any

import pytest

from .served_api import ServedApi, edits_of


async def send(api: ServedApi, changes: list[Any], status: int = 200, **more: Any) -> dict[str, Any]:
    """Return the response to several edits."""
    return await api.change("/changes", status, changes=changes, domain=..., descriptor=..., **more)


def limit(descriptor: str, amount: int, verb: str = "override", **more: Any) -> dict[str, Any]:
    """Return one of several edits: a limit."""
    return {"verb": verb, "domain": "d", "descriptor": descriptor, "amount": amount, **more}


async def test_several_edits_come_into_force_together(api: ServedApi) -> None:
    """The preview shows each bucket with all edits. They have one version and are applied once."""
    old = await api.change("/override", descriptor="team=old", amount=5)
    changes = [
        limit("team=dba", 70),
        limit("team=dba", 7, "top-up"),
        limit("team=dba", 8, "top-up", windows=1),
        limit("team=d*", 60),
        {"verb": "remove", "id": old["edits"][0]["id"]},
    ]
    assert "confirmation" in (await send(api, changes, 422))["detail"]
    preview = await send(api, changes, dry_run=True)
    assert ("team=old", 5, 100) == tuple(
        _hour(preview, "team=old", name) for name in ("descriptor", "before", "after")
    )
    assert (100, 85) == (_hour(preview, "team=dba", "before"), _hour(preview, "team=dba", "after"))
    confirmation = preview["confirmation"]
    done = await send(api, changes, key="k", confirmation=confirmation)
    assert [
        ("put", "team=dba", None, 70),
        ("put", "team=dba", None, 7),
        ("put", "team=dba", None, 8),
        ("put", "team=d*", None, 60),
        ("remove", "team=old", 5, None),
    ] == edits_of(done)
    assert 2 == done["version"]
    assert ["OK: OK 85 3600", "OK: OK 60 3600", "OK: OK 100 3600"] == [
        api.ask(f"team={name}") for name in ("dba", "dev", "old")
    ]
    again = await send(api, changes, key="k", confirmation=confirmation)
    assert (True, done["edits"]) == (again["replayed"], again["edits"])


def _hour(preview: dict[str, Any], descriptor: str, what: str) -> Any:
    (found,) = [each for each in preview["budgets"] if each["before"]["descriptor"] == descriptor]
    if what == "descriptor":
        return found["after"]["descriptor"]
    return found[what]["windows"][0]["effective_limit"]


async def test_no_edit_is_applied_if_any_target_has_changed_since_the_preview(api: ServedApi) -> None:
    changes = [limit("team=dba", 70), limit("team=ops", 71)]
    preview = await send(api, changes, dry_run=True)
    await api.change("/override", descriptor="team=ops", amount=5)
    refused = await send(api, changes, 422, confirmation=preview["confirmation"])
    assert "another change came first" in refused["detail"]
    assert ["OK: OK 100 3600", "OK: OK 5 3600"] == [api.ask("team=dba"), api.ask("team=ops")]


async def test_a_hundred_limits_can_be_set_at_once(api: ServedApi) -> None:
    """A hundred and one are refused."""
    changes = [limit(f"team=t{number}", number + 1) for number in range(100)]
    preview = await send(api, changes, dry_run=True)
    assert (20, 20, True) == (len(preview["budgets"]), preview["affected"], preview["affected_partial"])
    await send(api, changes, confirmation=preview["confirmation"])
    assert "OK: OK 42 3600" == api.ask("team=t41")
    problem = await send(api, [*changes, limit("team=one", 1)], 400, dry_run=True)
    assert [{"field": "changes", "detail": "must have at most 100 items"}] == problem["errors"]


@pytest.mark.parametrize(
    "item, status, field",
    [
        ({"verb": "lift"}, 400, "changes[1].verb"),
        ({"verb": "override", "amonut": 5}, 400, "changes[1].amonut"),
        (7, 400, "changes[1]"),
        (limit("team=dba", -1), 400, "changes[1].amount"),
        (limit("team", 1), 422, "changes[1]"),
        (limit("team=dba", 1, "unblock"), 422, "changes[1]"),
        (limit("team=dba", 1, windows=1), 422, "changes[1]"),
        (limit("team=dba", 0, "top-up"), 422, "changes[1]"),
        ({"verb": "override", "domain": "d", "descriptor": "team=dba"}, 422, "changes[1]"),
        ({"verb": "override", "amount": 5}, 422, "changes[1]"),
        ({"verb": "remove"}, 422, "changes[1]"),
        ({"verb": "remove", "id": "x", "domain": "d"}, 422, "changes[1]"),
        ({"verb": "remove", "id": "x"}, 404, None),
        (limit("team=dba", 1, id="x"), 422, "changes[1]"),
    ],
)
async def test_an_invalid_edit_is_named_by_its_position(
    api: ServedApi, item: Any, status: int, field: str | None
) -> None:
    """None of the others is applied."""
    problem = await send(api, [limit("team=dba", 70), item], status, dry_run=True)
    assert ([field] if field else []) == [error["field"] for error in problem["errors"]]
    assert problem["detail"]
