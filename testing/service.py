"""The service as deployed: a process, configured by its environment, tested through its ports."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import grpc
import httpx

from ratelimit_service.proto import ratelimit_pb2 as pb

from .waiting import PATIENCE, wait_for

T = TypeVar("T")

COMMAND = (sys.executable, "-m", "ratelimit_service")
METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
REPOSITORY = Path(__file__).parents[1]

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
"""The variables that the process inherits from the tests; no other variable configures it by accident."""

FREE_PORTS = {"GRPC_PORT": "0", "PORT": "0", "DEBUG_PORT": "0", "PROMETHEUS_ADDR": "127.0.0.1:0"}
"""Settings for free ports; the log line "serving" has them."""


LOG = {"LOG_LEVEL": "info", "LOG_FORMAT": "json"}
"""Settings for a log that tests can parse."""

PATIENT = {"REDIS_TIMEOUT": "10s", "STORE_ANSWER_DEADLINE": "10s"}
"""Settings for long waits for Redis, so that a slow machine does not fail unrelated tests."""


MEASURED = "COVERAGE_PROCESS_CONFIG"
"""The variable by which a process measures its coverage."""


def port_of(address: str) -> int:
    """Return the port of "127.0.0.1:43211"."""
    return int(address.rpartition(":")[2])


def inherited() -> dict[str, str]:
    """Return the environment that every process inherits."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


class CommandResult(NamedTuple):
    """A finished command: its exit code and output."""

    code: int
    out: str
    err: str


def run(*arguments: str, environment: Mapping[str, str]) -> CommandResult:
    """Run `ratelimit-service ARGUMENTS` with FREE_PORTS and `environment`, and wait for its end."""
    done = subprocess.run(
        (*COMMAND, *arguments),
        cwd=REPOSITORY,
        env={**inherited(), **FREE_PORTS, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


class Serving:
    """A started `ratelimit-service serve`, with `environment` in addition to what every process needs.

    `command` is what starts it. `stdout` is an open file descriptor.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        command: Sequence[str] = (*COMMAND, "serve"),
        arguments: Sequence[str] = (),
        stdout: int = subprocess.DEVNULL,
    ) -> None:
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            (*command, *arguments),
            cwd=REPOSITORY,
            env={**inherited(), **FREE_PORTS, **PATIENT, **LOG, **environment},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        )
        self._reading = threading.Event()
        self._reading.set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in stderr:
                self._lines.append(line)
                self._reading.wait()

    @contextmanager
    def log_unread(self) -> Iterator[None]:
        """Stop reading the log meanwhile; its pipe has room for a few lines only."""
        assert self._process.stderr is not None
        fcntl.fcntl(self._process.stderr, fcntl.F_SETPIPE_SZ, 4_096)
        self._reading.clear()
        try:
            yield
        finally:
            self._reading.set()

    @property
    def log(self) -> str:
        """The log so far."""
        return "".join(self._lines)

    def everything(self) -> list[dict[str, Any]]:
        """All logged events, with LOG_FORMAT=json."""
        return [json.loads(line) for line in tuple(self._lines) if line.startswith("{")]

    def events(self, message: str) -> list[dict[str, Any]]:
        """Return the events with this message that were logged so far (see `wait_for_events`)."""
        return [event for event in self.everything() if event.get("@message") == message]

    def wait_for_events(self, message: str, number: int = 1) -> list[dict[str, Any]]:
        """Wait for this many events with this message; return all that were logged so far.

        A thread of the service writes the log, so a line may come after any other sign of the same event:
        expect a line with this function, and look for the absence of a line after `stop`, when the log is
        complete.
        """

        def enough() -> list[dict[str, Any]]:
            found = self.events(message)
            return found if len(found) >= number else []

        return self._wait_for(f"{number} events {message!r} in the log", enough)

    def wait_for_event(self, message: str) -> dict[str, Any]:
        """Wait for and return the first logged event with this message."""
        return self.wait_for_events(message)[0]

    def wait_for_text(self, pattern: str) -> str:
        """Wait for a pattern in the log, and return its first group."""
        found: list[str] = self._wait_for(f"{pattern!r} in the log", lambda: re.findall(pattern, self.log))
        return found[0]

    def _wait_for(self, what: str, look: Callable[[], list[T]]) -> list[T]:
        def probe() -> list[T]:
            ended = self._process.poll()
            if ended is not None:  # its last lines may still be in the pipe
                self._reader.join(timeout=PATIENCE)
            found = look()
            assert found or ended is None, f"the service has ended with code {ended}"
            return found

        try:
            return wait_for(what, probe)
        except AssertionError as failure:
            failure.add_note(self.log)
            raise

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end, and return the exit code, negative for a signal."""
        try:
            return self._process.wait(timeout=PATIENCE)
        finally:
            self.kill()

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """Kill it, if it runs."""
        self._process.kill()
        self._process.wait()
        self._reading.set()
        self._reader.join(timeout=PATIENCE)


class Service(Serving):
    """A serving service. `grpc`, `http`, `debug` and `metrics` are its addresses ("127.0.0.1:43211").

    `store` is where it counts.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        command: Sequence[str] = (*COMMAND, "serve"),
        arguments: Sequence[str] = (),
        stdout: int = subprocess.DEVNULL,
    ) -> None:
        super().__init__(environment, command=command, arguments=arguments, stdout=stdout)
        try:
            serving = self.wait_for_event("serving")
        except BaseException:
            self.kill()
            raise
        self.grpc, self.http, self.debug, self.metrics, self.store = (
            str(serving[name]) for name in ("grpc", "http", "debug", "metrics", "store")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if MEASURED in os.environ and self.running:  # a killed process reports nothing
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=PATIENCE)
        self.kill()

    def health(self) -> tuple[int, str]:
        """Return the status and the body of /healthcheck."""
        answer = httpx.get(f"http://{self.http}/healthcheck", trust_env=False, timeout=PATIENCE)
        return answer.status_code, answer.text.strip()

    def metric(self, name: str) -> float:
        """Return the value of a metric without labels."""
        lines = self._metrics()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def metric_sum(self, name: str) -> float:
        """Return the sum of all series of a metric."""
        lines = self._metrics()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    def _metrics(self) -> list[str]:
        text = httpx.get(f"http://{self.metrics}/metrics", trust_env=False, timeout=PATIENCE).text
        return text.splitlines()


class Caller:
    """A client that behaves like a gateway."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._call = channel.unary_unary(
            METHOD,
            request_serializer=pb.RateLimitRequest.SerializeToString,
            response_deserializer=pb.RateLimitResponse.FromString,
        )

    def ask(
        self, domain: str, key: str, value: str | bytes, *, hits: int | None = 0, timeout: float = PATIENCE
    ) -> pb.RateLimitResponse:
        """Send a request with one entry. None sends no hits_addend, which counts 1; hits below 0 are a
        refund.
        """
        request = pb.RateLimitRequest(domain=domain)
        descriptor = request.descriptors.add()
        descriptor.entries.add(key=key.encode(), value=value if isinstance(value, bytes) else value.encode())
        if hits is not None:
            descriptor.hits_addend.value = abs(hits)
            descriptor.is_negative_hits = hits < 0
        answer: pb.RateLimitResponse = self._call(request, timeout=timeout)
        return answer

    def call(self, request: pb.RateLimitRequest, *, timeout: float = PATIENCE) -> pb.RateLimitResponse:
        """Send a request as it is."""
        answer: pb.RateLimitResponse = self._call(request, timeout=timeout)
        return answer

    def limit(self, domain: str, key: str, value: str) -> int:
        """Return the limit in force by a check; 0 for none."""
        return self.ask(domain, key, value).statuses[0].current_limit.requests_per_unit

    def status(self, domain: str, key: str, value: str) -> str:
        """Return the name of the gRPC status of a check: "OK", "UNAVAILABLE"."""
        try:
            self.ask(domain, key, value)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


@contextmanager
def calling(address: str) -> Iterator[Caller]:
    """Open a caller of the service at an address ("127.0.0.1:43211", "unix:/run/ratelimit.sock")."""
    with grpc.insecure_channel(address) as channel:
        yield Caller(channel)


class ConfigMapMount:
    """A directory with the files of a ConfigMap, as kubelet writes them.

    `config.yaml` is a link to `..data/config.yaml`, and `..data` to a directory named after the time. An
    update writes another such directory, and swaps `..data` in one rename.
    """

    def __init__(self, directory: Path, files: Mapping[str, str]) -> None:
        self.directory = directory
        self._versions = 0
        directory.mkdir(parents=True)
        self.update(files)
        for name in files:
            (directory / name).symlink_to(Path("..data", name))

    def update(self, files: Mapping[str, str]) -> None:
        """Swap in another version of the files."""
        data = self.directory / "..data"
        before = data.resolve() if data.is_symlink() else None
        self._versions += 1
        version = self.directory / f"..2026_11_21_01_00_00.{self._versions:09}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
        link = self.directory / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(data)
        if before is not None:
            for file in before.iterdir():
                file.unlink()
            before.rmdir()
