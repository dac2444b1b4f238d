"""How workers end: killed under load, by a signal, or because they cannot start."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testing.redis_servers import RedisServer
from testing.service import Caller, run
from testing.waiting import wait_for

from .conftest import rules, write
from .test_stop import end_at_once, held
from .workers import (
    KILL,
    MANY,
    TERM,
    alive,
    connections,
    counted,
    metrics,
    processes,
    refused,
    shares,
    states,
    transports,
    workers,
)


class Load:
    """Threads that charge 1 repeatedly, each on its own connection, until a call fails."""

    def __init__(self, callers: list[Caller]) -> None:
        self.acknowledged = [0] * len(callers)
        self.failed = [0] * len(callers)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._charge, args=(index, caller))
            for index, caller in enumerate(callers)
        ]

    def _charge(self, index: int, caller: Caller) -> None:
        while not self._over.is_set():
            try:
                caller.ask("d", "team", "dba", hits=1)
            except grpc.RpcError:
                self.failed[index] += 1
                return
            self.acknowledged[index] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@transports
def test_a_killed_worker_breaks_only_its_own_connections(
    transport: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """No acknowledged charge is lost, none is counted twice, and no counter in the metrics decreases."""
    redis_server.cli("FLUSHALL")
    config = write(tmp_path / "d.yaml", rules("d", 10**9))
    with workers(config, redis_server.url, GRPC_TRANSPORT=transport) as service:
        for killed in (
            (0, 1) if transport == "native" else (0,)
        ):  # the one that serves the HTTP ports, and then the one that serves them since
            with connections(service) as callers:
                before = counted(redis_server, "dba") if killed else 0
                shown = [sum(metrics(service, "rule_hits").values())]
                with Load(callers) as load:
                    wait_for("load", lambda load=load: min(load.acknowledged) > 5)  # type: ignore[misc]
                    shown.append(sum(metrics(service, "rule_hits").values()))
                    os.kill(processes(service)[0], KILL)
                    service.wait_for_events("a worker has ended: it is started again", killed + 1)
                    at_its_end = list(load.acknowledged)
                    wait_for("both", lambda: states(service) == {"wanted": 2, "serving": 2})
                    shown.append(sum(metrics(service, "rule_hits").values()))
                failed = sum(load.failed)
                assert failed < MANY  # none, if none of the killed worker's connections had a call in flight
                assert all(
                    after > before
                    for before, after, died in zip(at_its_end, load.acknowledged, load.failed, strict=True)
                    if not died
                )
                acknowledged = sum(load.acknowledged)
                assert acknowledged <= counted(redis_server, "dba") - before <= acknowledged + failed
                assert sorted(shown) == shown
            assert (200, "OK") == service.health()
        ends = service.events("a worker has ended: it is started again")
        assert {"SIGKILL"} == {end["signal"] for end in ends}
        assert {"": len(ends)} == metrics(service, "worker_restarts")
        assert 0 == service.stop()


@transports
def test_a_call_in_flight_is_finished_before_the_workers_end(config: str, transport: str) -> None:
    """After SIGTERM to the supervisor, health is NOT_SERVING on every connection, the call is answered, its
    hits are in Redis, and the exit code is 0.
    """
    with held(config, transport, WORKERS="2") as now, ExitStack() as stack:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            stack.enter_context(grpc.insecure_channel(now.service.grpc, options=alone)) for _ in range(6)
        ]
        watches = [
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="ratelimit"))
            for channel in channels
        ]
        assert [health_pb2.HealthCheckResponse.SERVING] * 6 == [next(watch).status for watch in watches]
        now.service.signal(TERM)
        assert [health_pb2.HealthCheckResponse.NOT_SERVING] * 6 == [next(watch).status for watch in watches]
        assert (500, "unhealthy: running") == now.service.health()
        assert not now.call.done()
        now.release()
        assert 1 == now.call.result().overall_code
        assert 0 == now.service.ended()
        assert ["7"] == [now.redis.cli("GET", key) for key in now.redis.cli("KEYS", "{d|*").split()]


def test_a_second_signal_ends_all_workers_at_once(config: str) -> None:
    with held(config, WORKERS="2") as now:
        pids = processes(now.service)
        now.service.signal(TERM)
        now.service.wait_for_event("stopping")
        end_at_once(now.service)
        wait_for("the ends of the workers", lambda: not any(map(alive, pids)))


def test_a_stopped_worker_is_replaced_and_none_outlives_the_supervisor(config: str, redis_url: str) -> None:
    """After SIGTERM to a worker, it drains, and the service stays healthy.

    Without the supervisor, all workers drain and end.
    """
    with workers(config, redis_url, SHUTDOWN_DRAIN="1s") as service:
        with connections(service) as callers:
            for caller in callers:
                caller.ask("d", "team", "dba", hits=1)
        assert all(shares(service))
        counted = metrics(service, "rule_hits")
        os.kill(processes(service)[0], TERM)  # that with the HTTP ports
        wait_for("its drain", lambda: states(service) == {"wanted": 2, "serving": 1})
        assert (200, "OK") == service.health()
        assert counted == metrics(service, "rule_hits")  # Prometheus takes a decreasing counter for a restart
        ended = service.wait_for_event("a worker has ended: it is started again")
        assert (0, 0) == (ended["worker"], ended["code"])
        wait_for("both", lambda: states(service) == {"wanted": 2, "serving": 2})
        assert (200, "OK") == service.health()
        assert counted == metrics(service, "rule_hits")
        pids = processes(service)
        assert 2 == len(pids)
        service.signal(KILL)
        wait_for("the ends of the workers", lambda: not any(map(alive, pids)))
        service.wait_for_text("the supervisor has ended: its workers end as well")


@contextmanager
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield str(taken.getsockname()[1])


def test_a_worker_that_cannot_start_ends_the_service_with_the_reason(config: str, redis_url: str) -> None:
    """The reason is logged once, not once for each worker."""
    with taken_port() as port:
        ended = refused(config, redis_url, PORT=port, HOST="127.0.0.1", LOG_FORMAT="json")
    assert 1 == ended.code
    assert (
        f"cannot listen for HTTP on 127.0.0.1:{port}: is the port taken? Choose another with PORT"
        in ended.err.splitlines()
    )
    assert '"@message": "a worker cannot start: the service ends", "worker": 0, "code": 1' in ended.err


@pytest.mark.parametrize("given", ["2", "auto"])
def test_workers_cannot_use_the_memory_store(config: str, given: str) -> None:
    ended = run("serve", environment={"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "WORKERS": given})
    assert (1, 1) == (ended.code, ended.err.count("\n"))
    assert ended.err.startswith(
        f"WORKERS={given} needs BACKEND_TYPE=redis: the memory store counts in one process"
    )
