"""From documents to rules: what is loaded, and how files are combined. tests/config_corpus has the errors."""

from __future__ import annotations

import textwrap

import pytest

from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.model import DescriptorRule, DomainRules, Limit, Rule, StatKey, Unit, Window
from ratelimit_service.core.rules.document import Document
from ratelimit_service.core.rules.reader import load
from ratelimit_service.core.rules.report import MOST_PROBLEMS
from ratelimit_service.core.text import header_text
from ratelimit_service.sources.yaml_text import DEEPEST, read


def document(text: str, file: str = "rules.yaml") -> Document:
    return read(file, textwrap.dedent(text))


def domain(text: str) -> DomainRules:
    (loaded,) = load([document(text)]).domains
    return loaded


def only(text: str) -> DescriptorRule:
    """Return the one descriptor of domain `d` in `text`, the inside of a flow mapping."""
    (descriptor,) = domain(f"{{domain: d, descriptors: [{{{text}}}]}}").descriptors
    return descriptor


def rule(text: str) -> Rule:
    found = only(text).rule
    assert found is not None
    return found


def errors(*documents: Document, merge_domains: bool = False) -> list[str]:
    with pytest.raises(InvalidRules) as caught:
        load(documents, merge_domains=merge_domains)
    return [str(problem) for problem in caught.value.problems]


def test_a_descriptor_has_everything_the_file_says() -> None:
    """Each key of the language ends up in the rule."""
    loaded = domain(
        """
        domain: edge
        descriptors:
          - key: path
            value: /api/*
            share_threshold: true
            value_to_metric: true
            descriptors:
              - key: address
                value: 10.0.0.1
                shadow_mode: true
                quota_mode: true
                detailed_metric: true
                metadata: {tier: gold, deep: {list: [1, 2.5, null, 2020-01-01]}}
                rate_limit:
                  name: an "odd" name
                  unit: Hour
                  unit_multiplier: 6
                  requests_per_unit: 0x10
                  replaces: [{name: a}, {name: b}, {name: a}]
        """
    )
    (path,) = loaded.descriptors
    (address,) = path.children
    found = address.rule
    assert found is not None
    assert ("edge", "rules.yaml:2") == (loaded.name, loaded.source)
    assert (b"path", b"/api/*", None, True, True, "rules.yaml:4") == (
        path.key,
        path.value,
        path.rule,
        path.share_threshold,
        path.value_to_metric,
        path.source,
    )
    assert (b"address", b"10.0.0.1", False, False, "rules.yaml:9") == (
        address.key,
        address.value,
        address.share_threshold,
        address.value_to_metric,
        address.source,
    )
    assert (StatKey("edge", ("path_/api/*", "address_10_0_0_1")), "rules.yaml:9") == (
        found.path,
        found.source,
    )
    assert (Limit(16, Window(Unit.HOUR, 6), 'an "odd" name'),) == found.limits
    assert ('an "odd" name', frozenset("ab"), False) == (found.name, found.replaces, found.unlimited)
    assert (True, True, True) == (found.shadow, found.quota, found.detailed_metric)
    assert {"tier": "gold", "deep": {"list": [1, 2.5, None, "2020-01-01"]}} == found.metadata


def test_omitted_keys_of_a_rule_have_defaults() -> None:
    """A plain limit has no name, no modes and no metadata."""
    found = rule("key: a, rate_limit: {unit: day, requests_per_unit: 1}")
    assert (Limit(1, Window(Unit.DAY)),) == found.limits
    assert ("", frozenset(), False, False, False, False, None) == (
        found.name,
        found.replaces,
        found.unlimited,
        found.shadow,
        found.quota,
        found.detailed_metric,
        found.metadata,
    )


def test_an_unlimited_rule_has_no_limits() -> None:
    """Other keys do not change that. It keeps its name."""
    found = rule("key: a, rate_limit: {unlimited: true, name: free, requests_per_unit: 5}")
    assert (True, (), "free") == (found.unlimited, found.limits, found.name)


@pytest.mark.parametrize("limit", ["", "rate_limit: ", "rate_limit: ~"])
def test_without_a_rate_limit_there_is_no_rule(limit: str) -> None:
    """Such a descriptor only exempts its value, or only has nested rules."""
    assert only(f"key: a, {limit}").rule is None


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("key: 010, value: yes", b"010", b"yes"),
        ("key: 1_000, value: 0x1F", b"1_000", b"0x1F"),
        ("key: a, value: ~", b"a", b""),
        ("key: a, value: ''", b"a", b""),
        ("key: a, value: '~'", b"a", b"~"),
        ("key: Ünï, value: ' '", "Ünï".encode(), b" "),
        ("key: !!binary /w==, value: !!binary AAE=", b"\xff", b"\x00\x01"),
    ],
)
def test_keys_and_values_are_the_bytes_that_were_written(text: str, key: bytes, value: bytes) -> None:
    """Numbers and truth values keep their text. Binary values need not be UTF-8."""
    descriptor = only(text)
    assert (key, value) == (descriptor.key, descriptor.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("by team", "by team"),
        ("~!#$%&'()*+,-./:;<=>?@[]^_`{|}", "~!#$%&'()*+,-./:;<=>?@[]^_`{|}"),
        ('a"b\\c', "a_b_c"),
        ("a\r\nb\x7f", "a__b_"),
        ("Zürich", "Z_rich"),
        ("", ""),
    ],
)
def test_a_name_cannot_break_the_header_that_it_goes_into(name: str, expected: str) -> None:
    """Only printable ASCII without quotes and backslashes is left."""
    assert expected == header_text(name)


def test_domains_keep_the_order_of_their_files() -> None:
    """Each file has one domain."""
    loaded = load([document("domain: b", "1.yaml"), document("domain: a", "2.yaml")])
    assert [("b", "1.yaml:1"), ("a", "2.yaml:1")] == [(each.name, each.source) for each in loaded.domains]


def test_one_domain_in_two_files_is_an_error() -> None:
    """Without merging, the error is about the second file, beside its others."""
    second = "domain: d\ndescriptors:\n  - key: b\n    colour: red\n"
    message = "'d' already has rules at 1.yaml:1: merge them into one file, or set MERGE_DOMAIN_CONFIG=true"
    assert [f"2.yaml:1: domain: {message}"] == errors(
        document("domain: d\ndescriptors: [{key: a}]", "1.yaml"),
        document("domain: d\ndescriptors: [{key: a}]", "2.yaml"),
    )
    reported = errors(document("domain: d", "1.yaml"), document(second, "2.yaml"))
    assert [f"2.yaml:1: domain: {message}", "2.yaml:4"] == [reported[0], reported[1].split(": ")[0]]
    assert 2 == len(reported)


def test_merged_domains_have_the_descriptors_of_all_files_in_order() -> None:
    """Those of an earlier file come first."""
    documents = [
        document("domain: d\ndescriptors: [{key: a}, {key: b}]", "1.yaml"),
        document("domain: e\ndescriptors: [{key: a}]", "2.yaml"),
        document("domain: d\ndescriptors: [{key: c}]", "3.yaml"),
    ]
    loaded = load(documents, merge_domains=True)
    assert [("d", [b"a", b"b", b"c"]), ("e", [b"a"])] == [
        (each.name, [descriptor.key for descriptor in each.descriptors]) for each in loaded.domains
    ]


def test_merged_files_cannot_have_the_same_descriptor() -> None:
    """The error names the file with the first one."""
    expected = (
        "2.yaml:2: descriptors[0]: 'a_b' (key, or key_value) is already defined at 1.yaml:2: siblings must "
        "differ in it"
    )
    assert [expected] == errors(
        document("domain: d\ndescriptors: [{key: a, value: b}]", "1.yaml"),
        document("domain: d\ndescriptors: [{key: a_b}]", "2.yaml"),
        merge_domains=True,
    )


def test_a_name_in_another_file_of_the_domain_can_be_replaced() -> None:
    """`replaces` finds names in merged files, but not in another domain."""
    replacing = document(
        "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1, "
        "replaces: [{name: n}]}}]",
        "1.yaml",
    )
    named = "descriptors: [{key: b, rate_limit: {unlimited: true, name: n}}]"
    same = load([replacing, document(f"domain: d\n{named}", "2.yaml")], merge_domains=True)
    other = load([replacing, document(f"domain: e\n{named}", "2.yaml")], merge_domains=True)
    assert () == same.warnings
    assert ["no rate_limit of domain 'd' has the name 'n'"] == [warning.message for warning in other.warnings]


def test_errors_are_in_the_order_of_files_and_lines() -> None:
    """A load reports all errors and all warnings."""
    documents = [
        document("descriptors:\n  - value: a\ndomain: ''\n", "b.yaml"),
        document("domain: d\nkey: x\ncolour: red\n", "a.yaml"),
    ]
    with pytest.raises(InvalidRules) as caught:
        load(documents)
    assert [("b.yaml", 2), ("b.yaml", 3), ("a.yaml", 3)] == [problem[:2] for problem in caught.value.problems]
    assert [("a.yaml", 2)] == [warning[:2] for warning in caught.value.warnings]


def test_one_mistake_is_one_error() -> None:
    """Nothing is checked that depends on another error."""
    assert [
        "rules.yaml:1: descriptors[0].rate_limit.unlimited: must be true or false, not the text 'perhaps'"
    ] == errors(document("{domain: d, descriptors: [{key: a, rate_limit: {unlimited: perhaps}}]}"))
    assert ["rules.yaml:1: descriptors[0].key: must be text, not a list"] == errors(
        document("{domain: d, descriptors: [{key: [], share_threshold: true}]}")
    )


def test_a_load_reports_a_bounded_number_of_errors() -> None:
    """The last line says that there are more."""
    reported = errors(document("domain: d\ndescriptors:\n" + "  - value: a\n" * (MOST_PROBLEMS + 500)))
    assert (MOST_PROBLEMS + 1, f"and more: only the first {MOST_PROBLEMS} are reported") == (
        len(reported),
        reported[-1].split(": ", 1)[1],
    )


def test_messages_are_one_line() -> None:
    """Control characters are escaped, and long texts are cut."""
    (reported,) = errors(document('domain: d\n"a\\nb\\e[31m": 1'))
    assert "unknown key 'a\\nb\\x1b[31m'" in reported
    (reported,) = errors(document(f"domain: d\n{'k' * 500}: 1"))
    assert len(reported) < 300


def test_rules_can_be_nested_as_deep_as_a_file_can() -> None:
    """The deepest file that can be read is loaded, too."""
    levels = (DEEPEST - 2) // 2
    text = "[{key: a, descriptors: " * levels + "[]" + "}]" * levels
    depth, below = 0, domain(f"{{domain: d, descriptors: {text}}}").descriptors
    while below:
        depth, below = depth + 1, below[0].children
    assert levels == depth
