"""Compares the service with envoyproxy/ratelimit, which it replaces."""

from __future__ import annotations

from .results import WIDE, Results, named

NAMES = {
    "mixed": "mixed traffic",
    "cold": "new buckets",
    "over the limit": "over the limit",
    "charge": "one bucket",
}
"""The requests of the table, as they are sent and as the table calls them."""

MEASURED = {"mixed": 2.47, "cold": 2.01, "over the limit": 1.64, "charge": 1.95}
"""Units of envoyproxy/ratelimit in a run of this benchmark with --target: its Redis and its rules were the
same, it shared a core with Redis, and the load came from another one. A run with a target has figures of its
own."""


def rows(results: Results) -> list[tuple[str, ...]]:
    """Return the rows of the table; the first is its head."""
    found: list[tuple[str, ...]] = [
        ("units, 4 × 25", "native, the default", "grpcio", "envoyproxy/ratelimit", "native ÷ it")
    ]
    for request, name in NAMES.items():
        native, grpcio = (
            _units(results, named(each, "redis", request, WIDE)) for each in ("native", "grpcio")
        )
        other = _units(results, f"target/{request}/{WIDE}") or MEASURED[request]
        found.append((name, *map(_text, (native, grpcio, other)), _text(native / other if native else None)))
    return found


def note(results: Results) -> str:
    """Return the source of the figures of envoyproxy/ratelimit."""
    if results.find(f"target/mixed/{WIDE}"):
        return "All figures are of this run."
    return (
        "The figures of envoyproxy/ratelimit are of an earlier run of this benchmark (`make bench TARGET=`), "
        "in units of that run; the others are of this one."
    )


def _units(results: Results, name: str) -> float | None:
    run, unit = results.find(name), results.unit(WIDE)
    return run.rate / unit if run and unit else None


def _text(units: float | None) -> str:
    return "–" if units is None else f"{units:.1f}"
