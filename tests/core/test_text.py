"""Untrusted text, as it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core import text
from ratelimit_service.core.text import excerpt, fit, hide_credentials, printable, shorten, show


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", ""),
        (b"team-a", "team-a"),
        ("Zürich 東京 🦊".encode(), "Zürich 東京 🦊"),
        (b"a\nb\r\tc", r"a\nb\r\tc"),
        (b"\x00\x1b[31mred\x7f", r"\x00\x1b[31mred\x7f"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"half \xe2\x82 euro", r"half \xe2\x82 euro"),
        ("a\u2028b\u0085c".encode(), r"a\u2028b\x85c"),  # newlines to some readers
        ("\u202egnp.exe".encode(), r"\u202egnp.exe"),  # turns the rest of the line around
    ],
)
def test_a_value_is_shown_with_escapes_for_unprintable_bytes(value: bytes, expected: str) -> None:
    """Printable text of any script is unchanged. Control characters and non-UTF-8 bytes are escaped."""
    assert expected == show(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"12345", "12345"),
        (b"123456", "12345… (6 bytes)"),
        (b"1234\xe2\x82\xac", r"1234\xe2… (7 bytes)"),
        (b"\n" * 6, r"\n\n\n\n\n… (6 bytes)"),
    ],
)
def test_a_long_value_is_cut(value: bytes, expected: str) -> None:
    """It is cut before it is escaped, which takes a second for megabytes."""
    assert expected == excerpt(value, 5)


@given(st.binary())
def test_whatever_is_shown_is_one_printable_line(value: bytes) -> None:
    """No byte of a caller ends a line, or acts on a terminal."""
    assert show(value).isprintable()


@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from([b"a", b"\\", b"\xff", b"\n", b"\x7f", b"\xe2", b"\x82"])).map(b"".join)
)
def test_bytes_without_characters_beyond_ascii_are_shown_like_others(value: bytes) -> None:
    """They have their own fast path."""
    shown = "".join(show(bytes((byte,))) for byte in value)
    if value.decode(errors="ignore").isascii():
        assert shown == show(value)


@given(st.text())
def test_escaping_twice_is_escaping_once(text: str) -> None:
    """The log may escape a value that was escaped before."""
    assert printable(text) == printable(printable(text))


def test_a_lone_surrogate_is_escaped() -> None:
    """The environment has bytes that are not UTF-8 as surrogates, which no stream can write."""
    assert r"\udcff" == printable("\udcff")


def test_a_long_text_is_cut_with_its_length() -> None:
    """A reader sees that a part is missing, and how much."""
    assert ("abc", "abc… (4 characters)") == (shorten("abc", 3), shorten("abcd", 3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no URL, me@example.org", "no URL, me@example.org"),
        ("redis://host:6379/2", "redis://host:6379/2"),
        ("redis://:secret@host:6379", "redis://***@host:6379"),
        ("at redis://user:s@cr/t@host:6379 again", "at redis://***@host:6379 again"),
        ("redis://:a@one,redis://:b@two", "redis://***@two"),
        ("unix:///s.sock?password=secret&db=2", "unix:///s.sock?password=***&db=2"),
    ],
)
def test_credentials_in_a_url_are_hidden(text: str, expected: str) -> None:
    """These are everything before the last @ of a URL, and a password among its parameters."""
    assert expected == hide_credentials(text)


def test_hiding_credentials_takes_linear_time() -> None:
    """Otherwise, a text of nothing but beginnings of URLs would make a log line take a minute."""
    assert "@" + "://" * 300_000 == hide_credentials("@" + "://" * 300_000)


@given(st.binary(max_size=40))
def test_bytes_are_shown_as_python_escapes_them(value: bytes) -> None:
    """A table is used, because a loop over a megabyte takes too long."""
    text = value.decode(errors="backslashreplace")
    escaped = [char if char.isprintable() else char.encode("unicode_escape").decode() for char in text]
    assert "".join(escaped) == show(value)


def test_the_table_of_escapes_is_bounded() -> None:
    """Callers can choose from a million characters."""
    for first in range(0xE000, 0xF8FF, 100):
        printable("".join(map(chr, range(first, first + 100))))
        show("".join(map(chr, range(first, first + 100))).encode())
    assert max(len(text._escapes), len(text._escapes_of_bytes)) <= 4_096


@given(st.text(max_size=40), st.integers(1, 20))
def test_a_long_text_is_made_to_fit(value: str, longest: int) -> None:
    """The result is the same as if all of it were escaped first."""
    assert shorten(printable(value), longest) == fit(value, longest)


def test_only_the_beginning_of_a_text_of_megabytes_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note has the length of the text without escapes."""
    seen = []
    real = printable

    def watched(value: str) -> str:
        seen.append(len(value))
        return real(value)

    monkeypatch.setattr(text, "printable", watched)
    assert r"\x01\x… (1000000 characters)" == fit("\x01" * 1_000_000, 6)
    assert [6] == seen
