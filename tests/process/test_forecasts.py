"""Forecasts of a running service, from the ledger that it finds in Redis."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import httpx

from testing.redis_servers import RedisServer
from testing.service import Service
from testing.waiting import wait_for

from .conftest import write

RULES = """\
domain: d
descriptors:
  - key: team
    rate_limit: {name: monthly, unit: month, tokens_per_unit: 1000}
    ledger: {}
"""
DAY = 86_400


def test_a_service_that_starts_forecasts_by_the_weeks_before(
    tmp_path: Path, redis_url: str, redis_server: RedisServer
) -> None:
    """Its budget of a month is what was used in a day, so it runs out, without any use so far."""
    for day in range(1, 30):
        date = datetime.fromtimestamp(time.time() - day * DAY, UTC).strftime("%Y-%m-%d")
        hours = [each for hour in range(24) for each in (f"T{hour:02}Z:charged", "42")]
        redis_server.cli("HSET", f"{{d|team=dba}}:ledger:hour:{date}", *hours)
    environment = {"REDIS_URL": redis_url, "CONFIG_PATH": str(write(tmp_path / "d.yaml", RULES))}
    with Service(environment) as service:

        def forecast_by() -> str | None:
            body = {"domain": "d", "descriptor": "team=dba"}
            answer = httpx.post(
                f"http://{service.debug}/api/v1/bucket", json=body, trust_env=False, timeout=60
            )
            (window,) = answer.json()["windows"]
            return str(window["forecast_by"])

        wait_for("a forecast", lambda: forecast_by() == "profile")
