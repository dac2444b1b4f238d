"""The commands of docs/showback.md for the end of a month, against ledgers in Redis."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from pathlib import Path
from unittest.mock import patch

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Descriptor, Entry, Request
from ratelimit_service.core.rules.reader import load
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_servers import RedisServer
from testing.service import Service, inherited
from tests.cli.command_runner import run
from tests.cli.operating.test_focus import check
from tests.limiter import NoObserver

from .documents import DOCS, NOW

PAGE = (DOCS / "showback.md").read_text(encoding="utf-8")
RULES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
MONTH_END = PAGE.partition("\n## Month-end\n")[2].partition("\n## ")[0]
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", MONTH_END, re.DOTALL)
    for line in block.splitlines()
]
TABLE = re.findall(r"```text\n(.*?)```", MONTH_END, re.DOTALL)[0]


async def charge_november(url: str) -> None:
    """Charge what the table of the page has, on two days of November."""
    store = RedisStore(connect(url))
    await store.start()
    now = NOW
    service = RateLimitService(store, NoObserver(), lambda: now)
    service.use(RuleTree(load([read("rules.yaml", RULES)]).domains))

    async def ask(team: bytes, hits: int) -> None:
        entries = (Entry(b"team", team),)
        descriptor = Descriptor(entries, abs(hits), negative=hits < 0)
        await service.should_rate_limit(Request("token-budgets", (descriptor,)))

    await ask(b"dba", 211_904)
    await ask(b"dba", -41_200)
    for _ in range(17):
        await ask(b"dba", 0)
    await ask(b"search", 2_004_113)
    now += 86_400.0
    await ask(b"dba", 18_000_000)
    await store.close()


async def test_the_commands_of_the_page_print_what_it_shows(
    redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    """The table is that of the page, and the files have the same sums."""
    await charge_november(redis_url)
    (tmp_path / "rules.yaml").write_text(RULES)
    files: list[str] = []
    printed: list[str] = []
    with Service(
        {"CONFIG_PATH": str(tmp_path), "REDIS_URL": redis_server.address, "DEBUG_HOST": "127.0.0.1"}
    ) as service:
        for command in COMMANDS:
            match command:
                case ["export", setting]:
                    assert setting.startswith("RATELIMIT_SERVER=")
                case ["redis-cli", *arguments]:
                    assert ["T10Z:charged", "211904"] == redis_server.cli(*arguments).splitlines()[:2]
                case ["ratelimit-service", *arguments]:
                    to_file = arguments[-2:] == [">", "november.csv"]
                    environment = {**inherited(), "RATELIMIT_SERVER": service.debug}
                    with patch.dict(os.environ, environment, clear=True):
                        ended = run(arguments[: -2 if to_file else None])
                    assert (0, "") == (ended.code, ended.err), command
                    (files if to_file else printed).append(ended.out)
                case _:
                    raise AssertionError(f"the page has another command: {command}")
    assert [TABLE] == printed
    lines, focus = (list(csv.DictReader(io.StringIO(text))) for text in files)
    assert focus == check(files[1])
    charged, refunded, refused = 20_216_017, 41_200, 17
    assert [3, charged, refunded, refused] == [
        len(lines),
        *(sum(int(line[name]) for line in lines) for name in ("charged", "refunded", "refused")),
    ]
    assert [3, charged - refunded, refused] == [
        len(focus),
        *(sum(int(row[name]) for row in focus) for name in ("ConsumedQuantity", "x_Refused")),
    ]
