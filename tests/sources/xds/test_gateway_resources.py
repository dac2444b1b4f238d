"""The resources of Envoy Gateway 1.9, and the rules that they become.

LISTED has facts: the resources that its translator makes of the rules in its own tests, one line for each
limit. The tests with a real Envoy use a translator of ours (tests/e2e/envoy_gateway.py), which is compared
with them here, as are the rules that the service reads. In a line, `route` stands for the level
`route=route`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ratelimit_service.core.model import DescriptorRule
from ratelimit_service.loading.task import Task
from ratelimit_service.proto.xds_pb2 import RateLimitConfig
from ratelimit_service.sources.xds.reading import reading, stored_resources
from testing.control_plane import UNITS
from tests.e2e.envoy_gateway import Match, Route, Rule, translate
from tests.sources.xds.rule_sets import received

HTTP, HTTPS = "shop/gw/http", "shop/gw/https"
LIMITS, OTHERS = "shop/limits", "shop/others"


def by(name: str = "x-user-id", kind: str = "exact", **more: Any) -> Match:
    return Match(name, kind, "one", **more)


def each(match: Match = by(), amount: int = 5, unit: str = "second", **more: Any) -> Rule:  # noqa: B008  # frozen
    """Return a rule with one selector."""
    return Rule(amount, (match,), unit=unit, **more)


def route(*rules: Rule, name: str = "route-1", listener: str = HTTP, policy: str = LIMITS) -> Route:
    return Route(name, rules, f"/{name}", listener, policy, "second" if listener == HTTPS else "first")


DISTINCT = by(kind="distinct")
THREE = (by(), by("x-org-id"), by("x-team-id"))

LISTED: dict[str, tuple[Sequence[Route], dict[str, list[str]]]] = {
    "distinct-match": (
        [route(each(DISTINCT))],
        {HTTP: ["route-1 > rule-0-match-0=?: 5 second"]},
    ),
    "distinct-remote-address-match": (
        [route(Rule(5, cidr="192.168.0.0/16", cidr_distinct=True, unit="second"))],
        {HTTP: ["route-1 > masked_remote_address=192.168.0.0/16 > remote_address=?: 5 second"]},
    ),
    "empty-header-matches": (
        [route(Rule(5, unit="second"))],
        {HTTP: ["route-1 > rule-0-match--1: 5 second"]},
    ),
    "global-shadow-mode": (
        [route(Rule(5, THREE, cidr="0.0.0.0/0", unit="second", shadow=True))],
        {
            HTTP: [
                "route-1 > rule-0-match-0 (shadow) > rule-0-match-1 (shadow) > rule-0-match-2 (shadow)"
                " > masked_remote_address=0.0.0.0/0 (shadow): 5 second"
            ]
        },
    ),
    "global-shared-distinct-match": (
        [route(each(DISTINCT, shared=True))],
        {LIMITS: [f"{LIMITS}/rule/0 > rule-0-match-0=?: 5 second"]},
    ),
    "global-shared-multiple-shared-policies": (
        [
            route(each(shared=True)),
            route(each(shared=True), name="route-2"),
            route(each(amount=10, shared=True), name="route-3", policy=OTHERS),
            route(each(amount=10), name="route-4"),
        ],
        {
            HTTP: ["route-4 > rule-0-match-0: 10 second"],
            LIMITS: [f"{LIMITS}/rule/0 > rule-0-match-0: 5 second"],
            OTHERS: [f"{OTHERS}/rule/0 > rule-0-match-0: 10 second"],
        },
    ),
    "header-and-cidr-matches": (
        [route(Rule(5, THREE, cidr="0.0.0.0/0", unit="second"))],
        {
            HTTP: [
                "route-1 > rule-0-match-0 > rule-0-match-1 > rule-0-match-2"
                " > masked_remote_address=0.0.0.0/0: 5 second"
            ]
        },
    ),
    "masked-remote-address-match": (
        [route(Rule(5, cidr="192.168.0.0/16", unit="second"))],
        {HTTP: ["route-1 > masked_remote_address=192.168.0.0/16: 5 second"]},
    ),
    "method-match": (
        [route(Rule(5, methods=("GET", "PUT"), unit="second"), Rule(50, methods=("POST",), unit="second"))],
        {HTTP: ["route-1 > rule-0-method: 5 second", "route-1 > rule-1-method: 50 second"]},
    ),
    "month-year-rule": (
        [route(each(unit="month")), route(each(amount=1, unit="year"), name="route-2")],
        {HTTP: ["route-1 > rule-0-match-0: 5 month", "route-2 > rule-0-match-0: 1 year"]},
    ),
    "multiple-all-match": (
        [
            route(
                Rule(
                    5,
                    THREE,
                    methods=("GET", "POST"),
                    path=("exact", "/a"),
                    cidr="0.0.0.0/0",
                    unit="second",
                )
            )
        ],
        {
            HTTP: [
                "route-1 > rule-0-match-0 > rule-0-match-1 > rule-0-match-2 > rule-0-method > rule-0-path"
                " > masked_remote_address=0.0.0.0/0: 5 second"
            ]
        },
    ),
    "multiple-domains": (
        [route(each(shared=True)), route(each(), name="route-2")],
        {
            HTTP: ["route-2 > rule-0-match-0: 5 second"],
            LIMITS: [f"{LIMITS}/rule/0 > rule-0-match-0: 5 second"],
        },
    ),
    "multiple-global-shared-distinct-match": (
        [route(*[each(DISTINCT, shared=True)] * 3)],
        {LIMITS: [f"{LIMITS}/rule/{n} > rule-{n}-match-0=?: 5 second" for n in range(3)]},
    ),
    "multiple-listeners-distinct-match": (
        [route(each(DISTINCT)), route(each(DISTINCT), listener=HTTPS)],
        {
            HTTP: ["route-1 > rule-0-match-0=?: 5 second"],
            HTTPS: ["route-1 > rule-0-match-0=?: 5 second"],
        },
    ),
    "multiple-listeners-same-shared-distinct-match": (
        [route(each(DISTINCT, shared=True)), route(each(DISTINCT, shared=True), listener=HTTPS)],
        {LIMITS: [f"{LIMITS}/rule/0 > rule-0-match-0=?: 5 second"]},
    ),
    "multiple-listeners-shared-distinct-match": (
        [route(each(DISTINCT)), route(each(DISTINCT, shared=True), listener=HTTPS, policy=OTHERS)],
        {
            HTTP: ["route-1 > rule-0-match-0=?: 5 second"],
            OTHERS: [f"{OTHERS}/rule/0 > rule-0-match-0=?: 5 second"],
        },
    ),
    "multiple-masked-remote-address-match-with-same-cidr": (
        [
            route(Rule(15, cidr="192.168.0.10/32", unit="hour")),
            route(Rule(300, cidr="192.168.0.10/32", unit="hour"), name="route-2"),
        ],
        {
            HTTP: [
                "route-1 > masked_remote_address=192.168.0.10/32: 15 hour",
                "route-2 > masked_remote_address=192.168.0.10/32: 300 hour",
            ]
        },
    ),
    "multiple-matches": (
        [route(Rule(5, THREE[:2], unit="second"))],
        {HTTP: ["route-1 > rule-0-match-0 > rule-0-match-1: 5 second"]},
    ),
    "multiple-routes": (
        [route(each()), route(each(amount=10), name="route-2")],
        {HTTP: ["route-1 > rule-0-match-0: 5 second", "route-2 > rule-0-match-0: 10 second"]},
    ),
    "multiple-rules": (
        [route(each(), each(amount=2**32 - 1))],
        {HTTP: ["route-1 > rule-0-match-0: 5 second", "route-1 > rule-1-match-0: 4294967295 second"]},
    ),
    "multiple-shared-and-unshared": (
        [route(each(shared=True), each(), each(shared=True), each())],
        {
            HTTP: ["route-1 > rule-0-match-0: 5 second", "route-1 > rule-1-match-0: 5 second"],
            LIMITS: [
                f"{LIMITS}/rule/0 > rule-0-match-0: 5 second",
                f"{LIMITS}/rule/2 > rule-1-match-0: 5 second",
            ],
        },
    ),
    "multiple-shared-ratelimit-rules": (
        [route(each(amount=1, shared=True), each(amount=2, shared=True), each(amount=3))],
        {
            HTTP: ["route-1 > rule-0-match-0: 3 second"],
            LIMITS: [
                f"{LIMITS}/rule/0 > rule-0-match-0: 1 second",
                f"{LIMITS}/rule/1 > rule-1-match-0: 2 second",
            ],
        },
    ),
    "path-match": (
        [route(Rule(5, path=("exact", "/a"), unit="second"), Rule(5, path=("regex", "/b.*"), unit="second"))],
        {HTTP: ["route-1 > rule-0-path: 5 second", "route-1 > rule-1-path: 5 second"]},
    ),
    "query-parameters-match": (
        [route(Rule(5, (by(), by("name", query=True)), unit="second"))],
        {HTTP: ["route-1 > rule-0-match-0 > rule-0-match-1: 5 second"]},
    ),
    "ratelimit-sourceip-invert": (
        [route(Rule(5, cidr="192.168.0.0/24", cidr_invert=True, unit="second"))],
        {HTTP: ["route-1 > masked_remote_address=invert:192.168.0.0/24: 5 second"]},
    ),
    "value-match": (
        [route(each())],
        {HTTP: ["route-1 > rule-0-match-0: 5 second"]},
    ),
}
"""By the name of the test of Envoy Gateway: routes, and the limits of each domain."""


def level(key: str, value: str) -> str:
    return key if key == value else f"{key}={value or '?'}"


def lines_of_resource(descriptors: Any, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a line for each limit of a resource, and for anything that these resources do not have."""
    for one in descriptors:
        here = (*above, level(one.key.decode(), one.value.decode()) + " (shadow)" * one.shadow_mode)
        policy = one.rate_limit
        if one.HasField("rate_limit"):
            yield f"{' > '.join(here)}: {policy.requests_per_unit} {UNITS[policy.unit].lower()}"
        if one.quota_mode or one.detailed_metric or policy.unlimited or policy.name or policy.replaces:
            yield "another field"
        yield from lines_of_resource(one.descriptors, here)


def lines_of_rules(descriptors: Sequence[DescriptorRule], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a line for each limit of a domain."""
    for one in descriptors:
        here = (*above, level(one.key.decode(), one.value.decode()))
        for limit in one.rule.limits if one.rule is not None else ():
            window, shadow = limit.window, " (shadow)" * (one.rule is not None and one.rule.shadow)
            assert (1, None) == (window.multiplier, window.calendar)
            yield f"{' > '.join(here)}: {limit.amount} {window.unit.name.lower()}{shadow}"
        yield from lines_of_rules(one.children, here)


def of_a_rule(line: str) -> str:
    """Return the line of a rule for that of a resource: only the last level has a rule, and its mode."""
    return line.replace(" (shadow)", "") + " (shadow)" * ("(shadow):" in line)


def resources(name: str) -> list[RateLimitConfig]:
    return translate(LISTED[name][0]).resources()


@pytest.mark.parametrize("name", LISTED)
def test_the_translator_of_the_tests_makes_the_resources_of_envoy_gateway(name: str) -> None:
    """So what the tests with Envoy show holds for the resources of Envoy Gateway. The name is that of the
    domain.
    """
    made = resources(name)
    assert [each.name for each in made] == [each.domain for each in made]
    assert LISTED[name][1] == {
        each.domain.decode(): list(lines_of_resource(each.descriptors)) for each in sorted(made, key=str)
    }


@pytest.mark.parametrize("name", LISTED)
def test_the_resources_of_envoy_gateway_become_these_rules(name: str) -> None:
    """Every level, unit and amount, without a problem or a warning."""
    groups = list(received(*resources(name)).groups.values())
    loaded = Task(reading(stored_resources("eg", groups), {}), apart=True).rules()
    assert ((), ()) == (loaded.problems, loaded.warnings)
    assert {domain: [of_a_rule(line) for line in lines] for domain, lines in LISTED[name][1].items()} == {
        domain.name: list(lines_of_rules(domain.descriptors)) for domain in loaded.domains
    }


@pytest.mark.parametrize("name", LISTED)
def test_each_rate_limit_of_a_route_refers_to_a_limit_of_its_domain(name: str) -> None:
    """Envoy makes descriptors of its actions, whose keys are the levels of a limit. Methods of one rule share
    it.
    """
    limits = [limit for each in translate(LISTED[name][0]).limits.values() for limit in each.values()]
    sent: dict[str, set[str]] = {}
    for domain, actions in limits:
        for limit in actions:
            keys = [next(iter(action.values()))["descriptor_key"] for action in limit["actions"]]
            sent.setdefault(domain, set()).add(" > ".join(keys))
    assert sent == {
        domain: {
            " > ".join(
                part.partition("=")[0]
                for part in line.replace(" (shadow)", "").rpartition(": ")[0].split(" > ")
            )
            for line in lines
        }
        for domain, lines in LISTED[name][1].items()
    }
