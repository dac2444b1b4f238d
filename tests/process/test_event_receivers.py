"""Callers of a service whose receivers of events hang, refuse, redirect, and answer without end."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.redis_servers import RedisServer
from testing.service import Caller, Service, calling
from testing.waiting import wait_for

from ..events import hostile
from ..events.receiver import Webhook
from .conftest import write

RULES = """
domain: llm
descriptors:
  - key: team
    warn_at: [0.5, 0.8, 1]
    rate_limit: {unit: year, tokens_per_unit: 100}
"""
EVENTS = 4
"""The events of a team: three thresholds, and its first refusal."""
TEAMS = 20

ANSWERS = {
    "bodies": hostile.ENDLESS_BODY,
    "headers": hostile.ENDLESS_HEADERS,
    "interim": hostile.ENDLESS_INTERIM,
    "many": hostile.MANY_HEADERS,
    "slow": hostile.SLOW,
    "plain": hostile.NO_HTTP,
    "tls": hostile.NO_HTTP,
}


def spend(caller: Caller, team: str) -> list[tuple[str, int]]:
    """Spend a budget in ten charges and make a check, and return the answers."""
    statuses = [caller.ask("llm", "team", team, hits=hits).statuses[0] for hits in (*[10] * 10, 0)]
    return [(pb.RateLimitResponse.Code.Name(status.code), status.limit_remaining) for status in statuses]


SPENT = [*[("OK", left) for left in range(90, -1, -10)], ("OVER_LIMIT", 0)]


@pytest.mark.parametrize(("transport", "store"), [("native", "memory"), ("grpcio", "redis")])
def test_hostile_receivers_affect_neither_callers_nor_other_receivers(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, transport: str, store: str
) -> None:
    """Each has got its first event, or refused it, while every call is answered rightly. The last receiver
    gets every event.
    """
    with ExitStack() as stack:
        hanging = stack.enter_context(Webhook(lambda number: None))
        redirecting = stack.enter_context(Webhook(lambda number: 302))
        working = stack.enter_context(Webhook())
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))  # without listening, so connections are refused
        servers = {name: stack.enter_context(hostile.hostile(answer)) for name, answer in ANSWERS.items()}
        urls = {
            "hanging": hanging.url,
            "redirecting": redirecting.url,
            "refusing": f"http://127.0.0.1:{bound.getsockname()[1]}/",
            **{name: each.url("https" if name == "tls" else "http") for name, each in servers.items()},
            "working": working.url,
        }
        receivers = json.dumps({"receivers": [{"name": name, "url": url} for name, url in urls.items()]})
        environment = {
            "BACKEND_TYPE": store,
            "CONFIG_PATH": str(write(tmp_path / "rules" / "rules.yaml", RULES)),
            "EVENTS_WEBHOOKS": str(write(tmp_path / "receivers.yaml", receivers)),
            "GRPC_TRANSPORT": transport,
            **({"REDIS_URL": redis_server.address} if store == "redis" else {}),
        }
        service = stack.enter_context(Service(environment))
        caller = stack.enter_context(calling(service.grpc))

        def counted(receiver: str, outcome: str) -> float:
            labels = f'outcome="{outcome}",receiver="{receiver}"'
            return service.metric(f"ratelimit_service_event_deliveries{{{labels}}}")

        assert SPENT == spend(caller, "first")
        wait_for("two hanging attempts", lambda: hanging.got and servers["slow"].connections)
        failing = urls.keys() - {"hanging", "slow", "bodies", "working"}
        wait_for("failed attempts", lambda: all([counted(name, "failed") for name in failing]))
        for number in range(TEAMS):
            assert SPENT == spend(caller, f"team-{number}")
        wait_for("all events", lambda: len(working.got) >= (TEAMS + 1) * EVENTS)
        wait_for("a body that is not read", lambda: counted("bodies", "delivered"))
        assert {0} == {counted(name, "delivered") for name in (*failing, "hanging", "slow")}
        assert 0 == service.stop()
    subjects = {f"llm|team={team}" for team in ("first", *[f"team-{number}" for number in range(TEAMS)])}
    assert subjects == {event["subject"] for event in working.events}
    assert (TEAMS + 1) * EVENTS == len({event["id"] for event in working.events})
