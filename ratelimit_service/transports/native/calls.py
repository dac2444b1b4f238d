"""The calls of the native transport: all calls of one turn of the event loop are decided and answered
together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter
from time import perf_counter
from typing import TYPE_CHECKING

from ...core.errors import InternalError, Overloaded, RateLimitServiceError
from ...core.model import Decision
from ...runtime.exceptions import report
from ..codec import Codec
from ..grpc_method import METHOD, status_of
from ._http2 import Budget, Call, Turn

if TYPE_CHECKING:
    from ...service import RateLimitService
    from ..contract import OnAnswered
    from ..options import GrpcOptions

_DEADLINE_EXCEEDED = 4
_MILLISECOND = 0.001

_TURN = 0.004
"""Seconds that a turn may take. Input beyond that waits for the next turn, in which every connection has a
share."""

_LARGEST_SHARE = 128
"""The most streams of one connection in one turn, even if all others are idle."""

_LEAST_TOTAL = 2
"""The fewest streams of a turn, however long each takes."""

_ENOUGH = 16
"""A turn with at least this many calls updates the average time of a call."""


_LEFT = attrgetter("left")


class Calls:
    """Passes the calls of all connections to the service, and the answers to the connections, once in a turn.

    The event loop reads from all readable sockets before it calls `process`. So batches grow with the load,
    and a call on an idle server does not wait.
    """

    def __init__(
        self,
        service: RateLimitService,
        options: GrpcOptions,
        on_answered: OnAnswered,
        take_other: Callable[[Call], None],
        relieve: Callable[[], None],
    ) -> None:
        self.in_hand = 0
        """The calls that were read and are not yet answered."""
        self.turn = Turn(self._begin, Budget(options.max_bytes))
        self.turn.share = _LARGEST_SHARE
        self._service = service
        self._most = options.max_concurrent_calls
        self._options = options
        self._checks_certificates = bool(options.client_name)
        self._on_answered = on_answered
        self._codec = Codec(service.policy.bounds, service.policy.hold_entries)
        self._take_other = take_other
        self._relieve = relieve
        self._began = 0.0
        self._seconds_a_call = 0.000_02

    def process(self) -> None:
        """Process the turn: calls, answers and output.

        Input beyond a share waits for the next turn.
        """
        turn, began = self.turn, perf_counter()
        try:
            if calls := turn.take_calls():
                self._submit(calls)
            for call in turn.take_others():
                self._take_other(call)
            if answered := turn.take_answered():
                self._answer(answered)
            owners = turn.take_owners()
            for connection in owners:
                connection.flush()
            self._set_shares(len(calls), len(owners), perf_counter() - began)
            self._begin_next_turn()
            if turn.budget.pressed:
                self._relieve()
        finally:
            turn.end()

    def _set_shares(self, calls: int, connections: int, seconds: float) -> None:
        """Set the share of each connection so that the next turn is short enough.

        Without shares, every caller would wait for a thousand calls of a peer that sends as fast as it can.
        """
        if calls >= _ENOUGH:
            self._seconds_a_call += 0.1 * (seconds / calls - self._seconds_a_call)
        self.turn.total = max(int(_TURN / self._seconds_a_call), _LEAST_TOTAL)
        self.turn.share = min(max(self.turn.total // (connections or 1), 1), _LARGEST_SHARE)

    def _begin_next_turn(self) -> None:
        """Begin the next turn with the input beyond the shares of this one, which may fill half of the next
        turn.

        Connections with the least input left come first, because a peer that sends little is waiting for its
        answers. The connection that has waited longest is always served, so that none waits without end.
        """
        turn = self.turn
        connections = turn.begin()
        if not connections:
            return
        oldest, waiting = connections[0], dict.fromkeys(connections)
        for connection in sorted(connections, key=_LEFT):
            if turn.opened >= turn.total // 2:
                break
            del waiting[connection]
            connection.read_rest()
        if waiting.pop(oldest, self) is None:
            oldest.read_rest()
        if waiting:
            turn.put_back(list(waiting))

    def _begin(self) -> None:
        self._began = perf_counter()
        asyncio.get_running_loop().call_soon(self.process)

    def _submit(self, calls: Sequence[Call]) -> None:
        started, decode = self._began, self._codec.decode
        if self._checks_certificates:
            calls = self._permitted(calls)
        if (room := max(0, self._most - self.in_hand)) < len(calls):
            for call in calls[room:]:
                self._refuse(call, Overloaded(f"{self._most} calls are in hand already"))
            calls = calls[:room]
        ready = []
        for call in calls:
            try:
                call.request = decode(call.body)
            except RateLimitServiceError as error:
                self._refuse(call, error)
            except Exception as error:
                report("a call could not be served", error)
                self._refuse(call, InternalError("internal error"))
            else:
                call.started = started
                ready.append(call)
        if ready:
            self.in_hand += len(ready)
            self._service.submit(ready)

    def _permitted(self, calls: Sequence[Call]) -> Sequence[Call]:
        """Refuse the calls of clients whose certificate has the wrong name, and return the others."""
        permitted = []
        for call in calls:
            # Also if the connection is closed: no answer would reach the peer, but its charge would count.
            if call.session.forbidden:
                self._refuse(call, self._options.forbidden())
            else:
                permitted.append(call)
        return permitted

    def _refuse(self, call: Call, error: RateLimitServiceError) -> None:
        self._on_answered(METHOD, perf_counter() - self._began)
        _fail(call, error)

    def _answer(self, calls: Sequence[Call]) -> None:
        """Write the answers to calls.

        An answer to a caller that has disconnected is dropped; its hits are counted.
        """
        encode, now = self._codec.encode_for(self._service.tree), perf_counter()
        self.in_hand -= len(calls)
        started, seconds, alike = calls[0].started, now - calls[0].started, 0
        for call in calls:
            if call.started != started:
                self._on_answered(METHOD, seconds, alike)
                started, seconds, alike = call.started, now - call.started, 0
            alike += 1
            answer = call.answer
            if 0 <= call.timeout < seconds / _MILLISECOND:
                call.fail(_DEADLINE_EXCEEDED, "the answer came after the deadline")
            elif isinstance(answer, Decision):
                try:
                    call.write(encode(answer))
                except Exception as error:
                    report("a call could not be served", error)
                    _fail(call, InternalError("internal error"))
            else:
                _fail(call, answer)
        self._on_answered(METHOD, seconds, alike)


def _fail(call: Call, error: RateLimitServiceError) -> None:
    status = status_of(error)
    call.fail(status.number, status.message)
