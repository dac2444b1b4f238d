"""Real Redis servers on free ports, stopped by their process."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from .waiting import PATIENCE, wait_for

_ATTEMPTS = 10
_ROUND = 0.01


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1. Another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class TlsFiles(NamedTuple):
    """The paths of a server's certificate, its key, and the CA of its clients, if it requires
    certificates.
    """

    certificate: str
    key: str
    clients: str = ""


class RedisServer:
    """A redis-server that keeps nothing on disk.

    It listens on 127.0.0.1:`port`, with TLS where there is `tls`, and on `unixsocket`. `options` are
    redis-server's own ("--maxmemory", "1mb"). After `stop`, `start` brings an empty one up at the same
    places.
    """

    def __init__(self, *options: str, password: str = "", tls: TlsFiles | None = None) -> None:
        self._options = (*options, "--requirepass", password) if password else options
        self._password = password
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        # Not pytest's tmp_path: some systems limit the path of a socket to 104 bytes.
        self._directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self.unixsocket = self._directory / "redis.sock"
        self.port = 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """ "127.0.0.1:43211", for REDIS_URL."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """ "redis://127.0.0.1:43211", with the password if it has one."""
        scheme = "rediss" if self._tls else "redis"
        return (
            f"{scheme}://:{self._password}@{self.address}" if self._password else f"{scheme}://{self.address}"
        )

    @property
    def pid(self) -> int:
        """The id of its process, for tests that pause it."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start, and return when it answers. Raises RuntimeError with the server's log if it does not."""
        again = self.port
        for _ in range(1 if again else _ATTEMPTS):
            # Another process may take the free port first: then this redis-server exits, and the next attempt
            # follows.
            self.port = again or self._choose_port()
            self._process = self._launch()
            if self._answers():
                return
            self.stop()
        raise RuntimeError(f"redis-server does not start:\n{self._log.read_text(errors='backslashreplace')}")

    def kill(self) -> None:
        """Kill it."""
        assert self._process is not None, "the server is not running"
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Stop it, if it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Stop it, and remove its files."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def cli(self, *arguments: str) -> str:
        """Return the output of `redis-cli ARGUMENTS`, including error replies."""
        environment = {**os.environ, "REDISCLI_AUTH": self._password} if self._password else None
        done = subprocess.run(
            ["redis-cli", "-s", str(self.unixsocket), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        return done.stdout.removesuffix("\n")

    def is_primary(self) -> bool:
        """Return whether it is a primary. Sentinel closes all connections while it promotes a replica."""
        try:
            return "role:master" in self.replication()
        except subprocess.CalledProcessError:
            return False

    def wait_for_replica(self) -> None:
        """Wait until a replica has all that was written until now. WAIT is about writes of its own
        connection.
        """
        written = int(re.findall(r"master_repl_offset:(\d+)", self.replication())[0])

        def has_all() -> bool:
            offsets = re.findall(r"^slave\d+:.*state=online,offset=(\d+)", self.replication(), re.M)
            return any(int(offset) >= written for offset in offsets)

        wait_for("a replica to have all", has_all)

    def replication(self) -> str:
        """Return `INFO replication`."""
        return self.cli("INFO", "replication")

    @property
    def _log(self) -> Path:
        return self._directory / "redis.log"

    def _choose_port(self) -> int:
        return free_port()

    def _launch(self) -> subprocess.Popen[bytes]:
        self.unixsocket.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            return subprocess.Popen(
                ["redis-server", *self._arguments()], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _arguments(self) -> list[str]:
        settings = {
            "--bind": "127.0.0.1",
            "--port": str(self.port),
            "--unixsocket": str(self.unixsocket),
            "--dir": str(self._directory),
            "--save": "",
            "--appendonly": "no",
        }
        if self._tls is not None:
            settings |= {
                "--port": "0",
                "--tls-port": str(self.port),
                "--tls-cert-file": self._tls.certificate,
                "--tls-key-file": self._tls.key,
                "--tls-ca-cert-file": self._tls.clients or self._tls.certificate,
                "--tls-auth-clients": "yes" if self._tls.clients else "no",
            }
        return [*(word for pair in settings.items() for word in pair), *self._options]

    def _answers(self) -> bool:
        """Return whether it started. Pings its Unix socket, because another process may have the port."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._ping():
                return True
            try:
                self._process.wait(_ROUND)
            except subprocess.TimeoutExpired:
                continue
            return False
        return False

    def _ping(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            try:
                connection.connect(str(self.unixsocket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False
