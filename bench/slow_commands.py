"""Watches what a measurement costs the service and Redis: their CPU time, and the slowest commands of Redis.

SLOWLOG has the time that passed, which includes the time without a core; so each slow command is sent again,
and the CPU time of Redis for it is printed as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

from .machine import cpu_seconds
from .printing import say

LIMIT = 1_000
"""Microseconds that no command may take."""
NOTED = 250
"""Microseconds from which SLOWLOG notes a command."""
REPEATS = 50


class Watch:
    """What the service and Redis have done since it was made. The statistics of Redis begin anew."""

    def __init__(self, client: redis.Redis, *, service: int, server: int) -> None:
        client.config_resetstat()
        client.config_set("slowlog-log-slower-than", NOTED)
        client.config_set("slowlog-max-len", 100_000)
        client.slowlog_reset()
        self._client = client
        self._server = server
        self._pids = {"the service": service, "Redis": server}
        self._before = {what: cpu_seconds([pid]) for what, pid in self._pids.items()}
        self._waited = waited(server)

    def stop(self) -> dict[str, float]:
        """Return the seconds of CPU time of each. `report` is about the time until now."""
        self._waited = waited(self._server) - self._waited
        return {what: cpu_seconds([pid]) - self._before[what] for what, pid in self._pids.items()}

    def report(self) -> None:
        """Print the slowest commands, and whether any of them is too slow by itself."""
        noted: list[Any] = sorted(self._client.slowlog_get(-1), key=lambda entry: -entry["duration"])
        over = [entry for entry in noted if entry["duration"] > LIMIT]
        say(f"commands of Redis over {LIMIT / 1e3:g} ms: {len(over)}")
        say(f"time in which Redis was ready and had no core: {self._waited * 1e3:.1f} ms")
        if not noted:
            say(f"the slowest command took less than {NOTED / 1e3:g} ms")
        for entry in over[:5] or noted[:1]:
            shown = entry["command"][:80].decode(errors="backslashreplace")
            repeated = on_cpu(self._client, self._server, entry["command"])
            say(f"{entry['duration'] / 1e3:.2f} ms: {shown}: {repeated}")


def say_times(cpu: dict[str, float]) -> None:
    """Print the CPU time of each process."""
    say(", ".join([f"{what} {value:.1f} s of CPU time" for what, value in cpu.items()]))


def waited(pid: int) -> float:
    """Return the seconds for which a process was ready to run and had no core."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum([int((task / "schedstat").read_text().split()[1]) for task in tasks]) / 1e9


def on_cpu(client: Any, pid: int, command: bytes) -> str:
    """Return the CPU time of a command, from repeating it, or why it cannot be repeated."""
    name, *arguments = command.split(b" ")
    if b"... (" in command:
        return "SLOWLOG has only a part of it, so its CPU time is unknown"
    info: Any = client.execute_command("COMMAND", "INFO", name)
    if not any("readonly" in each["flags"] for each in info.values()):
        return "it writes, so it is not repeated, and its CPU time is unknown"
    before = cpu_seconds([pid])
    for _ in range(REPEATS):
        client.execute_command(name, *arguments)
    return (
        f"repeated, it takes {(cpu_seconds([pid]) - before) / REPEATS * 1e3:.2f} ms of CPU time, "
        "its reply included"
    )
