"""Starts the load generator of replay.py, and measures the server during the run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .machine import Meter
from .results import Latency, Shape
from .servers import ROOT, Server

_PATIENCE = 120.0
"""Seconds for preparing and finishing a run."""


@dataclass
class ReplayResult:
    """The report of the generator, and the resources that the server used."""

    decisions: int
    seconds: float
    latency: Latency
    generator: float
    sent: list[int]
    """The requests of each connection, warm-up included; all were answered."""
    refused: int
    errors: int
    meter: Meter
    calls: float
    """Script calls for each request, warm-up included."""


def replay(
    server: Server,
    traffic: str,
    shape: Shape,
    seconds: float,
    *,
    rate: float = 0.0,
    many: int = 0,
    warm_up: float = 0.5,
    at: Mapping[float, Callable[[], None]] | None = None,
) -> ReplayResult:
    """Do a run. Another thread calls the functions in `at`, each that many seconds after the beginning."""
    command = [sys.executable, "-m", "bench.replay", str(server.port), *map(str, shape), traffic]
    command += [str(seconds), f"--rate={rate}", f"--many={many}", f"--warm-up={warm_up}"]
    timers: list[threading.Timer] = []
    calls = server.script_calls()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as load:
        limit = threading.Timer(seconds + 3 * _PATIENCE, load.kill)
        limit.start()
        try:
            _expect(load, "ready")
            meter = Meter(server.pids, server.redis_pids, [*server.ours, load.pid])
            _expect(load, "begin")
            meter.start()
            for after, action in (at or {}).items():
                timers.append(threading.Timer(after, action))
                timers[-1].start()
            _expect(load, "end")
            meter.stop()
            assert load.stdout is not None
            report: dict[str, Any] = json.loads(load.stdout.readline())
        except BaseException:
            load.kill()
            raise
        finally:
            limit.cancel()
            for timer in timers:
                timer.cancel()
    sent: list[int] = report["sent"]
    calls = server.script_calls() - calls
    assert not report["failed"], f"{report['failed']} streams were reset"
    return ReplayResult(
        decisions=report["decisions"],
        seconds=report["seconds"],
        latency=Latency(**report["latency"]),
        generator=report["generator"],
        sent=sent,
        refused=report["over"],
        errors=sum(sent) - report["messages"],
        meter=meter,
        calls=calls / sum(sent),
    )


def _expect(load: subprocess.Popen[str], word: str) -> None:
    assert load.stdout is not None
    line = load.stdout.readline().strip()
    if line != word:
        raise RuntimeError(
            f"the load generator has ended: {line!r}, code {load.wait()}; see what it said above"
        )
