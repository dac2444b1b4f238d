"""The commands that a Redis server runs, with their durations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis

from .redis_servers import RedisServer

_shortened = re.compile(rb"\.\.\. \((\d+) more arguments\)$")
_SHOWN = 31
"""Arguments that SLOWLOG shows of a command that has more than 32."""


class NotedCommand(NamedTuple):
    """A command, by its name in upper case and the number of its arguments, and how long it took."""

    name: str
    arguments: int
    microseconds: int


@contextmanager
def noted_commands(server: RedisServer) -> Iterator[list[NotedCommand]]:
    """Yield a list, which has every command that the server has run meanwhile once the block ends."""
    found: list[NotedCommand] = []
    with redis.Redis.from_url(server.url) as client:
        client.config_set("slowlog-max-len", 100_000)
        client.config_set("slowlog-log-slower-than", 0)
        client.slowlog_reset()
        try:
            yield found
        finally:
            client.config_set("slowlog-log-slower-than", 10_000)
        log: list[Any] = client.slowlog_get(-1)
        client.config_set("slowlog-max-len", 128)
        for entry in reversed(log):
            name, *arguments = entry["command"].split(b" ")
            more = _shortened.search(entry["command"])
            number = _SHOWN + int(more[1]) - 1 if more else len(arguments)
            found.append(NotedCommand(name.decode().upper(), number, entry["duration"]))


def own_time(commands: Sequence[NotedCommand]) -> int:
    """Return how many microseconds a command of these takes if it does not wait for a core: three of four may
    have.
    """
    assert commands, "there are no such commands"
    return sorted(each.microseconds for each in commands)[len(commands) // 4]
