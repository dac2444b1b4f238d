"""How many CPUs this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Return the CPUs that this process may use: those it may run on, and not more than the quota of its
    cgroup.

    Of a quota of 2.5 CPUs, 2 count: processes that compete for the rest are paused together, for tenths of a
    second.
    """
    # Python counts the CPUs of the machine on systems without affinity.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, *[int(quota) for quota in _quotas(cgroups, own)]]))


def _quotas(cgroups: Path, own: Path) -> list[float]:
    """Return the quotas, in CPUs, of this process' cgroup and of those above it."""
    quotas = []
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        below = Path(path.lstrip("/"))
        for group in (below, *below.parents):
            if not controllers:
                quotas += _version_2(cgroups / group)
            elif "cpu" in controllers.split(","):
                quotas += _version_1(cgroups / "cpu" / group)
    return quotas


def _version_2(group: Path) -> list[float]:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return _share(quota, period)


def _version_1(group: Path) -> list[float]:
    return _share(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _share(quota: str, period: str) -> list[float]:
    """Return a quota in CPUs; nothing if there is none ("max", -1)."""
    with suppress(ValueError, ZeroDivisionError):
        if (share := int(quota) / int(period)) > 0:
            return [share]
    return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
