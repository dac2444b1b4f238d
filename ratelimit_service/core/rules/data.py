"""Limits as data: thousands of limits for single descriptors and patterns, without a rule for each.

    domain,group,descriptor,window,limit
    token-budgets,,user=*,day,10000              what a user has who is named nowhere
    token-budgets,,user=premium_*,day,100000     a pattern, which says more
    token-budgets,gold,,day,500000               what a group has
    token-budgets,gold,user=alice,,              who is in it
    token-budgets,gold,user=bob,hour,9000        in it, but for his hour
    token-budgets,,user=eve,,0                   every window; 0 blocks

They are overrides (core/amendments) that rank below those of operators, and above the rules. The first row
has the names of the columns, in any order; `group` and `window` may be left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..amendments.model import Amendment, Kind, known_window
from ..amendments.target import Target, parse
from ..errors import InvalidRequest, Problem
from ..model import COUNTER_MAX, DescriptorRule
from ..windows.blocks import name as window_name
from .document import Document, Row, ScalarNode
from .document import Kind as NodeKind
from .fields import quoted
from .hints import amount_hint
from .report import Report

_NEEDED = ("domain", "descriptor", "limit")
_COLUMNS = ("domain", "group", "descriptor", "window", "limit")
_EXAMPLE = "domain,descriptor,window,limit"


class _Entry(NamedTuple):
    """One row, by its columns."""

    file: str
    line: int
    domain: str
    group: str
    descriptor: str
    window: str
    limit: str

    @property
    def source(self) -> str:
        return f"{self.file}:{self.line}"


def read_data(
    documents: Sequence[Document], rules: Mapping[str, Sequence[DescriptorRule]], report: Report
) -> dict[str, tuple[Amendment, ...]]:
    """Return the limits of each domain, and report every mistake.

    `rules` are those of each domain of the same load.
    """
    entries = [entry for document in documents for entry in _entries(document, report)]
    groups = _groups(entries, report)
    found: dict[str, _Limits] = {}
    used: set[tuple[str, str]] = set()
    for entry in entries:
        if not entry.descriptor:
            continue
        limits = found.get(entry.domain)
        if limits is None:
            limits = found[entry.domain] = _Limits(entry, rules, report)
        members = groups.get((entry.domain, entry.group), {}) if entry.group else {}
        used.add((entry.domain, entry.group))
        limits.add(entry, members)
    for key, members in groups.items():
        if key not in used:
            _warn(
                report, next(iter(members.values()))[0], "group", f"nothing is in the group {quoted(key[1])}"
            )
    return {domain: limits.amendments() for domain, limits in found.items() if domain in rules}


def _entries(document: Document, report: Report) -> Iterator[_Entry]:
    rows = document.rows or ()
    if not rows:
        message = f"the file is empty: its first line must name the columns, such as {_EXAMPLE}"
        report.error(Problem(document.file, 1, "", message))
        return
    columns = [name.lower() for name in rows[0].fields]
    missing = [name for name in _NEEDED if name not in columns]
    unknown = [name for name in columns if name not in _COLUMNS]
    if missing or unknown or len(set(columns)) < len(columns):
        wrong = (
            f"has no column {quoted(missing[0])}"
            if missing
            else f"has an unknown or repeated column {quoted((unknown or columns)[0])}"
        )
        message = (
            f"the first line {wrong}: it names the columns, such as {_EXAMPLE}, of {', '.join(_COLUMNS)}"
        )
        report.error(Problem(document.file, rows[0].line, "", message))
        return
    for row in rows[1:]:
        entry = _entry(document.file, row, columns, report)
        if entry is not None:
            yield entry


def _entry(file: str, row: Row, columns: Sequence[str], report: Report) -> _Entry | None:
    if len(row.fields) != len(columns):
        message = (
            f"has {len(row.fields)} fields, and there are {len(columns)} columns: put a field with a comma "
            "in double quotes"
        )
        report.error(Problem(file, row.line, "", message))
        return None
    values = dict.fromkeys(_COLUMNS, "") | dict(zip(columns, row.fields, strict=True))
    entry = _Entry(file, row.line, **values)
    if not entry.domain:
        _error(report, entry, "domain", "is missing: it must be the domain that the gateway sends")
    elif not entry.descriptor and not entry.group:
        _error(
            report,
            entry,
            "descriptor",
            "is missing: such as user=alice, user=premium_*, or * for the whole domain",
        )
    elif not entry.limit and (not entry.group or not entry.descriptor):
        _error(report, entry, "limit", "is missing: it must be a whole number; 0 blocks")
    elif not entry.limit and entry.window:
        _error(report, entry, "window", "has no effect without a limit: remove it, or give one")
    else:
        return entry
    return None


def _groups(
    entries: Sequence[_Entry], report: Report
) -> dict[tuple[str, str], dict[str, tuple[_Entry, int]]]:
    """Return the limits of each group by window, with the rows that say so."""
    found: dict[tuple[str, str], dict[str, tuple[_Entry, int]]] = {}
    for entry in entries:
        if entry.descriptor:
            continue
        members = found.setdefault((entry.domain, entry.group), {})
        if entry.window in members:
            _error(report, entry, "group", _again(members[entry.window][0].source))
            continue
        amount = _amount(entry, report)
        if amount is not None and _is_window(entry, report):
            members[entry.window] = (entry, amount)
    for entry in entries:
        if entry.descriptor and entry.group and (entry.domain, entry.group) not in found:
            message = (
                f"the group {quoted(entry.group)} has no limits: give it some in a row without a descriptor"
            )
            _error(report, entry, "group", message)
    return found


class _Limits:
    """The limits of one domain while its rows are read."""

    def __init__(self, first: _Entry, rules: Mapping[str, Sequence[DescriptorRule]], report: Report) -> None:
        self._report = report
        self._own: dict[tuple[str, str], tuple[_Entry, Target, int]] = {}
        self._of_groups: dict[tuple[str, str], tuple[_Entry, Target, int]] = {}
        self._windows = set(_windows(rules[first.domain])) if first.domain in rules else None
        self._warned: set[str] = set()
        if self._windows is None:
            message = f"no file has the domain {quoted(first.domain)}, so its limits have no effect"
            _warn(report, first, "domain", message)

    def add(self, entry: _Entry, of_group: Mapping[str, tuple[_Entry, int]]) -> None:
        """Add a row with a descriptor; `of_group` has the limits of its group."""
        try:
            target = parse(entry.domain, entry.descriptor)
        except InvalidRequest as error:
            _error(self._report, entry, "descriptor", str(error))
            return
        text = target.text
        if entry.limit:
            amount = _amount(entry, self._report)
            if amount is None or not _is_window(entry, self._report):
                return
            self._put(self._own, entry, target, text, entry.window, amount)
        for window, (row, amount) in of_group.items():
            known = self._of_groups.get((text, window))
            if known is not None and known[0].group != entry.group:
                message = (
                    f"is in the group {quoted(known[0].group)} as well, at {known[0].source}: leave it in one"
                )
                _error(self._report, entry, "group", message)
                return
            self._check_window(row, window)
            self._of_groups[text, window] = (entry, target, amount)

    def _put(
        self,
        there: dict[tuple[str, str], tuple[_Entry, Target, int]],
        entry: _Entry,
        target: Target,
        text: str,
        window: str,
        amount: int,
    ) -> None:
        known = there.get((text, window))
        if known is not None:
            _error(self._report, entry, "descriptor", _again(known[0].source))
            return
        self._check_window(entry, window)
        there[text, window] = (entry, target, amount)

    def _check_window(self, entry: _Entry, window: str) -> None:
        """Warn once of a window that no rule of the domain has."""
        if not window or self._windows is None or window in self._windows or window in self._warned:
            return
        self._warned.add(window)
        have = f"they have {', '.join(sorted(self._windows))}" if self._windows else "they have no limits"
        _warn(self._report, entry, "window", f"no rule of the domain counts by {quoted(window)}: {have}")

    def amendments(self) -> tuple[Amendment, ...]:
        """Return an override for each descriptor and window.

        What it has of its own comes before what its group has.
        """
        own_targets = {text for text, window in self._own if not window}
        of_groups = {
            (text, window): row
            for (text, window), row in self._of_groups.items()
            if (text, window) not in self._own and text not in own_targets
        }
        return tuple(
            [
                Amendment(entry.source, Kind.OVERRIDE, target, amount, window)
                for (_, window), (entry, target, amount) in (self._own | of_groups).items()
            ]
        )


def _windows(rules: Sequence[DescriptorRule]) -> Iterator[str]:
    pending = list(rules)
    while pending:
        each = pending.pop()
        pending += each.children
        if each.rule is not None:
            yield from [window_name(limit.window) for limit in each.rule.limits]


def _amount(entry: _Entry, report: Report) -> int | None:
    text = entry.limit
    if text.isascii() and text.isdecimal() and int(text) <= COUNTER_MAX:
        return int(text)
    hint = amount_hint(ScalarNode(entry.line, NodeKind.STRING, text, text), 0, COUNTER_MAX, endless=False)
    message = f"must be a whole number from 0 to {COUNTER_MAX}, not {quoted(text)}"
    _error(report, entry, "limit", f"{message}: {hint}" if hint else message)
    return None


def _is_window(entry: _Entry, report: Report) -> bool:
    if not entry.window or known_window(entry.window):
        return True
    message = (
        f"no window is called {quoted(entry.window)}: give it as in a counter's key, such as hour, "
        "day or 15minute; none for all"
    )
    _error(report, entry, "window", message)
    return False


def _again(source: str) -> str:
    return f"this window has a limit at {source} already: remove one of them"


def _error(report: Report, entry: _Entry, column: str, message: str) -> None:
    report.error(Problem(entry.file, entry.line, column, message))


def _warn(report: Report, entry: _Entry, column: str, message: str) -> None:
    report.warn(Problem(entry.file, entry.line, column, message))
