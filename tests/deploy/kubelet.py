"""Kubelet's view of a container: it probes a running service as the manifest says, on its own clock.

Only the time is simulated. Each probe is sent, and its result counts as for kubelet (successThreshold is 1
for all of them).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from testing.service import Service, port_of

from .gateways import Object

PERIOD, FAILURES = 10, 3
"""The defaults of periodSeconds and failureThreshold."""

_CHECK = "/grpc.health.v1.Health/Check"


class Kubelet:
    """Probes the container of a pod. `named` has its ports by their names."""

    def __init__(self, container: Object, service: Service, named: Mapping[str, int]) -> None:
        self._probes: dict[str, Object] = {
            name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")
        }
        self._service = service
        self._named = named
        self._now = 0
        self._failures = dict.fromkeys(self._probes, 0)
        self.started = self.ready = False
        self.restarts = 0

    def run(self, seconds: int) -> None:
        """Let time pass, with every probe that is due."""
        for _ in range(seconds):
            self._now += 1
            for name in ("readiness", "liveness") if self.started else ("startup",):
                if self._now % self._probes[name].get("periodSeconds", PERIOD) == 0:
                    self._probe(name)

    def _probe(self, name: str) -> None:
        probe = self._probes[name]
        if self._passes(probe):
            self._failures[name] = 0
            self.started = True
            self.ready = self.ready or name == "readiness"
            return
        self._failures[name] += 1
        if self._failures[name] < probe.get("failureThreshold", FAILURES):
            return
        self.ready = False
        if name != "readiness":
            self.restarts += 1
            self.started = False
            self._failures = dict.fromkeys(self._probes, 0)

    def _passes(self, probe: Object) -> bool:
        handlers = {name: probe[name] for name in ("grpc", "httpGet", "tcpSocket") if name in probe}
        ((kind, handler),) = handlers.items()
        address = self._address(handler["port"])
        if kind == "grpc":
            request = health_pb2.HealthCheckRequest(service=handler["service"]).SerializeToString()
            with grpc.insecure_channel(address) as channel:
                answer = channel.unary_unary(_CHECK, None, None)(request, timeout=30)
            status: Any = health_pb2.HealthCheckResponse.FromString(answer).status
            return bool(status == health_pb2.HealthCheckResponse.SERVING)
        if kind == "httpGet":
            connection = HTTPConnection(address, timeout=30)
            try:
                connection.request("GET", handler["path"])
                return 200 <= connection.getresponse().status < 400
            finally:
                connection.close()
        try:
            socket.create_connection(("127.0.0.1", port_of(address)), timeout=30).close()
        except OSError:
            return False
        return True

    def _address(self, port: int | str) -> str:
        """Return the address on this machine of a port of the container."""
        number = port if isinstance(port, int) else self._named[port]
        return {8081: self._service.grpc, 8080: self._service.http}[number]
