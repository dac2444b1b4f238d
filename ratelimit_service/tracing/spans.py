"""Notes for spans, taken on the event loop; exporting.py makes the spans in its thread.

A note has plain values of bounded size, and no reference to a request: as many wait as
OTEL_BSP_MAX_QUEUE_SIZE, and a request may have kilobytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..core.errors import RateLimitServiceError
from ..core.model import (
    OK,
    STATUS_CODE,
    STATUS_LIMIT,
    STATUS_RESET,
    TALLY_LIMIT,
    TALLY_RULE,
    Decision,
    Descriptor,
    Request,
)
from ..core.text import fit
from ..core.trace_context import Parent
from ..core.windows.blocks import name as window_name
from ..observe.labels import rule_label

PREFIX = "ratelimit_service."
"""The prefix of attributes that OpenTelemetry's conventions do not have."""

_MOST_SHOWN = 20
"""The largest number of descriptors in a span; a request may have hundreds."""

_LONGEST = 200
"""Characters of a text."""

_MOST_HITS = 2**63 - 1

Attributes = Mapping[str, Any]


class StoreSpan(NamedTuple):
    """When a store was called and has answered, in nanoseconds since 1970, and the batch that had the hits,
    if it is known.
    """

    start: int
    end: int
    batch: BatchSpan | None


class BatchSpan:
    """One call of the script. It gets ids once the first span refers to it, and is dropped if none does."""

    __slots__ = ("end", "error", "hits", "requests", "span_id", "start", "trace_id")

    def __init__(self, start: int, end: int, requests: int, hits: int, error: str) -> None:
        self.start = start
        self.end = end
        self.requests = requests
        self.hits = hits
        self.error = error
        self.trace_id = self.span_id = 0


class CallSpan(NamedTuple):
    """A call, from when it was read to its answer. `error` is empty unless the answer is one."""

    start: int
    end: int
    parent: Parent | None
    attributes: Attributes
    json: bool
    error: str
    store: StoreSpan | None


def attributes_of(request: Request, decision: Decision) -> dict[str, Any]:
    """Return the attributes of a decided request.

    Of its descriptors there are the hits and the rules that matched, and neither keys nor values: these are
    strangers' bytes, and may name people.
    """
    codes: list[str] = []
    rules: list[str] = []
    attributes: dict[str, Any] = {
        f"{PREFIX}domain": fit(request.domain, _LONGEST),
        f"{PREFIX}code": decision.code.name,
        f"{PREFIX}descriptors": len(request.descriptors),
        f"{PREFIX}descriptor.codes": codes,
        f"{PREFIX}descriptor.hits": [
            _hits(request, descriptor) for descriptor in request.descriptors[:_MOST_SHOWN]
        ],
        f"{PREFIX}descriptor.rules": rules,
    }
    for status, tally in zip(decision.status_values, decision.tally_values, strict=True):
        refuses = status[STATUS_CODE] is not OK
        if len(codes) == _MOST_SHOWN and (not refuses or f"{PREFIX}refused_by" in attributes):
            continue
        rule = "" if tally is None else rule_label(tally[TALLY_RULE], tally[TALLY_LIMIT])
        if refuses and f"{PREFIX}refused_by" not in attributes:
            attributes[f"{PREFIX}refused_by"] = rule
            if tally is not None:
                attributes[f"{PREFIX}window"] = window_name(tally[TALLY_LIMIT].window)
                attributes[f"{PREFIX}limit"] = (status[STATUS_LIMIT] or tally[TALLY_LIMIT]).amount
                attributes[f"{PREFIX}resets_in"] = status[STATUS_RESET]
        if len(codes) < _MOST_SHOWN:
            codes.append(status[STATUS_CODE].name)
            rules.append(rule)
    if decision.shadowed:
        attributes[f"{PREFIX}shadowed"] = True
    return attributes


def attributes_of_error(request: Request | None) -> dict[str, Any]:
    """Return the attributes of a request that is answered with an error; None if it could not be read."""
    if request is None:
        return {}
    return {
        f"{PREFIX}domain": fit(request.domain, _LONGEST),
        f"{PREFIX}descriptors": len(request.descriptors),
    }


def text_of(error: RateLimitServiceError) -> str:
    """Return the text of an error, in a bounded line."""
    return fit(str(error) or type(error).__name__, _LONGEST)


def _hits(request: Request, descriptor: Descriptor) -> int:
    """Return the hits of a descriptor as they were sent: 1 if there were none, below 0 for a refund.

    Integers of OTLP have 63 bits and a sign, and a larger one would fail the whole batch of spans.
    """
    hits = descriptor.hits_addend if descriptor.hits_addend is not None else request.hits_addend or 1
    hits = min(hits, _MOST_HITS)
    return -hits if descriptor.negative else hits
