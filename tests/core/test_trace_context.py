"""The trace context of a caller: W3C Trace Context, and anything else that comes in its headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.trace_context import Parent, TraceHeaders, parent_of, sent_in

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
IDS = b"0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    [
        (b"00-" + IDS + b"-01", True),
        (b"00-" + IDS + b"-00", False),
        (b"00-" + IDS + b"-03", True),
        (b"00-" + IDS + b"-fe", False),
        (b"01-" + IDS + b"-01", True),
        (b"cc-" + IDS + b"-01-what-comes-later", True),
    ],
)
def test_a_traceparent_names_the_parent(traceparent: bytes, sampled: bool) -> None:
    """Flags that are not known are ignored, and so is what a later version appends."""
    assert Parent(TRACE, SPAN, sampled, b"a=1") == parent_of(traceparent, b"a=1")


@pytest.mark.parametrize(
    "traceparent",
    [
        b"",
        b"00-" + IDS,
        b"00-" + IDS + b"-01-more",
        b"ff-" + IDS + b"-01",
        b"00-" + IDS.upper() + b"-01",
        b"00-" + IDS + b"-0g",
        b"00-" + IDS + b"-01\n",
        b" 00-" + IDS + b"-01",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01",
        b"01-" + IDS + b"-01more",
    ],
)
def test_an_invalid_trace_context_has_no_parent(traceparent: bytes) -> None:
    """Ids of zeros are not valid either."""
    assert parent_of(traceparent) is None


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_no_error(traceparent: bytes) -> None:
    """A stranger may send any."""
    parent = parent_of(traceparent)
    assert parent is None or (parent.trace_id and parent.span_id)


def test_headers_are_read_as_w3c_says() -> None:
    """Several traceparents are invalid, several tracestates are joined, and values that are too long are
    ignored.
    """
    parent, state = (b"traceparent", b"00-" + IDS + b"-01"), (b"tracestate", b"a=1")
    assert TraceHeaders(parent[1], b"a=1,a=1") == sent_in([(b"host", b"x"), parent, state, state])
    assert TraceHeaders() == sent_in([parent, parent])
    assert TraceHeaders() == sent_in([(b"traceparent", b"0" * 129), (b"tracestate", b"a" * 513)])
    assert TraceHeaders(json=True) == sent_in([], json=True)
