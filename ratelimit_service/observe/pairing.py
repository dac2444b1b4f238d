"""Finds rules that are checked and never charged, or charged and never checked.

A gateway sends both with the same descriptors, a check before a request and its charge after the response.
Where the two differ, a budget has no effect, and every answer is right: a counter that is never charged
refuses nothing, and nothing asks for a counter that is never checked. Some gateways check with a charge of 1,
so this counts as a check here.

It compares the counts of Metrics once an hour, so it costs requests nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

import structlog

from ..core.model import Rule, Window
from ..core.text import printable
from .columns import RULE_CHARGES, RULE_CHECKS, RULE_REFUSED

PERIOD = 3_600
"""Seconds between two looks."""

LEAST = 100
"""The fewest checks, or charges, of a period in which the absence of the others is no accident."""

_AGAIN = 86_400
"""Seconds until a rule is logged again."""

_MOST_LOGGED = 10
"""The most lines of one look."""

_MOST_KEPT = 100
"""The most rules that are shown."""

Rows = dict[tuple[Rule, Window], list[int]]
"""The rows of the windows of rules (columns.py)."""


class _Counts(NamedTuple):
    checks: int
    ones: int
    """Charges of 1."""
    larger: int
    refused: int

    def since(self, before: _Counts) -> _Counts:
        return _Counts(*[now - then for now, then in zip(self, before, strict=True)])


_NOTHING = _Counts(0, 0, 0, 0)


class Unpaired(NamedTuple):
    """A rule with `number` checks in the last period and no charge, or the reverse. `source` is its place."""

    rule: str
    source: str
    checked: bool
    number: int

    def __str__(self) -> str:
        found = "checks and no charge" if self.checked else "charges and no check"
        return printable(f"{self.rule} ({self.source}): {self.number} {found} within an hour")


class Pairing:
    """Looks for such rules. `rows` returns a copy of the rows of the rules in force, which count since the
    start.
    """

    def __init__(self, rows: Callable[[], Rows]) -> None:
        self._rows = rows
        self._before: dict[tuple[str, ...], _Counts] = {}
        self._logged: dict[tuple[str, bool], float] = {}
        self._log = structlog.get_logger("ratelimit_service.pairing")
        self.unpaired: Sequence[Unpaired] = ()
        """The rules of the last look."""

    def look(self, now: float) -> Generator[None, None, None]:
        """Compare the counts with those of the last look, in a step for each rule. Log what is found, each
        rule once a day.
        """
        counts: dict[tuple[str, ...], _Counts] = {}
        found: list[Unpaired] = []
        for rule, rows in _by_rule(self._rows()):
            path = (rule.path.domain, *rule.path.levels)
            counts[path] = _counts(rows)
            unpaired = _judge(rule, counts[path].since(self._before.get(path, _NOTHING)))
            if unpaired is not None:
                found.append(unpaired)
            yield
        self._before = counts
        self.unpaired = tuple(found[:_MOST_KEPT])
        self._logged = {key: at for key, at in self._logged.items() if now - at < _AGAIN}
        new = [each for each in found if (each.rule, each.checked) not in self._logged]
        for each in new[:_MOST_LOGGED]:
            self._write(each)
        if len(new) > _MOST_LOGGED:
            self._log.warning(
                "more rules are checked and not charged, or charged and not checked",
                rules=len(new) - _MOST_LOGGED,
            )
        self._logged |= {(each.rule, each.checked): now for each in new}

    def _write(self, found: Unpaired) -> None:
        if found.checked:
            self._log.warning(
                "a rule is checked and never charged",
                rule=found.rule,
                source=found.source,
                checks=found.number,
            )
        else:
            self._log.warning(
                "a rule is charged and never checked",
                rule=found.rule,
                source=found.source,
                charges=found.number,
            )


def _by_rule(rows: Rows) -> Iterator[tuple[Rule, list[list[int]]]]:
    """Yield each rule with its rows.

    Release the rules one by one: a reload may have replaced them meanwhile, and releasing thousands at once
    takes long.
    """
    while rows:
        (rule, window), row = rows.popitem()
        others = [rows.pop((rule, limit.window), None) for limit in rule.limits if limit.window != window]
        yield rule, [row, *[other for other in others if other is not None]]


def _counts(rows: Sequence[Sequence[int]]) -> _Counts:
    """Return the counts of a rule. Checks and charges are in the row of its first window only."""
    return _Counts(
        sum([row[RULE_CHECKS] for row in rows]),
        sum([row[RULE_CHARGES] for row in rows]),
        sum([sum(row[RULE_CHARGES + 1 :]) for row in rows]),
        max([row[RULE_REFUSED] for row in rows]),
    )


def _judge(rule: Rule, counts: _Counts) -> Unpaired | None:
    checks, ones, larger, refused = counts
    if checks >= LEAST and not ones + larger:
        return Unpaired(str(rule.path), rule.source, checked=True, number=checks)
    # Refused checks are no checks in the metrics. A window refuses each charge once, so more refusals than
    # charges are refused checks. A check that a shadow rule lets pass above its limit is not counted at all.
    if larger >= LEAST and not checks + ones and refused <= larger and not rule.shadow:
        return Unpaired(str(rule.path), rule.source, checked=False, number=larger)
    return None
