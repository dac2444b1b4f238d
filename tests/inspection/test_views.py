"""Views of a whole service: explanations, replicas and rules."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ratelimit_service.amending.operations import Attribution, new_key
from ratelimit_service.app import App
from ratelimit_service.assembly import operators
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.model import Descriptor, Entry, Request
from ratelimit_service.inspection.explaining import Explanation
from ratelimit_service.inspection.query import Query
from ratelimit_service.observe import pairing
from ratelimit_service.settings.table import load_settings
from testing.service import FREE_PORTS
from testing.waiting import PATIENCE, until

RULES = """
domain: d
descriptors:
  - key: team
    rate_limits:
      - {name: yearly, unit: year, tokens_per_unit: 100}
      - {unit: year, unit_multiplier: 2, tokens_per_unit: 5000}
    descriptors:
      - {key: model, rate_limit: {unit: year, tokens_per_unit: 7}}
  - key: trial
    shadow_mode: true
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: free
    rate_limit: {unlimited: true}
"""
STRICT = "domain: strict\nunmatched: deny\n"
BY = Attribution("ana", "because", "key")


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "strict.yaml").write_text(STRICT)
    settings = {
        **FREE_PORTS,
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": str(tmp_path),
        "REFUSAL_BODY": "openai",
        "HOST": "127.0.0.1",
        "GRPC_HOST": "127.0.0.1",
        "DEBUG_HOST": "127.0.0.1",
    }
    app = App(load_settings(settings))
    await app.start()
    yield app
    await app.stop()


def entries(text: str) -> tuple[Entry, ...]:
    return tuple([Entry(*[part.encode() for part in pair.split("=")]) for pair in text.split(",")])


async def charge(app: App, text: str, hits: int) -> None:
    await app.service.should_rate_limit(Request("d", (Descriptor(entries(text), hits_addend=hits),)))


async def explained(app: App, text: str, hits: int = 0, domain: str = "d") -> Explanation:
    return await app.views.explain(domain, entries(text), hits)


async def test_an_explanation_counts_nothing_and_is_the_answer(app: App) -> None:
    """It has the rule, the windows and the remaining budget, and is the same as for `ask`."""
    await charge(app, "team=dba", 40)
    first = await explained(app, "team=dba", 1_000)
    found = await explained(app, "team=dba", 1_000)
    assert first == found
    rule = found.considered.winner
    assert rule is not None
    assert ("ok", "d.team", "OK", "") == (
        found.verdict,
        str(rule.path),
        found.answer.code,
        found.answer.message,
    )
    assert found.budget is not None
    assert [40, 40] == [window.used for window in found.budget.windows]
    windows = found.explanation["descriptors"][0]["windows"]
    assert ["year", "2year"] == [window["window"] for window in windows]
    assert [("d.team.model", (b"model",))] == [
        (str(each.rule.path), each.missing) for each in found.possible.rules
    ]


async def test_an_explanation_of_a_refusal_has_its_message(app: App) -> None:
    await charge(app, "team=dba", 100)
    found = await explained(app, "team=dba")
    assert ("over", "OVER_LIMIT", 0) == (found.verdict, found.answer.code, found.answer.remaining)
    assert "yearly" in found.answer.message
    assert found.budget is not None
    assert found.answer.resets_at == found.budget.windows[0].end


async def test_every_verdict(app: App) -> None:
    """Each verdict has the code that a gateway gets."""
    await charge(app, "trial=x", 1)
    operations = app.operations
    await operations.apply(BY, [operations.make_override(BY, parse("d", "team=out"), 0)])
    await operations.apply(
        Attribution("ana", "because", new_key()), [operations.make_override(BY, parse("d", "other=out"), 0)]
    )
    for text, domain, expected in (
        ("team=dba", "d", ("ok", "OK")),
        ("trial=x", "d", ("ok", "OK")),
        ("team=out", "d", ("blocked", "OVER_LIMIT")),
        ("other=out", "d", ("blocked", "OVER_LIMIT")),
        ("other=x", "d", ("unmatched", "OK")),
        ("free=x", "d", ("unlimited", "OK")),
        ("x=y", "strict", ("denied", "OVER_LIMIT")),
        ("x=y", "nowhere", ("unknown", "OK")),
    ):
        found = await explained(app, text, domain=domain)
        assert expected == (found.verdict, found.answer.code), text
    over = await explained(app, "trial=x", hits=1)
    assert ("shadowed", "OK") == (over.verdict, over.answer.code)
    (amendment,) = (await explained(app, "team=out")).amendments
    assert (True, "it holds", "team=out") == (
        amendment.holds,
        amendment.reason,
        amendment.amendment.target.text,
    )


async def test_hits_that_there_cannot_be_are_refused(app: App) -> None:
    for hits in (-1, 2**53):
        with pytest.raises(InvalidRequest):
            await app.views.explain("d", entries("team=dba"), hits)
    with pytest.raises(InvalidRequest):
        await app.views.explain("", entries("team=dba"))


async def test_a_served_app_lists_its_budgets(app: App) -> None:
    await charge(app, "team=dba", 90)
    async with asyncio.timeout(PATIENCE):
        while (listing := await app.views.budgets(Query("d"))).partial:
            pass
    (budget,) = listing.budgets
    assert (entries("team=dba"), "low", 0.9) == (budget.entries, budget.state.value, budget.share)
    bucket = await app.views.bucket("d", entries("team=dba"))
    assert bucket is not None
    assert [window.used for window in budget.windows] == [window.used for window in bucket.windows]


async def test_rules_and_replicas(app: App) -> None:
    """The only replica is this one, with the generation of its rules."""
    (replica,) = await app.views.replicas()
    rules = app.views.rules
    assert (app.views.registry.name, 1, 0.0, rules.digest) == (
        replica.id,
        replica.generation,
        replica.behind,
        replica.standing.digest,
    )
    assert (1, ["d", "strict"], ()) == (
        rules.generation,
        [each.name for each in rules.domains],
        rules.problems,
    )


async def test_a_change_of_rules_is_noticed_without_a_view(app: App, tmp_path: Path) -> None:
    """The service notices it soon, also without a request for a view."""
    await app.views.replicas()
    before = app.views.rules.digest
    (tmp_path / "strict.yaml").write_text(STRICT + "required_keys: [team]\n")
    assert await app.rulebook.load()
    await until(lambda: app.views.rules.generation == 2)
    assert (2, True) == (app.views.rules.generation, app.views.rules.digest != before)


@pytest.fixture
def compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a service compare checks and charges all the time, not every hour, and report rules without
    either.
    """
    monkeypatch.setattr(operators, "PERIOD", 0.001)
    monkeypatch.setattr(pairing, "LEAST", 0)


async def test_a_rule_that_is_never_charged_is_shown(compared_at_once: None, app: App) -> None:
    """In /rlconfig and in the API."""
    async with httpx.AsyncClient(base_url=f"http://{app.http.addresses['debug']}", trust_env=False) as client:
        await charge(app, "team=dba", 0)
        async with asyncio.timeout(PATIENCE):
            while True:
                text = (await client.get("/rlconfig")).text
                unpaired = (await client.get("/api/v1/rules")).json()["unpaired"]
                if "no charge" in text and unpaired:
                    break
    shown = [line for line in text.splitlines() if "no charge" in line]
    for line in (*shown, *[f"# {line}" for line in unpaired]):
        assert re.fullmatch(
            r"# d\.team \(.*rules\.yaml:4\): \d+ checks and no charge on this replica within an hour", line
        )
    assert (1, 1) == (len(shown), len(unpaired))
