"""Server reflection for the native transport: a stream of questions, each answered as it arrives."""

from __future__ import annotations

from ...core.errors import InvalidRequest
from ..grpc_method import status_of
from ._http2 import NativeCall, Session

_OK, _RESOURCE_EXHAUSTED = 0, 8
_MOST_STREAMS = 100
"""Concurrent streams of one connection."""


class ReflectionService:
    """Answers ServerReflectionInfo of both versions."""

    def __init__(self) -> None:
        self._streams: dict[Session, set[int]] = {}
        self._ended = False

    def handle(self, call: NativeCall) -> None:
        """Answer a question, or end the stream after the last one."""
        session, number = call.session, call.number
        if session.owner is None:  # the connection is closed
            return
        streams = self._streams.setdefault(session, set())
        if call.last:
            self._end(call, *call.wrong or (_OK, b""))
            return
        if number not in streams and not self._add(session, streams, number):
            call.fail(_RESOURCE_EXHAUSTED, f"a connection may have {_MOST_STREAMS} streams of reflection")
            return
        # Imported at the first question: the descriptors of these services take memory, and most processes
        # never need them.
        from ..reflection import reflection

        try:
            answer = reflection().answer(call.body)
        except InvalidRequest as error:
            status = status_of(error)
            self._end(call, status.number, status.message.encode())
            return
        if not session.send(number, answer):
            streams.discard(number)
        elif self._ended:
            session.end(number)

    def forget(self, session: Session) -> None:
        """Forget the streams of a closed connection."""
        self._streams.pop(session, None)

    def leave(self) -> None:
        """End all streams, because their peers may never do so."""
        self._ended = True
        for session, streams in self._streams.items():
            for number in streams:
                session.end(number)
            streams.clear()

    def _end(self, call: NativeCall, status: int, message: bytes) -> None:
        """End the stream of a call, after the answers to earlier questions."""
        self._streams[call.session].discard(call.number)
        call.session.end(call.number, status)
        call.fail(status, message.decode())  # only if nothing was answered yet

    def _add(self, session: Session, streams: set[int], number: int) -> bool:
        if len(streams) >= _MOST_STREAMS:
            streams.intersection_update([each for each in streams if session.is_open(each)])
        if len(streams) >= _MOST_STREAMS:
            return False
        streams.add(number)
        return True
