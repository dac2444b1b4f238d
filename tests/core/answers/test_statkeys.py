"""Keys and values in the names of statistics."""

from __future__ import annotations

import pytest

from ratelimit_service.core.answers.statkeys import stat_level, stat_levels


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"team_dba", "team_dba"),
        ("Ünï".encode(), "Ünï"),
        (b"c:d|e", "c_d_e"),
        (b"remote_address_10.0.0.1", "remote_address_10_0_0_1"),
        (b"from 10.0.0.1 to 192.168.100.200", "from 10_0_0_1 to 192_168_100_200"),
        (b"v1.2.3", "v1.2.3"),  # no address: its dots stay, as upstream's do
        (b"/api/*/items", "/api/*/items"),
        (b"a\nb\x00", r"a\nb\x00"),
        (b"\xff", r"\xff"),
        (b"", ""),
    ],
)
def test_a_level_is_written_as_upstream_writes_it(raw: bytes, expected: str) -> None:
    """Separators and the dots of addresses become underscores, and unprintable characters are escaped."""
    assert expected == stat_level(raw)


def test_levels_below_the_second_are_cut_sooner() -> None:
    """The first two are labels of metrics. A request may have ten thousand others."""
    first, second, third = stat_levels([b"k" * 2_000] * 3)
    assert ("k" * 1_000 + "… (2000 bytes)", first, "k" * 128 + "… (2000 bytes)") == (first, second, third)
