"""grpc.health.v1 for the native transport."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from ...runtime.health import SERVICE_NAME, Health
from ._http2 import NativeCall, Session
from .methods import CHECK

_NOT_FOUND = 5
_INVALID_ARGUMENT = 3
_RESOURCE_EXHAUSTED = 8
_REPORTS_AT_ONCE = 500
"""Watches that get a changed status in one turn of the event loop."""
_UNKNOWN = "unknown"
"""Stands for every unknown service: the names come from callers, may have megabytes, and are not kept."""
_STATUS = health_pb2.HealthCheckResponse
_MOST_WATCHES = 100
"""Concurrent watches of one connection."""


class HealthService:
    """Answers Check and Watch.

    "" stands for the process, SERVICE_NAME has the state of `health`, and other services are unknown.
    """

    def __init__(self, health: Health) -> None:
        self._watches: dict[Session, dict[int, str]] = {}
        self._leaving = False
        self._ended = False
        # The process is SERVING until the server drains: a liveness probe must not restart it while Redis is
        # down.
        self._statuses = {"": _STATUS.SERVING}
        health.listen(self._on_health)

    def handle(self, call: NativeCall) -> None:
        """Answer a Check, or begin a Watch."""
        try:
            name = health_pb2.HealthCheckRequest.FromString(call.body).service
        except DecodeError:
            call.fail(_INVALID_ARGUMENT, "the message is not a HealthCheckRequest")
            return
        if call.method == CHECK:
            if name in self._statuses:
                call.write(self._payload(name))
            else:
                call.fail(_NOT_FOUND, "there is no such service")
            return
        session = call.session
        if session.owner is None:  # the connection is closed
            return
        watches = self._watches.setdefault(session, {})
        if len(watches) >= _MOST_WATCHES:
            for ended in [other for other in watches if not session.is_open(other)]:
                del watches[ended]
            if len(watches) >= _MOST_WATCHES:
                call.fail(_RESOURCE_EXHAUSTED, f"a connection may have {_MOST_WATCHES} watches")
                return
        name = name if name in self._statuses else _UNKNOWN
        watches[call.number] = name
        self._report(session, call.number, name)
        if self._ended:
            session.end(call.number)

    def forget(self, session: Session) -> None:
        """Forget the watches of a closed connection."""
        self._watches.pop(session, None)

    def drain(self) -> None:
        """Report NOT_SERVING to every check and watch from now on."""
        self._leaving = True
        for name in self._statuses:
            self._set(name, _STATUS.NOT_SERVING)

    def leave(self) -> None:
        """End all watches, because their peers never do."""
        self._ended = True
        for session, watches in self._watches.items():
            for number in watches:
                session.end(number)
            watches.clear()

    def _on_health(self, healthy: bool) -> None:
        if not self._leaving:
            self._set(SERVICE_NAME, _STATUS.SERVING if healthy else _STATUS.NOT_SERVING)

    def _set(self, name: str, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        before, self._statuses[name] = self._statuses.get(name), status
        if before == status:
            return
        affected = [
            (session, number)
            for session, watches in self._watches.items()
            for number, watched in watches.items()
            if watched == name
        ]
        self._report_some(iter(affected))

    def _report_some(self, watches: Iterator[tuple[Session, int]]) -> None:
        """Report the current status to some of the watches now, and to the others in later turns of the event
        loop.
        """
        for session, number in itertools.islice(watches, _REPORTS_AT_ONCE):
            name = self._watches.get(session, {}).get(number)
            if name is not None:
                self._report(session, number, name)
        rest = next(watches, None)
        if rest is not None:
            asyncio.get_running_loop().call_soon(self._report_some, itertools.chain([rest], watches))

    def _report(self, session: Session, number: int, name: str) -> None:
        if not session.send(number, self._payload(name)):
            self._watches[session].pop(number, None)

    def _payload(self, name: str) -> bytes:
        status = self._statuses.get(name, _STATUS.SERVICE_UNKNOWN)
        payload: bytes = _STATUS(status=status).SerializeToString()
        return payload
