"""The fake API answers as the real one is described."""

from __future__ import annotations

import httpx
import pytest
from jsonschema import Draft202012Validator

from ratelimit_service.api.openapi import description

from .answers import Json
from .fake_api import TOKEN, FakeApi

CHANGE = {"domain": "token-budgets", "descriptor": "team=dba", "reason": "a test", "dry_run": True}
BODIES: dict[str, Json] = {
    "bucket": {"domain": "token-budgets", "descriptor": "team=dba"},
    "explain": {"domain": "token-budgets", "descriptor": "team=dba"},
    "series": {"domain": "token-budgets", "descriptor": "team=dba"},
    "override": {**CHANGE, "amount": 0},
    "top-up": {**CHANGE, "amount": 5},
    "reset": CHANGE,
    "unblock": CHANGE,
    "remove": {"id": "t-1", "reason": "a test", "dry_run": True},
}
READ = ("status", "budgets", "rules", "replicas", "control-planes", "refusals", "amendments", "audit")


@pytest.mark.parametrize("name", [*READ, *BODIES])
def test_answers_of_the_stand_in_conform_to_the_schemas(everything: FakeApi, name: str) -> None:
    """For each endpoint that the page uses."""
    document = description()
    (operation,) = document["paths"][f"/{name}"].values()
    content = operation["responses"]["200"]["content"]["application/json"]
    headers = {"authorization": f"Bearer {TOKEN}"}
    url = f"{everything.url}api/v1/{name}"
    if name in BODIES:
        answer = httpx.post(url, json=BODIES[name], headers=headers, trust_env=False, timeout=60)
    else:
        answer = httpx.get(url, headers=headers, trust_env=False, timeout=60)
    assert 200 == answer.status_code
    schema = {**content["schema"], "components": document["components"]}
    assert [] == [error.message for error in Draft202012Validator(schema).iter_errors(answer.json())]
