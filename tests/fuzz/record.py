"""Write down what real clients send: grpcio, h2load, curl and Envoy, one connection each.

python -m tests.fuzz.record [CLIENT ...]

Needs h2load and curl, and what the end-to-end tests need. The files are in the repository, so that nobody has
to.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ratelimit_service.transports.grpc_method import PATH
from testing.envoy import Envoy
from testing.mock_llm import MockLlm
from testing.waiting import wait_for

from ..transports import h2
from ..transports.serving import CHARGE_40, CHECK
from .native import TRAFFIC, Server


class Recorder:
    """A server on `port` that answers everything, and keeps what each connection sent in `heard`."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.heard: list[bytearray] = []
        self._open = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            self._open += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        heard, server = bytearray(), Server()
        self.heard.append(heard)
        with connection:
            while data := connection.recv(65_536):
                heard += data
                server.take(data)
                connection.sendall(server.session.drain())
        self._open -= 1

    def longest(self) -> bytes:
        """What the connection sent that sent the most, once all are closed."""
        wait_for("the ends of all connections", lambda: self.heard and not self._open)
        return bytes(max(self.heard, key=len))


def by_grpcio(port: int) -> None:
    """Calls at once, with a deadline; the health; a watch that is given up."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(PATH, bytes, bytes)
        calls = [method.future(body, timeout=60) for body in (CHECK, CHARGE_40) * 3]
        for call in calls:
            call.result()
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(service="ratelimit"))
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        next(watch)
        watch.cancel()


def by_reflection(port: int) -> None:
    """Questions at once, and questions that depend on the answers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health")
        assert 3 == len(list(stub.ServerReflectionInfo(iter([listing, symbol, symbol]))))
        for question in (listing, symbol):
            assert 1 == len(list(stub.ServerReflectionInfo(iter([question]))))


def by_command(port: int, *command: str) -> None:
    """A command, to whose end are added the headers and the address of a call."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(h2.message(CHARGE_40))
        body.flush()
        given = [part.replace("BODY", body.name) for part in command]
        subprocess.run(
            [*given, "-Hcontent-type: application/grpc", "-Hte: trailers", f"http://127.0.0.1:{port}{PATH}"],
            stdout=subprocess.DEVNULL,
            check=True,
        )


def by_envoy(port: int) -> None:
    """Checks, charges and a refund, as its filter sends them."""
    llm = MockLlm()
    with tempfile.TemporaryDirectory() as scratch:
        envoy = Envoy(Path(scratch), ratelimit_port=port, llm_port=llm.port)
        with httpx.Client(base_url=envoy.url, trust_env=False, timeout=60) as client:
            for path, headers in (
                ("/team", {"x-team-id": "dba"}),
                ("/team", {"x-team-id": "support"}),
                ("/refund", {"x-team-id": "dba", "x-refund": "90"}),
            ):
                client.post(path, headers=headers, json={"model": "gpt-x", "messages": []})
        envoy.stop()
    llm.stop()


CLIENTS = {
    "grpcio": by_grpcio,
    "reflection": by_reflection,
    "h2load": lambda port: by_command(port, "h2load", "-n20", "-c1", "-m10", "-dBODY"),
    "curl": lambda port: by_command(port, "curl", "-s", "--http2-prior-knowledge", "--data-binary", "@BODY"),
    "envoy": by_envoy,
}


def main() -> None:
    """Record those that are named, or all."""
    TRAFFIC.mkdir(exist_ok=True)
    for name in sys.argv[1:] or CLIENTS:
        recorder = Recorder()
        CLIENTS[name](recorder.port)
        (TRAFFIC / f"{name}.bin").write_bytes(recorder.longest())


if __name__ == "__main__":
    main()
