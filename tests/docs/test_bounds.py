"""docs/bounds.md: a number on the page is one that holds."""

from __future__ import annotations

from inspect import signature
from typing import Any

from ratelimit_service.amending import operations
from ratelimit_service.api import changes, endpoint_methods, previews, tokens
from ratelimit_service.api import handler as api_handler
from ratelimit_service.api import request_types as api_asked
from ratelimit_service.assembly import control_planes
from ratelimit_service.core import bounds, planner, rule_windows, text, trace_context
from ratelimit_service.core.amendments import index, target
from ratelimit_service.core.amendments import model as amendments
from ratelimit_service.core.amendments.amended_rules import AmendedRules
from ratelimit_service.core.amendments.effect import end_of_windows
from ratelimit_service.core.answers import refusal, statkeys, wording
from ratelimit_service.core.answers.refusal import Refusals
from ratelimit_service.core.budgets import no_effect, rule_candidates
from ratelimit_service.core.budgets.state import line_of
from ratelimit_service.core.cache import BoundedCache
from ratelimit_service.core.holds import codes as hold_codes
from ratelimit_service.core.holds import hit as hold_hit
from ratelimit_service.core.holds import state as hold_state
from ratelimit_service.core.ledger import price
from ratelimit_service.core.matching import keys
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.planner import Planner
from ratelimit_service.core.rules import domain as rules_domain
from ratelimit_service.core.rules import notify, reader, report
from ratelimit_service.core.rules import refusals as denial_messages
from ratelimit_service.core.windows import blocks
from ratelimit_service.events import delivery, emitting, posting, receivers
from ratelimit_service.events import events as event_tasks
from ratelimit_service.events import model as events
from ratelimit_service.http import connection as http_connection
from ratelimit_service.http import json, streamed_pages, turns
from ratelimit_service.inspection import listing, profiles, series, sweep, usage
from ratelimit_service.inspection import refusals as last_refusals
from ratelimit_service.loading import process, rulebook, slices
from ratelimit_service.observe import (
    decision_log,
    line_writer,
    logs,
    named_buckets,
    once_per_window,
    pairing,
    tables,
    thresholds,
    tracking,
)
from ratelimit_service.observe.once_per_window import OncePerWindow
from ratelimit_service.runtime import descriptors, watched_file
from ratelimit_service.settings import types, xds
from ratelimit_service.settings.table import documented
from ratelimit_service.sources import manifests, yaml_text
from ratelimit_service.sources.xds import call as xds_call
from ratelimit_service.sources.xds import follower as xds_follower
from ratelimit_service.sources.xds import link, subscription
from ratelimit_service.stores import amendments as stored_amendments
from ratelimit_service.stores import events as stored_events
from ratelimit_service.stores import lanes, memory, shards
from ratelimit_service.stores import replicas as stored_replicas
from ratelimit_service.stores.layers import journal, settling
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from ratelimit_service.stores.redis import amendments as redis_amendments
from ratelimit_service.stores.redis import client, slots
from ratelimit_service.tracing import spans
from ratelimit_service.transports import codec, grpcio, wire
from ratelimit_service.transports.native import _http2, accepting, calls, connection, health, peers
from ratelimit_service.transports.native import reflection as native_reflection

from .documents import ROOT
from .documents import tables as tables_of

PAGE = ROOT / "docs" / "bounds.md"
DEFAULTS = {setting.name: setting.default for setting in documented()}


def weight(cache: BoundedCache[Any, Any]) -> str:
    """The bound of a cache, in bytes."""
    return f"{cache._most}"


def entries(cached: Any) -> str:
    """The bound of a function's cache, in entries."""
    return f"{cached.cache_parameters()['maxsize']}"


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
    "calls in flight, GRPC_MAX_CONCURRENT_CALLS": DEFAULTS["GRPC_MAX_CONCURRENT_CALLS"],
    "native: bytes kept for one connection, GRPC_MAX_CONNECTION_BYTES": DEFAULTS["GRPC_MAX_CONNECTION_BYTES"],
    "native: bytes kept for all connections, GRPC_MAX_BYTES": DEFAULTS["GRPC_MAX_BYTES"],
    "native: bytes that a connection counts": f"{connection.COST}",
    "native: streams of a connection at once": f"{_http2.STREAMS}",
    "native: health watches of a connection": f"{health._MOST_WATCHES}",
    "native: streams of reflection of a connection": f"{native_reflection._MOST_STREAMS}",
    "grpcio: streams of reflection at once": f"{grpcio._MOST_REFLECTIONS}",
    "bytes of a question of reflection": f"{_http2.PART_BYTES}",
    "native: bytes of answers of reflection that a caller has not read": f"{_http2.UNSENT_ANSWERS}",
    "native: bytes of a connection that may wait, whatever all connections keep": str(
        _http2.LEAST_HELD_BYTES
    ),
    "native: bytes of headers and trailers of a request, decoded": f"{_http2.HEADER_BYTES}",
    "native: time until a request has arrived in full, GRPC_REQUEST_TIMEOUT": DEFAULTS[
        "GRPC_REQUEST_TIMEOUT"
    ],
    "native: seconds until a reply is read in full": f"{connection.PATIENCE:g}",
    "native: seconds until a connection speaks HTTP/2, TLS included": f"{connection.PATIENCE:g}",
    "native: units of the abuse budget": f"{_http2.ABUSE}",
    "grpcio: calls of a connection at once, or GRPC_MAX_CONCURRENT_CALLS if that is more": str(
        grpcio._LEAST_STREAMS
    ),
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
    "characters of the id of a hold": f"{hold_codes.LONGEST}",
    "ids of a bucket that came back": f"{hold_state.MOST_IDS}",
    "seconds for which such an id is remembered": f"{hold_state.REMEMBERED}",
    "tokens of a hold": f"{hold_hit.MOST}",
    "charges kept while Redis is unreachable, STORE_JOURNAL_SIZE": f"{DEFAULTS['STORE_JOURNAL_SIZE']} hits",
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
    "milliseconds in which a set is read in one turn": f"{1_000 * link._SLICE:g}",
    "sets that are sent without waiting for an answer": f"{xds_call._MOST_UNANSWERED}",
    "files of sets that domains in force keep open": f"{subscription._MOST_FILES}",
    "sets that are read at once": f"{xds_follower._SETS_AT_ONCE}",
    "bytes of a rejection": f"{subscription._LONGEST_REJECTION}",
    "control planes, in CONFIG_GRPC_XDS_SERVER_URL": f"{xds._MOST_SERVERS}",
    "seconds until a rejected set is rejected again": f"{subscription.PAUSES[-1]:g}",
    "amendments in the store": f"{stored_amendments.MOST}",
    "edits that the audit keeps, in Redis": f"{redis_amendments.MOST_AUDITED}",
    "edits that the audit keeps, in memory": f"{stored_amendments.MOST_AUDITED}",
    "idempotency keys that are kept": f"{stored_amendments.MOST_KEYS}",
    "edits of one change": f"{amendments.MOST_EDITS}",
    "bytes of the amendments of a change with several edits": f"{amendments.MOST_BYTES}",
    "windows of a top-up": f"{amendments.MOST_WINDOWS}",
    "characters of a target": f"{target.MOST_TEXT}",
    "entries of a target": f"{target._MOST_ENTRIES}",
    "characters of an author, and of an idempotency key": f"{amendments.LONGEST_NAME}",
    "characters of a reason": f"{amendments.LONGEST_REASON}",
    "lookups for the amendments of a bucket in one domain": f"{index.MOST_STEPS}",
    "edits that a replica reads one by one": f"{redis_amendments._MOST_BEHIND}",
    "characters of a text in an event": f"{events.LONGEST}",
    "events of a receiver in flight": f"{delivery._AT_ONCE}",
    "bytes of the head of a receiver's response": f"{posting.LONGEST_HEAD}",
    "seconds for which the delivery of an event is retried": f"{delivery.LONGEST}",
    "changes of limits that become events in one check": f"{event_tasks._MOST_LINES}",
    "keys that a list of budgets examines": f"{sweep.MOST_KEYS}",
    "buckets of a list": f"{sweep.MOST_ROWS}",
    "buckets without counters in a list": f"{sweep._MOST_NAMED}",
    "lists that are kept": f"{listing._MOST_SWEEPS}",
    "buckets of the lists that are kept": f"{listing._MOST_ROWS}",
    "lists that are made at a time": f"{listing._MOST_AT_ONCE}",
    "bytes of the rates of displayed windows": f"{listing._METERS_BYTES}",
    "refusals that are kept": f"{last_refusals.KEPT}",
    "refusals that are kept in a second": f"{last_refusals.MOST_A_SECOND}",
    "buckets with a chart": f"{series.MOST}",
    "buckets with a profile of earlier weeks": f"{profiles.MOST}",
    "points of a chart": f"{series.POINTS}",
    "entries of a page of ledgers": f"{usage.MOST_ENTRIES}",
    "lines of the audit that are read at once": f"{operations.MOST_AUDITED}",
    "buckets that a preview shows": f"{previews.MOST_SHOWN}",
    "overrides with precedence that a preview lists": f"{changes.MOST_EXCEPTIONS}",
    "rules that an explanation lists": f"{rule_candidates._MOST}",
    "rules that an explanation examines": f"{rule_candidates._MOST_LOOKED_AT}",
    "rules that a pattern without an effect is compared with": f"{no_effect._MOST_LOOKED_AT}",
    "domains that a misspelt one is compared with": f"{no_effect._MOST_DOMAINS}",
    "descriptors of an explained answer": f"{planner.MOST_EXPLAINED}",
    "domains of an answer of /rules": f"{endpoint_methods.MOST_DOMAINS}",
    "generations of rules of all replicas": f"{stored_replicas.MOST_GENERATIONS}",
    "values of a YAML file, with aliases expanded": f"{yaml_text.MOST_NODES}",
    "characters of the files in one file of manifests": f"{manifests.MOST_TEXT}",
    "bytes of one rule on its way from the process that reads rules": f"{process._LARGEST}",
    "rules without checks or charges that each worker shows": f"{pairing._MOST_KEPT}",
    "rules without checks or charges that are logged in an hour": f"{pairing._MOST_LOGGED}",
    "problems of a load in the log, and warnings": f"{rulebook._MOST_LOGGED}",
    "problems of a load": f"{report.MOST_PROBLEMS}",
    "limits of a descriptor": f"{reader.MOST_LIMITS}",
    "thresholds of a descriptor": f"{reader._MOST_THRESHOLDS}",
    "receivers of a descriptor": f"{notify._MOST}",
    "required keys of a domain": f"{rules_domain._MOST_KEYS}",
    "characters of a denial message": f"{denial_messages.LONGEST}",
    "bytes of the files of prices and of receivers": f"{watched_file.LARGEST}",
    "bytes of the file of a secret of a receiver": f"{receivers._LARGEST_SECRET}",
    "bytes of the file of a token": f"{tokens._MOST_BYTES}",
    "workers, WORKERS": f"{types._MOST_WORKERS}",
    "windows of a rule": f"{rule_windows._MOST_SHARED}",
    "near limits": f"{rule_windows._MOST_NEAR_LIMITS}",
    "spans": f"{blocks._MOST_SPANS}",
    "ends of top-ups": entries(end_of_windows),
    "thresholds of limits": entries(thresholds.thresholds),
    "lines": entries(line_of),
    "instants": f"{wording._MOST_INSTANTS}",
    "variants of a refusal": f"{refusal._MOST_DELAYS}",
    "resets of statuses": entries(codec._reset),
    "numbers of hits": entries(wire._value),
    "heads of descriptors": entries(wire._head),
    "escapes": f"{text._MOST_CACHED}",
    "prices": entries(price._scaled),
    "starts of ledger entries": entries(usage._second),
    "slots": entries(slots._remembered_slot),
    "TLS contexts for Redis": entries(client._context),
}


def test_the_bounds_on_the_page_are_those_of_the_code() -> None:
    """Each of them, and no others."""
    shown = [
        row
        for head in ("of a request", "of", "cache", "cache of entries")
        for table in tables_of(PAGE, head)
        for row in table.rows
    ]
    assert BOUNDS == {row[0]: row[1] for row in shown}
    assert DEFAULTS["REQUEST_MAX_DESCRIPTORS"] == BOUNDS["descriptors, REQUEST_MAX_DESCRIPTORS"]
    assert DEFAULTS["REQUEST_MAX_ENTRIES"] == BOUNDS["entries in all, REQUEST_MAX_ENTRIES"]


def test_the_bytes_of_a_connection_with_tls_are_on_the_page() -> None:
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
