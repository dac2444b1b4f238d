"""The memory store with a snapshot: the counters after a start, whatever happened to the file."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ratelimit_service.core.amendments.model import Change, Put, override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.ledger.entries import Period, record
from ratelimit_service.core.model import COUNTER_MAX, Hit
from ratelimit_service.stores.dump import Counter
from ratelimit_service.stores.snapshot import KeptMemoryStore, read, write
from testing.exact_load import entries_in
from testing.waiting import until

from .snapshot_store import DBA, NOW, OPS, SOON, SnapshotStore, charge, sealed

LIFE = 400 * 86_400
INTO = record("{d|team=dba}", Period(0, 0, ":ledger:hour:2026-11-21", "T08Z"), LIFE)
REFUSED = Hit(INTO.book, 1, ttl=LIFE, gate=Gate.LEDGER | Gate.ENTRY, into=INTO)
"""The entry of a refused request in the ledger of its bucket."""

# Counters that outlast the process.


async def test_a_stop_and_a_start_keep_every_count(kept: SnapshotStore) -> None:
    """Charges, refunds, and counters that were deleted."""
    store = await kept.start()
    charge(store, DBA, 42)
    charge(store, DBA, -2)
    charge(store, OPS, 7)
    await store.delete_counters([OPS])
    again = await kept.restart()
    assert [40, 0] == [charge(again, DBA, 0), charge(again, OPS, 0)]


async def test_a_stop_and_a_start_keep_the_ledger(kept: SnapshotStore) -> None:
    """With its time to live. The next process adds to the same entries."""
    day = 86_400

    def spend(store: KeptMemoryStore) -> None:
        hits = [Hit(DBA, amount, ttl=3_600, gate=Gate.LEDGER, into=INTO) for amount in (42, -2)]
        outcomes: list[object] = []
        store.hit([[hit] for hit in (*hits, REFUSED)], outcomes.extend)
        assert 3 == len(outcomes)

    async def ledger(store: KeptMemoryStore) -> list[tuple[str, int]]:
        found = await entries_in(store, "{d|")
        return sorted((key.removeprefix(f"{INTO.book}T08Z:"), value) for key, value in found.items())

    store = await kept.start()
    spend(store)
    store = await kept.restart()
    assert [("charged", 42), ("refunded", 2), ("refused", 1)] == await ledger(store)
    spend(store)
    for moved, expected in (
        (399 * day, [("charged", 84), ("refunded", 4), ("refused", 2)]),
        # The store removes entries by the hour, and a restart adds two seconds at most.
        (day + 2 * 3_600, []),
    ):
        kept.now += moved
        kept.day += moved
        store = await kept.restart()
        charge(store, OPS, 0)  # a batch removes what has expired
        assert expected == await ledger(store)


async def test_a_refused_request_alone_changes_the_ledger(kept: SnapshotStore) -> None:
    """While a budget is exhausted, there may be no other change for hours."""
    store = await kept.start()
    for _ in range(3):
        store.hit([[REFUSED]], lambda outcomes: None)
        store = await kept.restart()
    assert [3] == list((await entries_in(store, "{d|")).values())


async def test_a_counter_keeps_the_time_it_has(kept: SnapshotStore) -> None:
    """It expires at its original time, however often the process is started."""
    store = await kept.start()
    charge(store, DBA, 40, ttl=100)
    charge(store, OPS, 7, ttl=50)
    kept.now += 60
    store = await kept.restart()
    assert 1 == len(store)
    assert [40, 0] == [charge(store, DBA, 0), charge(store, OPS, 0)]
    kept.now += 60
    assert 0 == charge(store, DBA, 0)
    assert 0 == len(store)


@pytest.mark.parametrize("at_write", [-40 * 365 * 86_400, -5_400, 0, 5_400])
@pytest.mark.parametrize("at_read", [-40 * 365 * 86_400, -5_400, 0, 5_400, 86_400])
async def test_no_count_is_lost_if_the_clock_is_wrong(
    kept: SnapshotStore, at_write: int, at_read: int
) -> None:
    """The clock is wrong when the file is written, read, or both: in 1970, 90 minutes early or late, or a day
    ahead.
    """
    store = await kept.start()
    charge(store, DBA, 40, ttl=3_000)
    kept.day = NOW + at_write
    await store.close()
    kept.day = NOW + at_read
    kept.now = 5.0  # the monotonic clock restarts with the machine
    store = await kept.start()
    assert 40 == charge(store, DBA, 2)
    kept.day = NOW
    kept.now += 2_999
    assert 42 == charge(store, DBA, 0)


async def test_a_counter_expires_however_often_the_process_is_started(kept: SnapshotStore) -> None:
    """The running time of processes counts, except for up to two seconds of each start."""
    store = await kept.start()
    charge(store, DBA, 40, ttl=1_000)
    for _ in range(5):
        kept.now += 195.5
        store = await kept.restart()
        assert 40 == charge(store, DBA, 0)
    kept.now += 22.5 + 6 * 2
    assert 0 == charge(store, DBA, 0)


async def test_a_suspension_of_the_machine_loses_no_count(kept: SnapshotStore) -> None:
    """The clock of the store stopped for ten hours; later charges are kept until the end of their window."""
    store = await kept.start()
    kept.day += 36_000
    charge(store, DBA, 40, ttl=1_000)
    kept.day += 900
    kept.now += 900
    store = await kept.restart()
    assert 40 == charge(store, DBA, 0)


async def test_a_file_of_the_previous_version_is_loaded(kept: SnapshotStore) -> None:
    """It has the expiry of a counter in seconds since 1970."""
    body = f"ratelimit-service counters 1\n{DBA}\t40\t{int(NOW) + 100}\n{OPS}\t7\t{int(NOW) - 1}\n"
    kept.path.write_bytes(sealed(body, 2))
    kept.now = 5.0
    store = await kept.start()
    assert [40, 0] == [charge(store, DBA, 0), charge(store, OPS, 0)]
    kept.now += 99
    assert 40 == charge(store, DBA, 0)
    kept.now += 2
    assert 0 == charge(store, DBA, 0)


async def test_counters_are_written_while_the_process_runs(kept: SnapshotStore) -> None:
    """So a process that is killed loses only the counts since the last write."""
    store = await kept.start(SOON)
    charge(store, DBA, 40)
    await until(lambda: kept.on_disk == {DBA: 40})
    charge(store, DBA, 2)
    await until(lambda: kept.on_disk == {DBA: 42})


async def test_nothing_is_written_without_a_change(kept: SnapshotStore) -> None:
    """Checks, and refunds on an empty counter, change nothing."""
    await kept.start()
    began = kept.path.stat()
    store = kept.stores[-1]
    assert [0, 0] == [charge(store, DBA, 0), charge(store, DBA, -1)]
    await store.close()
    assert began == kept.path.stat()


async def test_the_file_has_the_counters_of_one_moment(kept: SnapshotStore) -> None:
    """Two counters that are always charged together never differ in the file, however often it is read."""
    store = await kept.start(SOON)
    for _ in range(2_000):
        store.hit([[Hit(DBA, 1, ttl=3600), Hit(OPS, 1, ttl=3600)]], lambda outcomes: None)
        await asyncio.sleep(0)
        held = kept.on_disk
        assert held.get(DBA) == held.get(OPS)
    await store.close()
    assert {DBA: 2_000, OPS: 2_000} == kept.on_disk


async def test_a_dump_does_not_change_while_it_is_written(kept: SnapshotStore) -> None:
    """Iterating over a dump takes time; counts made meanwhile are in the next one."""
    store = await kept.start()
    charge(store, DBA, 40, ttl=100)
    dumped = store.dump()
    charge(store, DBA, 2)
    charge(store, OPS, 7)
    kept.now += 200
    charge(store, OPS, 1)
    assert [Counter(DBA, 40, int(NOW) + 100)] == list(dumped)


async def test_only_the_file_and_its_lock_are_left_behind(kept: SnapshotStore) -> None:
    """And other users cannot read the usage of teams."""
    store = await kept.start()
    charge(store, DBA, 1)
    await store.close()
    assert ["counters", "counters.lock"] == kept.files
    assert [0o600, 0o600] == [file.stat().st_mode & 0o777 for file in kept.path.parent.iterdir()]


async def test_the_remains_of_a_killed_write_are_ignored(kept: SnapshotStore) -> None:
    """It is overwritten, and never read."""
    kept.path.with_name("counters.new").write_text("ratelimit-service counters 2\n{d|te")
    store = await kept.start()
    charge(store, DBA, 1)
    await store.close()
    assert (["counters", "counters.lock"], {DBA: 1}) == (kept.files, kept.on_disk)


@given(
    st.lists(
        st.builds(Counter, st.text(), st.integers(0, COUNTER_MAX), st.integers(1, 2**40)),
        unique_by=lambda counter: counter.key,
        max_size=20,
    )
)
def test_the_loaded_counters_are_those_written(
    tmp_path_factory: pytest.TempPathFactory, counters: list[Counter]
) -> None:
    """With any prefix that an operator may set."""
    path = tmp_path_factory.getbasetemp() / "any-counters"
    write(path, counters, 0.0)
    assert counters == read(path).counters


def test_a_file_of_several_pieces_is_loaded_whole(tmp_path: Path) -> None:
    """It has more counters than one piece of a write."""
    counters = [Counter(f"{{d|team={number}}}:hour:x", number, 2**31) for number in range(2_345)]
    write(tmp_path / "counters", iter(counters), 0.0)
    assert counters == read(tmp_path / "counters").counters


def test_the_file_has_the_documented_format(tmp_path: Path) -> None:
    """A person can read it."""
    counters = [Counter(DBA, 40, 12_871), Counter("a b\t{d|x=y}:hour:z", 0, 10_001), Counter(OPS, 1, 10_000)]
    write(tmp_path / "counters", counters, 10_000.0)
    lines = f"ratelimit-service counters 2\n{DBA}\t40\t2871\na b\\t{{d|x=y}}:hour:z\t0\t1\n"
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert f"{lines}end 2 {digest}\n" == (tmp_path / "counters").read_text()


# Amendments.

CHANGE = Change("key", "ana", "launch", (Put(override(parse("d", "team=dba"), 5)),), 1_795_249_200)


async def test_amendments_outlast_the_process(kept: SnapshotStore) -> None:
    """With their audit and their keys, as of the last write. A change alone causes a write."""
    store = await kept.start(SOON)
    charge(store, DBA, 40)
    await until(lambda: kept.on_disk == {DBA: 40})
    assert b"counters 2\n" in kept.path.read_bytes()
    applied = await store.amendments.apply(CHANGE)
    await until(lambda: bool(read(kept.path).amendments))
    assert b"counters 3\n" in kept.path.read_bytes()
    store = await kept.restart()
    assert {DBA: 40} == kept.on_disk
    news = await store.amendments.news(0, "")
    assert (1, (applied.edits[0].after,)) == (news.version, tuple(news.put))
    assert ["launch"] == [line.reason for line in await store.amendments.audit()]
    assert (await store.amendments.apply(CHANGE)).replayed


async def test_amendments_of_a_later_version_are_set_aside_and_counters_are_not(kept: SnapshotStore) -> None:
    """A log line reports it."""
    write(
        kept.path,
        [Counter(DBA, 7, 10)],
        0.0,
        iter(['{"version": 1, "stamp": "s"}', '{"amendment": {"kind": "grant"}}']),
    )
    with capture_logs() as logged:
        store = await kept.start()
    assert 7 == charge(store, DBA, 0)
    assert "the amendments in the snapshot cannot be read" in [line["event"] for line in logged]
    assert 0 == (await store.amendments.news(0, "")).version


# Failures while the process runs.


async def test_a_failing_disk_is_logged_once_counted_and_survived(kept: SnapshotStore) -> None:
    """Counting continues, and the file is written as soon as that is possible again."""
    store = await kept.start(SOON)
    obstacle = kept.path.with_name("counters.new")
    obstacle.mkdir()
    with capture_logs() as logged:
        charge(store, DBA, 40)
        await until(lambda: store.failures >= 3)
        assert (40, {}) == (charge(store, DBA, 2), kept.on_disk)
        obstacle.rmdir()
        await until(lambda: kept.on_disk == {DBA: 42})
        await until(lambda: len(logged) == 2)
    assert ["the counters cannot be written", "the counters are written again"] == [
        line["event"] for line in logged
    ]


async def test_lost_hits_are_logged_at_the_stop(kept: SnapshotStore) -> None:
    """This includes a failed last write."""
    store = await kept.start()
    charge(store, DBA, 40)
    kept.path.with_name("counters.new").mkdir()
    with capture_logs() as logged:
        await store.close()
    assert "counters since the last snapshot are lost" == logged[-1]["event"]
    assert 1 == store.failures
