"""Kubernetes manifests: a corpus with the expected messages, and generated files.

`tests/manifests/bad/x.yaml` is refused with exactly the lines of `bad/x.txt`. `ok/x.yaml` is accepted with
the warnings of `ok/x.txt`, and `convert` prints `ok/x.out` for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.errors import InvalidRules, Problem
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.rules.document import Document
from ratelimit_service.core.rules.loaded import Loaded
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources import manifests
from ratelimit_service.sources import yaml_writer as native
from ratelimit_service.sources.yaml_text import read_all

CORPUS = Path(__file__).parents[1] / "manifests"
FILES = sorted(CORPUS.glob("*/*.yaml"))
OK = sorted(CORPUS.glob("ok/*.yaml"))

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\n"
RATE_LIMIT_CONFIG = "apiVersion: ratelimit.solo.io/v1alpha1\nkind: RateLimitConfig\n"


def expand(text: bytes | str, domain: str = "given") -> tuple[list[Document], list[Problem]]:
    return manifests.expand(read_all("f.yaml", text), domain)


def loaded(documents: list[Document], problems: list[Problem]) -> Loaded:
    """Return the rules of expanded documents, as the service loads them."""
    try:
        rules = load(documents)
    except InvalidRules as error:
        raise InvalidRules((*problems, *error.problems), error.warnings) from None
    if problems:
        raise InvalidRules(problems, rules.warnings)
    return rules


def refusal(text: bytes | str, domain: str = "given") -> list[str]:
    with pytest.raises(InvalidRules) as caught:
        loaded(*expand(text, domain))
    return list(map(str, caught.value.problems))


def verdict_on(file: Path) -> tuple[str, list[str]]:
    """Return the verdict on a file, and its errors and warnings."""
    try:
        warnings = loaded(*manifests.expand(read_all(file.name, file.read_bytes()), "given")).warnings
    except InvalidRules as error:
        return "bad", [*map(str, error.problems), *(f"warning: {warning}" for warning in error.warnings)]
    return "ok", [f"warning: {warning}" for warning in warnings]


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.stem}" for file in FILES])
def test_a_manifest_of_the_corpus_causes_the_expected_messages(file: Path) -> None:
    """Each file is accepted or refused as its directory says, with exactly the messages beside it."""
    beside = file.with_suffix(".txt")
    messages = beside.read_text(encoding="utf-8").splitlines() if beside.exists() else []
    assert (file.parent.name, messages) == verdict_on(file)


@pytest.mark.parametrize("file", OK, ids=[file.stem for file in OK])
def test_a_manifest_of_the_corpus_has_the_expected_rules(file: Path) -> None:
    """The rules are printed as configuration files."""
    documents, _ = manifests.expand(read_all(file.name, file.read_bytes()), "given")
    printed = "---\n".join(map(native.write, documents))
    assert file.with_suffix(".out").read_text(encoding="utf-8") == printed


def test_the_corpus_has_valid_and_invalid_files_and_no_unused_text() -> None:
    """Valid and invalid files exist, and each text belongs to one."""
    assert {"ok", "bad"} == {file.parent.name for file in FILES}
    assert [] == [text for text in CORPUS.glob("*/*") if text.with_suffix(".yaml") not in FILES]


def test_a_rate_limit_config_needs_a_domain() -> None:
    """It has none, and a guess would limit nothing."""
    expected = (
        "f.yaml:1: a RateLimitConfig has no domain: set the domain that the gateway sends, "
        "with MANIFEST_DOMAIN or --domain"
    )
    assert [expected] == refusal(RATE_LIMIT_CONFIG + "spec: {raw: {descriptors: []}}", domain="")


def test_a_configmap_needs_no_domain_and_ignores_one() -> None:
    """Its files have their own domains."""
    documents, problems = expand(CONFIG_MAP + "data:\n  a: 'domain: b'\n", domain="c")
    assert (["b"], []) == ([domain.name for domain in loaded(documents, problems).domains], problems)


@pytest.mark.parametrize(
    "text",
    [
        "domain: a\n---\n" + CONFIG_MAP + "data: {a: 'domain: b'}",
        "domain: a\n---\n]",
        "domain: a\nkind: ConfigMap\napiVersion: v1",
        "descriptors: []\nkind: ConfigMap",
        "[apiVersion, kind]",
        "",
        "---\n---\ndomain: a",
    ],
)
def test_a_configuration_is_returned_unchanged(text: str) -> None:
    """The documents after it are ignored, and there are no messages."""
    (document,), problems = expand(text)
    assert (next(read_all("f.yaml", text)), []) == (document, problems)


def test_manifests_after_an_error_are_read() -> None:
    """All problems of a file are reported at once."""
    text = CONFIG_MAP + "data: {a: 'domain: 1.5', b: '['}\n---\n" + RATE_LIMIT_CONFIG + "spec: {}\n"
    assert [
        "f.yaml:3: data[b]: not valid YAML: did not find expected node content",
        "f.yaml:7: spec.raw: is missing: it has the rules, under descriptors",
        "f.yaml:3: data[a].domain: 1.5 is read as a number, not as text: quote it if it is text",
    ] == refusal(text)


def test_lines_in_a_block_are_reported_as_lines_of_the_manifest() -> None:
    """Line ends, blank lines and indentation do not matter, and the text may end too early."""
    head = CONFIG_MAP.replace("\n", "\r\n")
    block = "data:\r\n  a: &x !!str |4-\r\n\r\n      domain: a\r\n      descriptors: 5\r\n"
    expected = "f.yaml:7: data[a].descriptors: must be a list, each item beginning with '- ', not 5"
    assert [expected] == refusal(head + block)
    unclosed = CONFIG_MAP + "data:\n  a: |\n    domain: 'a\n\n\n  b: 'domain: b'\n"
    assert ["f.yaml:5"] == [line.partition(": ")[0] for line in refusal(unclosed)]


def test_aliases_cannot_multiply_a_long_text() -> None:
    """The manifest is refused before the text is parsed once for each alias."""
    size = manifests.MOST_TEXT // 10
    text = CONFIG_MAP + f"data:\n  a: &a '# {'x' * size}'\n" + "".join(f"  a{n}: *a\n" for n in range(2000))
    lines = refusal(text)
    assert "f.yaml:4: data[a]: the file is empty: it must have a domain and descriptors" in lines
    assert "f.yaml:2004: and more: only the first 1000 are reported" not in lines
    message = f"the files in these manifests have more than {manifests.MOST_TEXT:,} characters together"
    assert any(line.endswith(message) for line in lines)


def test_nested_lists_are_read_without_recursion() -> None:
    """Lists may be nested as deep as YAML may."""
    text = "{apiVersion: v1, kind: List, items: [" * 140 + "]}" * 140
    assert [
        "f.yaml: has no rules, only an empty List: there must be a ConfigMap or a RateLimitConfig"
    ] == refusal(text)


# Arbitrary input

names = [
    "apiVersion kind metadata name spec raw descriptors key value rateLimit requestsPerUnit unit type "
    "rateLimits actions",
    "setDescriptors weight alwaysApply items data binaryData domain genericKey descriptorKey descriptorValue",
]
keys = st.sampled_from(" ".join(names).split())
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-1, 2**33)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["HOUR", "TOKEN", "REQUEST", "v1", "ConfigMap", "domain: a", "a: |\n b", "x*", "["])
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)


def mostly(sound: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return valid values, and sometimes any others."""
    return st.integers(0, 15).flatmap(lambda dice: sound if dice else anything)


types = mostly(st.sampled_from(["TOKEN", "REQUEST"]))
rate_limits = mostly(
    st.fixed_dictionaries(
        {"requestsPerUnit": mostly(st.integers(0, 5)), "unit": mostly(st.sampled_from(["HOUR", "DAY"]))},
        optional={"type": types},
    )
)
descriptors = st.recursive(
    st.fixed_dictionaries({"key": st.sampled_from("abcd")}, optional={"rateLimit": rate_limits}),
    lambda inner: st.fixed_dictionaries(
        {"key": st.sampled_from("abcd"), "descriptors": mostly(st.lists(inner, max_size=2))},
        optional={"value": mostly(st.sampled_from(["a", "b*"]))},
    ),
    max_leaves=5,
)
actions = st.fixed_dictionaries({"cel": st.fixed_dictionaries({"key": st.sampled_from("abcd")})})
sent = st.fixed_dictionaries({"type": types, "actions": mostly(st.lists(mostly(actions), max_size=2))})
raws = st.fixed_dictionaries(
    {"descriptors": mostly(st.lists(descriptors, max_size=2))},
    optional={"rateLimits": mostly(st.lists(mostly(sent), max_size=3))},
)
rate_limit_configs = st.fixed_dictionaries(
    {
        "apiVersion": st.just("ratelimit.solo.io/v1alpha1"),
        "kind": st.just("RateLimitConfig"),
        "spec": mostly(st.fixed_dictionaries({"raw": mostly(raws)})),
    }
)
files = st.sampled_from(["domain: a", "domain: b\ndescriptors:\n- key: a\n"])
config_maps = st.fixed_dictionaries(
    {
        "apiVersion": st.just("v1"),
        "kind": st.just("ConfigMap"),
        "data": mostly(st.dictionaries(st.text(max_size=3), mostly(files), min_size=1, max_size=2)),
    }
)
objects = mostly(config_maps | rate_limit_configs)
lists = st.fixed_dictionaries(
    {
        "apiVersion": st.just("v1"),
        "kind": st.just("List"),
        "items": mostly(st.lists(objects, min_size=1, max_size=2)),
    }
)
manifests_of_a_file = st.lists(objects | lists, min_size=1, max_size=2)


def outcome(text: bytes | str) -> str:
    """Return `loaded`, with every rule compiled and printed, or `refused`, with a reason and a file."""
    documents, problems = expand(text)
    try:
        rules = loaded(documents, problems)
    except InvalidRules as error:
        refusal = error
    else:
        RuleTree(rules.domains)
        assert "" not in list(map(native.write, documents))
        return "loaded"
    assert refusal.problems
    for problem in (*refusal.problems, *refusal.warnings):
        assert "f.yaml" == problem.file
        assert problem.message
        assert str(problem).isprintable()
    return "refused"


@pytest.mark.fuzz
@given(manifests_of_a_file)
def test_any_manifests_are_loaded_or_refused(several: list[Any]) -> None:
    """The loader raises nothing but InvalidRules for any manifests."""
    assert outcome(yaml.safe_dump_all(several, allow_unicode=True)) in ("loaded", "refused")


@pytest.mark.fuzz
@given(
    st.lists(
        st.sampled_from(["\n", "  ", ": ", "- ", "|", ">", "---\n", "&a ", "*a ", "<<", "[", "}"]) | keys
    )
)
def test_any_text_after_the_head_of_a_manifest_is_loaded_or_refused(parts: list[str]) -> None:
    """The loader raises nothing but InvalidRules for any text instead of the data."""
    assert outcome(CONFIG_MAP + "data:\n  a: |\n    domain: a\n" + "".join(parts)) in ("loaded", "refused")
