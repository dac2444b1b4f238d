"""Documents written as configuration files: reading them returns the same."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.rules.document import Document, Kind, MappingNode, Node, ScalarNode, SequenceNode
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources import manifests
from ratelimit_service.sources import yaml_writer as native
from ratelimit_service.sources.yaml_text import DEEPEST, read, read_all, resolve

TESTS = Path(__file__).parents[1]
FILES = sorted([*TESTS.glob("config_corpus/ok/*.yaml"), *TESTS.glob("manifests/ok/*.yaml")])


def text(written: str) -> ScalarNode:
    return ScalarNode(1, Kind.STRING, written, written)


def plain(written: str) -> ScalarNode:
    return ScalarNode(1, resolve(written)[0], written, resolve(written)[1])


def content(node: Node | None) -> Any:
    """Return the content of a node without lines: the kind of a scalar, its text and its value."""
    match node:
        case MappingNode():
            return [(content(key), content(value)) for key, value in node.items]
        case SequenceNode():
            return [content(item) for item in node.items]
        case ScalarNode(kind=Kind.NULL):
            return Kind.NULL
        case ScalarNode():
            return node.kind, node.text, repr(node.value)
    return None


def without_places(rules: Any) -> Any:
    """Return the rules as plain data without lines."""
    match rules:
        case dict():
            return {key: without_places(value) for key, value in rules.items() if key != "source"}
        case list() | tuple():
            return [without_places(value) for value in rules]
    return rules


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parts[-3]}/{file.stem}" for file in FILES])
def test_a_written_configuration_has_the_same_rules(file: Path) -> None:
    """This holds for every file of the corpora."""
    documents, problems = manifests.expand(read_all(file.name, file.read_bytes()), "given")
    again = [read("again.yaml", native.write(document)) for document in documents]
    assert [] == problems
    expected, found = ([asdict(domain) for domain in load(rules).domains] for rules in (documents, again))
    assert without_places(expected) == without_places(found)


@pytest.mark.parametrize(
    "written",
    [
        *("gold items", "team", "_", "/api/*/items", "gpt-5.1", "user@example.com", "a+b"),
        *("'yes'", "'Off'", "'n'", "'null'", "'~'", "'True'"),  # truth values, and nothing
        *("'010'", "'0x1F'", "'1.5'", "'.inf'", "'1_000'", "'5'", "'-1'", "'+.5'", "'1e3'"),  # numbers
        *(
            "'2024-01-01'",
            "'12:30'",
            "'08'",
            "'1.5.2'",
        ),  # dates and numbers to other readers of YAML
        *("''", "' a'", "'a '", "'a: b'", "'a #b'", "'it''s'", "'\"'", "'<<'", "'='", "'---'", "'{{ a }}'"),
        *("'é'", "'日本'", "'100 %'", "'%a'", "'@a'", "'!a'", "'&a'", "'*a'", "'- a'", "'?'", "'a  b'"),
        *(r'"a\nb"', r'"\x00\"\\\x85"', r'"\U0000feff"', r'"\U0010ffff"', r'"\x09"'),
        '!!binary "/2E="',
    ],
)
def test_text_is_quoted_only_if_necessary(written: str) -> None:
    """Other text is written as people write it."""
    document = read("f.yaml", f"- {written}")
    assert f"# From f.yaml\n- {written}\n" == native.write(document)


@pytest.mark.parametrize(
    "written", "yes OFF 010 0x1F 1_000 1.5 1e3 -.inf .NaN null ~ 18446744073709551615".split()
)
def test_numbers_and_truth_values_keep_their_text(written: str) -> None:
    """`010` may be read as text, or as the number 8."""
    assert f"# From f.yaml\n- {written}\n" == native.write(read("f.yaml", f"- {written}"))


def test_an_empty_value_is_null() -> None:
    """It is written as a word, so that readers do not look for a missing value."""
    assert "# From f.yaml\na: null\n" == native.write(read("f.yaml", "a:"))


def test_a_whole_number_that_was_tagged_keeps_its_tag() -> None:
    """Without its tag, it would be another kind of number."""
    assert "# From f.yaml\n- !!float '5'\n" == native.write(read("f.yaml", "- !!float 5"))


def test_a_file_names_its_source() -> None:
    """A comment of one line has the names, whatever characters are in them."""
    document = Document(
        "a\nb.yaml", MappingNode(3, [(text("domain"), text("d"))]), path="data[x\x07]", line=3
    )
    first, *rest = native.write(document).splitlines()
    assert ["domain: d"] == rest
    assert first.startswith("# From ")
    assert first.isprintable()


def test_lists_and_mappings_are_nested_by_two_spaces() -> None:
    """An item of a list begins beside its dash. Empty ones are written in one line."""
    written = """\
# From f.yaml
descriptors:
  - key: a
    rate_limit:
      unit: day
      replaces: []
    metadata:
      nested:
        - - 1
          - - 2
        - {}
    descriptors:
      - key: b
"""
    assert written == native.write(read("f.yaml", written))


def test_a_long_key_is_valid_yaml() -> None:
    """YAML requires the colon of a plain key within 1024 characters."""
    key = "k" * 5000
    root = MappingNode(
        1, [(text(key), SequenceNode(1, [text("a")])), (text(key + "2"), text("b")), (text("c"), text("d"))]
    )
    again = read("again.yaml", native.write(Document("f.yaml", root)))
    assert content(root) == content(again.root)


@pytest.mark.parametrize("opening, closing", [("[", "]"), ("{a: ", "}")])
def test_the_deepest_document_can_be_written(opening: str, closing: str) -> None:
    """Whatever can be read can be written, and read again."""
    document = read("f.yaml", opening * DEEPEST + closing * DEEPEST)
    assert content(document.root) == content(read("again.yaml", native.write(document)).root)


awkward = (
    "yes,<<,=,a: b,- a,#,a #b, a,a ,\n,a\n"
    "b,---,...,%a,!a,&a,*a,?,? a,{},[,|,>,',\",\ufeff,\x85,\u2028,~,-,:,,1_0"
)
texts = (
    st.text()
    | st.sampled_from(awkward.split(","))
    | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))
)
scalars = texts.map(text) | st.sampled_from(
    [
        ScalarNode(1, Kind.FLOAT, "5", 5.0),
        *map(plain, "yes OFF 010 0x1F 1.5 -.inf .nan ~ null 1_0 +1".split()),
        plain(""),
    ]
)
nodes = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: SequenceNode(1, items))
        | st.dictionaries(texts, inner, max_size=4).map(
            lambda items: MappingNode(1, [(text(key), value) for key, value in items.items()])
        )
    ),
)


@pytest.mark.fuzz
@given(nodes)
def test_any_document_is_read_as_it_was_written(root: Node) -> None:
    """Every kind, text and value, in the same order, with any bytes."""
    again = read("again.yaml", native.write(Document("f.yaml", root)))
    assert (content(root), 0) == (content(again.root), again.extra_documents)
