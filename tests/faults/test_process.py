"""The service is stopped while callers charge: every charge, refund and refusal that it acknowledged is in
the store once.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from testing.redis_servers import RedisServer
from tests.faults.callers import CALLERS, FULL, TRANSPORTS, charge_until, counted_in, counting_in, recorded_in


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_stop_under_load_loses_no_acknowledged_charge(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, transport: str
) -> None:
    """SIGTERM while twenty callers charge: each call is either answered and counted, or refused and not
    counted.
    """
    service = counting_in(redis_server, tmp_path, transport)
    codes: list[int] = []

    async def stop() -> None:
        codes.append(await asyncio.to_thread(service.stop))

    outcome = await charge_until(service, stop)
    assert [0] == codes
    assert CALLERS == outcome.failed
    assert outcome.acknowledged == counted_in(redis_server)
    assert 0 < outcome.refused == recorded_in(redis_server)[FULL]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_killed_service_loses_only_unacknowledged_charges(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, transport: str
) -> None:
    """SIGKILL under load: every answered charge and refund is in the store; of the others, at most those in
    flight. The last refusals may be missing.
    """
    service = counting_in(redis_server, tmp_path, transport)
    outcome = await charge_until(service, partial(asyncio.to_thread, service.kill))
    counted = counted_in(redis_server)
    for team, acknowledged in outcome.acknowledged.items():
        least = acknowledged - outcome.unanswered_refunds[team]
        assert least <= counted[team] <= acknowledged + outcome.unanswered[team]
    assert recorded_in(redis_server)[FULL] <= outcome.refused + CALLERS
