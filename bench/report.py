"""The results on the pages: tables in marked blocks, and plots. Every figure of these pages is in a block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from testing.page_blocks import fill_page

from . import capacity, upstream_comparison
from .goals import goals
from .machine import QUIET
from .plots import Bar, Line, bars, lines
from .results import NARROW, WIDE, Results, Run, named
from .stages import OF_NOTHING, STAGES

_DRIFT = 0.1
"""The tolerated change of the unit from the beginning to the end."""


def write(results: Results, docs: Path) -> list[Path]:
    """Fill the blocks of the pages and draw the plots. Return the written files."""
    images = docs / "images"
    images.mkdir(exist_ok=True)
    written = []
    for name, drawing in plots(results).items():
        (images / f"{name}.svg").write_text(drawing, "utf-8")
        written.append(images / f"{name}.svg")
    for page, blocks in (("performance.md", tables(results)), ("scaling.md", capacity.tables(results))):
        fill_page(docs / page, blocks)
        written.append(docs / page)
    return written


def tables(results: Results) -> dict[str, str]:
    """Return the blocks of docs/performance.md."""
    return {
        "machine": machine(results),
        "others": others_table(results),
        "goals": goals_table(results),
        "closed": closed_table(results),
        "open": open_table(results),
        "stages": stages_table(results),
    }


def as_text(results: Results) -> str:
    """Return the report for a terminal."""
    return "\n\n".join([*tables(results).values(), *capacity.tables(results).values()]) + "\n"


def table(*rows: tuple[str, ...]) -> str:
    """Return a Markdown table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def machine(results: Results) -> str:
    """Describe the machine and the load of other processes."""
    rows = table(("machine", ""), *results.machine.items())
    return f"{rows}\n\n{quietness(results)}"


def quietness(results: Results) -> str:
    """Describe the load of other processes."""
    disturbed = [run for run in results.runs if run.others > QUIET]
    first, last = results.find(f"nothing/grpcio/{WIDE}"), results.find(f"nothing again/grpcio/{WIDE}")
    drift = last.rate / first.rate - 1 if first and last else 0.0
    said = []
    if disturbed:
        worst = max(run.others for run in disturbed)
        said.append(
            f"**The machine was not quiet**: in {len(disturbed)} of {len(results.runs)} runs, marked †, "
            f"others used more than {QUIET:.0%} of a core, at worst {worst:.0%}."
        )
    else:
        said.append(f"The machine was quiet: in no run did others use more than {QUIET:.0%} of a core.")
    if abs(drift) > _DRIFT:
        said.append(
            f"**The machine changed**: at the end, the unit was {drift:+.0%} of what it was at the beginning."
        )
    elif first and last:
        said.append(f"The unit, measured once more at the end, was {drift:+.1%} of the first.")
    if results.failures:
        said.append(
            "**Not everything came to its end:**\n\n"
            + "\n".join(f"- {name}: {why}" for name, why in results.failures.items())
        )
    return " ".join(said)


def others_table(results: Results) -> str:
    """Return the comparison with envoyproxy/ratelimit."""
    return f"{table(*upstream_comparison.rows(results))}\n\n{upstream_comparison.note(results)}"


def goals_table(results: Results) -> str:
    """Return the table of goals."""
    return table(
        ("goal", "measured", "met"),
        *[(goal.text, goal.measured or "–", goal.verdict) for goal in goals(results)],
    )


def closed_table(results: Results) -> str:
    """Return the table of closed loops."""
    rows: list[tuple[str, ...]] = [
        (
            "server",
            "request",
            "connections × streams",
            "decisions/s",
            "units",
            "of its transport",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "server µs",
            "Redis µs",
            "script calls",
        )
    ]
    for run in results.runs:
        if run.offered or run.name.startswith(("million", "nothing again", "ten minutes")):
            continue
        unit = results.unit(run.shape)
        own = results.find(f"nothing/{run.server.partition(',')[0]}/{run.shape}")
        has_redis = "redis" in run.server or "cluster" in run.server
        rows.append(
            (
                run.server,
                run.request + _rules_of(run),
                str(run.shape),
                f"{run.rate:,.0f}{marks(run)}",
                f"{run.rate / unit:.1f}" if unit else "–",
                f"{run.rate / own.rate:.0%}" if own else "–",
                f"{run.latency.p50:.2f}",
                f"{run.latency.p99:.2f}",
                f"{run.latency.p999:.2f}",
                f"{run.server_cpu:.1f}" if run.server_cpu else "–",
                f"{run.redis_cpu:.1f}" if has_redis else "–",
                f"{run.calls:.3f}" if has_redis else "–",
            )
        )
    return table(*rows)


def _rules_of(run: Run) -> str:
    return f", {int(run.name.partition('/')[2]):,} rules" if run.name.startswith("rules/") else ""


def marks(run: Run) -> str:
    """Return † for a disturbed run, ‡ if the load generator was the limit."""
    return " †" * (run.others > QUIET) + " ‡" * run.generator_bound


def open_table(results: Results) -> str:
    """Return the table of open loops."""
    rows: list[tuple[str, ...]] = [
        (
            "server",
            "request",
            "offered/s",
            "seconds",
            "answered/s",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "p99.9 ms",
            "worst ms",
            "errors",
        )
    ]
    for run in results.runs:
        if not run.offered:
            continue
        latency = run.latency
        rows.append(
            (
                run.server,
                run.request,
                f"{run.offered:,.0f}",
                f"{run.seconds:.0f}",
                f"{run.rate:,.0f}{marks(run)}",
                *(
                    f"{value:.2f}"
                    for value in (latency.p50, latency.p90, latency.p99, latency.p999, latency.worst)
                ),
                f"{run.extra['errors']:,.0f}" if "errors" in run.extra else "–",
            )
        )
    return table(*rows)


def parts(results: Results, transport: str, store: str) -> list[tuple[str, float]]:
    """Return the microseconds of a charge at 4 × 25 by stage; empty if a measurement is missing."""
    nothing = results.find(f"nothing/{transport}/{WIDE}")
    memory = results.find(named(transport, "memory", "charge", WIDE))
    redis = results.find(named(transport, "redis", "charge", WIDE))
    stages = results.stages
    if not (nothing and memory and stages):
        return []
    carried = nothing.server_cpu
    if transport == "native":  # native decodes and encodes even if nothing is decided
        carried -= stages["decode"] + stages[OF_NOTHING]
    found = [("transport", max(0.0, carried)), *((stage, stages[stage]) for stage in STAGES)]
    rest = memory.server_cpu - sum(value for _, value in found)
    found.append(("between the stages", max(0.0, rest)))
    if store == "redis":
        if not redis:
            return []
        found += [
            ("calling Redis", max(0.0, redis.server_cpu - memory.server_cpu)),
            ("Redis", redis.redis_cpu),
        ]
    return found


def stages_table(results: Results) -> str:
    """Return the stages as a table, for every transport and store."""
    columns = {
        f"{transport}, {store}": parts(results, transport, store)
        for transport in ("native", "grpcio")
        for store in ("memory", "redis")
    }
    names = list(dict.fromkeys(name for column in columns.values() for name, _ in column))
    rows = [
        (name, *(f"{dict(column)[name]:.1f}" if name in dict(column) else "–" for column in columns.values()))
        for name in names
    ]
    sums = (f"{sum(value for _, value in column):.1f}" if column else "–" for column in columns.values())
    return table(("µs a decision", *columns), *rows, ("**together**", *sums))


def plots(results: Results) -> dict[str, str]:
    """Return all plots by name."""
    return {
        "throughput": throughput(results),
        "latency": latency(results),
        "percentiles": percentiles(results),
        "stages": stages(results),
    }


def stages(results: Results) -> str:
    """Plot the stages of a charge with native; grpcio's transport would dwarf the rest."""
    drawn = [
        Bar(f"native, {store}", found, f"{sum(value for _, value in found):.1f} µs")
        for store in ("memory", "redis")
        if (found := parts(results, "native", store))
    ]
    return bars(f"A charge, {WIDE}: CPU by stage", "microseconds of CPU a decision", drawn, left=130)


def throughput(results: Results) -> str:
    """Plot charges a second by transport, store and shape."""
    drawn = []
    for shape in (WIDE, NARROW):
        unit = results.unit(shape)
        wanted: list[tuple[str, str]] = []
        for transport in ("grpcio", "native"):
            wanted.append((f"{transport}, decides nothing", f"nothing/{transport}/{shape}"))
            wanted += [
                (f"{transport}, {store}", named(transport, store, "charge", shape))
                for store in ("memory", "redis")
            ]
        wanted.append(("the other one", f"target/charge/{shape}"))
        for label, name in wanted:
            if run := results.find(name):
                note = f"{run.rate:,.0f}" + (f" = {run.rate / unit:.1f} units" if unit else "")
                drawn.append(Bar(f"{label}, {shape}", [("decisions", run.rate)], note))
    return bars("Charges on one core", "decisions a second, closed loop", drawn, left=230, right=160)


def _sweep(results: Results, server: str, value: Callable[[Run], float]) -> list[tuple[float, float]]:
    return [(run.offered, value(run)) for run in results.runs if run.name.startswith(f"open/{server}/")]


def latency(results: Results) -> str:
    """Plot the 99th percentile against the offered load, for every server."""
    drawn = [
        Line(f"{transport}, {store}", _sweep(results, f"{transport}/{store}", lambda run: run.latency.p99))
        for transport, store in (("native", "memory"), ("native", "redis"), ("grpcio", "redis"))
    ]
    return lines(
        "p99 of mixed token traffic, open loop",
        "decisions a second that are asked for",
        "milliseconds",
        _with_bound(drawn),
    )


def percentiles(results: Results) -> str:
    """Plot all percentiles against the offered load, for native with Redis."""
    server = "native/redis"
    drawn = [
        Line("p50", _sweep(results, server, lambda run: run.latency.p50)),
        Line("p90", _sweep(results, server, lambda run: run.latency.p90)),
        Line("p99", _sweep(results, server, lambda run: run.latency.p99)),
        Line("p99.9", _sweep(results, server, lambda run: run.latency.p999)),
        Line("worst", _sweep(results, server, lambda run: run.latency.worst)),
    ]
    return lines(
        "native with Redis: mixed token traffic, open loop",
        "decisions a second that are asked for",
        "milliseconds",
        _with_bound(drawn),
    )


def _with_bound(drawn: list[Line]) -> list[Line]:
    xs = [x for line in drawn for x, _ in line.points]
    bound = [Line("Envoy waits for 20 ms", [(min(xs), 20), (max(xs), 20)], dashed=True)] if xs else []
    return [*drawn, *bound]
