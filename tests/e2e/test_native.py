"""The native transport behind the real Envoy: what it is asked through one, it answers as grpcio does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.servers import RedisServer
from testing.service import Service
from testing.upstream import MockLlm

from .conftest import HERE, Gateway, Unique, gateway_before

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def native(
    redis_server: RedisServer, llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose limiter speaks gRPC by itself."""
    environment = {
        "CONFIG_PATH": str(HERE / "teams.yaml"),
        "REDIS_URL": redis_server.url,
        "GRPC_TRANSPORT": "native",
    }
    with (
        Service(environment) as service,
        gateway_before(service, redis_server, llm, tmp_path_factory.mktemp("native")) as gateway,
    ):
        yield gateway


def test_a_team_spends_its_budget_and_gets_some_back(native: Gateway, unique: Unique) -> None:
    """Checks, charges, a refusal with Envoy's headers, and a refund."""
    team = unique("native")
    bucket = f"team-budgets|team={team}"
    seen = []
    for used in (40, 80, 120, 120):
        answer = native.complete("/team", {"x-team-id": team})
        native.counters.wait_until(bucket, used)
        seen.append((answer.status_code, answer.headers["x-ratelimit-remaining"]))
    assert [(200, "100"), (200, "60"), (200, "20"), (429, "0")] == seen

    assert 200 == native.complete("/refund", {"x-team-id": team, "x-refund": "90"}).status_code
    native.counters.wait_until(bucket, 30)
    assert 200 == native.complete("/team", {"x-team-id": team}).status_code
    native.counters.wait_until(bucket, 70)
