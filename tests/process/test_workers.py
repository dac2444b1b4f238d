"""Several workers are one service: its books, its metrics, its rules, its health and its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ratelimit_service.core.amendments.model import Put, override
from ratelimit_service.core.amendments.target import parse
from testing.control_plane import limit, resource
from testing.control_planes import Served
from testing.servers import RedisServer
from testing.service import Caller, Ended, Service, calling, run
from testing.waiting import wait_for

from .conftest import probing, rules, serving, write
from .test_amendments import apply
from .test_stop import end_at_once, held

TERM, KILL = signal.SIGTERM, signal.SIGKILL
MANY = 12
"""Connections: the kernel gives all of them to one of two workers once in two thousand times."""

RULES = """\
domain: d
descriptors:
  - key: team
    rate_limit: {unit: year, tokens_per_unit: 1000}
    warn_at: [0.5]
    track: true
"""

transports = pytest.mark.parametrize("transport", ["grpcio", "native"])


@contextmanager
def workers(config: object, redis_url: str, **settings: str) -> Iterator[Service]:
    """A service with two workers."""
    environment = {"REDIS_URL": redis_url, "CONFIG_PATH": str(config), "WORKERS": "2", **settings}
    with Service(environment) as service:
        wait_for("healthy", lambda: service.health() == (200, "OK"))
        yield service


@contextmanager
def connections(service: Service, number: int = MANY) -> Iterator[list[Caller]]:
    """Callers, each with a connection of its own, until some are with each of two workers."""
    with ExitStack() as stack:

        def connected() -> Caller:
            alone = [("grpc.use_local_subchannel_pool", 1)]
            return Caller(stack.enter_context(grpc.insecure_channel(service.grpc, options=alone)))

        callers = [connected() for _ in range(number)]
        for caller in callers:
            caller.ask("elsewhere", "team", "x")
        yield callers


def metrics(service: Service, name: str) -> dict[str, float]:
    """The series of a metric, by its labels as they are written."""
    text = httpx.get(f"http://{service.metrics}/metrics", trust_env=False).text
    found = re.findall(rf"^ratelimit_service_{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def shares(service: Service) -> list[float]:
    """The calls that each worker has answered."""
    return list(metrics(service, "worker_calls").values())


def processes(service: Service) -> list[int]:
    """The workers' processes, in the order in which they were started."""
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, command in commands.items() if b"cli.worker" in command]


def debug(service: Service, path: str) -> str:
    return httpx.get(f"http://{service.debug}/{path}", trust_env=False).text


def replicas(service: Service) -> dict[str, int]:
    """The generation of each replica in the register, by its name: each worker is one."""
    found = json.loads(debug(service, "api/v1/replicas"))["replicas"]
    return {each["id"]: each["generation"] for each in found}


def counter(redis: RedisServer, team: str) -> str:
    return min(redis.cli("KEYS", f"*team={team}*:year:*").split(), key=len)  # others mark crossed thresholds


def counted(redis: RedisServer, team: str) -> int:
    return int(redis.cli("GET", counter(redis, team)))


@transports
def test_every_worker_has_calls_and_the_metrics_are_those_of_all(
    transport: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Whatever is counted, shown or reported is that of the service, however its connections are spread."""
    redis_server.cli("FLUSHALL")
    config = write(tmp_path / "d.yaml", RULES)
    with workers(config, redis_server.url, GRPC_TRANSPORT=transport) as service:
        with connections(service) as callers:
            for number, caller in enumerate(callers):
                caller.ask("d", "team", "dba", hits=40 + number)
            truth = sum(40 + number for number in range(MANY))
            assert truth == counted(redis_server, "dba")
            first, second = shares(service)
            assert 0 < first < 2 * MANY == first + second
            assert [truth] == list(metrics(service, "rule_hits").values())
            assert [truth] == list(metrics(service, "budget_used").values())
            assert {'grpc_method="ShouldRateLimit"': 2 * MANY} == metrics(
                service, "response_time_seconds_count"
            )
            assert 1 == sum(metrics(service, "budget_threshold_crossed").values())
            assert 1 == len(service.events("budget threshold crossed"))
            assert f'total_requests{{grpc_method="ShouldRateLimit"}}: {2 * MANY}\n' in debug(service, "stats")
            callers[0].ask("d", "team", "ops", hits=1_000)
            assert {2} == {caller.ask("d", "team", "ops").overall_code for caller in callers}
            refusals = json.loads(debug(service, "api/v1/refusals"))["refusals"]
            assert ["team=ops"] * MANY == [each["descriptor"] for each in refusals]
            if transport == "native":
                assert {"": MANY} == metrics(service, "grpc_connections")
        with calling(service.grpc) as caller, probing(service) as probe:
            redis_server.cli("SET", counter(redis_server, "dba"), "0")
            caller.ask(
                "d", "team", "dba"
            )  # the gauge shows what a worker has seen last, not the most that one has seen
            used = metrics(service, "budget_used")
            assert [0] == [value for labels, value in used.items() if "team=dba" in labels]
            assert ["SERVING"] * 2 == [serving(probe, name) for name in ("", "ratelimit")]


@transports
def test_new_rules_reach_all_workers(transport: str, tmp_path: Path, redis_server: RedisServer) -> None:
    """Good ones come into force in all of them; what is wrong with others is said, and the last good ones stay."""
    redis_server.cli("FLUSHALL")
    config = write(tmp_path / "d.yaml", rules("d", 10))
    with (
        workers(config, redis_server.url, GRPC_TRANSPORT=transport) as service,
        connections(service) as callers,
    ):
        assert {10} == {caller.limit("d", "team", "dba") for caller in callers}
        config.write_text(rules("d", 20))
        wait_for("the second load", lambda: set(metrics(service, "worker_generation").values()) == {2.0})
        assert {20} == {caller.limit("d", "team", "dba") for caller in callers}
        assert {"": 2} == metrics(service, "config_load_success")
        wait_for("the register of replicas", lambda: list(replicas(service).values()) == [2, 2])
        assert ["0", "1"] == [name.rpartition("-")[2] for name in replicas(service)]
        config.write_text("domain: d\ndescriptors: [{key: }]\n")
        wait_for("the refused load", lambda: metrics(service, "config_load_error") == {"": 1})
        assert debug(service, "rlconfig").startswith(
            "# last load failed; the rules below, from the load before, are in force"
        )
        # A worker that starts now has the same rules, although the files have none.
        os.kill(processes(service)[0], KILL)
        wait_for("a new worker", lambda: service.events("a worker has ended: it is started again"))
        wait_for("both", lambda: len(metrics(service, "worker_generation")) == 2)
        assert {2.0} == set(metrics(service, "worker_generation").values())
        with connections(service) as newcomers:
            assert {20} == {caller.limit("d", "team", "dba") for caller in newcomers}
        assert {"": 1} == metrics(service, "config_rejected")


class Load:
    """Threads that charge 1 again and again, each over a connection of its own, until it fails."""

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
def test_a_worker_that_is_killed_under_load_costs_only_its_own_connections(
    transport: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """No acknowledged charge is lost, none is counted twice, and no counter of the metrics falls."""
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
                    wait_for(
                        "the log",
                        lambda killed=killed: (
                            len(service.events("a worker has ended: it is started again")) > killed
                        ),  # type: ignore[misc]
                    )
                    at_its_end = list(load.acknowledged)
                    wait_for("both", lambda: _away(service) == {"wanted": 2, "serving": 2})
                    shown.append(sum(metrics(service, "rule_hits").values()))
                failed = sum(load.failed)
                assert 0 < failed < MANY
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


def _away(service: Service) -> dict[str, float]:
    try:
        found = metrics(service, "workers")
    except httpx.TransportError:  # no worker serves the HTTP ports for a moment
        return {}
    return {labels.split('"')[1]: value for labels, value in found.items()}


@transports
def test_a_call_in_hand_is_finished_before_the_workers_end(config: str, transport: str) -> None:
    """SIGTERM to the supervisor: NOT_SERVING on every connection, the answer, its hits in Redis, and exit code 0."""
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


def alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_worker_that_is_stopped_by_itself_is_started_again_and_none_outlives_the_supervisor(
    config: str, redis_url: str
) -> None:
    """SIGTERM to a worker: it drains, and the service stays healthy. Without the supervisor, all workers drain and end."""
    with workers(config, redis_url) as service:
        os.kill(processes(service)[1], TERM)
        ended = service.wait_for_event("a worker has ended: it is started again")
        assert (1, 0) == (ended["worker"], ended["code"])
        wait_for("both", lambda: _away(service) == {"wanted": 2, "serving": 2})
        assert (200, "OK") == service.health()
        pids = processes(service)
        assert 2 == len(pids)
        service.signal(KILL)
        wait_for("the ends of the workers", lambda: not any(map(alive, pids)))
        assert "the supervisor has ended: its workers end as well" in service.log


def test_a_store_that_is_away_makes_every_worker_unhealthy(config: str) -> None:
    """And it is said for each."""
    with RedisServer() as redis, workers(config, redis.address, STORE_FAILURE_MODE="allow") as service:
        redis.stop()
        wait_for("unhealthy", lambda: service.health() == (500, "unhealthy: redis, redis of worker 1"))
        with connections(service) as callers, probing(service) as probe:
            assert "NOT_SERVING" == serving(probe, "ratelimit")
            for _ in range(4):
                for caller in callers:
                    caller.ask("d", "team", "dba", hits=1)
            assert all(shares(service))
            store = json.loads(debug(service, "api/v1/status"))["store"]
            assert {
                "type": "redis",
                "reachable": False,
                "circuit_open": True,
                "journal_hits": 4 * MANY,
            } == store
            assert {"": 4 * MANY} == metrics(service, "store_journal_hits")


@contextmanager
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield str(taken.getsockname()[1])


def refused(config: str, redis_url: str, **settings: str) -> Ended:
    return run(
        "serve", environment={"REDIS_URL": redis_url, "CONFIG_PATH": config, "WORKERS": "2", **settings}
    )


def test_a_port_that_is_taken_stops_the_start(config: str, redis_url: str) -> None:
    """Also for another service with workers: a service shares its port with its own workers alone."""
    with workers(config, redis_url, GRPC_HOST="127.0.0.1") as first:
        port = first.grpc.rpartition(":")[2]
        given = {"GRPC_PORT": port, "GRPC_HOST": "127.0.0.1"}
        others: list[dict[str, str]] = [
            {},
            *[{"WORKERS": "1", "GRPC_TRANSPORT": each} for each in ("grpcio", "native")],
        ]
        ended = [refused(config, redis_url, **given, **other) for other in others]
    assert [(1, f"cannot listen for gRPC on 127.0.0.1:{port}: is the port taken?")] * 3 == [
        (each.code, each.err.splitlines()[-1]) for each in ended
    ]


def test_a_worker_that_cannot_start_says_why_and_the_service_ends(config: str, redis_url: str) -> None:
    """Once, not once for each worker."""
    with taken_port() as port:
        ended = refused(config, redis_url, PORT=port, HOST="127.0.0.1", LOG_FORMAT="json")
    assert 1 == ended.code
    assert f"cannot listen for HTTP on 127.0.0.1:{port}: is the port taken?" in ended.err.splitlines()
    assert '"@message": "a worker cannot start: the service ends", "worker": 0, "code": 1' in ended.err


@pytest.mark.parametrize("given", ["2", "auto"])
def test_the_memory_store_is_that_of_one_process(config: str, given: str) -> None:
    ended = run("serve", environment={"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "WORKERS": given})
    assert (1, 1) == (ended.code, ended.err.count("\n"))
    assert ended.err.startswith(
        f"WORKERS={given} needs BACKEND_TYPE=redis: the memory store counts in one process"
    )


def test_workers_share_a_unix_socket(config: str, redis_url: str, tmp_path: Path) -> None:
    """The supervisor owns its path: no second service takes it, a dead worker leaves it, and a stop removes it."""
    path = tmp_path / "grpc.sock"
    with workers(config, redis_url, GRPC_UDS=str(path)) as service:
        assert f"unix:{path}" == service.grpc
        with connections(service) as callers:
            assert {10} == {caller.limit("d", "team", "dba") for caller in callers}
        second = refused(config, redis_url, GRPC_UDS=str(path))
        assert (1, True) == (second.code, "another process has this path" in second.err)
        os.kill(processes(service)[0], KILL)
        with calling(service.grpc) as caller:
            assert 10 == caller.limit("d", "team", "dba")
        wait_for("both", lambda: _away(service) == {"wanted": 2, "serving": 2})
        assert 0 == service.stop()
    assert [] == [
        each.name for each in tmp_path.iterdir() if "sock" in each.name or each.name.startswith(".")
    ]
    grpcio = refused(config, redis_url, GRPC_UDS=str(path), GRPC_TRANSPORT="grpcio")
    assert (1, True) == (
        grpcio.code,
        grpcio.err.startswith("GRPC_UDS with several workers needs GRPC_TRANSPORT=native"),
    )


def test_every_worker_follows_amendments_and_control_planes(redis_url: str) -> None:
    """As every replica does."""
    with Served() as plane:
        plane.send(resource("d", limit("team", 5)))
        settings = {"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL": f"eg={plane.address}"}
        with workers("", redis_url, **settings) as service, connections(service) as callers:
            assert all(shares(service))
            for amount in (5, 6):
                plane.send(resource("d", limit("team", amount)))
                for caller in callers:
                    wait_for(f"{amount}", lambda c=caller, a=amount: c.limit("d", "team", "dba") == a)  # type: ignore[misc]
            assert {'server="eg"': 1} == metrics(service, "xds_connected")
            # A worker without rules, because they cannot come now, would let everything pass.
            plane.stop()
            wait_for("away", lambda: metrics(service, "xds_connected") == {'server="eg"': 0})
            os.kill(processes(service)[1], KILL)
            service.wait_for_event("a worker has ended: it is started again")
            wait_for("its start", lambda: len(processes(service)) == 2)
            with connections(service) as newcomers:
                assert {6} == {caller.limit("d", "team", "dba") for caller in newcomers}
            assert ((200, "OK"), 1) == (service.health(), _away(service)["serving"])
            plane.start()
            wait_for("both", lambda: _away(service) == {"wanted": 2, "serving": 2})
        with workers("", redis_url, **settings) as service, connections(service) as callers:
            apply(redis_url, Put(override(parse("d", "team=dba"), 3)), key="workers")
            for caller in callers:
                wait_for("the override", lambda c=caller: c.limit("d", "team", "dba") == 3)  # type: ignore[misc]
            assert {"": 1} == metrics(service, "amendments")
