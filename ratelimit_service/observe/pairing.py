"""Finds rules that are checked and never charged, or charged and never checked.

A gateway sends both with the same descriptors, a check before a request and its charge after the response.
Where the two differ, a budget has no effect, and every answer is right: a counter that is never charged
refuses nothing, and nothing asks for a counter that is never checked. Some gateways check with a charge of 1,
so this counts as a check here.

It compares the counts of Metrics once an hour, so it costs requests nothing. Checks and charges that come
over different connections may reach different workers, so a worker asks the others about the rules that it
finds. They may also reach different replicas, which it cannot know: its lines are about this replica.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import structlog

from ..core.model import Rule, StatKey, Window
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

Question = tuple[str, bool]
"""The rule and the kind of an Unpaired: another worker may have seen the other kind."""


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
        return printable(f"{self.rule} ({self.source}): {self.number} {found} on this replica within an hour")


def added_up(workers: Iterable[Sequence[Unpaired]]) -> list[Unpaired]:
    """Return the rules that several workers have found, each once, with the sum of their numbers."""
    found: dict[tuple[str, str, bool], Unpaired] = {}
    for each in chain.from_iterable(workers):
        key = each.rule, each.source, each.checked
        before = found.get(key)
        found[key] = each if before is None else each._replace(number=before.number + each.number)
    return list(found.values())


class Pairing:
    """Looks for such rules. `rows` returns a copy of the rows of the rules in force, which count since the
    start.

    A look is `look`, then `pairs` of the other workers, then `report` of the rules that none of them pairs.
    """

    def __init__(self, rows: Callable[[], Rows]) -> None:
        self._rows = rows
        self._before: dict[StatKey, _Counts] = {}
        self._earlier: dict[StatKey, _Counts] = {}
        """The counts at the last look, and at the one before."""
        self._logged: dict[tuple[str, bool], float] = {}
        self._log = structlog.get_logger("ratelimit_service.pairing")
        self.unpaired: Sequence[Unpaired] = ()
        """The rules of the last look."""

    def look(self) -> Generator[None, None, list[Unpaired]]:
        """Compare the counts with those of the last look, in a step for each rule, and return what is found
        in this process.
        """
        counts: dict[StatKey, _Counts] = {}
        found: list[Unpaired] = []
        for rule, rows in _by_rule(self._rows()):
            counts[rule.path] = _counts(rows)
            unpaired = _judge(rule, counts[rule.path].since(self._before.get(rule.path, _NOTHING)))
            if unpaired is not None:
                found.append(unpaired)
            yield
        self._before, self._earlier = counts, self._before
        return found

    def pairs(self, found: Sequence[Question]) -> Generator[None, None, list[bool]]:
        """Return for each rule that another worker has found whether this one has counted the other kind, in
        a step for each rule.

        It counts from the look before its last one on, because its last look may just have been.
        """
        wanted = {rule for rule, _ in found}
        counts: dict[str, _Counts] = {}
        for rule, rows in _by_rule(self._rows()):
            name = str(rule.path)
            if name in wanted:
                counts[name] = _counts(rows).since(self._earlier.get(rule.path, _NOTHING))
            yield
        return [(_charges if checked else _checks)(counts.get(name, _NOTHING)) > 0 for name, checked in found]

    def report(self, found: Sequence[Unpaired], now: float) -> None:
        """Keep what is found, and log it, each rule once a day."""
        self.unpaired = tuple(found[:_MOST_KEPT])
        self._logged = {key: at for key, at in self._logged.items() if now - at < _AGAIN}
        new = [each for each in found if (each.rule, each.checked) not in self._logged]
        for each in new[:_MOST_LOGGED]:
            self._write(each)
        if len(new) > _MOST_LOGGED:
            self._log.warning(
                "more rules get checks and no charge on this replica, or the reverse",
                rules=len(new) - _MOST_LOGGED,
            )
        self._logged |= {(each.rule, each.checked): now for each in new}

    def _write(self, found: Unpaired) -> None:
        if found.checked:
            self._log.warning(
                "a rule gets checks and no charge on this replica",
                rule=found.rule,
                source=found.source,
                checks=found.number,
            )
        else:
            self._log.warning(
                "a rule gets charges and no check on this replica",
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


def _charges(counts: _Counts) -> int:
    return counts.ones + counts.larger


def _checks(counts: _Counts) -> int:
    """Return at least 1 if there were checks.

    Refused checks are no checks in the metrics. A window refuses each charge once, so more refusals than
    charges are refused checks.
    """
    return counts.checks + counts.ones + max(0, counts.refused - counts.larger)


def _judge(rule: Rule, counts: _Counts) -> Unpaired | None:
    if counts.checks >= LEAST and not _charges(counts):
        return Unpaired(str(rule.path), rule.source, checked=True, number=counts.checks)
    # A check that a shadow rule lets pass above its limit is not counted at all.
    if counts.larger >= LEAST and not _checks(counts) and not rule.shadow:
        return Unpaired(str(rule.path), rule.source, checked=False, number=counts.larger)
    return None
