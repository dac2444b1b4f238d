"""docs/bounds.md: a number on the page is one that holds."""

from __future__ import annotations

from inspect import signature
from typing import Any

from ratelimit_service import control_planes
from ratelimit_service.api import handler as api_handler
from ratelimit_service.api import request_types as api_asked
from ratelimit_service.core import bounds, planner, trace_context
from ratelimit_service.core.amendments.amended_rules import AmendedRules
from ratelimit_service.core.answers import statkeys
from ratelimit_service.core.answers.refusal import Refusals
from ratelimit_service.core.cache import BoundedCache
from ratelimit_service.core.holds import hit as hold_hit
from ratelimit_service.core.holds import ids as hold_ids
from ratelimit_service.core.holds import state as hold_state
from ratelimit_service.core.matching import keys
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.planner import Planner
from ratelimit_service.events import emitting
from ratelimit_service.http import connection as http_connection
from ratelimit_service.http import json, streamed_pages, turns
from ratelimit_service.loading import slices
from ratelimit_service.observe import (
    decision_log,
    line_writer,
    logs,
    named_buckets,
    once_per_window,
    tables,
    thresholds,
    tracking,
)
from ratelimit_service.observe.once_per_window import OncePerWindow
from ratelimit_service.runtime import descriptors
from ratelimit_service.settings import xds
from ratelimit_service.settings.table import documented
from ratelimit_service.sources.xds import link, subscription
from ratelimit_service.stores import events as stored_events
from ratelimit_service.stores import lanes, memory, shards
from ratelimit_service.stores.layers import journal, settling
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from ratelimit_service.tracing import spans
from ratelimit_service.transports import codec, grpcio
from ratelimit_service.transports.native import _http2, accepting, calls, connection, health, peers
from ratelimit_service.transports.native import reflection as native_reflection

from .documents import ROOT
from .documents import tables as tables_of

PAGE = ROOT / "docs" / "bounds.md"
DEFAULTS = {setting.name: setting.default for setting in documented()}


def weight(cache: BoundedCache[Any, Any]) -> str:
    """The bound of a cache, in bytes."""
    return f"{cache._most}"


def default(function: Any, name: str) -> str:
    """The default of a parameter."""
    return f"{signature(function).parameters[name].default}"


REFUSALS = Refusals(Policy())
PLANNER = Planner(None, Policy(), lambda: 0)

BOUNDS = {
    "bytes, GRPC_MAX_MESSAGE_BYTES": DEFAULTS["GRPC_MAX_MESSAGE_BYTES"],
    "bytes of a /json body": f"{json.LARGEST_BODY}",
    "bytes of all unfinished /json bodies": f"{json.MOST_HELD}",
    "bytes of a body of the API": f"{api_handler.LARGEST_BODY}",
    "requests of one role to the API in flight": f"{api_handler.MOST_IN_FLIGHT}",
    "items of a page of the API": f"{api_asked.MOST_LISTED}",
    "events that wait for the store": f"{emitting.MOST_WAITING}",
    "events that wait in the store": f"{stored_events.MOST_EVENTS}",
    "descriptors, REQUEST_MAX_DESCRIPTORS": f"{bounds.DEFAULT_BOUNDS.descriptors}",
    "entries in all, REQUEST_MAX_ENTRIES": f"{bounds.DEFAULT_BOUNDS.entries}",
    "entries of a descriptor": f"{bounds.MOST_ENTRIES}",
    "bytes of a value in a counter key": f"{keys.LONGEST}",
    "connections to the gRPC port, GRPC_MAX_CONNECTIONS": DEFAULTS["GRPC_MAX_CONNECTIONS"],
    "calls in hand, GRPC_MAX_CONCURRENT_CALLS": DEFAULTS["GRPC_MAX_CONCURRENT_CALLS"],
    "native: bytes kept for one connection, GRPC_MAX_CONNECTION_BYTES": DEFAULTS["GRPC_MAX_CONNECTION_BYTES"],
    "native: bytes kept for all connections, GRPC_MAX_BYTES": DEFAULTS["GRPC_MAX_BYTES"],
    "native: bytes that a connection counts": f"{connection.COST}",
    "native: streams of a connection at once": f"{_http2.STREAMS}",
    "native: health watches of a connection": f"{health._MOST_WATCHES}",
    "native: streams of reflection of a connection": f"{native_reflection._MOST_STREAMS}",
    "grpcio: streams of reflection at once": f"{grpcio._MOST_REFLECTIONS}",
    "bytes of a question of reflection": f"{_http2.PART_BYTES}",
    "native: bytes of answers of reflection that a caller has not read": f"{_http2.UNSENT_ANSWERS}",
    "native: bytes of a connection that may wait, whatever all connections keep": f"{_http2.LEAST_HELD_BYTES}",
    "native: bytes of headers and trailers of a request, decoded": f"{_http2.HEADER_BYTES}",
    "native: time until a request has arrived in full, GRPC_REQUEST_TIMEOUT": DEFAULTS[
        "GRPC_REQUEST_TIMEOUT"
    ],
    "native: seconds until a reply is read in full": f"{connection.PATIENCE:g}",
    "native: seconds until a connection speaks HTTP/2, TLS included": f"{connection.PATIENCE:g}",
    "native: units of the abuse budget": f"{_http2.ABUSE}",
    "grpcio: calls of a connection at once, or GRPC_MAX_CONCURRENT_CALLS if that is more": f"{grpcio._LEAST_STREAMS}",
    "grpcio: seconds without a stream": f"{grpcio._MOST_IDLE:g}",
    "grpcio: health watches at once": f"{grpcio._MOST_WATCHES}",
    "connections to an HTTP port": f"{descriptors._MOST_HTTP}",
    "bytes of the headers of an HTTP request": f"{http_connection._LARGEST_HEAD}",
    "lines of the head of an HTTP request": f"{http_connection._MOST_LINES}",
    "pages (/metrics, /stats, /rlconfig) that a port is sending": f"{streamed_pages.MOST_AT_ONCE}",
    "requests": f"{codec._REQUESTS_BYTES}",
    "forms": f"{codec._FORMS_BYTES}",
    "amended rules": weight(AmendedRules()._rules),
    "prepared requests": weight(PLANNER._prepared),
    "plans": f"{planner._PLANS_BYTES}",
    "statuses": f"{codec._LIMITS_BYTES}",
    "wordings": weight(REFUSALS._wordings),
    "refusals": weight(REFUSALS._by_limit),
    "refusals without a limit": weight(REFUSALS._denials),
    "headers of answers": f"{codec._HEADERS_BYTES}",
    "counters of the memory store, MEMORY_STORE_SIZE_IN_BYTES": DEFAULTS["MEMORY_STORE_SIZE_IN_BYTES"],
    "holds of the memory store, of its size": {8: "an eighth"}[
        8_000 // memory.MemoryStore(float, 8_000).holds._size
    ],
    "characters of the id of a hold": f"{hold_ids.LONGEST}",
    "ids of a bucket that came back": f"{hold_state.MOST_IDS}",
    "seconds for which such an id is remembered": f"{hold_state.REMEMBERED}",
    "tokens of a hold": f"{hold_hit.MOST}",
    "charges kept while Redis is away, STORE_JOURNAL_SIZE": f"{DEFAULTS['STORE_JOURNAL_SIZE']} hits",
    "bytes of a hit in the journal, on average": f"{journal._BYTES_OF_A_HIT}",
    "hits that wait for a batch": default(CoalescingStore, "most_waiting"),
    "calls to Redis at a time": f"{settling._MOST_IN_FLIGHT}",
    "free lanes": f"{lanes._FREE_LANES_BYTES} bytes",
    "local cache, LOCAL_CACHE_SIZE_IN_BYTES": DEFAULTS["LOCAL_CACHE_SIZE_IN_BYTES"],
    "series of a metric, METRICS_MAX_SERIES": DEFAULTS["METRICS_MAX_SERIES"],
    "bytes of the labels of a row, on average": f"{tables._BYTES_OF_A_ROW}",
    "characters of a label": f"{tables._LONGEST_LABEL}",
    "tracked buckets, TRACK_MAX_BUCKETS": DEFAULTS["TRACK_MAX_BUCKETS"],
    "buckets whose refusal is logged, in their windows": default(OncePerWindow, "most"),
    "thresholds that are known to be crossed": f"{thresholds._MOST_SEEN}",
    "threshold crossings that wait for the store": f"{thresholds.MOST_IN_FLIGHT}",
    "characters of a value in the log": f"{logs.LONGEST}",
    "lines that wait for the reader of a log": f"{line_writer.MOST_LINES}",
    "bytes of those lines": f"{line_writer.MOST_BYTES}",
    "calls and batches whose spans wait, OTEL_BSP_MAX_QUEUE_SIZE": DEFAULTS["OTEL_BSP_MAX_QUEUE_SIZE"],
    "bytes of a traceparent": f"{trace_context.MOST_TRACEPARENT}",
    "bytes of a tracestate": f"{trace_context.MOST_TRACESTATE}",
    "descriptors that a span describes": f"{spans._MOST_SHOWN}",
    "bytes of a name in the decision log": f"{decision_log._LONGEST}",
    "bytes of a level of a statistic's path": f"{statkeys._LONGEST}",
    "bytes of a set, XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES": f"{control_planes._LARGEST}",
    "bytes of a set that are read in one turn": f"{link._SLICE}",
    "bytes of a rejection": f"{subscription._LONGEST_REJECTION}",
    "control planes, in CONFIG_GRPC_XDS_SERVER_URL": f"{xds._MOST_SERVERS}",
    "seconds until a rejected set is rejected again": f"{subscription.PAUSES[-1]:g}",
}


def test_the_bounds_on_the_page_are_those_of_the_code() -> None:
    """Each of them, and no others."""
    shown = [
        row
        for head in ("of a request", "of", "cache")
        for table in tables_of(PAGE, head)
        for row in table.rows
    ]
    assert BOUNDS == {row[0]: row[1] for row in shown}
    assert DEFAULTS["REQUEST_MAX_DESCRIPTORS"] == BOUNDS["descriptors, REQUEST_MAX_DESCRIPTORS"]
    assert DEFAULTS["REQUEST_MAX_ENTRIES"] == BOUNDS["entries in all, REQUEST_MAX_ENTRIES"]


def test_what_a_connection_counts_with_tls_is_on_the_page() -> None:
    """And how many of them there are by default."""
    text = PAGE.read_text("utf-8")
    half = int(DEFAULTS["GRPC_MAX_BYTES"]) // 2
    plain, secured = connection.COST, connection.COST + connection.TLS_COST
    assert f"{secured} with TLS: {half // plain:,} connections by default, or {half // secured:,}" in text


def test_the_parts_on_the_page_fit_into_256_mib_by_default() -> None:
    """With the native transport and the memory store, while it writes a snapshot."""
    (table,) = tables_of(PAGE, "part", "MiB")
    fixed, by_setting = 0.0, {}
    for part, mib, default in table.rows:
        if mib:
            fixed += float(mib.split()[0])
        else:
            by_setting[part.rpartition(" ")[2]] = float(default.split()[0].rstrip(","))
    kept, counters = by_setting["GRPC_MAX_BYTES"], by_setting["MEMORY_STORE_SIZE_IN_BYTES"]
    defaults = [int(DEFAULTS[name]) / 2**20 for name in ("GRPC_MAX_BYTES", "MEMORY_STORE_SIZE_IN_BYTES")]
    assert defaults == [kept, counters]
    most = fixed + kept + counters * 1.25
    assert most < 256
    assert f"that is {most:.0f} MiB by default" in PAGE.read_text("utf-8")


def test_the_steps_on_the_page_are_those_of_the_code() -> None:
    """How much is done at a time."""
    (table,) = tables_of(PAGE, "work", "how")
    text = "\n".join([" ".join(row) for row in table.rows])
    steps = [
        f"about {calls._TURN * 1_000:g} ms",
        f"{accepting._ACCEPTED_AT_ONCE} of a port in a turn",
        f"{peers._HANDSHAKES} in a turn",
        f"about {turns.SLICE * 1_000:g} ms in a turn",
        f"{peers._LONGEST_CHECK * 1_000:g} ms at a time",
        f"{peers._LONGEST_RELIEF * 1_000:g} ms in a turn",
        f"{peers._BURIED_AT_ONCE} in a turn",
        f"{health._REPORTS_AT_ONCE} in a turn",
        f"slices of {slices.SLICE * 1_000:g} ms",
        f"{streamed_pages._LINES:,} lines at a time",
        f"{memory._SWEPT_AT_ONCE} for each call",
        f"in {shards.SHARDS} shards",
        f"{once_per_window._FORGOTTEN_AT_ONCE} for each that is reported",
        f"{tracking._EXAMINED:,} are examined",
        f"{named_buckets._BATCH} at a time",
        f"{journal._MOST_HITS_AT_ONCE:,} hits in a call",
    ]
    assert [] == [step for step in steps if step not in text]
