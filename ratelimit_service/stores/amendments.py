"""Amendments in this process, for the memory store. This is the twin of redis/amend.lua.

The snapshot of the counters (snapshot.py) keeps them, each as a line of JSON.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..core.amendments.model import (
    MOST_BYTES,
    Amendment,
    AuditLine,
    Change,
    ChangeResult,
    EditResult,
    News,
    Put,
    Remove,
    Reset,
    check,
)
from ..core.amendments.records import (
    Unreadable,
    digest,
    read,
    read_reset,
    reset_to_json,
    size,
    to_json,
    write,
)
from ..core.errors import Conflict, InvalidRequest

MOST = 50_000
"""The largest number of amendments."""

MOST_AUDITED = 10_000
"""Edits that the audit keeps."""

MOST_KEYS = 10_000
"""Idempotency keys that are kept."""

KEY_REMEMBERED = 86_400
"""Seconds for which Redis keeps them."""


def too_many(most: int) -> InvalidRequest:
    """Return the error for a change that would exceed the largest number of amendments."""
    return InvalidRequest(f"there are {most} amendments already: remove some, or use limits as data")


def too_large(size: int) -> InvalidRequest:
    """Return the error for a change whose amendments are too long."""
    return InvalidRequest(
        f"the amendments of this change, with those that they replace, have {size} bytes, "
        f"and a change has at most {MOST_BYTES}: make it in several"
    )


def key_of_another(key: str) -> InvalidRequest:
    """Return the error for a change whose idempotency key was used by another change."""
    return InvalidRequest(f"the idempotency key {key!r} was that of another change: give this one its own")


def conflict(expected: Amendment | None, found: Amendment | None) -> Conflict:
    """Return the error for a change whose expectation does not match what is in force."""
    shown = "none" if found is None else write(found)
    wanted = "none" if expected is None else write(expected)
    return Conflict(f"another change came first: there is {shown} in place of {wanted}")


class MemoryAmendments:
    """An AmendmentStore (ports.py) of at most `most` amendments. `changed` is set by every change."""

    def __init__(self, most: int = MOST, most_audited: int = MOST_AUDITED) -> None:
        self._most = most
        self._most_audited = most_audited
        self.changed = False
        self._secret = ""
        self._clear()

    def _clear(self) -> None:
        self._version = 0
        self._stamp = ""
        self._current: dict[str, Amendment] = {}
        self._audit: deque[AuditLine] = deque(maxlen=self._most_audited)
        self._stamps: dict[int, str] = {}
        self._done: dict[str, tuple[str, ChangeResult]] = {}
        """By idempotency key: the digest of the change, and its result."""

    def __bool__(self) -> bool:
        return self._version > 0

    async def news(self, version: int, stamp: str) -> News:
        """Return the changes after a version (ports.AmendmentStore.news)."""
        if (version, stamp) == (self._version, self._stamp):
            return News(version, stamp)
        later = [line for line in self._audit if line.version > version]
        if not version or self._stamps.get(version) != stamp or not later or later[0].version != version + 1:
            return News(self._version, self._stamp, tuple(self._current.values()), whole=True)
        last = {line.edited.id: line.edited.after for line in later if line.edited.reset is None}
        put = tuple([after for after in last.values() if after is not None])
        removed = tuple([name for name, after in last.items() if after is None])
        return News(self._version, self._stamp, put, removed)

    async def apply(self, change: Change, *, dry_run: bool = False) -> ChangeResult:
        """Apply a change (ports.AmendmentStore.apply)."""
        check(change)
        before = self._done.get(change.key)
        if before is not None:
            if before[0] != digest(change):
                raise key_of_another(change.key)
            return before[1]._replace(replayed=True)
        edits = self._edits(change)
        if dry_run:
            return ChangeResult(self._version, edits)
        self._version += 1
        self._stamp = uuid.uuid4().hex
        for edited in edits:
            if edited.after is not None:
                self._current[edited.id] = edited.after
            else:
                self._current.pop(edited.id, None)
            self._audit.append(
                AuditLine(self._version, change.at, change.author, change.reason, change.key, edited)
            )
        self._remember_stamp()
        applied = ChangeResult(
            self._version, edits, unfinished=any(edited.reset is not None for edited in edits)
        )
        self._remember(change.key, digest(change), applied)
        self.changed = True
        return applied

    async def secret(self, proposal: str) -> str:
        """Return the secret of this process; a restart begins with another one."""
        self._secret = self._secret or proposal
        return self._secret

    async def finish(self, key: str) -> None:
        """Note that the resets of a change are done (ports.AmendmentStore.finish)."""
        done = self._done.get(key)
        if done is not None:
            self._done[key] = (done[0], done[1]._replace(unfinished=False))
            self.changed = True

    async def audit(self, before: int = 0, most: int = 100) -> Sequence[AuditLine]:
        """Return past edits (ports.AmendmentStore.audit)."""
        lines: list[AuditLine] = []
        for line in reversed(self._audit):
            if before and line.version >= before:
                continue
            if len(lines) >= most and line.version != lines[-1].version:
                break
            lines.append(line)
        return lines

    def _edits(self, change: Change) -> tuple[EditResult, ...]:
        """Return what each edit replaces, given the edits before it.

        Raises Conflict, or InvalidRequest if there is no room.
        """
        ahead: dict[str, Amendment | None] = {}
        edits = []
        for number, edit in enumerate(change.edits):
            if isinstance(edit, Reset):
                edits.append(EditResult("", reset=edit))
                continue
            name = edit.id if isinstance(edit, Remove) else edit.amendment.id
            before = ahead[name] if name in ahead else self._current.get(name)
            if change.expected is not None and change.expected[number] != before:
                raise conflict(change.expected[number], before)
            ahead[name] = edit.amendment if isinstance(edit, Put) else None
            edits.append(EditResult(name, before, ahead[name]))
        added = sum((after is not None) - (name in self._current) for name, after in ahead.items())
        if added > 0 and len(self._current) + added > self._most:
            raise too_many(self._most)
        if len(edits) > 1 and (bytes_of_all := sum(size(change, edited) for edited in edits)) > MOST_BYTES:
            raise too_large(bytes_of_all)
        return tuple(edits)

    def _remember(self, key: str, hashed: str, applied: ChangeResult) -> None:
        self._done[key] = (hashed, applied)
        if len(self._done) > MOST_KEYS:
            del self._done[next(iter(self._done))]

    def _remember_stamp(self) -> None:
        """Keep the stamps of the versions in the audit, and of the version before the oldest of them."""
        self._stamps[self._version] = self._stamp
        oldest = self._audit[0].version - 1
        for version in list(self._stamps):
            if version >= oldest:
                break
            del self._stamps[version]

    # For the snapshot.

    def lines(self) -> Iterator[str] | None:
        """Return the amendments, the audit and the idempotency keys of now as lines of JSON; None if there
        was never a change.

        The data is copied at once, and formatted during the iteration, which may happen in another thread.
        """
        if not self:
            return None
        version = {"version": self._version, "stamp": self._stamp}
        current, audit, done = list(self._current.values()), list(self._audit), list(self._done.items())
        return map(json.dumps, _things(version, current, audit, done))

    def load(self, lines: Iterable[str]) -> None:
        """Replace everything by what `lines` has returned. Raises Unreadable."""
        self._clear()
        try:
            for line in lines:
                self._load(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unreadable(f"these are no amendments: {type(error).__name__}: {error}") from None

    def _load(self, thing: dict[str, Any]) -> None:
        if "version" in thing:
            self._version, self._stamp = int(thing["version"]), str(thing["stamp"])
            self._stamps[self._version] = self._stamp
        elif "amendment" in thing:
            amendment = read(json.dumps(thing["amendment"]))
            self._current[amendment.id] = amendment
        elif "audit" in thing:
            fields = dict(thing["audit"])
            edited = _edited(fields.pop("edit"))
            self._audit.append(AuditLine(**fields, edited=edited))
        else:
            done = thing["done"]
            edits = tuple([_edited(edit) for edit in done["edits"]])
            applied = ChangeResult(int(done["version"]), edits, unfinished=bool(done["unfinished"]))
            self._remember(str(done["key"]), str(done["digest"]), applied)


def _things(
    version: dict[str, Any],
    current: Iterable[Amendment],
    audit: Iterable[AuditLine],
    done: Iterable[tuple[str, tuple[str, ChangeResult]]],
) -> Iterator[dict[str, Any]]:
    yield version
    for amendment in current:
        yield {"amendment": to_json(amendment)}
    for line in audit:
        yield {"audit": _audit_to_json(line)}
    for key, (hashed, applied) in done:
        edits = [_edited_to_json(edited) for edited in applied.edits]
        known = {"key": key, "digest": hashed, "version": applied.version, "edits": edits}
        yield {"done": known | {"unfinished": applied.unfinished}}


def _audit_to_json(line: AuditLine) -> dict[str, Any]:
    fields = line._asdict()
    return {name: fields[name] for name in ("version", "at", "author", "reason", "key")} | {
        "edit": _edited_to_json(line.edited)
    }


def _edited_to_json(edited: EditResult) -> dict[str, Any]:
    return {
        "id": edited.id,
        "before": None if edited.before is None else to_json(edited.before),
        "after": None if edited.after is None else to_json(edited.after),
        "reset": None if edited.reset is None else reset_to_json(edited.reset),
    }


def _edited(fields: dict[str, Any]) -> EditResult:
    before, after, reset = fields["before"], fields["after"], fields["reset"]
    return EditResult(
        str(fields["id"]),
        None if before is None else read(json.dumps(before)),
        None if after is None else read(json.dumps(after)),
        None if reset is None else read_reset(json.dumps(reset)),
    )
