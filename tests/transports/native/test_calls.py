"""The native transport decides the calls of one turn of the event loop together, for all connections."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ratelimit_service.core.model import Code, Decision
from ratelimit_service.service import Call
from ratelimit_service.transports.grpc_method import METHOD
from ratelimit_service.transports.native import _http2
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from .. import h2
from ..serving import CHARGE_40, CHECK, message
from .native_server import Begin, Limiter

OK, RESOURCE_EXHAUSTED, INTERNAL = 0, 8, 13


def batches_of(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the size of each further batch."""
    sizes: list[int] = []
    submit = limiter.service.submit

    def counted(calls: Sequence[Call]) -> None:
        sizes.append(len(calls))
        submit(calls)

    monkeypatch.setattr(limiter.service, "submit", counted)
    return sizes


def bodies_of(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """Return a list that gets the requests of each further batch."""
    batches: list[list[bytes]] = []
    submit = limiter.service.submit

    def noted(calls: Sequence[Call]) -> None:
        batches.append([call.body for call in calls if isinstance(call, _http2.NativeCall)])
        submit(calls)

    monkeypatch.setattr(limiter.service, "submit", noted)
    return batches


async def test_calls_of_several_connections_in_one_turn_are_one_batch(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is answered, and the observer gets them in one report."""
    connections = await limiter.connections(3)
    sizes = batches_of(limiter, monkeypatch)
    for connection in connections:
        connection.data_received(h2.call(1, CHARGE_40) + h2.call(3, CHECK))
    assert [] == sizes
    for peer in limiter.peers:
        answers = await peer.answers({1, 3})
        assert [OK, OK] == [answers[1].status, answers[3].status]
    assert [6] == sizes
    assert [(METHOD, 6)] == limiter.answered
    assert 120 == await limiter.counted()


async def test_answers_of_several_batches_are_observed_by_batch(begin: Begin) -> None:
    """The calls of a batch have one start, and so one duration."""
    limiter = await begin(hold=True)
    one, other = await limiter.connections(2)
    one.data_received(h2.call(1, CHECK) + h2.call(3, CHECK))
    await until(lambda: len(limiter.held) == 1)
    other.data_received(h2.call(1, CHECK))
    await until(lambda: len(limiter.held) == 2)
    assert 3 == limiter.server.in_hand
    for answer in limiter.held:
        answer()
    for peer in limiter.peers:
        await peer.answer(1)
    assert [(METHOD, 2), (METHOD, 1)] == limiter.answered
    assert 0 == limiter.server.in_hand


@pytest.mark.parametrize("how", ["hangs up", "is cut off"])
async def test_a_caller_that_disconnects_in_the_turn_of_its_charge_is_charged(
    limiter: Limiter, how: str
) -> None:
    """The tokens are used, whether or not the caller reads the answer."""
    (connection,) = await limiter.connections(1)
    connection.data_received(h2.call(1, CHARGE_40))
    if how == "hangs up":
        connection.connection_lost(None)
    else:
        connection.abort()
    await until(lambda: limiter.answered == [(METHOD, 1)])
    assert not limiter.server.peers
    assert (0, 40) == (limiter.server.in_hand, await limiter.counted())


async def test_calls_that_arrive_just_before_the_end_are_charged(limiter: Limiter) -> None:
    """This holds however short the grace is."""
    (connection,) = await limiter.connections(1)
    connection.data_received(h2.call(1, CHARGE_40))
    connection.connection_lost(None)
    await limiter.server.stop(0)
    assert 40 == await limiter.counted()


async def test_calls_beyond_those_that_may_be_in_hand_are_refused(begin: Begin) -> None:
    """The first calls of a batch are accepted. The others get a status to retry, and are not charged."""
    limiter = await begin(GrpcOptions(max_concurrent_calls=3))
    one, other = await limiter.connections(2)
    for connection in (one, other):
        connection.data_received(h2.call(1, CHARGE_40) + h2.call(3, CHARGE_40))
    answers = [await peer.answers({1, 3}) for peer in limiter.peers]
    statuses = sorted(answer[stream].status for answer in answers for stream in (1, 3))
    assert [OK, OK, OK, RESOURCE_EXHAUSTED] == statuses
    assert 120 == await limiter.counted()
    assert 4 == sum(calls for _, calls in limiter.answered)


async def test_a_callback_that_fails_affects_no_other_caller(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its own caller gets INTERNAL."""
    contexts: list[dict[str, object]] = []
    (connection,) = await limiter.connections(1)
    connection._loop.set_exception_handler(lambda loop, context: contexts.append(context))

    def submit(calls: Sequence[Call]) -> None:
        calls[0].reply(Decision(Code.OK, [None], [None]))  # type: ignore[list-item]
        calls[1].reply(Decision(Code.OK, [], []))

    monkeypatch.setattr(limiter.service, "submit", submit)
    connection.data_received(h2.call(1, CHECK) + h2.call(3, CHECK))
    answers = await limiter.peers[0].answers({1, 3})
    assert [INTERNAL, OK] == [answers[1].status, answers[3].status]
    assert 1 == len(contexts)
    assert 0 == limiter.server.in_hand


async def test_a_caller_that_sends_in_pieces_waits_for_no_other(limiter: Limiter) -> None:
    """A turn without a complete call is valid."""
    (connection,) = await limiter.connections(1)
    whole = h2.call(1, message("pieces", 7))
    connection.data_received(whole[:20])
    connection.data_received(whole[20:])
    assert OK == (await limiter.peers[0].answer(1)).status
    assert 7 == await limiter.counted("pieces")
