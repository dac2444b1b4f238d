"""The warnings of rules whose entry is removed from descriptors before matching."""

from __future__ import annotations

import pytest

from ratelimit_service.core.holds.entries import DEFAULT_ENTRIES, NO_ENTRIES, HoldEntries
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.reader import load
from ratelimit_service.core.rules.removed_entries import warn_of_removed_entries
from ratelimit_service.sources.yaml_text import read

LIMIT = "rate_limit: {unit: hour, requests_per_unit: 10}"
RULES = f"""domain: d
descriptors:
  - {{key: hold, {LIMIT}}}
  - key: team
    descriptors:
      - {{key: hold, value: x, {LIMIT}}}
      - {{key: phase, {LIMIT}}}
      - {{key: phase, value: done, {LIMIT}}}
"""


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        (NO_ENTRIES, []),
        (HoldEntries(b"x-id", Entry(b"phase", b"over")), []),
        (HoldEntries(b"hold"), [("rules.yaml:3", "'hold'"), ("rules.yaml:6", "'hold=x'")]),
        (HoldEntries(b"", Entry(b"phase", b"done")), [("rules.yaml:8", "'phase=done'")]),
    ],
)
def test_a_rule_that_can_match_nothing_is_warned_of(
    entries: HoldEntries, found: list[tuple[str, str]]
) -> None:
    """A rule for other values of the same key does match."""
    domains = load([read("rules.yaml", RULES.encode())]).domains
    warnings = list(map(str, warn_of_removed_entries(domains, entries)))
    assert len(found) == len(warnings)
    for (source, entry), warning in zip(found, warnings, strict=True):
        assert warning.startswith(
            f"{source}: the entry {entry} is removed before rules are matched: set HOLD_"
        )


def test_the_warnings_of_one_load_are_bounded() -> None:
    """A file may have the key under each of its teams."""
    teams = "".join(
        f"  - {{key: team, value: t{number}, descriptors: [{{key: hold, {LIMIT}}}]}}\n"
        for number in range(1_100)
    )
    domains = load([read("rules.yaml", f"domain: d\ndescriptors:\n{teams}".encode())]).domains
    assert 1_000 == len(warn_of_removed_entries(domains, DEFAULT_ENTRIES))
