"""All bytes of a control plane end in rules or in problems, and never in another exception."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.loading.task import Task
from ratelimit_service.proto.xds_pb2 import RateLimitConfig, Resource
from ratelimit_service.sources.xds.call import StreamingCall
from ratelimit_service.sources.xds.reading import reading, stored_resources
from ratelimit_service.sources.xds.response import TYPE_URL, Malformed, open_response
from testing.control_plane import limit, resource
from tests.sources.xds.rule_sets import response, spooled

pytestmark = pytest.mark.fuzz

GOOD = response(
    resource("a", {"key": "route", "value": "route", "descriptors": [limit("x", 5, shadow_mode=True)]}),
    resource(
        "b",
        limit("y", 7, metadata={"tier": "gold", "ratelimit-service": {"rate_limit": {"tokens_per_unit": 5}}}),
    ),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a response with some bytes replaced, removed or added."""
    data = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


def read(data: bytes) -> None:
    try:
        received = open_response(spooled(data))
    except Malformed:
        return
    groups = list(received.groups.values())
    loaded = Task(reading(stored_resources("cp", groups), {}), apart=True).rules()
    assert all(problem.file.startswith("xds cp: ") for problem in loaded.problems)
    # Each domain is there, or has a problem that says why not, or is not the one that its first bytes said.
    assert len(loaded.domains) + len(loaded.problems) >= (1 if groups else 0)


@given(damaged())
def test_a_damaged_response_is_read_or_refused(data: bytes) -> None:
    read(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_configuration_or_a_problem(data: bytes) -> None:
    """The outer fields of the resource are valid."""
    config = RateLimitConfig(name=b"n", domain=b"d")
    read(response(Resource(type_url=TYPE_URL, value=config.SerializeToString() + data)))


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_any_bytes_from_a_peer_end_a_call_or_are_waited_for(pieces: list[bytes]) -> None:
    """They follow the SETTINGS of a server."""
    call = StreamingCall("/x", "cp", secure=False, headers={}, largest=1_000)
    call.drain()
    call.feed(b"\0\0\0\x04\0\0\0\0\0")
    for piece in pieces:
        call.feed(piece)
        call.drain()
    call.close()
    call.drain()
    assert call.end is not None
