"""Rule keys that overlays add to the resources of a control plane."""

from __future__ import annotations

import pytest

from ratelimit_service.core.answers.signals import METADATA
from ratelimit_service.core.rules.reader import load
from ratelimit_service.loading.task import Task
from ratelimit_service.sources.xds.overlays import Overlays, by_domain
from ratelimit_service.sources.xds.reading import reading, stored_resources
from ratelimit_service.sources.yaml_text import read
from testing.control_plane import limit, resource
from tests.sources.xds.rule_sets import received
from tests.sources.xds.test_translate import placeless

SENT = resource(
    "shop/gw/http",
    {
        "key": "route",
        "value": "route",
        "descriptors": [
            limit("rule-0-match-0", 100, "hour"),
            limit("rule-1-match-0", 7, "minute", value="rule-1-match-0", shadow_mode=True),
        ],
    },
    limit("other", 3, "day"),
    name="shop",
)


def overlays(text: str) -> Overlays:
    found, problems = by_domain([read("over.yaml", text)])
    assert [] == problems
    return found


def laid(text: str, *, merge_domains: bool = False, sent: tuple[object, ...] = (SENT,)) -> Task:
    groups = list(received(*sent).groups.values())  # type: ignore[arg-type]
    KEPT.append(groups)
    return Task(
        reading(stored_resources("cp", groups), overlays(text)), apart=True, merge_domains=merge_domains
    )


KEPT: list[object] = []
"""The content that tasks read by its file descriptor; the fixture keeps it open."""

ROUTE = "{key: route, value: route, descriptors: [%s]}"


@pytest.mark.parametrize(
    "over, means",
    [
        (
            "descriptors: [{key: other, rate_limit: {tokens_per_unit: 50}}]",
            "{key: other, rate_limit: {unit: day, tokens_per_unit: 50}}",
        ),
        (
            "descriptors: [{key: other, rate_limit: {unit: month, starts_on: 15}, count_refused: false}]",
            "{key: other, rate_limit: {unit: month, starts_on: 15, requests_per_unit: 3}, "
            "count_refused: false}",
        ),
        (
            "descriptors: [{key: other, rate_limits: [{unit: hour, tokens_per_unit: 5}, {unit: day, "
            "tokens_per_unit: 9}]}]",
            "{key: other, rate_limits: [{unit: hour, tokens_per_unit: 5}, {unit: day, tokens_per_unit: 9}]}",
        ),
        (
            "descriptors: [{key: other, rate_limit: {tokens_per_unit: 5}, ledger: {by: day}, "
            "price: {per_million: 2.50, currency: USD}}]",
            "{key: other, rate_limit: {unit: day, tokens_per_unit: 5}, ledger: {by: day}, "
            "price: {per_million: 2.50, currency: USD}}",
        ),
        (
            "descriptors: [{key: other, rate_limit: {tokens_per_unit: 5}, signal: [caller], low_at: 0.5, "
            "notify: [finance]}]",
            "{key: other, rate_limit: {unit: day, tokens_per_unit: 5}, signal: [caller], low_at: 0.5, "
            "notify: [finance]}",
        ),
        (
            "descriptors: [{key: other, rate_limit: {unlimited: true}}]",
            "{key: other, rate_limit: {unlimited: true}}",
        ),
    ],
    ids=["tokens", "calendar", "several windows", "ledger", "signal", "unlimited"],
)
def test_an_overlay_adds_keys_that_the_protocol_lacks(over: str, means: str) -> None:
    """Its keys replace those of the resource, and the other keys stay."""
    rest = ROUTE % (
        "{key: rule-0-match-0, rate_limit: {unit: hour, requests_per_unit: 100}},"
        " {key: rule-1-match-0, value: rule-1-match-0, shadow_mode: true, rate_limit: {unit: minute, "
        "requests_per_unit: 7}}"
    )
    loaded = laid(f"{{domain: shop/gw/http, {over}}}").rules()
    assert ((), ()) == (loaded.problems, loaded.warnings)
    (expected,) = load([read("x", f"{{domain: shop/gw/http, descriptors: [{rest}, {means}]}}")]).domains
    assert placeless(expected) == placeless(loaded.domains[0])


def test_an_overlay_applies_to_nested_descriptors_and_to_the_domain() -> None:
    """Descriptors are found by key and value, as in the resource. The same key with another value is another
    descriptor.
    """
    more = (
        "{key: rule-1-match-0, value: rule-1-match-0, shadow_mode: false, rate_limit: {tokens_per_unit: 9}}"
    )
    text = f"""
domain: shop/gw/http
time_zone: Europe/Berlin
unmatched: deny
signal: [metadata]
notify: [finance]
descriptors:
  - {ROUTE % more}
"""
    (domain,) = laid(text).rules().domains
    assert ("Europe/Berlin", True) == (domain.zone, domain.deny_unmatched)
    (one, other) = domain.descriptors[0].children
    assert one.rule is not None and other.rule is not None
    assert [(100, False, 0, ("finance",)), (9, False, METADATA, ("finance",))] == [
        (rule.limits[0].amount, rule.shadow, rule.signal, rule.notify) for rule in (one.rule, other.rule)
    ]


def test_an_overlay_without_a_matching_descriptor_causes_a_warning() -> None:
    """A gateway renumbers its rules when one is inserted, and without a warning the overlay would have no
    effect.
    """
    text = f"""
domain: shop/gw/http
descriptors:
  - {ROUTE % "{key: rule-9-match-0, track: true}"}
  - key: gone
"""
    loaded = laid(text).rules()
    assert [
        "over.yaml:4: descriptors[0].descriptors[0]: has no effect: the control plane sends no such "
        "descriptor",
        "over.yaml:5: descriptors[1]: has no effect: the control plane sends no such descriptor",
    ] == list(map(str, loaded.warnings))
    assert (1, ()) == (len(loaded.domains), loaded.problems)


def test_a_mistake_in_an_overlay_is_named_with_its_line() -> None:
    """It is not reported as a mistake of the control plane."""
    text = """
domain: shop/gw/http
descriptors:
  - key: other
    rate_limit:
      tokens_per_unit: many
"""
    loaded = laid(text).rules()
    assert ((), ["over.yaml:6: descriptors[1].rate_limit.tokens_per_unit"]) == (
        loaded.domains,
        [str(problem).partition(": must be")[0] for problem in loaded.problems],
    )


def test_an_overlay_applies_to_all_resources_of_its_domain() -> None:
    """With MERGE_DOMAIN_CONFIG, a descriptor of the overlay may belong to any of the resources."""
    sent = (resource("d", limit("a", 1), name="1"), resource("d", limit("b", 2), name="2"))
    text = (
        "{domain: d, descriptors: [{key: a, rate_limit: {tokens_per_unit: 5}}, {key: b, "
        "track: true}, {key: c}]}"
    )
    task = laid(text, merge_domains=True, sent=sent)
    for _ in range(2):  # in this process, the next read gets the overlay again
        loaded = task.rules()
        (domain,) = loaded.domains
        assert [(5, False), (2, True)] == [
            (each.rule.limits[0].amount, each.rule.track) for each in domain.descriptors if each.rule
        ]
        assert ["descriptors[2]"] == [problem.path for problem in loaded.warnings]


@pytest.mark.parametrize(
    "texts, problem",
    [
        (
            ["{descriptors: []}"],
            "over0.yaml: an overlay must have a domain, and descriptors as a configuration file has them",
        ),
        (
            ["- a"],
            "over0.yaml: an overlay must have a domain, and descriptors as a configuration file has them",
        ),
        (
            ["{domain: d}", "{domain: d}"],
            "over1.yaml:1: domain: d has its overlay at over0.yaml already: put them together",
        ),
    ],
)
def test_an_invalid_overlay_is_a_problem(texts: list[str], problem: str) -> None:
    """It is reported before any overlay is applied."""
    _, problems = by_domain([read(f"over{place}.yaml", text) for place, text in enumerate(texts)])
    assert [problem] == list(map(str, problems))


def test_a_shadow_mode_without_a_limit_is_a_warning_in_an_overlay_only() -> None:
    """Envoy Gateway sets it on every level of a rule in shadow mode. It holds for a limit that an overlay
    adds there.
    """
    upper = {"key": "route", "value": "route", "shadow_mode": True, "descriptors": [limit("user", 5)]}
    for overlay, warnings, shadow in (
        ("rate_limit: {unit: hour, requests_per_unit: 9}", [], True),
        ("shadow_mode: true", ["shadow_mode"], None),
    ):
        text = f"{{domain: d, descriptors: [{{key: route, value: route, {overlay}}}]}}"
        overlays, _ = by_domain([read("over.yaml", text)])
        groups = list(received(resource("d", upper)).groups.values())
        loaded = Task(reading(stored_resources("cp", groups), overlays), apart=True).rules()
        (route,) = loaded.domains[0].descriptors
        assert (warnings, shadow) == (
            [each.path.rpartition(".")[2] for each in loaded.warnings],
            route.rule.shadow if route.rule is not None else None,
        )
