"""The control plane of both gateways: go-control-plane's server in a process (tools/control_plane)."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from types import TracebackType
from typing import NamedTuple, Self

import pytest

from ratelimit_service.proto.xds_pb2 import RateLimitConfig

from .service import REPOSITORY, port_of
from .waiting import wait_for

BINARY = REPOSITORY / "build" / "control-plane"


class ReceivedRequest(NamedTuple):
    """A request that it has received."""

    stream: int
    node: str
    version: str
    nonce: str
    code: int
    error: str


class Tls(NamedTuple):
    """The files of its TLS."""

    certificate: str
    key: str
    clients: str


class GoControlPlane:
    """A control plane on 127.0.0.1:`port`. After `stop`, `start` uses the same port.

    Skips the test if it could not be built.
    """

    def __init__(self, tls: Tls | None = None, node: str = "envoy-ratelimit") -> None:
        if not BINARY.exists():
            pytest.skip(
                "build/control-plane is missing: `make test` builds it where go is installed",
                allow_module_level=True,
            )
        self._arguments = ["-node", node]
        if tls is not None:
            self._arguments += ["-cert", tls.certificate, "-key", tls.key, "-ca", tls.clients]
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.port = 0
        self.asked: list[ReceivedRequest] = []
        """All requests, of this process and the previous ones."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def address(self) -> str:
        """ "127.0.0.1:43211"."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start a process without a snapshot."""
        self._process = subprocess.Popen(
            [str(BINARY), "-listen", self.address, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = port_of(self._process.stdout.readline().strip())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """Kill it, if it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        self._close(process)

    def leave(self) -> int:
        """Stop it as in a rolling update: it waits for every call. Return its exit code."""
        process, self._process = self._process, None
        assert process is not None and process.stdin is not None
        process.stdin.write('{"stop": true}\n')
        process.stdin.flush()
        try:
            return process.wait(15)
        finally:
            process.kill()
            self._close(process)

    def _close(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None and self._reader is not None
        process.stdin.close()
        self._reader.join(5)
        process.stdout.close()

    def send(self, *configs: RateLimitConfig, version: str) -> None:
        """Set a snapshot with these resources."""
        resources = [base64.b64encode(each.SerializeToString()).decode() for each in configs]
        self._send({"version": version, "resources": resources})

    def send_nothing(self) -> None:
        """Set a snapshot without the type."""
        self._send({"absent": True})

    def wait_for(self, version: str, *, error: bool = False) -> ReceivedRequest:
        """Return the first request that accepts this version, or rejects another one while it has this
        one.
        """
        return wait_for(
            f"{version} {'rejected' if error else 'accepted'}",
            lambda: [
                each
                for each in self.asked
                if each.version == version and bool(each.error) == error and each.nonce
            ],
        )[0]

    def _send(self, command: object) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self.asked.append(ReceivedRequest(**json.loads(line)))
