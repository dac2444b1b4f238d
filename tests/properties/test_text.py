"""Untrusted text is harmless wherever it is shown: on a terminal, in a log, a header or a statistic."""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.answers.statkeys import stat_level
from ratelimit_service.core.text import header_text, printable, show

pytestmark = pytest.mark.fuzz

# Bytes of any kind, among them those that end lines, begin escapes, turn text around and look like addresses.
pieces = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\x1b[2J",
        b"\x9b",
        b"\xc2\x9b",
        b"\x00",
        b"\x7f",
        b"\xff",
        b"\xed\xa0\x80",
        b"|",
        b":",
        b".",
        b"1",
    ]
    + [
        text.encode()
        for text in ("\u2028", "\u202e", "\u200b", "\ufeff", "é", "10.0.0.1", "\U000e0001", "\\")
    ]
)
raw = st.one_of(st.binary(max_size=20), st.lists(pieces, max_size=8).map(b"".join))


def acts(text: str) -> bool:
    """Return whether a text has characters that are not plainly visible."""
    return any(unicodedata.category(char)[0] in "CZ" and char != " " for char in text)


@given(raw)
def test_a_value_is_shown_as_visible_text(value: bytes) -> None:
    """It is one line. Bytes that are such text already are unchanged."""
    assert not acts(show(value))
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return
    assert acts(text) or text == show(value)


@given(st.text(st.characters(), max_size=20))
def test_any_text_is_shown_as_visible_text(text: str) -> None:
    """This includes lone surrogates, which no stream can write."""
    assert not acts(printable(text))
    assert printable(text).encode().decode() == printable(text)


@given(raw)
def test_a_level_is_one_level(value: bytes) -> None:
    """It has neither separators of statsd, nor control characters."""
    level = stat_level(value)
    assert not acts(level)
    assert not set(level) & set(":|")


@given(
    st.ip_addresses(v=4), st.sampled_from(["ip_", "", "é ", "a.b."]), st.sampled_from(["", "/24", ".", "x"])
)
def test_an_address_is_one_level(address: IPv4Address, before: str, after: str) -> None:
    """The dots in it separate no levels; those around it do."""
    assert before + str(address).replace(".", "_") + after == stat_level(f"{before}{address}{after}".encode())


@given(st.text(st.characters(), max_size=20))
def test_a_name_is_one_quoted_word_in_a_header(name: str) -> None:
    """Envoy quotes it without escapes. An underscore replaces each character that could end the quotes."""
    text = header_text(name)
    assert re.fullmatch(r"[ !#-\[\]-~]*", text)
    assert len(name) == len(text)
    assert all(old == new or new == "_" for old, new in zip(name, text, strict=True))
