"""Signals through agentgateway: the headers that callers and upstreams get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from testing.in_process_service import ClockedService

from .agentgateway import REQUESTS, TOKENS, AgentGateway, Descriptor, Facts, Policy

NOON = 1_795_262_400.0
RULES = """\
domain: team-budgets
signal: [metadata, upstream, caller]
low_at: 0.8
descriptors:
  - key: team
    rate_limit: {unit: day, tokens_per_unit: 1000}
  - key: team_requests
    rate_limit: {unit: minute, requests_per_unit: 60}
    signal: "off"
"""
TEAM = 'request.headers["x-team-id"]'
DBA: Facts = {TEAM: "dba"}
NAMES = ("x-tokens-state", "x-tokens-used-share", "x-tokens-remaining")
FORGED = {"X-Tokens-State": "ok", "x-tokens-remaining": "999999", "x-tokens-used-share": "0"}


OF_REQUESTS = Descriptor((("team_requests", TEAM),), REQUESTS, None)
BUDGET = Descriptor((("team", TEAM),), TOKENS, None)


@contextmanager
def limited_by(*descriptors: Descriptor) -> Iterator[AgentGateway]:
    with (
        ClockedService(RULES, now=NOON) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        yield AgentGateway(Policy("team-budgets", descriptors), channel)


@pytest.fixture
def gateway() -> Iterator[AgentGateway]:
    """A gateway with a limit of requests and a budget."""
    with limited_by(OF_REQUESTS, BUDGET) as gateway:
        yield gateway


def cost(tokens: int) -> Facts:
    return {"llm.inputTokens": 0, "llm.outputTokens": tokens}


def test_callers_and_upstreams_see_the_budget_run_low(gateway: AgentGateway) -> None:
    """Both get the state of the check, and a refusal has none."""
    answers = [gateway.complete(DBA, cost(tokens)) for tokens in (799, 1, 200, 0)]
    expected = [
        ("ok", "0.0000", "1000"),
        ("ok", "0.7990", "201"),
        ("low", "0.8000", "200"),
    ]
    assert expected == [tuple(answer.headers[name] for name in NAMES) for answer in answers[:3]]
    assert expected == [tuple(answer.upstream[name] for name in NAMES) for answer in answers[:3]]
    refused = answers[3]
    assert (429, {}) == (refused.status, refused.upstream)
    assert not set(NAMES) & set(refused.headers)


def test_headers_of_a_caller_do_not_reach_the_upstream(gateway: AgentGateway) -> None:
    """The gateway replaces them; Envoy, which appends, has to remove them."""
    gateway.complete(DBA, cost(900))
    answer = gateway.complete(DBA, cost(0), FORGED)
    assert {"x-tokens-state": "low", "x-tokens-remaining": "100", "x-tokens-used-share": "0.9000"} == {
        name: answer.upstream[name] for name in NAMES
    }


def test_without_a_signal_headers_of_a_caller_reach_the_upstream() -> None:
    """A limit of requests has no signal that could replace them."""
    with limited_by(OF_REQUESTS) as gateway:
        answer = gateway.complete(DBA, cost(0), FORGED)
    assert {name.lower(): value for name, value in FORGED.items()} == answer.upstream
