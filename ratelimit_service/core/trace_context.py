"""The trace context that a caller sends: the headers `traceparent` and `tracestate` of W3C Trace Context.

They are a stranger's bytes. Anything that is not valid counts as absent, and nothing of it is kept beyond a
bounded length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"

MOST_TRACEPARENT: Final = 128
"""Bytes of a traceparent: version 00 has 55, and later versions may append to it."""

MOST_TRACESTATE: Final = 512
"""Bytes of a tracestate that W3C asks systems to propagate; a longer one is dropped."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.S).fullmatch


class TraceHeaders(NamedTuple):
    """The headers as they were sent, and by which way: gRPC, or JSON over HTTP."""

    traceparent: bytes = b""
    tracestate: bytes = b""
    json: bool = False


class Parent(NamedTuple):
    """The span of the caller. `state` is its tracestate, not yet validated."""

    trace_id: int
    span_id: int
    sampled: bool
    state: bytes = b""


def sent_in(headers: Iterable[tuple[bytes, bytes]], *, json: bool = False) -> TraceHeaders:
    """Return the trace context in headers with names in lower case.

    Of several traceparents none is valid. The values of several tracestates are joined.
    """
    parents = []
    states = []
    for name, value in headers:
        if name == TRACEPARENT:
            parents.append(value)
        elif name == TRACESTATE:
            states.append(value)
    parent = parents[0] if len(parents) == 1 and len(parents[0]) <= MOST_TRACEPARENT else b""
    state = b",".join(states)
    return TraceHeaders(parent, state if len(state) <= MOST_TRACESTATE else b"", json)


def parent_of(traceparent: bytes, tracestate: bytes = b"") -> Parent | None:
    """Return the parent that headers name; None if the traceparent is not valid."""
    found = _TRACEPARENT(traceparent)
    if found is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & 1), tracestate)
