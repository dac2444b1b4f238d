"""The measurement of what a ledger costs."""

from __future__ import annotations

import time

from bench.ledger_cost import BATCH, BATCHES, Cost, Turn, within
from bench.messages import expected
from ratelimit_service.core.ledger.entries import is_of_ledger
from ratelimit_service.stores.memory import MemoryStore


async def test_both_stores_are_measured_with_and_without_ledgers_by_turns() -> None:
    """At least three turns of each, however short the time."""
    found = await within(0.0)
    assert [
        f"{store}, {what}"
        for store in ("memory", "redis")
        for what in ("the store alone", "without a transport")
    ] == list(found)
    assert {(3, 3)} == {(len(cost.without), len(cost.ledger)) for cost in found.values()}
    assert all(min(*cost.without, *cost.ledger) > 0 for cost in found.values())


async def test_a_turn_records_every_charge_if_it_has_ledgers() -> None:
    """Otherwise it would measure something else."""
    for ledger in (False, True):
        store = MemoryStore(time.monotonic)
        turn = Turn(store, ledger=ledger)
        await turn.store_alone()
        await turn.decisions()
        charged = 2 * sum(expected("mixed", [BATCH * BATCHES]).values())
        recorded = [dict(shard).items() for shard in store._shards]
        sums = {True: 0, False: 0}
        for items in recorded:
            for key, value in items:
                sums[is_of_ledger(key)] += value
        assert {False: charged, True: charged if ledger else 0} == sums


def test_the_report_has_the_best_turns_and_the_medians() -> None:
    line = Cost([10.0, 8.0, 9.0], [11.0, 12.0, 9.0]).line("x")
    assert "x: 8.00 without, 9.00 with a ledger: +12.5%, by the medians +22.2%" == line
