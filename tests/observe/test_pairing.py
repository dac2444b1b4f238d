"""Rules whose checks and charges do not meet. The metrics count real decisions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from ratelimit_service.assembly.operators import look_for_unpaired
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import DescriptorRule, DomainRules, Limit, Override, Rule, StatKey, Unit
from ratelimit_service.loading.slices import at_once
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.pairing import LEAST, Pairing, Unpaired, added_up
from ratelimit_service.workers.worker_link import Provide

from .counting import DAY, TREE, count, descriptor

HOUR = 3_600.0
CHECKED = "a rule gets checks and no charge on this replica"
CHARGED = "a rule gets charges and no check on this replica"


class Looks:
    """A service with metrics, at which a test looks every hour; `others` are its other workers."""

    def __init__(self, *others: Looks) -> None:
        self.others = others
        self.metrics = Metrics()
        self.pairing = Pairing(self.metrics.rows_of_rules)
        self.now = 0.0

    def calls(self, hits: int | None, times: int = LEAST, to: str = "budget=x", **more: Any) -> None:
        """Count calls with these hits."""
        for _ in range(times):
            count(self.metrics, descriptor(to, hits), **more)

    def look(self, hours: float = 1) -> list[tuple[str, str, int]]:
        """Return the lines that the next look logs: the event, the rule and the number."""
        self.now += hours * HOUR
        with structlog.testing.capture_logs() as lines:
            asyncio.run(look_for_unpaired(self.pairing, self, self.now))
        return [
            (line["event"], line.get("rule", ""), line.get("checks", line.get("charges", line.get("rules"))))
            for line in lines
        ]

    def share(self, name: str, provide: Provide) -> None:
        """See Siblings."""

    async def ask(self, name: str, *arguments: Any) -> list[Any]:
        """See Siblings."""
        return [at_once(other.pairing.pairs(*arguments)) for other in self.others]


@pytest.fixture
def looks() -> Looks:
    return Looks()


def test_a_rule_that_is_checked_and_never_charged_is_logged(looks: Looks) -> None:
    """Its counters never grow, so it refuses nothing."""
    looks.calls(0)
    assert [(CHECKED, "d.budget", LEAST)] == looks.look()
    assert [f"d.budget (): {LEAST} checks and no charge on this replica within an hour"] == list(
        map(str, looks.pairing.unpaired)
    )


def test_a_rule_that_is_charged_and_never_checked_is_logged(looks: Looks) -> None:
    """No caller waits for the answer to a charge that is sent after a response."""
    looks.calls(700)
    assert [(CHARGED, "d.budget", LEAST)] == looks.look()
    assert [f"d.budget (): {LEAST} charges and no check on this replica within an hour"] == list(
        map(str, looks.pairing.unpaired)
    )


@pytest.mark.parametrize("hits, other", [(0, 700), (700, 0)])
def test_a_single_one_of_the_other_kind_is_enough(looks: Looks, hits: int, other: int) -> None:
    """Callers that disconnect, and a provider that fails, are no mistake of the gateway."""
    looks.calls(hits, 10 * LEAST)
    looks.calls(other, 1)
    assert ([], ()) == (looks.look(), looks.pairing.unpaired)


@pytest.mark.parametrize("hits", [0, 700])
def test_little_traffic_says_nothing(looks: Looks, hits: int) -> None:
    """The other kind may still come."""
    looks.calls(hits, LEAST - 1)
    assert [] == looks.look()


def test_requests_that_count_1_are_no_mistake(looks: Looks) -> None:
    """This is every rule that limits requests."""
    looks.calls(1, to="team=x")
    looks.calls(None, to="team=y")
    assert [] == looks.look()


def test_a_check_may_count_1(looks: Looks) -> None:
    """Envoy AI Gateway checks a quota without hits_addend."""
    looks.calls(None, 1, to="team=x")
    looks.calls(700, to="team=x")
    assert [] == looks.look()


def test_only_the_last_hour_counts(looks: Looks) -> None:
    """A gateway that stops to send charges is found, and one that sends them again is no longer shown."""
    looks.calls(0)
    looks.calls(700)
    assert [] == looks.look()
    looks.calls(0)
    assert [(CHECKED, "d.budget", LEAST)] == looks.look()
    looks.calls(700)
    looks.calls(0)
    assert ([], ()) == (looks.look(), looks.pairing.unpaired)


def test_a_rule_is_logged_once_a_day_and_shown_all_the_time(looks: Looks) -> None:
    """An estimate that is sent instead of a check looks the same, and is right."""
    lines = []
    for _ in range(26):
        looks.calls(700)
        lines.append(len(looks.look()))
        assert 1 == len(looks.pairing.unpaired)
    assert [0, 24] == [hour for hour, logged in enumerate(lines) if logged]


def test_a_look_logs_a_few_lines_however_many_rules_there_are() -> None:
    """The last line has the number of the others."""
    looks = Looks()
    rules = [
        DescriptorRule(
            b"k", b"%d" % place, Rule(StatKey("d", (f"k_{place}",)), (Limit(9, DAY),), source=f"a:{place}")
        )
        for place in range(150)
    ]
    rows = {
        (each.rule, DAY): [0, 0, 0, LEAST, 0, *[0] * 15]
        for each in RuleTree([DomainRules("d", tuple(rules))]).domains["d"].root.children.values()
        if each.rule is not None
    }
    looks.pairing = Pairing(rows.copy)
    lines = looks.look()
    assert (11, 140) == (len(lines), lines[-1][2])
    assert 100 == len(looks.pairing.unpaired)


def test_refused_checks_are_checks(looks: Looks) -> None:
    """The requests in flight are charged after their budget is exhausted, while every check is refused."""
    looks.calls(700, before=10)
    looks.calls(0, LEAST + 1, before=10)
    assert [] == looks.look()


def test_charges_above_the_limit_are_still_charges(looks: Looks) -> None:
    """A budget that nothing checks is overdrawn soon."""
    looks.calls(700, before=10)
    assert [(CHARGED, "d.budget", LEAST)] == looks.look()


def test_a_rule_in_shadow_mode_is_not_said_to_lack_checks(looks: Looks) -> None:
    """Above its limit, it counts no check in the metrics."""
    looks.calls(700, to="tried=x", before=10)
    looks.calls(0, to="tried=x", before=10)
    assert [] == looks.look()


def test_the_windows_of_a_rule_are_judged_together(looks: Looks) -> None:
    """Only the first one has the number of checks and charges."""
    looks.calls(0, to="windows=x")
    looks.calls(700, 1, to="windows=x")
    looks.calls(700, to="windows=x", domain="unknown")
    assert [] == looks.look()
    looks.calls(700, to="windows=x")
    assert [(CHARGED, "d.windows", LEAST)] == looks.look()


def test_limits_of_requests_are_left_out(looks: Looks) -> None:
    """All of them are in one row."""
    for _ in range(LEAST):
        count(looks.metrics, descriptor("team=a", 0, override=Override(5, Unit.HOUR)))
    assert [] == looks.look()


def test_a_reload_begins_anew_without_a_false_line(looks: Looks) -> None:
    """The rows count on, but a rule is known again only when a request matches it."""
    looks.calls(0)
    looks.calls(700)
    assert [] == looks.look()
    looks.metrics.config_loaded(TREE, 0.0)
    assert [] == looks.look()
    looks.calls(0)
    assert [] == looks.look()
    looks.calls(0)
    assert [(CHECKED, "d.budget", LEAST)] == looks.look()


def test_checks_and_charges_over_connections_to_different_workers_are_no_mistake() -> None:
    """The kernel gives each connection of a gateway to one of the workers, for as long as it lasts."""
    charged = Looks()
    checked = Looks(charged)
    charged.others = (checked,)
    for hour in range(3):
        checked.calls(0, LEAST + hour)
        charged.calls(700, LEAST + hour)
        first, second = (checked, charged) if hour % 2 else (charged, checked)
        assert ([], []) == (first.look(), second.look())
    assert ((), ()) == (checked.pairing.unpaired, charged.pairing.unpaired)


def test_refused_checks_on_another_worker_are_checks() -> None:
    """The metrics count them as refusals only."""
    other = Looks()
    charged = Looks(other)
    charged.calls(700)
    other.calls(0, before=10)
    assert [] == charged.look()


@pytest.mark.parametrize("hits, event", [(0, CHECKED), (700, CHARGED)])
def test_a_rule_that_no_worker_pairs_is_logged(hits: int, event: str) -> None:
    """Another worker that got the same kind, another rule or nothing changes nothing."""
    one, other = Looks(), Looks()
    looks = Looks(one, other, Looks())
    looks.calls(hits)
    one.calls(hits)
    other.calls(0, to="windows=x")
    other.calls(700, to="windows=x")
    assert [(event, "d.budget", LEAST)] == looks.look()


def test_what_another_worker_saw_long_ago_does_not_count() -> None:
    """It was before the last two looks of that worker."""
    other = Looks()
    looks = Looks(other)
    other.calls(700)
    looks.calls(0)
    other.look()
    assert [] == looks.look()
    looks.calls(0)
    other.look()
    assert [(CHECKED, "d.budget", LEAST)] == looks.look()


def test_rules_that_several_workers_find_are_added_up() -> None:
    """The API lists each once."""
    checks, charges = Unpaired("d.a", "f:1", True, 100), Unpaired("d.a", "f:1", False, 200)
    other = Unpaired("d.b", "f:2", True, 300)
    assert [checks._replace(number=150), charges, other] == added_up(
        [[checks], [charges, checks._replace(number=50)], [other], []]
    )
