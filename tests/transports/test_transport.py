"""The behaviour that a gRPC client sees, the same for both transports. The tests send raw bytes over real
sockets.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from types import FrameType

import grpc
import pytest
from google.protobuf import json_format
from grpc import aio

from ratelimit_service.core.errors import StoreError
from ratelimit_service.deadlines import Patience
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.service import Call
from ratelimit_service.transports.grpc_method import PATH
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from . import h2
from .h2 import Peer
from .serving import CHARGE_40, CHECK, Served, Start, message

INVALID_UTF8 = bytes.fromhex("0a036c6c6d12110a0d0a047465616d12057465ff616d1a00")


async def test_an_answer_is_explained_on_request(served: Served) -> None:
    """Gateways never set `explain` in a request. It adds metadata to the answer and changes nothing else."""
    asked = RateLimitRequest.FromString(message("explained", hits=30))
    asked.explain = True
    answer = await served.call(asked.SerializeToString())
    explanation = json_format.MessageToDict(answer.dynamic_metadata)["explanation"]
    (window,) = explanation["descriptors"][0]["windows"]
    assert ("llm.team", "hour", 100, 30, 70, False) == (
        explanation["descriptors"][0]["rule"],
        *(window[name] for name in ("window", "limit", "used", "remaining", "over")),
    )
    answer.ClearField("dynamic_metadata")
    assert await served.call(message("explained", hits=0)) == answer


async def test_envoys_own_bytes_check_and_charge(served: Served) -> None:
    """These bytes were recorded from Envoy: a check, three charges of 40, and a check that is refused."""
    first = await served.call(CHECK)
    assert (RateLimitResponse.OK, 100) == (first.overall_code, first.statuses[0].limit_remaining)
    assert "team-budget" == first.statuses[0].current_limit.name
    assert RateLimitResponse.RateLimit.HOUR == first.statuses[0].current_limit.unit
    for _ in range(3):
        await served.call(CHARGE_40)
    last = await served.call(CHECK)
    assert RateLimitResponse.OVER_LIMIT == last.overall_code
    assert 0 < last.statuses[0].duration_until_reset.seconds <= 3600


@pytest.mark.parametrize(
    "authority", ["outbound|8081||ratelimit.ratelimit.svc", "extension/ratelimit/ratelimit", "rate limit"]
)
async def test_any_authority_is_accepted(served: Served, authority: str) -> None:
    """By default, Envoy sends the name of its cluster, which may have characters that a URL cannot."""
    peer = await Peer.connect(served.server.address)
    peer.send(h2.call(1, CHECK, h2.replaced(authority=authority.encode())))
    assert 0 == (await peer.answer(1)).status
    peer.close()


async def test_a_header_that_is_not_utf8_is_limited_like_any_other(served: Served) -> None:
    """An error would let the caller through without a limit."""
    response = await served.call(INVALID_UTF8)
    assert 100 == response.statuses[0].limit_remaining
    charge = RateLimitRequest.FromString(INVALID_UTF8)
    charge.descriptors[0].hits_addend.value = 101
    await served.call(charge.SerializeToString())
    response = await served.call(INVALID_UTF8)
    assert RateLimitResponse.OVER_LIMIT == response.overall_code


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (message(domain=""), grpc.StatusCode.INVALID_ARGUMENT, "domain"),
        (RateLimitRequest(domain="llm").SerializeToString(), grpc.StatusCode.INVALID_ARGUMENT, "descriptor"),
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "RateLimitRequest"),
        # Short enough to be parsed and counted then, and too long for that.
        (b"\x0a\x03llm" + b"\x12\x00" * 101, grpc.StatusCode.INVALID_ARGUMENT, "100 descriptors"),
        (b"\x0a\x03llm" + b"\x12\x00" * 500_000, grpc.StatusCode.INVALID_ARGUMENT, "100 descriptors"),
        (
            b"\x0a\x03llm\x12\xca\x01" + b"\x0a\x00" * 101,
            grpc.StatusCode.INVALID_ARGUMENT,
            "100 entries, not 101",
        ),
        (
            b"\x0a\x03llm" + b"\x12\x3e".join([b"", *[b"\x0a\x00" * 31] * 33]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "1000 entries",
        ),
    ],
)
async def test_a_request_that_cannot_be_decided_is_an_invalid_argument(
    served: Served, data: bytes, code: grpc.StatusCode, said: str
) -> None:
    """The message names the missing field."""
    got, details = await served.code(data)
    assert code == got
    assert said in details


async def test_an_error_leaves_no_cycle_that_holds_the_request(served: Served) -> None:
    """A cycle would keep megabytes of a stranger until a full garbage collection, which is rare."""
    wrong = [
        message(domain=""),
        b"\xff" * 1_000,
        b"\x12\x00" * 5_000,
        RateLimitRequest(domain="llm").SerializeToString(),
    ]
    for data in wrong:
        await served.code(data)
    gc.collect()
    gc.disable()
    try:
        for data in wrong * 5:
            await served.code(data)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        frames = [thing for thing in gc.garbage if isinstance(thing, FrameType)]
        ours = [
            frame.f_code.co_qualname for frame in frames if "ratelimit_service" in frame.f_code.co_filename
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert [] == ours


async def test_an_override_with_an_unknown_unit_is_an_invalid_argument(served: Served) -> None:
    """In envoyproxy/ratelimit, it ends the process."""
    request = RateLimitRequest(domain="llm")
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=b"team", value=b"x")
    descriptor.limit.requests_per_unit = 5
    for unit in (0, 8, 99):
        descriptor.limit.unit = unit  # type: ignore[assignment]
        code, details = await served.code(request.SerializeToString())
        assert grpc.StatusCode.INVALID_ARGUMENT == code
        assert f"unit {unit}" in details


async def test_without_rules_a_call_is_unavailable(start: Start) -> None:
    """The gateway then applies its own failure mode."""
    served = await start(rules=False)
    code, details = await served.code(CHECK)
    assert grpc.StatusCode.UNAVAILABLE == code
    assert "configuration" in details


async def test_a_store_that_fails_is_unavailable(served: Served) -> None:
    """The message has the reason."""
    served.store.failure = StoreError("Redis is gone")
    assert (grpc.StatusCode.UNAVAILABLE, "Redis is gone") == await served.code(CHECK)


async def test_a_message_over_the_size_limit_is_refused(start: Start) -> None:
    """It is refused before it is read into memory."""
    served = await start(GrpcOptions(max_message_bytes=1000))
    code, _ = await served.code(message("x" * 2000))
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == code
    assert RateLimitResponse.OK == (await served.call(CHECK)).overall_code


async def test_more_calls_than_the_server_takes_on_are_shed(start: Start) -> None:
    """With a bound of two, the third call is refused at once, and the two are answered when the store
    answers. It has a connection of its own: on that of the two, a third stream may have to wait.
    """
    served = await start(GrpcOptions(max_concurrent_calls=2), hold=True)
    waiting = [asyncio.ensure_future(served.call(CHARGE_40)) for _ in range(2)]
    await until(lambda: served.server.in_hand == 2)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(served.server.address, options=options) as channel:
        with pytest.raises(aio.AioRpcError) as error:
            await channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)(CHARGE_40, timeout=60)
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.value.code()
    for answer in served.held:
        answer()
    assert [RateLimitResponse.OK] * 2 == [(await call).overall_code for call in waiting]


async def test_one_connection_leaves_calls_in_hand_to_others(start: Start) -> None:
    """While the store is slow, a connection may have as many calls in flight as all others may still add, and
    theirs are served.
    """
    served = await start(GrpcOptions(max_concurrent_calls=20), hold=True)
    calls = [asyncio.ensure_future(served.call(message("many", 1))) for _ in range(40)]
    await until(lambda: sum(call.done() for call in calls) >= 29)
    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    codes = {call.exception().code() for call in done}  # type: ignore[union-attr]
    assert {grpc.StatusCode.RESOURCE_EXHAUSTED} == codes
    assert 10 <= len(waiting) <= 11
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(served.server.address, options=options) as channel:
        method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
        others = [asyncio.ensure_future(method(message("few", 1), timeout=60)) for _ in range(4)]
        await until(lambda: served.server.in_hand == len(waiting) + len(others))
        for answer in served.held:
            answer()
        served.held.clear()
        assert {RateLimitResponse.OK} == {(await call).overall_code for call in others}
    assert {RateLimitResponse.OK} == {(await call).overall_code for call in waiting}


async def test_a_charge_survives_its_callers_deadline(start: Start) -> None:
    """The caller gets DEADLINE_EXCEEDED, and the charge counts."""
    served = await start(hold=True)
    code, _ = await served.code(CHARGE_40, patience=1.0)  # it must have arrived by then
    assert grpc.StatusCode.DEADLINE_EXCEEDED == code
    await until(lambda: len(served.store) == 1)
    assert [40] == list((await served.store.read_bucket("{llm|team=json}")).values())


async def test_the_service_learns_how_long_a_caller_waits(served: Served) -> None:
    """It is grpc-timeout, which gRPC clients round up, less the time since the call arrived."""
    timeouts: list[int] = []
    submit = served.service.submit

    def submitted(calls: Sequence[Call]) -> None:
        timeouts.extend(call.timeout for call in calls)
        submit(calls)

    served.service.submit = submitted  # type: ignore[method-assign]
    await served.call(CHECK, patience=60)
    await served.call(CHECK, patience=None)
    (milliseconds, without) = timeouts
    assert (True, -1) == (40_000 < milliseconds < 61_000, without)


async def test_a_caller_without_a_deadline_waits_no_longer_than_it_is_given(start: Start) -> None:
    """The answer is that of the failure mode, and the charge counts."""
    served = await start(hold=True, patience=Patience(otherwise=0.01))
    late = (grpc.StatusCode.UNAVAILABLE, "the store did not answer within 10 ms")
    assert late == await served.code(CHARGE_40, patience=None)
    assert [40] == list((await served.store.read_bucket("{llm|team=json}")).values())
