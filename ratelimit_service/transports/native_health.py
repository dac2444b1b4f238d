"""grpc.health.v1 for the native transport."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from ..health import SERVICE_NAME, Health
from .native_connection import CHECK, Connection

_NOT_FOUND = 5
_INVALID_ARGUMENT = 3
_STATUS = health_pb2.HealthCheckResponse
_MANY_WATCHES = 100
"""Of one connection; before there are more, those that have ended are forgotten."""


class HealthService:
    """Answers Check and Watch: "" is the process, SERVICE_NAME what `health` says, other names are unknown."""

    def __init__(self, health: Health) -> None:
        self._watches: dict[Connection, dict[int, str]] = {}
        self._leaving = False
        # "" stays SERVING until the server drains: a liveness probe must not restart it because Redis is down.
        self._statuses = {"": _STATUS.SERVING}
        health.listen(self._on_health)

    def asked(self, connection: Connection, number: int, method: int, body: bytes) -> None:
        """Answer a Check or begin a Watch."""
        try:
            name = health_pb2.HealthCheckRequest.FromString(body).service
        except DecodeError:
            connection.fail_with(number, _INVALID_ARGUMENT, "the message is not a HealthCheckRequest")
            return
        if method == CHECK:
            if name in self._statuses:
                connection.answer(number, self._payload(name))
            else:
                connection.fail_with(number, _NOT_FOUND, "there is no such service")
            return
        watches = self._watches.setdefault(connection, {})
        if len(watches) >= _MANY_WATCHES:
            for ended in [other for other in watches if not connection.session.is_open(other)]:
                del watches[ended]
        watches[number] = name
        self._tell(connection, number, name)

    def forget(self, connection: Connection) -> None:
        """The connection has gone."""
        self._watches.pop(connection, None)

    def drain(self) -> None:
        """Tell everybody NOT_SERVING, for good."""
        self._leaving = True
        for name in self._statuses:
            self._set(name, _STATUS.NOT_SERVING)

    def leave(self) -> None:
        """End all watches: they have no end of their own."""
        for connection, watches in self._watches.items():
            for number in watches:
                connection.session.end(number)
            watches.clear()
            connection.wake()

    def _on_health(self, healthy: bool) -> None:
        if not self._leaving:
            self._set(SERVICE_NAME, _STATUS.SERVING if healthy else _STATUS.NOT_SERVING)

    def _set(self, name: str, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        before, self._statuses[name] = self._statuses.get(name), status
        if before == status:
            return
        for connection, watches in self._watches.items():
            for number in [number for number, watched in watches.items() if watched == name]:
                self._tell(connection, number, name)

    def _tell(self, connection: Connection, number: int, name: str) -> None:
        if not connection.session.send(number, self._payload(name)):
            self._watches[connection].pop(number, None)
        connection.wake()

    def _payload(self, name: str) -> bytes:
        status = self._statuses.get(name, _STATUS.SERVICE_UNKNOWN)
        payload: bytes = _STATUS(status=status).SerializeToString()
        return payload
