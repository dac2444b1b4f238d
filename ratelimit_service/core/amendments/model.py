"""What changes a limit while the service runs, and what is kept of each change.

    override   the limit is `amount`, until a moment or until it is removed; 0 blocks
    top-up     `amount` is added to the limit, in one window or several, until a moment, or until it is removed

An amendment is never altered: a later one with the same id takes its place. What was used is no part of it.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import InvalidRequest
from ..model import COUNTER_MAX, Unit
from .target import Target

MOST_WINDOWS = 366
"""For how many windows a top-up can be."""

MOST_EDITS = 100
"""How many amendments one change puts or removes: one script call writes them all."""

MOST_BYTES = 262_144
"""Bytes of all amendments of one change."""

LONGEST_NAME = 200
"""Characters of an author and of an idempotency key."""

LONGEST_REASON = 1_000

LATEST = 253_402_300_799
"""9999-12-31T23:59:59Z."""

_UNITS = frozenset(unit.name.lower() for unit in Unit if unit is not Unit.UNKNOWN)
_window_name = re.compile(r"(?:([1-9][0-9]{0,8}))?([a-z]+)")


class Kind(enum.Enum):
    """How an amendment changes a limit."""

    OVERRIDE = "override"
    TOP_UP = "top_up"


class Amendment(NamedTuple):
    """One override or top-up. Make them by `override` and `top_up`, which check what they are given."""

    id: str
    kind: Kind
    target: Target
    amount: int
    window: str = ""
    """The only window that it is for, by its name in a counter's key (`hour`, `15minute`); empty for all."""
    until: int = 0
    """The second since 1970 at which it ends; 0 where it does not end by itself, or after `windows`."""
    windows: int = 0
    """For how many windows a top-up is, that of `since` included; 0 where windows do not end it."""
    since: int = 0
    """The second since 1970 in which it was made."""
    author: str = ""
    reason: str = ""

    @property
    def blocks(self) -> bool:
        """Whether it lets nothing through."""
        return self.kind is Kind.OVERRIDE and self.amount == 0


class Reset(NamedTuple):
    """Used becomes 0 in the counters of one bucket; `counters` has their keys, and what they held (None: no
    number).
    """

    target: Target
    window: str
    counters: tuple[tuple[str, int | None], ...]


class Put(NamedTuple):
    """Put an amendment in force, in place of one with the same id."""

    amendment: Amendment


class Remove(NamedTuple):
    """Remove the amendment with this id; one that is gone already is no mistake."""

    id: str


Edit = Put | Remove | Reset


class Change(NamedTuple):
    """What one person does at one time: all of its edits come into force together, or none.

    A change with the `key` of an earlier one is that change, sent again, and does nothing a second time.
    """

    key: str
    author: str
    reason: str
    edits: tuple[Edit, ...]
    at: int = 0
    """The second since 1970 in which it is made."""
    expected: tuple[Amendment | None, ...] | None = None
    """What each edit is expected to replace; where something else is in force by now, nothing is changed
    (Conflict)."""


class Edited(NamedTuple):
    """What became of one edit: the amendment with this id before and after it; None where there is none.

    Of a reset, `reset` says what was set to 0.
    """

    id: str
    before: Amendment | None = None
    after: Amendment | None = None
    reset: Reset | None = None


class Applied(NamedTuple):
    """What became of a change. `version` is that of the amendments with it, or, of a dry run, as they are."""

    version: int
    edits: tuple[Edited, ...]
    replayed: bool = False
    """Whether the change had been applied before, by its key: `edits` are those of that time."""
    unfinished: bool = False
    """Whether its resets are still to be done: a line says that they are, and AmendmentStore.finish that they
    were."""


class AuditLine(NamedTuple):
    """One edit of the past: who, when, why, and what became of it."""

    version: int
    at: int
    author: str
    reason: str
    key: str
    edited: Edited


class News(NamedTuple):
    """What has happened to the amendments after a version.

    `put` and `removed` (ids) make of those of that version those of this one. With `whole`, `put` is all that
    there are. `stamp` tells versions with the same number apart: after a failover, a store may have lost the
    last ones and count on from there.
    """

    version: int
    stamp: str
    put: Sequence[Amendment] = ()
    removed: Sequence[str] = ()
    whole: bool = False
    unreadable: int = 0
    """How many amendments are of a kind that this version of the service does not know."""


def override(
    target: Target,
    amount: int,
    *,
    window: str = "",
    until: int = 0,
    since: int = 0,
    author: str = "",
    reason: str = "",
) -> Amendment:
    """Return an override, whose id is the same for the same target and window: the later one counts.

    Raises InvalidRequest.
    """
    if not 0 <= amount <= COUNTER_MAX:
        raise InvalidRequest(f"a limit is 0 to {COUNTER_MAX}, not {amount}")
    _check_window(window)
    _check_end(until, since)
    name = f"o-{_digest(target.domain, target.text, window)}"
    return Amendment(name, Kind.OVERRIDE, target, amount, window, until, 0, since, author, reason)


def top_up(
    target: Target,
    amount: int,
    key: str,
    *,
    window: str = "",
    until: int = 0,
    windows: int = 0,
    since: int = 0,
    author: str = "",
    reason: str = "",
) -> Amendment:
    """Return a top-up, whose id follows from its target, its window and the idempotency `key` of its change.

    Raises InvalidRequest.
    """
    if not 1 <= amount <= COUNTER_MAX:
        raise InvalidRequest(f"a top-up is 1 to {COUNTER_MAX}, not {amount}")
    if not 0 <= windows <= MOST_WINDOWS:
        raise InvalidRequest(f"a top-up is for 1 to {MOST_WINDOWS} windows, or for 0: until it is removed")
    if windows and until:
        raise InvalidRequest("a top-up is for a number of windows or until a moment: give one of them")
    _check_window(window)
    _check_end(until, since)
    name = f"t-{_digest(target.domain, target.text, window, key)}"
    return Amendment(name, Kind.TOP_UP, target, amount, window, until, windows, since, author, reason)


def check(change: Change) -> None:
    """Raise InvalidRequest for a change that cannot be applied."""
    for what, text, longest in (
        ("an idempotency key", change.key, LONGEST_NAME),
        ("an author", change.author, LONGEST_NAME),
        ("a reason", change.reason, LONGEST_REASON),
    ):
        if not text or len(text) > longest or not text.isprintable():
            raise InvalidRequest(f"a change needs {what} of 1 to {longest} printable characters")
    if not 1 <= len(change.edits) <= MOST_EDITS:
        raise InvalidRequest(f"a change has 1 to {MOST_EDITS} amendments, not {len(change.edits)}")
    if change.expected is not None and len(change.expected) != len(change.edits):
        raise InvalidRequest("a change expects something of each of its amendments, or of none")


def known_window(name: str) -> bool:
    """Return whether a window can be called so in a counter's key."""
    found = _window_name.fullmatch(name)
    return found is not None and found[2] in _UNITS and found[1] != "1"


def _check_window(name: str) -> None:
    if name and not known_window(name):
        raise InvalidRequest(
            f"no window is called {name[:40]!r}: give it as it stands in the counter's key, such as hour, day or 15minute"
        )


def _check_end(until: int, since: int) -> None:
    if until and not since < until <= LATEST:
        raise InvalidRequest("an amendment ends in the future, and before the year 10000")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
