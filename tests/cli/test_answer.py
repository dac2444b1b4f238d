"""The lines that `ask` prints, for answers with an explanation and without."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.cli.answer import duration, lines
from ratelimit_service.core.amendments.model import override, top_up
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.decision import decide_without_counts
from ratelimit_service.core.model import Request
from ratelimit_service.core.plan import FailureMode, Policy
from ratelimit_service.core.planner import MOST_EXPLAINED, Planner
from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.transports.codec import make_encode
from tests.limiter import MIDNIGHT, Limiter, descriptor

RULES = """\
domain: d
descriptors:
  - key: team
    rate_limit: {unit: hour, tokens_per_unit: 0}
"""


def printed(response: RateLimitResponse, *descriptors: str, domain: str = "d") -> list[str]:
    return lines(domain, descriptors or ("team=dba",), response)


def asked(limiter: Limiter, *descriptors: str) -> RateLimitResponse:
    """Return the answer to a check that asks for an explanation."""
    request = Request("d", tuple([descriptor(one, 0) for one in descriptors]), explain=True)
    return RateLimitResponse.FromString(make_encode()(limiter.answer(request)))


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (0, "0 s"),
        (1, "1 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h"),
        (3_605, "1 h"),
        (3_660, "1 h 1 min"),
        (86_400, "1 d"),
        (240_721, "2 d 18 h"),
        (34_000_000, "393 d 12 h"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: int, shown: str) -> None:
    """It is rounded down."""
    assert shown == duration(seconds)


def test_requests_allowed_only_by_shadow_mode_are_reported() -> None:
    """SHADOW_MODE belongs to the service and not to a rule."""
    assert [
        "OK",
        "  the request would be refused, and SHADOW_MODE lets it through",
        "  team=dba: over the limit, 0 of 0 left for this hour, resets in 1 h",
    ] == printed(asked(Limiter(RULES, shadow_mode=True), "team=dba"))


@pytest.mark.parametrize(
    "mode, shown",
    [
        (
            FailureMode.ALLOW,
            [
                "OK",
                "  team=dba: let through, as STORE_FAILURE_MODE says: the store of its counters cannot be "
                "reached",
            ],
        ),
        (
            FailureMode.DENY,
            [
                "OVER_LIMIT",
                "  team=dba: refused, as STORE_FAILURE_MODE says: the store of its counters cannot be "
                "reached",
            ],
        ),
    ],
)
def test_an_answer_of_the_failure_mode_is_reported(mode: FailureMode, shown: list[str]) -> None:
    """An answer without counts does not mean that nothing limits the descriptor."""
    policy = Policy(failure_mode=mode)
    planner = Planner(Limiter(RULES).service.tree, policy, lambda: 0)
    plan = planner.plan(Request("d", (descriptor("team=dba", 0),), explain=True), MIDNIGHT)
    decision = decide_without_counts(policy, plan)
    assert decision is not None
    assert [*shown, "  user=ada: nothing limits it"][:2] == printed(
        RateLimitResponse.FromString(make_encode()(decision))
    )


def test_a_request_that_asks_for_no_explanation_gets_none() -> None:
    """Gateways never ask for one."""
    for refused in (False, True):
        answer = Limiter(RULES).ask("user=ada" if not refused else "team=dba")
        assert answer.dynamic_metadata is None


def test_an_explanation_is_added_to_the_other_metadata() -> None:
    """RESPONSE_DYNAMIC_METADATA is on."""
    limiter = Limiter(RULES, dynamic_metadata=True)
    assert {"domain", "descriptors"} == set(limiter.ask("team=dba").dynamic_metadata or ())
    request = Request("d", (descriptor("team=dba", 0),), explain=True)
    assert {"domain", "descriptors", "explanation"} == set(limiter.answer(request).dynamic_metadata or ())


def test_an_amended_limit_is_shown_with_that_of_the_rule() -> None:
    """For a blocked descriptor without a limit, it names the amendment, which can then be removed."""
    limiter = Limiter(RULES)
    target = parse("d", "team=dba")
    amendment = top_up(target, 1_500, "k")
    limiter.amend(amendment)
    assert [
        "OK",
        "  team=dba: 1,500 of 1,500 (0 in the rules) left for this hour, resets in 1 h",
    ] == printed(asked(limiter, "team=dba"))
    block = override(parse("d", "user=eve"), 0)
    limiter.amend(block)
    assert [
        "OVER_LIMIT",
        f"  user=eve: refused: it is blocked by {block.id}",
    ] == printed(asked(limiter, "user=eve"), "user=eve")


@pytest.mark.parametrize("number, explained", [(MOST_EXPLAINED, True), (MOST_EXPLAINED + 1, False)])
def test_only_answers_of_a_readable_size_are_explained(number: int, explained: bool) -> None:
    """An explanation costs several times as much as the decision, and any peer can ask for it."""
    teams = [f"team={place}" for place in range(number)]
    assert explained is ("explanation" in asked(Limiter(RULES), *teams).dynamic_metadata)


# Services that do not explain: an older one of ours, envoyproxy/ratelimit.


def status(code: Any = RateLimitResponse.OK, **fields: Any) -> RateLimitResponse:
    status = RateLimitResponse.DescriptorStatus(code=code, **fields)
    return RateLimitResponse(overall_code=code, statuses=[status])


def limit(amount: int, **fields: Any) -> RateLimitResponse.RateLimit:
    return RateLimitResponse.RateLimit(
        requests_per_unit=amount, unit=RateLimitResponse.RateLimit.DAY, **fields
    )


def test_without_an_explanation_the_status_is_shown() -> None:
    """It has one window, from the fields of the protocol, with times in the same format."""
    answer = status(current_limit=limit(100, name="a"), limit_remaining=7)
    answer.statuses[0].duration_until_reset.seconds = 7_260
    assert ["OK", "  team=dba: 7 of 100 left for this day (a), resets in 2 h 1 min"] == printed(answer)


def test_a_limit_that_is_shown_only_in_refusals_is_not_reported_as_missing() -> None:
    """With `limit_headers: on_refusal`, the status has the remaining budget and its reset."""
    answer = status(limit_remaining=7)
    answer.statuses[0].duration_until_reset.seconds = 240_721
    assert ["OK", "  team=dba: 7 left, resets in 2 d 18 h (limit_headers: on_refusal)"] == printed(answer)


@pytest.mark.parametrize(
    "remaining, shown",
    [(7, "7 of at least 4,294,967,295"), (2**32 - 1, "at least 4,294,967,295 of at least 4,294,967,295")],
)
def test_numbers_at_the_end_of_the_protocol_may_be_larger(remaining: int, shown: str) -> None:
    """A budget of 30,000,000,000 arrives as 2^32 - 1."""
    answer = status(current_limit=limit(2**32 - 1), limit_remaining=remaining)
    answer.statuses[0].duration_until_reset.seconds = 1
    assert ["OK", f"  team=dba: {shown} left for this day, resets in 1 s"] == printed(answer)


@pytest.mark.parametrize(
    "body, shown",
    [
        (
            b'{"error": {"message": "The request is refused: no rule matches team=dba."}}',
            ": The request is refused: no rule matches team=dba.",
        ),
        (b'{"error": {"message": "a\\nb\\u001b[2J"}}', ": a\\nb\\x1b[2J"),
        (b'{"error": "no"}', ""),
        (b"[]", ""),
        (b"\xff", ""),
        (b"", ""),
    ],
)
def test_a_refusal_without_a_limit_is_not_nothing_limits_it(body: bytes, shown: str) -> None:
    """The message of its body has the reason."""
    answer = status(RateLimitResponse.OVER_LIMIT)
    answer.raw_body = body
    assert ["OVER_LIMIT", f"  team=dba: refused{shown}"] == printed(answer)


def test_an_answer_of_a_hostile_server_stays_on_its_lines() -> None:
    """The server that answers may not be the intended one."""
    answer = status()
    hostile = "a\nb\x1b[2J\u202e"
    window = {
        "window": "hour",
        "unit": hostile,
        "multiplier": 1,
        "name": hostile,
        "limit": 5,
        "used": 5,
        "remaining": 0,
        "over": True,
        "resets_in": 1,
    }
    explanation: Any = {
        "descriptors": [{"windows": [window]}],
        "domains": [hostile],
        "missing_keys": [hostile],
    }
    answer.dynamic_metadata.update({"explanation": explanation})
    shown = printed(answer)
    assert (4, True) == (len(shown), all(line.isprintable() for line in shown))


@pytest.mark.parametrize(
    "explanation", [5, [], {"descriptors": []}, {"descriptors": [{"windows": [{}]}]}, {"descriptors": [5]}]
)
def test_an_invalid_explanation_is_ignored(explanation: Any) -> None:
    """Then the fields of the protocol are shown."""
    answer = status()
    answer.dynamic_metadata.update({"explanation": explanation})
    assert ["OK", "  team=dba: nothing limits it"] == printed(answer)
