"""The grpcio transport behind the real Envoy; all other tests here use the native one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.mock_llm import MockLlm
from testing.redis_servers import RedisServer
from testing.service import Service

from .conftest import HERE, Gateway, Unique, gateway_before

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def by_grpcio(
    redis_server: RedisServer, llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose service uses the grpcio transport."""
    environment = {
        "CONFIG_PATH": str(HERE / "teams.yaml"),
        "REDIS_URL": redis_server.url,
        "GRPC_TRANSPORT": "grpcio",
    }
    with (
        Service(environment) as service,
        gateway_before(service, redis_server, llm, tmp_path_factory.mktemp("grpcio")) as gateway,
    ):
        yield gateway


def test_a_budget_is_charged_refused_and_refunded(by_grpcio: Gateway, unique: Unique) -> None:
    """Checks, charges, a refusal with Envoy's headers, and a refund."""
    team = unique("grpcio")
    bucket = f"team-budgets|team={team}"
    seen = []
    for used in (40, 80, 120, 120):
        answer = by_grpcio.complete("/team", {"x-team-id": team})
        by_grpcio.counters.wait_until(bucket, used)
        seen.append((answer.status_code, answer.headers["x-ratelimit-remaining"]))
    assert [(200, "100"), (200, "60"), (200, "20"), (429, "0")] == seen

    assert 200 == by_grpcio.complete("/refund", {"x-team-id": team, "x-refund": "90"}).status_code
    by_grpcio.counters.wait_until(bucket, 30)
    assert 200 == by_grpcio.complete("/team", {"x-team-id": team}).status_code
    by_grpcio.counters.wait_until(bucket, 70)
