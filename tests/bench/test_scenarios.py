"""The plan of the benchmark."""

from __future__ import annotations

from pathlib import Path

from bench.measurement import Bench
from bench.results import Results
from bench.run import DOCS
from bench.scenarios import selected

PATIENCE = 20 * 60.0
"""Seconds that a whole run may take."""


def test_a_whole_run_takes_less_than_twenty_minutes(tmp_path: Path) -> None:
    """The plan is added up with the default lengths."""
    lasts = sum(scenario.lasts(Bench(tmp_path, Results({}))) for scenario in selected("", long=False))
    assert 5 * 60 < lasts < PATIENCE


def test_the_long_run_and_the_others_are_selected_by_name() -> None:
    """A target adds scenarios that send it the same requests."""
    names = {scenario.name for scenario in selected("", long=True, address="127.0.0.1:1")}
    mine = {scenario.name for scenario in selected("", long=False)}
    assert {"ten minutes/native/redis"} | {
        name for name in names if name.startswith("target/")
    } == names - mine
    assert {"native/redis/mixed/4 × 25"} == {each.name for each in selected("native/redis/mixed", long=False)}


def test_the_page_says_how_long_a_run_takes() -> None:
    assert "a quarter of an hour" in (DOCS / "performance.md").read_text("utf-8")
