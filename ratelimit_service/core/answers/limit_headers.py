"""The limits of a rule in response headers: as Envoy writes them, and as the IETF's draft does."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import USE_AFTER, USE_END, USE_LIMIT, Header, Limit, Rule, UseValues
from ..text import header_text
from ..windows.blocks import length, name

_LARGEST = 999_999_999_999_999
"""The largest integer of a structured field (RFC 9651)."""


def limit_text(limits: Sequence[Limit], shown: Limit) -> str:
    """Return the limit that a status shows, followed by all limits of the rule if it has several.

    The text is `5000`, or `5000, 5000;w=3600;name="dba-hourly", 50000;w=86400;name="dba-daily"`, as Envoy
    writes them.
    """
    if len(limits) < 2:
        return str(shown.amount)
    policies = [
        f"{limit.amount};w={length(limit.window)}"
        + (f';name="{header_text(limit.name)}"' if limit.name else "")
        for limit in limits
    ]
    return ", ".join([str(shown.amount), *policies])


def ietf_fields(rule: Rule, uses: Sequence[UseValues], now: int) -> tuple[Header, Header]:
    """Return RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11) for a rule.

    They are `"dba-hourly";q=5000;w=3600, "dba-daily";q=50000;w=86400` and
    `"dba-hourly";r=0;t=28, "dba-daily";r=44800;t=46828`.
    """
    names = _names(rule.limits)
    policies = [
        f'"{name}";q={min(limit.amount, _LARGEST)};w={length(limit.window)}'
        for name, limit in zip(names, rule.limits, strict=True)
    ]
    left = [
        f'"{name}";r={min(max(use[USE_LIMIT].amount - use[USE_AFTER], 0), _LARGEST)};t={use[USE_END] - now}'
        for name, use in zip(names, uses, strict=True)
    ]
    return Header("ratelimit-policy", ", ".join(policies)), Header("ratelimit", ", ".join(left))


def ietf_refusal(rule: Rule, index: int, reset: int) -> Header:
    """Return RateLimit with the refusing limit alone, for `error_details: minimal`."""
    return Header("ratelimit", f'"{_names(rule.limits)[index]}";r=0;t={reset}')


def _names(limits: Sequence[Limit]) -> list[str]:
    """Return a name for each limit: its own or its window's. If two are equal, all are the windows'."""
    names = [header_text(limit.name) or name(limit.window) for limit in limits]
    return names if len(set(names)) == len(names) else [name(limit.window) for limit in limits]
