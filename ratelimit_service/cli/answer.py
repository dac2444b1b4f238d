"""The answer to `ask`, in lines for people.

This service explains its answers (core/answers/explanation.py). For an answer without an explanation, of an
older version or of envoyproxy/ratelimit, the lines show the statuses: one window for each descriptor, with
numbers up to 2^32 - 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf import json_format

from ..core.answers.explanation import EXPLANATION
from ..core.model import UINT32_MAX
from ..core.text import either, printable, unknown_domain
from ..proto.ratelimit_pb2 import RateLimitResponse

_OVER = RateLimitResponse.OVER_LIMIT

_FREE = "nothing limits it"
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


class _Window(NamedTuple):
    """A window of a limit. `least`: the numbers may exceed the protocol's maximum."""

    unit: str
    multiplier: int
    name: str
    limit: int
    remaining: int
    over: bool
    resets_in: int
    least: bool = False
    rule_limit: int | None = None
    """The limit in the rules, if amendments have changed it."""


def lines(domain: str, descriptors: Sequence[str], response: RateLimitResponse) -> list[str]:
    """Return lines: the decision, notes on the whole request, and the limits of each descriptor."""
    metadata = json_format.MessageToDict(response.dynamic_metadata)
    notes: list[str] = []
    try:
        explanation = metadata[EXPLANATION]
        limits = [
            _explained(*each) for each in zip(response.statuses, explanation["descriptors"], strict=True)
        ]
        notes = list(_notes(domain, explanation))
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ):  # there is none, or it is not an explanation of this service
        limits = [_unexplained(status, response) for status in response.statuses]
    shown = [RateLimitResponse.Code.Name(response.overall_code), *[f"  {note}" for note in notes]]
    for text, windows in zip(map(printable, descriptors), limits, strict=False):
        if len(windows) == 1:
            shown.append(f"  {text}: {windows[0]}")
        else:
            shown += [f"  {text}:", *[f"    {window}" for window in windows]]
    return shown


def _notes(domain: str, explanation: Mapping[str, Any]) -> Iterator[str]:
    if "domains" in explanation:
        yield unknown_domain(domain, explanation["domains"])
    missing = explanation.get("missing_keys", ())
    if missing:
        keys = either([f"'{printable(key)}'" for key in missing])
        yield f"refused: no descriptor has the key {keys}, which the domain requires (required_keys)"
    if explanation.get("shadow_mode"):
        yield "the request would be refused, and SHADOW_MODE lets it through"


def _explained(status: RateLimitResponse.DescriptorStatus, known: Mapping[str, Any]) -> list[str]:
    """Return the lines of an explanation for one descriptor, one for each window."""
    if known.get("unmatched"):
        return ["refused: no rule matches it, and the domain has `unmatched: deny`"]
    if known.get("blocked"):
        return [f"refused: it is blocked by {printable(', '.join(known['amendments']))}"]
    if known.get("replaced"):
        return [f"{_FREE}: the rule of another descriptor replaces its own"]
    if known.get("unlimited"):
        return ["unlimited"]
    if known.get("unreachable"):
        verdict = "refused" if status.code == _OVER else "let through"
        return [f"{verdict}, as STORE_FAILURE_MODE says: the store of its counters cannot be reached"]
    lenient = "its shadow_mode lets it through" if known.get("shadow_mode") else ""
    if known.get("quota_mode"):
        lenient = lenient or "a quota_mode rule refuses only together with all others"
    return [_line(_window(window), lenient) for window in known.get("windows", ())] or [_FREE]


def _window(window: Mapping[str, Any]) -> _Window:
    return _Window(
        printable(window["unit"].lower()),
        int(window["multiplier"]),
        printable(window["name"]),
        int(window["limit"]),
        int(window["remaining"]),
        window["over"],
        int(window["resets_in"]),
        rule_limit=int(window["rule_limit"]) if "rule_limit" in window else None,
    )


def _unexplained(status: RateLimitResponse.DescriptorStatus, response: RateLimitResponse) -> list[str]:
    """Return the line of a status, for answers without an explanation."""
    if not status.HasField("current_limit"):
        if status.code == _OVER:
            return [f"refused{_reason(response.raw_body)}"]
        if status.HasField("duration_until_reset"):  # the rule has `limit_headers: on_refusal`
            reset = duration(status.duration_until_reset.seconds)
            return [f"{status.limit_remaining:,} left, resets in {reset} (limit_headers: on_refusal)"]
        return ["unlimited" if status.limit_remaining else _FREE]
    limit = status.current_limit
    window = _Window(
        RateLimitResponse.RateLimit.Unit.Name(limit.unit).lower(),
        limit.unit_multiplier.value or 1,
        printable(limit.name),
        limit.requests_per_unit,
        status.limit_remaining,
        status.code == _OVER,
        status.duration_until_reset.seconds,
        limit.requests_per_unit == UINT32_MAX,
    )
    return [_line(window)]


def _reason(body: bytes) -> str:
    """Return the message of a refusal's body in OpenAI's format; empty for another format or no body."""
    try:
        return f": {printable(str(json.loads(body)['error']['message']))}"
    except (ValueError, KeyError, TypeError):
        return ""


def _line(window: _Window, lenient: str = "") -> str:
    span = f"these {window.multiplier} {window.unit}s" if window.multiplier > 1 else f"this {window.unit}"
    name = f" ({window.name})" if window.name else ""
    verdict = f"over the limit{f' ({lenient})' if lenient else ''}, " if window.over else ""
    limit = f"{'at least ' if window.least else ''}{window.limit:,}"
    if window.rule_limit is not None:
        limit += f" ({window.rule_limit:,} in the rules)"
    remaining = (
        f"{'at least ' if window.least and window.remaining == UINT32_MAX else ''}{window.remaining:,}"
    )
    return f"{verdict}{remaining} of {limit} left for {span}{name}, resets in {duration(window.resets_in)}"


def duration(seconds: int) -> str:
    """Return a duration in its two largest units, rounded down: `2 d 18 h`, `13 min 5 s`."""
    parts = []
    for unit, length in _UNITS:
        number, seconds = divmod(seconds, length)
        parts.append((number, unit))
    first = next((place for place, (number, _) in enumerate(parts) if number), len(parts) - 1)
    shown = [f"{number} {unit}" for number, unit in parts[first : first + 2] if number]
    return " ".join(shown) or "0 s"
