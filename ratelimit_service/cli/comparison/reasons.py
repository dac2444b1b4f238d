"""The reasons for differences between two answers, each with its place in docs/compatibility.md.

A difference with a reason is not examined further, so each reason is as narrow as the answers allow. The
first reason in the table that applies is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...core.bounds import MOST_ENTRIES
from ...core.model import MAX_CHARGE, Unit
from ...core.text import header_text
from ...core.windows.blocks import SECONDS
from ...proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from .answers import CLOCKS, Difference
from .exchange import Exchange

_OVER = RateLimitResponse.OVER_LIMIT
_COUNTS = ("statuses.code", "statuses.limit_remaining")
_WINDOWS = (*_COUNTS, "statuses.duration_until_reset")
_LIMITS = (
    *(*_WINDOWS, "statuses.current_limit", "statuses.current_limit.unit", "statuses.current_limit.name"),
    "statuses.current_limit.unit_multiplier",
)
_LENGTHS = {unit.name: SECONDS[unit] for unit in (Unit.SECOND, Unit.MINUTE, Unit.HOUR, Unit.DAY)}
"""Seconds of the units whose windows begin at the same moment in both services."""
_LARGE_HITS = 2**63
_HOLD_ENTRY, _HOLD_DONE_ENTRY = b"hold", (b"phase", b"done")
"""The defaults of HOLD_ENTRY and HOLD_DONE_ENTRY."""
_LONGEST_TEXT, _MOST_TEXT = 4_096, 131_072
"""The most bytes of a key or value in dynamic metadata, and of all of them."""


class Reason(NamedTuple):
    """One reason. It can explain differences in `fields`; its paragraph or row on the page begins with
    `place`.

    `applies` gets the number of a descriptor, or None for a difference that belongs to no descriptor.
    """

    name: str
    place: str
    text: str
    fields: tuple[str, ...]
    applies: Callable[[Exchange, int | None], bool]


# gRPC errors


def _errors(exchange: Exchange) -> tuple[str, str]:
    return exchange.theirs.status, exchange.ours.status


def _nothing_to_decide(exchange: Exchange, _: int | None) -> bool:
    request = exchange.request
    return _errors(exchange) == ("UNKNOWN", "INVALID_ARGUMENT") and not (
        request.domain and request.descriptors
    )


def _too_many(exchange: Exchange, _: int | None) -> bool:
    sizes = [len(descriptor.entries) for descriptor in exchange.request.descriptors]
    large = len(sizes) > 1 or max(sizes, default=0) > MOST_ENTRIES
    said = "REQUEST_MAX_" in exchange.ours.details or "a descriptor may have" in exchange.ours.details
    return exchange.ours.status == "INVALID_ARGUMENT" and large and said


def _unknown_unit(exchange: Exchange, _: int | None) -> bool:
    known = {int(unit) for unit in Unit if unit is not Unit.UNKNOWN}
    units = [each.limit.unit for each in exchange.request.descriptors if each.HasField("limit")]
    return exchange.ours.status == "INVALID_ARGUMENT" and any(int(unit) not in known for unit in units)


def _not_utf8(exchange: Exchange, _: int | None) -> bool:
    return exchange.theirs.status in ("INTERNAL", "UNKNOWN") and not all(
        _is_utf8(text) for text in _texts(exchange.request)
    )


def _texts(request: RateLimitRequest) -> Iterator[bytes]:
    for descriptor in request.descriptors:
        for entry in descriptor.entries:
            yield entry.key
            yield entry.value


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _large_hits(exchange: Exchange, _: int | None) -> bool:
    return exchange.theirs.status == "UNKNOWN" and any(
        descriptor.hits_addend.value >= _LARGE_HITS for descriptor in exchange.request.descriptors
    )


def _not_ready(exchange: Exchange, _: int | None) -> bool:
    return _errors(exchange) == ("UNKNOWN", "UNAVAILABLE") and "no configuration" in exchange.ours.details


def _slow(exchange: Exchange, _: int | None) -> bool:
    return exchange.ours.status == "UNAVAILABLE" and "did not answer within" in exchange.ours.details


def _store_failed(exchange: Exchange, place: int | None) -> bool:
    places = range(len(exchange.request.descriptors)) if place is None else (place,)
    unreachable = any(exchange.rule(each).get("unreachable") for each in places)
    of_store = exchange.ours.details.startswith(("Redis", "a part of Redis"))
    return unreachable or (exchange.ours.status == "UNAVAILABLE" and of_store)


def _overloaded(exchange: Exchange, _: int | None) -> bool:
    return exchange.ours.status == "RESOURCE_EXHAUSTED"


# Counts


def _refund(exchange: Exchange, place: int | None) -> bool:
    """The other service charges a refund, so its remaining budget is lower by twice the hits."""
    if place is None or not exchange.descriptor(place).is_negative_hits:
        return False
    pair = exchange.remaining(place)
    return pair is not None and pair[0] <= pair[1]


def _refused_after_a_refund(exchange: Exchange, place: int | None) -> bool:
    known = exchange.known[place] if place is not None else None
    return known is not None and known.refunded and _codes(exchange, place) == ("OVER_LIMIT", "OK")


def _codes(exchange: Exchange, place: int | None) -> tuple[str, str] | None:
    return next(
        (
            (each.theirs, each.ours)
            for each in exchange.found
            if each.name == "statuses.code" and each.place == place
        ),
        None,
    )


def _shared(exchange: Exchange, place: int | None) -> bool:
    return place is not None and exchange.shared[place]


def _stopped(exchange: Exchange, place: int | None) -> bool:
    """A rule in shadow or quota mode is over its limit, and therefore the other service has not counted this
    descriptor.
    """
    if place is None:
        return False
    trial = any(
        other != place and _on_trial(exchange, other) for other in range(len(exchange.request.descriptors))
    )
    known = exchange.known[place]
    moved = exchange.gap(place) - (known.gap if known else 0)
    hits = sum(
        exchange.hits(each)
        for each in range(place + 1)
        if exchange.descriptor(each).entries == exchange.descriptor(place).entries
    )
    pair = exchange.remaining(place)
    return trial and pair is not None and (moved == hits or (pair[1] == 0 < moved <= hits))


def _on_trial(exchange: Exchange, place: int) -> bool:
    rule = exchange.rule(place)
    lenient = rule.get("shadow_mode") or rule.get("quota_mode")
    return bool(lenient and any(window["over"] for window in rule.get("windows", ())))


def _held(exchange: Exchange, place: int | None) -> bool:
    """The descriptor has an entry for holds, which only ours takes off before it matches rules."""
    places = range(len(exchange.request.descriptors)) if place is None else (place,)
    return any(
        entry.key == _HOLD_ENTRY or (entry.key, entry.value) == _HOLD_DONE_ENTRY
        for each in places
        for entry in exchange.descriptor(each).entries
    )


def _bounded(exchange: Exchange, place: int | None) -> bool:
    """A charge on a budget is so large that ours counts only a part of it."""
    return (
        place is not None
        and bool(exchange.rule(place).get("budget"))
        and abs(exchange.hits(place)) > MAX_CHARGE
    )


def _budget(exchange: Exchange, place: int | None) -> bool:
    """A check of an exhausted budget, the charge that crosses the limit, a call without a cost, or a calendar
    window.
    """
    if exchange.has("raw_body") and place is None:
        return any(exchange.rule(each).get("budget") for each in range(len(exchange.request.descriptors)))
    if place is None or not exchange.rule(place).get("budget"):
        return False
    if any(window["unit"] not in _LENGTHS for window in exchange.rule(place).get("windows", ())):
        return True
    pair = exchange.remaining(place)
    if pair is None:
        return False
    descriptor = exchange.descriptor(place)
    if not descriptor.HasField("hits_addend") and not exchange.request.hits_addend:
        return pair[0] <= pair[1]  # the other counts 1, ours counts 0
    expected = ("OK", "OVER_LIMIT") if descriptor.hits_addend.value == 0 else ("OVER_LIMIT", "OK")
    return pair == (0, 0) and _codes(exchange, place) == expected


def _new_keys(exchange: Exchange, place: int | None) -> bool:
    """A rule uses a key that the other service does not have."""
    if exchange.explanation.get("missing_keys"):
        return True
    if place is None:
        return False
    rule, descriptor = exchange.rule(place), exchange.descriptor(place)
    windows = rule.get("windows", ())
    return (
        bool(rule.get("unmatched"))
        or len(windows) > 1
        or any(window["multiplier"] > 1 for window in windows)
        or descriptor.limit.unit_multiplier.value > 1
        or (descriptor.HasField("limit") and int(descriptor.limit.unit) == Unit.WEEK)
    )


# Texts


def _cleaned(exchange: Exchange, place: int | None) -> bool:
    return any(
        each.name == "statuses.current_limit.name"
        and each.place == place
        and each.ours == header_text(each.theirs)
        for each in exchange.found
    )


def _cut_metadata(exchange: Exchange, _: int | None) -> bool:
    sizes = [len(text) for text in _texts(exchange.request)]
    return max(sizes, default=0) > _LONGEST_TEXT or sum(sizes) > _MOST_TEXT


def _kept_metadata(exchange: Exchange, _: int | None) -> bool:
    return exchange.has("dynamic_metadata.metadata")


def _explains_itself(exchange: Exchange, _: int | None) -> bool:
    """The answer is a refusal, and only ours has headers or a body."""
    ours = exchange.ours.response
    return ours is not None and ours.overall_code == _OVER


# Reasons that come from the comparison itself


def _at_an_edge(exchange: Exchange, place: int | None) -> bool:
    """One service has answered at the end of a window, the other at the beginning of the next one."""
    if place is None:
        return False
    for each in exchange.found:
        if each.name == "statuses.duration_until_reset" and each.place == place:
            earlier, later = sorted((each.theirs, each.ours))
            rule = exchange.rule(place).get("windows") or [{"unit": "HOUR", "multiplier": 1}]
            length = _LENGTHS.get(rule[0]["unit"], 0) * rule[0]["multiplier"]
            return bool(earlier <= CLOCKS and later >= max(length - CLOCKS, CLOCKS + 1))
    return False


def _overlapping(exchange: Exchange, place: int | None) -> bool:
    """Other calls for the bucket were in flight, and the services may have counted them in different
    orders.
    """
    if place is None or not exchange.overlapping or not exchange.overlapping[place]:
        return False
    known = exchange.known[place]
    moved = abs(exchange.gap(place) - (known.gap if known else 0))
    return moved <= exchange.overlapping[place] + abs(exchange.hits(place))


def _counted_before(exchange: Exchange, place: int | None) -> bool:
    """This is the first call for a bucket, and one of the services has counted earlier calls."""
    if (
        place is None
        or exchange.known[place] is not None
        or exchange.has("statuses.current_limit", place=place)
    ):
        return False
    return _consistent(exchange, place, exchange.gap(place))


def follows(exchange: Exchange, place: int | None) -> bool:
    """Return whether the gap between the services is the same as at their last answers for the bucket."""
    known = exchange.known[place] if place is not None and place < len(exchange.known) else None
    return known is not None and known.gap != 0 and _consistent(exchange, place, known.gap)


def _consistent(exchange: Exchange, place: int | None, gap: int) -> bool:
    """Return whether the remaining budgets differ by `gap`, as far as is visible: they are never shown below
    0.
    """
    pair = exchange.remaining(place) if place is not None else None
    if pair is None:
        return False
    codes = _codes(exchange, place)
    if codes is not None and codes[gap > 0] != "OVER_LIMIT":
        return False  # the service with more left has refused
    return pair[0] - pair[1] == gap or (pair[gap > 0] == 0 and abs(pair[0] - pair[1]) <= abs(gap))


REASONS = (
    Reason("empty-request", "| empty domain, no descriptors |", "an empty request gets another status",
        ("grpc_status",), _nothing_to_decide),
    Reason("too-many-entries", "| over 100 descriptors,",
        "a request with so many descriptors or entries is refused", ("grpc_status",), _too_many),
    Reason("unknown-unit", "- **An override with an unknown unit**",
        "a limit in the request has a unit that does not exist", ("grpc_status",), _unknown_unit),
    Reason("not-utf8", "- **Values that are not UTF-8**",
        "a value is not UTF-8: limited here, an error there", ("grpc_status",), _not_utf8),
    Reason("large-hits", "- **Hits of 2^63 and more**",
        "hits beyond 2^63 saturate here, and are an error there", ("grpc_status",), _large_hits),
    Reason("not-ready", "| no configuration yet |",
        "ours has no configuration yet, and answers with another status", ("grpc_status",), _not_ready),
    Reason("slow-store", "| Redis is slow |", "ours answers before its Redis does, at the deadline",
        ("grpc_status",), _slow),
    Reason("store-fails", "| Redis fails |", "the Redis of ours is away",
        ("grpc_status", "overall_code", *_LIMITS), _store_failed),
    Reason("too-many-calls", "| too many calls at once |", "ours bounds the calls in flight",
        ("grpc_status",), _overloaded),
    Reason("refund", "- **`is_negative_hits`**", "hits are given back here, and charged there", _COUNTS,
        _refund),
    Reason("local-cache", "- **`LOCAL_CACHE_SIZE_IN_BYTES`**",
        "the other's local cache does not see a refund", _COUNTS, _refused_after_a_refund),
    Reason("shared-counter", "- **Counters are never shared by accident.**",
        "the other counts this descriptor together with another one", _COUNTS, _shared),
    Reason("stopped", "- † **`STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT`**",
        "a rule on trial keeps the other from counting", _COUNTS, _stopped),
    Reason("hold-entries", "- **The entries `hold` and `phase=done`**",
        "entries for holds are part of the descriptor there, and not here",
        (*_LIMITS, "overall_code", "dynamic_metadata.descriptors"), _held),
    Reason("bounded-charge", "- **A charge on a budget above 1,000,000,000**",
        "a charge on a budget is bounded here", _COUNTS, _bounded),
    Reason("budget", "- **`BUDGET_DOMAINS`**", "the limit is a budget here", (*_WINDOWS, "raw_body"),
        _budget),
    Reason("new-keys", "- **`unit_multiplier`**",
        "a rule, or a limit in the request, that the other does not know", (*_LIMITS, "overall_code"),
        _new_keys),
    Reason("name", "- **`name`**", "what would break a header is taken out of the name",
        ("statuses.current_limit.name",), _cleaned),
    Reason("cut-metadata", "- **Dynamic metadata**", "long keys and values are cut in the metadata here",
        ("dynamic_metadata.domain", "dynamic_metadata.descriptors"), _cut_metadata),
    Reason("metadata", "- **Metadata**", "metadata of rules is kept here", ("dynamic_metadata.metadata",),
        _kept_metadata),
    Reason("window-edge", "- **An edge of a window**", "a window has ended between the two answers", _WINDOWS,
        _at_an_edge),
    Reason("overlapping", "- **Calls that overlap**",
        "each has taken calls at the same time in its own order", _COUNTS, _overlapping),
    Reason("counted-before", "- **Counted before**",
        "one of them has counted earlier calls, and the other has not", _COUNTS, _counted_before),
)  # fmt: skip

REFUSAL = Reason(
    "refusal",
    "- **Refused callers get the reason**",
    "a refusal has headers and a body here",
    (),
    _explains_itself,
)
"""The reason for headers and a body that only our answer has."""


def reason_of(exchange: Exchange, difference: Difference) -> Reason | None:
    """Return the first reason that explains a difference, or None."""
    if difference.theirs in (None, "") and difference.name.startswith(
        ("response_headers_to_add.", "raw_body")
    ):
        return REFUSAL if REFUSAL.applies(exchange, None) else None
    return next(
        (
            reason
            for reason in REASONS
            if difference.name in reason.fields and reason.applies(exchange, difference.place)
        ),
        None,
    )
