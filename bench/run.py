"""The command line of the benchmark, which writes docs/performance.md and docs/scaling.md.

    make bench                                    everything, in a quarter of an hour; LONG=1 adds ten minutes
                                                  of new buckets
    .venv/bin/python -m bench.run --only native/redis --seconds 1
    .venv/bin/python -m bench.run --target 127.0.0.1:8081 --target-pid 4711

The server and its Redis share a core, the load generator has another. All features of the service are on. The
unit is grpc.aio on uvloop that decides nothing, measured in the same run: machines differ and are shared, so
ratios say more than numbers. After each run, acknowledged charges are compared with the counters. A failure
does not stop the other scenarios; the report has it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import report
from .machine import Meter, describe, load_average
from .measurement import Bench
from .messages import rules, rules_for_others
from .results import Results, Run
from .scenarios import Scenario, selected

DOCS = Path(__file__).parents[1] / "docs"
_LISTEN = 1.0
"""Seconds of idle measurement before the first run."""


def say(line: str) -> None:
    """Print progress on stderr."""
    sys.stderr.write(line + "\n")


def print_summary(run: Run) -> None:
    """Format a run as one line."""
    say(
        f"{run.name:46} {run.rate:10,.0f}/s  p99 {run.latency.p99:7.2f} ms  {run.server_cpu:6.1f} µs  "
        f"Redis {run.redis_cpu:5.1f} µs  calls {run.calls:.3f}  generator "
        f"{run.generator:4.0%}{report.marks(run)}"
    )


def measure(bench: Bench, scenarios: Sequence[Scenario]) -> None:
    """Run scenarios. A failure is noted, and the next one follows."""
    expected = sum(scenario.lasts(bench) for scenario in scenarios)
    say(f"{len(scenarios)} scenarios, about {expected / 60:.0f} minutes")
    began = time.monotonic()
    for scenario in scenarios:
        try:
            scenario.measure(bench)
        except Exception as error:
            why = f"{type(error).__name__}: {error}".split("\n", 1)[0][:300]
            bench.results.failures[scenario.name] = why
            say(f"{scenario.name:46} FAILED: {error}")
            for note in getattr(error, "__notes__", ()):
                say(note)
    bench.results.machine["the whole run took"] = f"{(time.monotonic() - began) / 60:.0f} minutes"


def listen() -> float:
    """Measure the share of a core that other processes use."""
    meter = Meter([], [], [])
    meter.start()
    time.sleep(_LISTEN)
    meter.stop()
    return meter.others


def main() -> int:
    """Run with the arguments of the command line. Return 1 if a scenario failed."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--only", default="", metavar="TEXT", help="only scenarios with this in their names")
    options.add_argument("--seconds", type=float, default=3.0, help="of each run")
    options.add_argument("--minute", type=float, default=60.0, help="seconds of those that last a minute")
    options.add_argument(
        "--ten-minutes", type=float, default=600.0, help="seconds of the one that lasts so long"
    )
    options.add_argument("--million", type=int, default=1_000_000, help="buckets in the memory store")
    options.add_argument("--long", action="store_true", help="with the run of ten minutes")
    options.add_argument("--target", default="", metavar="HOST:PORT", help="measure this one, too")
    options.add_argument(
        "--target-pid", type=int, action="append", default=[], metavar="PID", help="its processes"
    )
    options.add_argument(
        "--write", nargs="?", type=Path, const=DOCS, metavar="DIRECTORY", help="write the pages"
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write the results down")
    options.add_argument(
        "--from", dest="results", type=Path, metavar="FILE", help="measure nothing, read results"
    )
    options.add_argument("--list", action="store_true", help="print the names of the scenarios")
    options.add_argument("--print-rules", action="store_true", help="print the rules that are measured with")
    options.add_argument(
        "--print-rules-for-others", action="store_true", help="the same for envoyproxy/ratelimit"
    )
    chosen = options.parse_args()
    if chosen.print_rules or chosen.print_rules_for_others:
        sys.stdout.write(rules() if chosen.print_rules else rules_for_others())
        return 0
    if chosen.list:
        names = [scenario.name for scenario in selected(chosen.only, long=True, address=chosen.target)]
        sys.stdout.write("".join(f"{name}\n" for name in names))
        return 0
    if chosen.write and chosen.only:
        options.error("--write is for all scenarios: a page with half of them would be read as the whole")
    if chosen.results:
        results = Results.load(chosen.results)
    else:
        before = load_average()
        results = Results(describe(before, listen()))
        with tempfile.TemporaryDirectory() as scratch:
            bench = Bench(
                Path(scratch),
                results,
                chosen.seconds,
                chosen.minute,
                chosen.ten_minutes,
                chosen.million,
                print_summary,
            )
            measure(
                bench,
                selected(chosen.only, long=chosen.long, address=chosen.target, pids=chosen.target_pid),
            )
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        results.dump(chosen.json)
    if chosen.write:
        for file in report.write(results, chosen.write):
            say(f"wrote {file}")
    sys.stdout.write(report.as_text(results))
    for name, why in results.failures.items():
        say(f"FAILED {name}: {why}")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
