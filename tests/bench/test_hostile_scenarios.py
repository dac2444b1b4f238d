"""The hostile peers of the benchmark."""

from __future__ import annotations

from bench.scenarios import ATTACKS, all_scenarios

from ..faults import hostile_peers


def test_hostile_peers_are_those_of_the_fault_tests() -> None:
    """Each of them has a scenario, except for the peer that only connects: it causes nothing to measure."""
    assert set(hostile_peers.ATTACKS) - {"connections_and_nothing_else"} == set(ATTACKS)
    names = {scenario.name for scenario in all_scenarios()}
    assert {f"hostile/{attack}" for attack in ATTACKS} <= names
