"""The keys of the rule language, and the levels of a configuration where each is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ..text import either


class Level(Enum):
    """The place of a mapping in a configuration. The value is its name in messages, after "it belongs"."""

    FILE = "at the top of a file"
    DESCRIPTOR = "in a descriptor"
    RATE_LIMIT = "in rate_limit"
    RATE_LIMITS = "in an entry of rate_limits"
    REPLACES = "in an entry of replaces"
    LEDGER = "in ledger"
    PRICE = "in price"


KEYS: Mapping[Level, tuple[str, ...]] = {
    Level.FILE: (
        "domain",
        "descriptors",
        "time_zone",
        "unmatched",
        "required_keys",
        "error_format",
        "error_details",
        "signal",
        "low_at",
        "notify",
    ),
    Level.DESCRIPTOR: (
        "key",
        "value",
        "rate_limit",
        "rate_limits",
        "descriptors",
        "shadow_mode",
        "quota_mode",
        "detailed_metric",
        "value_to_metric",
        "share_threshold",
        "metadata",
        "count_refused",
        "max_charge",
        "over_max_charge",
        "hold",
        "hold_strictness",
        "hold_ttl",
        "hold_max",
        "ledger",
        "price",
        "signal",
        "low_at",
        "notify",
        "warn_at",
        "track",
        "denial_message",
        "limit_headers",
        "error_format",
        "error_details",
    ),
    Level.RATE_LIMIT: (
        "requests_per_unit",
        "tokens_per_unit",
        "unit",
        "unit_multiplier",
        "time_zone",
        "starts_on",
        "unlimited",
        "name",
        "replaces",
    ),
    Level.RATE_LIMITS: (
        "requests_per_unit",
        "tokens_per_unit",
        "unit",
        "unit_multiplier",
        "time_zone",
        "starts_on",
        "name",
    ),
    Level.REPLACES: ("name",),
    Level.LEDGER: ("keep", "by"),
    Level.PRICE: ("per_million", "currency"),
}
"""The keys that each level allows."""

_HOMES = {key: [level for level in Level if key in KEYS[level]] for keys in KEYS.values() for key in keys}

_OURS = {
    "by",
    "count_refused",
    "currency",
    "denial_message",
    "limit_headers",
    "error_details",
    "error_format",
    "hold",
    "hold_max",
    "hold_strictness",
    "hold_ttl",
    "keep",
    "ledger",
    "low_at",
    "max_charge",
    "over_max_charge",
    "notify",
    "per_million",
    "price",
    "rate_limits",
    "required_keys",
    "signal",
    "starts_on",
    "time_zone",
    "tokens_per_unit",
    "track",
    "unit_multiplier",
    "unmatched",
    "warn_at",
}
"""The keys that upstream does not have."""

_HINTS = {
    (
        Level.RATE_LIMITS,
        "unlimited",
    ): "an unlimited rule has no windows, so use rate_limit: {unlimited: true} instead of the list",
    (Level.RATE_LIMITS, "replaces"): "only a rate_limit can replace others",
}


def is_known_key(key: str) -> bool:
    """Return whether `key` is in the language, at any level."""
    return key in _HOMES


def harmless(key: str, level: Level) -> bool:
    """Return whether a key at the wrong level is only a warning.

    Upstream ignores its own keys at the wrong level, and so do we. A key that upstream does not have, or any
    key in a list that upstream does not have, is an error: otherwise the limit in force would not be the one
    in the file.
    """
    return key not in _OURS and level is not Level.RATE_LIMITS


def misplaced_message(key: str, level: Level) -> str:
    """Return the message about a known key at the wrong level."""
    hint = _HINTS.get((level, key)) or f"it belongs {homes(key)}"
    verdict = "has no effect" if harmless(key, level) else "is not allowed"
    return f"{verdict} {level.value}: {hint}"


def homes(key: str) -> str:
    """Return where `key` belongs: `in rate_limit or in an entry of rate_limits`."""
    return either(home.value for home in _HOMES[key])
