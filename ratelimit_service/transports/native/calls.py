"""The calls of the native transport: all calls of one turn of the event loop are decided and answered
together.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import perf_counter, thread_time
from typing import TYPE_CHECKING

from ...core.errors import InternalError, Overloaded, RateLimitServiceError
from ...core.model import Decision
from ...runtime.exceptions import report
from ..codec import Codec
from ..contract import TOO_MANY_CALLS
from ..grpc_method import METHOD, status_of
from ._http2 import Budget, NativeCall, Turn
from .queues import Queue

if TYPE_CHECKING:
    from ...service import RateLimitService
    from ..contract import OnAnswered
    from ..options import GrpcOptions
    from .connection import Connection

_DEADLINE_EXCEEDED = 4
_MILLISECOND = 0.001

_TURN = 0.004
"""Seconds that a turn may take. Input beyond that waits for the next turn, in which every connection has a
share."""

_LARGEST_SHARE = 128
"""The most streams of one connection in one turn, even if all others are idle."""

_LEAST_TOTAL = 64
"""The least number of streams of a turn, however long each takes. Otherwise, the fixed cost of a turn would
make turns ever shorter."""

_ENOUGH = 16
"""The least work (Turn.opened) of a turn whose time is used to estimate the time of a unit of work."""

_SHORT = 4_096
"""Bytes of a call that does not wait for the longer ones of its turn, which may take milliseconds each."""

_SLOWER, _FASTER = 0.5, 0.1
"""The weight of the last turn in that estimate: turns become short at once, and long again slowly."""


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
        take_other: Callable[[NativeCall], None],
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
        self._turn_began = thread_time()
        self._waiting = Queue()
        self._left: deque[Connection] = deque()
        """Closed connections with such input."""
        self._seconds_a_unit = 0.000_02

    def process(self) -> None:
        """Process the turn: calls, answers and output.

        Input beyond a share waits for the next turn.
        """
        turn = self.turn
        try:
            calls = turn.take_calls()
            if turn.work > turn.total:
                calls = self._after_short(calls)
            if calls:
                self._submit(calls)
            for call in turn.take_others():
                self._take_other(call)
            connections = self._write()
            ended = thread_time()
            self._set_shares(turn.opened, connections, ended - self._turn_began)
            self._turn_began = ended
            self._begin_next_turn()
            if turn.budget.pressed:
                self._relieve()
        finally:
            turn.end(bool(self._waiting or self._left))

    def _after_short(self, calls: list[NativeCall]) -> list[NativeCall]:
        """Answer the short calls of a turn that is too long; return the others."""
        short: list[NativeCall] = []
        long: list[NativeCall] = []
        for call in calls:
            (short if len(call.body) <= _SHORT else long).append(call)
        if short and long:
            self._submit(short)
            self._write()
            return long
        return calls

    def _write(self) -> int:
        """Answer the calls that are decided, and write all output; return how many connections may have
        some.
        """
        if answered := self.turn.take_answered():
            self._answer(answered)
        owners = self.turn.take_owners()
        for connection in owners:
            try:
                connection.flush()
            except Exception as error:  # the others would never be written to again
                report("a connection has failed", error)
                connection.abort()
        return len(owners)

    def _set_shares(self, work: int, connections: int, seconds: float) -> None:
        """Set the share of each connection so that the next turn is short enough.

        Without shares, every caller would wait for a thousand calls of a peer that sends as fast as it can.
        """
        if work >= _ENOUGH:
            difference = seconds / work - self._seconds_a_unit
            self._seconds_a_unit += (_SLOWER if difference > 0 else _FASTER) * difference
        self.turn.total = max(int(_TURN / self._seconds_a_unit), _LEAST_TOTAL)
        connections += self.turn.waiting + len(self._waiting) + len(self._left)
        self.turn.share = min(max(self.turn.total // (connections or 1), 1), _LARGEST_SHARE)

    def _begin_next_turn(self) -> None:
        """Begin the next turn with the input beyond the shares of this one, which may fill half of the next
        turn.

        queues.py has the order. Closed connections have a quarter of the turn, so that they do not add up.
        """
        turn, waiting, left = self.turn, self._waiting, self._left
        for connection in turn.begin():
            if connection.left:
                left.append(connection)
            else:
                waiting.push(connection)
        while left and turn.opened < turn.total // 4:
            connection = left.popleft()
            try:
                connection.read_rest()
            except Exception as error:
                connection.fail(error)
        limit = max(turn.opened + turn.total // 4, turn.total // 2)
        while waiting and turn.opened < limit:
            group, connection = waiting.serve()
            opened, work = turn.opened, turn.work
            try:
                connection.read_rest()
            except Exception as error:
                connection.fail(error)
            finally:  # the others of its group would wait for ever
                connection.calls = turn.work > work
                waiting.served(group, connection, turn.opened - opened)
        turn.leave_half()

    def _begin(self) -> None:
        self._began = perf_counter()
        asyncio.get_running_loop().call_soon(self.process)

    def _submit(self, calls: Sequence[NativeCall]) -> None:
        started, decode = self._began, self._codec.decode
        if self._checks_certificates:
            calls = self._permitted(calls)
        if self.in_hand + len(calls) > self._most // 2:
            calls = self._admitted(calls)
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

    def _permitted(self, calls: Sequence[NativeCall]) -> Sequence[NativeCall]:
        """Refuse the calls of clients whose certificate has the wrong name, and return the others."""
        permitted = []
        for call in calls:
            # Even if the connection is closed: no answer would reach the peer, but its charge would count.
            if call.session.forbidden:
                self._refuse(call, self._options.forbidden())
            else:
                permitted.append(call)
        return permitted

    def _admitted(self, calls: Sequence[NativeCall]) -> Sequence[NativeCall]:
        """Refuse the calls that are too many, and return the others.

        A connection may have as many calls in flight as all others may still add. So the connections with
        most are refused first, and one with few is served, however many others there are.
        """
        mine = Counter([call.session for call in calls])
        for session in mine:
            mine[session] = session.calls - mine[session]
        admitted: list[NativeCall] = []
        for call in calls:
            room = self._most - self.in_hand - len(admitted)
            if room > 0 and mine[call.session] <= room:
                mine[call.session] += 1
                admitted.append(call)
            else:
                self._refuse(call, Overloaded(TOO_MANY_CALLS))
        return admitted

    def _refuse(self, call: NativeCall, error: RateLimitServiceError) -> None:
        self._on_answered(METHOD, perf_counter() - self._began)
        _fail(call, error)
        self._service.refused_early(call.trace, error)

    def _answer(self, calls: Sequence[NativeCall]) -> None:
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


def _fail(call: NativeCall, error: RateLimitServiceError) -> None:
    status = status_of(error)
    call.fail(status.number, status.message)
