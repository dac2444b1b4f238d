"""The machine: its cores, their use by process, and the load of other processes."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

QUIET = 0.05
"""The most that other processes may use of a core in an undisturbed run."""

_TICK = os.sysconf("SC_CLK_TCK")
_NANOSECONDS = 1e9


def _cores() -> tuple[int, int]:
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


SERVER_CORE, LOAD_CORE = _cores()
"""The cores of the server (with its Redis) and of the load generator; the same core if there is only one."""


def pin(pid: int, core: int) -> None:
    """Pin a process and all its threads to a core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of processes, in nanoseconds if the kernel reports them."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / _NANOSECONDS
    except OSError:  # the kernel lacks these statistics, or the thread has just ended
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK


def resident_bytes(pid: int) -> int:
    """Return the RSS of a process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def busy_seconds() -> float:
    """Return the CPU time of all processes since the boot, including steal time."""
    user, nice, system, _idle, _wait, irq, softirq, steal = (
        int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICK


@dataclass
class Meter:
    """The CPU time of given processes, and of all others, between `start` and `stop`.

    `server` is what is measured, `ours` whatever else belongs to the run; this process is counted among
    those.
    """

    server: list[int]
    redis: list[int]
    ours: list[int]
    server_cpu: float = 0.0
    redis_cpu: float = 0.0
    others: float = 0.0
    """The share of a core that other processes used."""

    def start(self) -> None:
        """Begin."""
        self._at = time.perf_counter()
        self._before = self._look()

    def stop(self) -> None:
        """End, and compute the times."""
        seconds = time.perf_counter() - self._at
        server, redis, own, busy = (
            after - before for after, before in zip(self._look(), self._before, strict=True)
        )
        self.server_cpu, self.redis_cpu = server, redis
        self.others = max(0.0, busy - server - redis - own) / seconds

    def _look(self) -> tuple[float, float, float, float]:
        # The parent's times include an ended child (h2load).
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return (
            cpu_seconds(self.server),
            cpu_seconds(self.redis),
            cpu_seconds(self.ours) + own,
            busy_seconds(),
        )


def load_average() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def describe(load_before: float, others: float) -> dict[str, str]:
    """Return the machine as rows of a table."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    cores = "one core for everything" if SERVER_CORE == LOAD_CORE else "two of them used"
    return {
        "measured on": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": model[1] if model else platform.machine(),
        "cores": f"{os.cpu_count()}, {cores}",
        "virtual": "yes" if "hypervisor" in cpuinfo else "no",
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "?",
        "kernel": f"Linux {'.'.join(platform.release().split('.')[:2])}",
        "Python": sys.version.split()[0],
        "load average before": f"{load_before:.2f}",
        "others before": f"{others:.0%} of a core",
    }
