"""Holds with the calls of agentgateway: ids are not returned, and an aborted request is often not charged."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from testing.in_process_service import ClockedService
from testing.service import calling
from testing.waiting import wait_for

from .agentgateway import FOLDER, AgentGateway, policy_of
from .envoy_with_holds import NOON

RULES = """
domain: token-budgets
descriptors:
  - {key: client_ns, rate_limit: {name: daily, unit: day, tokens_per_unit: 100}, hold: auto}
"""
WHO = {"source.identity.namespace": "payments"}
COST = {"llm.inputTokens": 20, "llm.outputTokens": 40}


class Later(Mapping[str, int]):
    """The usage of an answer: available after `go`, and never for an aborted request."""

    def __init__(self, *, aborted: bool = False) -> None:
        self.go = threading.Event()
        self.waiting = 0
        self._aborted = aborted

    def __getitem__(self, expression: str) -> int:
        if self._aborted:
            raise InterruptedError("the caller has hung up")
        self.waiting += expression == "llm.inputTokens"
        assert self.go.wait(60)
        return COST[expression]

    def __iter__(self) -> Iterator[str]:
        return iter(COST)

    def __len__(self) -> int:
        return len(COST)


def test_parallel_requests_hardly_overshoot_with_holds() -> None:
    """50 concurrent requests of 60 tokens on a budget of 100, over two gateways. Without holds, they spend
    3,000.
    """
    with ClockedService(RULES, now=NOON) as service:
        policy, after = policy_of(FOLDER / "namespaces" / "policy.yaml"), Later()
        with calling(service.address) as caller:  # a bucket that has been used before
            caller.ask("token-budgets", "client_ns", "payments", hits=60)
            caller.ask("token-budgets", "client_ns", "payments", hits=-60)
        with (
            grpc.insecure_channel(service.address) as one,
            grpc.insecure_channel(service.address) as other,
            ThreadPoolExecutor(50) as pool,
        ):
            gateways = [AgentGateway(policy, channel) for channel in (one, other)]
            asked = [pool.submit(gateways[number % 2].complete, WHO, after) for number in range(50)]
            wait_for("the refusals", lambda: sum(each.done() for each in asked) + after.waiting >= 50)
            after.go.set()
            answers = [each.result() for each in asked]
        statuses = [answer.status for answer in answers]
        refused = next(answer for answer in answers if answer.status == 429)
        assert 50 == statuses.count(200) + statuses.count(429)
        assert 1 <= statuses.count(200) <= 2  # 120 tokens: the request that crosses the limit is served
        assert "rate_limit_exceeded" in refused.body
        assert 1 <= int(refused.headers["retry-after"]) <= 10


def test_holds_of_aborted_requests_block_no_request_after_the_ttl() -> None:
    """1,000 requests are never charged. Their holds wait for the ttl; later holds are smaller."""
    rules = RULES.replace("100,", "100_000,").replace("100}", "100_000}").replace("auto", "100")
    with ClockedService(rules, now=NOON) as service, grpc.insecure_channel(service.address) as channel:
        gateway = AgentGateway(policy_of(FOLDER / "namespaces" / "policy.yaml"), channel)
        served = 0
        for _ in range(1_000):
            with pytest.raises(InterruptedError):
                gateway.complete(WHO, Later(aborted=True))
            served += 1
        assert (1_000, 429) == (served, gateway.complete(WHO, Later()).status)
        service.now += 60
        for _ in range(1_000):
            with pytest.raises(InterruptedError):
                gateway.complete(WHO, Later(aborted=True))
        assert 200 == gateway.complete(WHO, COST).status


def test_a_charge_of_0_counts_as_another_check() -> None:
    """So a request without a cost takes two holds, until the ttl. README.md names this pitfall."""
    with (
        ClockedService(RULES.replace("auto", "50"), now=NOON) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        gateway = AgentGateway(policy_of(FOLDER / "namespaces" / "policy.yaml"), channel)
        nothing = dict.fromkeys(COST, 0)
        assert [200, 429] == [gateway.complete(WHO, nothing).status for _ in range(2)]
        check, charge, _ = gateway.calls
        assert check == charge
        service.now += 60
        assert 200 == gateway.complete(WHO, nothing).status
