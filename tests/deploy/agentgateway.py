"""agentgateway as the service sees it: the calls that it makes for a request, by its policy.

This was read in its source at 75b4e6ce and seen with the real one. Each kind of limit has its own call.
Tokens are checked with 0 and charged in another call whose outcome is ignored. A descriptor with an
expression that fails is omitted; if a check has none left, there is no call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import grpc
import yaml

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.service import METHOD, REPOSITORY

FOLDER = REPOSITORY / "deploy" / "agentgateway"
CONFIG = FOLDER / "standalone" / "config.yaml"
POLICIES = sorted(FOLDER.glob("*/policy.yaml"))
RULES = {file.parent.name: file.with_name("ratelimit-config.yaml") for file in POLICIES}
RULES["standalone"] = CONFIG.with_name("rules.yaml")

Facts = Mapping[str, str | int | None]
"""The value of each expression; None if it cannot be evaluated. A missing expression is a mistake in the
test."""

Call: TypeAlias = "grpc.UnaryUnaryMultiCallable[pb.RateLimitRequest, pb.RateLimitResponse]"

REQUESTS, TOKENS = "Requests", "Tokens"


class Everything(dict[str, str | int | None]):
    """Facts that give every expression the same value."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __getitem__(self, expression: str) -> str:
        return self._value


def evaluated(expression: str, facts: Facts) -> str | int | None:
    """Return the value of an expression: a literal, one of the facts, or the second of `default(a, b)` if the
    first fails.
    """
    if literal := re.fullmatch(r'"([^"]*)"', expression):
        return literal[1]
    if default := re.fullmatch(r"default\((.+), (.+)\)", expression):
        first = evaluated(default[1], facts)
        return evaluated(default[2], facts) if first is None else first
    return facts[expression]


class Descriptor(NamedTuple):
    """A descriptor of a policy: its entries, each a name and an expression; what it counts; and an expression
    for the amount.
    """

    entries: tuple[tuple[str, str], ...]
    unit: str
    cost: str | None

    def made(self, facts: Facts) -> pb.RateLimitDescriptor | None:
        """Return the descriptor to send, without hits; None if one of its expressions fails."""
        descriptor = pb.RateLimitDescriptor()
        for name, expression in self.entries:
            value = evaluated(expression, facts)
            if value is None:
                return None
            descriptor.entries.add(key=name.encode(), value=str(value).encode())
        return descriptor


class Policy(NamedTuple):
    """The part of a gateway's configuration about rate limits."""

    domain: str
    descriptors: tuple[Descriptor, ...]


def policy_of(file: Path) -> Policy:
    """The rate limits of an AgentgatewayPolicy, or of the gateway's own configuration file."""
    document = yaml.safe_load(file.read_text())
    if "llm" in document:
        limits, unit, name, expression = (
            document["llm"]["policies"]["remoteRateLimit"],
            "type",
            "key",
            "value",
        )
    else:
        limits, unit, name, expression = (
            document["spec"]["traffic"]["rateLimit"]["global"],
            "unit",
            "name",
            "expression",
        )
    return Policy(
        limits["domain"],
        tuple(
            Descriptor(
                tuple((entry[name], entry[expression]) for entry in each["entries"]),
                each.get(unit, REQUESTS).capitalize(),
                each.get("cost"),
            )
            for each in limits["descriptors"]
        ),
    )


class Answer(NamedTuple):
    """The answer of the gateway to a caller."""

    status: int
    headers: Mapping[str, str]
    body: str
    upstream: Mapping[str, str] = {}
    """The headers that a passed request has on its way to the upstream: the caller's own, and those of the
    service.
    """


class AgentGateway:
    """A gateway with `policy` that calls the service over `channel`; `calls` keeps its calls.

    The headers of passed checks are collected and replace those of the response, whatever it is. Those for
    the upstream replace those of the request (`HeaderMap::insert`, read at 195ec487), before the calls that
    follow. Metadata of an answer is not read. With `keeps_refusals`, a refusal is not changed, as since
    agentgateway's pull request 3386 of 2026-09-08.
    """

    def __init__(self, policy: Policy, channel: grpc.Channel, *, keeps_refusals: bool = False) -> None:
        self._policy = policy
        self._keeps_refusals = keeps_refusals
        self._call: Call = channel.unary_unary(
            METHOD,
            request_serializer=pb.RateLimitRequest.SerializeToString,
            response_deserializer=pb.RateLimitResponse.FromString,
        )
        self.calls: list[pb.RateLimitRequest] = []

    def complete(self, before: Facts, after: Facts, sent: Mapping[str, str] | None = None) -> Answer:
        """Send a request with the facts `before`, and `after` once the model has answered."""
        passed: dict[str, str] = {}
        upstream = {name.lower(): value for name, value in (sent or {}).items()}
        kept: list[tuple[Descriptor, pb.RateLimitDescriptor]] = []
        for unit in (REQUESTS, TOKENS):
            kept = list(self._made(unit, before))
            if not kept:
                continue
            for descriptor, made in kept:
                if unit == TOKENS:
                    made.hits_addend.value = 0  # there, and 0
                    made.hits_addend.SetInParent()
                elif descriptor.cost:
                    made.hits_addend.value = _whole(evaluated(descriptor.cost, before))
            try:
                answer = self._send([made for _, made in kept])
            except grpc.RpcError:
                return Answer(500, {}, "")
            brought = {header.key: header.value for header in answer.response_headers_to_add}
            document = brought | derived(answer, brought)
            if answer.overall_code != pb.RateLimitResponse.OK:
                over = {} if self._keeps_refusals else passed
                return Answer(429, document | over, answer.raw_body.decode())
            passed |= document
            upstream |= {header.key: header.value for header in answer.request_headers_to_add}
        self._charge(kept, after)
        return Answer(200, passed, "", upstream)

    def _made(self, unit: str, facts: Facts) -> Iterator[tuple[Descriptor, pb.RateLimitDescriptor]]:
        for descriptor in self._policy.descriptors:
            if descriptor.unit == unit and (made := descriptor.made(facts)):
                yield descriptor, made

    def _charge(self, kept: Sequence[tuple[Descriptor, pb.RateLimitDescriptor]], facts: Facts) -> None:
        """Charge the tokens. A descriptor whose cost cannot be evaluated is omitted."""
        charged = []
        for descriptor, made in kept:
            if descriptor.cost:
                cost = evaluated(descriptor.cost, facts)
            else:
                cost = _whole(facts["llm.inputTokens"]) + _whole(facts["llm.outputTokens"])
            if cost is not None:
                made.hits_addend.value = _whole(cost)
                charged.append(made)
        if not kept:
            return
        try:
            self._send(charged)
        except grpc.RpcError:
            return  # the gateway ignores the answer

    def _send(self, descriptors: list[pb.RateLimitDescriptor]) -> pb.RateLimitResponse:
        request = pb.RateLimitRequest(domain=self._policy.domain, descriptors=descriptors)
        self.calls.append(request)
        return self._call(request)


def _whole(value: Any) -> int:
    assert isinstance(value, int) and value >= 0, f"{value!r} is no cost"
    return value


def derived(answer: pb.RateLimitResponse, brought: Mapping[str, str]) -> dict[str, str]:
    """The headers that the gateway makes of the statuses, unless the service has brought some."""
    limits = [status for status in answer.statuses if status.HasField("current_limit")]
    if not limits or any(name.startswith("x-ratelimit-") for name in brought):
        return {}
    tightest = min(limits, key=lambda status: status.limit_remaining)
    return {
        "x-ratelimit-limit": str(tightest.current_limit.requests_per_unit),
        "x-ratelimit-remaining": str(tightest.limit_remaining),
        "x-ratelimit-reset": str(tightest.duration_until_reset.seconds),
    }
