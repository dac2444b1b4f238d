"""The contract of every store about amendments (ports.AmendmentStore)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from ratelimit_service.core.amendments.model import (
    MOST_EDITS,
    Change,
    EditResult,
    News,
    Put,
    Remove,
    Reset,
    override,
    top_up,
)
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import Conflict, InvalidRequest
from ratelimit_service.ports import AmendmentStore, CounterStore
from ratelimit_service.stores.amendments import MemoryAmendments
from ratelimit_service.stores.memory import MemoryStore

from .changes import NOW, ONE, TARGET, TWO, change, current, ordered
from .kinds import KINDS, stores_of

MORE = top_up(TARGET, 7, "key", windows=1, since=NOW, author="ana", reason="a café")


@dataclass
class Amending:
    """Two connections to one store, as two replicas would have; in memory, both are the same."""

    store: CounterStore
    other: CounterStore
    name: str
    restart: Callable[[], AmendmentStore]
    """Returns the amendments that a new process would find."""

    @property
    def amendments(self) -> AmendmentStore:
        return self.store.amendments


@pytest.fixture(params=KINDS)
async def amending(request: pytest.FixtureRequest) -> AsyncIterator[Amending]:
    if "memory" in request.param:
        memory = MemoryStore(lambda: NOW)

        def restart() -> AmendmentStore:
            found = MemoryAmendments()
            found.load(list(memory.amendments.lines() or ()))
            return found

        yield Amending(memory, memory, request.param, restart)
        return
    store, other = stores_of(request, request.param)
    await store.start()
    await other.start()
    yield Amending(store, other, request.param, lambda: other.amendments)
    await store.close()
    await other.close()


async def test_another_replica_reads_the_amendments_that_were_put(amending: Amending) -> None:
    """Byte for byte. The version increases by one for each change, not for each edit."""
    assert [] == await current(amending.amendments)
    applied = await amending.amendments.apply(change(Put(ONE), Put(MORE)))
    assert (1, (EditResult(ONE.id, None, ONE), EditResult(MORE.id, None, MORE)), False) == applied[:3]
    assert ordered(ONE, MORE) == await current(amending.other.amendments)
    assert ordered(ONE, MORE) == await current(amending.restart())
    applied = await amending.amendments.apply(change(Remove(ONE.id), Remove("o-nothing"), key="other"))
    assert (2, (EditResult(ONE.id, ONE), EditResult("o-nothing"))) == applied[:2]
    assert [MORE] == await current(amending.other.amendments)


async def test_news_has_the_edits_since_a_version(amending: Amending) -> None:
    """A replica that is up to date gets nothing, one that is behind gets the last state of each edited
    amendment, and a new one gets everything.
    """
    store, other = amending.amendments, amending.other.amendments
    await store.apply(change(Put(ONE), key="1"))
    first = await other.news(0, "")
    assert (1, (ONE,), True) == (first.version, first.put, first.whole)
    assert News(1, first.stamp) == await other.news(1, first.stamp)
    await store.apply(change(Put(TWO), key="2"))
    await store.apply(change(Remove(ONE.id), Put(MORE), key="3"))
    await store.apply(change(Remove(MORE.id), key="4"))
    news = await other.news(1, first.stamp)
    assert (4, (TWO,), sorted((ONE.id, MORE.id)), False) == (
        news.version,
        tuple(news.put),
        sorted(news.removed),
        news.whole,
    )
    assert News(4, news.stamp) == await other.news(4, news.stamp)


async def test_a_replica_with_an_unknown_version_gets_everything(amending: Amending) -> None:
    """A failover may have lost the version, and its number may be in use again."""
    await amending.amendments.apply(change(Put(ONE), key="1"))
    await amending.amendments.apply(change(Put(TWO), key="2"))
    for version, stamp in ((1, "lost"), (2, "lost"), (7, "lost")):
        news = await amending.amendments.news(version, stamp)
        assert (2, ordered(ONE, TWO), True) == (news.version, ordered(*news.put), news.whole)


async def test_a_change_is_applied_once_for_each_idempotency_key(amending: Amending) -> None:
    """Any replica returns the first result, at any time, after a restart, and after other changes."""
    first = await amending.amendments.apply(change(Put(ONE)))
    await amending.amendments.apply(change(Put(ONE._replace(amount=9)), key="other"))
    again = change(Put(ONE._replace(since=NOW + 60)), at=NOW + 60)
    for store in (amending.other.amendments, amending.restart()):
        assert first._replace(replayed=True) == await store.apply(again)
        assert first._replace(replayed=True) == await store.apply(again, dry_run=True)
    assert [ONE._replace(amount=9)] == await current(amending.amendments)
    assert 2 == len(await amending.amendments.audit())


async def test_the_idempotency_key_of_another_change_is_refused(amending: Amending) -> None:
    """Otherwise, the change would be silently ignored."""
    await amending.amendments.apply(change(Put(ONE)))
    for other in (change(Put(ONE._replace(amount=6))), change(Remove(ONE.id)), change(Put(ONE), Put(TWO))):
        with pytest.raises(InvalidRequest, match="was that of another change"):
            await amending.other.amendments.apply(other)
    assert [ONE] == await current(amending.amendments)


async def test_a_dry_run_returns_the_replaced_amendments_and_writes_nothing(amending: Amending) -> None:
    await amending.amendments.apply(change(Put(ONE), key="1"))
    would = await amending.amendments.apply(change(Put(ONE._replace(amount=9)), key="2"), dry_run=True)
    assert (1, (EditResult(ONE.id, ONE, ONE._replace(amount=9)),)) == would[:2]
    assert [ONE] == await current(amending.amendments)
    assert 1 == len(await amending.amendments.audit())
    assert not (await amending.amendments.apply(change(Put(ONE._replace(amount=9)), key="2"))).replayed


async def test_a_change_is_refused_if_an_amendment_differs_from_the_expected_one(amending: Amending) -> None:
    """None of its edits is applied, so two operators who have seen the same state do not undo each other's
    changes.
    """
    store = amending.amendments
    seen = change(Put(TWO), Put(ONE), key="1")._replace(expected=(None, None))
    await store.apply(seen)
    late = change(Put(TWO._replace(amount=1)), Put(ONE._replace(amount=6)), key="2")
    with pytest.raises(Conflict, match=r"another change came first: there is .*amount.*5"):
        await store.apply(late._replace(expected=(TWO, None)))
    with pytest.raises(Conflict, match="there is none"):
        await store.apply(change(Put(MORE), key="3")._replace(expected=(MORE,)))
    assert ordered(ONE, TWO) == await current(store)
    await store.apply(late._replace(expected=(TWO, ONE)))
    assert [1, 6] == sorted(amendment.amount for amendment in await current(store))


async def test_edits_of_one_change_see_the_earlier_ones(amending: Amending) -> None:
    """Two edits of the same amendment."""
    other = ONE._replace(amount=9)
    applied = await amending.amendments.apply(change(Put(ONE), Put(other), Remove(ONE.id), Put(ONE)))
    expected = (
        EditResult(ONE.id, None, ONE),
        EditResult(ONE.id, ONE, other),
        EditResult(ONE.id, other),
        EditResult(ONE.id, None, ONE),
    )
    assert expected == applied.edits
    assert [ONE] == await current(amending.amendments)


async def test_concurrent_changes_are_applied_one_after_another(amending: Amending) -> None:
    """All of them are in the audit, each with the amendment that it replaced, and the last one is in
    force.
    """
    stores = (amending.amendments, amending.other.amendments)
    changes = [change(Put(ONE._replace(amount=number)), key=f"{number}") for number in range(20)]
    await asyncio.gather(*[stores[number % 2].apply(each) for number, each in enumerate(changes)])
    lines = await amending.amendments.audit()
    assert list(range(20, 0, -1)) == [line.version for line in lines]
    befores = [line.edited.before for line in lines]
    assert [line.edited.after for line in lines[1:]] + [None] == befores
    assert [lines[0].edited.after] == await current(amending.other.amendments)


async def test_the_audit_has_author_time_reason_and_change(amending: Amending) -> None:
    """The latest change first; also after a restart."""
    store = amending.amendments
    await store.apply(change(Put(ONE), key="1", at=NOW + 1))
    await store.apply(Change("2", "bo", "over\u2028 now".replace("\u2028", ""), (Remove(ONE.id),), NOW + 2))
    for audit in (await store.audit(), await amending.restart().audit()):
        assert [
            (2, NOW + 2, "bo", "over now", "2", EditResult(ONE.id, ONE)),
            (1, NOW + 1, "ana", "a café", "1", EditResult(ONE.id, None, ONE)),
        ] == [tuple(line) for line in audit]


async def test_a_page_of_the_audit_ends_with_a_whole_change(amending: Amending) -> None:
    """It may therefore be longer than requested."""
    store = amending.amendments
    for number in range(5):
        target = parse("d", f"team={number}")
        await store.apply(
            change(*[Put(override(target, 1, window=unit)) for unit in ("hour", "day")], key=f"{number}")
        )
    page = await store.audit(most=3)
    assert [5, 5, 4, 4] == [line.version for line in page]
    assert [3, 3] == [line.version for line in await store.audit(before=4, most=2)]
    assert [2, 2, 1, 1] == [line.version for line in await store.audit(before=3)]
    assert [] == await store.audit(before=1)


async def test_a_reset_is_in_the_audit_and_done_once(amending: Amending) -> None:
    """A retry by any replica finds it unfinished until it is finished, with the counters of the first request
    and not its own.
    """
    reset = Reset(TARGET, "hour", (("{d|team=dba}:hour:x", 7), ("{d|team=dba}:hour:y", None)))
    store = amending.amendments
    applied = await store.apply(change(Reset(TARGET, "hour", ())), dry_run=True)
    assert (False, False) == (applied.replayed, applied.unfinished)
    applied = await store.apply(change(reset))
    assert ((EditResult("", reset=reset),), False, True) == applied[1:]
    again = change(reset._replace(counters=(("{d|team=dba}:hour:x", 1),)))
    assert applied._replace(replayed=True) == await amending.other.amendments.apply(again)
    await store.finish("key")
    await store.finish("unknown")
    for other in (amending.other.amendments, amending.restart()):
        assert applied._replace(replayed=True, unfinished=False) == await other.apply(again)
    assert [reset] == [line.edited.reset for line in await store.audit()]
    assert [] == await current(store)


async def test_a_reset_changes_the_version_and_no_amendment(amending: Amending) -> None:
    await amending.amendments.apply(change(Put(ONE), key="1"))
    known = await amending.other.amendments.news(0, "")
    await amending.amendments.apply(change(Reset(TARGET, "", ()), key="2"))
    news = await amending.other.amendments.news(known.version, known.stamp)
    assert (2, (), (), False) == (news.version, tuple(news.put), tuple(news.removed), news.whole)


async def test_ten_thousand_amendments_are_put_and_read(amending: Amending) -> None:
    """A hundred in each change. A replica that is far behind reads all of them, and one that is not reads the
    new ones.
    """
    if "as it is served" in amending.name or "prefix" in amending.name:
        return  # the calls are the same as in the plain kind
    store, other = amending.amendments, amending.other.amendments
    amendments = [override(parse("d", f"user=u{number}"), number) for number in range(10_000)]
    for at in range(0, 10_000, MOST_EDITS):
        await store.apply(change(*map(Put, amendments[at : at + MOST_EDITS]), key=f"{at}"))
    news = await other.news(0, "")
    assert (100, 10_000, ordered(*amendments)) == (news.version, len(news.put), ordered(*news.put))
    for number in range(8):
        await store.apply(change(Remove(amendments[number].id), key=f"remove {number}"))
    later = await other.news(news.version, news.stamp)
    assert (8, False) == (len(later.removed), later.whole)
    assert [f"remove {number}" for number in range(7, -1, -1)] == [
        line.key for line in await store.audit(most=8)
    ]


async def test_a_full_store_refuses_new_amendments_only(amending: Amending) -> None:
    """A change that would exceed the bound is refused as a whole. Existing amendments can still be
    changed.
    """
    store = amending.amendments
    store._most = 3  # type: ignore[attr-defined]
    three = [override(parse("d", f"user={number}"), number) for number in range(3)]
    await store.apply(change(*map(Put, three), key="1"))
    with pytest.raises(InvalidRequest, match="there are 3 amendments already"):
        await store.apply(change(Put(ONE), key="2"))
    await store.apply(change(Put(three[0]._replace(amount=9)), key="3"))
    await store.apply(change(Remove(three[1].id), Put(ONE), key="4"))
    assert 3 == len(await current(store))


async def test_a_change_is_bounded_in_bytes(amending: Amending) -> None:
    """So that no script call occupies Redis for long. What a change replaces counts as well; a single edit is
    always possible, so that a long amendment can be replaced and removed.
    """
    store = amending.amendments
    long = [override(parse("d", f"user={number}{'x' * 16_000}"), number) for number in range(5)]
    for number, each in enumerate(long):
        await store.apply(change(Put(each), key=f"put {number}"))
    for edits in (
        [Put(each._replace(amount=9)) for each in long],
        [Remove(each.id) for each in long] * 2 + [Put(each) for each in long],
    ):
        with pytest.raises(InvalidRequest, match=r"have 1\d\d\d\d\d bytes, and a change has at most 65536"):
            await store.apply(change(*edits, key="long"), dry_run=True)
        with pytest.raises(InvalidRequest, match="make it in several"):
            await store.apply(change(*edits, key="long"))
    counters = tuple([(f"{{d|user=y}}:hour:{number}{'0' * 120}", number) for number in range(800)])
    with pytest.raises(InvalidRequest, match="make it in several"):
        await store.apply(change(Reset(parse("d", "user=y"), "", counters), Remove("none"), key="reset"))
    with pytest.raises(InvalidRequest, match="make it in several"):
        await store.apply(
            Change("because", "ana", "é" * 1_000, tuple([Remove(f"{number}") for number in range(60)]), NOW)
        )
    assert ordered(*long) == await current(store)
    for each in long:
        await store.apply(change(Remove(each.id), key=f"remove {each.id}"))
    huge = override(parse("d", "user=" + "\U0001f600" * 10_000), 1)
    for key, amount in (("first", 1), ("second", 2)):
        await store.apply(change(Put(huge._replace(amount=amount)), key=key))
    await store.apply(change(Remove(huge.id), key="away"))
    assert [] == await current(store)


async def test_the_audit_is_bounded_and_a_replica_further_behind_reads_everything(amending: Amending) -> None:
    """The oldest lines are dropped first."""
    store = amending.amendments
    await store.apply(change(Put(ONE), key="first"))
    known = await store.news(0, "")
    if isinstance(store, MemoryAmendments):
        store._audit = type(store._audit)(store._audit, maxlen=4)
    else:
        store._most_audited = 4  # type: ignore[attr-defined]
    for number in range(6):
        await store.apply(change(Put(TWO._replace(amount=number)), key=f"{number}"))
    assert [7, 6, 5, 4] == [line.version for line in await store.audit()]
    news = await store.news(known.version, known.stamp)
    assert (7, 2, True) == (news.version, len(news.put), news.whole)
