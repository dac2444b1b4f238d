"""A RateLimitConfig and a file with the same content have the same rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from time import thread_time
from typing import Any

import pytest

from ratelimit_service.core.model import DomainRules
from ratelimit_service.core.rules import hidden_rules
from ratelimit_service.core.rules.reader import load
from ratelimit_service.loading.task import Task
from ratelimit_service.proto.xds_pb2 import RateLimitConfig
from ratelimit_service.sources.xds.reading import reading, stored_resources
from ratelimit_service.sources.yaml_text import read
from testing.control_plane import limit, resource
from tests.sources.xds.rule_sets import received


def rules(config: RateLimitConfig) -> tuple[DomainRules | None, list[str], list[str]]:
    """Return the domain of a resource, its problems and its warnings."""
    groups = list(received(config).groups.values())
    loaded = Task(reading(stored_resources("cp", groups), {}), apart=True).rules()
    (domain,) = loaded.domains or (None,)
    return domain, list(map(str, loaded.problems)), list(map(str, loaded.warnings))


def placeless(domain: DomainRules | None) -> dict[str, Any]:
    """Return the same as plain data, without places and without the digest, which is computed after
    `load`.
    """
    assert domain is not None
    plain: dict[str, Any] = _placeless(asdict(domain))
    return plain


def _placeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _placeless(each) for name, each in value.items() if name not in ("source", "digest")}
    return [_placeless(each) for each in value] if isinstance(value, list | tuple) else value


def of_file(text: str) -> dict[str, Any]:
    (domain,) = load([read("rules.yaml", text)]).domains
    return placeless(domain)


TWINS: list[tuple[dict[str, Any], str]] = [
    (limit("team", 5, "second"), "{key: team, rate_limit: {unit: second, requests_per_unit: 5}}"),
    (limit("team", 0, "week"), "{key: team, rate_limit: {unit: week, requests_per_unit: 0}}"),
    (
        limit("team", 2**32 - 1, "year", value="a*"),
        "{key: team, value: 'a*', rate_limit: {unit: year, requests_per_unit: 4294967295}}",
    ),
    ({"key": "team", "rate_limit": {"unlimited": True}}, "{key: team, rate_limit: {unlimited: true}}"),
    (
        {
            "key": "team",
            "rate_limit": {
                "unit": "day",
                "requests_per_unit": 3,
                "name": "big",
                "replaces": ["small", "tiny"],
            },
            "descriptors": [
                limit("model", 1, "minute"),
                {"key": "small", "rate_limit": {"unit": "day", "name": "small", "requests_per_unit": 1}},
            ],
        },
        "{key: team, rate_limit: {unit: day, requests_per_unit: 3, name: big, replaces: [{name: small}, "
        "{name: tiny}]}, descriptors: [{key: model, rate_limit: {unit: minute, requests_per_unit: 1}},"
        " {key: small, rate_limit: {unit: day, name: small, requests_per_unit: 1}}]}",
    ),
    (
        limit("team", 5, shadow_mode=True, quota_mode=True, detailed_metric=True),
        "{key: team, shadow_mode: true, quota_mode: true, detailed_metric: true,"
        " rate_limit: {unit: hour, requests_per_unit: 5}}",
    ),
    (
        limit(
            "team",
            5,
            metadata={
                "tier": "gold",
                "weight": 3,
                "share": 0.5,
                "on": True,
                "no": None,
                "list": [1, {"a": "b"}],
            },
        ),
        "{key: team, rate_limit: {unit: hour, requests_per_unit: 5}, metadata:"
        " {tier: gold, weight: 3, share: 0.5, 'on': true, 'no': null, list: [1, {a: b}]}}",
    ),
    (
        limit(
            "team",
            5,
            metadata={
                "tier": "gold",
                "ratelimit-service": {"rate_limit": {"tokens_per_unit": 2**53 - 1}, "track": True},
            },
        ),
        "{key: team, rate_limit: {unit: hour, tokens_per_unit: 9007199254740991}, track: true, "
        "metadata: {tier: gold}}",
    ),
    (
        limit(
            "team",
            5,
            metadata={
                "ratelimit-service": {
                    "rate_limits": [
                        {"unit": "hour", "tokens_per_unit": 5, "time_zone": "Europe/Berlin"},
                        {"unit": "month", "tokens_per_unit": 50, "starts_on": 15},
                    ],
                    "warn_at": [0.5, 1],
                    "denial_message": "no",
                }
            },
        ),
        "{key: team, warn_at: [0.5, 1], denial_message: 'no', rate_limits: ["
        "{unit: hour, tokens_per_unit: 5, time_zone: Europe/Berlin}, {unit: month, tokens_per_unit: 50, "
        "starts_on: 15}]}",
    ),
    (
        limit("team", 5, metadata={"ratelimit-service": {"rate_limit": {"unlimited": True}}}),
        "{key: team, rate_limit: {unlimited: true}}",
    ),
]


@pytest.mark.parametrize("said, text", TWINS, ids=range(len(TWINS)))
def test_a_resource_has_the_same_rules_as_the_same_file(said: dict[str, Any], text: str) -> None:
    """Every field of the rules is the same, except for the place."""
    domain, problems, _ = rules(resource("d", said))
    assert [] == problems
    assert of_file(f"{{domain: d, descriptors: [{text}]}}") == placeless(domain)


def test_the_place_in_a_resource_is_a_path() -> None:
    """A resource has no lines, and /rlconfig shows the place of each rule."""
    domain, _, _ = rules(resource("d", {"key": "a", "descriptors": [limit("b", 1)]}, name="shop/gw"))
    assert domain is not None
    (rule,) = [child.rule for each in domain.descriptors for child in each.children]
    assert rule is not None
    assert ("xds cp: shop/gw: descriptors[0].descriptors[0]", "xds cp: shop/gw: domain") == (
        rule.source,
        domain.source,
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"key": "team", "rate_limit": {"unit": 9, "requests_per_unit": 5}},
        "descriptors[0].rate_limit.unit: unknown unit '9': use one of second, minute, hour, day, week, "
        "month, year",
    ),
    (
        {"key": "team", "rate_limit": {"requests_per_unit": 5}},
        "descriptors[0].rate_limit.unit: is missing: use one of second, minute, hour, day, week, month, year",
    ),
    (
        {"key": "team", "rate_limit": {"unit": "hour", "unlimited": True}},
        "descriptors[0].rate_limit.unit: cannot be combined with unlimited: remove one of them",
    ),
    (
        {"key": ""},
        "descriptors[0].key: is missing or empty: every descriptor needs the key of an entry, "
        "such as 'key: team'",
    ),
    (
        limit("team", 5, metadata={"ratelimit-service": "tokens"}),
        "descriptors[0].metadata.ratelimit-service: must be a mapping of rule keys, such as {rate_limit: "
        "{tokens_per_unit: 5000}}",
    ),
    (
        limit("team", 5, metadata={"ratelimit-service": {"value": "x"}}),
        "descriptors[0].metadata.ratelimit-service: value cannot stand here: the resource itself has it",
    ),
    (
        limit("team", 5, metadata={"ratelimit-service": {"rate_limit": {"tokens_per_unit": 0.5}}}),
        "descriptors[0].rate_limit.tokens_per_unit: must be a whole number from 0 to 9007199254740991, "
        "not 0.5",
    ),
    (
        limit("team", 5, metadata={"ratelimit-service": {"rate_limit": {"tokens_per_unit": 1e300}}}),
        "descriptors[0].rate_limit.tokens_per_unit: must be a whole number from 0 to 9007199254740991, "
        "not 1e+300",
    ),
]


@pytest.mark.parametrize("said, problem", WRONG, ids=range(len(WRONG)))
def test_a_mistake_is_named_with_resource_and_path(said: dict[str, Any], problem: str) -> None:
    """The message is the same as for a mistake in a file."""
    domain, problems, _ = rules(resource("d", said))
    assert (None, [f"xds cp: d: {problem}"]) == (domain, problems)


def test_equal_siblings_are_reported_with_both_paths() -> None:
    """Envoy Gateway sends such siblings for two rules of a route with the same CIDR (docs/xds.md)."""
    cidr = limit("masked_remote_address", 5, value="10.0.0.0/8")
    _, problems, _ = rules(resource("d", {"key": "route", "descriptors": [cidr, cidr]}))
    assert [
        "xds cp: d: descriptors[0].descriptors[1]: 'masked_remote_address_10.0.0.0/8' (key, "
        "or key_value) is already defined at xds cp: d: descriptors[0].descriptors[0]: siblings must differ "
        "in it"
    ] == problems


def test_a_domain_must_be_utf_8_and_keys_need_not_be() -> None:
    """A value comes from a header, which may have any bytes."""
    config = resource("d", limit("team", 5))
    config.descriptors[0].value = b"\xff"
    domain, problems, _ = rules(config)
    assert ([], b"\xff") == (problems, domain.descriptors[0].value if domain else None)
    config.domain = b"\xff"
    assert (None, ["xds cp: d: domain: must be valid UTF-8"]) == rules(config)[:2]


def test_a_resource_without_a_domain_is_reported() -> None:
    """The message is the same as for a file."""
    _, problems, _ = rules(RateLimitConfig(name=b"x"))
    assert [
        "xds cp: x: domain: is missing or empty: it must be the domain that the gateway sends, "
        "such as 'domain: token-budgets'"
    ] == problems


def test_two_resources_of_one_domain_are_rejected_or_merged() -> None:
    """Their order is random, so neither takes precedence. MERGE_DOMAIN_CONFIG merges them."""
    groups = list(
        received(
            resource("d", limit("a", 1), name="1"), resource("d", limit("b", 2), name="2")
        ).groups.values()
    )
    read_both = reading(stored_resources("cp", groups), {})
    apart = Task(read_both, apart=True).rules()
    assert [
        "xds cp: 1: domain: 'd' also has rules in xds cp: 2: merge them, or set MERGE_DOMAIN_CONFIG=true",
        "xds cp: 2: domain: 'd' also has rules in xds cp: 1: merge them, or set MERGE_DOMAIN_CONFIG=true",
    ] == list(map(str, apart.problems))
    (domain,) = Task(read_both, merge_domains=True, apart=True).rules().domains
    assert [b"a", b"b"] == [each.key for each in domain.descriptors]


NAMES = [("a", "x"), ("b", "x"), ("c", "x (2)"), ("d", "x (2)"), ("e", "x (2) (2)")]


def test_every_resource_has_a_name_of_its_own_in_problems() -> None:
    """The names distinguish the problems of one domain from those of another."""
    configs = [resource(domain, name=name) for domain, name in NAMES]
    names = [each.name for each in stored_resources("cp", list(received(*configs).groups.values()))]
    assert (5, "xds cp: x") == (len(set(names)), names[0])


def test_limits_of_budget_domains_are_budgets() -> None:
    """So the limits of a gateway that only knows requests can count tokens."""
    groups = list(received(resource("d", limit("a", 1)), resource("e", limit("a", 1))).groups.values())
    loaded = Task(
        reading(stored_resources("cp", groups), {}), budget_domains=frozenset({"d", "not-there"}), apart=True
    ).rules()
    budgets = {
        domain.name: each.rule.budget for domain in loaded.domains for each in domain.descriptors if each.rule
    }
    assert ({"d": True, "e": False}, ()) == (budgets, loaded.warnings)


def test_thousands_of_keys_can_be_in_metadata() -> None:
    """The time grows with their number, not with its square: the changes of other domains wait for it."""
    keys = {f"key{place}": 1 for place in range(30_000)}
    began = thread_time()
    _, problems, _ = rules(resource("d", limit("team", 5, metadata={"ratelimit-service": keys})))
    assert len(problems) > 100
    assert thread_time() - began < 10


@pytest.mark.parametrize("covered", [False, True])
def test_thousands_of_values_can_hide_thousands_of_nested_rules(
    covered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning names a few of them, and the search ends early if the values have nested rules, too."""
    steps: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(argument: Any) -> Any:
            steps[name] += 1
            return function(argument)

        return call

    for name in ("_text", "_is_exempt"):
        monkeypatch.setattr(hidden_rules, name, counted(name, getattr(hidden_rules, name)))
    nested = [limit("model", 1, value=f"m{place}") for place in range(1_000)]
    own = [limit("model", 1)] if covered else []
    values = [limit("team", 1, value=f"t{place}", descriptors=own) for place in range(1_000)]
    _, problems, warnings = rules(resource("d", {"key": "team", "descriptors": nested}, *values))
    assert ([], not covered) == (problems, any("'model_m2' and more" in warning for warning in warnings))
    # All of them with each other would be a million.
    assert (True, True) == (steps["_text"] < 10_000, steps["_is_exempt"] < 300_000)
