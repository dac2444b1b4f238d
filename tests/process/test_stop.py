"""How the process ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from grpc_health.v1 import health_pb2

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.redis_servers import RedisServer
from testing.service import Service, calling, run
from testing.waiting import wait_for

from .conftest import probing, serving

TERM = signal.SIGTERM


class Held(NamedTuple):
    """A service with a call in flight, because its Redis does not answer, and the outcome of the call."""

    service: Service
    redis: RedisServer
    call: Future[pb.RateLimitResponse]

    def release(self) -> None:
        """Let Redis continue."""
        os.kill(self.redis.pid, signal.SIGCONT)


@contextmanager
def held(config: str, transport: str = "grpcio", **settings: str) -> Iterator[Held]:
    """Hold a call of 7 hits until `release`."""
    with (
        RedisServer() as redis,
        Service(
            {
                "REDIS_URL": redis.address,
                "REDIS_TIMEOUT": "60s",
                "SHUTDOWN_GRACE": "60s",
                "STORE_ANSWER_DEADLINE": "60s",
                "CONFIG_PATH": config,
                "GRPC_TRANSPORT": transport,
                **settings,
            }
        ) as service,
        calling(service.grpc) as caller,
        ThreadPoolExecutor(1) as thread,
    ):
        wait_for("healthy", lambda: service.health() == (200, "OK"))
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            call = thread.submit(caller.ask, "d", "team", "dba", hits=7, timeout=60)
            wait_for("a call in hand", lambda: service.metric("ratelimit_service_calls_in_hand") == 1)
            yield Held(service, redis, call)
        finally:
            os.kill(redis.pid, signal.SIGCONT)


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_a_call_in_flight_is_finished_before_the_process_ends(config: str, transport: str) -> None:
    """Health is NOT_SERVING at once.

    Then the call is answered, its hits are in Redis, and the exit code is 0.
    """
    with held(config, transport) as now, probing(now.service) as probe:
        watches = [probe.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "ratelimit")]
        assert [health_pb2.HealthCheckResponse.SERVING] * 2 == [next(watch).status for watch in watches]
        now.service.signal(TERM)
        assert [health_pb2.HealthCheckResponse.NOT_SERVING] * 2 == [next(watch).status for watch in watches]
        assert (500, "unhealthy: running") == now.service.health()
        assert not now.call.done()
        now.release()
        assert pb.RateLimitResponse.OK == now.call.result().overall_code
        assert 0 == now.service.ended()
        assert ["7"] == [now.redis.cli("GET", key) for key in now.redis.cli("KEYS", "{d|*").split()]


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_a_draining_process_is_not_serving_for_health_and_still_answers(config: str, transport: str) -> None:
    """Health is NOT_SERVING for every client, and every call is answered, also on a new connection."""
    environment = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": config,
        "GRPC_TRANSPORT": transport,
        "SHUTDOWN_DRAIN": "60s",
    }
    with Service(environment) as service, calling(service.grpc) as caller:
        assert 10 == caller.limit("d", "team", "dba")
        service.signal(TERM)
        assert 60 == service.wait_for_event("draining")["seconds"]
        assert (500, "unhealthy: running") == service.health()
        with probing(service) as probe, calling(service.grpc) as newcomer:
            assert ["NOT_SERVING"] * 2 == [serving(probe, name) for name in ("", "ratelimit")]
            assert [10, 10] == [each.limit("d", "team", "dba") for each in (caller, newcomer)]
        end_at_once(service)


def end_at_once(service: Service) -> None:
    """Send the signal until the stopping service ends, with the exit code of a process that the signal
    killed.
    """

    def signalled_again() -> bool:
        service.signal(TERM)  # two signals in quick succession count as one
        return service.running

    wait_for("its end", lambda: not signalled_again())
    assert 128 + TERM == service.ended()


def test_a_second_signal_ends_the_process_at_once(config: str) -> None:
    """An operator may not want to wait for the calls in flight."""
    with held(config) as now:
        now.service.signal(TERM)
        now.service.wait_for_event("stopping")
        end_at_once(now.service)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_end_the_process_in_the_same_way(config: str, number: signal.Signals) -> None:
    """SIGINT (Ctrl-C), and SIGHUP (a closed terminal)."""
    with Service({"BACKEND_TYPE": "memory", "CONFIG_PATH": config}) as service:
        service.signal(number)
        assert (0, number.name) == (service.ended(), service.events("stopping")[0]["signal"])


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_the_unix_socket_of_a_killed_process_is_taken_over(
    config: str, tmp_path: Path, transport: str
) -> None:
    """With GRPC_UDS, the socket file of a crashed process does not prevent the next start, but a running
    process does; a stop removes it.
    """
    path = tmp_path / "sockets" / "grpc.sock"
    path.parent.mkdir()
    environment = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": config,
        "GRPC_UDS": str(path),
        "GRPC_TRANSPORT": transport,
    }
    Service(environment).kill()
    assert path.is_socket()
    with Service(environment) as service, calling(f"unix:{path}") as caller:
        second = run("serve", environment={**environment, "LOG_LEVEL": "error"})
        said = (
            f"cannot listen for gRPC on unix:{path}: another process has this path: give each one of its "
            "own\n"
        )
        assert (1, "", said) == second
        assert f"unix:{path}" == service.grpc
        assert 10 == caller.limit("d", "team", "dba")
        assert 0 == service.stop()
    assert [] == list(path.parent.iterdir())
