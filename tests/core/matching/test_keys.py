"""The grammar of counter keys. It is public, and docs/keys.md has these examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ratelimit_service.core.matching import keys
from ratelimit_service.core.model import Calendar, Unit, Window
from ratelimit_service.core.windows.blocks import span_at

MOMENT = 1_795_225_445
"""2026-11-21T01:44:05Z"""

DOCUMENTED = Path(__file__).parents[3] / "docs" / "keys.md"


def key(domain: str, entries: list[tuple[bytes, bytes]], window: Window) -> str:
    bucket = keys.bucket("", keys.domain_text(domain), [keys.entry_text(*entry) for entry in entries])
    return f"{bucket}:{span_at(window, MOMENT).label}"


VECTORS = [
    ("token-budgets", [(b"team", b"dba")], Window(Unit.HOUR), "{token-budgets|team=dba}:hour:2026-11-21T01Z"),
    (
        "token-budgets",
        [(b"client_ns", b"a")],
        Window(Unit.MINUTE),
        "{token-budgets|client_ns=a}:minute:2026-11-21T01:44Z",
    ),
    ("d", [(b"k", b"v")], Window(Unit.SECOND), "{d|k=v}:second:2026-11-21T01:44:05Z"),
    ("d", [(b"k", b"v")], Window(Unit.MINUTE, 15), "{d|k=v}:15minute:2026-11-21T01:30Z"),
    ("d", [(b"k", b"v")], Window(Unit.DAY), "{d|k=v}:day:2026-11-21"),
    ("d", [(b"k", b"v")], Window(Unit.WEEK), "{d|k=v}:week:2026-11-19"),
    ("d", [(b"k", b"v")], Window(Unit.MONTH), "{d|k=v}:month:2026-11-03"),
    ("d", [(b"k", b"v")], Window(Unit.YEAR), "{d|k=v}:year:2025-12-18"),
    ("d", [(b"k", b"v")], Window(Unit.WEEK, 1, Calendar()), "{d|k=v}:week:2026-11-16"),
    ("d", [(b"k", b"v")], Window(Unit.MONTH, 1, Calendar()), "{d|k=v}:month:2026-11-01"),
    ("d", [(b"k", b"v")], Window(Unit.MONTH, 3, Calendar()), "{d|k=v}:3month:2026-10-01"),
    ("d", [(b"k", b"v")], Window(Unit.MONTH, 1, Calendar(day=15)), "{d|k=v}:month:2026-11-15"),
    ("d", [(b"k", b"v")], Window(Unit.YEAR, 1, Calendar()), "{d|k=v}:year:2026-01-01"),
    ("d", [(b"k", b"v")], Window(Unit.DAY, 1, Calendar("Europe/Berlin")), "{d|k=v}:day:2026-11-20T23Z"),
    ("d", [(b"k", b"v")], Window(Unit.DAY, 1, Calendar("Asia/Kolkata")), "{d|k=v}:day:2026-11-20T18:30Z"),
    ("d", [(b"k", b"v")], Window(Unit.HOUR, 6, Calendar("Europe/Berlin")), "{d|k=v}:6hour:2026-11-20T23Z"),
    ("d", [(b"k", b"v")], Window(Unit.HOUR, 1, Calendar("Asia/Kathmandu")), "{d|k=v}:hour:2026-11-21T01:15Z"),
    (
        "d",
        [(b"team", b"dba"), (b"model", b"gpt-4.1")],
        Window(Unit.DAY),
        "{d|team=dba|model=gpt-4.1}:day:2026-11-21",
    ),
    ("d", [(b"path", b"/v1/chat@x_y")], Window(Unit.DAY), "{d|path=/v1/chat@x_y}:day:2026-11-21"),
    ("d", [(b"k", b"")], Window(Unit.DAY), "{d|k=}:day:2026-11-21"),
    ("d", [(b"k", b"a=b|c:d")], Window(Unit.DAY), "{d|k=a%3Db%7Cc%3Ad}:day:2026-11-21"),
    (
        "d",
        [(b"k", b"{a}*?[b]\\%~\"'")],
        Window(Unit.DAY),
        "{d|k=%7Ba%7D%2A%3F%5Bb%5D%5C%25%7E%22%27}:day:2026-11-21",
    ),
    ("d", [(b"k", b"two words\r\n")], Window(Unit.DAY), "{d|k=two%20words%0D%0A}:day:2026-11-21"),
    ("d", [(b"k", "Ünï".encode())], Window(Unit.DAY), "{d|k=%C3%9Cn%C3%AF}:day:2026-11-21"),
    ("d", [(b"k", b"te\xffam\x00")], Window(Unit.DAY), "{d|k=te%FFam%00}:day:2026-11-21"),
    ("d", [(b"k", b"x" * 128)], Window(Unit.DAY), "{d|k=" + "x" * 128 + "}:day:2026-11-21"),
    (
        "d",
        [(b"k", b"x" * 129)],
        Window(Unit.DAY),
        "{d|k=~sha256:0ec9eb33e74510bcdd1f2ea55206e82f21649c5c2becbf2b433eb475b34c01bd}:day:2026-11-21",
    ),
]


@pytest.mark.parametrize(("domain", "entries", "window", "expected"), VECTORS)
def test_a_descriptor_and_a_window_make_a_key(
    domain: str, entries: list[tuple[bytes, bytes]], window: Window, expected: str
) -> None:
    """The key names the descriptor and the window in plain text."""
    assert expected == key(domain, entries, window)


def test_the_documented_keys_are_these() -> None:
    """docs/keys.md has each of these keys except the very long ones."""
    documented = DOCUMENTED.read_text()
    assert [] == [
        vector[3] for vector in VECTORS if len(vector[1][0][1]) < 120 and f" {vector[3]}\n" not in documented
    ]


@pytest.mark.parametrize("percent", ["80", "12.5"])
def test_a_marker_is_in_the_slot_of_its_counter(percent: str) -> None:
    """`reset` and a scan for the bucket find it, too. docs/keys.md has it."""
    marker = keys.threshold_marker(key("token-budgets", [(b"team", b"dba")], Window(Unit.HOUR)), percent)
    assert f"{{token-budgets|team=dba}}:hour:2026-11-21T01Z:warned-{percent}" == marker
    assert f"\n{marker}\n" in DOCUMENTED.read_text()


def test_a_pattern_that_values_share_keeps_its_stars() -> None:
    """A shared bucket differs from the bucket of a value that looks like the pattern."""
    assert "path=/api/*" == keys.shared_entry_text(b"path", b"path_/api/*")
    assert "path=/api/%2A" == keys.entry_text(b"path", b"/api/*")


def test_a_pattern_with_a_wildcard_in_the_key_is_used_whole() -> None:
    """It differs from the pattern of a value with the same text."""
    assert "path=~pa*" == keys.shared_entry_text(b"path", b"pa*")
    assert "path=pa*" == keys.shared_entry_text(b"path", b"path_pa*")


def test_the_prefix_is_before_the_hash_tag() -> None:
    """CACHE_KEY_PREFIX is not escaped, and does not change the slot."""
    assert "staging:{d|k=v}" == keys.bucket("staging:", keys.domain_text("d"), ["k=v"])


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_has_a_printable_text_of_its_own(byte: int) -> None:
    """No byte of a value acts as a separator, a glob, a quote, a space or a control character."""
    text = keys.escape(bytes([byte]))
    assert re.fullmatch(r"[!#$&()+,\-./0-9;<>@A-Z^_`a-z]|%[0-9A-F]{2}", text)
    assert 1 == sum(text == keys.escape(bytes([other])) for other in range(256))


def test_a_marker_differs_from_a_counter() -> None:
    """The name of a bucket may look like a marker."""
    counter = key("d", [(b"k", b":warned-80")], Window(Unit.DAY))
    assert not keys.is_marker(counter)
    assert keys.is_marker(keys.threshold_marker(counter, "80"))
