"""YAML text, read as upstream's parser reads it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ratelimit_service.core.errors import InvalidRules, Problem
from ratelimit_service.core.rules.document import Kind, MappingNode, Node, ScalarNode, SequenceNode
from ratelimit_service.sources.yaml_text import DEEPEST, MOST_NODES, read, read_all, resolve


def root(text: bytes | str) -> Node:
    node = read("f.yaml", text).root
    assert node is not None
    return node


def plain(node: Node) -> Any:
    """Return a node as Python data, with scalars by their raw text."""
    match node:
        case MappingNode():
            return {key.text: plain(value) for key, value in node.items}
        case SequenceNode():
            return [plain(item) for item in node.items]
        case ScalarNode():
            return node.text


def refusal(text: bytes | str) -> Problem:
    with pytest.raises(InvalidRules) as caught:
        read("f.yaml", text)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("texts", "kind", "value"),
    [
        # YAML 1.1 truth values, in three spellings each
        ("y Y yes Yes YES true True TRUE on On ON", Kind.BOOL, True),
        ("n N no No NO false False FALSE off Off OFF", Kind.BOOL, False),
        ("~ null Null NULL", Kind.NULL, None),
        # whole numbers: underscores anywhere, a leading 0 is octal
        ("10 1_0 1__0_ +10 0xa 0XA 0b1010 0B1010 0o12 0O12 012 0_12", Kind.INT, 10),
        ("-10 -1_0 -0xa -0b1010 -0o12 -012 -_10", Kind.INT, -10),
        ("0 -0 00 0x0", Kind.INT, 0),
        ("18446744073709551615 0xffffffffffffffff", Kind.INT, 2**64 - 1),
        ("-9223372036854775808", Kind.INT, -(2**63)),
        # numbers with a fraction, and whole numbers that are too large for an integer
        ("1.5 +1.5 15e-1 1_5e-1 0.15E1", Kind.FLOAT, 1.5),
        ("1. 1.0 1e0", Kind.FLOAT, 1.0),
        (".5 +.5", Kind.FLOAT, 0.5),
        ("8 010", Kind.INT, 8),
        ("08 8.", Kind.FLOAT, 8.0),  # 8 is no octal digit
        ("18446744073709551616", Kind.FLOAT, 2.0**64),
        ("-9223372036854775809", Kind.FLOAT, -(2.0**63)),
        (".inf +.Inf .INF", Kind.FLOAT, math.inf),
        ("-.inf", Kind.FLOAT, -math.inf),
    ],
)
def test_a_plain_scalar_has_the_kind_of_upstreams_parser(texts: str, kind: Kind, value: Any) -> None:
    """Each spelling has the kind and value of upstream's parser."""
    for text in texts.split():
        assert (text, kind, value) == (text, *resolve(text))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "tRue",
            "nUll",
            "yES",
            "N0",
            "a",
            "<<",
            "=",
            "2020-01-01",
            "2020-01-01T00:00:00Z",
            "12:30",
            "1:2:3",
        ),
        *(
            "0x",
            "0xg",
            "0b2",
            "0o8",
            "-",
            "+",
            ".",
            "1.2.3",
            "10.0.0.1",
            "1e",
            "1e999",
            "._5",
            "_1",
            "0x" + "f" * 17,
        ),
        "9" * 5000,
    ],
)
def test_text_that_looks_like_a_number_or_a_date_is_text(text: str) -> None:
    """Dates, numbers of base 60, addresses, and numbers out of range are text."""
    assert (Kind.STRING, text) == resolve(text)


def test_not_a_number_is_a_number() -> None:
    """`.nan` has the kind of numbers with a fraction."""
    kind, value = resolve(".nan")
    assert kind is Kind.FLOAT
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'5'", (Kind.STRING, "5", "5")),
        ('"yes"', (Kind.STRING, "yes", "yes")),
        ("|\n  5\n", (Kind.STRING, "5\n", "5\n")),
        ("!!str 5", (Kind.STRING, "5", "5")),
        ("! 5", (Kind.STRING, "5", "5")),
        ("!!int '0x10'", (Kind.INT, "0x10", 16)),
        ("!!float 3", (Kind.FLOAT, "3", 3.0)),
        ("!!bool 'on'", (Kind.BOOL, "on", True)),
        ("!!null ''", (Kind.NULL, "", None)),
        ("!!binary aGk=", (Kind.STRING, "hi", "hi")),
        ("!!binary /w==", (Kind.STRING, "\udcff", "\udcff")),
    ],
)
def test_quotes_and_tags_determine_the_kind_of_a_scalar(text: str, expected: tuple[Kind, str, Any]) -> None:
    """Quoted scalars are text, and a tag takes precedence. The raw text is kept."""
    scalar = root(text)
    assert isinstance(scalar, ScalarNode)
    assert expected == (scalar.kind, scalar.text, scalar.value)


def test_nodes_have_their_lines() -> None:
    """Keys, values, lists and mappings have the line on which they begin, from 1 on."""
    mapping = root("# a comment\na: 1\nb:\n  - c: 2\n  - d\n")
    assert isinstance(mapping, MappingNode)
    (a, one), (b, items) = mapping.items
    assert isinstance(items, SequenceNode)
    assert (2, 2, 2, 3, 4, [4, 5]) == (
        mapping.line,
        a.line,
        one.line,
        b.line,
        items.line,
        [item.line for item in items.items],
    )


@pytest.mark.parametrize("text", ["", "\n", "# a comment\n", "---\n...\n# end"])
def test_a_file_without_content_has_no_root_or_null(text: str) -> None:
    """It has no document, or an empty one."""
    document = read("f.yaml", text)
    assert document.root is None or "" == plain(document.root)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\n", 0),
        ("---\na: 1\n...\n", 0),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: 1\n---\n[", 2),
        ("a: 1\n...\n]\n", 3),
    ],
)
def test_only_the_first_document_is_read(text: str, line: int) -> None:
    """The next one is not even checked, but its line is kept."""
    document = read("f.yaml", text)
    assert document.root is not None
    assert ({"a": "1"}, line) == (plain(document.root), document.extra_documents)


@pytest.mark.parametrize(
    ("text", "expected", "repeated"),
    [
        ("{a: 1, b: 2, a: 3}", {"a": "3", "b": "2"}, ["a"]),
        ("{a: 1, a: 2, a: 3}", {"a": "3"}, ["a", "a"]),
        ("{1: a, '1': b}", {"1": "b"}, []),  # a number and a text are two keys
        # a mapping given again fills the one before, one level deep
        ("{a: {x: 1, y: 1}, a: {x: 2}}", {"a": {"x": "2", "y": "1"}}, ["a"]),
        ("{a: {x: {y: 1}}, a: {x: {z: 2}}}", {"a": {"x": {"z": "2"}}}, ["a"]),
        ("{a: {x: 1}, a: [2]}", {"a": ["2"]}, ["a"]),
    ],
)
def test_the_last_value_of_a_repeated_key_counts(text: str, expected: Any, repeated: list[str]) -> None:
    """As with upstream's parser, the last value wins, and mappings are merged. The others are kept."""
    mapping = root(text)
    assert isinstance(mapping, MappingNode)
    assert expected == plain(mapping)
    assert repeated == [key.text for key in mapping.repeated]


@pytest.mark.parametrize(
    ("text", "expected", "repeated"),
    [
        ("{x: &x {a: 1, b: 2}, y: {<<: *x, b: 3}}", {"a": "1", "b": "3"}, []),
        (
            "{x: &x {a: 1, b: 2}, y: {b: 3, <<: *x}}",
            {"a": "1", "b": "2"},
            ["b"],
        ),  # counts at its own position
        ("{x: [&x {a: 1}, &z {a: 2, c: 3}], y: {<<: [*x, *z]}}", {"a": "1", "c": "3"}, []),  # the first wins
        ("{x: &x {a: {p: 1}}, y: {<<: *x, a: {q: 2}}}", {"a": {"p": "1", "q": "2"}}, []),
        ("{y: {<<: {a: 1}}}", {"a": "1"}, []),
        ("{y: {'<<': 1}}", {"<<": "1"}, []),  # in quotes it is a key like any other
    ],
)
def test_a_merge_adds_the_keys_of_another_mapping(text: str, expected: Any, repeated: list[str]) -> None:
    """Keys after `<<` win over its keys. Keys that lose are kept as repeated."""
    outer = root(text)
    assert isinstance(outer, MappingNode)
    mapping = outer.items[-1][1]
    assert isinstance(mapping, MappingNode)
    assert (expected, repeated) == (plain(mapping), [key.text for key in mapping.repeated])


def test_a_merge_does_not_change_the_merged_mapping() -> None:
    """Keys beside `<<: *x` do not appear where x was defined."""
    assert {"x": {"a": {"p": "1"}}, "y": {"a": {"p": "1", "q": "2"}}} == plain(
        root("{x: &x {a: {p: 1}}, y: {<<: *x, a: {q: 2}}}")
    )


@pytest.mark.parametrize(
    ("text", "lines", "read"),
    [
        ("a: 1\n---\n", [0], [{"a": "1"}]),
        ("a: 1\n---", [0], [{"a": "1"}]),
        ("a: 1\n---\n# the end\n--- ~\n...\n---\n", [0], [{"a": "1"}]),
        ("a: 1\n---\n---\nb: 2\n---\n", [3, 0], [{"a": "1"}, {"b": "2"}]),
        ("a: 1\n--- ''\n", [2, 0], [{"a": "1"}, ""]),
        ("a: 1\n--- [b]\n--- c\n", [2, 3, 0], [{"a": "1"}, ["b"], "c"]),
        ("a: 1\n" + "---\n" * 50_000 + "b: 2\n", [50_001, 0], [{"a": "1"}, {"b": "2"}]),
    ],
    ids=[
        "marker",
        "without a newline",
        "comments and nulls",
        "two markers",
        "an empty text",
        "three",
        "very many",
    ],
)
def test_empty_documents_are_skipped(text: str, lines: list[int], read: list[Any]) -> None:
    """A `---` at the end of a file, as templates write it, begins no further document."""
    documents = list(read_all("f.yaml", text))
    assert (lines, read) == (
        [document.extra_documents for document in documents],
        [plain(document.root) for document in documents if document.root is not None],
    )


def test_thousands_of_documents_are_read_one_after_another() -> None:
    """The stack does not grow with their number."""
    assert 20_000 == sum(1 for _ in read_all("f.yaml", "--- a\n" * 20_000))


def test_nesting_has_a_limit() -> None:
    """The limit itself is valid. Deeper is not, even through an alias."""
    deepest = "[" * DEEPEST + "]" * DEEPEST
    assert isinstance(root(deepest), SequenceNode)
    expected = f"lists and mappings are nested more than {DEEPEST} deep"
    assert expected == refusal(f"[{deepest}]").message
    assert f"{expected} by this alias" == refusal(f"[&a {deepest[1:-1]}, [*a]]").message


def test_the_expansion_of_aliases_is_bounded() -> None:
    """Ten lines that mean more than a million nodes are refused."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert (
        f"more than {MOST_NODES:,} nodes, when all aliases are written out"
        == refusal("\n".join(lines)).message
    )


def test_aliases_may_repeat_a_small_node() -> None:
    """A thousand aliases of one mapping are valid."""
    assert 1001 == len(plain(root("- &a {b: c}\n" + "- *a\n" * 1000)))


@pytest.mark.parametrize("text", ["a: \udcff", b"\xed\xa0\x80: a"])
def test_lone_surrogates_are_refused(text: bytes | str) -> None:
    """They are not text, however they are written."""
    assert refusal(text).message.startswith("a character that YAML does not allow (U+D")
