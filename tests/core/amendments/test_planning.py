"""Requests are planned with amended limits. The table is the one of docs/amendments.md."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ratelimit_service.core.amendments.model import Amendment, override, top_up
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.model import OK, Decision, Descriptor, Override, Request, Unit
from tests.docs.documents import ROOT, tables
from tests.limiter import MIDNIGHT, Limiter, decision_text, descriptor

RULES = """
domain: d
descriptors:
  - {key: requests, rate_limit: {unit: hour, requests_per_unit: 100}}
  - {key: budget, rate_limit: {unit: hour, tokens_per_unit: 100}}
  - key: two windows
    rate_limits: [{unit: hour, tokens_per_unit: 100}, {unit: day, tokens_per_unit: 2000}]
  - {key: shadow, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 100}}
  - {key: quota, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 100}}
  - {key: other, quota_mode: true, rate_limit: {unit: hour, requests_per_unit: 100}}
  - {key: unlimited, rate_limit: {unlimited: true}}
  - key: shared counter
    value: "a*"
    share_threshold: true
    rate_limit: {unit: hour, requests_per_unit: 100}
  - {key: first, rate_limit: {name: one, unit: hour, requests_per_unit: 100}}
  - {key: second, rate_limit: {unit: hour, requests_per_unit: 100, replaces: [{name: one}]}}
"""
DENYING = "domain: deny\nunmatched: deny\ndescriptors: []\n"

HOUR = 3_600


def bucket(key: str, value: str = "a", limit: Override | None = None) -> Descriptor:
    """Return a bucket whose key has spaces."""
    ((_, entry_value),) = descriptor(f"k={value}").entries
    entry = descriptor("k=v").entries[0]._replace(key=key.encode(), value=entry_value)
    return Descriptor((entry,), None, limit)


ASKED: dict[str, tuple[tuple[Descriptor, ...], str]] = {
    name: ((bucket(name),), name)
    for name in ("requests", "budget", "two windows", "shadow", "quota", "unlimited", "no rule")
} | {
    "quota beside another": ((bucket("quota"), bucket("other")), "quota"),
    "unmatched: deny": ((bucket("no rule"),), "no rule"),
    "limit in the request": ((bucket("requests", limit=Override(10, Unit.HOUR)),), "requests"),
    "replaced by another rule": ((bucket("first"), bucket("second")), "first"),
    "shared counter": ((bucket("shared counter", "ab"),), "shared counter"),
}
"""For each rule of the table what a request has, and the key that the amendment is for."""


def amendments_of(text: str, domain: str, key: str) -> list[Amendment]:
    """Parse amendments such as `override 200 hour, top-up 20`."""
    found = []
    target = parse(domain, f"{key}=a*" if key == "shared counter" else f"{key}=a")
    for verb, amount, window in re.findall(r"(override|top-up) (\d+)(?: (\w+))?", text):
        if verb == "override":
            found.append(override(target, int(amount), window=window))
        else:
            found.append(top_up(target, int(amount), text, window=window))
    return found


def answer_text(decision: Decision) -> str:
    """Return the first status as the table shows it, with the code of the whole request."""
    code = "OK" if decision.code is OK else "refused"
    status = decision.statuses[0]
    if status.limit is None:
        return code
    unit = status.limit.window.unit.name.lower()
    return (
        f"{code}, {status.remaining} left of {status.limit.amount} {'an' if unit == 'hour' else 'a'} {unit}"
    )


TABLE = [
    row
    for table in tables(ROOT / "docs" / "amendments.md")
    if table.head == ["rule", "amended by", "used", "answer"]
    for row in table.rows
]


@pytest.mark.parametrize("rule, amended_by, used, expected", TABLE, ids=[", ".join(row[:3]) for row in TABLE])
def test_each_kind_of_rule_behaves_as_the_table_shows(
    rule: str, amended_by: str, used: str, expected: str
) -> None:
    """Each row in its order: charge, amend, then check; and check again with the cached plan."""
    limiter = Limiter(RULES, DENYING)
    domain = "deny" if rule == "unmatched: deny" else "d"
    descriptors, key = ASKED[rule]
    if int(used):
        limiter.ask(descriptors[0]._replace(hits_addend=int(used), override=None), domain=domain)
    request = Request(domain, descriptors, key=b"the same")
    for _ in range(2):  # the first time without amendments, so that there is a plan to make stale
        found = limiter.service._planner.plan(request, int(limiter.now))
        assert found.request is request
    limiter.amend(*amendments_of(amended_by, domain, key))
    assert expected == answer_text(limiter.answer(request))


@pytest.mark.parametrize("hits", [0, 1, 100])
@pytest.mark.parametrize("rule", sorted(ASKED.keys() - {"limit in the request", "quota beside another"}))
def test_a_block_refuses_whatever_is_asked(rule: str, hits: int) -> None:
    """It refuses checks, too. A limit of 0 requests would let a check pass, and gateways forward requests by
    their check.
    """
    limiter = Limiter(RULES, DENYING)
    domain = "deny" if rule == "unmatched: deny" else "d"
    descriptors, key = ASKED[rule]
    limiter.amend(*amendments_of("override 0", domain, key))
    asked = [each._replace(hits_addend=hits) for each in descriptors]
    assert "refused" == answer_text(limiter.ask(*asked, domain=domain)).partition(",")[0]
    refund = [each._replace(hits_addend=1, negative=True) for each in descriptors]
    assert OK is limiter.ask(*refund, domain=domain).code or rule in WITHOUT_LIMIT


WITHOUT_LIMIT = ("unlimited", "no rule", "unmatched: deny", "replaced by another rule")


def test_the_table_has_every_kind_of_rule() -> None:
    assert set(ASKED) == {row[0] for row in TABLE}


def keyed(text: str, hits: int | None = None) -> Request:
    """Return a request whose plan is cached."""
    return Request("d", (descriptor(text, hits),), key=text.encode())


def to(text: str, amount: int, **more: Any) -> Amendment:
    return override(parse("d", text), amount, **more)


def test_a_change_is_in_force_for_the_next_request_of_the_same_second() -> None:
    """This holds for cached requests and new ones, and for the removal of the change."""
    limiter = Limiter(RULES)
    request = keyed("requests=a")
    assert "OK: OK 99 3600" == decision_text(limiter.answer(request))
    limiter.amend(to("requests=a", 1))
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == decision_text(limiter.answer(request))
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == decision_text(limiter.answer(keyed("requests=a")))
    limiter.unamend(to("requests=a", 1))
    assert "OK: OK 96 3600" == decision_text(limiter.answer(request))


def test_a_change_for_others_leaves_a_remembered_plan_as_it_is() -> None:
    """The plan is compared, and not made again: a change of one bucket must not cost 10,000 others."""
    limiter = Limiter(RULES)
    requests = [keyed("requests=a"), keyed("requests=b"), keyed("budget=c")]
    for request in requests:
        limiter.answer(request)
    planner = limiter.service._planner
    before = [planner._prepared.get(request.key) for request in requests]
    limiter.amend(to("requests=a", 1), override(parse("other", "*"), 0))
    for request in requests:
        limiter.answer(request)
    after = [planner._prepared.get(request.key) for request in requests]
    assert [False, True, True] == [one is other for one, other in zip(before, after, strict=True)]


def test_requests_that_differ_in_their_hits_share_their_amendments() -> None:
    """The cached amendments do not depend on the hits of the first request."""
    limiter = Limiter(RULES)
    limiter.amend(to("budget=a", 50))
    request = Request("d", (descriptor("budget=a", 1),), key=b"one")
    limiter.answer(request)
    limiter.amend(to("budget=b", 50))
    planner = limiter.service._planner
    before = planner._prepared.get(b"one")
    limiter.answer(Request("d", (descriptor("budget=a", 2),), key=b"one"))
    assert before is planner._prepared.get(b"one")
    assert 3 == limiter.used("budget=a")


def test_an_override_ends_by_itself_also_within_a_remembered_plan() -> None:
    """It is in force again if the clock steps back."""
    limiter = Limiter(RULES)
    limiter.amend(to("budget=a", 10, until=MIDNIGHT + 60))
    request = Request("d", (descriptor("budget=a", 0),), key=b"one")
    assert "OK: OK 10 3600" == decision_text(limiter.answer(request))
    limiter.now += 60
    assert "OK: OK 100 3540" == decision_text(limiter.answer(request))
    limiter.now -= 1
    assert "OK: OK 10 3541" == decision_text(limiter.answer(request))


def test_a_block_of_an_unlimited_rule_ends_by_itself() -> None:
    """So does a block of a bucket without a rule."""
    limiter = Limiter(RULES)
    for text in ("unlimited=a", "nothing=a"):
        limiter.amend(to(text, 0, until=MIDNIGHT + 60))
        request = Request("d", (descriptor(text, 0),), key=text.encode())
        limiter.now = MIDNIGHT
        assert "OVER_LIMIT: OVER_LIMIT" == decision_text(limiter.answer(request))
        limiter.now = MIDNIGHT + 60
        assert "OK" == limiter.answer(request).code.name


def test_a_top_up_ends_with_each_window() -> None:
    """For the hour with the hour, and for the day with the day. The counts do not change."""
    limiter = Limiter(
        "domain: d\ndescriptors:\n  - key: team\n    rate_limits:\n"
        "      - {unit: hour, tokens_per_unit: 100}\n      - {unit: day, tokens_per_unit: 150}\n"
    )
    limiter.ask(descriptor("team=a", 100))
    limiter.amend(top_up(parse("d", "team=a"), 30, "k", windows=1, since=MIDNIGHT))
    assert "OK: OK 30 3600" == decision_text(limiter.ask(descriptor("team=a", 0)))
    limiter.ask(descriptor("team=a", 30))
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == decision_text(limiter.ask(descriptor("team=a", 0)))
    limiter.now += HOUR
    assert "OK: OK 50 82800" == decision_text(limiter.ask(descriptor("team=a", 0)))  # the day: 150 + 30 - 130
    limiter.now += 23 * HOUR
    assert "OK: OK 100 3600" == decision_text(limiter.ask(descriptor("team=a", 0)))
    limiter.ask(descriptor("team=a", 100))
    limiter.now += HOUR
    assert "OK: OK 50 82800" == decision_text(limiter.ask(descriptor("team=a", 0)))  # the next day: 150 - 100


def test_a_kill_switch_for_a_domain_refuses_all_of_it_and_nothing_else() -> None:
    """With and without a rule, and in a domain without rules."""
    limiter = Limiter(
        RULES, "domain: e\ndescriptors:\n  - {key: k, rate_limit: {unit: hour, requests_per_unit: 9}}\n"
    )
    limiter.amend(to("*", 0), override(parse("no rules", "*"), 0))
    for text in ("requests=a", "budget=b", "shadow=c", "quota=d", "unlimited=e", "nothing=f"):
        assert "OVER_LIMIT" == limiter.ask(descriptor(text)).code.name, text
    assert "OVER_LIMIT" == limiter.ask(descriptor("k=v"), domain="no rules").code.name
    assert "OK" == limiter.ask(descriptor("k=v"), domain="e").code.name


def test_the_refusal_of_a_block_shows_that_retrying_does_not_help() -> None:
    """With and without a limit. The caller is not told the author and the reason of the block."""
    headers = frozenset(("retry-after", "x-should-retry"))
    limiter = Limiter(RULES, error_format="openai", refusal_headers=headers)
    limiter.amend(to("*", 0, author="ana", reason="abuse"))
    for text, message in (
        ("budget=a", "Retrying does not help."),
        ("unlimited=a", "The request is refused: it is blocked. Retrying does not help."),
    ):
        decision = limiter.ask(descriptor(text, 0))
        assert [("x-should-retry", "false")] == [tuple(header) for header in decision.headers]
        assert message in decision.body.decode()
        assert b"insufficient_quota" in decision.body
        assert b"ana" not in decision.body and b"abuse" not in decision.body


def test_a_charge_on_a_blocked_budget_is_counted() -> None:
    """The tokens are used already."""
    limiter = Limiter(RULES)
    limiter.amend(to("*", 0))
    limiter.ask(descriptor("budget=a", 7))
    assert 7 == limiter.used("budget=a")


def test_a_request_that_a_block_refuses_counts_as_refused() -> None:
    """A block refuses even under a rule in shadow mode, so other rules of the request count nothing."""
    limiter = Limiter(
        "domain: d\ndescriptors:\n"
        "  - {key: s, shadow_mode: true, rate_limit: {unit: hour, requests_per_unit: 9}}\n"
        "  - {key: k, count_refused: false, rate_limit: {unit: hour, requests_per_unit: 9}}\n"
    )
    limiter.amend(to("s=a", 0))
    limiter.ask("s=a", "k=b")
    assert None is limiter.used("k=b")


def test_buckets_with_the_same_limits_share_an_amended_rule() -> None:
    """The cached parts of a rule (its refusals and rows) exist once for all of them."""
    limiter = Limiter(RULES)
    limiter.amend(*[to(f"requests={number}", 5) for number in range(20)])
    for number in range(20):
        limiter.answer(keyed(f"requests={number}"))
    planner = limiter.service._planner
    rules = {planner._prepared.get(f"requests={number}".encode())._planned[0].rule for number in range(20)}  # type: ignore[union-attr]
    assert 1 == len(rules)


def test_a_reload_keeps_the_amendments() -> None:
    """New rules are amended by the amendments in force."""
    limiter = Limiter(RULES)
    limiter.amend(to("requests=a", 5))
    tree = limiter.service.tree
    assert tree is not None
    limiter.service.use(tree)
    assert "OK: OK 4 3600" == decision_text(limiter.ask("requests=a"))
