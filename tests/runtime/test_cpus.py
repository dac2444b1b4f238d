"""The number of CPUs that a process may use: its affinity, and the quotas of its cgroup and its ancestors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from ratelimit_service.runtime import cpus

V2 = "0::/kubepods/pod1/main\n"
V1 = "5:cpuset:/\n4:cpu,cpuacct:/kubepods/pod1\n"


@pytest.mark.parametrize(
    "own, files, expected",
    [
        ("", {}, 8),  # no cgroups, as on macOS
        (V2, {}, 8),
        (V2, {"kubepods/pod1/main/cpu.max": "max 100000\n"}, 8),
        (V2, {"kubepods/pod1/main/cpu.max": "400000 100000\n"}, 4),
        (V2, {"kubepods/pod1/main/cpu.max": "250000 100000\n"}, 2),
        (V2, {"kubepods/pod1/main/cpu.max": "50000 100000\n"}, 1),  # less than one CPU
        (V2, {"kubepods/pod1/cpu.max": "300000 100000\n", "kubepods/pod1/main/cpu.max": "max 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # a container whose own cgroup appears as the root
        (V2, {"kubepods/pod1/main/cpu.max": "1600000 100000\n"}, 8),  # more than the machine has
        (V2, {"kubepods/pod1/main/cpu.max": "nonsense\n"}, 8),
        (
            V1,
            {"cpu/kubepods/pod1/cpu.cfs_quota_us": "-1\n", "cpu/kubepods/pod1/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        (
            V1,
            {
                "cpu/kubepods/pod1/cpu.cfs_quota_us": "200000\n",
                "cpu/kubepods/pod1/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            V1,
            {"cpu/kubepods/pod1/cpu.cfs_quota_us": "200000\n", "cpu/kubepods/pod1/cpu.cfs_period_us": "0\n"},
            8,
        ),
    ],
)
def test_a_quota_bounds_the_cpus(
    own: str, files: Mapping[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded down, and at least 1."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for name, text in files.items():
        file = tmp_path / "cgroups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "own").write_text(own)
    assert expected == cpus.usable(tmp_path / "cgroups", tmp_path / "own")


def test_the_affinity_of_a_process_bounds_its_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert 2 == cpus.usable(tmp_path, tmp_path / "none")
