"""The table in docs/amendments.md, through the API: a preview shows the limits that apply after the
change.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.core.amendments.test_planning import ASKED, DENYING, RULES, TABLE, answer_text

from .served_api import ServedApi, serve_api


def limits(budget: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return, by window, the used amount and the limit."""
    return {each["window"]: (each["used"], each["effective_limit"]) for each in budget["windows"]}


@pytest.mark.parametrize("rule, amended_by, used, expected", TABLE, ids=[", ".join(row[:3]) for row in TABLE])
async def test_each_kind_of_rule_behaves_as_its_preview_shows(
    rule: str, amended_by: str, used: str, expected: str
) -> None:
    """Each row charges, previews, changes and then sends a request."""
    domain = "deny" if rule == "unmatched: deny" else "d"
    descriptors, key = ASKED[rule]
    target = f"{key}=a*" if key == "shared counter" else f"{key}=a"
    named = {"domain": domain, "descriptor": target}
    async with serve_api(ServedApi(files=(RULES, DENYING))) as api:
        if int(used):
            charged = descriptors[0]._replace(hits_addend=int(used), override=None)
            api.limiter.ask(charged, domain=domain)
        for verb, amount, window in re.findall(r"(override|top-up) (\d+)(?: (\w+))?", amended_by):
            body = {**named, "amount": int(amount), "window": window or None}
            preview = await api.change(f"/{verb}", **body, dry_run=True)
            await api.change(f"/{verb}", **body, confirmation=preview["confirmation"])
            for each in preview["budgets"]:
                asked = {"domain": domain, "descriptor": each["before"]["descriptor"]}
                if "*" in asked["descriptor"]:
                    (found,) = (await api.get("/budgets", domain=domain, key=key))["budgets"]
                else:
                    found = (await api.client.post("/bucket", json=asked)).json()
                assert limits(each["after"]) == limits(found)
        assert expected == answer_text(api.limiter.ask(*descriptors, domain=domain))
