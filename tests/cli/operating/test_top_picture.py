"""The picture of `top` in docs/operating.md: what the command shows in a terminal, with the clocks at a given
moment.

With SCREENSHOTS=DIRECTORY, the picture is written there (`make screenshots`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime

from testing.service import REPOSITORY
from testing.terminal import Terminal, svg

from ...api.served_api import ServedApi, serve_api
from ...limiter import descriptor

NAME = "terminal-top.svg"
COLUMNS, LINES = 100, 10
SERVER = "127.0.0.1:6070"
"""The default of the command. The test has another port, which is free."""

NOW = datetime(2026, 11, 28, 10, 25, 47, tzinfo=UTC)

RULES = """
domain: token-budgets
descriptors:
  - key: team
    value: dba
    rate_limits:
      - {name: dba-hourly, unit: hour, tokens_per_unit: 5_000}
      - {name: dba-daily, unit: day, tokens_per_unit: 50_000}
  - key: team
    rate_limits:
      - {unit: hour, tokens_per_unit: 20_000}
      - {unit: month, tokens_per_unit: 2_000_000}
  - key: user
    rate_limit: {unit: day, tokens_per_unit: 10_000}
  - key: batch
    rate_limit: {unit: month, tokens_per_unit: 30_000_000}
"""

USED = {
    "team=dba": 5_100,
    "team=support": 17_200,
    "team=search": 5_350,
    "user=ann": 1_775,
    "user=eve": 750,
    "batch=nightly": 22_000_000,
}

STOPPED_CLOCK = f"""
import sys
from datetime import datetime
from ratelimit_service.cli.main import main
from ratelimit_service.cli.operating import top

class Stopped(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp({NOW.timestamp()}, tz)

top.datetime = Stopped
sys.exit(main(sys.argv[1:]))
"""
"""The command, whose clock stands still."""


async def screen_of(api: ServedApi) -> str:
    """Return the screen of `top` beside this service."""
    address = str(api.client.base_url).split("/")[2]

    def shown() -> str:
        command = (sys.executable, "-c", STOPPED_CLOCK)
        with Terminal(
            "top", server=address, columns=COLUMNS, lines=LINES, command=command, TZ="UTC"
        ) as terminal:
            return terminal.wait_for_screen("team=dba", "q quit")

    return (await asyncio.to_thread(shown)).replace(address, SERVER, 1)


async def test_the_picture_of_top_is_what_the_command_shows() -> None:
    """Byte by byte: with the clock at a given moment, each run draws the same picture."""
    api = ServedApi(files=(RULES,))
    api.limiter.now = NOW.timestamp()
    for bucket, tokens in USED.items():
        api.limiter.ask(descriptor(bucket, tokens), domain="token-budgets")
    async with serve_api(api):
        await api.change("/override", domain="token-budgets", descriptor="user=eve", amount=0)
        drawn = svg(await screen_of(api), COLUMNS, "ratelimit-service top")
    directory = os.environ.get("SCREENSHOTS")
    if directory:
        (REPOSITORY / directory / NAME).write_text(drawn)
    assert (REPOSITORY / "docs" / "images" / NAME).read_text() == drawn, "run `make screenshots`"
