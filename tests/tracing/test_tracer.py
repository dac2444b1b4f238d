"""The calls that have a span, and the batches that they link to, without an exporter."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from ratelimit_service.amending.secret import hold_ids
from ratelimit_service.assembly.service import make_service
from ratelimit_service.assembly.stores import make_store
from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.errors import InternalError, StoreError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Descriptor, Entry, Request
from ratelimit_service.core.rules.reader import load
from ratelimit_service.core.trace_context import TraceHeaders
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import CounterStore
from ratelimit_service.service import RateLimitService
from ratelimit_service.settings.table import load_settings
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from ratelimit_service.stores.layers.layer import Layer
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.client import Link, at_address
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.tracing.service import TracedService
from ratelimit_service.tracing.spans import BatchSpan, CallSpan
from ratelimit_service.tracing.stores import TracedBackend
from ratelimit_service.tracing.tracer import SpanQueue, Tracer
from testing.redis_clients import connect
from testing.redis_fleets import RedisCluster

RULES = """
domain: traced
descriptors:
  - {key: team, rate_limit: {name: per-team, unit: year, tokens_per_unit: 10}}
  - {key: held, rate_limit: {unit: year, tokens_per_unit: 10}, hold: 5}
"""
TREE = RuleTree(load([read("rules.yaml", RULES)]).domains)
SAMPLED, UNSAMPLED = (
    TraceHeaders(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-%02d" % flags) for flags in (1, 0)
)


def request(*values: str, hits: int = 0, key: bytes = b"team") -> Request:
    return Request("traced", tuple([Descriptor((Entry(key, v.encode()),), hits) for v in values]))


class Traced:
    """A traced service over a store. Its tracer draws the numbers in `draws`."""

    def __init__(self, rate: float, *draws: float, most: int = 100, wanted: int = 100) -> None:
        self.notes = SpanQueue(most, wanted)
        self.tracer = Tracer(self.notes, rate, iter(draws).__next__, itertools.count(1).__next__)

    def over(self, store: CounterStore) -> TracedService:
        service = TracedService(self.tracer, store, Metrics(), lambda: 1_795_249_200.0)
        service.use(TREE)
        return service

    def in_memory(self, defer: Callable[[Callable[[], None]], object] | None = None) -> TracedService:
        return self.over(MemoryStore(lambda: 0.0, defer=defer))

    @property
    def calls(self) -> list[CallSpan]:
        return [note for note in self.notes.take(1_000) if isinstance(note, CallSpan)]


@pytest.mark.parametrize(
    ("rate", "draw", "sent", "hits", "has_one"),
    [
        (1.0, 0.99, None, 1, True),
        (0.5, 0.49, None, 1, True),
        (0.5, 0.5, None, 1, False),
        (0.0, 0.0, None, 1, False),
        (0.0, 0.0, SAMPLED, 1, True),
        (1.0, 0.0, UNSAMPLED, 1, False),
        (1.0, 0.0, TraceHeaders(b"garbage"), 1, True),
        (0.0, 0.0, None, 0, True),  # the budget is used up, so this call is refused
        (0.0, 0.0, UNSAMPLED, 0, True),
    ],
)
async def test_the_parent_the_rate_and_the_answer_decide_whether_a_call_has_a_span(
    rate: float, draw: float, sent: TraceHeaders | None, hits: int, has_one: bool
) -> None:
    """In this order for an allowed call. A refused call always has one."""
    traced = Traced(rate, draw, draw)
    service = traced.in_memory()
    if not hits:
        await service.should_rate_limit(request("a", hits=10), trace=UNSAMPLED)
    await service.should_rate_limit(request("a", hits=hits), trace=sent)
    assert has_one == bool(traced.calls)


async def test_a_span_describes_the_decision_without_descriptor_values() -> None:
    """It has the code, the hits and the rule of each descriptor."""
    traced = Traced(0.0)
    service = traced.in_memory()
    await service.should_rate_limit(request("secret", hits=10), trace=UNSAMPLED)
    await service.should_rate_limit(request("secret", "public", hits=3), trace=UNSAMPLED)
    (span,) = traced.calls
    resets_in = span.attributes["ratelimit_service.resets_in"]
    assert {
        "ratelimit_service.domain": "traced",
        "ratelimit_service.code": "OVER_LIMIT",
        "ratelimit_service.descriptors": 2,
        "ratelimit_service.descriptor.codes": ["OVER_LIMIT", "OK"],
        "ratelimit_service.descriptor.hits": [3, 3],
        "ratelimit_service.descriptor.rules": ["per-team", "per-team"],
        "ratelimit_service.refused_by": "per-team",
        "ratelimit_service.window": "year",
        "ratelimit_service.limit": 10,
        "ratelimit_service.resets_in": resets_in,
    } == span.attributes
    assert 0 < resets_in <= 366 * 86_400
    assert "secret" not in str(span)


async def test_the_size_of_a_span_is_bounded() -> None:
    """By twenty descriptors, and two hundred characters for each text, because a whole queue of spans may
    wait.
    """
    traced = Traced(1.0)
    many = request(*[str(number) for number in range(60)], hits=1)
    await traced.in_memory().should_rate_limit(many._replace(domain="d" * 3_000 + "\x00"), trace=SAMPLED)
    (span,) = traced.calls
    assert 60 == span.attributes["ratelimit_service.descriptors"]
    assert {20} == {len(value) for value in span.attributes.values() if isinstance(value, list)}
    assert len(str(span)) < 2_500


async def test_an_error_has_a_span_with_its_text() -> None:
    """The store failed, or the request is invalid, also if a transport refused it."""
    traced = Traced(0.0)

    class Failing(MemoryStore):
        def hit(self, groups: object, on_outcomes: Callable[..., None]) -> None:
            on_outcomes([StoreError("Redis is away")])

    with pytest.raises(StoreError):
        await traced.over(Failing(lambda: 0.0)).should_rate_limit(request("a"), trace=UNSAMPLED)
    service = traced.in_memory()
    service.refused_early(UNSAMPLED, InternalError("internal error"))
    service.refused_early(None, InternalError("x" * 5_000))
    first, second, third = traced.calls
    assert ("Redis is away", "internal error") == (first.error, second.error)
    assert first.parent == second.parent is not None
    assert len(third.error) < 300


async def test_a_call_links_to_the_store_only_if_the_store_answers_it() -> None:
    """A call that is answered at its deadline does not; neither does a call to the store within a
    callback.
    """
    traced = Traced(1.0, *[0.0] * 10)
    held: list[Callable[[], None]] = []
    service = traced.in_memory(held.append)
    waiting = asyncio.ensure_future(service.should_rate_limit(request("h", key=b"held")))
    await asyncio.sleep(0)
    while held:
        held.pop(0)()
    await waiting
    service.refused_early(None, InternalError("later"))
    answered, later = traced.calls
    assert answered.store is not None
    assert answered.start < answered.store.start < answered.store.end < answered.end
    assert (None, None) == (answered.store.batch, later.store)
    assert traced.tracer.store is None


async def test_calls_of_one_batch_link_to_the_span_of_the_batch(redis_url: str) -> None:
    """Each call has a store span of its own. A batch without links has no span."""
    traced = Traced(0.0)
    redis = RedisStore(connect(redis_url))
    service = traced.over(CoalescingStore(SettlingStore(TracedBackend(redis, traced.tracer))))
    await redis.start()
    decisions = await asyncio.gather(
        *[service.should_rate_limit(request(f"b{n}", hits=2), trace=SAMPLED) for n in range(5)]
    )
    assert all(isinstance(decision, Decision) for decision in decisions)
    await service.should_rate_limit(request("b0"), trace=UNSAMPLED)
    await service._store.close()
    notes = traced.notes.take(100)
    calls = [note for note in notes if isinstance(note, CallSpan)]
    batches = [note for note in notes if isinstance(note, BatchSpan)]
    linked = [call.store.batch for call in calls if call.store is not None]
    assert 5 == len(linked)
    assert {id(batch) for batch in batches} == {id(batch) for batch in linked}
    assert 5 == sum(batch.requests for batch in batches)
    assert len(batches) < 5, "what arrives while a batch is in flight makes one batch"
    assert len({batch.span_id for batch in batches}) == len(batches)
    assert traced.tracer.batch is None


async def test_calls_link_to_the_call_for_a_slot_of_a_cluster(redis_cluster: RedisCluster) -> None:
    """The span is that of one slot, although the calls for one server are sent together."""
    traced = Traced(0.0)
    cluster = ClusterStore(lambda address: at_address(address, Link()), redis_cluster.addresses())
    service = traced.over(CoalescingStore(SettlingStore(TracedBackend(cluster, traced.tracer))))
    await cluster.start()
    names = [f"b{number}" for number in range(5)]
    await asyncio.gather(*[service.should_rate_limit(request(name, hits=2), trace=SAMPLED) for name in names])
    await service._store.close()
    notes = traced.notes.take(100)
    batches = [note for note in notes if isinstance(note, BatchSpan)]
    linked = [note.store.batch for note in notes if isinstance(note, CallSpan) and note.store is not None]
    assert {(1, 1, "")} == {(batch.requests, batch.hits, batch.error) for batch in batches}
    assert {id(batch) for batch in linked} == {id(batch) for batch in batches}
    assert 5 == len(linked)


async def test_the_span_of_a_failed_batch_has_the_error(redis_url: str) -> None:
    """Its failed calls link to it."""
    traced = Traced(0.0)
    redis = RedisStore(connect("redis://127.0.0.1:1", timeout=0.5))
    service = traced.over(SettlingStore(TracedBackend(redis, traced.tracer)))
    with pytest.raises(StoreError):
        await service.should_rate_limit(request("x", hits=1), trace=UNSAMPLED)
    await service._store.close()
    call, batch = traced.notes.take(2)
    assert isinstance(call, CallSpan)
    assert isinstance(batch, BatchSpan)
    assert call.store is not None
    assert batch is call.store.batch
    assert "Redis" in batch.error
    assert call.error


def test_without_tracing_there_is_no_tracing_layer() -> None:
    """Nor another class of service. So tracing costs nothing when it is off: no call and no branch for a
    batch.
    """
    settings = load_settings({"REDIS_URL": "127.0.0.1:1"})
    store = make_store(settings)
    service = make_service(settings, store, Metrics(), Amendments(), hold_ids(), None)
    assert (RateLimitService, False) == (type(service), service.traced)
    layers: list[type] = []
    below: Any = service._store
    while isinstance(below, Layer):
        layers.append(type(below))
        below = below._below
    assert [CoalescingStore, SettlingStore] == layers


def test_spans_beyond_the_bound_are_dropped_and_counted() -> None:
    """Earlier ones are kept. A queue that fills up wakes the exporter."""
    traced = Traced(1.0, most=3, wanted=2)
    for number in range(5):
        assert traced.notes.ready.is_set() == (number >= 2)
        traced.tracer.refused(None, InternalError(f"{number}"))
    assert 2 == traced.notes.dropped
    assert ["0", "1", "2"] == [call.error for call in traced.calls]


async def test_a_fault_of_tracing_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """The call is answered before its span is recorded."""
    traced = Traced(1.0)  # whose draw raises StopIteration

    def broken() -> float:
        raise RuntimeError("broken")

    traced.tracer._rate, traced.tracer._draw = 0.5, broken
    decision = await traced.in_memory().should_rate_limit(request("a"))
    assert isinstance(decision, Decision)
