"""Soaks the service, and writes the table in docs/reliability.md.

    make soak MINUTES=60 RATE=200
    .venv/bin/python -m bench.soak --minutes 3 --transport grpcio

Two replicas with TLS behind the Envoy of deploy/envoy count in a Redis that keeps what it acknowledges.
Callers ask for completions as JSON and as streams, and hang up on some. Meanwhile rules change and are broken
now and then, certificates are renewed, connections reach their age, both replicas are replaced one after
another, and Redis is stopped, and later killed. The exit code is 1 where a charge was lost or counted twice,
memory grew, or an error came that no fault explains.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
from pathlib import Path

import uvloop

from testing.page_blocks import fill_block

from . import report
from .http1 import Provider
from .schedule import Soak, SoakResult


async def soak(seconds: float, rate: float, transport: str, scratch: Path) -> SoakResult:
    """Soak for `seconds`, with `rate` requests a second."""
    provider = Provider()
    await provider.start()
    try:
        play = await asyncio.to_thread(Soak, seconds, rate, transport, provider.port, scratch)
        return await play.run()
    finally:
        provider.close()


def main() -> int:
    """Read the command line, and soak."""
    options = argparse.ArgumentParser(prog="bench.soak")
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--rate", type=float, default=200.0, help="requests a second")
    options.add_argument("--transport", default="", help="GRPC_TRANSPORT; the default without it")
    options.add_argument("--write", type=Path, help="the page whose table is replaced")
    chosen = options.parse_args()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        soaked = uvloop.run(soak(chosen.minutes * 60, chosen.rate, chosen.transport, Path(scratch)))
    sys.stdout.write(report.table(soaked) + "\n")
    if chosen.write is not None:
        fill_block(chosen.write, "soak", report.table(soaked))
    found = report.problems(soaked)
    for problem in found[:100]:
        sys.stderr.write(f"{problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
