"""The dashboards and alerts on a real Prometheus, which scrapes two services, one of them with a real Redis,
and an Envoy. The tests repeat their actions until Prometheus shows the effect, because rates need several
scrapes.
"""

from __future__ import annotations

import os
import signal
import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import httpx
import pytest

from testing.envoy import EnvoyProcess
from testing.redis_servers import RedisServer, free_port
from testing.service import Caller, Service, calling, port_of
from testing.waiting import wait_for

from ..docs.documents import DOCS, blocks
from .monitoring import DASHBOARDS, Dashboard, Prometheus, Query, deployed, filled

# Windows of a year, which do not end during a test; on the dashboards, users select the window.
RULES = """\
domain: token-budgets
descriptors:
  - key: team
    value: dba
    rate_limit: {name: dba-yearly, unit: year, tokens_per_unit: 5_000}
    warn_at: [0.8, 1.0]
    track: true
  - key: team
    value: support
    rate_limit: {name: support-yearly, unit: year, tokens_per_unit: 2_000_000_000}
    track: true
  - key: team
    value: ops
    rate_limit: {name: ops-yearly, unit: year, tokens_per_unit: 1_000}
    track: true
  - key: team
    value: idle
    rate_limit: {name: idle-yearly, unit: year, tokens_per_unit: 1_000}
    track: true
  - key: user
    rate_limit: {name: user-yearly, unit: year, tokens_per_unit: 1_000}
    track: true
"""

GATEWAY = """\
domain: gateway
descriptors:
  - key: caller
    value: limited
    rate_limit: {unit: year, requests_per_unit: 1}
"""

VALUES = {
    "job": "ratelimit",
    "instance": ".*",
    "domain": ".*",
    "window": "year",
    "bucket": ".*",
    "key": "user",
    "__rate_interval": "5s",
    "__range": "30s",
}
"""The values that replace the variables in the queries of the dashboards. The selected window is `year`."""

NOTHING = {
    # For metrics about faults, 0 is the expected value.
    "service: Replicas that are not healthy (A)",
    "service: Replicas without Redis (A)",
    "service: Hits to be written (A)",
    "service: Hits lost in the time that is shown (A)",
    "service: Requests with an error (A)",
    "service: Errors (A)",
    "service: Failed and late (A)",
    "service: Failed and late (B)",
    "service: Circuit (A)",
    "service: Memory store (A)",
    "service: Memory store (B)",
    "service: What logs have no room for (A)",
    "service: What logs have no room for (B)",
    "service: What logs have no room for (C)",
    "service: Let through without a limit (B)",
    "users: Used by those who are summed up (A)",
    # These may be 0 or not, depending on the moment.
    "service: Calls in hand (A)",
    "service: Clock of Redis (A)",
}
"""Queries whose result is 0 without a fault; every other result is above 0."""


class Play:
    """All running parts. `act` causes everything that the dashboards show, once."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.redis = stack.enter_context(RedisServer())
        rules = directory / "rules"
        rules.mkdir()
        (rules / "token-budgets.yaml").write_text(RULES)
        (rules / "gateway.yaml").write_text(GATEWAY)
        self._added, self._broken = rules / "added.yaml", rules / "broken.yaml"
        shared = {"CONFIG_PATH": str(rules)}
        quick = {"REDIS_TIMEOUT": "2s", "STORE_ANSWER_DEADLINE": "1s"}
        on_redis = {"REDIS_URL": self.redis.url, "LOCAL_CACHE_SIZE_IN_BYTES": "100000", "DECISION_LOG": "all"}
        in_memory = {"BACKEND_TYPE": "memory", "MEMORY_SNAPSHOT_PATH": str(directory / "counters")}
        self.service = stack.enter_context(Service({**shared, **quick, **on_redis}))
        alone = stack.enter_context(Service({**shared, **in_memory}))
        self.caller = stack.enter_context(calling(self.service.grpc))
        self._other = stack.enter_context(calling(alone.grpc))

        text = string.Template(Path(__file__).with_name("monitoring_envoy.yaml").read_text()).substitute(
            ratelimit_port=port_of(self.service.grpc), upstream_port=port_of(alone.http), nobody=free_port()
        )
        envoy = EnvoyProcess(directory, text)
        stack.callback(envoy.stop)
        self._gateways = envoy.listeners
        self._client = stack.enter_context(httpx.Client(trust_env=False, timeout=60))

        targets = {"ratelimit": [self.service.metrics, alone.metrics], "envoy": [envoy.admin]}
        self.prometheus = stack.enter_context(Prometheus(directory, deployed(targets), every="250ms"))
        # Prometheus sees an increase only in a series that existed before.
        wait_for("a scrape of all", lambda: len(self.prometheus.ask("up == 1")) == 3)
        for key, value in (("team", "ops"), ("user", "ann")):
            self.caller.ask("token-budgets", key, value, hits=850)

    def act(self) -> None:
        """Cause each event once. Usage grows, except in the budgets of ops, ann and the idle teams."""
        self.caller.ask("token-budgets", "team", "dba", hits=1_200)  # soon over its budget, and still charged
        for caller in (self.caller, self._other):
            self._about_one(caller)
        for gateway in self._gateways.values():
            for who in ("limited", "unlimited"):
                self._client.get(f"http://{gateway}/healthcheck", headers={"x-caller": who})
        self._change_rules()

    def _change_rules(self) -> None:
        """Add rules once Prometheus has scraped the first ones, and once these are in force, write invalid
        rules.
        """
        loads = self.service.metric("ratelimit_service_config_load_success")
        if not self._added.exists():
            if self.prometheus.ask("ratelimit_service_config_load_success == 1"):
                self._added.write_text("domain: added")
        elif loads > 1 and not self._broken.exists():
            self._broken.write_text("domain: [")

    def _about_one(self, caller: Caller) -> None:
        caller.ask("token-budgets", "team", "dba")
        caller.ask("token-budgets", "team", "support", hits=10)
        caller.ask("token-budgets", "team", "support", hits=None)
        caller.ask("token-budgets", "user", "bob", hits=5_000)
        caller.ask("token-budgets", "user", "eve", hits=0)
        caller.ask("nowhere", "team", "dba")

    def ask(self, query: Query, values: Mapping[str, str] = VALUES) -> dict[str, float]:
        """Return the result of a query of a panel."""
        text = filled(query.text, values)
        return self.prometheus.ask(text) if query.instant else self.prometheus.ask_range(text, 5, 0.5)

    def panel(self, dashboard: str, title: str) -> dict[str, float]:
        """Return the result of the first query of a panel, by bucket."""
        (path,) = [each for each in DASHBOARDS if each.stem == dashboard]
        query = next(each for each in Dashboard.read(path).queries() if each.panel == title)
        found = self.ask(query)
        return {
            labels.partition('"bucket": "')[2].partition('"')[0]: value for labels, value in found.items()
        }

    def wait_until(self, what: str, seen: Callable[[], bool]) -> None:
        """Repeat `act` until the condition holds."""

        def look() -> bool:
            self.act()
            return seen()

        wait_for(what, look)

    @contextmanager
    def without_redis(self) -> Iterator[None]:
        """Suspend Redis in this context; it keeps its data."""
        os.kill(self.redis.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.redis.pid, signal.SIGCONT)
            wait_for("the journal to be written", lambda: self._back)

    @property
    def _back(self) -> bool:
        return (
            self.service.metric("ratelimit_service_store_circuit_open"),
            self.service.metric("ratelimit_service_store_journal_hits"),
        ) == (0, 0)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """One set of running parts for all tests of this module."""
    with ExitStack() as stack:
        yield Play(tmp_path_factory.mktemp("monitoring"), stack)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_has_a_result(play: Play, path: Path) -> None:
    """Results are above 0, except those of queries about failures that have not occurred."""
    pending = list(Dashboard.read(path).queries())
    found: dict[str, dict[str, float]] = {}

    def all_found() -> bool:
        for query in tuple(pending):
            values = found[str(query)] = play.ask(query)
            if values and (max(values.values()) > 0 or str(query) in NOTHING):
                pending.remove(query)
        return not pending

    try:
        play.wait_until("data for every panel", all_found)
    except AssertionError as failure:
        for query in pending:
            failure.add_note(f"{query}: {found.get(str(query))}: {filled(query.text, VALUES)}")
        raise


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_variable_has_the_used_value_among_its_choices(play: Play, path: Path) -> None:
    """So a user who opens the dashboard sees data."""
    expected = {
        "job": "ratelimit",
        "domain": "token-budgets",
        "window": "year",
        "bucket": "team=dba",
        "instance": play.service.metrics,
    }
    variables = [each for each in Dashboard.read(path).variables if each.query]
    assert variables

    def offered() -> bool:
        return all(
            expected[each.name] in play.prometheus.label_values(filled(series, VALUES), label)
            for each in variables
            for series, label in [each.label_values]
        )

    play.wait_until("values of the variables", offered)


def test_tiles_show_idle_used_and_exhausted_budgets(play: Play) -> None:
    """A team without requests is at 0; a team that has used its budget up has a red tile, and 0 remaining."""
    used, left = "Used of the budget, this $window", "Tokens left, this $window"
    play.wait_until("a budget that is used up", lambda: play.panel("budgets", used).get("team=dba", 0) >= 1)
    wait_for("one that is nearly", lambda: play.panel("budgets", used)["team=ops"] > 0)
    shares, rest = play.panel("budgets", used), play.panel("budgets", left)
    assert (0, 0.85) == (shares["team=idle"], shares["team=ops"])
    assert 0 < shares["team=support"] < 0.8
    assert (1_000, 150, 0) == (rest["team=idle"], rest["team=ops"], rest["team=dba"])


def test_metrics_of_rules_and_of_budgets_can_be_joined(play: Play) -> None:
    """As in docs/monitoring.md: by domain, path and window, with the name of the limit."""
    queries = [block.text for block in blocks(DOCS / "monitoring.md") if block.info == "promql"]
    joins = [query for query in queries if " on (" in query]
    assert 2 == len(joins)
    for query in joins:
        found: dict[str, float] = {}

        def seen(query: str = query, found: dict[str, float] = found) -> bool:
            found.update(play.prometheus.ask(query))
            return any('"rule": "dba-yearly"' in labels and value > 0 for labels, value in found.items())

        play.wait_until("a join", seen)
        assert all('"path": "token-budgets.' in labels for labels in found)


def test_the_size_of_charges_can_be_estimated(play: Play) -> None:
    """As in docs/monitoring.md, from the histogram."""
    (query,) = [
        block.text
        for block in blocks(DOCS / "monitoring.md")
        if block.info == "promql" and "histogram_quantile" in block.text
    ]
    play.wait_until("a quantile", lambda: any(value > 0 for value in play.prometheus.ask(query).values()))


def test_alerts_about_budgets_fire_for_the_right_buckets(play: Play) -> None:
    """All rules can be evaluated, too."""
    expected = {
        ("RatelimitBudgetNearlyUsed", "team=ops"),
        ("RatelimitBudgetNearlyUsed", "user=ann"),
        ("RatelimitBudgetUsedUp", "team=dba"),
        ("RatelimitBudgetUsedUp", "user=bob"),
    }
    play.wait_until("alerts", lambda: expected <= play.prometheus.firing())
    about = {bucket for name, bucket in play.prometheus.firing() if name.startswith("RatelimitBudget")}
    assert set() == about & {"team=idle", "team=support"}
    rules = [rule for group in play.prometheus.groups() for rule in group["rules"]]
    assert [] == [rule["lastError"] for rule in rules if rule.get("lastError")]


def test_an_unreachable_redis_is_shown_and_alerted(play: Play) -> None:
    """On the tiles of the service, and by an alert after a minute."""
    troubles = (
        "Replicas without Redis",
        "Hits to be written",
        "Replicas that are not healthy",
        "Requests with an error",
        "Failed and late",
    )
    seen: set[str] = set()

    def all_seen() -> bool:
        with suppress(grpc.RpcError):
            play.caller.ask("token-budgets", "team", "support", hits=10)
        seen.update(title for title in troubles if max(play.panel("service", title).values(), default=0) > 0)
        return seen == set(troubles)

    play.wait_until("a healthy service", lambda: play.panel("service", troubles[2]) == {"": 0})
    with play.without_redis():
        wait_for("the troubles", all_seen)
        wait_for("an alert", lambda: play.prometheus.ask('ALERTS{alertname="RatelimitStoreDown"}'))
    wait_for("all to be well again", lambda: play.panel("service", troubles[0]) == {"": 0})
