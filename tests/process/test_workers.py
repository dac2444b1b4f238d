"""Several workers are one service: counters, metrics, rules and health."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ratelimit_service.core.amendments.model import Put, override
from ratelimit_service.core.amendments.target import parse
from testing.control_plane import limit, resource
from testing.redis_servers import RedisServer
from testing.service import Service, calling
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import wait_for

from .conftest import probing, rules, serving, write
from .test_amendments import apply
from .workers import (
    KILL,
    MANY,
    connections,
    counted,
    counter,
    debug,
    metrics,
    processes,
    shares,
    states,
    transports,
    workers,
)

RULES = """\
domain: d
descriptors:
  - key: team
    rate_limit: {unit: year, tokens_per_unit: 1000}
    warn_at: [0.5]
    track: true
"""


def replicas(service: Service) -> dict[str, int]:
    """Return the generation of each worker in the list of replicas, by its name."""
    found = json.loads(debug(service, "api/v1/replicas"))["replicas"]
    return {each["id"]: each["generation"] for each in found}


@transports
def test_every_worker_gets_calls_and_the_metrics_are_sums(
    transport: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Counts, gauges and reports are those of the service, however its connections are spread over
    workers.
    """
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
            wait_for("a crossing", lambda: sum(metrics(service, "budget_threshold_crossed").values()) == 1)
            assert 1 == len(service.wait_for_events("budget threshold crossed"))
            assert f'total_requests{{grpc_method="ShouldRateLimit"}}: {2 * MANY}\n' in debug(service, "stats")
            callers[0].ask("d", "team", "ops", hits=1_000)
            assert {2} == {caller.ask("d", "team", "ops").overall_code for caller in callers}
            refusals = json.loads(debug(service, "api/v1/refusals"))["refusals"]
            assert ["team=ops"] * MANY == [each["descriptor"] for each in refusals]
            if transport == "native":
                assert {"": MANY} == metrics(service, "grpc_connections")
        with calling(service.grpc) as caller, probing(service) as probe:
            redis_server.cli("SET", counter(redis_server, "dba"), "0")
            caller.ask("d", "team", "dba")  # the gauge shows the last value of a worker, not the maximum
            used = metrics(service, "budget_used")
            assert [0] == [value for labels, value in used.items() if "team=dba" in labels]
            assert ["SERVING"] * 2 == [serving(probe, name) for name in ("", "ratelimit")]


@transports
def test_new_rules_reach_all_workers(transport: str, tmp_path: Path, redis_server: RedisServer) -> None:
    """Valid rules come into force in all workers.

    Invalid ones are reported, and the last good rules stay in force.
    """
    redis_server.cli("FLUSHALL")
    config = write(tmp_path / "d.yaml", rules("d", 10))
    with (
        workers(config, redis_server.url, GRPC_TRANSPORT=transport) as service,
        connections(service) as callers,
    ):
        assert {10} == {caller.limit("d", "team", "dba") for caller in callers}
        write(config, rules("d", 20))
        wait_for("the second load", lambda: set(metrics(service, "worker_generation").values()) == {2.0})
        assert {20} == {caller.limit("d", "team", "dba") for caller in callers}
        assert {"": 2} == metrics(service, "config_load_success")
        wait_for("the register of replicas", lambda: list(replicas(service).values()) == [2, 2])
        assert ["0", "1"] == [name.rpartition("-")[2] for name in replicas(service)]
        write(config, "domain: d\ndescriptors: [{key: }]\n")
        wait_for("the refused load", lambda: metrics(service, "config_load_error") == {"": 1})
        assert debug(service, "rlconfig").startswith(
            "# last load failed; the rules below, from the load before, are in force"
        )
        # A worker that starts now has the same rules, although the files have none.
        os.kill(processes(service)[0], KILL)
        service.wait_for_event("a worker has ended: it is started again")
        wait_for("both", lambda: len(metrics(service, "worker_generation")) == 2)
        assert {2.0} == set(metrics(service, "worker_generation").values())
        with connections(service) as newcomers:
            assert {20} == {caller.limit("d", "team", "dba") for caller in newcomers}
        assert {"": 1} == metrics(service, "config_rejected")


def test_an_unreachable_store_makes_every_worker_unhealthy(config: str) -> None:
    """It is reported for each worker."""
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


def control_planes(service: Service) -> list[dict[str, Any]]:
    """Return the API's list of control planes."""
    planes: list[dict[str, Any]] = json.loads(debug(service, "api/v1/control-planes"))["control_planes"]
    return planes


def test_every_worker_follows_amendments_and_control_planes(redis_url: str) -> None:
    """Each worker follows them as a replica does."""
    with ThreadedControlPlane() as plane:
        plane.send(resource("d", limit("team", 5)))
        settings = {"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL": f"eg={plane.address}"}
        with workers("", redis_url, **settings) as service, connections(service) as callers:
            assert all(shares(service))
            for amount in (5, 6):
                plane.send(resource("d", limit("team", amount)))
                for caller in callers:
                    wait_for(f"{amount}", lambda c=caller, a=amount: c.limit("d", "team", "dba") == a)  # type: ignore[misc]
            assert {'server="eg"': 1} == metrics(service, "xds_connected")
            assert [True] == [each["connected"] for each in control_planes(service)]
            # A worker without rules would let every request pass, and none can arrive now.
            plane.stop()
            wait_for("away", lambda: metrics(service, "xds_connected") == {'server="eg"': 0})
            os.kill(processes(service)[1], KILL)
            service.wait_for_event("a worker has ended: it is started again")
            wait_for("its start", lambda: len(processes(service)) == 2)
            with connections(service) as newcomers:
                assert {6} == {caller.limit("d", "team", "dba") for caller in newcomers}
            assert ((200, "OK"), 1) == (service.health(), states(service)["serving"])
            assert [(False, True)] == [
                (each["connected"], each["stale_since"] is not None) for each in control_planes(service)
            ]
            plane.start()
            wait_for("both", lambda: states(service) == {"wanted": 2, "serving": 2})
        with workers("", redis_url, **settings) as service, connections(service) as callers:
            apply(redis_url, Put(override(parse("d", "team=dba"), 3)), key="workers")
            for caller in callers:
                wait_for("the override", lambda c=caller: c.limit("d", "team", "dba") == 3)  # type: ignore[misc]
            assert {"": 1} == metrics(service, "amendments")
