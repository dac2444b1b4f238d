"""Each reason is given only where it applies, and is explained on the page."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest

from ratelimit_service.cli.comparison.answers import Answer
from ratelimit_service.cli.comparison.comparer import FOLLOWS, Comparer, Comparison
from ratelimit_service.cli.comparison.reasons import REASONS, REFUSAL
from ratelimit_service.cli.comparison.report import TEXTS
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest

from ...docs.documents import DOCS, tables
from .answering import HOUR, answer, request, status

PAGE = DOCS / "compatibility.md"


def reasons(compared: Comparison) -> list[str]:
    """Return the distinct reasons for a request's differences; "" for none."""
    return sorted({finding.reason for finding in compared.findings})


class Case(NamedTuple):
    """Two answers to a request, and the reasons for their differences."""

    asked: RateLimitRequest
    theirs: Answer
    ours: Answer
    expected: list[str]


def unknown_unit() -> RateLimitRequest:
    made = request("a")
    made.descriptors[0].limit.requests_per_unit = 5
    return made


def multiplied() -> RateLimitRequest:
    made = request("a")
    made.descriptors[0].limit.unit_multiplier.value = 6
    return made


def held(key: bytes, value: bytes) -> RateLimitRequest:
    made = request("a")
    made.descriptors[0].entries.add(key=key, value=value)
    return made


def over(left: int = 0, **fields: Any) -> dict[str, Any]:
    return status(left, over=True, **fields)


REFUSED: dict[str, Any] = {
    "responseHeadersToAdd": [{"key": "Retry-After", "value": "1800"}],
    "rawBody": "e30=",
}
BUDGET = {"rule": "llm.team", "budget": True, "windows": [HOUR]}
MONTHLY = {"rule": "llm.team", "budget": True, "windows": [{**HOUR, "unit": "MONTH"}]}
TRIAL = {"rule": "llm.trial", "shadow_mode": True, "windows": [{**HOUR, "over": True}]}
PLAIN = {"rule": "llm.team", "windows": [HOUR]}
TWO_WINDOWS = {"rule": "llm.team", "windows": [HOUR, {**HOUR, "unit": "DAY"}]}
SIX_HOURS = {"rule": "llm.team", "windows": [{**HOUR, "multiplier": 6}]}

CASES = {
    "the same": Case(request("a"), answer(status(9)), answer(status(9)), []),
    "clocks that differ": Case(request("a"), answer(status(9, reset=70)), answer(status(9, reset=72)), []),
    "windows that differ": Case(request("a"), answer(status(9, reset=70)), answer(status(9, reset=73)), [""]),
    "no descriptors": Case(RateLimitRequest(domain="llm"), Answer("UNKNOWN"), Answer("INVALID_ARGUMENT"),
        ["empty-request"]),
    "no domain": Case(request("a", domain=""), Answer("UNKNOWN"), Answer("INVALID_ARGUMENT"),
        ["empty-request"]),
    "a request that only ours refuses": Case(request("a"), Answer("UNKNOWN"), Answer("INVALID_ARGUMENT"),
        [""]),
    "too many": Case(request(*"ab"), answer(status(1), status(1)),
        Answer("INVALID_ARGUMENT", "not 2 (REQUEST_MAX_DESCRIPTORS)"), ["too-many-entries"]),
    "an unknown unit": Case(unknown_unit(), Answer("UNAVAILABLE"), Answer("INVALID_ARGUMENT", "unit"),
        ["unknown-unit"]),
    "no UTF-8": Case(request(b"te\xff"), Answer("INTERNAL"), answer(status(9)), ["not-utf8"]),
    "an error about text": Case(request("te"), Answer("INTERNAL"), answer(status(9)), [""]),
    "hits that are too large": Case(request("a", hits=2**63), Answer("UNKNOWN"), answer(over()),
        ["large-hits"]),
    "not ready": Case(request("a"), Answer("UNKNOWN"),
        Answer("UNAVAILABLE", "no configuration has been loaded yet"), ["not-ready"]),
    "a slow store": Case(request("a"), answer(status(9)),
        Answer("UNAVAILABLE", "the store did not answer within 90 ms"), ["slow-store"]),
    "a store that fails": Case(request("a"), Answer("UNKNOWN"), Answer("UNAVAILABLE", "Redis is away"),
        ["store-fails"]),
    "a store that fails, and an answer": Case(request("a"), answer(status(9)),
        answer({"code": "OK"}, rules=[{"unreachable": True}]), ["store-fails"]),
    "a network that fails": Case(request("a"), answer(status(9)), Answer("UNAVAILABLE", "connection refused"),
        [""]),
    "too many calls": Case(request("a"), answer(status(9)), Answer("RESOURCE_EXHAUSTED"), ["too-many-calls"]),
    "a refund": Case(request("a", hits=-5), answer(status(90)), answer(status(100)), ["refund"]),
    "a trial": Case(request("a", ("b", 5)), answer(status(0), status(50)),
        answer(status(0), status(45), rules=[TRIAL, PLAIN]), ["stopped"]),
    "the id of a hold": Case(held(b"hold", b"1a2b"), answer({"code": "OK"}),
        answer(status(98), rules=[BUDGET]), ["hold-entries"]),
    "the end of a hold": Case(held(b"phase", b"done"), answer({"code": "OK"}), answer(over(), rules=[BUDGET]),
        ["hold-entries"]),
    "another phase": Case(held(b"phase", b"two"), answer(status(9)), answer(status(19), rules=[PLAIN]),
        ["counted-before"]),
    "an absurd charge": Case(request("a", hits=5 * 10**9), answer(over()), answer(status(50), rules=[BUDGET]),
        ["bounded-charge"]),
    "an absurd charge on a limit": Case(request("a", hits=5 * 10**9), answer(status(5)),
        answer(status(50), rules=[PLAIN]), ["counted-before"]),
    "a check with nothing left": Case(request("a"), answer(status(0)), answer(over(), rules=[BUDGET]),
        ["budget"]),
    "the charge that crosses the line": Case(request("a", hits=50), answer(over()),
        answer(status(0), rules=[BUDGET]), ["budget"]),
    "a call without a cost": Case(request("a", hits=None), answer(status(98)),
        answer(status(99), rules=[BUDGET]), ["budget"]),
    "a month": Case(request("a"), answer(status(98)), answer(status(97, reset=90_000), rules=[MONTHLY]),
        ["budget"]),
    "several windows": Case(request("a"), answer(status(98)),
        answer(status(98, limit=500), rules=[TWO_WINDOWS]), ["new-keys"]),
    "a multiple of an hour": Case(request("a"), answer(status(98)),
        answer(status(98, unitMultiplier=6, reset=9_000), rules=[SIX_HOURS]), ["new-keys"]),
    "a multiple in the request": Case(multiplied(), answer(status(98)), answer(status(98, reset=9_000)),
        ["new-keys"]),
    "a descriptor that no rule is for": Case(request("a"), answer({"code": "OK"}),
        answer({"code": "OVER_LIMIT"}, rules=[{"unmatched": True}]), ["new-keys"]),
    "a name": Case(request("a"), answer(status(9, name='a"b')), answer(status(9, name="a_b")), ["name"]),
    "another name": Case(request("a"), answer(status(9, name="a")), answer(status(9, name="b")), [""]),
    "metadata": Case(request("a"), answer(status(9), dynamicMetadata={"domain": "x"}),
        answer(status(9), dynamicMetadata={"domain": "x", "metadata": {}}), ["metadata"]),
    "metadata of a long value": Case(
        request("a" * 5_000),
        answer(status(9), dynamicMetadata={"descriptors": ["a" * 5_000]}),
        answer(status(9), dynamicMetadata={"descriptors": ["a" * 4_096]}),
        ["cut-metadata"],
    ),
    "other metadata": Case(request("a"), answer(status(9), dynamicMetadata={"domain": "x"}),
        answer(status(9), dynamicMetadata={"domain": "y"}), [""]),
    "an edge": Case(request("a"), answer(status(3, reset=1)), answer(status(100, reset=3_600), rules=[PLAIN]),
        ["window-edge"]),
    "counted before": Case(request("a"), answer(over()), answer(status(60)), ["counted-before"]),
    "more left, and refused": Case(request("a"), answer(over(70)), answer(status(60)), [""]),
    "another limit": Case(request("a"), answer(status(9)), answer(status(19, limit=110)), [""]),
    "another verdict": Case(request("a"), answer(status(9)), answer(over(9)), [""]),
    "a refusal": Case(request("a"), answer(over()), answer(over(), **REFUSED), ["refusal"]),
    "a header on what passes": Case(request("a"), answer(status(9)), answer(status(9), **REFUSED), [""]),
    "a header that is missing": Case(request("a"), answer(over(), **REFUSED), answer(over()), [""]),
    "another overall code": Case(request("a"), answer(status(9)), answer(status(9), overallCode="OVER_LIMIT"),
        [""]),
    "a status too few": Case(request(*"ab"), answer(status(9), status(9)), answer(status(9)), [""]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_difference_has_this_reason(case: Case) -> None:
    """The request is the first one about its bucket."""
    assert case.expected == reasons(Comparer().compare(case.asked, case.theirs, case.ours))


def test_every_reason_has_a_case() -> None:
    """The case is here, or in the tests below if it needs earlier requests."""
    seen = {reason for case in CASES.values() for reason in case.expected} - {""}
    assert {"local-cache", "shared-counter", "overlapping"} == {reason.name for reason in REASONS} - seen


# What earlier requests have shown


def test_a_gap_is_counted_before_once_and_then_follows() -> None:
    """This holds while its width stays. A gap that widens is a new difference, and later reasons name that
    one.
    """
    comparer = Comparer()
    steps = [(40, 60), (30, 50), (25, 50), (20, 45)]
    found = [comparer.compare(request("a"), answer(status(a)), answer(status(b))) for a, b in steps]
    assert [["counted-before"], [FOLLOWS], [""], [""]] == [reasons(each) for each in found]
    assert [0, 1, 0, 3] == [each.findings[0].since for each in found]


def test_a_gap_explains_a_verdict_that_goes_with_it() -> None:
    """The service with less remaining refuses first. The opposite is not explained."""
    comparer = Comparer()
    comparer.compare(request("a"), answer(status(10)), answer(status(40)))
    assert [FOLLOWS] == reasons(comparer.compare(request("a"), answer(over()), answer(status(20))))
    assert [""] == reasons(comparer.compare(request("a"), answer(status(5)), answer(over(35))))


def test_a_new_window_closes_a_gap() -> None:
    """Later differences need another reason."""
    comparer = Comparer()
    pairs = [(40, 60), (100, 100), (80, 100)]
    found = [comparer.compare(request("a"), answer(status(a)), answer(status(b))) for a, b in pairs]
    assert [["counted-before"], [], [""]] == [reasons(each) for each in found]


def test_another_bucket_has_its_own_gap() -> None:
    """Each descriptor of a request has its own bucket."""
    comparer = Comparer()
    comparer.compare(request("a"), answer(status(40)), answer(status(60)))
    both = comparer.compare(request("a", "b"), answer(status(30), status(90)), answer(status(50), status(95)))
    assert [FOLLOWS, "counted-before"] == [finding.reason for finding in both.findings]


def test_counters_that_are_joined_are_found_by_their_text() -> None:
    """`team=a_team_b` and `team=a, team=b` share a counter. The third answer is compared when both are
    known.
    """
    one, other = request("a_team_b"), RateLimitRequest(domain="llm")
    descriptor = other.descriptors.add()
    for value in (b"a", b"b"):
        descriptor.entries.add(key=b"team", value=value)
    comparer = Comparer()
    comparer.compare(one, answer(status(90)), answer(status(90)))
    comparer.compare(other, answer(status(80)), answer(status(100)))
    assert ["shared-counter"] == reasons(comparer.compare(one, answer(status(70)), answer(status(85))))


def test_a_local_cache_is_found_by_a_refund_that_it_does_not_see() -> None:
    """The bucket is refused although it was refunded."""
    comparer = Comparer()
    comparer.compare(request("a", hits=-5), answer(status(5)), answer(status(5)))
    assert ["local-cache"] == reasons(comparer.compare(request("a"), answer(over()), answer(status(5))))


@pytest.mark.parametrize("hits, expected", [(20, ["overlapping"]), (4, [""])], ids=["enough", "not enough"])
def test_calls_at_the_same_time_explain_as_much_as_they_cost(hits: int, expected: list[str]) -> None:
    """They explain no more than that. A gap that they cause is temporary, and is not remembered."""
    comparer = Comparer()
    comparer.compare(request("a"), answer(status(100)), answer(status(100)))
    pair = answer(status(80)), answer(status(100))
    assert expected == reasons(comparer.compare(request("a"), *pair, overlapping=[hits]))
    assert [] == reasons(comparer.compare(request("a"), answer(status(80)), answer(status(80))))


def test_an_unanswered_call_resets_the_known_state_of_a_bucket() -> None:
    """It may have been counted, so the state of the bucket is forgotten."""
    comparer = Comparer()
    comparer.compare(request("a"), answer(status(50)), answer(status(50)))
    comparer.compare(request("a", hits=5), Answer("DEADLINE_EXCEEDED"), answer(status(45)))
    assert ["counted-before"] == reasons(
        comparer.compare(request("a"), answer(status(50)), answer(status(45)))
    )


def test_what_is_remembered_is_bounded() -> None:
    """The least recently used bucket is forgotten."""
    comparer = Comparer(most_buckets=2)
    for value in "abcab":
        found = comparer.compare(request(value), answer(status(40)), answer(status(60)))
        assert ["counted-before"] == reasons(found)


# The page


def test_every_reason_stands_on_the_page() -> None:
    """It is in the paragraph or the row that it names, once, and in the table of reasons, in the same
    order.
    """
    text = PAGE.read_text("utf-8")
    every = [*REASONS, REFUSAL]
    assert [] == [reason.name for reason in every if text.count(f"\n{reason.place}") != 1]
    (table,) = tables(PAGE, "reason")
    assert [reason.name for reason in every] == [row[0] for row in table.rows]
    for reason, (_, label) in zip(every, table.rows, strict=True):
        place = re.sub(r"[`*†|]|^- |^Errors: ", "", reason.place).strip(" ,.")
        assert re.sub("^Errors: ", "", label) == place
    assert {*(reason.name for reason in every), FOLLOWS} == TEXTS.keys()


IN_NO_ANSWER = {
    "**`over_limit_with_local_cache`**": "a metric",
    "**A check writes nothing.**": "counters are there or not",
    "**Expiry is set once**": "counters stay longer or not",
    "**`unlimited`** rules": "metrics",
    "**`duration_until_reset`**": "a second, which clocks may differ by",
    "| HTTP:": "not gRPC",
    "| the message is not a RateLimitRequest": "what is replayed is one",
    "| too many connections at once": "there are two",
    "| native": "compare and the gateways before a mirror do nothing of the kind",
}
"""What the page has, and no answer to a call can show."""


def test_each_paragraph_of_the_page_about_answers_has_a_reason() -> None:
    """Each paragraph about answers has a reason, or is about something that answers do not show. The same
    holds for rows about gRPC errors.
    """
    text = PAGE.read_text("utf-8")
    (answers,) = re.findall(
        r"^## Different answers and statistics\n(.*?)^## ", text, re.MULTILINE | re.DOTALL
    )
    (errors,) = re.findall(r"^## Errors\n(.*?)^Envoy and agentgateway apply", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in answers.splitlines() if line.startswith("- ")]
    lines += [line for line in errors.splitlines()[3:] if line.startswith("| ") and "`/" not in line]
    places = [reason.place for reason in (*REASONS, REFUSAL)]
    assert [] == [
        line
        for line in lines
        if not line.startswith(tuple(places)) and not any(name in line for name in IN_NO_ANSWER)
    ]
