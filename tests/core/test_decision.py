"""The answers for one descriptor, call after call: tables with rows of (seconds, hits, answer).

An answer is the code, the remaining amount, and the seconds until the reset.
"""

from __future__ import annotations

import pytest

from ratelimit_service.core.model import COUNTER_MAX, UINT32_MAX
from tests.limiter import MIDNIGHT, Limiter, Row, decision_text, descriptor, replay


def rules(limit: str, more: str = "") -> str:
    return f"{{domain: d, descriptors: [{{key: team, rate_limit: {{{limit}}}{more}}}]}}"


def hourly(amount: int, more: str = "") -> str:
    return rules(f"requests_per_unit: {amount}, unit: hour", more)


TABLES: dict[str, tuple[str, list[Row]]] = {
    "one hit after another": (
        hourly(3),
        [
            # down to 0; without hits, one is charged
            (0, None, "OK 2 3600"),
            (0, 1, "OK 1 3600"),
            (0, None, "OK 0 3600"),
            # a full limit is not over; one more hit is
            (0, 0, "OK 0 3600"),
            (0, 1, "OVER_LIMIT 0 3600"),
            (0, None, "OVER_LIMIT 0 3600"),
        ],
    ),
    "many hits at once": (
        hourly(10),
        [
            # one charge can take the whole limit
            (0, 10, "OK 0 3600"),
            (0, -10, "OK 10 3600"),
            # a charge that crosses the limit is refused
            (0, 7, "OK 3 3600"),
            (0, 4, "OVER_LIMIT 0 3600"),
            # and counted in full: 11 are used, so a charge of 1 is refused, too
            (0, 1, "OVER_LIMIT 0 3600"),
            (0, -2, "OK 0 3600"),
            (0, -1, "OK 1 3600"),
        ],
    ),
    "checks": (
        hourly(2),
        [
            # any number of checks uses nothing
            (0, 0, "OK 2 3600"),
            (0, 0, "OK 2 3600"),
            (0, 1, "OK 1 3600"),
            (0, 0, "OK 1 3600"),
            # at the limit, a check is still OK; over it, it is not
            (0, 1, "OK 0 3600"),
            (0, 0, "OK 0 3600"),
            (0, 1, "OVER_LIMIT 0 3600"),
            (0, 0, "OVER_LIMIT 0 3600"),
        ],
    ),
    "a limit of 0": (
        hourly(0),
        [
            # a check of an unused limit is not over
            (0, 0, "OK 0 3600"),
            (0, 1, "OVER_LIMIT 0 3600"),
            (0, 0, "OVER_LIMIT 0 3600"),
            # a refund is never refused
            (0, -1, "OK 0 3600"),
            (0, 0, "OK 0 3600"),
        ],
    ),
    "a limit of 1": (
        hourly(1),
        [(0, 1, "OK 0 3600"), (0, 1, "OVER_LIMIT 0 3600")],
    ),
    "refused hits count": (
        hourly(10),
        [
            (0, 10, "OK 0 3600"),
            # five refused calls: 15 are used
            *[(0, 1, "OVER_LIMIT 0 3600")] * 5,
            # so a refund of five makes it exactly full
            (0, -5, "OK 0 3600"),
            (0, 0, "OK 0 3600"),
            (0, -1, "OK 1 3600"),
        ],
    ),
    "refunds": (
        hourly(10),
        [
            # a refund without a charge leaves no debt
            (0, -5, "OK 10 3600"),
            (0, 1, "OK 9 3600"),
            # refunded hits can be charged again
            (0, 8, "OK 1 3600"),
            (0, -4, "OK 5 3600"),
            # a refund stops at 0
            (0, -100, "OK 10 3600"),
            (0, 10, "OK 0 3600"),
            (0, 1, "OVER_LIMIT 0 3600"),
        ],
    ),
    "from window to window": (
        hourly(2),
        [
            (0, 2, "OK 0 3600"),
            (1, 1, "OVER_LIMIT 0 3599"),
            # the last second of the hour
            (3598, 1, "OVER_LIMIT 0 1"),
            # a new hour with the full limit; then a skipped one, and the middle of the next
            (1, 1, "OK 1 3600"),
            (9000, 1, "OK 1 1800"),
            (0, 1, "OK 0 1800"),
            (0, 1, "OVER_LIMIT 0 1800"),
        ],
    ),
    "each second is a window of its own": (
        rules("requests_per_unit: 1, unit: second"),
        [
            (0, 1, "OK 0 1"),
            (0, 1, "OVER_LIMIT 0 1"),
            (1, 1, "OK 0 1"),
            (1, 0, "OK 1 1"),
        ],
    ),
    "a quarter of an hour": (
        rules("requests_per_unit: 1, unit: minute, unit_multiplier: 15"),
        [
            (0, 1, "OK 0 900"),
            (899, 1, "OVER_LIMIT 0 1"),
            (1, 1, "OK 0 900"),
        ],
    ),
    "shadow mode": (
        hourly(2, ", shadow_mode: true"),
        [
            (0, 2, "OK 0 3600"),
            # over the limit, nothing is refused, and nothing remains
            (0, 5, "OK 0 3600"),
            (0, 0, "OK 0 3600"),
            # it was counted
            (0, -6, "OK 1 3600"),
        ],
    ),
    "numbers without bound": (
        hourly(UINT32_MAX),
        [
            (0, UINT32_MAX, "OK 0 3600"),
            (0, -UINT32_MAX, "OK 4294967295 3600"),
            # amounts above the maximum of a counter saturate, in the hit and in the counter
            (0, 2**64 - 1, "OVER_LIMIT 0 3600"),
            (0, 2**63, "OVER_LIMIT 0 3600"),
            (0, COUNTER_MAX, "OVER_LIMIT 0 3600"),
            # near the maximum, counts are exact: one more than the limit, then the limit
            (0, UINT32_MAX + 1 - COUNTER_MAX, "OK 0 3600"),
            (0, 0, "OVER_LIMIT 0 3600"),
            (0, -1, "OK 0 3600"),
            (0, 0, "OK 0 3600"),
            # and a refund saturates too
            (0, 1 - 2**64, "OK 4294967295 3600"),
        ],
    ),
}


@pytest.mark.parametrize("rule, rows", TABLES.values(), ids=TABLES)
def test_calls_are_answered_one_after_another(rule: str, rows: list[Row]) -> None:
    """Each call sees what the calls before it have left."""
    assert rows == replay(Limiter(rule), rows)


@pytest.mark.parametrize(
    "hits, request_hits, used",
    [
        # neither has a hits_addend: 1
        (None, 0, 1),
        (None, 1, 1),
        # the request's applies to a descriptor without its own
        (None, 5, 5),
        (None, UINT32_MAX, UINT32_MAX),
        # the descriptor's takes precedence, even if it is 0: a check creates no counter
        (3, 5, 3),
        (7, 0, 7),
        (0, 5, None),
        (0, 0, None),
        # more than a counter can hold
        (COUNTER_MAX, 0, COUNTER_MAX),
        (COUNTER_MAX + 1, 0, COUNTER_MAX),
        (2**64 - 1, 0, COUNTER_MAX),
    ],
)
def test_the_hits_addend_comes_from_the_descriptor_or_else_from_the_request(
    hits: int | None, request_hits: int, used: int | None
) -> None:
    """In a request, 0 means unset, and so 1."""
    limiter = Limiter(hourly(10))
    limiter.ask(descriptor("team=dba", hits), hits=request_hits)
    assert used == limiter.used("team=dba")


def test_a_refund_without_a_hits_addend_takes_that_of_the_request() -> None:
    """is_negative_hits is the sign, not the amount."""
    limiter = Limiter(hourly(10))
    limiter.ask(descriptor("team=dba", 9))
    refund = descriptor("team=dba")._replace(negative=True)
    assert "OK: OK 5 3600" == decision_text(limiter.ask(refund, hits=4))
    assert "OK: OK 6 3600" == decision_text(limiter.ask(refund))


def test_a_refund_of_nothing_is_a_check() -> None:
    """It is refused over the limit."""
    limiter = Limiter(hourly(1))
    limiter.ask(descriptor("team=dba", 2))
    nothing = descriptor("team=dba", 0)._replace(negative=True)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == decision_text(limiter.ask(nothing))


def test_another_value_of_the_key_has_a_bucket_of_its_own() -> None:
    """One team does not use up the limit of another."""
    limiter = Limiter(hourly(1))
    assert ["OK: OK 0 3600"] * 2 == [
        decision_text(limiter.ask(f"team={team}")) for team in ("dba", "support")
    ]
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == decision_text(limiter.ask("team=dba"))


DAY = 86_400


@pytest.mark.parametrize(
    "window, begins, seconds",
    [
        ("unit: second", MIDNIGHT, 1),
        ("unit: minute", MIDNIGHT, 60),
        ("unit: hour", MIDNIGHT, 3600),
        ("unit: day", MIDNIGHT, DAY),
        # upstream's blocks since 1970: weeks from Thursday, months of 30 days, years of 365
        ("unit: week", MIDNIGHT - 2 * DAY, 7 * DAY),
        ("unit: month", MIDNIGHT - 18 * DAY, 30 * DAY),
        ("unit: year", MIDNIGHT - 338 * DAY, 365 * DAY),
        # and their multiples, also counted from 1970
        ("unit: minute, unit_multiplier: 15", MIDNIGHT, 900),
        ("unit: second, unit_multiplier: 7", 1_795_219_202, 7),
        ("unit: day, unit_multiplier: 2", MIDNIGHT, 2 * DAY),
    ],
)
def test_the_reset_is_the_end_of_the_window(window: str, begins: int, seconds: int) -> None:
    """It is in whole seconds: the length of the window in its first second, 1 in its last, and never 0."""
    limiter = Limiter(rules(f"requests_per_unit: 100, {window}"))
    resets = []
    for now in (begins, begins + seconds - 1, begins + seconds):
        limiter.now = now
        resets.append(decision_text(limiter.ask("team=dba")))
    assert [f"OK: OK 99 {seconds}", "OK: OK 98 1", f"OK: OK 99 {seconds}"] == resets


def test_a_window_is_no_longer_than_the_protocol_can_express() -> None:
    """10,000 years, counted from 1970."""
    limiter = Limiter(rules("requests_per_unit: 100, unit: year, unit_multiplier: 4294967295"))
    assert f"OK: OK 99 {315_576_000_000 - MIDNIGHT}" == decision_text(limiter.ask("team=dba"))


@pytest.mark.parametrize(
    "past, reset", [(0.0, 3600), (0.5, 3600), (1.0, 3599), (3598.999, 2), (3599.0, 1), (3599.999, 1)]
)
def test_a_part_of_a_second_belongs_to_the_second(past: float, reset: int) -> None:
    """A reset is never 0."""
    assert f"OK: OK 9 {reset}" == decision_text(Limiter(hourly(10), now=MIDNIGHT + past).ask("team=dba"))


def test_a_status_carries_the_limit_as_it_was_configured() -> None:
    """It has the amount, the unit and the name of the file."""
    limiter = Limiter(rules("requests_per_unit: 7, unit: minute, unit_multiplier: 5, name: five"))
    (status,) = limiter.ask("team=dba").statuses
    assert status.limit is not None
    assert (7, "five", "MINUTE", 5) == (
        status.limit.amount,
        status.limit.name,
        status.limit.window.unit.name,
        status.limit.window.multiplier,
    )
