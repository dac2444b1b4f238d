"""Keys and values of descriptors as text that can be parsed again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.budgets.descriptor_text import (
    bytes_of,
    descriptor_text,
    entries_in,
    pairs,
    text_of,
)
from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.model import Entry


@given(value=st.binary())
def test_every_value_can_be_read_back(value: bytes) -> None:
    """Its text is one printable line."""
    assert value == bytes_of(text_of(value))
    assert text_of(value).isprintable()


@pytest.mark.parametrize(
    "value, text",
    [
        (b"dba", "dba"),
        ("café".encode(), "café"),
        (b"a\\b", r"a\\b"),
        (b"\xff\x00\n", r"\xFF\x00\x0A"),
        ("\u202e".encode(), r"\xE2\x80\xAE"),
        (b"<b>,*=", "<b>,*="),
    ],
)
def test_unprintable_characters_are_escaped(value: bytes, text: str) -> None:
    assert text == text_of(value)


@pytest.mark.parametrize(
    "found",
    [
        None,
        "team=dba",
        [],
        [["team"]],
        [["team", 1]],
        ["ab"],
        [["", "x"]],
        [["a", "\\y"]],
        [["a", "\ud800"]],
        {},
    ],
)
def test_json_other_than_a_descriptor_is_refused(found: object) -> None:
    with pytest.raises(InvalidRequest):
        entries_in(found)


def test_a_descriptor_in_json_and_as_text() -> None:
    entries = (Entry(b"team", b"d,b\xff"), Entry(b"model", b"x"))
    assert [["team", "d,b\\xFF"], ["model", "x"]] == pairs(entries)
    assert entries == entries_in(pairs(entries))
    assert r"team=d\,b\xFF,model=x" == descriptor_text(entries)
