"""Amendments, which change limits while the service runs, and the audit of their changes.

    override   the limit is `amount`, until a given time or its removal; 0 blocks
    top-up     `amount` is added to the limit, for some windows, until a given time, or until its removal

An amendment is immutable: a later one with the same id replaces it. It never changes counters.
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
"""The most windows of a top-up."""

MOST_EDITS = 100
"""The most edits of one change, which one script call writes."""

MOST_BYTES = 65_536
"""Bytes of the amendments and resets of one change as text, with the amendments that they replace, and with
the author, reason and key of each: redis/amend.lua takes a millisecond for some 100,000. A change with one
edit has no such bound, so that an amendment can always be replaced and removed.
"""

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
    """One override or top-up. Create it by `override` or `top_up`, which validate their arguments."""

    id: str
    kind: Kind
    target: Target
    amount: int
    window: str = ""
    """The window that it changes, by its name in a counter's key (`hour`, `15minute`); empty for all."""
    until: int = 0
    """The second since 1970 at which it ends; 0 if it ends after `windows`, or only by its removal."""
    windows: int = 0
    """The number of windows of a top-up, including the one that contains `since`; 0 if their number does not
    matter."""
    since: int = 0
    """The second since 1970 in which it was made."""
    author: str = ""
    reason: str = ""

    @property
    def blocks(self) -> bool:
        """Whether it is a block, an override with the limit 0."""
        return self.kind is Kind.OVERRIDE and self.amount == 0


class Reset(NamedTuple):
    """Delete the counters of one bucket; `counters` has their keys and values (None: not a number)."""

    target: Target
    window: str
    counters: tuple[tuple[str, int | None], ...]


class Put(NamedTuple):
    """Put an amendment in force, in place of one with the same id."""

    amendment: Amendment


class Remove(NamedTuple):
    """Remove the amendment with this id, if there is one."""

    id: str


Edit = Put | Remove | Reset


class Change(NamedTuple):
    """The edits of one author at one time, which come into force together or not at all.

    A change with the `key` of an earlier one is a repetition of that change, and has no effect.
    """

    key: str
    author: str
    reason: str
    edits: tuple[Edit, ...]
    at: int = 0
    """The second since 1970 in which it is made."""
    expected: tuple[Amendment | None, ...] | None = None
    """What each edit is expected to replace; otherwise nothing is changed (Conflict)."""


class EditResult(NamedTuple):
    """The result of one edit: the amendment with this id before and after it, or None.

    After a reset, `reset` has the deleted counters.
    """

    id: str
    before: Amendment | None = None
    after: Amendment | None = None
    reset: Reset | None = None

    @property
    def target(self) -> Target | None:
        """The target of the edit; None if it has removed nothing."""
        changed = self.reset or self.after or self.before
        return changed.target if changed is not None else None


class ChangeResult(NamedTuple):
    """The result of a change. `version` is the version after the change; for a dry run, the current one."""

    version: int
    edits: tuple[EditResult, ...]
    replayed: bool = False
    """Whether a change with this key was applied before; `edits` are then the results of that time."""
    unfinished: bool = False
    """Whether its resets are in the audit but not yet done; AmendmentStore.finish notes that they are done.
    """


class AuditLine(NamedTuple):
    """One past edit, with its author, time, reason and result."""

    version: int
    at: int
    author: str
    reason: str
    key: str
    edited: EditResult


class News(NamedTuple):
    """The changes of the amendments after a version.

    `put` and `removed` (ids) turn the amendments of that version into those of this one. With `whole`, `put`
    has all amendments. `stamp` distinguishes versions with the same number: after a failover, a store may
    have lost the last versions, and use their numbers again.
    """

    version: int
    stamp: str
    put: Sequence[Amendment] = ()
    removed: Sequence[str] = ()
    whole: bool = False
    unreadable: int = 0
    """How many amendments only a later version of the service can read."""


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
    """Return an override. Overrides with the same target and window have the same id, so that the later one
    applies.

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
    """Return a top-up. Its id depends on its target, its window and the idempotency `key` of its change.

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
    """Return whether a name is that of a window in counter keys."""
    found = _window_name.fullmatch(name)
    return found is not None and found[2] in _UNITS and found[1] != "1"


def _check_window(name: str) -> None:
    if name and not known_window(name):
        raise InvalidRequest(
            f"no window is called {name[:40]!r}: give it as it stands in the counter's key, such as hour, "
            "day or 15minute"
        )


def _check_end(until: int, since: int) -> None:
    if until and not since < until <= LATEST:
        raise InvalidRequest("an amendment ends in the future, and before the year 10000")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
