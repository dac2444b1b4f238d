"""Crossed thresholds with two replicas on one Redis: the log lines, and the metrics of each replica."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from testing.redis_servers import RedisServer
from testing.service import Service, calling, run
from testing.waiting import wait_for

from .conftest import write

RULES = """\
domain: d
descriptors:
  - key: team
    value: named
    rate_limit: {name: named-yearly, unit: year, tokens_per_unit: 1000}
    track: true
  - key: team
    rate_limit: {name: yearly, unit: year, tokens_per_unit: 1000}
    warn_at: [0.5, 0.8, 1.0]
    track: true
"""


@pytest.fixture
def replicas(tmp_path: Path, redis_url: str) -> Iterator[list[Service]]:
    """Two services that count in the same Redis."""
    environment = {"REDIS_URL": redis_url, "CONFIG_PATH": str(write(tmp_path / "d.yaml", RULES))}
    with ExitStack() as stack:
        yield [stack.enter_context(Service(environment)) for _ in range(2)]


def crossings(replicas: list[Service]) -> list[tuple[float, int]]:
    """The share and the amount used of each crossing that any replica has logged."""
    events = [event for replica in replicas for event in replica.events("budget threshold crossed")]
    return sorted((event["share"], event["used"]) for event in events)


def spend(replicas: list[Service], hits: Iterable[int]) -> None:
    """Charge a bucket, at one replica after the other."""
    with ExitStack() as stack:
        callers = [stack.enter_context(calling(replica.grpc)) for replica in replicas]
        for caller, amount in zip(cycle(callers), hits, strict=False):
            caller.ask("d", "team", "dba", hits=amount)


def test_two_replicas_report_a_crossed_threshold_once(
    replicas: list[Service], redis_server: RedisServer
) -> None:
    """Either replica may report it. The markers are in Redis."""
    spend(replicas, [10] * 84)
    wait_for("two crossings", lambda: crossings(replicas) == [(0.5, 500), (0.8, 800)])
    found = [key.rpartition(":warned-") for key in redis_server.cli("--scan").split() if ":warned-" in key]
    assert ["50", "80"] == sorted(percent for _, _, percent in found)
    assert ["840", "840"] == [redis_server.cli("GET", counter) for counter, _, _ in found]


def test_a_threshold_is_reported_again_after_a_reset(replicas: list[Service], redis_url: str) -> None:
    """The reset deletes the markers with the counter."""
    spend(replicas, [500])
    wait_for("a crossing", lambda: crossings(replicas) == [(0.5, 500)])
    reset = run("reset", "d", "team=dba", environment={"REDIS_URL": redis_url})
    assert (0, 2) == (reset.code, len(reset.out.splitlines())), reset
    spend(replicas, [600])
    wait_for("another", lambda: crossings(replicas) == [(0.5, 500), (0.5, 600)])


def test_every_replica_has_the_total_of_a_bucket_that_a_rule_names(replicas: list[Service]) -> None:
    """It is 0 before the first call, and then the total of all replicas."""

    def used() -> list[float]:
        return [replica.metric_sum("ratelimit_service_budget_used") for replica in replicas]

    wait_for("a bucket at 0", lambda: all("budget_used{" in scrape(replica) for replica in replicas))
    before = used()
    with calling(replicas[0].grpc) as caller:
        caller.ask("d", "team", "named", hits=840)
    wait_for("what the other one has charged", lambda: used() == [840, 840])
    assert [0, 0] == before


def scrape(replica: Service) -> str:
    """A scrape of the metrics."""
    return httpx.get(f"http://{replica.metrics}/metrics", trust_env=False, timeout=60).text


def test_each_replica_shows_the_last_usage_that_it_saw(replicas: list[Service]) -> None:
    """The largest value of the replicas is correct as long as nothing is refunded."""
    spend(replicas, [10] * 84)
    bucket = {"domain": "d", "rule": "yearly", "path": "d.team", "bucket": "team=dba", "window": "year"}
    seen = [
        {
            sample.name.removeprefix("ratelimit_service_budget_"): sample.value
            for family in text_string_to_metric_families(scrape(replica))
            for sample in family.samples
            if sample.labels == bucket and not sample.name.endswith("burn_per_second")  # there after a while
        }
        for replica in replicas
    ]
    resets = [shown.pop("seconds_to_reset") for shown in seen]
    lengths = {shown.pop("window_seconds") for shown in seen}
    assert [{"used": 830, "limit": 1000}, {"used": 840, "limit": 1000}] == seen
    assert all(0 < seconds <= 366 * 86400 for seconds in resets), resets
    assert lengths <= {365 * 86400, 366 * 86400}, lengths
