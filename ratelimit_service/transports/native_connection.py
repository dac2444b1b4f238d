"""One connection of the native transport: what asyncio reads and writes, round a `_http2.Session`."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..core.errors import Forbidden, InternalError, Overloaded, RateLimitServiceError
from ..core.model import Decision, Request
from ..tls import is_for
from . import codec
from ._http2 import Session
from .grpc_method import METHOD, PATH, status_of

if TYPE_CHECKING:
    from ..service import Answer, RateLimitService
    from .options import GrpcOptions, Requested

CHECK, WATCH = 1, 2
PATHS = (PATH.encode(), b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch")
"""The methods that are served; the first is ours, CHECK and WATCH are the places of the others."""

_MOST_UNWRITTEN = 262_144
"""Bytes that the socket has not taken after which a connection is no longer read from, until it has."""

PATIENCE = 10.0
"""Seconds that a peer has for introducing itself, and for reading replies, before it is cut off."""

_MOST_IDLE = 3_600.0
"""Seconds without a stream after which the peer is asked to leave; it may come back."""

NOTICE = 0.1
"""Seconds between asking a peer to open no more streams and taking none: what it has sent meanwhile is served."""

_DEADLINE_EXCEEDED = 4
_MILLISECOND = 0.001


class Host(Protocol):
    """The server, as its connections know it."""

    in_hand: int

    @property
    def service(self) -> RateLimitService:
        """Decides."""
        ...

    @property
    def options(self) -> GrpcOptions:
        """The limits."""
        ...

    @property
    def requested(self) -> Requested:
        """Is told of every call."""
        ...

    def asks_for_health(self, connection: Connection, number: int, method: int, body: bytes) -> None:
        """Answer CHECK or WATCH."""
        ...

    def made(self, connection: Connection) -> bool:
        """A connection is there; False where there are too many."""
        ...

    def lost(self, connection: Connection) -> None:
        """It has gone."""
        ...


class Connection(asyncio.Protocol):
    """Hands the calls of each read to the service together, and writes the replies of each batch together.

    `maximum_age` is seconds; 0 is for ever.
    """

    def __init__(self, host: Host, maximum_age: float) -> None:
        options = host.options
        self._host = host
        self._maximum_age = maximum_age
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until `connection_made`
        self.session = Session(PATHS, options.max_message_bytes, 2 * options.max_message_bytes + 1_048_576)
        self._numbers: list[int] = []
        self._payloads: list[bytes] = []
        self._awake = True
        """Whether `flush` is going to be called without being asked for."""
        self._forbidden: Forbidden | None = None
        """Why none of its calls is answered; whoever asks for the health is."""
        self._paused = False
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._sent = 0
        self._stuck_since = self._busy_at = self._made_at = self._loop.time()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        if not self._host.made(self):
            self._gone = True
            self._transport.abort()
            return
        if wanted := self._host.options.client_name:
            certificate = self._transport.get_extra_info("peercert") or {}
            names = [name.encode() for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
            if not is_for(names, wanted):
                self._forbidden = Forbidden(f"the client's certificate does not have the DNS name {wanted}")
        self._transport.set_write_buffer_limits(_MOST_UNWRITTEN)
        if self._maximum_age:
            self._timer = self._loop.call_later(self._maximum_age, self._retire)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._gone = True
        if self._timer is not None:
            self._timer.cancel()
        self._host.lost(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._gone:
            return
        self._awake = True
        numbers, bodies, timeouts, others = self.session.feed(data)
        if numbers:
            self._submit(numbers, bodies, timeouts)
        for number, method, body in others:
            self._host.asks_for_health(self, number, method, body)
        self.flush()

    def pause_writing(self) -> None:
        """See asyncio.Protocol. Who does not read is not read from, and answers wait in the session, one a stream."""
        self._paused = True
        self._stuck_since = self._loop.time()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._paused = False
        if not self._gone:
            self._transport.resume_reading()
            self.flush()

    # What the server calls.

    def flush(self) -> None:
        """Write what there is to write, all at once."""
        self._awake = False
        if self._gone:
            return
        if self._numbers:
            self.session.reply_many(self._numbers, self._payloads)
            self._numbers, self._payloads = [], []
        if self._paused:
            return
        if data := self.session.drain():
            self._transport.write(data)
        if self.session.closed:
            self._gone = True
            self._transport.close()

    def wake(self) -> None:
        """Have `flush` called once the batch at hand is done with."""
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self.flush)

    def announce(self) -> None:
        """Ask the peer to go elsewhere with what it has not sent yet."""
        self.session.announce_goaway()
        self.wake()

    def leave(self) -> None:
        """Take no more calls, and close when those in hand are answered."""
        self.session.goaway()
        self.wake()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def look(self, now: float) -> None:
        """Called every second, with the loop's time: cut off who keeps us waiting."""
        session = self.session
        session.relax()
        if session.streams:
            self._busy_at = now
        if self._gone:  # and yet here: what is left to write is not read
            if now - self._stuck_since > PATIENCE:
                self.abort()
            return
        if not self._paused and (not session.unread or session.sent != self._sent):
            self._stuck_since = now
        self._sent = session.sent
        if now - self._stuck_since > PATIENCE or (not session.opened and now - self._made_at > PATIENCE):
            self.abort()
        elif now - self._busy_at > _MOST_IDLE:
            self.leave()

    def fail(self, number: int, error: RateLimitServiceError) -> None:
        """Answer a call with an error."""
        status = status_of(error)
        self.fail_with(number, status.number, status.message)

    def fail_with(self, number: int, status: int, message: str) -> None:
        """Answer a call with the number of a gRPC status."""
        if not self._gone:
            self.session.reply_error(number, status, message)
            self.wake()

    def answer(self, number: int, payload: bytes) -> None:
        """Answer a call with a message, when the batch at hand is done with."""
        self._numbers.append(number)
        self._payloads.append(payload)
        self.wake()

    # What the above is made of.

    def _submit(self, numbers: list[int], bodies: list[bytes], timeouts: list[int]) -> None:
        host = self._host
        started = perf_counter()
        most = host.options.max_concurrent_calls
        calls: list[_Call] = []
        for number, body, timeout in zip(numbers, bodies, timeouts, strict=True):
            if host.in_hand >= most:
                self._refuse(number, Overloaded(f"{host.in_hand} calls are in hand already"), started)
                continue
            if self._forbidden is not None:
                self._refuse(number, self._forbidden, started)
                continue
            try:
                request = codec.decode(body)
            except RateLimitServiceError as error:
                self._refuse(number, error, started)
            except Exception as error:
                self._report(error)
                self._refuse(number, InternalError("internal error"), started)
            else:
                host.in_hand += 1
                calls.append(_Call(self, number, request, started, timeout))
        if calls:
            host.service.submit(calls)

    def _refuse(self, number: int, error: RateLimitServiceError, started: float) -> None:
        self._host.requested(METHOD, perf_counter() - started)
        self.fail(number, error)

    def _report(self, error: Exception) -> None:
        """Tell the event loop's exception handler: app.py logs what reaches it."""
        context: dict[str, Any] = {"message": "a call could not be served", "exception": error}
        self._loop.call_exception_handler(context)

    def done(self, call: _Call, answer: Answer) -> None:
        """Take the answer to a call. Where its caller has gone, nothing comes of it but what was counted."""
        host = self._host
        host.in_hand -= 1
        seconds = perf_counter() - call.started
        host.requested(METHOD, seconds)
        if self._gone:
            return
        if 0 <= call.timeout < seconds / _MILLISECOND:
            self.fail_with(call.number, _DEADLINE_EXCEEDED, "the answer came after the deadline")
        elif isinstance(answer, Decision):
            try:
                self.answer(call.number, codec.encode(answer))
            except Exception as error:
                self._report(error)
                self.fail(call.number, InternalError("internal error"))
        else:
            self.fail(call.number, answer)

    def _retire(self) -> None:
        """The connection has reached its age."""
        self.announce()
        self._timer = self._loop.call_later(NOTICE, self._retire_for_good)

    def _retire_for_good(self) -> None:
        grace = self._host.options.max_connection_age_grace
        self._timer = self._loop.call_later(grace, self.abort) if grace else None
        self.leave()


class _Call:
    """A service.Call of a stream."""

    __slots__ = ("_connection", "number", "request", "started", "timeout")

    def __init__(
        self, connection: Connection, number: int, request: Request, started: float, timeout: int
    ) -> None:
        self._connection = connection
        self.number = number
        self.request = request
        self.started = started
        self.timeout = timeout

    def reply(self, answer: Answer) -> None:
        """See service.Call."""
        self._connection.done(self, answer)
