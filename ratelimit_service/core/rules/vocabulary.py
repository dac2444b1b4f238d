"""The keys of the rule language, and where in a configuration each of them means something."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ..text import either


class Level(Enum):
    """Where in a configuration a mapping stands; its value is how messages name that."""

    FILE = "the top of a file"
    DESCRIPTOR = "a descriptor"
    RATE_LIMIT = "rate_limit"
    RATE_LIMITS = "an entry of rate_limits"
    REPLACES = "an entry of replaces"


KEYS: Mapping[Level, tuple[str, ...]] = {
    Level.FILE: (
        "domain",
        "descriptors",
        "time_zone",
        "unmatched",
        "required_keys",
        "error_format",
        "error_details",
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
}
"""Every key, and the levels where it means something."""

_HOMES = {key: [level for level in Level if key in KEYS[level]] for keys in KEYS.values() for key in keys}

_OURS = {
    "count_refused",
    "denial_message",
    "limit_headers",
    "error_details",
    "error_format",
    "rate_limits",
    "required_keys",
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
    ): "what is unlimited has no windows, so use rate_limit: {unlimited: true} in place of the list",
    (Level.RATE_LIMITS, "replaces"): "only a rate_limit can replace others",
}


def known(key: str) -> bool:
    """Whether it is a key of the language, at whatever level."""
    return key in _HOMES


def harmless(key: str, level: Level) -> bool:
    """Whether a key may stand where it has no effect.

    Upstream lets its own keys stand anywhere, and so do we. A limit in force is not what was written where one of ours is
    in the wrong place, or anything is in a list that only we have.
    """
    return key not in _OURS and level is not Level.RATE_LIMITS


def misplaced(key: str, level: Level) -> str:
    """What to say of a known key at a level where it means nothing."""
    hint = _HINTS.get((level, key)) or f"it belongs to {homes(key)}"
    verdict = "has no effect" if harmless(key, level) else "cannot stand"
    return f"{verdict} at {level.value}: {hint}"


def homes(key: str) -> str:
    """Return where `key` belongs, for the end of a sentence."""
    return either(home.value for home in _HOMES[key])
