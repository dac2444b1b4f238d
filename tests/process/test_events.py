"""Events of a running service: which events several replicas send to a receiver, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.redis_servers import RedisServer
from testing.service import Service, calling, run
from testing.waiting import PATIENCE, wait_for

from ..events.receiver import Webhook
from .conftest import write

RULES = """
domain: llm
descriptors:
  - key: team
    warn_at: [0.5, 0.8, 1]
    rate_limit: {name: team-yearly, unit: year, tokens_per_unit: 10000}
"""
TOKEN = "0123456789abcdef"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as receiver:
        yield receiver


def settings(directory: Path, redis: RedisServer, webhook: Webhook) -> dict[str, str]:
    (directory / "rules.yaml").write_text(RULES)
    return {
        "CONFIG_PATH": str(directory),
        "REDIS_URL": redis.address,
        "EVENTS_WEBHOOK_URL": webhook.url,
        "ADMIN_TOKEN": TOKEN,
    }


AT_ONCE = 25
"""Charges of 1 token in one request."""


def charges(domain: str, team: bytes) -> pb.RateLimitRequest:
    request = pb.RateLimitRequest(domain=domain)
    for _ in range(AT_ONCE):
        descriptor = request.descriptors.add()
        descriptor.entries.add(key=b"team", value=team)
        descriptor.hits_addend.value = 1
    return request


def test_three_replicas_emit_each_event_once(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, webhook: Webhook
) -> None:
    """10,000 charges take a bucket over each threshold. One replica is killed meanwhile, before it has sent
    all of its events.

    A delivery that fails is repeated with the same id.
    """
    ids: dict[tuple[str, float | None], list[str]] = {}

    def received() -> dict[tuple[str, float | None], list[str]]:
        ids.clear()
        for each in webhook.events:
            ids.setdefault((each["type"], each["data"].get("share")), []).append(each["id"])
        return ids

    with ExitStack() as stack:
        replicas = [stack.enter_context(Service(settings(tmp_path, redis_server, webhook))) for _ in range(3)]
        callers = [stack.enter_context(calling(replica.grpc)) for replica in replicas]
        request, requests = charges("llm", b"dba"), 10_000 // AT_ONCE
        for turn in range(requests * 9 // 10):
            callers[turn % 3].call(request, timeout=PATIENCE)
        wait_for("two thresholds", lambda: len(webhook.got) >= 2)
        replicas[0].kill()
        before = len(webhook.got)
        webhook.answer = lambda number: 503 if number == before + 1 else 204
        for turn in range(requests // 10):
            callers[1 + turn % 2].call(request, timeout=PATIENCE)
        wait_for("the redelivery", lambda: len(webhook.got) >= before + 2)
        for caller in callers[1:]:
            caller.ask("llm", "team", "dba", hits=1, timeout=PATIENCE)
        expected = {
            ("ratelimit.budget.threshold", 0.5),
            ("ratelimit.budget.threshold", 0.8),
            ("ratelimit.budget.exhausted", 1.0),
            ("ratelimit.budget.refused", None),
        }
        wait_for("the events", lambda: expected == set(received()))
        assert [1, 1, 1, 1] == [len(set(each)) for each in ids.values()]
        assert len(ids["ratelimit.budget.exhausted", 1.0]) >= 2
        (refused,) = (each for each in webhook.events if each["type"] == "ratelimit.budget.refused")
        data = refused["data"]
        assert ("llm|team=dba", "team-yearly", 10_000) == (data["bucket"], data["rule"], data["limit"])
        assert data["used"] in (10_001, 10_002)  # each replica has a first refusal


def test_a_change_of_a_limit_and_an_outage_of_the_store_are_sent(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, webhook: Webhook
) -> None:
    with Service(settings(tmp_path, redis_server, webhook)) as service:
        wait_for("a healthy service", lambda: service.health() == (200, "OK"))
        answer = httpx.post(
            f"http://{service.debug}/api/v1/override",
            json={"domain": "llm", "descriptor": "team=dba", "amount": 0, "reason": "abuse"},
            headers={"authorization": f"Bearer {TOKEN}", "idempotency-key": "1"},
            trust_env=False,
            timeout=60,
        )
        assert 200 == answer.status_code, answer.text
        answer = httpx.post(
            f"http://{service.debug}/api/v1/top-up",
            json={"domain": "llm", "descriptor": "team=ops", "amount": 500, "reason": "launch", "windows": 1},
            headers={"authorization": f"Bearer {TOKEN}", "idempotency-key": "2"},
            trust_env=False,
            timeout=60,
        )
        assert 200 == answer.status_code, answer.text
        wait_for("the events", lambda: len(webhook.got) >= 2)
        assert [
            ("ratelimit.amendment.changed", "block", "team=dba", "abuse", 0),
            ("ratelimit.amendment.changed", "top_up", "team=ops", "launch", 500),
        ] == [
            (each["type"], *(each["data"][name] for name in ("verb", "target", "reason", "amount")))
            for each in webhook.events
        ]
        redis_server.stop()
        wait_for("an unhealthy service", lambda: service.health()[0] == 500)
        redis_server.start()
        wait_for("both events", lambda: len(webhook.got) >= 4)
        assert ["ratelimit.store.unreachable", "ratelimit.store.reachable"] == [
            each["type"] for each in webhook.events[2:]
        ]


def test_an_invalid_receiver_stops_the_start(tmp_path: Path) -> None:
    ended = run("serve", environment={"BACKEND_TYPE": "memory", "EVENTS_WEBHOOK_URL": "hooks.example.com"})
    assert 0 != ended.code
    assert "needs an address such as https://" in ended.err


def test_receivers_follow_their_file_and_rules_select_them(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, webhook: Webhook
) -> None:
    """A receiver that is added while the service runs gets the events of the rules that name it."""
    rules = RULES.replace("  - key: team", "  - key: team\n    notify: [finance]")
    write(tmp_path / "rules" / "rules.yaml", rules)
    file = tmp_path / "receivers.yaml"
    with Webhook() as other:
        chat, finance = (
            f"  - {{name: {name}, url: '{hook.url}'}}\n"
            for name, hook in (("chat", other), ("finance", webhook))
        )
        write(file, f"receivers:\n{chat}")
        environment = {
            "CONFIG_PATH": str(tmp_path / "rules"),
            "REDIS_URL": redis_server.address,
            "EVENTS_WEBHOOKS": str(file),
        }
        with Service(environment) as service, calling(service.grpc) as caller:
            wait_for("the warning", lambda: "a rule notifies receivers that do not exist" in service.log)
            write(file, f"receivers:\n{chat}{finance}")
            wait_for("the receivers", lambda: "receivers of events have changed" in service.log)
            caller.ask("llm", "team", "dba", hits=6_000, timeout=PATIENCE)
            wait_for("the event", lambda: webhook.got)
            assert ("ratelimit.budget.threshold", False) == (
                webhook.events[0]["type"],
                "notify" in webhook.events[0],
            )
            write(file, "receivers: [")
            wait_for("the complaint", lambda: "the previous receivers stay in use" in service.log)
            caller.ask("llm", "team", "dba", hits=3_000, timeout=PATIENCE)
            wait_for("the next event", lambda: len(webhook.got) >= 2)
        assert [] == other.got
