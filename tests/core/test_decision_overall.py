"""The answers to requests with several descriptors: one status for each, in their order, and one verdict."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.core.model import Descriptor, Override, Unit
from tests.limiter import Limiter, decision_text, descriptor

RULES = """
domain: d
descriptors:
  - {key: ten,     rate_limit: {requests_per_unit: 10, unit: minute}}
  - {key: none,    rate_limit: {requests_per_unit: 0, unit: hour}}
  - {key: free,    rate_limit: {unlimited: true}}
  - {key: shadow,  rate_limit: {requests_per_unit: 0, unit: hour}, shadow_mode: true}
  - {key: quota,   rate_limit: {requests_per_unit: 0, unit: hour}, quota_mode: true}
  - {key: quota_10, rate_limit: {requests_per_unit: 10, unit: hour}, quota_mode: true}
  - {key: trial,   rate_limit: {requests_per_unit: 0, unit: hour}, quota_mode: true, shadow_mode: true}
  - {key: nothing}
"""

OVER = "OVER_LIMIT 0 3600"
FREE = "OK 4294967295"

VERDICTS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "the rules alone": (
        {},
        [
            # one refuses, in any place
            ("ten", "OK: OK 9 60"),
            ("none", f"OVER_LIMIT: {OVER}"),
            ("ten none", f"OVER_LIMIT: OK 9 60, {OVER}"),
            ("none ten", f"OVER_LIMIT: {OVER}, OK 9 60"),
            ("none none", f"OVER_LIMIT: {OVER}, {OVER}"),
            # descriptors without a limit are ignored, whatever the reason
            ("nothing", "OK: OK"),
            ("stranger", "OK: OK"),
            ("free", f"OK: {FREE}"),
            ("stranger free ten nothing", f"OK: OK, {FREE}, OK 9 60, OK"),
            ("stranger free none nothing", f"OVER_LIMIT: OK, {FREE}, {OVER}, OK"),
            # a rule in shadow mode refuses nothing
            ("shadow", "OK: OK 0 3600"),
            ("shadow none", f"OVER_LIMIT: OK 0 3600, {OVER}"),
            # a quota refuses if all quotas do; its own status shows its use
            ("quota", f"OVER_LIMIT: {OVER}"),
            ("quota quota_10", f"OK: {OVER}, OK 9 3600"),
            ("quota_10 quota", f"OK: OK 9 3600, {OVER}"),
            ("quota quota", f"OVER_LIMIT: {OVER}, {OVER}"),
            ("quota trial", f"OK: {OVER}, OK 0 3600"),
            # another rule does not change that, and refuses by itself
            ("quota ten", f"OVER_LIMIT: {OVER}, OK 9 60"),
            ("quota stranger free", f"OVER_LIMIT: {OVER}, OK, {FREE}"),
            ("quota_10 none", f"OVER_LIMIT: OK 9 3600, {OVER}"),
            ("quota quota_10 none", f"OVER_LIMIT: {OVER}, OK 9 3600, {OVER}"),
            ("quota_10 ten", "OK: OK 9 3600, OK 9 60"),
        ],
    ),
    "SHADOW_MODE": (
        {"shadow_mode": True},
        [
            # the statuses show the refusal that did not happen
            ("none", f"OK: {OVER}"),
            ("ten none quota", f"OK: OK 9 60, {OVER}, {OVER}"),
            ("ten", "OK: OK 9 60"),
        ],
    ),
    "QUOTA_MODE": (
        {"quota_mode": True},
        [
            # every rule is a quota: one that passes is sufficient
            ("none", f"OVER_LIMIT: {OVER}"),
            ("none ten", f"OK: {OVER}, OK 9 60"),
            ("none quota", f"OVER_LIMIT: {OVER}, {OVER}"),
            # unmatched descriptors pass, and unlimited ones do not count
            ("none stranger", f"OK: {OVER}, OK"),
            ("none free", f"OVER_LIMIT: {OVER}, {FREE}"),
            ("free", f"OK: {FREE}"),
        ],
    ),
}


@pytest.mark.parametrize("settings, rows", VERDICTS.values(), ids=VERDICTS)
def test_the_verdict_is_made_of_all_statuses(settings: dict[str, Any], rows: list[tuple[str, str]]) -> None:
    """Each row has fresh counters, the keys of the descriptors, and the answer."""
    turned_out = [(keys, decision_text(Limiter(RULES, **settings).ask(*keys.split()))) for keys, _ in rows]
    assert rows == turned_out


def test_global_shadow_mode_is_marked_in_the_decision() -> None:
    """Statistics need the mark."""
    limiter = Limiter(RULES, shadow_mode=True)
    assert [True, False, False] == [limiter.ask(key).shadowed for key in ("none", "ten", "shadow")]


def test_equal_descriptors_are_counted_one_after_another() -> None:
    """A descriptor that occurs twice is counted twice."""
    limiter = Limiter(RULES)
    answers = [
        decision_text(limiter.ask(*[descriptor("ten=a", 4)] * 3)),
        decision_text(limiter.ask("ten=a", "ten=b")),
    ]
    assert [
        "OVER_LIMIT: OK 6 60, OK 2 60, OVER_LIMIT 0 60",
        "OVER_LIMIT: OVER_LIMIT 0 60, OK 9 60",
    ] == answers


def test_a_refused_request_has_counted_all_of_its_descriptors() -> None:
    """These are the descriptors before and after the one that refuses."""
    limiter = Limiter(RULES)
    limiter.ask("ten=a", "none=x", "ten=b")
    assert [1, 1, 1] == [limiter.used(entries) for entries in ("ten=a", "none=x", "ten=b")]


def test_each_descriptor_has_its_own_hits_addend() -> None:
    """One request can have a check, a charge and a refund."""
    limiter = Limiter(RULES)
    limiter.ask(descriptor("ten=c", 5))
    descriptors = [
        descriptor("ten=a", 0),
        descriptor("ten=b", 3),
        descriptor("ten=c", -4),
        descriptor("ten=d"),
    ]
    assert "OK: OK 10 60, OK 7 60, OK 9 60, OK 8 60" == decision_text(limiter.ask(*descriptors, hits=2))


@pytest.mark.parametrize("domain", ["other", "D", "d ", "\x00", "d" * 10_000])
def test_a_domain_without_rules_lets_everything_pass(domain: str) -> None:
    """Nothing is counted, and every descriptor has a status."""
    limiter = Limiter(RULES)
    assert "OK: OK, OK" == decision_text(limiter.ask("none", descriptor("none", 2**64 - 1), domain=domain))
    assert 0 == len(limiter.store)


def test_a_descriptor_without_entries_passes() -> None:
    """No rule can match it."""
    limiter = Limiter(RULES)
    assert "OVER_LIMIT: OK, OVER_LIMIT 0 3600" == decision_text(limiter.ask(Descriptor(()), "none"))


REPLACES = """
domain: d
descriptors:
  - {key: all,    rate_limit: {name: all, requests_per_unit: 0, unit: hour}}
  - {key: vip,    rate_limit: {name: vip, requests_per_unit: 10, unit: hour, replaces: [{name: all}]}}
  - {key: boss,   rate_limit: {name: boss, requests_per_unit: 20, unit: hour, replaces: [{name: vip}]}}
  - {key: free,   rate_limit: {unlimited: true, replaces: [{name: all}, {name: vip}]}}
  - {key: nobody, rate_limit: {name: nobody, requests_per_unit: 0, unit: hour, replaces: [{name: unknown}]}}
  - {key: also,   rate_limit: {name: all, requests_per_unit: 5, unit: hour}}
  - {key: yin,    rate_limit: {name: yin, requests_per_unit: 0, unit: hour, replaces: [{name: yang}]}}
  - {key: yang,   rate_limit: {name: yang, requests_per_unit: 0, unit: hour, replaces: [{name: yin}]}}
  - {key: open,   rate_limit: {name: open, unlimited: true}}
  - {key: shut,   rate_limit: {requests_per_unit: 0, unit: hour, replaces: [{name: open}]}}
  - {key: quota,  rate_limit: {name: vip, requests_per_unit: 0, unit: hour}, quota_mode: true}
"""


@pytest.mark.parametrize(
    "keys, expected",
    [
        # alone, it applies; with the rule that replaces it, in any order, it does not
        ("all", f"OVER_LIMIT: {OVER}"),
        ("all vip", "OK: OK, OK 9 3600"),
        ("vip all", "OK: OK 9 3600, OK"),
        # a rule that is replaced itself still replaces
        ("all vip boss", "OK: OK, OK, OK 19 3600"),
        # replacement is not transitive
        ("all boss", f"OVER_LIMIT: {OVER}, OK 19 3600"),
        # an unlimited rule replaces, and more than one
        ("all free", f"OK: OK, {FREE}"),
        ("all vip free boss", f"OK: OK, OK, {FREE}, OK 19 3600"),
        # an unlimited rule can be replaced; then it is plain OK
        ("open shut", f"OVER_LIMIT: OK, {OVER}"),
        # all rules of the name are replaced
        ("all also vip", "OK: OK, OK, OK 9 3600"),
        # a name that no rule has
        ("nobody all", f"OVER_LIMIT: {OVER}, {OVER}"),
        # two rules that replace each other are both replaced
        ("yin", f"OVER_LIMIT: {OVER}"),
        ("yin yang", "OK: OK, OK"),
        # a replaced quota refuses nothing
        ("quota", f"OVER_LIMIT: {OVER}"),
        ("quota boss", "OK: OK, OK 19 3600"),
        # one rule replaces any number of others
        ("all vip all", "OK: OK, OK 9 3600, OK"),
    ],
)
def test_a_rule_is_replaced_by_another_of_the_same_request(keys: str, expected: str) -> None:
    """It limits nothing and counts nothing, and its status is a plain OK."""
    limiter = Limiter(REPLACES)
    assert expected == decision_text(limiter.ask(*keys.split()))
    limited = sum(" 3600" in status for status in expected.split(","))
    assert limited == len(limiter.store)


def test_an_override_is_not_replaced() -> None:
    """It has no name, even if the rule that it overrides has one."""
    limiter = Limiter(REPLACES)
    brought = descriptor("all", override=Override(3, Unit.HOUR))
    assert "OK: OK 2 3600, OK 9 3600" == decision_text(limiter.ask(brought, "vip"))
