"""Requests from recorded lines: which lines are read or skipped, and the messages about invalid ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratelimit_service.cli.comparison.recorded_requests import Recording
from ratelimit_service.core.errors import InvalidRequest


def of_ours(*pairs: tuple[str, str], hits: int | None = 0, **more: Any) -> str:
    """Return a line of the decision log."""
    return json.dumps(
        {"time": "2026-11-21T10:20:00Z", "domain": "llm", "descriptor": pairs, "hits": hits, **more}
    )


def of_envoy(*descriptors: dict[str, Any], domain: str = "llm") -> str:
    """Return a line of an access log with one call."""
    return json.dumps({"ratelimit": {"domain": domain, "descriptors": descriptors}, "status": 200})


def read(*lines: str) -> tuple[list[list[tuple[str, int | None]]], dict[str, int]]:
    """Return the requests, each as its descriptors and their hits, and the skipped lines."""
    recording = Recording(lines, "requests.log")
    found = [
        [
            (
                ",".join(f"{entry.key.decode()}={entry.value.decode()}" for entry in each.entries),
                (each.hits_addend.value * (-1 if each.is_negative_hits else 1))
                if each.HasField("hits_addend")
                else None,
            )
            for each in request.descriptors
        ]
        for request in recording
    ]
    return found, dict(recording.skipped)


def test_a_line_of_the_decision_log_is_a_request() -> None:
    """Its hits are a charge, a check, absent, or a refund."""
    team = ("team", "dba")
    lines = [of_ours(team, hits=hits) for hits in (300, 0, None, -5)]
    assert ([[("team=dba", hits)] for hits in (300, 0, None, -5)], {}) == read(*lines)


def test_lines_that_are_parts_of_a_request_are_put_together() -> None:
    """A request that is incomplete at either end of a log is skipped and counted."""
    parts = [of_ours(("team", name), part=[place, 3]) for place, name in enumerate("abc", 1)]
    whole = [("team=a", 0), ("team=b", 0), ("team=c", 0)]
    assert ([whole], {}) == read(*parts)
    assert ([whole], {"parts of requests": 4}) == read(*parts[1:], *parts, *parts[:2])
    assert ([[("team=x", 0)], whole], {"parts of requests": 1}) == read(
        parts[0], of_ours(("team", "x")), *parts
    )


def test_truncated_values_in_the_log_are_left_out() -> None:
    """A truncated value would be another bucket."""
    cut = of_ours(("team", f"{'x' * 256}… (300 bytes)"))
    assert ([[("team=a", 0)]], {"values that the log has cut": 1}) == read(cut, of_ours(("team", "a")))


def test_a_line_of_an_access_log_has_the_calls_of_a_request() -> None:
    """They are a check and a charge, in their order. Numbers may be text, and values of entries may be
    numbers.
    """
    entries = [["team", "dba"], ["tier", 1]]
    calls = [{"domain": "llm", "descriptors": [{"entries": entries, "hits": hits}]} for hits in (0, "423")]
    line = json.dumps({"ratelimit": calls})
    assert ([[("team=dba,tier=1", 0)], [("team=dba,tier=1", 423)]], {}) == read(line)


def test_descriptors_that_a_gateway_omits_are_left_out() -> None:
    """It omits a descriptor without its header or cost, and a call without descriptors."""
    kept, nameless = {"entries": [["team", "a"]]}, {"entries": [["team", None]]}
    free = {"entries": [["team", "a"]], "hits": None}
    skipped = {"calls that a gateway does not make": 1}
    assert ([[("team=a", None)]], skipped) == read(of_envoy(kept, nameless, free), of_envoy(nameless))


@pytest.mark.parametrize(
    "hits, read_as", [("423.9", 423), (40.9, 40), ("1e3", 1000), (-2.5, -2), (1e300, 2**64 - 1)]
)
def test_hits_are_read_as_envoy_reads_a_cost(hits: object, read_as: int) -> None:
    """They are rounded down, also from text, and saturate at the largest number of the protocol."""
    assert ([[("team=a", read_as)]], {}) == read(of_envoy({"entries": [["team", "a"]], "hits": hits}))


def test_a_limit_in_the_request_is_read() -> None:
    """Its unit may be in upper or lower case."""
    line = of_envoy({"entries": [["team", "a"]], "limit": {"requests_per_unit": "7", "unit": "hour"}})
    (request,) = Recording([line], "x")
    assert (7, 3) == (request.descriptors[0].limit.requests_per_unit, request.descriptors[0].limit.unit)


def test_other_lines_are_skipped() -> None:
    """A log has other lines, and collectors join logs. Empty lines are not counted."""
    others = ['{"level": "info"}', "[1]", "GET / 200", "", "null", "[" * 100_000, "1" * 5_000]
    assert ([[("team=a", 0)]], {"other lines": 6}) == read(*others, of_ours(("team", "a")))


@pytest.mark.parametrize(
    "line, complaint",
    [
        ('{"ratelimit": {}}', "'domain' is missing"),
        ('{"ratelimit": {"domain": "x", "descriptors": [{}]}}', "'entries' is missing"),
        ('{"ratelimit": {"domain": "x", "descriptors": [{"entries": [["a"]]}]}}', "not enough values"),
        ('{"ratelimit": {"domain": "x", "descriptors": [{"entries": [["a", "b"]], "hits": "many"}]}}',
            "many"),
        (of_envoy({"entries": [["a", "b"]], "limit": {"requests_per_unit": 1, "unit": "eon"}}), "EON"),
        ('{"domain": "x", "descriptor": [["a", "b"]]}', "'hits' is missing"),
        ('{"domain": "x", "descriptor": [["a", "b"]], "hits": Infinity}', "the hits are inf"),
        ('{"domain": "x", "descriptor": [["a", "b"]], "hits": true}', "the hits are true"),
        ('{"domain": 7, "descriptor": [["a", "b"]], "hits": 0}', "the domain is 7, not a text"),
    ],
)  # fmt: skip
def test_a_line_that_is_nearly_one_is_an_error(line: str, complaint: str) -> None:
    """The error has its place. Otherwise, the replay would send a request that was never made."""
    with pytest.raises(InvalidRequest, match=r"^requests\.log:2: this is not a recorded request: ") as error:
        list(Recording(["{}", line], "requests.log"))
    assert complaint in str(error.value)


def test_a_file_without_a_request_is_an_error() -> None:
    """The message describes the expected lines."""
    with pytest.raises(
        InvalidRequest, match=r"^x: no line is a request: give a decision log \(DECISION_LOG=all\)"
    ):
        list(Recording(["hello"], "x"))
