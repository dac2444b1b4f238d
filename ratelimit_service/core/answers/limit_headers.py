"""The limits of a rule in response headers: as Envoy writes them, and as the IETF's draft does."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import Header, Limit, Rule, UseValues
from ..text import header_text
from ..windows.blocks import length, name

_LARGEST = 999_999_999_999_999
"""The largest integer of a structured field (RFC 9651)."""


def limit_text(limits: Sequence[Limit], shown: Limit) -> str:
    """The limit that a status shows; where the rule has several, all of them behind it.

    `5000`, or `5000, 5000;w=3600;name="dba-hourly", 50000;w=86400;name="dba-daily"`, as Envoy writes them.
    """
    if len(limits) < 2:
        return str(shown.amount)
    policies = [
        f"{limit.amount};w={length(limit.window)}"
        + (f';name="{header_text(limit.name)}"' if limit.name else "")
        for limit in limits
    ]
    return ", ".join([str(shown.amount), *policies])


def ietf_fields(rule: Rule, windows: Sequence[UseValues], now: int) -> tuple[Header, Header]:
    """RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-11, with all windows of a rule.

    `"dba-hourly";q=5000;w=3600, "dba-daily";q=50000;w=86400` and `"dba-hourly";r=0;t=28, "dba-daily";r=44800;t=46828`.
    """
    names = _names(rule.limits)
    policies = [
        f'"{name}";q={min(limit.amount, _LARGEST)};w={length(limit.window)}'
        for name, limit in zip(names, rule.limits, strict=True)
    ]
    left = [
        f'"{name}";r={min(max(limit.amount - after, 0), _LARGEST)};t={end - now}'
        for name, (limit, _, end, _, after, _, _) in zip(names, windows, strict=True)
    ]
    return Header("ratelimit-policy", ", ".join(policies)), Header("ratelimit", ", ".join(left))


def ietf_refusal(rule: Rule, which: int, reset: int) -> Header:
    """RateLimit of the limit that refuses, and nothing of the others: for refusals that name no more than they must."""
    return Header("ratelimit", f'"{_names(rule.limits)[which]}";r=0;t={reset}')


def _names(limits: Sequence[Limit]) -> list[str]:
    """A name for each limit: its own, or that of its window; the latter for all where two have the same."""
    names = [header_text(limit.name) or name(limit.window) for limit in limits]
    return names if len(set(names)) == len(names) else [name(limit.window) for limit in limits]
