"""One hostile peer of the native transport, within the limits: the process stays small, and honest callers
hardly wait.

Their waits are measured within the server, in CPU time of its thread (probed_service.py). So they do not
depend on the load of the machine or on how much the attacker gets done. The benchmark has the figures in wall
time.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from testing.service import Service, port_of
from testing.waiting import wait_for

from .hostile_peers import ATTACKS, FROM_ELSEWHERE

MOST_MIB = 256
LONGEST_MS = 20.0
"""CPU time for which all but one in twenty calls wait at most. Without bounds it was seconds. `make bench`
has the times of a clock."""

LONGEST_REQUEST_MS = 10.0
"""CPU time of a request with the maximum of descriptors and entries, which a caller may have to wait for."""

USUAL_MS = 0.25
"""CPU time of a call without an attack, on an idle machine. Other load on a core slows down both alike."""

LONGEST_FOR_NEW_MS = 2_000.0
"""The same for a call that has to connect: an attacker may be ahead of it with a thousand connections, which
is the backlog."""


class Waits(NamedTuple):
    """The CPU times of calls in milliseconds, sorted, and the words for those that failed."""

    kept: list[float]
    new: list[float]
    failed: list[str]


class Probed:
    """The service with a probe in its process."""

    def __init__(self, service: Service, waits: Path) -> None:
        self.service = service
        self._waits = waits
        self._seen = 0
        wait_for("the first calls", lambda: len(self._lines()) > 100)
        self.usual = median(self.waits().kept)

    def _lines(self) -> list[str]:
        return self._waits.read_text().splitlines()

    def waits(self) -> Waits:
        """Return the waits since the last call."""
        lines = [line.split()[:2] for line in self._lines()[self._seen :]]
        self._seen += len(lines)
        kept, new = (
            sorted(float(how) for kind, how in lines if kind == wanted and how[0].isdigit())
            for wanted in ("kept", "new")
        )
        return Waits(kept, new, [" ".join(line) for line in lines if not line[1][0].isdigit()])


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    """One process for all attacks, because the remains of one attack are part of the next."""
    directory = tmp_path_factory.mktemp("probed")
    rules = directory / "rules.yaml"
    rules.write_text(
        "domain: d\ndescriptors: [{key: team, rate_limit: {unit: day, tokens_per_unit: 1000000}}]\n"
    )
    environment = {"CONFIG_PATH": str(rules), "BACKEND_TYPE": "memory", "GRPC_TRANSPORT": "native"}
    command = (sys.executable, "-m", "tests.faults.probed_service", str(directory / "waits"))
    with Service(environment, command=command) as served:
        yield Probed(served, directory / "waits")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_peer_does_not_slow_down_honest_callers(probed: Probed, attack: str) -> None:
    """Below 256 MiB, honest callers hardly wait, and none is refused or cut off.

    A caller that connects anew may be cut off while an attack from its own address has as many connections as
    there may be.
    """
    service = probed.service
    probed.waits()
    command = [sys.executable, "-m", "tests.faults.hostile_peers", str(port_of(service.grpc)), attack]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=120)
    waits = probed.waits()
    assert service.running
    bearable = () if attack in FROM_ELSEWHERE else ("new cut-off",)
    assert [] == [failure for failure in waits.failed if failure not in bearable]
    assert len(waits.kept) >= 10
    slower = max(1.0, probed.usual / USUAL_MS)
    longest = LONGEST_MS + (LONGEST_REQUEST_MS if attack == "requests_that_take_long" else 0)
    assert waits.kept[int(len(waits.kept) * 0.95)] < longest * slower, waits.kept[-5:]
    if waits.new:
        assert waits.new[int(len(waits.new) * 0.95)] < LONGEST_FOR_NEW_MS * slower, waits.new[-5:]
    assert largest(service) < MOST_MIB


def largest(service: Service) -> float:
    """Return the peak memory of the process in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{service.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1_024
